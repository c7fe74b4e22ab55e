import errno

import pytest

from asr.files import OutputError
from asr.items import DeviceError, attempt_each, one_line, printable, reason


def test_a_bad_item_does_not_fail_the_others_of_its_batch():
    failed = {}

    def work(batch):
        if "bad" in batch:
            raise KeyError("no such bin")
        return "".join(batch)

    done = list(attempt_each(work, [["a", "bad", "b"], ["c", "d"]], failed.__setitem__))
    assert done == [(["a"], "a"), (["b"], "b"), (["c", "d"], "cd")]
    assert failed == {"bad": "KeyError: 'no such bin'"}


@pytest.mark.parametrize("error", [OutputError("full"), DeviceError("out of memory")])
def test_an_error_that_every_item_would_meet_ends_the_job(error):
    def work(batch):
        raise error

    with pytest.raises(type(error)):
        list(attempt_each(work, [[1, 2]], lambda item, why: pytest.fail("not the item's")))
    with pytest.raises(type(error)):
        reason(error)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a.wav is empty\n (0 bytes)"), "a.wav is empty (0 bytes)"),
        (IndexError("out of range"), "IndexError: out of range"),
        (RuntimeError(), "RuntimeError"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a\nb"), r"a\nb: No such file; check"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "File name too long; choose a shorter"),
    ],
)
def test_an_error_is_reported_in_one_line(error, line):
    assert one_line(error).startswith(line)


def test_names_stay_on_one_line():
    assert printable("a\nb\t\x1b[31m") == r"a\nb\t\x1b[31m"
    assert printable("\udcff.wav") == r"\udcff.wav"
    assert printable("長 é.wav") == "長 é.wav"
