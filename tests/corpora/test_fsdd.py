import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.audio import audio_file
from asr.corpora.fsdd import FSDD, WORDS, parse_range, split_of
from asr.corpora.prepare import prepare

SPEAKERS = ("ann", "bob")
TAKES = 13


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Official names; the samples say digit, speaker and take, so that strings can be read back."""
    folder = tmp_path_factory.mktemp("fsdd") / "recordings"
    folder.mkdir()
    for digit in range(10):
        for s, speaker in enumerate(SPEAKERS):
            for take in range(TAKES):
                path = folder / f"{digit}_{speaker}_{take}.wav"
                soundfile.write(path, code(digit, s, take), 8000, subtype="PCM_16")
    return folder


def code(digit, speaker, take):
    return np.full(2400, (1000 * speaker + 50 * digit + take + 1), np.int16)


def uses(rows):
    """How often each (digit, speaker, take) is heard."""
    counts = Counter()
    for row in rows:
        values, lengths = np.unique(np.round(row.audio * 32768).astype(int), return_counts=True)
        for value, samples in zip(values, lengths, strict=True):
            if value:
                take, speaker = (value - 1) % 50, (value - 1) // 1000
                counts[(value - 1) % 1000 // 50, speaker, take] += samples // 2400
    return counts


def read(corpus):
    return {split: list(rows.read()) for split, rows in corpus.splits().items()}


def test_takes_are_split_officially():
    assert [split_of(n) for n in (0, 4, 5, 9, 10, 49)] == [
        "test",
        "test",
        "validation",
        "validation",
        "train",
        "train",
    ]


def test_every_take_is_in_its_split_alone_and_used_equally_often(recordings):
    takes = {"test": range(5), "validation": range(5, 10), "train": range(10, TAKES)}
    for split, rows in read(FSDD(path=recordings)).items():
        counts = uses(rows)
        assert {take for _, _, take in counts} == set(takes[split])
        assert len(counts) == 10 * len(SPEAKERS) * len(takes[split])
        assert max(counts.values()) - min(counts.values()) <= 1
        assert min(counts.values()) >= 3


def test_a_speaker_is_held_out_for_the_test_alone(recordings):
    splits = {
        split: uses(rows) for split, rows in read(FSDD(path=recordings, held_out="bob")).items()
    }
    assert {speaker for _, speaker, _ in splits["test"]} == {1}
    assert 10 * TAKES - 9 < splits["test"].total() < 10 * TAKES + 9, "the last string may be short"
    assert max(splits["test"].values()) - min(splits["test"].values()) <= 1
    assert {take for _, _, take in splits["test"]} == set(range(TAKES))
    for split, takes in (("validation", set(range(10))), ("train", set(range(10, TAKES)))):
        assert {speaker for _, speaker, _ in splits[split]} == {0}
        assert {take for _, _, take in splits[split]} == takes


def test_an_unknown_speaker_to_hold_out_is_refused(recordings):
    with pytest.raises(
        ValueError, match="held_out carl: no such speaker; the speakers are ann, bob"
    ):
        FSDD(path=recordings, held_out="carl").splits()


def test_the_text_matches_the_takes_of_one_speaker(recordings):
    for row in read(FSDD(path=recordings, train=40))["train"]:
        values = np.round(row.audio * 32768).astype(int)[::2400] - 1
        assert row.text == " ".join(WORDS[v % 1000 // 50] for v in values)
        assert {SPEAKERS[v // 1000] for v in values} == {row.speaker_id}


@pytest.mark.parametrize(("digits", "low", "high"), [("1", 1, 1), ("3", 3, 3), ("2..5", 2, 5)])
def test_lengths_fill_the_range_evenly(recordings, digits, low, high):
    rows = read(FSDD(path=recordings, digits=digits))["test"]
    lengths = Counter(len(row.text.split()) for row in rows)
    assert sorted(lengths) == list(range(low, high + 1))
    assert max(lengths.values()) - min(lengths.values()) <= len(SPEAKERS)


def test_single_digits_hold_each_take_once(recordings):
    for rows in read(FSDD(path=recordings, digits="1")).values():
        assert set(uses(rows).values()) == {1}


def test_counts_can_be_set_and_seeds_change_the_strings(recordings):
    first = read(FSDD(path=recordings, train=7, validation=3, test=2))
    assert {split: len(rows) for split, rows in first.items()} == {
        "train": 7,
        "validation": 3,
        "test": 2,
    }
    again = read(FSDD(path=recordings, train=7, validation=3, test=2))
    other = read(FSDD(path=recordings, train=7, validation=3, test=2, seed=1))
    texts = [[row.text for row in corpus["train"]] for corpus in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]


def test_pauses_are_silent_and_no_longer_than_allowed(recordings):
    rows = read(FSDD(path=recordings, digits="4", pause_seconds=0.2))["test"]
    pauses = [len(row.audio) / 8000 - 4 * 0.3 for row in rows]
    assert min(pauses) >= 0
    assert 0.2 < np.mean(pauses) < 0.4  # three pauses of 0.1 s on average
    assert max(pauses) <= 0.6
    assert np.count_nonzero(rows[0].audio) == 4 * 2400


def test_a_parent_folder_of_the_recordings_is_accepted(recordings):
    inner, outer = (read(FSDD(path=p, test=3))["test"] for p in (recordings, recordings.parent))
    assert [row.text for row in inner] == [row.text for row in outer]


def test_the_corpus_is_prepared_at_its_own_rate_without_change(recordings, tmp_path):
    corpus = FSDD(path=recordings, train=4, validation=3, test=3)
    summary = prepare(corpus, tmp_path / "out", sample_rate=8000)
    assert summary["preflight"]["train"]["converted"] == {}
    assert summary["splits"]["train"]["utterances"] == 4
    assert summary["preflight"]["test"]["suspicious"]["speakers_also_in_train"] == list(SPEAKERS)


def test_a_broken_take_drops_its_strings_and_is_named(recordings, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for path in recordings.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "3_ann_2.wav").write_bytes(b"junk")
    checks = prepare(FSDD(path=folder), tmp_path / "out")["preflight"]["test"]
    dropped = checks["dropped"]["unreadable_audio"]
    assert 3 <= len(dropped) <= 5
    assert checks["kept"] + len(dropped) == checks["read"]
    assert all("3_ann_2.wav" in message for message in checks["messages"])


def test_the_corpus_is_downloaded_once_from_an_archive(recordings, tmp_path):
    archive = tmp_path / "v1.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in recordings.iterdir():
            packed.write(path, f"free-spoken-digit-dataset-1/recordings/{path.name}")
    corpus = FSDD(url=archive.as_uri(), download=tmp_path / "got", test=5)
    first = read(corpus)["test"]
    archive.unlink()
    assert [r.text for r in read(corpus)["test"]] == [r.text for r in first]
    assert sorted(p.name for p in (tmp_path / "got" / "fsdd").iterdir()) == ["recordings", "v1.zip"]
    assert any("CRC" in remark for remark in corpus.origin().remarks)


@pytest.mark.parametrize("content", [b"not a zip at all", b"PK\x03\x04"])
def test_a_damaged_archive_is_reported(tmp_path, content):
    (tmp_path / "v1.zip").write_bytes(content)
    corpus = FSDD(url=(tmp_path / "v1.zip").as_uri(), download=tmp_path / "got")
    with pytest.raises(ValueError, match=r"v1.zip is damaged .*; remove it and try again"):
        corpus.splits()
    assert [p.name for p in (tmp_path / "got" / "fsdd").iterdir()] == ["v1.zip"]


@pytest.mark.parametrize("digits", ["", "0", "0..3", "5..2", "1-7", "x", "1..", "..7"])
def test_a_wrong_range_is_explained(digits):
    with pytest.raises(ValueError, match='write a length as "3" or a range as "1..7"'):
        parse_range(digits)


def test_wrong_paths_and_options_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        FSDD(path=Path("nowhere")).splits()
    with pytest.raises(ValueError, match="no files named as 7_jackson_32.wav"):
        FSDD(path=tmp_path).splits()
    (tmp_path / "3_ann_2.wav").write_bytes(audio_file.encode_flac(np.ones(5), 8000))
    with pytest.raises(ValueError, match="split train: the recordings have no such takes"):
        FSDD(path=tmp_path).splits()
    (tmp_path / "three.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"three.wav is not named as 7_jackson_32.wav"):
        FSDD(path=tmp_path).splits()
    for options in ({"train": 0}, {"pause_seconds": -1.0}, {"digits": "many"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            FSDD(**options)
