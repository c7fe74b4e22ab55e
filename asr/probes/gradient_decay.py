"""Fits how an encoder's gradients decay with distance: exponentially or as a power law.

r(k) is the norm of the derivative of an encoder frame with respect to the features k encoder frames
before it. Zhao et al. 2020 prove that r(k) decays exponentially for RNNs and LSTMs, and that long
memory needs a power law. Here both laws are fitted to trained encoders.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from asr.encoders import Encoder

SHARE = 0.5  # of the draws that must reach a lag for r to be told there
LEAST_LAGS = 4  # each law has three parameters
CLEAR = 2.0  # a smaller difference of AIC is no preference (Burnham and Anderson 2002, section 2.6)

RESAMPLES = 500
AGREEMENT = 0.95

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


@dataclass(frozen=True)
class Judged:
    """A fit with what resampling the utterances says of it.

    Attributes:
        fit: its law is neither where resamples disagree.
        interval: 95 % of the half-life, in seconds; infinite where r does not fall.
        agreement: share of the resamples whose AIC prefers the same law.
    """

    fit: Fit
    interval: tuple[float, float]
    agreement: float


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
        self._sums: list[Floats] = []  # of squares by lag, an utterance each
        self._draws: list[Floats] = []

    def add(self, squares: Tensor, frames: Sequence[int]) -> None:
        """(P, S) of ``squared_gradients`` of an utterance, and the frame t of each row."""
        sums, draws = np.zeros(max(frames) + 1), np.zeros(max(frames) + 1)
        for row, t in zip(squares.cpu().numpy(), frames, strict=True):
            sums[: t + 1] += row[t::-1]
            draws[: t + 1] += 1
        self._sums.append(sums)
        self._draws.append(draws)

    @property
    def utterances(self) -> int:
        """Utterances added."""
        return len(self._sums)

    @property
    def draws(self) -> int:
        """Frames whose gradient was taken."""
        return int(sum(draws[0] for draws in self._draws))

    def curve(self) -> Floats:
        """(K,) r at lags 0, 1, ... that at least half of the draws reach."""
        return self.resamples([np.ones(self.utterances)])[0]

    def resamples(self, weights: Sequence[Floats]) -> list[Floats]:
        """The curve, over the same lags, with each utterance counted so many times."""
        sums, draws = _stacked(self._sums), _stacked(self._draws)  # (utterances, lags)
        lags = int((draws.sum(0) >= SHARE * draws[:, 0].sum()).sum())
        curves = []
        for weight in weights:
            number = weight @ draws[:, :lags]
            mean = np.divide(weight @ sums[:, :lags], number, np.zeros(lags), where=number > 0)
            curves.append(np.sqrt(mean))
        return curves


def _stacked(rows: Sequence[Floats]) -> Floats:
    longest = max(map(len, rows))
    return np.stack([np.pad(row, (0, longest - len(row))) for row in rows])


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


def judge(decay: Decay, frame_seconds: float, seed: int = 0) -> Judged | None:
    """The fit, and what other utterances would have made of it; None: too few lags.

    AIC alone is too sure of itself, see ``fit``: a law is named only where the fits to 19 of 20
    resamples of the utterances prefer it as well.
    """
    found = fit(decay.curve(), frame_seconds)
    if found is None:
        return None
    number = decay.utterances
    random = np.random.default_rng(seed)
    weights = random.multinomial(number, np.full(number, 1 / number), RESAMPLES).astype(np.float64)
    fits = [f for c in decay.resamples(list(weights)) if (f := fit(c, frame_seconds)) is not None]
    lives = [math.inf if f.half_life is None else f.half_life for f in fits]
    low, high = np.quantile(lives, [0.025, 0.975], method="nearest").tolist()
    alike = [f.aic_difference * found.aic_difference > 0 for f in fits]
    agreement = sum(alike) / len(alike)
    law = found.law if agreement >= AGREEMENT else "neither"
    return Judged(replace(found, law=law), (low, high), agreement)


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    """Slope of the least-squares line, and the logarithm of its mean squared residual."""
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    mean = float(np.square(y - slope * x).mean())
    return slope, math.log(max(mean, np.finfo(np.float64).tiny))
