"""A torchaudio that is installed and cannot be loaded, as 2.11.1 beside torch 2.11."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.kernels import torchaudio_functional

ROOT = Path(__file__).parents[2]
REASON = "Could not load this library: libtorchaudio.so"
USES = """
import numpy as np, torch
from asr.recognition.alignment import ctc_spans
from asr.audio.audio_file import resample
from asr.decoders import Transducer
from asr.audio.features import Augmentation

tokens = torch.tensor([[3, 4]])
lengths = torch.tensor([2])
uses = {
    "resample": lambda: resample(np.zeros(800, np.float32), 8000, 16000),
    "speed": lambda: Augmentation(speed=[0.9]).perturb(torch.zeros(1, 800), lengths, 8000, 1),
    "transducer": lambda: Transducer(4, 6, width=4, joint=4).loss(
        torch.randn(1, 2, 4), lengths, tokens, lengths
    ),
    "alignment": lambda: ctc_spans(torch.zeros(3, 6).log_softmax(-1), [3, 4]),
}
for name, use in uses.items():
    try:
        use()
    except ValueError as error:
        print(name, error)
"""


@pytest.fixture
def broken(tmp_path):
    """Runs Python where importing torchaudio raises what torch raises about its library."""
    package = tmp_path / "path" / "torchaudio"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise OSError({REASON!r})")
    path = os.pathsep.join([str(package.parent), str(ROOT)])

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )

    return run


def test_every_use_names_the_versions_and_the_remedy(broken):
    done = broken("-c", USES)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["resample", "speed", "transducer", "alignment"]
    for line in lines:
        assert REASON in line
        for package in ("torch", "torchaudio"):
            assert f"{package} {importlib.metadata.version(package)}" in line
        assert "torch 2.11.0 with torchaudio 2.11.0" in line
        assert line.endswith(torchaudio_functional.version_remedy())


@pytest.mark.parametrize(
    ("torch", "torchaudio", "remedy"),
    [
        ("2.11.0", "2.11.1", "pip install torch==2.11.0 torchaudio==2.11.0"),
        ("2.12.1", "2.11.1", "pip install torch==2.14.1 torchaudio==2.11.1"),
        ("2.14.1", "2.11.0", "pip install torch==2.14.1 torchaudio==2.11.1"),
        ("2.14.1", None, "pip install torch==2.14.1 torchaudio==2.11.1"),
        ("2.14.1+cpu", "2.11.1", "a CPU build"),
    ],
)
def test_the_remedy_depends_on_the_versions(torch, torchaudio, remedy, monkeypatch):
    def version(name):
        if found := {"torch": torch, "torchaudio": torchaudio}[name]:
            return found
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert remedy in torchaudio_functional.version_remedy()
    assert f"torch {torch}" in torchaudio_functional.installed()


def test_the_reason_quotes_the_linker():
    error = OSError("Could not load this library")
    error.__cause__ = OSError("libtorchaudio.so: undefined\nsymbol")
    assert torchaudio_functional.linker_error(error) == "libtorchaudio.so: undefined symbol"
    assert torchaudio_functional.linker_error(ImportError()) == "ImportError"


def test_a_command_that_resamples_ends_with_one_line(broken, tmp_path):
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    noise = np.random.default_rng(1).uniform(-0.1, 0.1, 8000)
    soundfile.write(recordings / "a.wav", noise, 8000)
    (recordings / "a.txt").write_text("one")
    done = broken(
        *("-m", "asr", "prepare", "folder", "--path", str(recordings)),
        *("--output", str(tmp_path / "out"), "--validation_share", "0", "--test_share", "0"),
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("asr prepare: torchaudio cannot be loaded")


def test_help_needs_no_torchaudio(broken):
    assert broken("-m", "asr", "--help").returncode == 0


def test_doctor_names_the_broken_torchaudio_and_trains_without_it(broken):
    done = broken("-m", "asr", "doctor", "--json")
    assert done.returncode == 1
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert set(told) == {"asr", "state", "checks"}
    assert told["state"] == "broken"
    for check in told["checks"]:
        assert set(check) == {"check", "state", "detail", "remedy"}
        assert check["state"] in ("ok", "warning", "broken")
        assert bool(check["remedy"]) == (check["state"] != "ok")
    checks = {check["check"]: check for check in told["checks"]}
    assert [name for name, check in checks.items() if check["state"] == "broken"] == [
        "torch, torchaudio"
    ]
    pair = checks["torch, torchaudio"]
    assert REASON in pair["detail"]
    assert pair["remedy"] == torchaudio_functional.version_remedy()
    assert checks["training"]["state"] == "ok"
    assert checks["transcription"]["state"] == "ok"
