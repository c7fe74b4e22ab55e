import io
import json
import os
import re
import sys
import tracemalloc
from itertools import cycle, islice
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from asr.audio.sources import find
from asr.audio.windows import cut, natural_window
from asr.recognition.transcribe import transcribe
from asr.recognition.writers import FORMATS, Format
from asr.search.calibration import Calibration
from tests.coded_speech import RATE, TOKENIZER, CodedSpeech, Levels, audio_bytes, pause, speak


def save(path, *pieces):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(audio_bytes(np.concatenate(pieces)))
    return str(path)


def texts(results):
    return [result.transcript.text if result.transcript else None for result in results]


# --- Windows ---


@pytest.mark.parametrize("seconds", [0.01, 0.9, 2.0, 2.001, 7.3, 60.0])
def test_windows_cover_all_samples_once(seconds):
    wave = np.random.default_rng(0).normal(size=round(seconds * RATE)).astype(np.float32)
    windows = list(cut([wave], RATE, 2.0))
    assert np.array_equal(np.concatenate([piece for _, piece in windows]), wave)
    assert [start for start, _ in windows] == np.cumsum(
        [0] + [len(piece) for _, piece in windows[:-1]]
    ).tolist()
    assert all(0 < len(piece) <= 2 * RATE for _, piece in windows)
    assert all(len(piece) >= 2 * RATE * 2 // 3 for _, piece in windows[:-1])


@pytest.mark.parametrize("sizes", [[37], [700, 3], [16000], [50_000, 20_000]])
@pytest.mark.parametrize("window_seconds", [1.0, 2.0, 4.7])
def test_audio_read_in_pieces_is_cut_where_whole_audio_is(sizes, window_seconds):
    wave = np.random.default_rng(4).normal(size=round(9.1 * RATE)).astype(np.float32)
    wave[RATE : 2 * RATE] = wave[5 * RATE : 8 * RATE] = 0
    bounds = np.cumsum(list(islice(cycle(sizes), 1 + len(wave) // min(sizes))))
    stream = np.split(wave, bounds[bounds < len(wave)])
    whole = list(cut([wave], RATE, window_seconds))
    assert len(whole) >= 9.1 / window_seconds
    for (start, piece), (expected_start, expected) in zip(
        cut(stream, RATE, window_seconds), whole, strict=True
    ):
        assert start == expected_start
        assert np.array_equal(piece, expected)


def test_empty_audio_has_no_window():
    assert list(cut([], RATE, 2.0)) == list(cut([np.zeros(0, np.float32)], RATE, 2.0)) == []


def test_a_window_ends_in_the_pause_of_its_last_third():
    noise = np.random.default_rng(1).normal(scale=0.1, size=5 * RATE).astype(np.float32)
    noise[round(1.5 * RATE) : round(1.8 * RATE)] *= 0.01
    _, first = next(cut([noise], RATE, 2.0))
    assert 1.5 * RATE < len(first) < 1.8 * RATE


def test_digital_silence_is_cut_in_the_middle_of_its_last_pause():
    wave = np.ones(5 * RATE, dtype=np.float32)
    wave[round(1.4 * RATE) : round(1.6 * RATE)] = 0  # shorter pauses first
    wave[round(1.65 * RATE) : round(1.95 * RATE)] = 0
    _, first = next(cut([wave], RATE, 2.0))
    assert len(first) == pytest.approx(1.8 * RATE, abs=2)


def test_silence_alone_is_cut_into_full_windows():
    windows = list(cut([np.zeros(9 * RATE, dtype=np.float32)], RATE, 2.0))
    assert len(windows) <= 6
    assert windows[-1][0] + len(windows[-1][1]) == 9 * RATE


# --- Long files ---

WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "nine",
    "and",
    "another",
    "one",
]


@pytest.mark.parametrize("window_seconds", [2.7, 3.7, 6.0, 100.0])
@pytest.mark.parametrize("before", [0.0, 0.33, 1.1])
def test_no_word_is_doubled_lost_or_misplaced_by_any_cut(tmp_path, window_seconds, before):
    words = WORDS * 4
    pieces, starts = [np.zeros(round(before * RATE), dtype=np.float32)], []
    for word in words:
        starts.append(sum(map(len, pieces)) / RATE)
        pieces += [speak(word), pause(0.24), speak(" "), pause(0.24)]
    path = save(tmp_path / "long.wav", *pieces)
    [result] = transcribe(
        CodedSpeech(),
        [path],
        formats=("json",),
        window_seconds=window_seconds,
        batch_seconds=10,
    )
    assert result.error is None
    found = result.transcript.words
    assert [word.text for word in found] == words
    assert result.transcript.text == " ".join(words)
    for word, start in zip(found, starts, strict=True):
        assert word.start == pytest.approx(start, abs=0.041)  # one frame
        spoken = 0.12 * (len(word.text) - 1) + 0.04
        assert word.end - word.start == pytest.approx(spoken, abs=0.081)
        assert word.confidence > 0.99
    for left, right in zip(found, found[1:], strict=False):
        assert left.end <= right.start


def test_a_calibrated_model_gives_calibrated_confidences(tmp_path):
    path, model = save(tmp_path / "a.wav", speak("one two")), CodedSpeech()
    [raw] = transcribe(model, [path], formats=("json",))
    model.calibration = Calibration(0.5, -1.0)
    [mended] = transcribe(model, [path], formats=("json",))
    for before, after in zip(raw.transcript.words, mended.transcript.words, strict=True):
        assert (before.text, before.start, before.end) == (after.text, after.start, after.end)
        assert after.confidence == model.calibration.apply(before.confidence) < before.confidence


@pytest.mark.parametrize(
    ("summary", "seconds"),
    [
        ({}, 30),
        ({"longest_utterance_seconds": 16.5}, 16.5),
        ({"longest_utterance_seconds": 35.1}, 30),
        ({"longest_utterance_seconds": 0.9}, 3),
    ],
)
def test_a_window_is_as_long_as_the_longest_training_utterance(tmp_path, summary, seconds):
    assert natural_window(summary) == seconds
    model = CodedSpeech()
    model.summary = summary
    path = save(tmp_path / "a.wav", *[pause(0.3), speak("one ")] * 80)
    [result] = transcribe(model, [path], batch_seconds=1)
    assert result.transcript.text == " ".join(["one"] * 80)
    assert len(model.batches) >= result.transcript.duration / seconds


def test_windows_of_several_files_share_a_batch(tmp_path):
    names = [save(tmp_path / f"{i}.wav", speak("one two"), pause(0.5)) for i in range(6)]
    model = CodedSpeech()
    assert texts(transcribe(model, names, batch_seconds=100)) == ["one two"] * 6
    assert model.batches == [6]
    model = CodedSpeech()
    seconds = len(speak("one two")) / RATE + 0.5
    assert texts(transcribe(model, names, batch_seconds=2.5 * seconds)) == ["one two"] * 6
    assert model.batches == [2, 2, 2]


def test_results_keep_the_order_of_files_although_batches_are_sorted_by_length(
    tmp_path, monkeypatch
):
    said = ["four", "one two three four", "a", "seven eight"]
    names = [save(tmp_path / f"{i}.wav", speak(text)) for i, text in enumerate(said)]
    assert texts(transcribe(CodedSpeech(), names, batch_seconds=2)) == said
    monkeypatch.setattr(
        "asr.recognition.transcribe.POOL_BATCHES", 0.5
    )  # every file a group of its own
    assert texts(transcribe(CodedSpeech(), names, batch_seconds=2)) == said


def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path):
    peaks, lengths = [], (10, 20)  # both fill the pool of windows
    for minutes in lengths:
        path = tmp_path / f"{minutes}.wav"
        noise = np.random.default_rng(0).normal(scale=0.1, size=(60 * 16000, 2))
        with soundfile.SoundFile(path, "w", 16000, 2) as file:
            for _ in range(minutes):
                file.write(noise)
        tracemalloc.start()
        [result] = transcribe(CodedSpeech(), [str(path)], window_seconds=10, batch_seconds=20)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert result.transcript.duration == pytest.approx(60 * minutes)
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 4 * RATE * 60 * lengths[1]  # less than the samples alone


def test_a_long_file_that_ends_early_is_an_error_even_after_some_text(tmp_path):
    path = tmp_path / "half.mp3"
    noise = np.random.default_rng(2).normal(scale=0.05, size=60 * RATE)
    noise *= np.repeat([1, 0.1], RATE // 4).reshape(1, -1).repeat(120, 0).ravel()  # not steady
    data = audio_bytes(noise, kind="MP3")
    path.write_bytes(data[: len(data) // 2])
    model = CodedSpeech()
    [result] = transcribe(model, [str(path)], window_seconds=3, batch_seconds=1)
    assert "truncated" in result.error
    assert result.transcript is None
    assert model.batches


# --- Inputs ---


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "OGG", "OPUS"])
@pytest.mark.parametrize("rate", [8000, 48000])
def test_any_format_rate_and_number_of_channels_is_transcribed(tmp_path, kind, rate):
    noise = np.random.default_rng(2).normal(scale=0.1, size=(rate, 2)).astype(np.float32)
    path = tmp_path / f"a.{kind.lower()}"
    options = {"format": "OGG", "subtype": "OPUS"} if kind == "OPUS" else {"format": kind}
    soundfile.write(path, noise, rate, **options)
    [result] = transcribe(CodedSpeech(), [str(path)])
    assert result.error is None
    assert result.transcript.duration == pytest.approx(1.0, abs=0.1)


def test_audio_is_read_from_standard_input(monkeypatch):
    stream = SimpleNamespace(buffer=io.BytesIO(audio_bytes(speak("from a pipe"), kind="FLAC")))
    monkeypatch.setattr(sys, "stdin", stream)
    [result] = transcribe(CodedSpeech(), ["-"])
    assert (result.source, result.transcript.text) == ("stdin", "from a pipe")
    [result] = transcribe(CodedSpeech(), ["-"])  # of which nothing is left
    assert (result.source, result.transcript) == ("stdin", None)
    assert result.error.startswith("stdin is empty (0 bytes)")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("absent.wav", "absent.wav: no such file"),
        ("*.mp3", "no file matches this pattern"),
        ("empty", "holds no audio file .*--recursive"),
    ],
)
def test_an_input_that_matches_no_file_does_not_stop_the_others(tmp_path, entry, message):
    (tmp_path / "empty").mkdir()
    good = save(tmp_path / "good.wav", speak("a"))
    inputs = [str(tmp_path / entry), good]
    results = transcribe(CodedSpeech(), inputs, output_dir=tmp_path / "out")
    assert texts(results) == [None, "a"]
    assert re.search(message, results[0].error)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.txt"]


def test_inputs_that_match_no_file_at_all_stop_before_any_work(tmp_path):
    inputs = [str(tmp_path / "absent.wav"), str(tmp_path / "*.mp3")]
    with pytest.raises(ValueError, match="absent.wav: no such file.* .and 1 more input"):
        transcribe(CodedSpeech(), inputs, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_input_is_an_error():
    with pytest.raises(ValueError, match="nothing to transcribe"):
        transcribe(CodedSpeech(), [])


def test_a_bad_file_does_not_stop_the_others(tmp_path):
    good = save(tmp_path / "good.wav", speak("good"))
    (tmp_path / "bad.wav").write_bytes(b"not audio at all, but long enough to be read")
    (tmp_path / "empty.wav").write_bytes(b"")
    other = save(tmp_path / "other.wav", speak("other"))
    bad, empty = str(tmp_path / "bad.wav"), str(tmp_path / "empty.wav")
    results = transcribe(CodedSpeech(), [good, bad, empty, other], output_dir=tmp_path / "out")
    assert texts(results) == ["good", None, None, "other"]
    assert "bad.wav" in results[1].error
    assert "\n" not in results[1].error
    assert "empty" in results[2].error
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good.txt", "other.txt"]


@pytest.mark.parametrize(
    ("wave", "note"),
    [
        (np.zeros(1, dtype=np.float32), "too short"),
        (np.full(200, 0.5, dtype=np.float32), "too short"),
        (np.zeros(RATE, dtype=np.float32), "silent"),
    ],
)
def test_silent_audio_gives_an_empty_text_and_a_note(tmp_path, wave, note):
    path = save(tmp_path / "a.wav", wave)
    model = CodedSpeech()
    [result] = transcribe(model, [path], formats=("srt",), output_dir=tmp_path)
    assert result.error is None
    assert result.transcript.text == ""
    assert note in result.transcript.notes[0]
    assert (tmp_path / "a.srt").read_text() == ""
    assert model.batches == []


def test_a_file_without_samples_is_an_error_of_that_file(tmp_path):
    [result] = transcribe(CodedSpeech(), [save(tmp_path / "a.wav", np.zeros(0))])
    assert "no samples" in result.error


def test_an_error_in_a_batch_fails_only_the_file_that_caused_it(tmp_path):
    names = [save(tmp_path / f"{name}.wav", speak(name)) for name in ("one", "bad", "two")]

    class Breaks(CodedSpeech):
        def text(self, hypothesis):
            said = super().text(hypothesis)
            if said == "bad":
                raise IndexError("token 99")
            return said

    model = Breaks()
    results = transcribe(model, names, output_dir=tmp_path / "out")
    assert texts(results) == ["one", None, "two"]
    assert results[1].error == f"{names[1]}: IndexError: token 99"
    assert model.batches == [3, 1, 1, 1]


def test_a_failing_device_ends_the_job(tmp_path):
    names = [save(tmp_path / f"{name}.wav", speak(name)) for name in ("one", "two")]

    class Full(CodedSpeech):
        def encode(self, waves, lengths):
            raise torch.OutOfMemoryError

    with pytest.raises(ValueError, match="out of memory on cpu: lower batch_seconds"):
        transcribe(Full(), names, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", ["folder", "format"])
def test_an_output_that_cannot_be_written_is_an_error_of_its_file_alone(
    tmp_path, monkeypatch, wrong
):
    names = [save(tmp_path / f"{name}.wav", speak(name)) for name in ("one", "two", "three")]
    if wrong == "folder":
        (tmp_path / "two.ctm").mkdir()
    else:
        form = FORMATS["ctm"].write
        broken = Format(lambda t: 1 / 0 if t.text == "two" else form(t))
        monkeypatch.setitem(FORMATS, "ctm", broken)
    options = {"formats": ("txt", "ctm"), "existing": "replace"}
    results = transcribe(CodedSpeech(), names, output_dir=tmp_path, **options)
    assert texts(results) == ["one", None, "three"]
    assert results[1].error.startswith(f"{names[1]}: ")
    assert sorted(p.name for p in tmp_path.glob("*.txt")) == ["one.txt", "three.txt"]


def test_a_full_disk_ends_the_job_and_earlier_outputs_are_complete(tmp_path, quota):
    names = [save(tmp_path / "a.wav", speak("one"))]
    names += [save(tmp_path / f"{x}.wav", speak("one two three four")) for x in "bc"]
    with quota(10), pytest.raises(OSError, match="cannot write .*b.txt .*; make room"):
        transcribe(CodedSpeech(), names, output_dir=tmp_path / "out")
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == {"a.txt": "one\n"}


def test_names_of_any_bytes_and_lengths_are_written_and_found_again(tmp_path):
    os.mkdir(tmp_path / "in")
    places = [b"\xff\n.wav", "é".encode() * 125 + b".wav", "長".encode() * 83 + b".wav", b"z.wav"]
    for name in places:
        with open(os.fsencode(tmp_path / "in") + b"/" + name, "wb") as file:
            file.write(audio_bytes(speak("one")))
    out, kinds = tmp_path / "out", ("json", "txt")
    options = {"output_dir": out, "formats": kinds, "existing": "skip"}
    results = transcribe(CodedSpeech(), [str(tmp_path / "in")], **options)
    assert texts(results) == ["one"] * 4
    assert not any("\n" in result.source for result in results)
    assert len(list(out.iterdir())) == 8
    model = CodedSpeech()
    again = transcribe(model, [str(tmp_path / "in")], **options)
    assert [(r.transcript, r.error) for r in again] == [(None, None)] * 4
    assert model.batches == []


def test_a_name_that_had_to_be_shortened_is_noted(tmp_path):
    long = save(tmp_path / ("é" * 125 + "x.wav"), speak("one"))
    [result] = transcribe(CodedSpeech(), [long], output_dir=tmp_path, formats=("json", "txt"))
    name = result.outputs["json"].stem
    assert f"the name is too long, so its files are called {name}" in result.transcript.notes


# --- Noise ---


def hum(seconds, rng):
    t = np.arange(round(seconds * RATE)) / RATE
    return sum(0.05 / k * np.sin(2 * np.pi * 50 * k * t + rng.uniform(0, 6)) for k in (1, 2, 3, 7))


def hiss(seconds, rng):
    return 0.01 * rng.standard_normal(round(seconds * RATE))


@pytest.mark.parametrize("noise", [hum, hiss])
def test_hum_or_hiss_gives_no_words_and_a_note(tmp_path, noise):
    rng = np.random.default_rng(3)
    spoken = np.concatenate([pause(0.4), *[speak("one "), pause(0.2)] * 5])
    path = save(tmp_path / "a.wav", spoken, noise(25, rng), spoken)
    [result] = transcribe(CodedSpeech(), [path], window_seconds=5, formats=("json",))
    note = re.search(r"(\d+:\d\d)-(\d+:\d\d): not transcribed, because", result.transcript.notes[0])
    begin, end = (int(m) * 60 + int(s) for m, s in (x.split(":") for x in note.groups()))
    assert len(spoken) / RATE - 0.5 <= begin < end <= len(spoken) / RATE + 25.5  # rounded
    assert end - begin >= 12  # what a window shares with speech is kept
    assert not [w for w in result.transcript.words if begin < w.start < end]
    assert result.transcript.text.startswith("one one one one")


@pytest.mark.parametrize("seconds", [1, 4, 30])
def test_noise_alone_has_no_text(tmp_path, seconds):
    model = CodedSpeech()
    path = save(tmp_path / "a.wav", np.zeros(RATE), hiss(seconds + 0.5, np.random.default_rng(5)))
    [result] = transcribe(model, [path])
    assert (result.transcript.text, model.batches) == ("", [])
    assert "not transcribed, because the loudness" in result.transcript.notes[0]


# --- Confidence ---


class NoHead(Levels):
    def ctc_log_probs(self, encoded):
        return None


class Unsure(Levels):
    """Half as sure of an ``o`` as of the others."""

    def ctc_log_probs(self, encoded):
        probs = super().ctc_log_probs(encoded).exp()
        o = TOKENIZER.encode("o")[0]
        said = probs[..., o : o + 1] > 0.5
        other = torch.zeros(probs.shape[-1])
        other[TOKENIZER.encode("z")[0]] = 0.5
        return torch.where(said, 0.5 * probs + other, probs).clamp(min=1e-9).log()


@pytest.mark.parametrize("kind", ["txt", "json"])
def test_words_below_the_requested_confidence_are_left_out_and_counted(tmp_path, kind):
    path = save(tmp_path / "a.wav", speak("in a oo barn"))
    model = CodedSpeech(decoder=Unsure())
    [whole] = transcribe(model, [path], formats=(kind,), min_confidence=0.1)
    assert (whole.transcript.text, whole.transcript.notes) == ("in a oo barn", ())
    [result] = transcribe(model, [path], formats=(kind,), min_confidence=0.6)
    assert result.transcript.text == "in a barn"
    assert [word.text for word in result.transcript.words] == ["in", "a", "barn"]
    assert result.transcript.notes[0].startswith("1 of 4 words were left out: their confidence is")


def test_a_transcript_made_with_another_confidence_threshold_is_not_reused(tmp_path):
    path = save(tmp_path / "a.wav", speak("one"))
    options = {"output_dir": tmp_path, "formats": ("json",)}
    transcribe(CodedSpeech(), [path], min_confidence=0.5, **options)
    [result] = transcribe(CodedSpeech(), [path], existing="skip", **options)
    assert "a.json was made with min_confidence 0.5" in result.error


@pytest.mark.parametrize(
    ("decoder", "least", "message"),
    [(None, 1.5, "min_confidence is 1.5"), (NoHead(), 0.5, "needs the confidences of words")],
)
def test_an_impossible_confidence_threshold_is_refused(tmp_path, decoder, least, message):
    path = save(tmp_path / "a.wav", speak("one"))
    with pytest.raises(ValueError, match=message):
        transcribe(CodedSpeech(decoder=decoder), [path], min_confidence=least)


# --- Outputs ---


def test_every_format_is_written(tmp_path):
    path = save(tmp_path / "a.wav", pause(0.4), speak("one two"))
    kinds = ("txt", "json", "srt", "vtt", "tsv", "ctm")
    out = tmp_path / "out"
    [result] = transcribe(
        CodedSpeech(), [path], formats=kinds, output_dir=out, model_name="runs/lstm"
    )
    assert sorted(result.outputs) == sorted(kinds)
    assert sorted(p.name for p in out.iterdir()) == sorted(f"a.{kind}" for kind in kinds)
    assert (out / "a.txt").read_text() == "one two\n"
    content = json.loads((out / "a.json").read_text())
    assert (content["model"], content["search"]) == ("runs/lstm", "Greedy(beam=1)")
    assert [word["start"] for word in content["words"]] == [0.4, 0.88]
    assert (out / "a.srt").read_text() == "1\n00:00:00,400 --> 00:00:01,240\none two\n"
    assert content["duration"] == 1.24  # which ends the subtitle before its second is over


def test_inputs_of_equal_names_get_different_outputs(tmp_path):
    names = [
        save(tmp_path / folder, speak(text))
        for folder, text in [("x/a.wav", "one"), ("y/a.wav", "two"), ("x/a.flac", "three")]
    ]
    results = transcribe(CodedSpeech(), names, output_dir=tmp_path / "out")
    written = {result.outputs["txt"].read_text() for result in results}
    assert written == {"one\n", "two\n", "three\n"}


def test_the_waveform_in_ctm_has_the_name_of_its_file(tmp_path):
    names = [save(tmp_path / f"spk{i}" / "001.wav", speak("one")) for i in (1, 2)]
    results = transcribe(CodedSpeech(), names, formats=("ctm",), output_dir=tmp_path / "out")
    paths = [result.outputs["ctm"] for result in results]
    assert [path.stem for path in paths] == ["spk1-001", "spk2-001"]
    assert [path.read_text().split()[0] for path in paths] == ["spk1-001", "spk2-001"]


def test_an_existing_transcript_is_kept_unless_the_option_says_otherwise(tmp_path):
    names = [save(tmp_path / f"{name}.wav", speak(name)) for name in "ab"]
    (tmp_path / "a.txt").write_text("precious")
    model = CodedSpeech()
    results = transcribe(model, names, output_dir=tmp_path)
    assert "a.txt exists; --overwrite replaces it" in results[0].error
    assert results[1].error is None
    assert (tmp_path / "a.txt").read_text() == "precious"
    assert model.batches == [1]  # nothing was computed in vain
    results = transcribe(model, names, output_dir=tmp_path, existing="replace")
    assert [result.error for result in results] == [None, None]
    assert (tmp_path / "a.txt").read_text() == "a\n"


def test_an_interrupted_call_resumes_and_transcribes_no_file_twice(tmp_path):
    names = [save(tmp_path / f"{name}.wav", speak(name)) for name in "abc"]
    out, kinds = tmp_path / "out", ("txt", "json", "ctm")
    transcribe(CodedSpeech(), names[:2], output_dir=out, formats=kinds)
    (out / "a.txt").write_text("corrected by hand")
    model = CodedSpeech()
    results = transcribe(model, names, output_dir=out, formats=kinds, existing="skip")
    assert [result.error for result in results] == [None, None, None]
    assert texts(results) == [None, None, "c"]
    assert results[0].outputs == {kind: out / f"a.{kind}" for kind in kinds}
    assert model.batches == [1]
    assert (out / "a.txt").read_text() == "corrected by hand"
    assert sorted(p.name for p in out.iterdir()) == [
        f"{n}.{k}" for n in "abc" for k in sorted(kinds)
    ]


def test_a_file_given_by_another_path_is_recognised_as_the_same(tmp_path, monkeypatch):
    path = save(tmp_path / "x" / "a.wav", speak("one"))
    options = {"output_dir": tmp_path / "out", "formats": ("json",)}
    transcribe(CodedSpeech(), [path], **options)
    monkeypatch.chdir(tmp_path / "x")
    [result] = transcribe(CodedSpeech(), ["a.wav"], existing="skip", **options)
    assert (result.transcript, result.error) == (None, None)


class Other:
    """Another way to search."""

    def __repr__(self):
        return "Other()"


def changed(path):
    before = os.stat(path)
    os.utime(path, (before.st_atime, before.st_mtime - 100))  # an older take, moved here


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (changed, {}, "a.json was made before .*a.wav changed; --overwrite"),
        (lambda path: save(path, speak("other")), {}, "a.json was made before .*a.wav changed"),
        (None, {"model_name": "runs/b"}, r"by another model or search \(runs/a, Greedy\(beam=1\)"),
        (None, {"model": CodedSpeech(search=Other())}, "was made by another model or search"),
        (None, {"formats": ("json", "txt")}, "a.json exists, a.txt does not; --overwrite replaces"),
    ],
)
def test_a_transcript_made_with_other_settings_is_neither_kept_nor_replaced(
    tmp_path, change, options, reason
):
    path = tmp_path / "a.wav"
    save(path, speak("one"))
    usual = {"output_dir": tmp_path, "formats": ("json",), "model_name": "runs/a"}
    transcribe(CodedSpeech(), [str(path)], **usual)
    before = (tmp_path / "a.json").read_text()
    if change:
        change(path)
    now = {"model": CodedSpeech(), **usual, **options}
    [result] = transcribe(inputs=[str(path)], existing="skip", **now)
    assert re.search(reason, result.error)
    assert (tmp_path / "a.json").read_text() == before
    assert not (tmp_path / "a.txt").exists()


def test_a_transcript_of_another_recording_of_the_same_name_is_an_error(tmp_path, monkeypatch):
    out, kinds = tmp_path / "out", ("txt", "json")
    first, second = (save(tmp_path / f"spk{i}" / "001.wav", speak("one")) for i in (1, 2))
    for path in (first, second):
        facts = os.stat(first)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # alike in all but the place
    transcribe(CodedSpeech(), [first], output_dir=out, formats=kinds)
    model = CodedSpeech()
    [result] = transcribe(model, [second], output_dir=out, formats=kinds, existing="skip")
    assert result.error == (
        f"{out}/001.json is the transcript of another recording ({first}); "
        "--overwrite replaces it, another --output-dir keeps both"
    )
    assert model.batches == []
    (out / "stdin.json").write_bytes((out / "001.json").read_bytes())
    spoken = io.TextIOWrapper(io.BytesIO(audio_bytes(speak("one"))))
    monkeypatch.setattr(sys, "stdin", spoken)
    [piped] = transcribe(model, ["-"], output_dir=out, formats=("json",), existing="skip")
    assert "stdin.json is the transcript of another recording" in piped.error


def test_a_text_that_the_json_beside_it_does_not_list_is_not_trusted(tmp_path):
    first, second = (save(tmp_path / name / "001.wav", speak(name)) for name in ("ann", "bob"))
    out = tmp_path / "out"
    transcribe(CodedSpeech(), [first], output_dir=out, formats=("txt",))
    transcribe(CodedSpeech(), [second], output_dir=out, formats=("json",))
    kinds = ("txt", "json")
    [result] = transcribe(CodedSpeech(), [second], output_dir=out, formats=kinds, existing="skip")
    assert "001.json was written without txt" in result.error


@pytest.mark.parametrize("content", ["", "[]", '{"text": "one"}', '{"recording": 3}', "\xff"])
def test_a_json_file_of_another_kind_is_not_trusted(tmp_path, content):
    path = save(tmp_path / "a.wav", speak("one"))
    (tmp_path / "a.json").write_text(content, encoding="latin-1")
    options = {"output_dir": tmp_path, "formats": ("json",)}
    [result] = transcribe(CodedSpeech(), [path], existing="skip", **options)
    assert "a.json does not name its recording; --overwrite" in result.error


def test_a_file_that_vanishes_is_an_error_of_its_own(tmp_path, monkeypatch):
    names = [save(tmp_path / f"{name}.wav", speak(name)) for name in "ab"]
    options = {"output_dir": tmp_path, "formats": ("json",), "existing": "skip"}
    transcribe(CodedSpeech(), names, **options)
    found = find(names)
    os.unlink(names[0])
    monkeypatch.setattr("asr.recognition.transcribe.find", lambda *_: found)
    gone, left = transcribe(CodedSpeech(), names, **options)
    assert gone.error == f"{names[0]}: no such file; check the path"
    assert (left.transcript, left.error) == (None, None)


def test_a_folder_that_cannot_be_written_is_found_before_any_work(tmp_path):
    path = save(tmp_path / "a.wav", speak("a"))
    model = CodedSpeech()
    with pytest.raises(OSError, match="cannot write"):
        transcribe(model, [path], output_dir=tmp_path / "a.wav")
    assert model.batches == []


def test_without_an_output_folder_nothing_is_written(tmp_path):
    path = save(tmp_path / "a.wav", speak("one"))
    [result] = transcribe(CodedSpeech(), [path])
    assert result.outputs == {}
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ("docx",)}, "docx; choose from txt, json, srt, vtt, tsv, ctm"),
        ({"formats": ()}, "none; choose from"),
        ({"formats": ("txt", "srt")}, "txt and srt need a folder: give --output-dir"),
        ({"existing": "skip", "formats": ("json",)}, "--skip-existing needs --output-dir"),
        ({"existing": "skip", "output_dir": "nowhere"}, "needs json among --formats .now txt."),
        ({"window_seconds": 0.5}, "window_seconds is 0.5"),
    ],
)
def test_impossible_requests_are_refused(tmp_path, options, message):
    path = save(tmp_path / "a.wav", speak("a"))
    with pytest.raises(ValueError, match=message):
        transcribe(CodedSpeech(), [path], **options)


@pytest.mark.parametrize("kind", ["json", "srt", "vtt", "tsv", "ctm"])
def test_formats_with_times_need_a_ctc_head(tmp_path, kind):
    path = save(tmp_path / "a.wav", speak("one"))
    model = CodedSpeech(decoder=NoHead())
    with pytest.raises(ValueError, match=f"{kind} needs the times of words.*no CTC head"):
        transcribe(model, [path], formats=(kind,))
    assert texts(transcribe(model, [path])) == ["one"]


class Chatty:
    """Says more than there are frames, and never ends."""

    def __call__(self, decoder, encoded, lengths):
        tokens = tuple(CodedSpeech().tokenizer.encode("a " * 200))
        return [[SimpleNamespace(tokens=tokens, score=-1.0, finished=False)] for _ in lengths]


def test_estimated_times_and_truncated_hypotheses_are_noted(tmp_path):
    path = save(tmp_path / "a.wav", speak("one"))
    [result] = transcribe(CodedSpeech(search=Chatty()), [path], formats=("tsv",))
    cut_off, guessed = result.transcript.notes
    assert cut_off == "the search was cut off in 1 of 1 windows"
    assert guessed.startswith("the times of 200 words are estimates")
    assert result.transcript.words[-1].end <= result.transcript.duration + 1e-9


def test_transcription_does_not_import_the_trainer():
    import subprocess

    code = "import sys, asr.recognition.transcribe; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
