"""Jobs of many items: the error of one item does not stop the others; threads work ahead."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from asr.files import OutputError, remedy

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class DeviceError(ValueError):
    """An error of a device or a library that would stop every further item as well."""


def reason(error: Exception) -> str:
    """The reason of an error in one line.

    Raises an OutputError or DeviceError again, since it would meet every further item: the disk is
    full, the output folder cannot be written, or a device or a library has failed.
    """
    if isinstance(error, (OutputError, DeviceError)):
        raise error
    return one_line(error)


def attempt_each(
    work: Callable[[Sequence[Item]], Outcome],
    batches: Iterable[Sequence[Item]],
    failed: Callable[[Item, str], object],
) -> Iterator[tuple[Sequence[Item], Outcome]]:
    """Calls ``work`` with each batch and, if that fails, with each item of the batch alone.

    A bad item therefore does not affect the other items of its batch.

    Args:
        work: function of a batch; it must have no side effects if it fails.
        batches: batches of items.
        failed: function that is called with each item that fails alone, and with the reason.

    Yields:
        The items that did not fail, and what ``work`` returned for them.

    Raises:
        OutputError, DeviceError: see ``reason``.
    """
    for items in batches:
        try:
            result = work(items)
        except Exception as error:  # an item can cause errors of many types
            why = reason(error)
            if len(items) == 1:
                failed(items[0], why)
            else:
                yield from attempt_each(work, [[item] for item in items], failed)
        else:
            yield items, result


def one_line(error: Exception) -> str:
    """The message of an error in one line.

    An error of the operating system is given with its file and a remedy. Errors whose message was
    not written for users are given with their type.
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


def ahead(
    function: Callable[[Any], Any], items: Iterable[Any], threads: int, number: int
) -> Iterator[Any]:
    """Yields the results for the items in order; threads compute a ``number`` of later ones."""
    if not threads:
        yield from map(function, items)
        return
    pending: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > number:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # a caller may stop early
        pool.shutdown(cancel_futures=True)
