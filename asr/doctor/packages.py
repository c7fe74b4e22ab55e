"""Installed packages against what the project declares; whether torch and torchaudio compute."""

import importlib.metadata
import math
import platform
from typing import TYPE_CHECKING

from asr import __version__
from asr.doctor.finding import Finding

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

DISTRIBUTION = "asr-equal-cost"
# Of the packages declared, those that have a line when nothing is wrong with them.
SHOWN = (
    "torch torchaudio lightning datasets pyarrow numpy sentencepiece soundfile av".split()  # noqa: SIM905
)


def versions() -> list[Finding]:
    """Python and the project; a line for each package of SHOWN, missing or out of bounds."""
    from packaging.requirements import Requirement

    findings = [Finding("python", "ok", platform.python_version())]
    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
        findings.append(Finding("asr", "ok", __version__))
    except importlib.metadata.PackageNotFoundError:
        declared = list(SHOWN)
        detail = f"{__version__} is not an installed package: versions are not compared"
        findings.append(Finding("asr", "warning", detail, "pip install -e . in its folder"))
    for requirement in map(Requirement, declared):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            findings += _version(requirement.name, requirement.specifier)
    return findings


def _version(name: str, bounds: "SpecifierSet") -> list[Finding]:
    remedy = f"pip install '{name}{bounds}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return [Finding(name, "broken", "not installed", remedy)]
    if not bounds.contains(version, prereleases=True):
        return [Finding(name, "broken", f"{version}, but asr needs {bounds}", remedy)]
    if name not in SHOWN:
        return []
    try:
        return [Finding(name, "ok", version + _library(name))]
    except (ImportError, OSError) as error:
        return [Finding(name, "broken", f"{version} cannot be imported: {error}", remedy)]


def _library(name: str) -> str:
    """The C library that a package brings."""
    if name == "soundfile":
        import soundfile

        return f" with libsndfile {soundfile.__libsndfile_version__}"
    if name == "av":
        import av

        return f" with FFmpeg {av.ffmpeg_version_info}"
    return ""


def espeak() -> list[Finding]:
    """Whether eSpeak NG, which is optional, speaks a word."""
    from asr.corpora.espeak import Request, speak

    try:
        version = importlib.metadata.version("espeakng-loader")
    except importlib.metadata.PackageNotFoundError:
        detail = "not installed; asr prepare spoken needs it, nothing else does"
        return [Finding("eSpeak", "warning", detail, "pip install espeakng-loader")]
    rate, [wave] = speak([Request("one", "en-us", 160, 50)])
    detail = f"espeakng-loader {version}; {len(wave) / 2 / rate:.1f} s spoken at {rate} Hz"
    return [Finding("eSpeak", "ok", detail)]


def pair() -> list[Finding]:
    """Whether torch loads, and torchaudio beside it computes what can be told by hand."""
    import torch

    from asr.kernels import torchaudio_functional as F

    name = "torch, torchaudio"
    try:
        # Two frames, one label, three classes of equal probability: two paths of three steps.
        loss = F.rnnt_loss(
            torch.zeros(1, 2, 2, 3),
            torch.tensor([[1]], dtype=torch.int32),
            torch.tensor([2], dtype=torch.int32),
            torch.tensor([1], dtype=torch.int32),
            blank=0,
        )
        chances = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]]])  # (1, T, V)
        target = torch.tensor([[1]], dtype=torch.int32)
        path, _ = F.forced_align(chances.log(), target, blank=0)
        resampled = F.resample(torch.zeros(100), 8000, 16000)
    except F.TorchaudioError as error:
        detail = f"{F.installed()}: torchaudio cannot be loaded ({F.reason(error)})"
        return [Finding(name, "broken", f"{detail}; pairs that work: {F.PAIRS}", F.remedy())]
    correct = math.isclose(float(loss), -math.log(2 / 27), rel_tol=1e-4)
    correct &= path.tolist() == [[0, 1, 0]] and len(resampled) == 200
    if not correct:
        return [Finding(name, "broken", f"{F.installed()} compute wrong values", F.remedy())]
    detail = "rnnt_loss, forced_align and resample give the values expected"
    return [Finding(name, "ok", detail)]
