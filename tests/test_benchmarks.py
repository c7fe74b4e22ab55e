"""The benchmarks can be imported: what they name in ``asr`` is there."""

import importlib
from pathlib import Path

import pytest

NAMES = [path.stem for path in (Path(__file__).parents[1] / "benchmarks").glob("*.py")]


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_imports(name):
    if name in ("contenders", "against_speechbrain", "updates"):
        pytest.importorskip("speechbrain")  # which has its own environment
    assert importlib.import_module(f"benchmarks.{name}").__doc__
