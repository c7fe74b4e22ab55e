import os

import pytest

from asr.audio.sources import NAME_BYTES, find, output_names


def test_a_missing_input_is_a_source_with_an_error(tmp_path):
    (tmp_path / "a.wav").touch()
    absent, there, pattern = find([str(tmp_path / n) for n in ("absent.wav", "a.wav", "*.ogg")])
    assert there.error is None
    assert absent.error == f"{tmp_path}/absent.wav: no such file; check the path"
    assert "no file matches" in pattern.error
    with pytest.raises(ValueError, match="absent.wav: no such file"):
        find([str(tmp_path / "absent.wav")])


def test_a_name_too_long_for_an_extension_is_shortened_deterministically_and_stays_unique():
    names = [f"{'長' * 83}{letter}.wav" for letter in "ab"]
    first, second = output_names(names)
    assert first != second
    assert output_names([names[1], "x.wav"])[0] == second
    assert all(len(name.encode()) <= NAME_BYTES for name in (first, second))
    assert first.startswith("長" * 70)
    fits = "長" * 83
    assert output_names([f"{fits}.wav", "b.wav"]) == [fits, "b"]


def test_names_of_any_bytes_are_shown_on_one_line(tmp_path):
    path = os.fsencode(tmp_path) + b"/a\n\xff.wav"
    open(path, "wb").close()
    [source] = find([str(tmp_path)])
    assert source.name == rf"{tmp_path}/a\n\udcff.wav"
    assert os.fsencode(source.audio) == path


def test_folders_globs_and_files_are_found_once(tmp_path):
    (tmp_path / "deep").mkdir()
    there = ["b.wav", "a.FLAC", "notes.txt", ".hidden.wav", "deep/c.ogg", "deep/x[1].wav"]
    for name in [*there, "memo.m4a"]:  # a telephone's, to be refused, not passed over
        (tmp_path / name).touch()

    def names(*inputs, **options):
        found = find([str(tmp_path / entry) for entry in inputs], **options)
        return [source.name.removeprefix(f"{tmp_path}/") for source in found]

    assert names("") == ["a.FLAC", "b.wav", "memo.m4a"]
    deep = ["deep/c.ogg", "deep/x[1].wav"]
    assert names("", recursive=True) == ["a.FLAC", "b.wav", *deep, "memo.m4a"]
    assert names("*/*.ogg", "b.wav", "") == ["deep/c.ogg", "b.wav", "a.FLAC", "memo.m4a"]
    assert names("deep/x[1].wav") == ["deep/x[1].wav"]
    assert names("**/c.ogg") == ["deep/c.ogg"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x/a.wav", "b.wav"], ["a", "b"]),
        (["x/a.wav", "y/a.wav"], ["x-a", "y-a"]),
        (["x/a.wav", "x/a.flac"], ["x-a.wav", "x-a.flac"]),
        (["a.wav", "A.wav"], ["a.wav-1", "A.wav-2"]),
        (["1/x/a.wav", "2/x/a.wav", "b.wav"], ["1-x-a", "2-x-a", "b"]),
        (["x/a.wav", "y/a.wav", "x-a.wav"], None),
        (["../a.wav", "a.wav", "/a.wav"], None),
        (["stdin", "stdin.wav"], None),
    ],
)
def test_names_are_distinct_even_on_case_insensitive_file_systems(names, expected):
    chosen = output_names(names)
    assert len({name.lower() for name in chosen}) == len(names)
    assert not any("/" in name for name in chosen)
    if expected:
        assert chosen == expected
