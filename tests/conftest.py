"""Fixtures that several tests share."""

import contextlib
import resource
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def quota() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """A limit on the size of every file written, in bytes: a disk that is full without root."""

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No test depends on what lies in the working directory: prepared corpora, runs, reports."""
    monkeypatch.chdir(tmp_path)
