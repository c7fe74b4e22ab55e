import pytest

from asr.sources import find, output_names


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
def test_names_are_distinct_also_where_capitals_do_not_count(names, expected):
    chosen = output_names(names)
    assert len({name.lower() for name in chosen}) == len(names)
    assert not any("/" in name for name in chosen)
    if expected:
        assert chosen == expected
