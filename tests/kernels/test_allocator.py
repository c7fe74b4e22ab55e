import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from asr.recipe.schema import TrainerOptions
from asr.training import run
from asr.training.launch import ALONE

CODE = """
import ctypes, resource, sys
from asr.kernels.allocator import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.malloc.argtypes = [ctypes.c_size_t]
if sys.argv[1] == "kept":
    keep_freed_memory()

def update():
    blocks = [libc.malloc(20_000_000) for _ in range(10)]
    for block in blocks:
        ctypes.memset(block, 1, 20_000_000)
    for block in blocks:
        libc.free(block)

update()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    update()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 3 * 10 * 20_000_000 // 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_taken_again_without_page_faults():
    counts = {
        way: int(subprocess.check_output([sys.executable, "-c", CODE, way]))
        for way in ("returned", "kept")
    }
    assert counts["returned"] > 0.5 * PAGES
    assert counts["kept"] < 0.05 * PAGES


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_only_a_run_on_a_cpu_keeps_freed_memory(tmp_path, monkeypatch, kind):
    class BeganError(Exception):
        pass

    def ledger(*arguments, **keys):
        raise BeganError

    kept, strategy = [], SimpleNamespace(root_device=torch.device(kind))
    trainer = SimpleNamespace(strategy=strategy, world_size=1)
    for name, value in {
        "_parts": lambda *arguments: (None, None, ""),
        "make_trainer": lambda *arguments: trainer,
        "kernel_precision": lambda *arguments: "float32",
        "keep_freed_memory": lambda: kept.append(kind),
        "Ledger": ledger,
    }.items():
        monkeypatch.setattr(run, name, value)
    recipe = SimpleNamespace(trainer=TrainerOptions())
    with pytest.raises(BeganError):
        run._fit(recipe, tmp_path, ALONE)
    assert kept == ["cpu"] * (kind == "cpu")
