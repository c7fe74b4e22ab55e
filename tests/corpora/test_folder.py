import json
import os
from pathlib import Path

import numpy as np
import pytest

from asr.audio import audio_file
from asr.corpora.folder import Folder
from asr.corpora.prepare import prepare


def sound(path, seconds=2.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(path.name.encode()) % 2**32
    wave = np.random.default_rng(seed).normal(0, 0.1, round(seconds * 16000))
    path.write_bytes(audio_file.encode_flac(wave, 16000))


def pair(folder, name, text="some words"):
    sound(folder / f"{name}.flac")
    (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def manifest(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def read(corpus):
    return {split: list(rows.read()) for split, rows in corpus.splits().items()}


def ids(corpus):
    return {split: [row.id for row in rows] for split, rows in read(corpus).items()}


# Audio beside .txt


def test_folders_of_splits_hold_audio_beside_text(tmp_path):
    for split in ("train", "dev", "test"):
        pair(tmp_path / split / "ann", "a", f"in {split}")
    corpus = Folder(path=tmp_path)
    rows = read(corpus)
    assert {s: [r.text for r in part] for s, part in rows.items()} == {
        "train": ["in train"],
        "validation": ["in dev"],
        "test": ["in test"],
    }
    assert rows["train"][0].id == "ann/a"
    assert rows["train"][0].speaker_id == "ann"
    assert corpus.origin().remarks == ("train: train", "validation: dev", "test: test")
    pair(tmp_path / "more", "b")
    pair(tmp_path, "c")
    (tmp_path / ".cache").mkdir()
    assert corpus.origin().remarks[3] == "Not read, being no split: c.flac, more."


def test_a_missing_partner_on_either_side_is_counted(tmp_path):
    pair(tmp_path / "train", "good")
    sound(tmp_path / "train" / "mute.flac")
    (tmp_path / "train" / "lost.txt").write_text("no audio")
    (tmp_path / "train" / "call.m4a").write_bytes(b"\0\0\0\x20ftypM4A " * 9)
    (tmp_path / "train" / "call.txt").write_text("hello")
    checks = prepare(Folder(path=tmp_path), tmp_path / "out")["preflight"]["train"]
    assert checks["dropped"] == {
        "unreadable_audio": ["call"],
        "text_without_audio": ["lost"],
        "empty_text": ["mute"],
    }
    assert (checks["read"], checks["kept"]) == (4, 1)
    assert "mute: it has no transcript" in checks["messages"]
    assert any(
        ".m4a is not supported; convert" in m or "convert it" in m for m in checks["messages"]
    )


def test_a_text_in_another_encoding_is_named_and_a_mark_is_no_text(tmp_path):
    pair(tmp_path / "train", "a")
    (tmp_path / "train" / "a.txt").write_bytes("\ufeffgr\u00fc\u00dfe\r\n".encode())
    assert [r.text for r in read(Folder(path=tmp_path))["train"]] == ["gr\u00fc\u00dfe"]
    (tmp_path / "train" / "a.txt").write_bytes("eins\ngr\u00fc\u00dfe".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a \(a.txt\): text .* is not UTF-8; convert .*iconv"):
        Folder(path=tmp_path).splits()


def test_two_texts_for_one_recording_are_an_error_and_none_is_chosen(tmp_path):
    pair(tmp_path / "train", "a")
    pair(tmp_path / "train", "b")
    (tmp_path / "train" / "a.TXT").write_text("other words")
    rows = read(Folder(path=tmp_path))["train"]
    assert [(row.id, row.text) for row in rows if row.fault is None] == [("b", "some words")]
    fault, texts = rows[0].fault, f"{tmp_path}/train/a.TXT, {tmp_path}/train/a.txt"
    assert (fault.reason, str(fault)) == ("bad_row", f"a: {texts} are all there; keep one")


def test_linked_folders_are_read_and_hidden_companions_and_link_cycles_are_skipped(tmp_path):
    pair(tmp_path / "mine" / "ann", "a")
    pair(tmp_path / "store" / "bob", "b", "a text\non two lines ")
    (tmp_path / "mine" / "bob").symlink_to(tmp_path / "store" / "bob")
    (tmp_path / "mine" / "ann" / "again").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "ann" / "._a.txt").write_bytes(b"\0\5\x16\7\xff")
    corpus = Folder(path=tmp_path / "mine", validation_share=0, test_share=0)
    rows = read(corpus)["train"]
    assert [(row.id, row.text, row.speaker_id) for row in rows] == [
        ("ann/a", "some words", "ann"),
        ("bob/b", "a text on two lines", "bob"),
    ]
    passed_over = prepare(corpus, tmp_path / "out")["passed_over"]
    assert {kind: len(names) for kind, names in passed_over.items()} == {
        "hidden files": 1,
        "circular links": 1,
    }


@pytest.mark.parametrize(
    "names", [("e\u0301", "\u00e9"), (b"caf\xe9", b"caf\xe9"), ("x\ny", "x\ny")]
)
def test_audio_and_text_are_paired_whatever_their_names_are(tmp_path, names):
    pair(tmp_path / "train", "a")
    audio, text = (os.fsdecode(name) for name in names)
    (tmp_path / "train" / "a.flac").rename(tmp_path / "train" / f"{audio}.FLAC")
    (tmp_path / "train" / "a.txt").rename(tmp_path / "train" / f"{text}.TXT")
    summary = prepare(Folder(path=tmp_path), tmp_path / "out")
    assert summary["preflight"]["train"]["kept"] == 1
    assert prepare(Folder(path=tmp_path), tmp_path / "out")["reused"]


def test_names_of_splits_and_manifests_may_be_in_capitals(tmp_path):
    pair(tmp_path / "Train", "a")
    (tmp_path / "DEV.CSV").write_text("audio_filepath,text\nTrain/a.flac,x\n")
    assert ids(Folder(path=tmp_path)) == {"train": ["a"], "validation": ["Train/a"]}


def test_of_two_audio_files_with_one_name_only_one_counts(tmp_path):
    pair(tmp_path / "train", "a")
    (tmp_path / "train" / "a.wav").write_bytes((tmp_path / "train" / "a.flac").read_bytes())
    checks = prepare(Folder(path=tmp_path), tmp_path / "out")["preflight"]["train"]
    assert checks["dropped"] == {"duplicate_id": ["a"]}


# Manifests


def test_a_manifest_may_use_the_keys_of_nemo(tmp_path):
    sound(tmp_path / "clips" / "a.flac", 4.0)
    entries = [
        {"audio_filepath": "clips/a.flac", "text": "one", "duration": 1.5, "speaker": 7},
        {"audio_filepath": "clips/a.flac", "text": "two", "offset": 1.5, "duration": 2.0},
        {"audio_filepath": str(tmp_path / "clips/a.flac"), "text": "three", "id": "x"},
    ]
    manifest(tmp_path / "train.json", entries)
    corpus = Folder(path=tmp_path)
    rows = read(corpus)["train"]
    assert [row.id for row in rows] == ["clips/a", "clips/a@1.500", "x"]
    assert [row.speaker_id for row in rows] == ["7", "", ""]
    summary = prepare(corpus, tmp_path / "out")
    assert summary["splits"]["train"]["hours"] == pytest.approx(7.5 / 3600)


@pytest.mark.parametrize("name", ["train_manifest.json", "train.jsonl", "training.json"])
def test_manifests_are_found_by_their_usual_names(tmp_path, name):
    sound(tmp_path / "a.flac")
    manifest(tmp_path / name, [{"audio_filepath": "a.flac", "text": "one"}])
    corpus = Folder(path=tmp_path)
    assert ids(corpus) == {"train": ["a"]}
    assert corpus.origin().remarks[1].startswith("No validation (or dev), which training needs")


def test_a_file_shorter_than_its_manifest_says_counts_as_truncated_audio(tmp_path):
    sound(tmp_path / "a.flac", 2.0)
    sound(tmp_path / "b.flac", 2.0)
    entries = [
        {"audio_filepath": "a.flac", "text": "one", "duration": 3.0},
        {"audio_filepath": "b.flac", "text": "two", "duration": 2.05},  # rounded: forgiven
    ]
    path = manifest(tmp_path / "train.json", entries)
    checks = prepare(Folder(path=path.parent), tmp_path / "out")["preflight"]["train"]
    assert checks["dropped"] == {"truncated_audio": ["a"]}
    assert checks["kept"] == 1


def test_files_that_no_manifest_names_are_reported_as_not_read(tmp_path):
    for name in ("clips/deep/a", "b", "c", "more/d", "dev/e"):
        pair(tmp_path, name)
    (tmp_path / "link").symlink_to(tmp_path / "clips")
    clips = [{"audio_filepath": f"{name}.flac", "text": "x"} for name in ("link/deep/a", "b")]
    manifest(tmp_path / "train.jsonl", clips)
    corpus = Folder(path=tmp_path)
    assert set(ids(corpus)) == {"train", "validation"}
    assert corpus.origin().remarks[2] == "Not read, being no split: c.flac, more."
    manifest(tmp_path / "dev.jsonl", [{"audio_filepath": "more/d.flac", "text": "x"}])
    (tmp_path / "dev").rename(tmp_path / ".dev")
    assert corpus.origin().remarks[2] == "Not read, being no split: c.flac."


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{oops", "line 2: not a JSON object; write one a line"),
        ('{"audio_filepath": "a.flac", "words": "x"}', "it has audio_filepath, words"),
        ('{"text": "x"}', "needs audio_filepath and text; it has text"),
        ("[1, 2]", "line 2: not a JSON object"),
        ('{"audio_filepath": "a", "text": "x", "duration": "long"}', "duration 'long' is not"),
        ('{"audio_filepath": "a", "text": "x", "offset": -1}', "offset '-1' is not a number"),
    ],
)
def test_a_manifest_without_a_usable_line_is_refused_and_the_first_line_is_named(
    tmp_path, line, words
):
    path = tmp_path / "all.jsonl"
    path.write_text("\n" + line + "\n")
    with pytest.raises(ValueError, match=words) as error:
        Folder(path=path).splits()
    assert "all.jsonl, line 2" in str(error.value)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("train.csv", ["audio_filepath,text,speaker", 'a.flac,"one, ""two""",7', "b.flac,three,"]),
        ("dev.tsv", ["text\taudio_filepath\tspeaker", 'one, "two"\ta.flac\t7', "three\tb.flac\t"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_manifest_may_be_a_csv_or_tsv_exported_by_a_spreadsheet(tmp_path, name, lines, end, mark):
    (tmp_path / name).write_bytes((mark + "".join(line + end for line in lines)).encode())
    (rows,) = read(Folder(path=tmp_path)).values()
    assert [(r.id, r.text, r.speaker_id) for r in rows] == [
        ("a", 'one, "two"', "7"),
        ("b", "three", ""),
    ]
    assert [r.audio for r in rows] == [tmp_path / "a.flac", tmp_path / "b.flac"]


def test_numbers_in_a_table_are_seconds(tmp_path):
    (tmp_path / "all.csv").write_text(
        "audio_filepath,text,offset,duration\na.flac,x,1.5,2\nb,y,,\n"
    )
    corpus = Folder(path=tmp_path / "all.csv", validation_share=0, test_share=0)
    first, second = read(corpus)["train"]
    assert (first.start_seconds, first.seconds) == (1.5, 2.0)
    assert (second.start_seconds, second.seconds) == (0.0, None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a.flac,yes, but no", "line 2: 3 fields, the header has 2; a text with the separator"),
        ("a.flac", "line 2: 1 fields"),
        (",some words", "line 2: no audio is named"),
        ('a.flac,"some" words', "line 2: .*check its quotes"),
    ],
)
def test_a_wrong_line_of_a_table_is_named(tmp_path, line, words):
    (tmp_path / "all.csv").write_text(f"audio_filepath,text\n{line}\n")
    with pytest.raises(ValueError, match=f"all.csv, {words}"):
        Folder(path=tmp_path / "all.csv").splits()


def test_a_tab_within_a_text_of_a_tsv_has_a_remedy_that_works(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text('audio_filepath\ttext\na.flac\t"yes,\tno"\n')  # quotes do not help
    with pytest.raises(ValueError, match="line 2: 3 fields, .*no quotes: put a blank for each tab"):
        Folder(path=tmp_path).splits()


@pytest.mark.parametrize("between", ["\u2028", "\x85"])
def test_only_line_ends_end_the_lines_of_a_manifest(tmp_path, between):
    entry = json.dumps({"audio_filepath": "a.flac", "text": f"one{between}two"}, ensure_ascii=False)
    (tmp_path / "train.jsonl").write_text(entry + "\r\n", "utf-8-sig", newline="")
    assert [r.text for r in read(Folder(path=tmp_path))["train"]] == [f"one{between}two"]


# Kaldi


def kaldi(folder, **tables):
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in tables.items():
        (folder / name.replace("_", ".")).write_text("\n".join(lines) + "\n")


def test_a_kaldi_folder_is_read_with_its_speakers(tmp_path):
    sound(tmp_path / "wav" / "a.flac")
    sound(tmp_path / "wav" / "b.flac")
    kaldi(
        tmp_path / "data" / "train",
        wav_scp=[f"utt-a {tmp_path / 'wav' / 'a.flac'}", "utt-b ../../wav/b.flac"],
        text=["utt-a hello there", "utt-b  good bye"],
        utt2spk=["utt-a ann", "utt-b bob"],
    )
    rows = read(Folder(path=tmp_path / "data"))["train"]
    assert [(r.id, r.text, r.speaker_id) for r in rows] == [
        ("utt-a", "hello there", "ann"),
        ("utt-b", "good bye", "bob"),
    ]
    assert all(row.audio.exists() for row in rows)
    kaldi(tmp_path / "train", wav_scp=["utt-a ../wav/a.flac"], text=["utt-a hello"])
    assert Folder(path=tmp_path).origin().remarks[2:] == ("Not read, being no split: data.",)


@pytest.mark.parametrize("gap", [" ", "\t", " \t  "])
def test_kaldi_tables_are_split_at_any_white_space(tmp_path, gap):
    for name in ("a b", "c"):
        sound(tmp_path / "train" / f"{name}.flac")
    kaldi(
        tmp_path / "train",
        wav_scp=[f"u1{gap}a b.flac", f"u2{gap}c.flac{gap}"],
        text=[f"u1{gap}hello  there", "u2"],
        utt2spk=[f"u1{gap}ann", f"u2{gap}bob"],
    )
    rows = read(Folder(path=tmp_path))["train"]
    assert [(r.id, r.text, r.speaker_id, r.audio.name) for r in rows] == [
        ("u1", "hello  there", "ann", "a b.flac"),
        ("u2", "", "bob", "c.flac"),
    ]


def test_kaldi_segments_are_cut_out(tmp_path):
    sound(tmp_path / "train" / "rec.flac", 5.0)
    kaldi(
        tmp_path / "train",
        wav_scp=["rec rec.flac"],
        text=["u1 one", "u2 two"],
        segments=["u1 rec 0.5 1.75", "u2 rec 2 4.5"],
    )
    summary = prepare(Folder(path=tmp_path), tmp_path / "out")
    assert summary["splits"]["train"]["hours"] == pytest.approx(3.75 / 3600)


def test_kaldi_entries_without_a_partner_are_counted(tmp_path):
    for name in "ab":
        sound(tmp_path / "train" / f"{name}.flac")
    kaldi(
        tmp_path / "train",
        wav_scp=["a a.flac", "b b.flac"],
        text=["a hello", "c nobody recorded me"],
    )
    checks = prepare(Folder(path=tmp_path), tmp_path / "out")["preflight"]["train"]
    assert checks["dropped"] == {"empty_text": ["b"], "missing_audio": ["c"]}
    assert any("wav.scp has no c" in message for message in checks["messages"])


def test_an_unusable_kaldi_line_does_not_stop_the_others(tmp_path):
    sound(tmp_path / "train" / "a.flac", 3.0)
    kaldi(
        tmp_path / "train",
        wav_scp=["a a.flac", "c touch x |"],
        text=["u1 null", "u2 NA", "u3 x", "u4 x", "u5 x"],
        segments=["u1 a 0 1", "u2 a 1 -1", "u3 a one 2", "u4 a 2 1", "u5 c 0 1"],
    )
    rows = {row.id: row for row in read(Folder(path=tmp_path))["train"]}
    assert [rows[name].text for name in ("u1", "u2")] == ["null", "NA"]
    assert (rows["u2"].start_seconds, rows["u2"].seconds) == (1.0, None)  # -1 is the end
    assert {name for name, row in rows.items() if row.fault} == {"u3", "u4", "u5"}
    assert "'u3 a one 2'" in str(rows["u3"].fault)
    assert "duration '-1.0'" in str(rows["u4"].fault)


def test_commands_in_wav_scp_are_not_run(tmp_path):
    mark = tmp_path / "mark"
    kaldi(tmp_path / "train", wav_scp=[f"a touch {mark} |"], text=["a hello"])
    with pytest.raises(ValueError, match="a is a command and is not run; run it and name a.wav in"):
        Folder(path=tmp_path).splits()
    assert not mark.exists()


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"wav_scp": ["a a.flac"]}, "text: a Kaldi data folder needs wav.scp and text"),
        (
            {"wav_scp": ["a a.flac"], "text": ["u x"], "segments": ["u a zero one"]},
            "cannot read 'u a zero one'",
        ),
    ],
)
def test_an_incomplete_kaldi_folder_is_explained(tmp_path, tables, words):
    kaldi(tmp_path / "train", **tables)
    with pytest.raises((ValueError, OSError), match=words):
        Folder(path=tmp_path).splits()


# Held out


def speakers(folder, count, each=5):
    for s in range(count):
        for i in range(each):
            pair(folder / f"speaker{s}", f"u{i}")


def test_whole_speakers_are_held_out_where_they_are_known(tmp_path):
    speakers(tmp_path / "mine", 10)
    corpus = Folder(path=tmp_path / "mine")
    rows = read(corpus)
    found = {split: {row.speaker_id for row in part} for split, part in rows.items()}
    assert {split: len(names) for split, names in found.items()} == {
        "train": 8,
        "validation": 1,
        "test": 1,
    }
    assert sum(len(names) for names in found.values()) == len(set.union(*found.values()))
    (remark,) = corpus.origin().remarks
    assert "holding out whole speakers: train 40, validation 5, test 5 rows" in remark
    assert ids(Folder(path=tmp_path / "mine")) == ids(corpus)
    summary = prepare(corpus, tmp_path / "out")
    assert not any("speakers_also" in r for r in summary["preflight"]["test"]["suspicious"])


def test_utterances_are_held_out_where_speakers_are_not_known(tmp_path):
    for i in range(20):
        pair(tmp_path / "mine", f"u{i:02d}")
    corpus = Folder(path=tmp_path / "mine", validation_share=0.25)
    found = ids(corpus)
    assert {split: len(names) for split, names in found.items()} == {
        "train": 13,
        "validation": 5,
        "test": 2,
    }
    assert sorted(sum(found.values(), [])) == [f"u{i:02d}" for i in range(20)]
    assert "utterances (speakers are shared" in corpus.origin().remarks[0]


def test_adding_a_recording_moves_at_most_two_others_between_splits(tmp_path):
    for i in range(40):
        pair(tmp_path / "mine", f"u{i:02d}")
    before = ids(Folder(path=tmp_path / "mine"))
    pair(tmp_path / "mine", "another")
    after = ids(Folder(path=tmp_path / "mine"))
    assert len(set(before["test"]) ^ set(after["test"])) <= 2


def test_a_share_of_0_leaves_a_split_out(tmp_path):
    speakers(tmp_path / "mine", 4)
    assert list(ids(Folder(path=tmp_path / "mine", test_share=0.0))) == ["train", "validation"]
    assert list(ids(Folder(path=tmp_path / "mine", test_share=0.0, validation_share=0.0))) == [
        "train"
    ]


def test_too_few_speakers_are_reported(tmp_path):
    speakers(tmp_path / "mine", 2)
    with pytest.raises(ValueError, match=r"at least 3 \(known: 2\)"):
        Folder(path=tmp_path / "mine", hold_out="speaker").splits()
    assert "utterances" in Folder(path=tmp_path / "mine").origin().remarks[0]


# Mistakes


def test_wrong_folders_and_options_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        Folder(path=Path("nowhere")).splits()
    with pytest.raises(ValueError, match="holds no utterances; looked for .* found nothing$"):
        Folder(path=tmp_path).splits()
    with pytest.raises(ValueError, match="test_share 0.5: it must be"):
        Folder(path=tmp_path, test_share=0.5)
    (tmp_path / "dev").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="has dev and val for the split validation; keep one"):
        Folder(path=tmp_path).splits()


def test_a_layout_can_be_required(tmp_path):
    pair(tmp_path / "train", "a")
    (tmp_path / "train" / "notes.json").write_text("{}")
    assert ids(Folder(path=tmp_path, layout="text")) == {"train": ["a"]}
    with pytest.raises(ValueError, match="notes.json, line 1: needs audio_filepath"):
        Folder(path=tmp_path).splits()
