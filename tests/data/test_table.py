"""Reading prepared rows back: columns at once, audio by row."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest

from asr.corpora import prepare as prepare_module
from asr.data.utterances import read_rows
from tests.corpus import make_corpus


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Of several files and several row groups."""
    monkeypatch.setattr(prepare_module, "GROUP_BYTES", 40_000)
    monkeypatch.setattr(prepare_module, "SHARD_BYTES", 100_000)
    make_corpus(tmp_path / "corpus", train=40, more=12)
    return tmp_path / "corpus"


def stored(corpus, *splits):
    """What pyarrow reads from the files as a whole."""
    paths = [path for split in splits for path in sorted(corpus.glob(f"{split}-*.parquet"))]
    assert len(paths) > len(splits)
    assert any(pq.read_metadata(path).num_row_groups > 1 for path in paths)
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_rows_and_columns_can_be_read_in_any_order(corpus):
    expected = stored(corpus, "train", "more")
    rows = read_rows(corpus, ["train", "more"])
    assert len(rows) == 52
    for name in ("id", "text", "duration", "speaker_id", "original_text"):
        assert rows[name] == [row[name] for row in expected]
    order = [(7 * i) % 52 for i in range(52)]
    assert [rows.encoded(i) for i in order] == [expected[i]["audio"]["bytes"] for i in order]


def test_threads_and_other_processes_can_read(corpus):
    expected = [row["audio"]["bytes"] for row in stored(corpus, "train")]
    rows = read_rows(corpus, ["train"])
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(rows.encoded, list(range(40)) * 5)) == expected * 5
    copy = pickle.loads(pickle.dumps(rows))  # how a spawned worker gets it
    assert [copy.encoded(i) for i in range(40)] == expected


def test_reading_leaves_no_copy_anywhere(corpus, tmp_path):
    code = (
        "import sys; from asr.data.utterances import read_rows;"
        "rows = read_rows(sys.argv[1], ['train']);"
        "rows.encoded(3); sys.exit('datasets' in sys.modules)"
    )
    home = tmp_path / "home"
    home.mkdir()
    before = {path: path.stat().st_mtime_ns for path in corpus.iterdir()}
    environment = {"HOME": str(home), "PYTHONPATH": ":".join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code, corpus], check=True, env=environment)
    assert list(home.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in corpus.iterdir()} == before


def test_a_file_that_breaks_after_it_was_opened_is_named(corpus):
    rows = read_rows(corpus, ["train"])
    first = sorted(corpus.glob("train-*.parquet"))[0]
    content = first.read_bytes()
    first.write_bytes(content[:100])
    with pytest.raises(ValueError, match="train-00000-of-.* is damaged .*; prepare the corpus"):
        rows.encoded(1)
    first.unlink()
    with pytest.raises(OSError, match="train-00000-of-"):
        rows.encoded(1)


def test_reading_a_corpus_that_was_prepared_again_never_mixes_rows(corpus):
    rows = read_rows(corpus, ["train"])
    corpus.rename(corpus.with_name("replaced"))
    make_corpus(corpus, train=40, more=12)
    with pytest.raises(ValueError, match="train-00000-of-.* was prepared again while"):
        rows.encoded(1)
