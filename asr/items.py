"""A job of many items: an error of one item is reported with it, and the others go on."""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from asr.files import OutputError, remedy

Item = TypeVar("Item")


class DeviceError(ValueError):
    """A device or a library fails, so that every further item would fail as well."""


def reason(error: Exception) -> str:
    """Why an item failed, in one line.

    Raises:
        OutputError, DeviceError: the error that was given, if it ends the job: the disk is full,
            the output folder cannot be written, or a device or a library has failed.
    """
    if isinstance(error, (OutputError, DeviceError)):
        raise error
    return one_line(error)


def attempt_each(
    work: Callable[[Sequence[Item]], object],
    items: Sequence[Item],
    failed: Callable[[Item, str], object],
) -> None:
    """Calls ``work`` with a batch of items and, if that fails, with each item alone.

    So one bad item does not take the others of its batch with it.

    Args:
        work: must leave no trace when it fails.
        items: a batch.
        failed: is called with an item that fails alone, and with the reason.

    Raises:
        OutputError, DeviceError: see ``reason``.
    """
    try:
        work(items)
    except Exception as error:  # what an item can do to a decoder or a model has no narrower type
        why = reason(error)
        if len(items) == 1:
            failed(items[0], why)
        else:
            for item in items:
                attempt_each(work, [item], failed)


def one_line(error: Exception) -> str:
    """The message of an error in one line.

    An error of the operating system is given with its file and a remedy. Other errors than those
    that are raised with a message for users are given with their type.
    """
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return printable(f"{where}{error.strerror}; {remedy(error)}")
    message = printable(" ".join(str(error).split()))
    if message and isinstance(error, (ValueError, OSError)):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def printable(name: str) -> str:
    r"""A name on one line: control characters and stray bytes become ``\n``, ``\x07``."""
    return re.sub(
        "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]",
        lambda found: repr(found[0])[1:-1],
        name,
    )
