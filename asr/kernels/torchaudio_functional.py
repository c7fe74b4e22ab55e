"""The functions of torchaudio that the project uses, imported on first use.

torchaudio holds compiled code. Version 2.11.1 installs beside torch 2.11 and 2.12 but cannot be
loaded there, so its import may fail after a correct installation. Nothing else imports torchaudio:
whatever does not need these functions works without it, and the error is the same everywhere.
"""

import importlib.metadata
from typing import TYPE_CHECKING, Any

from asr.items import DeviceError

if TYPE_CHECKING:
    from torch import Tensor

PAIRS = "torch 2.11.0 with torchaudio 2.11.0, torch 2.13 to 2.14 with torchaudio 2.11.1"


class TorchaudioError(DeviceError):
    """torchaudio cannot be imported; the message is one line with the versions and a remedy."""


def resample(waves: "Tensor", rate: int, to_rate: int) -> "Tensor":
    """Resamples (..., N) from ``rate`` Hz to ``to_rate`` Hz by a windowed sinc.

    Raises:
        TorchaudioError: torchaudio cannot be imported.
    """
    return _functional().resample(waves, rate, to_rate)


def rnnt_loss(*arguments: "Tensor", **options: Any) -> "Tensor":
    """Computes the loss of a transducer by ``torchaudio.functional.rnnt_loss``.

    Raises:
        TorchaudioError: torchaudio cannot be imported.
    """
    return _functional().rnnt_loss(*arguments, **options)


def forced_align(log_probs: "Tensor", targets: "Tensor", blank: int) -> "tuple[Tensor, Tensor]":
    """Returns the labels (1, T) of the likeliest CTC path, and their scores (1, T).

    Raises:
        TorchaudioError: torchaudio cannot be imported.
    """
    return _functional().forced_align(log_probs, targets, blank=blank)


def installed() -> str:
    """The versions of torch and torchaudio that are installed."""
    return " and ".join(f"{name} {_version(name)}" for name in ("torch", "torchaudio"))


def version_remedy() -> str:
    """Returns the command that installs matching versions, keeping PyTorch if possible."""
    torch = _version("torch")
    if "+cpu" in torch and "+cpu" not in _version("torchaudio"):
        return "install torchaudio from where this torch, a CPU build, comes from (pytorch.org)"
    if torch.startswith("2.11."):
        return "type pip install torch==2.11.0 torchaudio==2.11.0"
    return "type pip install torch==2.14.1 torchaudio==2.11.1"


def linker_error(error: BaseException) -> str:
    """The message of the innermost cause of an import error, such as the linker's; one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def _functional() -> Any:
    try:
        import torchaudio.functional
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise TorchaudioError(
            f"torchaudio cannot be loaded ({linker_error(error)}): this environment has "
            f"{installed()}; pairs that work are {PAIRS}; {version_remedy()}"
        ) from error
    return torchaudio.functional


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
