"""How fast an encoder's gradients fade with distance, and whether by half-lives or by a power.

r(k) is the size of the derivative of an encoder frame by the features k encoder frames before it.
Zhao et al. 2020 prove that those of RNNs and LSTMs fall exponentially and that long memory needs a
power law; here both are fitted to trained encoders.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from asr.encoders import Encoder

SHARE = 0.5  # of the draws that must reach a lag for r to be told there
LEAST_LAGS = 4  # fewer do not tell three parameters' worth of one law from another
CLEAR = 2.0  # a smaller difference of AIC is no preference (Burnham and Anderson 2002, section 2.6)

Floats = NDArray[np.float64]
Law = Literal["exponential", "power", "neither"]


@dataclass(frozen=True)
class Fit:
    """Two lines through log r.

    Attributes:
        half_life: seconds in which r halves, of the line over k; None: r does not fall.
        exponent: p of r ~ k^-p, of the line over log k.
        aic_difference: AIC of the power less that of the exponential; positive: the latter fits.
        law: the one that fits better, or neither by a clear margin.
    """

    half_life: float | None
    exponent: float
    aic_difference: float
    law: Law


def squared_gradients(
    encoder: Encoder, x: Tensor, frames: Sequence[int], generator: torch.Generator
) -> Tensor:
    """(T, F) features, P encoder frames -> (P, S) float64: ||v^T dy_t/dx_s||^2 for each frame s.

    x_s are the features of encoder frame s, ``stride`` of them. v holds random signs, so that the
    expectation over them is the squared Frobenius norm of the derivative (Hutchinson 1990): one
    backward pass instead of D. Decisions that take no gradient, as those of a gate, count as fixed.

    Args:
        encoder: in eval mode, on the device of ``x``.
        x: of one utterance.
        frames: t of each derivative.
        generator: of the signs, on the CPU.
    """
    number, stride = len(frames), encoder.stride
    signs = torch.randint(0, 2, (number, encoder.dim), generator=generator) * 2.0 - 1
    copies = x.detach().expand(number, -1, -1).clone().requires_grad_()
    lengths = torch.full((number,), len(x), device=x.device)
    cudnn = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False  # its recurrent kernels have a gradient in training only
    try:
        with torch.enable_grad():
            y, _ = encoder(copies, lengths)  # (P, S, D)
            rows = y[torch.arange(number, device=x.device), torch.tensor(frames, device=x.device)]
            (gradient,) = torch.autograd.grad((rows * signs.to(rows)).sum(), copies)
    finally:
        torch.backends.cudnn.enabled = cudnn
    gradient = F.pad(gradient.double(), (0, 0, 0, -len(x) % stride))  # in float32 squares underflow
    return gradient.unflatten(1, (-1, stride)).square().sum((2, 3))


class Decay:
    """r(k) over draws of utterances and frames: the root of the mean of squared norms."""

    def __init__(self) -> None:
        self.sums: Floats = np.zeros(0)
        self.draws: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def add(self, squares: Tensor, frames: Sequence[int]) -> None:
        """(P, S) of ``squared_gradients``, and the frame t of each row."""
        longest = max([len(self.sums), *(t + 1 for t in frames)])
        self.sums = np.pad(self.sums, (0, longest - len(self.sums)))
        self.draws = np.pad(self.draws, (0, longest - len(self.draws)))
        for row, t in zip(squares.cpu().numpy(), frames, strict=True):
            self.sums[: t + 1] += row[t::-1]
            self.draws[: t + 1] += 1

    def curve(self) -> Floats:
        """(K,) r at lags 0, 1, ... that at least half of the draws reach."""
        if not len(self.draws):
            return np.zeros(0)
        reached = self.draws >= SHARE * self.draws[0]
        return np.sqrt(self.sums[reached] / self.draws[reached])


def sight(curve: Floats) -> int | None:
    """The longest lag with a gradient, where there is a longer one without; None: none ends it."""
    there = np.flatnonzero(curve)
    if not len(there) or there[-1] == len(curve) - 1:
        return None
    return int(there[-1])


def fit(curve: Floats, frame_seconds: float) -> Fit | None:
    """Least squares of log r on k and on log k, at all lags k >= 1 where r is not 0.

    Both lines have three parameters (the variance is one), so AIC compares n log(RSS / n). It takes
    the residuals for independent; neighbouring lags are not, as they share draws, so the difference
    is larger than it should be. None: fewer than 4 lags.
    """
    lags = np.flatnonzero(curve)
    lags = lags[lags > 0]
    if len(lags) < LEAST_LAGS:
        return None
    logs = np.log(curve[lags])
    rate, exponential = _line(lags.astype(np.float64), logs)
    power, by_power = _line(np.log(lags), logs)
    difference = len(lags) * (by_power - exponential)
    law: Law = "exponential" if difference > 0 else "power"
    return Fit(
        half_life=math.log(2) / -rate * frame_seconds if rate < 0 else None,
        exponent=-power,
        aic_difference=difference,
        law=law if abs(difference) >= CLEAR else "neither",
    )


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    """Slope of the least-squares line, and the logarithm of its mean squared residual."""
    slope, start = np.polynomial.polynomial.polyfit(x, y, 1)[::-1]
    mean = float(np.square(y - start - slope * x).mean())
    return float(slope), math.log(max(mean, np.finfo(np.float64).tiny))
