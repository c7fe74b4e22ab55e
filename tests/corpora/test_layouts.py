"""Each layout, in a tiny folder as its own tool writes it."""

import gzip
import io
import json
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from asr.corpora.folder import Folder
from asr.corpora.loading import load
from asr.corpora.prepare import prepare
from tests.layout_folders import RATE, plain, record, rows, shown, wave, write

# Tables


@pytest.mark.parametrize("text", ["transcription", "text", "sentence"])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_an_audiofolder_is_read_from_its_metadata(tmp_path, ending, text):
    entries = [{"file_name": f"data/u{i}.wav", text: f"number {i}"} for i in range(2)]
    path = tmp_path / f"metadata.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(entries), path)
    elif ending == "jsonl":
        write(path, "".join(json.dumps(entry) + "\n" for entry in entries))
    else:
        lines = [",".join(entries[0]), *(",".join(entry.values()) for entry in entries)]
        write(path, "\n".join(lines) + "\n")
    assert shown(tmp_path) == {plain(f"data/u{i}", f"number {i}") for i in range(2)}
    assert Folder(path=tmp_path).sources().files[0] == path


def test_the_metadata_of_an_audiofolder_is_in_or_above_the_folders_of_splits(tmp_path):
    for split in ("train", "test"):
        record(tmp_path / split / "a.wav")
        write(tmp_path / "inside" / split / "metadata.csv", f"file_name,text\na.wav,in {split}\n")
    write(tmp_path / "metadata.csv", "file_name,text\ntest/a.wav,for test\ntrain/a.wav,for train\n")
    for folder, word in ((tmp_path, "for"), (tmp_path / "inside", "in")):
        splits = Folder(path=folder).splits()
        texts = {split: [row.text for row in part.read()] for split, part in splits.items()}
        assert texts == {"train": [f"{word} train"], "test": [f"{word} test"]}
    write(tmp_path / "train" / "a.txt", "beside")
    assert [row.text for row in Folder(path=tmp_path).splits()["train"].read()] == ["beside"]


def test_ljspeech_has_names_texts_and_normalised_texts(tmp_path):
    for name in ("LJ001-0001", "LJ001-0002"):
        record(tmp_path / "wavs" / f"{name}.wav")
    lines = (
        'LJ001-0001|"Printing," in 1455|"Printing," in fourteen fifty-five\nLJ001-0002|a "b|\nx\n'
    )
    write(tmp_path / "metadata.csv", lines)
    assert shown(tmp_path) == {
        plain("LJ001-0001", '"Printing," in fourteen fifty-five'),
        plain("LJ001-0002", 'a "b'),
        "metadata.csv, line 3: 1 fields, the header has 3; a text must not hold a bar",
    }
    assert all(row.audio.exists() for row in rows(tmp_path) if not row.fault)
    write(tmp_path / "metadata.csv", "LJ001-0002|one, two\n")
    assert shown(tmp_path) == {plain("LJ001-0002", "one, two")}


def test_a_csv_may_have_bars_as_coqui_writes_it_or_semicolons_as_excel(tmp_path):
    write(tmp_path / "metadata.csv", 'audio_file|text|speaker_name\nwavs/a.wav|so, "it" is|ann\n')
    assert shown(tmp_path) == {plain("wavs/a", 'so, "it" is', "ann")}
    write(tmp_path / "metadata.csv", 'audio_filepath;text\na.wav;"eins; zwei, drei"\n')
    assert shown(tmp_path) == {plain("a", "eins; zwei, drei")}


def test_nemo_manifests_give_parts_channels_and_languages(tmp_path):
    entry = {"audio_filepath": "call.wav", "offset": 0.5, "duration": 1.25, "text": "x"}
    lines = [{**entry, "lang": "de", "channel": side} for side in (0, 1, [1], "b", 1.5, [0, 1])]
    write(tmp_path / "train_manifest.json", "".join(json.dumps(line) + "\n" for line in lines[:2]))
    (first, second) = rows(tmp_path)
    assert (first.language, first.channel, first.start_seconds, first.seconds) == (
        "de",
        0,
        0.5,
        1.25,
    )
    assert (first.id, second.id) == ("call@0.500-channel0", "call@0.500-channel1")
    write(tmp_path / "train_manifest.json", "".join(json.dumps(line) + "\n" for line in lines))
    assert [row.channel for row in rows(tmp_path)[:3]] == [0, 1, 1]
    faults = [str(row.fault) for row in rows(tmp_path)[3:]]
    assert all("is not one number, counted from 0" in fault for fault in faults)


def test_a_packed_manifest_is_read_and_a_cut_one_is_named(tmp_path):
    line = json.dumps({"audio_filepath": "a.wav", "text": "seven"}) + "\n"
    packed = gzip.compress((line * 50).encode())
    (tmp_path / "all.jsonl.gz").write_bytes(packed)
    assert len(rows(tmp_path)) == 50
    (tmp_path / "all.jsonl.gz").write_bytes(packed[:-9])
    assert "cannot be unpacked" in str(rows(tmp_path)[-1].fault)


# Channels


def test_a_channel_is_that_channel_and_none_is_the_average(tmp_path):
    path = record(tmp_path / "call.wav", channels=2)
    write(
        tmp_path / "all.csv",
        "audio_filepath,text,channel,offset,duration\n"
        "call.wav,x,0,,\ncall.wav,x,1,1,0.5\ncall.wav,x,,,\ncall.wav,x,2,,\n",
    )
    left, right, both, missing = (
        next(row for row in rows(tmp_path) if row.channel == channel) for channel in (0, 1, None, 2)
    )
    for row, expected in (
        (left, wave(0)),
        (right, wave(1)[RATE : RATE + RATE // 2]),
        (both, (wave(0) + wave(1)) / 2),
    ):
        (result,) = load([row], RATE)
        found, _ = soundfile.read(io.BytesIO(result.audio))
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert result.mixed == (row is both)
    (result,) = load([missing], RATE)
    assert f"{path} has no channel 2; it has 2, counted from 0" in str(result)
    summary = prepare(Folder(path=tmp_path, test_share=0, validation_share=0), tmp_path / "out")
    assert summary["preflight"]["train"]["kept"] == 3


# Kaldi and ESPnet


def kaldi(folder, **tables):
    for name, text in tables.items():
        write(folder / name.replace("wav_scp", "wav.scp"), text)
    return folder


def test_kaldi_segments_and_recordings_give_channels(tmp_path):
    record(tmp_path / "call.wav", channels=2)
    record(tmp_path / "right.wav")
    kaldi(
        tmp_path,
        wav_scp="call-A call.wav\ncall-B call.wav\nright-B right.wav\n",
        text="u1 one\nu2 two\nu3 three\nu4 four\n",
        segments="u1 call-A 0 1\nu2 call-B 1 -1\nu3 right-B 0 1\nu4 call-A 0 1 1\n",
        reco2file_and_channel="call-A call A\ncall-B call B\nright-B right B\n",
        utt2lang="u1 en\n",
    )
    assert shown(tmp_path) == {
        ("u1", "one", "", 0.0, 1.0, 0),
        ("u2", "two", "", 1.0, None, 1),
        ("u3", "three", "", 0.0, 1.0, None),  # sph2pipe wrote this side alone
        ("u4", "four", "", 0.0, 1.0, 1),
    }
    assert rows(tmp_path)[0].language == "en"


def test_the_remedy_of_a_command_in_wav_scp_works(tmp_path):
    record(tmp_path / "a b.wav")
    kaldi(tmp_path, wav_scp="rec/1 cat 'a b.wav' |\n", text="rec/1 one\n")
    with pytest.raises(ValueError, match="rec/1 is a command") as error:
        rows(tmp_path)
    command = str(error.value).split("in wav.scp: ")[1]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    kaldi(tmp_path, wav_scp="rec/1 rec_1.wav\n")
    assert (tmp_path / "rec_1.wav").read_bytes() == (tmp_path / "a b.wav").read_bytes()
    assert shown(tmp_path) == {plain("rec/1", "one")}


def test_a_dump_of_espnet_names_files_from_the_folder_of_its_recipe(tmp_path, monkeypatch):
    dump = tmp_path / "asr1" / "dump" / "raw"
    for split in ("train", "dev"):
        record(dump / split / "data" / "format.1" / "u1.flac")
        kaldi(
            dump / split,
            wav_scp=f"u1 dump/raw/{split}/data/format.1/u1.flac\n",
            text="u1 HELLO\n",
            utt2spk="u1 ann\n",
        )
    for part in Folder(path=dump).splits().values():
        assert [(r.id, r.speaker_id, r.audio.exists()) for r in part.read()] == [
            ("u1", "ann", True)
        ]
    kaldi(dump / "dev", wav_scp="u1 dump/raw/dev/data/format.1/data_wav.ark:3\n")
    with pytest.raises(ValueError, match=r"u1 is in an archive \(.*ark:3\).*--audio_format flac"):
        Folder(path=dump).splits()
    (dump / "dev" / "wav.scp").rename(dump / "dev" / "feats.scp")
    with pytest.raises(ValueError, match="has features only"):
        Folder(path=dump).splits()


# lhotse


CALL = {
    "id": "call",
    "sources": [{"type": "file", "channels": [0, 1], "source": "wav/call.wav"}],
    "sampling_rate": 16000, "num_samples": 48000, "duration": 3.0, "channel_ids": [0, 1],
}  # fmt: skip
SPOKEN = [
    {"id": "s1", "recording_id": "call", "start": 0.5, "duration": 1.0, "channel": 0,
     "text": "hello there", "language": "English", "speaker": "ann"},
    {"id": "s2", "recording_id": "call", "start": 1.0, "duration": 1.5, "channel": 1,
     "text": "good bye", "speaker": "bob"},
]  # fmt: skip
CUT = {
    "id": "call-0", "start": 0.25, "duration": 2.5, "channel": [0, 1], "supervisions": SPOKEN,
    "recording": CALL, "type": "MultiCut",
}  # fmt: skip


def lhotse(path, *entries):
    path.write_bytes(gzip.compress("".join(json.dumps(e) + "\n" for e in entries).encode()))


def test_lhotse_cuts_and_supervisions_are_utterances(tmp_path):
    record(tmp_path / "wav" / "call.wav", channels=2)
    folder = tmp_path / "data" / "manifests"
    folder.mkdir(parents=True)
    lhotse(folder / "x_recordings_train-clean-5.jsonl.gz", CALL)
    lhotse(folder / "x_supervisions_train-clean-5.jsonl.gz", *SPOKEN)
    lhotse(folder / "x_cuts_dev-clean-2.jsonl.gz", CUT)
    splits = Folder(path=folder).splits()
    found = {
        split: [
            (r.id, r.text, r.speaker_id, r.start_seconds, r.seconds, r.channel) for r in part.read()
        ]
        for split, part in splits.items()
    }
    assert found == {
        "train": [("s1", "hello there", "ann", 0.5, 1.0, 0), ("s2", "good bye", "bob", 1.0, 1.5, 1)],  # noqa: E501
        "validation": [
            ("s1", "hello there", "ann", 0.75, 1.0, 0), ("s2", "good bye", "bob", 1.25, 1.5, 1)
        ],
    }  # fmt: skip
    assert {p.name for p in Folder(path=folder).sources().files} == {
        "x_recordings_train-clean-5.jsonl.gz", "x_supervisions_train-clean-5.jsonl.gz",
        "x_cuts_dev-clean-2.jsonl.gz", "call.wav",
    }  # fmt: skip
    (folder / "x_recordings_train-clean-5.jsonl.gz").unlink()
    with pytest.raises(FileNotFoundError, match="put x_recordings_train-clean-5.jsonl.gz beside"):
        Folder(path=folder).splits()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recording": None, "features": {"storage_path": "x"}}, "it has features only"),
        ({"recording": {**CALL, "transforms": [{"name": "Speed"}]}}, "changed (MultiCut, Speed)"),
        ({"type": "MixedCut", "tracks": []}, "changed (MixedCut)"),
        (
            {"recording": {**CALL, "sources": [{**CALL["sources"][0], "type": "command"}]}},
            "no file",
        ),
        ({"supervisions": [{**SPOKEN[0], "channel": 2}]}, "no channel 2"),
        ({"supervisions": 3}, "it is not a cut"),
    ],
)
def test_cuts_that_are_not_a_part_of_a_file_are_named(tmp_path, change, words):
    lhotse(tmp_path / "cuts.jsonl.gz", CUT, {**CUT, **change})
    (fault,) = (row for row in shown(tmp_path) if isinstance(row, str))
    assert fault.startswith("cuts.jsonl.gz, line 2: ")
    assert words in fault


def test_a_cut_without_supervision_has_no_text_and_features_alone_are_refused(tmp_path):
    lhotse(tmp_path / "cuts.jsonl.gz", CUT, {**CUT, "supervisions": [], "channel": 0})
    assert ("call-0", "", "", 0.25, 2.5, 0) in shown(tmp_path)
    features = {"type": "fbank", "recording_id": "call", "storage_path": "x", "start": 0}
    lhotse(tmp_path / "cuts.jsonl.gz", features)
    with pytest.raises(ValueError, match="it has features only; asr needs cuts with recordings"):
        rows(tmp_path)


# What is not read


def test_a_refusal_names_what_was_looked_for_and_what_is_there(tmp_path):
    record(tmp_path / "a.flac")
    write(tmp_path / "a.ctm", "a 1 0.0 0.5 hello\n")
    (tmp_path / "more").mkdir()
    words = (
        r"looked for wav.scp and text .*lhotse.*\.stm; .*beside .txt.*; found a\.ctm, a\.flac, more"
    )
    with pytest.raises(ValueError, match=words) as error:
        rows(tmp_path)
    assert "more; a .ctm has words and no utterances: give an .stm" in str(error.value)
    assert "\n" not in str(error.value)
    for file in ("a.ctm", "a.srt"):
        write(tmp_path / file, "x")
        with pytest.raises(ValueError, match=f"{file} is not a manifest; (a .ctm|give the folder)"):
            rows(tmp_path / file)


@pytest.mark.parametrize("table", ["wav.scp", "notes.csv"])
def test_audio_whose_texts_are_deeper_in_the_folder_is_refused_with_the_remedy(tmp_path, table):
    record(tmp_path / "train_nodev" / "data" / "u1.flac")
    write(tmp_path / "train_nodev" / table, "u1 train_nodev/data/u1.flac\n")
    with pytest.raises(
        ValueError, match="found train_nodev; give the folder that holds (wav.scp|the)"
    ):
        rows(tmp_path)
