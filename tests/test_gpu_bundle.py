"""The bundle for a GPU without a network, and the sample of a corpus in it."""

import random
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from asr.corpora.prepare import prepare
from asr.data import read_corpus, read_rows
from benchmarks import corpus_sample, gpu_bundle, gpu_setup
from tests.corpus import Tones


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tones"
    prepare(Tones(sizes={"train": 45, "validation": 8, "test": 9}), folder, normaliser="none")
    return folder


def test_what_is_lacking_is_what_torch_and_lightning_do_not_bring():
    pinned = gpu_bundle.lacking("3.12", [])
    names = {gpu_bundle.canonicalize_name(Requirement(one).name) for one in pinned}
    needed = {"soundfile", "cffi", "jiwer", "rapidfuzz", "jsonargparse", "sentencepiece"}
    assert needed | {"pyarrow", "matplotlib", "pytest", "nvidia-ml-py", "tensorboard"} <= names
    assert not names & {"torch", "torchaudio", "lightning", "numpy", "pyyaml", "triton", "tqdm"}
    assert [name for name in names if name.startswith("nvidia")] == ["nvidia-ml-py"]
    assert not names & set(gpu_bundle.LEFT_OUT)
    fewer = gpu_bundle.lacking("3.12", ["pyarrow", "matplotlib"])
    gone = {Requirement(one).name for one in set(pinned) - set(fewer)}
    assert {"pyarrow", "matplotlib", "pillow", "contourpy"} <= {name.lower() for name in gone}


def test_parts_hold_everything_once_and_none_is_too_large():
    draw = random.Random(0)
    for _ in range(200):
        sizes = {str(i): draw.randint(1, 50) for i in range(draw.randint(1, 12))}
        parts = draw.randint(1, 5)
        try:
            placed = gpu_bundle.share_out(sizes, parts, 60)
        except ValueError:
            # Largest first: where one does not fit, every part is more than half full.
            assert sum(sizes.values()) > 60 * parts / 2
            continue
        assert placed.keys() == sizes.keys()
        for part in range(1, parts + 1):
            assert sum(size for name, size in sizes.items() if placed[name] == part) <= 60


@pytest.fixture
def packed(monkeypatch):
    """Stands for git and pip: 1 MB of code, and a wheel of 3 MB."""

    def pack_code(path):
        path.write_bytes(bytes(1_000_000))
        return "a" * 40, 2

    def download(packages, python, folder):
        (folder / "large-1.0-py3-none-any.whl").write_bytes(bytes(3_000_000))

    monkeypatch.setattr(gpu_bundle, "pack_code", pack_code)
    monkeypatch.setattr(gpu_bundle, "download", download)


def test_a_bundle_over_its_limit_is_refused_in_one_line(packed, corpus, tmp_path, capsys):
    output = tmp_path / "bundle"
    arguments = [str(output), "--corpus", str(corpus)]
    assert gpu_bundle.main([*arguments, "--limit", "4"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"gpu_bundle: the bundle is \d+\.\d MB, over 1 x 4 MB \(largest: ", line)
    assert "large-1.0-py3-none-any.whl 3.0 MB, code.tar.gz 1.0 MB" in line
    assert line.endswith("sample rows by --rows test=500, or allow --parts 3")
    assert not output.exists()
    assert gpu_bundle.main([*arguments, "--limit", "4", "--parts", "3"]) == 0
    out = capsys.readouterr().out
    assert "- datasets: reads corpora" in out
    assert "- 2 files that differ from the commit" in out
    for part in output.iterdir():
        assert sum(path.stat().st_size for path in part.rglob("*") if path.is_file()) <= 4e6
    assert gpu_bundle.main(arguments) == 2
    assert "exists; remove it or choose another folder" in capsys.readouterr().err


def test_a_corpus_in_parts_is_found_whole(packed, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gpu_bundle.bundle(tmp_path / "bundle", corpus, parts=3, limit=4_000_000)
    place = gpu_setup.find_corpus(tmp_path / "bundle", Path("data/tones"))
    assert read_rows(place, ["test"])["id"] == read_rows(corpus, ["test"])["id"]
    assert gpu_setup.find_corpus(tmp_path / "bundle", place) == place
    other = tmp_path / "other" / "tones"
    corpus_sample.sample(corpus, other, {"test": 3}, seed=1)
    with pytest.raises(ValueError, match="tones is not the corpus of .*bundle; remove one"):
        gpu_setup.find_corpus(tmp_path / "bundle", other)


def test_a_sample_of_a_corpus_is_its_rows_and_says_so(corpus, tmp_path):
    remarks = corpus_sample.sample(corpus, tmp_path / "some", {"train": 20}, seed=1)
    assert remarks == ["train: 20 of 45 rows, drawn with seed 1"]
    whole, some = read_rows(corpus, ["train"]), read_rows(tmp_path / "some", ["train"])
    by_id = {row["id"]: row for row in (whole[i] for i in range(len(whole)))}
    rows = [some[i] for i in range(len(some))]
    assert all(row == by_id[row["id"]] for row in rows)
    assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})
    facts, before = (read_corpus(place) for place in (tmp_path / "some", corpus))
    assert facts["remarks"] == [*before["remarks"], *remarks]
    split = facts["splits"]["train"]
    assert split["utterances"] == len(rows) == 20
    assert split["hours"] == pytest.approx(sum(row["duration"] for row in rows) / 3600)
    assert split["words"] == sum(len(row["text"].split()) for row in rows)
    assert split["rows_sha256"] != before["splits"]["train"]["rows_sha256"]
    assert facts["splits"]["test"] == before["splits"]["test"]
    corpus_sample.sample(corpus, tmp_path / "again", {"train": 20}, seed=1)
    corpus_sample.sample(corpus, tmp_path / "other", {"train": 20}, seed=2)
    again, other = (read_corpus(tmp_path / n)["splits"]["train"] for n in ("again", "other"))
    assert again == split
    assert other["rows_sha256"] != split["rows_sha256"]


@pytest.mark.parametrize("words", [["train=0"], ["train"], ["train=many"]])
def test_rows_that_are_no_number_are_refused(words):
    with pytest.raises(ValueError, match="expects SPLIT=NUMBER, as test=500"):
        corpus_sample.counts(words)


@pytest.mark.parametrize("rows", [{"train": 46}, {"nowhere": 1}])
def test_rows_that_are_not_there_are_refused(rows, corpus, tmp_path):
    with pytest.raises(ValueError, match=r"has \{'train': 45, .*; take fewer"):
        corpus_sample.sample(corpus, tmp_path / "some", rows, seed=1)
