"""Preparing again: what changed in the source since then is noticed."""

import json
import os

import numpy as np
import pytest

from asr.audio import audio_file
from asr.cli import main
from asr.corpora import prepare as prepare_module
from asr.corpora.folder import Folder
from asr.corpora.hub import Hub
from asr.corpora.librispeech import MiniLibriSpeech
from asr.corpora.prepare import prepare


def sound(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(seed).normal(0, 0.1, 32000)
    path.write_bytes(audio_file.encode_flac(wave, 16000))


def pair(folder, name, text="some words"):
    sound(folder / f"{name}.flac", len(name))
    (folder / f"{name}.txt").write_text(text)


def everything(path):
    return Folder(path=path, validation_share=0, test_share=0)


@pytest.fixture
def mine(tmp_path):
    for name in ("a", "bb", "ccc"):
        pair(tmp_path / "mine", name)
    return tmp_path / "mine"


def add(folder):
    pair(folder, "dddd")
    return "2 added files"


def remove(folder):
    (folder / "a.flac").unlink()
    return "1 removed file"


def correct(folder):
    (folder / "a.txt").write_text("other words")
    return "1 changed file"


def touch(folder):
    os.utime(folder / "a.flac")
    return "1 changed file"


def rename(folder):
    (folder / "a.txt").rename(folder / "z.txt")
    return "1 added file"


def replace_quietly(folder):
    """As rsync does: another size at the same time."""
    status = (folder / "a.txt").stat()
    (folder / "a.txt").write_text("other words")
    os.utime(folder / "a.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
    return "1 changed file"


@pytest.mark.parametrize("change", [add, remove, correct, touch, rename, replace_quietly])
def test_every_change_of_the_source_is_noticed_and_reported(mine, tmp_path, caplog, change):
    prepare(everything(mine), tmp_path / "out")
    assert prepare(everything(mine), tmp_path / "out")["reused"]
    told = change(mine)
    result = prepare(everything(mine), tmp_path / "out")
    assert not result["reused"]
    assert f"is prepared again, as its source has changed: {told} ({mine}/" in caplog.text
    fresh = prepare(everything(mine), tmp_path / "fresh")
    assert fresh["splits"] == result["splits"]
    assert prepare(everything(mine), tmp_path / "out")["reused"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "mine", "out"]


def test_changes_of_files_that_the_corpus_does_not_read_do_not_count(mine, tmp_path):
    prepare(everything(mine), mine / "out")  # which is inside
    (mine / "notes.pdf").write_text("mine")
    (mine / ".DS_Store").write_text("")
    assert prepare(everything(mine), mine / "out")["reused"]


def test_audio_that_a_manifest_names_is_watched_wherever_it_is(tmp_path):
    sound(tmp_path / "far" / "a.flac")
    sound(tmp_path / "far" / "b.flac", 1)
    line = json.dumps({"audio_filepath": "../far/a.flac", "text": "x"})
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "m.jsonl").write_text(line)
    corpus = everything(tmp_path / "near" / "m.jsonl")
    first = prepare(corpus, tmp_path / "out")
    os.replace(tmp_path / "far" / "b.flac", tmp_path / "far" / "a.flac")
    again = prepare(corpus, tmp_path / "out")
    assert first["splits"]["train"]["rows_sha256"] != again["splits"]["train"]["rows_sha256"]


def test_tables_of_kaldi_and_of_the_hub_and_parts_of_librispeech_are_watched(tmp_path):
    kaldi, hub, libri = tmp_path / "kaldi", tmp_path / "hub", tmp_path / "LibriSpeech"
    for path in (kaldi / "a.flac", hub / "a.flac", libri / "train-clean-5/1/2/1-2-0.flac"):
        sound(path)
    tables = {
        kaldi / "text": "a {}\n",
        hub / "train.csv": "path,text\na.flac,{}\n",
        libri / "train-clean-5/1/2/1-2.trans.txt": "1-2-0 {}\n",
    }
    (kaldi / "wav.scp").write_text("a a.flac\n")
    corpora = [
        everything(kaldi),
        Hub(path=str(hub), train=["train.csv"]),
        MiniLibriSpeech(path=libri, validation=[], test=[]),
    ]
    for number, (corpus, (path, line)) in enumerate(zip(corpora, tables.items(), strict=True)):
        for words in ("one", "two words"):
            path.write_text(line.format(words))
            result = prepare(corpus, tmp_path / f"out{number}")
            assert not result["reused"]
            assert result["splits"]["train"]["words"] == len(words.split())


def test_when_preparing_again_fails_the_old_corpus_stays(mine, tmp_path, monkeypatch):
    prepare(everything(mine), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    correct(mine)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_module, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        prepare(everything(mine), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_a_corpus_without_its_source_or_of_an_earlier_version_is_used_and_reported(
    mine, tmp_path, caplog
):
    prepare(everything(mine), tmp_path / "out")
    (tmp_path / "out" / "sources.json").unlink()
    correct(mine)
    assert prepare(everything(mine), tmp_path / "out")["reused"]
    assert "did not record its source: if that has changed, prepare again with --refresh" in (
        caplog.text
    )
    assert not prepare(everything(mine), tmp_path / "out", refresh=True)["reused"]
    mine.rename(tmp_path / "elsewhere")
    assert prepare(everything(mine), tmp_path / "out")["reused"]
    assert "its source cannot be read" in caplog.text


def test_foreign_files_in_the_output_folder_are_kept(mine, tmp_path):
    prepare(everything(mine), tmp_path / "out")
    (tmp_path / "out" / "notes").mkdir()
    (tmp_path / "out" / "notes" / "mine.txt").write_text("a thought")
    add(mine)
    assert not prepare(everything(mine), tmp_path / "out")["reused"]
    assert (tmp_path / "out" / "notes" / "mine.txt").read_text() == "a thought"
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_file())
    assert names == [
        "corpus.json",
        "preflight.json",
        "sources.json",
        "train-00000-of-00001.parquet",
    ]


def test_an_output_folder_that_is_a_link_stays_a_link(mine, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    prepare(everything(mine), tmp_path / "out")
    add(mine)
    prepare(everything(mine), tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert json.loads((tmp_path / "disk/out/preflight.json").read_text())["train"]["read"] == 4


def test_the_command_reports_changes_and_replaces_the_corpus_when_asked(tmp_path, capsys):
    pair(tmp_path / "mine", "a", "well [laughter] yes")
    pair(tmp_path / "mine", "bb", "<unk>")
    (tmp_path / "mine" / "._a.txt").touch()
    given = ["prepare", "folder", "--path", str(tmp_path / "mine")]
    given += ["--test_share", "0", "--validation_share", "0", "--output", str(tmp_path / "out")]

    def said(*options):
        assert main([*given, *options]) == 0
        return capsys.readouterr().out

    first = said("--normaliser", "none")
    assert "mine, licence unknown; written" in first
    assert "suspicious  2 (tags): a, bb" in first
    assert (
        "2 of 2 rows hold tags ([laughter], <unk>), which are read as words; --strip-tags" in first
    )
    assert "passed over 1 hidden file (" in first
    assert main([*given, "--strip-tags", "--normaliser", "none"]) == 2
    assert "options.strip_tags: was not set, is now True" in capsys.readouterr().err
    second = said("--strip-tags", "--normaliser", "none", "--refresh")
    assert "converted   1 (tags stripped)" in second
    assert "dropped     1 (empty text): bb" in second
    third = said("--strip-tags", "--normaliser", "none")
    assert third == second.replace("; written", "; already there, same options")


def test_an_output_may_have_a_name_of_255_bytes(mine, tmp_path):
    for _ in range(2):
        result = prepare(everything(mine), tmp_path / ("o" * 255))
    assert result["reused"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "o" * 255]
