import contextlib
import errno
import json
import os

import pytest
import torch

from asr.files import OutputError, new_folder, remedy, remove_stale, write, write_all


def test_a_group_of_files_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    a, b = tmp_path / "a", tmp_path / "b"
    write_all({a: "old", b: b"old"})

    def full(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="cannot write .*b .No space left on device.; make room"):
        write_all({a: "new", b: full})
    assert (a.read_text(), b.read_text()) == ("old", "old")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_an_error_of_the_writer_is_raised_unchanged(tmp_path):
    def broken(file):
        raise KeyError("x")

    with pytest.raises(KeyError):
        write(tmp_path / "a", broken)
    assert os.listdir(tmp_path) == []


def test_the_operating_system_error_is_reported_where_torch_hides_it(tmp_path, quota):
    values = {"a": torch.zeros(100_000)}
    with quota(10_000), pytest.raises(OSError, match="cannot write .*a.ckpt .File too large."):
        write(tmp_path / "a.ckpt", lambda file: torch.save(values, file))
    assert os.listdir(tmp_path) == []
    write(tmp_path / "a.ckpt", lambda file: torch.save(values, file))
    assert torch.equal(torch.load(tmp_path / "a.ckpt", weights_only=True)["a"], values["a"])


def test_a_new_folder_is_removed_after_an_error_if_it_is_empty(tmp_path):
    with pytest.raises(KeyError), new_folder(tmp_path / "a" / "b"):
        raise KeyError
    assert os.listdir(tmp_path) == []
    with contextlib.suppress(KeyError), new_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "kept").write_text("")
        raise KeyError
    assert os.listdir(tmp_path / "a") == ["kept"]
    with pytest.raises(OSError, match="cannot write .*kept/c .Not a directory.; a part of the"):
        new_folder(tmp_path / "a" / "kept" / "c").__enter__()


def test_temporary_files_of_other_processes_are_removed_and_those_of_this_one_kept(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ".a.1-1.tmp").write_text("")
    mine = tmp_path / f".a.{os.getpid()}-1.tmp"
    mine.write_text("")
    remove_stale(tmp_path)
    assert set(tmp_path.rglob("*")) == {tmp_path / "in", mine}


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("長" * 83 + "é.txt")  # 255 bytes
    write(path, "whole")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["whole"]
    with pytest.raises(OSError, match="File name too long.; choose a shorter name") as raised:
        write_all({path: "other", path.with_name(f"x{path.name}"): ""})
    assert not isinstance(raised.value, OutputError)
    assert path.read_text() == "whole"


def test_a_folder_in_the_place_of_a_file_is_found_before_any_file_is_replaced(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(OSError, match="cannot write .*b .Is a directory.") as raised:
        write_all({tmp_path / "a": "", tmp_path / "b": ""})
    assert not isinstance(raised.value, OutputError)
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_disk_or_a_read_only_folder_is_distinguished_from_a_bad_file(tmp_path, number):
    def fails(file):
        raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError, match="cannot write"):
        write(tmp_path / "a", fails)


def test_bytes_of_a_name_that_are_not_utf8_survive_json(tmp_path):
    name = os.fsdecode(b"\xff.wav")
    write(tmp_path / "a.json", json.dumps({"source": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"source": name}


def test_every_remedy_says_what_to_do():
    assert "make room" in remedy(OSError(errno.ENOSPC, ""))
    assert "may write" in remedy(OSError(errno.EACCES, ""))
    assert "space" in remedy(OSError())
