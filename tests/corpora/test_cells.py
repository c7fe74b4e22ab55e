"""What is missing is missing and text is text: every reader, against one table of values."""

import csv
import json
from datetime import date
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from asr.corpora import cells
from asr.corpora.corpus import DroppedError
from asr.corpora.folder import Folder
from asr.corpora.hub import Hub
from asr.corpora.prepare import prepare

WORDS = ["null", "None", "NA", "nan", "NaN", "N/A", "true", "007", "1e3", "-", "7.0", " x "]


def record(folder, count):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        wave = np.random.default_rng(number).normal(0, 0.1, 16000)
        soundfile.write(folder / f"u{number}.wav", wave, 16000)


def one_split(path):
    return Folder(path=path, validation_share=0, test_share=0)


def texts(corpus):
    return [row.text for row in corpus.splits()["train"].read()]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        (float("nan"), ""),
        (np.float64("nan"), ""),
        (Decimal("NaN"), ""),
        ("", ""),
        ("None", "None"),
        (0, "0"),
        (7, "7"),
        (np.int64(7), "7"),
        (7.0, "7"),
        (3.5, "3.5"),
        (Decimal("3.50"), "3.50"),
    ],
)
def test_text_values_and_missing_values_are_read(value, expected):
    assert cells.text_of(value) == expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "bool"),
        (np.True_, "bool"),
        (["a"], "list"),
        ({"a": 1}, "dict"),
        (b"a", "bytes"),
        (date(2020, 1, 1), "date"),
        (float("inf"), "float"),
    ],
)
def test_values_that_are_not_text_are_named_with_their_type(value, kind):
    with pytest.raises(DroppedError, match=f"text .* is of type {kind}.*; write a string"):
        cells.text_of(value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("", None), (float("nan"), None), ("nan", None), ("1.5", 1.5), (0, 0.0)],
)
def test_seconds_are_read_and_may_be_absent(value, seconds):
    assert cells.seconds_of(value, "offset") == seconds


@pytest.mark.parametrize("value", ["x", "inf", -1, True, [1]])
def test_a_value_that_is_not_a_number_of_seconds_is_named(value):
    with pytest.raises(DroppedError, match="offset .* is not a number of seconds"):
        cells.seconds_of(value, "offset")


@pytest.mark.parametrize("reader", ["jsonl", "json", "csv", "tsv", "kaldi", "beside", "hub csv"])
def test_words_that_look_like_missing_values_are_words_in_every_text_file(tmp_path, reader):
    names = [f"u{number}" for number in range(len(WORDS))]
    rows = [{"audio_filepath": f"{n}.wav", "text": t} for n, t in zip(names, WORDS, strict=True)]
    if reader == "jsonl":
        (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif reader == "json":
        (tmp_path / "m.json").write_text(json.dumps(rows, indent=1))
    elif reader in ("csv", "tsv", "hub csv"):
        ending = reader.split()[-1]
        with (tmp_path / f"m.{ending}").open("w", newline="") as file:
            delimiter = {"csv": ",", "tsv": "\t"}[ending]
            writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    elif reader == "kaldi":
        (tmp_path / "wav.scp").write_text("".join(f"{n} {n}.wav\n" for n in names))
        lines = zip(names, WORDS, strict=True)
        (tmp_path / "text").write_text("".join(f"{n} {t}\n" for n, t in lines))
    else:
        record(tmp_path, len(WORDS))
        for name, text in zip(names, WORDS, strict=True):
            (tmp_path / f"{name}.txt").write_text(text)
    if reader == "hub csv":
        corpus = Hub(path=str(tmp_path), train=["m.csv"], audio_column="audio_filepath")
    else:
        corpus = one_split(tmp_path)
    stripped = sorted(text.strip() for text in WORDS)
    assert sorted(text.strip() for text in texts(corpus)) == stripped


LINES = {  # of a manifest: reason (None: kept) and what a message or the text holds
    '{"audio_filepath": "u0.wav", "text": "good"}': (None, "good"),
    '{"audio_filepath": "u0.wav", "text": null, "speaker": null}': ("empty_text", "transcript"),
    '{"audio_filepath": "u0.wav", "text": NaN}': ("empty_text", "transcript"),
    '{"audio_filepath": "u0.wav", "text": 7}': (None, "7"),
    '{"audio_filepath": "u0.wav", "text": 3.50}': (None, "3.50"),
    '{"audio_filepath": "u0.wav", "text": true}': ("text_is_not_text", "True is of type bool"),
    '{"audio_filepath": "u0.wav", "text": ["a"]}': ("text_is_not_text", "is of type list"),
    '{"audio_filepath": "u0.wav", "text": "\\ud83d"}': ("not_utf8", "half of a UTF-16 character"),
    '{"audio_filepath": null, "text": "x"}': ("missing_audio", "no audio is named"),
    '{"audio_filepath": "", "text": "x"}': ("missing_audio", "no audio is named"),
    '{"audio_filepath": "a\\u0000b", "text": "x"}': ("missing_audio", "not the name of a file"),
    '{"audio_filepath": 7, "text": "x"}': ("missing_audio", "o such file"),
    '{"audio_filepath": "u0.wav", "text": "x", "offset": "half"}': ("bad_row", "'half' is not"),
    '{"audio_filepath": "u0.wav", "text": "x", "offset": NaN}': (None, "x"),
    '{"audio_filepath": "u0.wav", "text": "x", "duration": -1}': ("bad_row", "'-1' is not"),
    '{"audio_filepath": "u0.wav", "text": "x", "offset": null, "duration": ""}': (None, "x"),
    '{"audio_filepath": "u0.wav", "text": "x", "speaker": 7, "lang": null}': (None, "x"),
    '{"audio_filepath": "u0.wav", "text": "x", "speaker": ["a"]}': (
        "speaker_is_not_text",
        "speaker ['a'] is of type list",
    ),
    '{"text": "x"}': ("bad_row", "needs audio_filepath and text; it has text"),
    "{oops": ("bad_row", "not a JSON object; write one a line"),
    "[1, 2]": ("bad_row", "not a JSON object"),
    "[" * 100_000: ("bad_row", "not a JSON object"),
}


def test_an_unusable_line_is_dropped_and_named_and_the_rest_is_read(tmp_path):
    record(tmp_path, 1)
    for number, (line, (reason, words)) in enumerate(LINES.items()):
        good = '{"audio_filepath": "u0.wav", "text": "first", "id": "first"}'
        (tmp_path / "m.jsonl").write_text(f"{good}\n{line}\n", encoding="utf-8")
        out = tmp_path / "out" / str(number)
        checks = prepare(one_split(tmp_path / "m.jsonl"), out, normaliser="lower")["preflight"]
        kept = pq.read_table(next(out.glob("*.parquet"))).to_pylist()
        assert "none" not in [row["text"] for row in kept]
        if reason is None:
            assert [row["text"] for row in kept] == ["first", words], line
        else:
            assert list(checks["train"]["dropped"]) == [reason], line
            (message,) = checks["train"]["messages"]
            assert words in message
            assert "\n" not in message


def test_a_speaker_that_is_missing_is_unknown(tmp_path):
    record(tmp_path, 3)
    speakers = ["null", '""', "7"]
    lines = (
        f'{{"audio_filepath": "u{n}.wav", "text": "x", "speaker": {speaker}, "id": null}}\n'
        for n, speaker in enumerate(speakers)
    )
    (tmp_path / "m.jsonl").write_text("".join(lines))
    rows = list(one_split(tmp_path / "m.jsonl").splits()["train"].read())
    assert [(row.id, row.speaker_id) for row in rows] == [("u0", ""), ("u1", ""), ("u2", "7")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.TSV"])
def test_a_byte_order_mark_selects_the_encoding(tmp_path, encoding, name):
    line = {
        "m.jsonl": '{"audio_filepath": "a.wav", "text": "gr\u00fc\u00dfe"}',
        "m.csv": "audio_filepath,text\na.wav,gr\u00fc\u00dfe",
        "m.TSV": "audio_filepath\ttext\na.wav\tgr\u00fc\u00dfe",
    }
    (tmp_path / name).write_bytes((line[name] + "\n").encode(encoding))
    assert texts(one_split(tmp_path / name)) == ["gr\u00fc\u00dfe"]


def test_a_line_in_another_encoding_is_dropped_unless_only_its_audio_path_has_it(tmp_path):
    lines = b"audio_filepath,text\na.wav,plain\ncaf\xe9.wav,text\nb.wav,gr\xfc\xdfe\n"
    (tmp_path / "m.csv").write_bytes(lines)
    rows = list(one_split(tmp_path / "m.csv").splits()["train"].read())
    faults = {row.id: row.fault and row.fault.reason for row in rows}
    assert faults == {"a": None, "caf\\udce9": None, "b": "not_utf8"}
    (tmp_path / "m.csv").write_bytes(lines.splitlines()[0] + b"\nb.wav,gr\xfc\xdfe\n")
    with pytest.raises(ValueError, match="none of 1 rows is usable.*m.csv, line 2.*iconv"):
        one_split(tmp_path / "m.csv").splits()


def test_an_unclosed_quote_loses_only_its_own_line(tmp_path):
    lines = ["audio_filepath,text", "a.wav,one", 'b.wav,"two', "c.wav,three", 'd.wav,"four"']
    lines += ["e.wav,a,b", 'f.wav,"of two', 'lines"', "g.wav,last"]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    rows = list(one_split(tmp_path / "m.csv").splits()["train"].read())
    kept = {row.id: row.text for row in rows if row.fault is None}
    assert kept == {"a": "one", "c": "three", "d": "four", "f": "of two\nlines", "g": "last"}
    assert [row.id for row in rows if row.fault] == ["m.csv, line 3", "m.csv, line 6"]


def test_rows_with_faults_do_not_prevent_a_split_by_speakers(tmp_path):
    lines = [
        json.dumps({"audio_filepath": f"s{i}-{j}.wav", "text": "x", "speaker": f"s{i}"})
        for i in range(5)
        for j in range(4)
    ]
    (tmp_path / "m.jsonl").write_text("\n".join([*lines, "oops", "oops"]))
    corpus = Folder(path=tmp_path / "m.jsonl")
    rows = {split: list(part.read()) for split, part in corpus.splits().items()}
    assert "whole speakers" in corpus.origin().remarks[0]
    assert {s: sum(r.fault is not None for r in p) for s, p in rows.items()} == {
        "train": 2,
        "validation": 0,
        "test": 0,
    }


# The hub's formats


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([7, 29, 0]), ["7", "29", "0"]),
        (pa.array([7.0, None, 3.5]), ["7", "", "3.5"]),
        (pa.array([None, None, "null"]), ["", "", "null"]),
        (pa.array(["NA", "", "7.0"]), ["NA", "", "7.0"]),
        (pa.array(["NA", None, "x"]).dictionary_encode(), ["NA", "", "x"]),
        (pa.array([True, None, False]), ["text_is_not_text", "", "text_is_not_text"]),
        (pa.array([["a"], None, []]), ["text_is_not_text", "", "text_is_not_text"]),
    ],
)
def test_every_text_type_of_parquet_is_read(tmp_path, column, expected):
    audio = [{"bytes": b"x", "path": None}] * 3
    pq.write_table(pa.table({"audio": audio, "text": column}), tmp_path / "t.parquet")
    rows = Hub(path=str(tmp_path), train=["t.parquet"]).splits()["train"].read()
    assert [row.fault.reason if row.fault else row.text for row in rows] == expected


def test_rows_without_audio_are_counted(tmp_path):
    audio = pa.array([None, {"bytes": None, "path": None}, {"bytes": None, "path": ""}])
    pq.write_table(pa.table({"audio": audio, "text": ["a", "b", "c"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"audio": [1.0, None], "text": ["a", "b"]}), tmp_path / "b.parquet")
    for name, count in (("a", 3), ("b", 2)):
        rows = Hub(path=str(tmp_path), train=[f"{name}.parquet"]).splits()["train"].read()
        assert [row.fault.reason for row in rows] == ["missing_audio"] * count


@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz"])
def test_tables_of_a_local_data_set_are_read_as_they_are_written(tmp_path, name):
    import gzip

    (tmp_path / "set").mkdir()
    table = b"path,text,speaker\n/a.wav,NA,nan\n/b.wav,007,\n/c.wav,,NULL\n"
    data = gzip.compress(table) if name.endswith(".gz") else table
    (tmp_path / "set" / name).write_bytes(data)
    rows = list(Hub(path=str(tmp_path / "set")).splits()["train"].read())
    assert [row.text for row in rows] == ["NA", "007", ""]
    assert [row.speaker_id for row in rows] == ["nan", "", "NULL"]


def test_json_lines_of_mixed_types_and_a_broken_line(tmp_path):
    lines = ['{"file": "a.wav", "text": 7}', '{"file": "b.wav", "text": "seven", "id": 3}', "oops"]
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    rows = list(Hub(path=str(tmp_path), train=["all.jsonl"]).splits()["train"].read())
    assert [(row.id, row.text) for row in rows[:2]] == [("train-00000000", "7"), ("3", "seven")]
    assert rows[2].fault.reason == "bad_row"
    assert str(rows[2].fault) == "train-00000002: not a JSON object; write one a line"


def test_hidden_companion_files_are_not_read_as_data(tmp_path):
    audio = [{"bytes": b"x", "path": None}]
    pq.write_table(pa.table({"audio": audio, "text": ["a"]}), tmp_path / "train.parquet")
    (tmp_path / "._train.parquet").write_bytes(b"\0\5\x16\7")
    assert len(list(Hub(path=str(tmp_path), train=["*.parquet"]).splits()["train"].read())) == 1
