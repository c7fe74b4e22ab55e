import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.corpora.common_voice import CommonVoice
from asr.corpora.loading import load
from asr.corpora.manifest import read_table
from asr.corpora.prepare import prepare

# The columns as they were published, and the same row under each.
RELEASES = {
    "cv-corpus-3-2019": "client_id path sentence up_votes down_votes age gender accent",
    "cv-corpus-6.1-2020-12-11": "client_id path sentence up_votes down_votes age gender accent "
    "locale segment",
    "cv-corpus-17.0-2024-03-15": "client_id path sentence_id sentence sentence_domain up_votes "
    "down_votes age gender accents variant locale segment",
    "cv-corpus-24.0-2025-12-05": "client_id path sentence_id sentence sentence_domain up_votes "
    "down_votes age gender accents variant locale segment",
}
NEWEST = "cv-corpus-24.0-2025-12-05"


def clip(language, name, seconds=2.0, rate=32000):
    path = language / "clips" / f"{name}.mp3"
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(name.encode()) % 2**32
    wave = np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate))
    soundfile.write(path, wave, rate, format="MP3")


def table(language, name, rows, release=NEWEST, suffix=".mp3"):
    """Rows of (speaker, clip, sentence); fields that they do not have stay empty, as published."""
    language.mkdir(parents=True, exist_ok=True)
    columns = RELEASES[release].split()
    lines = ["\t".join(columns)]
    for speaker, clip_name, sentence in rows:
        own = {"client_id": speaker, "path": clip_name + suffix, "sentence": sentence}
        own |= {"up_votes": "2", "down_votes": "0", "locale": language.name}
        lines.append("\t".join(own.get(column, "") for column in columns))
    (language / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def english(tmp_path):
    language = tmp_path / NEWEST / "en"
    table(language, "train", [("ann", "en_1", "He said so."), ("ann", "en_2", "Mister O'Neill!")])
    table(language, "dev", [("bob", "en_3", "Go.")])
    table(language, "test", [("eve", "en_4", "Do you think so?")])
    table(language, "validated", [("ann", f"en_{n}", "Everything.") for n in (1, 2, 5)])
    for number in range(1, 6):
        clip(language, f"en_{number}")
    return language


def read(corpus):
    return {split: list(rows.read()) for split, rows in corpus.splits().items()}


def test_tables_are_splits_with_speakers_and_language(english):
    rows = read(CommonVoice(path=english))
    assert {split: [row.id for row in part] for split, part in rows.items()} == {
        "train": ["en_1", "en_2"],
        "validation": ["en_3"],
        "test": ["en_4"],
    }
    assert [row.speaker_id for row in rows["train"]] == ["ann", "ann"]
    assert rows["train"][1].text == "Mister O'Neill!"
    assert {row.language for part in rows.values() for row in part} == {"en"}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("suffix", [".mp3", ""])
def test_every_release_gives_the_same_row(tmp_path, release, suffix):
    language = tmp_path / release / "pt"
    table(language, "train", [("ana", "pt_9", "Olá!")], release, suffix)
    clip(language, "pt_9")
    [row] = read(CommonVoice(path=language, validation=[], test=[]))["train"]
    assert (row.id, row.text, row.speaker_id, row.language) == ("pt_9", "Olá!", "ana", "pt")
    assert next(load([row], 16000)).seconds == pytest.approx(2.0, abs=0.1)


def test_quotes_in_sentences_are_ordinary_characters_and_need_not_be_closed(english):
    said = ['"Stop!" he cried.', 'A ruler of 12" length.', '"']
    table(english, "train", [("ann", f"en_{n}", text) for n, text in enumerate(said)])
    assert [row.text for row in read(CommonVoice(path=english))["train"]] == said


def test_preparing_counts_the_missing_clip_and_the_empty_sentence(english, tmp_path):
    rows = [("ann", "en_1", "So."), ("ann", "en_2", ""), ("joe", "gone", "Where?")]
    table(english, "train", rows)
    summary = prepare(CommonVoice(path=english), tmp_path / "out")
    checks = summary["preflight"]
    assert checks["train"]["dropped"] == {"empty_text": ["en_2"], "missing_audio": ["gone"]}
    assert {split: part["read"] for split, part in checks.items()} == {
        "train": 3,
        "validation": 1,
        "test": 1,
    }
    assert checks["test"]["converted"] == {"resampled": 1}
    assert summary["name"] == "common_voice_en"
    assert summary["source"] == f"{NEWEST}/en of https://mozilladatacollective.com"
    assert summary["licence"].startswith("CC0 1.0")
    assert summary["remarks"] == ["train: train", "validation: dev", "test: test"]


def test_other_tables_can_be_chosen_and_splits_left_out(english):
    corpus = CommonVoice(path=english, train=["train", "validated"], validation=[], test=[])
    assert [row.id for row in read(corpus)["train"]] == ["en_1", "en_2", "en_1", "en_2", "en_5"]
    assert corpus.origin().remarks == ("train: train + validated",)


def test_a_missing_file_is_named_with_its_remedy(english):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; get Common Voice from h"):
        CommonVoice(path=Path("nowhere")).splits()
    with pytest.raises(FileNotFoundError, match="give the folder of a language: en$"):
        CommonVoice(path=english.parent).splits()
    (english / "dev.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no dev.tsv; .*test, train, validated.*'\[\]'"):
        CommonVoice(path=english).splits()
    with pytest.raises(ValueError, match="no table of Common Voice is asked for"):
        CommonVoice(path=english, train=[], validation=[], test=[]).splits()


def test_a_table_of_another_kind_is_named_with_its_columns(english):
    (english / "train.tsv").write_text("client_id\tfile\nann\ten_1.mp3\n")
    with pytest.raises(ValueError, match="train.tsv has no column path; it has client_id, file"):
        CommonVoice(path=english).splits()


@pytest.mark.parametrize(
    ("split", "name"), [("train", "train"), ("validation", "dev"), ("test", "test")]
)
def test_a_table_without_rows_is_reported_before_the_others_are_decoded(english, split, name):
    table(english, name, [])
    with pytest.raises(ValueError, match=rf"{name}.tsv has no rows.*none: --{split} '\[\]'"):
        CommonVoice(path=english).splits()
    assert split not in read(CommonVoice(path=english, **{split: []}))
    (english / f"{name}.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=rf"no {name}.tsv; .*none: --{split} '\[\]'"):
        CommonVoice(path=english).splits()


@pytest.mark.parametrize(
    "tables",
    [
        {"train": ["validated"]},
        {"train": ["validated"], "test": []},
        {"train": ["train", "validated"], "validation": []},
        {"train": ["other"], "validation": ["validated"]},
        {"validation": ["test"]},
    ],
)
def test_no_clip_is_in_two_splits(english, tables):
    for name in ("other", "invalidated"):
        table(english, name, [("bob", "en_6", "What?")])
    with pytest.raises(ValueError, match=r"have clips in common: validated .*--\w+ '\[\]'$"):
        CommonVoice(path=english, **tables).splits()
    apart = CommonVoice(path=english, train=["validated"], validation=["other"], test=[])
    assert [row.id for row in read(apart)["validation"]] == ["en_6"]


def test_a_large_table_is_never_held_in_memory(english):
    rows = [("ann", f"en_{n}", "A sentence of a usual length, read aloud.") for n in range(20_000)]
    table(english, "train", rows)
    size = (english / "train.tsv").stat().st_size
    tracemalloc.start()
    CommonVoice(path=english).splits()
    count = sum(1 for _ in read_table(english / "train.tsv"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < size / 10


def test_a_line_that_is_not_utf8_is_dropped_and_named_even_late_in_the_file(english):
    rows = [("ann", f"en_{n}", "Everything.") for n in range(2000)]
    table(english, "train", rows)
    text = (english / "train.tsv").read_text().replace("en_1776.mp3\t\t", "en_1776.mp3\t\té")
    (english / "train.tsv").write_text(text, encoding="latin-1")
    faults = {r.id: r.fault for r in read(CommonVoice(path=english))["train"] if r.fault}
    assert list(faults) == ["en_1776"]
    assert faults["en_1776"].reason == "not_utf8"
    assert "(train.tsv, line 1778)" in str(faults["en_1776"])
