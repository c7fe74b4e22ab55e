import io
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from asr.corpora.hub import Hub
from asr.corpora.prepare import prepare


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def wav(seed):
    file = io.BytesIO()
    wave = np.random.default_rng(seed).normal(0, 0.1, 16000)
    soundfile.write(file, wave, 16000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def sound(seed):
    return {"bytes": wav(seed), "path": f"{seed}.wav"}


def write(path, rows, decoding=True):
    """As the hub has it: parquet with an Audio feature that would be decoded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    names = {name: datasets.Value("string") for name in table.column_names}
    names["audio"] = datasets.Audio(sampling_rate=16000, decode=decoding)
    metadata = datasets.Features(names).arrow_schema.metadata
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


@pytest.fixture
def folder(tmp_path):
    rows = [{"id": f"u{i}", "audio": sound(i), "text": f"word {i}"} for i in range(6)]
    for row in rows:
        row |= {"speaker_id": "s" + row["id"], "chapter_id": "c"}
    write(tmp_path / "set" / "train.clean.5.parquet", rows[:2])
    write(tmp_path / "set" / "train.clean.more.parquet", rows[2:4])
    write(tmp_path / "set" / "validation.parquet", rows[4:5])
    write(tmp_path / "set" / "test.clean.parquet", rows[5:])
    return tmp_path / "set"


def read(corpus):
    return {split: list(rows.read()) for split, rows in corpus.splits().items()}


def test_files_and_globs_of_a_local_folder_are_splits(folder, tmp_path):
    corpus = Hub(path=str(folder), train=["train.*.parquet"], test=["test.clean.parquet"])
    rows = read(corpus)
    assert {split: [r.id for r in part] for split, part in rows.items()} == {
        "train": ["u0", "u1", "u2", "u3"],
        "test": ["u5"],
    }
    first = rows["train"][0]
    assert (first.text, first.speaker_id, first.chapter_id) == ("word 0", "su0", "c")
    assert first.audio == wav(0)
    summary = prepare(corpus, tmp_path / "out")
    assert summary["splits"]["train"]["utterances"] == 4
    assert summary["remarks"] == ["train: train.*.parquet", "test: test.clean.parquet"]


def test_several_files_are_read_in_the_order_given(folder):
    names = ["train.clean.more.parquet", "train.clean.5.parquet"]
    rows = read(Hub(path=str(folder), train=names))
    assert [row.id for row in rows["train"]] == ["u2", "u3", "u0", "u1"]


def test_ids_made_for_files_differ_from_split_to_split(tmp_path):
    for split in ("one", "two"):
        write(tmp_path / "data" / f"{split}.parquet", [{"audio": sound(1), "text": "a"}] * 2)
    corpus = Hub(path=str(tmp_path / "data"), train=["one.parquet"], test=["two.parquet"])
    ids = [row.id for rows in read(corpus).values() for row in rows]
    assert ids == ["train-00000000", "train-00000001", "test-00000000", "test-00000001"]


def test_a_local_folder_with_named_splits_needs_no_options(tmp_path):
    for split in ("train", "test"):
        rows = [{"audio": sound(1), "sentence": f"in {split}", "client_id": "ann"}]
        write(tmp_path / "data" / f"{split}-00000-of-00001.parquet", rows)
    rows = read(Hub(path=str(tmp_path / "data")))
    assert rows["train"][0].text == "in train"
    assert rows["train"][0].speaker_id == "ann"
    assert rows["train"][0].id == "train-00000000"
    assert rows["test"][0].id == "test-00000000"


def test_a_split_can_be_given_by_name(tmp_path):
    rows = [{"audio": sound(1), "text": "a"}]
    write(tmp_path / "data" / "train-00000-of-00001.parquet", rows)
    found = read(Hub(path=str(tmp_path / "data"), validation=["train"], train=["train"]))
    assert set(found) == {"train", "validation"}
    with pytest.raises(ValueError, match="has no split 'dev'; it has train"):
        Hub(path=str(tmp_path / "data"), validation=["dev"]).splits()


def test_data_saved_to_disk_is_read(tmp_path):
    rows = {"audio": [sound(1)], "transcription": ["hi"]}
    features = datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "transcription": datasets.Value("string"),
        }
    )
    one = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": one}).save_to_disk(tmp_path / "saved")
    assert read(Hub(path=str(tmp_path / "saved")))["train"][0].text == "hi"


def test_json_lines_with_paths_are_read_relative_to_the_folder(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.wav").write_bytes(wav(0))
    lines = [{"file": "clips/a.wav", "text": "hello"}, {"file": "clips/b.wav", "text": None}]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = read(Hub(path=str(tmp_path), train=["all.jsonl"]))["train"]
    assert rows[0].audio == tmp_path / "clips" / "a.wav"
    assert rows[1].text == ""


def test_audio_without_bytes_is_read_from_its_path(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(0))
    write(tmp_path / "x.parquet", [{"audio": {"bytes": None, "path": "a.wav"}, "text": "a"}])
    rows = read(Hub(path=str(tmp_path), train=["x.parquet"]))["train"]
    assert rows[0].audio == tmp_path / "a.wav"
    assert (
        prepare(Hub(path=str(tmp_path), train=["x.parquet"]), tmp_path / "out")["splits"]["train"][
            "utterances"
        ]
        == 1
    )


def test_columns_can_be_named(tmp_path):
    write(tmp_path / "x.parquet", [{"audio": sound(1), "text": "raw", "clean": "c", "who": "ann"}])
    corpus = Hub(path=str(tmp_path), train=["x.parquet"], text_column="clean", speaker_column="who")
    (row,) = read(corpus)["train"]
    assert (row.text, row.speaker_id) == ("c", "ann")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text_column": "words"}, "no column 'words'; give --text_column, one of id, audio, text"),
        ({"audio_column": "wave"}, "no column 'wave'; give --audio_column, one of"),
        ({"speaker_column": "who"}, "no column 'who'; give --speaker_column, one of"),
    ],
)
def test_an_absent_column_is_named_with_those_present(folder, options, words):
    with pytest.raises(ValueError, match=words):
        Hub(path=str(folder), train=["train.clean.5.parquet"], **options).splits()


def test_a_table_without_text_lists_its_columns(tmp_path):
    write(tmp_path / "x.parquet", [{"audio": sound(1), "words": "a"}])
    with pytest.raises(ValueError, match=r"no column text \(text, .*one of audio, words"):
        Hub(path=str(tmp_path), train=["x.parquet"]).splits()


def test_data_that_cannot_be_loaded_are_one_line(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"junk")
    (tmp_path / "notes.txt").write_text("a")
    cases = [
        ({"path": str(tmp_path), "train": ["bad.parquet"]}, OSError, "cannot be loaded"),
        ({"path": str(tmp_path), "train": ["*.none"]}, OSError, "has no file .*bad.parquet"),
        ({"path": str(tmp_path), "train": ["*.txt"]}, ValueError, "notes.txt: use one of .parquet"),
        ({"path": str(tmp_path / "bad.parquet")}, ValueError, "give its folder"),
        ({"path": "./nowhere/at/all"}, OSError, "no such folder"),
        ({"path": "nobody/nothing"}, OSError, "nobody/nothing cannot be loaded"),
    ]
    for options, kind, words in cases:
        with pytest.raises(kind, match=words) as error:
            Hub(**options).splits()
        assert "\n" not in str(error.value)


def test_the_name_and_licence_of_the_data_set_go_into_corpus_json(folder):
    origin = Hub(path=str(folder), licence="CC BY 4.0").origin()
    assert (origin.name, origin.licence, origin.synthetic) == ("set", "CC BY 4.0", False)
    assert Hub(path="openslr/librispeech_asr").origin().name == "openslr/librispeech_asr"
    assert Path(origin.source) == folder
