import http.server
import io
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from asr.audio import audio_file
from asr.corpora import download, librispeech
from asr.corpora.librispeech import ARCHIVES, Archive, LibriSpeech, MiniLibriSpeech
from asr.corpora.prepare import prepare

NOISE = audio_file.encode_flac(np.random.default_rng(0).normal(0, 0.1, 32000), 16000)


def chapter(root, part, speaker, number, texts):
    folder = root / "LibriSpeech" / part / str(speaker) / str(number)
    folder.mkdir(parents=True)
    lines = []
    for i, text in enumerate(texts):
        wave = np.random.default_rng([speaker, number, i]).normal(0, 0.1, 32000)
        name = f"{speaker}-{number}-{i:04d}"
        (folder / f"{name}.flac").write_bytes(audio_file.encode_flac(wave, 16000))
        lines.append(f"{name} {text}\n")
    (folder / f"{speaker}-{number}.trans.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "corpus"
    chapter(root, "train-clean-5", 103, 9, ["HE SAID SO", "MISTER O'NEILL"])
    chapter(root, "train-clean-5", 19, 198, ["NORTHANGER ABBEY"])
    chapter(root, "train-clean-5", 19, 20, ["I RESOLVED"])
    chapter(root, "dev-clean-2", 84, 121, ["GO"])
    chapter(root, "test-clean", 61, 70, ["DO YOU THINK SO"])
    for table in ("SPEAKERS.TXT", "CHAPTERS.TXT", "README.TXT"):
        (root / "LibriSpeech" / table).write_text("; a table\n")
    return root


def test_rows_come_in_numerical_order_with_speaker_and_chapter(layout):
    rows = list(MiniLibriSpeech(path=layout).splits()["train"].read())
    assert [row.id for row in rows] == ["19-20-0000", "19-198-0000", "103-9-0000", "103-9-0001"]
    assert [row.speaker_id for row in rows] == ["19", "19", "103", "103"]
    assert [row.chapter_id for row in rows] == ["20", "198", "9", "9"]
    assert rows[3].text == "MISTER O'NEILL"
    assert {row.language for row in rows} == {"en"}


def test_preparing_keeps_the_flac_and_reports_counts_that_differ_from_the_published_ones(
    layout, tmp_path
):
    summary = prepare(MiniLibriSpeech(path=layout / "LibriSpeech"), tmp_path / "out")
    assert {s: v["utterances"] for s, v in summary["splits"].items()} == {
        "train": 4,
        "validation": 1,
        "test": 1,
    }
    suspicious = {s: v["suspicious"] for s, v in summary["preflight"].items()}
    assert suspicious["train"] == {"utterances_not_as_published": ["4 of 1519"]}
    assert suspicious["test"]["words_not_as_published"] == ["4 of 52576"]
    assert "characters_outside_alphabet" in suspicious["test"]
    assert summary["name"] == "mini_librispeech"
    assert summary["licence"].startswith("CC BY 4.0")
    assert "train: train-clean-5" in summary["remarks"]


def test_an_audio_without_text_and_a_text_without_audio_are_counted(layout, tmp_path):
    folder = layout / "LibriSpeech/train-clean-5/103/9"
    (folder / "103-9-0000.flac").unlink()
    (folder / "103-9-0007.flac").write_bytes(NOISE)
    corpus = MiniLibriSpeech(path=layout, validation=[], test=[])
    checks = prepare(corpus, tmp_path / "out")["preflight"]
    assert list(checks) == ["train"]
    assert checks["train"]["dropped"] == {
        "missing_audio": ["103-9-0000"],
        "empty_text": ["103-9-0007"],
    }
    assert checks["train"]["read"] == 5


def test_parts_can_be_joined_and_left_out(layout):
    corpus = LibriSpeech(
        path=layout, train=["train-clean-5", "dev-clean-2"], validation=[], test_other=[]
    )
    splits = corpus.splits()
    assert list(splits) == ["train", "test"]
    assert len(list(splits["train"].read())) == 5
    assert corpus.origin().expected["train"] == {"utterances": 1519 + 1089}


def test_missing_parts_are_named_with_those_present(layout):
    with pytest.raises(FileNotFoundError, match="no part train-clean-100; .* dev-clean-2, test-cl"):
        LibriSpeech(path=layout).splits()
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        LibriSpeech(path=Path("nowhere")).splits()
    with pytest.raises(ValueError, match="no part of LibriSpeech is asked for"):
        MiniLibriSpeech(path=layout, train=[], validation=[], test=[]).splits()


def test_a_part_of_unknown_name_is_not_downloaded(tmp_path):
    with pytest.raises(ValueError, match="no part 'train-clean'; .*|no part 'train-clean' of"):
        LibriSpeech(train=["train-clean"], download=tmp_path).splits()


def test_the_published_counts_are_those_of_the_paper():
    assert (
        sum(ARCHIVES[p].utterances for p in ARCHIVES if p.startswith("train") and p[-1] == "0")
        == 281241
    )
    assert all(len(part.sha256) == 64 for part in ARCHIVES.values() if part.sha256)


# Downloading, from a server on this machine


class Server(http.server.BaseHTTPRequestHandler):
    """Serves ``files``; understands Range; hangs up after ``cut`` bytes of a body when set."""

    files: dict[str, bytes] = {}
    cut: int | None = None
    ranges = True
    seen: list[str | None] = []

    def do_GET(self):  # noqa: N802
        asked = self.headers.get("Range")
        self.seen.append(asked)
        if self.path not in self.files:
            self.send_error(404, "Not Found")
            return
        body = self.files[self.path]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if asked and self.ranges and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if asked and self.ranges else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:] if self.cut is None else body[start : start + self.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Server.files, Server.cut, Server.ranges, Server.seen = {}, None, True, []
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


def packed(layout, part):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.add(layout / "LibriSpeech" / "SPEAKERS.TXT", "LibriSpeech/SPEAKERS.TXT")
        archive.add(layout / "LibriSpeech" / part, f"LibriSpeech/{part}")
    return file.getvalue()


def test_parts_are_downloaded_unpacked_and_not_fetched_again(layout, server, tmp_path):
    Server.files["/31/dev-clean-2.tar.gz"] = packed(layout, "dev-clean-2")
    options = {"train": ["dev-clean-2"], "validation": [], "test": []}
    corpus = MiniLibriSpeech(**options, download=tmp_path / "got", mirror=server)
    for _ in range(2):
        rows = list(corpus.splits()["train"].read())
        assert [row.text for row in rows] == ["GO"]
        assert rows[0].audio.exists()
    assert len(Server.seen) == 1
    assert sorted(p.name for p in (tmp_path / "got").iterdir()) == [
        "LibriSpeech",
        "dev-clean-2.tar.gz",
    ]
    (remark,) = (r for r in corpus.origin().remarks if "SHA-256" in r)
    assert download.checksum(tmp_path / "got/dev-clean-2.tar.gz") in remark


def test_a_wrong_checksum_removes_the_download(layout, server, tmp_path, monkeypatch):
    Server.files["/12/test-clean.tar.gz"] = packed(layout, "test-clean")
    corpus = MiniLibriSpeech(
        train=["test-clean"], validation=[], test=[], download=tmp_path / "got", mirror=server
    )
    with pytest.raises(ValueError, match="has SHA-256 .*, not 39fde525.* and was removed"):
        corpus.splits()
    assert not any((tmp_path / "got").iterdir())
    Path(tmp_path / "right").write_bytes(Server.files["/12/test-clean.tar.gz"])
    right = Archive(12, download.checksum(tmp_path / "right"), 1)
    monkeypatch.setitem(librispeech.ARCHIVES, "test-clean", right)
    assert len(list(corpus.splits()["train"].read())) == 1


def test_a_damaged_archive_leaves_no_incomplete_part(layout, server, tmp_path):
    Server.files["/31/dev-clean-2.tar.gz"] = packed(layout, "dev-clean-2")[:-3000]
    corpus = MiniLibriSpeech(
        train=["dev-clean-2"], validation=[], test=[], download=tmp_path / "got", mirror=server
    )
    with pytest.raises(ValueError, match="dev-clean-2.tar.gz is damaged .*; remove it"):
        corpus.splits()
    assert [p.name for p in (tmp_path / "got").iterdir()] == ["dev-clean-2.tar.gz"]


def test_an_archive_of_something_else_is_refused(layout, server, tmp_path):
    Server.files["/31/train-clean-5.tar.gz"] = packed(layout, "dev-clean-2")
    corpus = MiniLibriSpeech(validation=[], test=[], download=tmp_path / "got", mirror=server)
    with pytest.raises(ValueError, match="holds no LibriSpeech/train-clean-5"):
        corpus.splits()


@pytest.mark.parametrize("ranges", [True, False], ids=["resumes", "server without ranges"])
def test_an_interrupted_download_is_continued(server, tmp_path, ranges):
    body = np.random.default_rng(0).bytes(3_000_000)
    Server.files["/file"] = body
    Server.cut, Server.ranges = 1_200_000, ranges
    with pytest.raises(OSError, match="the download failed .*; run the command again to resume"):
        download.fetch(f"{server}/file", tmp_path)
    assert (tmp_path / "file.part").stat().st_size == 1_200_000
    assert not (tmp_path / "file").exists()
    Server.cut = None
    assert download.fetch(f"{server}/file", tmp_path).read_bytes() == body
    assert Server.seen == [None, "bytes=1200000-"]
    assert not (tmp_path / "file.part").exists()


@pytest.mark.parametrize("extra", [0, 7])
def test_a_complete_download_is_used_and_one_that_is_too_long_is_removed(server, tmp_path, extra):
    Server.files["/file"] = b"x" * 1000
    (tmp_path / "file.part").write_bytes(b"x" * (1000 + extra))
    if extra:
        with pytest.raises(OSError, match="does not fit the file, it was removed"):
            download.fetch(f"{server}/file", tmp_path)
    assert download.fetch(f"{server}/file", tmp_path).stat().st_size == 1000


def test_servers_that_refuse_or_do_not_answer_are_one_line(server, tmp_path):
    with pytest.raises(OSError, match=r"/none: the server answers 404 Not Found"):
        download.fetch(f"{server}/none", tmp_path)
    with pytest.raises(
        OSError, match="download failed .* give a copy on this machine: --path FOLDER"
    ):
        download.fetch("http://127.0.0.1:9/file", tmp_path)
