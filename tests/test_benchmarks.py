"""The benchmarks can be imported: what they name in ``asr`` is there."""

import importlib
from pathlib import Path

import pytest

NAMES = [path.stem for path in (Path(__file__).parents[1] / "benchmarks").glob("*.py")]


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_imports(name):
    if name == "contenders":
        pytest.importorskip("speechbrain")  # which has an environment of its own
    importlib.import_module(f"benchmarks.{name}")
