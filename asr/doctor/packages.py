"""Checks the versions of installed packages, and the results of torch and torchaudio."""

import importlib
import importlib.metadata
import math
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

from asr import __version__
from asr.doctor.finding import Finding

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

DISTRIBUTION = "asr-equal-cost"
# These declared packages have a line even if nothing is wrong with them.
SHOWN = (
    "torch torchaudio lightning datasets pyarrow numpy sentencepiece soundfile av".split()  # noqa: SIM905
)
LIBRARIES = {  # C libraries inside packages: a name, and the attribute that holds the version
    "soundfile": ("libsndfile", "__libsndfile_version__"),
    "av": ("FFmpeg", "ffmpeg_version_info"),
}


def versions() -> Iterator[Finding]:
    """Reports Python, asr, the packages in SHOWN, and those that are missing or out of bounds."""
    from packaging.requirements import Requirement

    yield Finding("python", "ok", platform.python_version())
    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
        yield Finding("asr", "ok", __version__)
    except importlib.metadata.PackageNotFoundError:
        declared = list(SHOWN)
        detail = f"{__version__} is not an installed package: versions are not compared"
        yield Finding("asr", "warning", detail, "pip install -e . in its folder")
    for requirement in map(Requirement, declared):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from _version(requirement.name, requirement.specifier)


def _version(name: str, bounds: "SpecifierSet") -> Iterator[Finding]:
    remedy = f"pip install '{name}{bounds}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        yield Finding(name, "broken", "not installed", remedy)
        return
    if not bounds.contains(version, prereleases=True):
        yield Finding(name, "broken", f"{version}, but asr needs {bounds}", remedy)
        return
    if name in LIBRARIES:
        library, attribute = LIBRARIES[name]
        try:
            version += f" with {library} {getattr(importlib.import_module(name), attribute)}"
        except (ImportError, OSError) as error:
            yield Finding(name, "broken", f"{version} cannot be imported: {error}", remedy)
            return
    if name in SHOWN:
        yield Finding(name, "ok", version)


def espeak() -> Iterator[Finding]:
    """Checks that eSpeak NG, which is optional, speaks a word."""
    from asr.corpora.espeak import Request, speak

    try:
        version = importlib.metadata.version("espeakng-loader")
    except importlib.metadata.PackageNotFoundError:
        detail = "not installed; only asr prepare spoken needs it"
        yield Finding("eSpeak", "warning", detail, "pip install espeakng-loader")
        return
    rate, [wave] = speak([Request("one", "en-us", 160, 50)])
    detail = f"espeakng-loader {version}; {len(wave) / 2 / rate:.1f} s spoken at {rate} Hz"
    yield Finding("eSpeak", "ok", detail)


def pair() -> Iterator[Finding]:
    """Checks that torch and torchaudio load together and compute known values."""
    import torch

    from asr.kernels import torchaudio_functional as F

    name = "torch, torchaudio"
    one, two = (torch.tensor([length], dtype=torch.int32) for length in (1, 2))
    chances = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]]])  # (1, T, V)
    try:
        # Two frames, one label and three equally likely classes have two paths of three steps.
        loss = F.rnnt_loss(torch.zeros(1, 2, 2, 3), one[None], two, one, blank=0)
        path, _ = F.forced_align(chances.log(), one[None], blank=0)
        resampled = F.resample(torch.zeros(100), 8000, 16000)
    except F.TorchaudioError as error:
        detail = f"{F.installed()}: torchaudio cannot be loaded ({F.linker_error(error)})"
        yield Finding(name, "broken", f"{detail}; pairs that work: {F.PAIRS}", F.version_remedy())
        return
    correct = math.isclose(float(loss), -math.log(2 / 27), rel_tol=1e-4)
    if correct and path.tolist() == [[0, 1, 0]] and len(resampled) == 200:
        detail = "rnnt_loss, forced_align and resample give the expected values"
        yield Finding(name, "ok", detail)
    else:
        yield Finding(name, "broken", f"{F.installed()} compute wrong values", F.version_remedy())
