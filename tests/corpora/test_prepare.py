"""Preparing and preflight, on a corpus made up of given rows; one file of tests per real corpus."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import jsonargparse
import numpy as np
import pytest
import soundfile

from asr.audio import audio_file
from asr.corpora import CORPORA
from asr.corpora import prepare as prepare_module
from asr.corpora.corpus import Corpus, Origin, Row, Rows
from asr.corpora.preflight import missing_frames
from asr.corpora.prepare import prepare
from asr.folders import Walk

RATE = 16000


@dataclass(frozen=True, kw_only=True)
class Given(Corpus):
    """Rows as the test gives them."""

    given: dict[str, list[Row]] = field(default_factory=dict)
    option: int = 0
    expected: dict[str, dict[str, int]] = field(default_factory=dict)

    def splits(self) -> dict[str, Rows]:
        return {s: Rows(lambda r=rows: iter(r), len(rows)) for s, rows in self.given.items()}

    def sources(self) -> Walk:
        return Walk()

    def origin(self) -> Origin:
        return Origin("given", "a test", "none", remarks=("made up",), expected=self.expected)


def noise(seconds=1.0, seed=0, rate=RATE):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate)).astype(np.float32)


def wav(wave, rate=RATE, subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def row(name="a", audio=None, text="some words", **options):
    seed = int.from_bytes(name.encode()) % 2**32
    return Row(name, wav(noise(seed=seed)) if audio is None else audio, text, **options)


def prepared(tmp_path, rows, **options):
    splits = rows if isinstance(rows, dict) else {"train": rows}
    summary = prepare(Given(given=splits), tmp_path / "out", **options)
    return summary, read(tmp_path / "out")


def read(folder):
    files = {s: str(folder / f"{s}-*.parquet") for s in ("train", "validation", "test")}
    files = {s: f for s, f in files.items() if list(folder.glob(Path(f).name))}
    loaded = datasets.load_dataset("parquet", data_files=files, streaming=True)
    return {split: list(rows) for split, rows in loaded.items()}


def nothing_left(tmp_path):
    return not any(tmp_path.iterdir())


# What is written


def test_the_parquet_holds_every_field_and_the_samples(tmp_path):
    wave = noise()
    given = Row("x/1", wav(wave), "It\u2019s  HERE!", "ann", "ch2", "en")
    summary, rows = prepared(tmp_path, [given, row("b")])
    first = rows["train"][0]
    assert first["id"] == "x/1"
    assert first["text"] == "it's here"
    assert first["original_text"] == "It\u2019s  HERE!"
    assert (first["speaker_id"], first["chapter_id"], first["language"]) == ("ann", "ch2", "en")
    assert first["duration"] == 1.0
    assert first["audio"]["bytes"] == given.audio  # mono at the rate: kept as it is
    assert rows["train"][1]["chapter_id"] is None
    assert summary["splits"]["train"] == {
        "utterances": 2,
        "hours": pytest.approx(2 / 3600),
        "speakers": 1,
        "words": 4,
        "rows_sha256": summary["splits"]["train"]["rows_sha256"],
    }


def test_the_checksum_changes_with_ids_texts_and_audio(tmp_path):
    variants = {
        "same": row(),
        "again": row(),
        "id": row("b", audio=wav(noise(seed=int.from_bytes(b"a")))),
        "text": row(text="other words"),
        "audio": row(audio=wav(noise(seed=99))),
    }
    sums = {}
    for name, given in variants.items():
        (tmp_path / name).mkdir()
        sums[name] = prepared(tmp_path / name, [given])[0]["splits"]["train"]["rows_sha256"]
    assert sums["same"] == sums["again"]
    assert len(set(sums.values())) == 4


def test_the_datasets_library_takes_the_column_for_undecoded_audio(tmp_path):
    prepared(tmp_path, [row()])
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "train-*.parquet"), streaming=True
    )
    assert loaded["train"].features["audio"] == datasets.Audio(decode=False)


def test_corpus_json_and_preflight_json_hold_the_summary(tmp_path):
    summary, _ = prepared(tmp_path, [row()])
    about = json.loads((tmp_path / "out" / "corpus.json").read_text())
    checks = json.loads((tmp_path / "out" / "preflight.json").read_text())
    assert checks == summary["preflight"]
    assert {k: summary[k] for k in about} == about
    assert about["name"] == "given"
    assert about["licence"] == "none"
    assert about["synthetic"] is False
    assert about["remarks"] == ["made up"]
    assert about["sample_rate"] == RATE
    assert about["normaliser"] == "english"


@pytest.mark.parametrize(
    ("rate", "channels", "converted"),
    [
        (16000, 1, {}),
        (8000, 1, {"resampled": 1}),
        (16000, 2, {"mixed_to_mono": 1}),
        (44100, 3, {"resampled": 1, "mixed_to_mono": 1}),
    ],
)
def test_other_rates_and_channels_are_converted_and_counted(tmp_path, rate, channels, converted):
    wave = np.stack([noise(seed=i, rate=rate) for i in range(channels)], axis=1)
    data = wav(wave, rate)
    summary, rows = prepared(tmp_path, [row(audio=data)])
    assert summary["preflight"]["train"]["converted"] == converted
    stored = rows["train"][0]["audio"]["bytes"]
    assert (
        soundfile.info(io.BytesIO(stored)).samplerate,
        soundfile.info(io.BytesIO(stored)).channels,
    ) == (RATE, 1)
    assert np.abs(audio_file.decode(stored, RATE) - audio_file.decode(data, RATE)).max() < 1 / 32768


@pytest.mark.parametrize("kind", ["float32", "int16"])
def test_samples_instead_of_files_are_encoded(tmp_path, kind):
    wave = noise()
    given = wave if kind == "float32" else np.round(wave * 32768).astype(np.int16)
    _, rows = prepared(tmp_path, [row(audio=given, sample_rate=RATE)])
    stored = rows["train"][0]["audio"]
    assert stored["path"] == "a.flac"
    assert np.abs(audio_file.decode(stored["bytes"], RATE) - wave).max() <= 0.5 / 32768 + 1e-7


def test_a_part_of_a_file_is_cut_out(tmp_path):
    wave = noise(3)
    _, rows = prepared(tmp_path, [row(audio=wav(wave), start_seconds=1.0, seconds=1.5)])
    decoded = audio_file.decode(rows["train"][0]["audio"]["bytes"], RATE)
    assert rows["train"][0]["duration"] == 1.5
    assert np.abs(decoded - wave[RATE : RATE + len(decoded)]).max() < 1.1 / 32768


def test_shards_hold_all_rows_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "SHARD_BYTES", 100_000)
    monkeypatch.setattr(prepare_module, "GROUP_BYTES", 40_000)
    names = [f"u{i:02d}" for i in range(20)]
    _, rows = prepared(tmp_path, [row(name) for name in names])
    assert [r["id"] for r in rows["train"]] == names
    files = sorted(p.name for p in (tmp_path / "out").glob("*.parquet"))
    assert len(files) > 2
    assert files == [f"train-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))]


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_nothing(tmp_path, workers):
    _, rows = prepared(tmp_path, [row(f"u{i}") for i in range(50)], num_workers=workers)
    assert [r["id"] for r in rows["train"]] == [f"u{i}" for i in range(50)]
    assert rows["train"][7]["audio"]["bytes"] == row("u7").audio


# What is dropped


def bad_rows(tmp_path):
    nan = noise()
    nan[3] = np.nan
    zeros = np.zeros(RATE, np.float32)
    cut = wav(noise())[:9000]
    folder = tmp_path / "folder.wav"
    folder.mkdir()
    yield "unreadable_audio", row(audio=b"junk" * 40), "not a readable audio file"
    yield "unreadable_audio", row(audio=b""), "0 bytes"
    yield "unreadable_audio", row(audio=folder), "folder.wav"
    yield "missing_audio", row(audio=tmp_path / "no.wav"), "no.wav"
    yield "truncated_audio", row(audio=cut), "8956 of 32000 bytes"
    yield "truncated_audio", row(start_seconds=0.5, seconds=1.0), "ends at 1.50 s"
    yield "too_short", row(audio=wav(zeros[:0])), "no samples"
    yield "too_short", row(audio=wav(noise()[:1])), "1 samples"
    yield "too_short", row(start_seconds=2.0), "0 samples"
    yield "not_finite", row(audio=wav(nan, subtype="FLOAT")), "NaN"
    yield "not_finite", row(audio=nan, sample_rate=RATE), "NaN"
    yield "silence", row(audio=wav(zeros)), "full scale"
    yield "silence", row(audio=wav(noise() * 1e-5, subtype="FLOAT")), "full scale"
    yield "empty_text", row(text=""), "no transcript"
    yield "empty_text", row(text=" ?! "), "no text"
    yield "more_labels_than_frames", row(text="x y " * 20), "25 encoder frames"
    yield "duplicate_id", row("good"), "same id"


def test_every_kind_of_bad_row_is_dropped_counted_and_explained(tmp_path):
    for reason, bad, words in bad_rows(tmp_path):
        corpus = Given(given={"train": [row("good"), bad]})
        out = tmp_path / "out"
        checks = prepare(corpus, out)["preflight"]["train"]
        assert (checks["read"], checks["kept"]) == (2, 1), reason
        assert checks["dropped"] == {reason: [bad.id]}
        (message,) = checks["messages"]
        assert words in message
        assert "\n" not in message
        assert [r["id"] for r in read(out)["train"]] == ["good"]
        for path in out.iterdir():
            path.unlink()


def test_kept_and_dropped_rows_add_up_to_the_rows_read(tmp_path):
    rows = [bad for _, bad, _ in bad_rows(tmp_path)]
    rows = [dataclasses.replace(r, id=f"{i}") for i, r in enumerate(rows)] + [row("z"), row("z")]
    checks = prepared(tmp_path, rows)[0]["preflight"]["train"]
    dropped = sum(len(ids) for ids in checks["dropped"].values())
    assert checks["read"] == len(rows) == checks["kept"] + dropped
    assert len(checks["messages"]) == dropped


@pytest.mark.parametrize(
    ("text", "frames", "feasible"),
    [("abc", 3, True), ("abc", 2, False), ("aab", 4, True), ("aab", 3, False), ("aaa", 5, True)],
)
def test_ctc_needs_a_frame_per_label_and_per_repeat(text, frames, feasible):
    why = missing_frames(text, frames * 0.04)
    assert feasible == (why == "")
    assert feasible or "encoder frames" in why


# What is suspicious


@pytest.mark.parametrize("split", ["validation", "test", "test_other"])
def test_rows_too_short_for_ctc_are_dropped_from_train_alone(tmp_path, split):
    rows = [row("good"), row("hasty", text="x y " * 20)]
    bad = [bad for reason, bad, _ in bad_rows(tmp_path) if reason == "silence"][0]
    summary, stored = prepared(tmp_path, {"train": rows, split: [*rows, bad]})
    train, other = summary["preflight"]["train"], summary["preflight"][split]
    assert train["dropped"] == {"more_labels_than_frames": ["hasty"]}
    assert other["dropped"] == {"silence": ["a"]}
    assert other["suspicious"]["more_labels_than_frames"] == ["hasty"]
    assert (other["read"], other["kept"]) == (3, 2)
    assert [r["id"] for r in stored.get(split, [])] in ([], ["good", "hasty"])
    assert summary["splits"][split]["utterances"] == 2


def suspicious(tmp_path, rows, **options):
    summary, _ = prepared(tmp_path, rows, **options)
    return {split: checks["suspicious"] for split, checks in summary["preflight"].items()}


def test_an_ordinary_corpus_raises_no_suspicion(tmp_path):
    splits = {s: [row(f"{s}{i}", speaker_id=s) for i in range(30)] for s in ("train", "test")}
    assert suspicious(tmp_path, splits) == {"train": {}, "test": {}}


def test_characters_that_train_does_not_have_are_listed(tmp_path):
    splits = {"test": [row("t", text="words \u00e9")], "train": [row("a", text="some words")]}
    assert suspicious(tmp_path, splits)["test"] == {"characters_outside_alphabet": ["t"]}


def test_a_declared_alphabet_counts_for_all_splits(tmp_path):
    splits = {"train": [row("a", text="abc"), row("b", text="abd")], "test": [row("t", text="ab")]}
    found = suspicious(tmp_path, splits, alphabet="abc")
    assert found == {"train": {"characters_outside_alphabet": ["b"]}, "test": {}}


def test_outliers_of_speed_are_listed_on_both_sides(tmp_path):
    usual = [row(f"u{i}", text="x" * (8 + i % 3)) for i in range(40)]
    odd = [row("fast", text="xy" * 12), row("slow", text="x")]
    found = suspicious(tmp_path, usual + odd)["train"]
    assert found == {"characters_per_second": ["fast", "slow"]}


def test_few_rows_have_no_outliers(tmp_path):
    rows = [row(f"u{i}", text="x" * (4 + i % 3)) for i in range(10)] + [row("o", text="xy" * 12)]
    assert suspicious(tmp_path, rows)["train"] == {}


def test_ids_audio_and_speakers_that_splits_share_are_listed(tmp_path):
    same = wav(noise(seed=1))
    splits = {
        "train": [row("one", speaker_id="ann"), row("two", audio=same, speaker_id="bob")],
        "validation": [row("one", audio=wav(noise(seed=5)), speaker_id="eve")],
        "test": [row("three", audio=same, speaker_id="bob"), row("four", speaker_id="eve")],
    }
    found = suspicious(tmp_path, splits)
    assert found["train"] == {}
    assert found["validation"] == {"id_also_in_train": ["one"]}
    assert found["test"] == {
        "audio_also_in_train": ["three"],
        "speakers_also_in_train": ["bob"],
        "speakers_also_in_validation": ["eve"],
    }


def test_unknown_speakers_are_not_shared_speakers(tmp_path):
    assert suspicious(tmp_path, {"train": [row("a")], "test": [row("b")]})["test"] == {}


def test_repeated_audio_and_clipping_are_listed(tmp_path):
    loud = wav(np.sign(noise()))
    found = suspicious(tmp_path, [row("a"), row("b", audio=row("a").audio), row("c", audio=loud)])
    assert found["train"] == {"clipped": ["c"], "repeated_audio": ["a", "b"]}


def test_counts_that_differ_from_the_published_ones_are_listed(tmp_path):
    corpus = Given(
        given={"train": [row("a")], "test": [row("b")]},
        expected={"train": {"utterances": 2, "words": 2}, "test": {"utterances": 1, "words": 5}},
    )
    checks = prepare(corpus, tmp_path / "out")["preflight"]
    assert checks["train"]["suspicious"] == {"utterances_not_as_published": ["1 of 2"]}
    assert checks["test"]["suspicious"] == {"words_not_as_published": ["2 of 5"]}


# All or nothing


def test_the_same_options_again_are_left_alone(tmp_path):
    corpus = Given(given={"train": [row()]})
    first = prepare(corpus, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    again = prepare(corpus, tmp_path / "out")
    assert (first["reused"], again["reused"]) == (False, True)
    assert {**first, "reused": True} == again
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("option", "settings", "words"),
    [
        (1, {}, "options.option: was 0, is now 1"),
        (0, {"sample_rate": 8000}, "sample_rate: was 16000, is now 8000"),
        (0, {"normaliser": "lower"}, "normaliser: was english, is now lower"),
        (0, {"alphabet": "abc"}, "options.alphabet: was None, is now abc"),
        (0, {"strip_tags": True}, "options.strip_tags: was not set, is now True"),
    ],
)
def test_other_options_are_refused_and_named(tmp_path, option, settings, words):
    rows = {"train": [row()]}
    prepare(Given(given=rows), tmp_path / "out")
    with pytest.raises(ValueError, match=rf"differently \({words}\); remove it or .*--refresh"):
        prepare(Given(given=rows, option=option), tmp_path / "out", **settings)
    replaced = prepare(Given(given=rows, option=option), tmp_path / "out", refresh=True, **settings)
    assert not replaced["reused"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert prepare(Given(given=rows, option=option), tmp_path / "out", **settings)["reused"]


def test_a_folder_that_is_not_a_corpus_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not a prepared corpus; choose another --output"):
        prepare(Given(given={"train": [row()]}), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"normaliser": "klingon"}, "'klingon': choose one of"), ({"sample_rate": 0}, "positive")],
)
def test_wrong_settings_are_refused_before_anything_is_written(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        prepare(Given(given={"train": [row()]}), tmp_path / "out", **settings)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("rows", [[], [row(text="")]])
def test_a_split_without_usable_rows_is_an_error_and_leaves_nothing(tmp_path, rows):
    with pytest.raises(ValueError, match=f"split test: none of {len(rows)} rows is usable"):
        prepare(Given(given={"train": [row()], "test": rows}), tmp_path / "out")
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(prepare_module, "write", fail)
    with pytest.raises(type(error)):
        prepare(Given(given={"train": [row()]}), tmp_path / "out")
    assert nothing_left(tmp_path)


def test_a_full_disk_is_one_line_that_names_the_output(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "Error writing bytes to file")

    monkeypatch.setattr(prepare_module.pq, "ParquetWriter", fail)
    with pytest.raises(OSError, match=r"cannot write .*out \(No space left on device\); make"):
        prepare(Given(given={"train": [row()]}), tmp_path / "out")
    assert nothing_left(tmp_path)


def test_an_output_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write .*; choose another folder"):
        prepare(Given(given={"train": [row()]}), tmp_path / "file" / "out")


KILLED = """
import time
from pathlib import Path
from asr.corpora import spoken
from asr.corpora.prepare import prepare

def stalled(*arguments, read=spoken.Spoken._read):
    yield from read(*arguments)
    time.sleep(60)

spoken.Spoken._read = stalled
prepare(spoken.Spoken(train=2, validation=1, test=1), Path("out"))
"""


def test_a_killed_prepare_leaves_no_corpus_and_the_next_one_cleans_up(tmp_path):
    path = os.pathsep.join([str(Path(prepare_module.__file__).parents[2]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
    )
    deadline = time.monotonic() + 60
    while not (left := list(tmp_path.glob(".out.*.partial"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert left
    assert not (tmp_path / "out").exists()
    prepared(tmp_path, [row()])
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


# The options of the real ones


@pytest.mark.parametrize("name", CORPORA)
def test_every_option_has_a_type_a_default_or_is_required_and_a_line_of_help(name, capsys):
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(CORPORA[name], None)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for option in dataclasses.fields(CORPORA[name]):
        assert f"--{option.name}" in shown
        line = CORPORA[name].__doc__.split(f"{option.name}: ")[1].splitlines()[0]
        assert line.split(". ")[0][:40] in shown, f"{option.name} is not explained"


@pytest.mark.parametrize("name", CORPORA)
def test_corpora_are_final_dataclasses_of_at_most_ten_options(name):
    assert CORPORA[name].__mro__[1] is Corpus
    assert len(dataclasses.fields(CORPORA[name])) <= 10
