import errno
import os
from pathlib import Path

import pytest

from asr import folders
from asr.folders import counted, examples, stored, walk
from asr.items import printable


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(folder, *arguments, **options):
    return [p.relative_to(folder).as_posix() for p in walk(folder, *arguments, **options).files]


def test_files_are_sorted_by_name_with_those_of_a_folder_before_its_subfolders(tmp_path):
    touch(tmp_path, "b.wav", "a/z.wav", "a/b/c.WAV", "c.txt", "a/a.wav")
    assert found(tmp_path) == ["b.wav", "c.txt", "a/a.wav", "a/z.wav", "a/b/c.WAV"]
    assert found(tmp_path, {".wav"}) == ["b.wav", "a/a.wav", "a/z.wav", "a/b/c.WAV"]
    assert found(tmp_path, {".wav"}, recursive=False) == ["b.wav"]


def test_links_are_followed_and_link_cycles_end(tmp_path):
    touch(tmp_path, "in/a.wav", "out/b.wav", "out/deep/c.wav")
    folder = tmp_path / "in"
    (folder / "linked").symlink_to("../out")
    (folder / "file.wav").symlink_to("../out/b.wav")
    (tmp_path / "out" / "deep" / "back").symlink_to(folder)
    assert found(folder) == ["a.wav", "file.wav", "linked/b.wav", "linked/deep/c.wav"]
    assert walk(folder).passed_over == {"circular links": [folder / "linked/deep/back"]}


def test_skipped_files_are_counted_by_kind(tmp_path):
    touch(tmp_path, ".DS_Store", "._a.wav", "Thumbs.db", "__MACOSX/a.wav", ".git/x", "a.wav")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "gone.wav").symlink_to("nowhere.wav")
    (tmp_path / "itself").symlink_to("itself")
    os.mkfifo(tmp_path / "pipe.wav")
    walked = walk(tmp_path, {".wav"})
    # A broken link of a wanted name is for its reader to report.
    assert [path.name for path in walked.files] == ["a.wav", "gone.wav"]
    names = {kind: [path.name for path in p] for kind, p in walked.passed_over.items()}
    assert names == {
        "hidden files": [".DS_Store", "._a.wav", ".git", "Thumbs.db", "__MACOSX"],
        "broken links": ["gone", "itself"],
        "special files": ["pipe.wav"],
    }
    assert "2 broken links (" in counted(walked.passed_over)


def test_an_unreadable_folder_is_skipped_unless_it_was_requested(tmp_path, monkeypatch):
    touch(tmp_path, "locked/a.wav", "open/b.wav")
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    assert walk(tmp_path).passed_over == {"unreadable folders": [tmp_path / "locked"]}
    assert found(tmp_path) == ["open/b.wav"]
    with pytest.raises(PermissionError):
        walk(tmp_path / "locked")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name.wav", "plain name.wav"),
        ("\u65e5\u672c.wav", "\u65e5\u672c.wav"),
        ("two\nlines\tand a tab", "two\\nlines\\tand a tab"),
        (os.fsdecode(b"caf\xe9.wav"), "caf\\udce9.wav"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),  # a joiner belongs to the name
    ],
)
def test_any_name_is_shown_as_one_line_of_unicode(name, shown):
    assert printable(name) == shown
    shown.encode()


def test_a_list_of_names_is_shortened_and_says_so():
    assert examples(["a", "b", "c"]) == "a, b, c"
    assert examples(["a", "b", "c", "d"]) == "a, b, c, ..."


@pytest.mark.parametrize(("on_disk", "asked"), [("e\u0301", "\u00e9"), ("\u00e9", "e\u0301")])
def test_a_name_is_found_in_either_unicode_form(tmp_path, on_disk, asked):
    (tmp_path / on_disk).touch()
    assert stored(tmp_path / asked).exists()
    assert stored(tmp_path / "\u00e8") == tmp_path / "\u00e8"
