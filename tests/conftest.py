"""Fixtures that several tests share."""

import contextlib
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asr.metering.precision import tf32_inside


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--encoder FILE``: a recipe of your own for the contract of encoders."""
    parser.addoption("--encoder", action="append", default=[], metavar="FILE", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    """Classes named in such a recipe lie where pytest is called."""
    if config.getoption("--encoder"):
        sys.path.insert(0, str(Path.cwd()))


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
def exact_float32(request) -> Iterator[None]:
    """Tests of a GPU compare with a CPU: no kernel rounds its factors to TF32."""
    if not request.node.get_closest_marker("gpu"):
        yield
        return
    with tf32_inside(False):
        yield


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """A test that trains in its own process starts no others unless it asks for them."""
    monkeypatch.setattr("asr.metering.control_groups.usable_cores", lambda: 1)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No test depends on what lies in the working directory: prepared corpora, runs, reports."""
    monkeypatch.chdir(tmp_path)
