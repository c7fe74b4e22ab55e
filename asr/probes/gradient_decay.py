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

SHARE = 0.5  # least share of the draws that must reach a lag for r to be computed there
LEAST_LAGS = 4  # more than the three parameters of each law
CLEAR = 2.0  # least AIC difference that prefers a law (Burnham and Anderson 2002, section 2.6)

RESAMPLES = 500
AGREEMENT = 0.95

Floats = NDArray[np.float64]
Law = Literal["exponential", "power", "neither"]


@dataclass(frozen=True)
class Fit:
    """Least-squares lines through log r, over k and over log k.

    Attributes:
        half_life: seconds in which r halves, from the line over k; None if r does not fall.
        exponent: p in r ~ k^-p, from the line over log k.
        aic_difference: AIC of the power law minus that of the exponential; > 0 favours the latter.
        law: the law that fits clearly better, or ``neither``.
    """

    half_life: float | None
    exponent: float
    aic_difference: float
    law: Law


@dataclass(frozen=True)
class Judged:
    """A fit, and its stability when the utterances are resampled.

    Attributes:
        fit: the fit; its law is ``neither`` if the resamples disagree.
        interval: 95 % interval of the half-life, in seconds; infinite where r does not fall.
        agreement: share of the resamples whose AIC prefers the same law.
    """

    fit: Fit
    interval: tuple[float, float]
    agreement: float


def squared_gradients(
    encoder: Encoder, x: Tensor, frames: Sequence[int], generator: torch.Generator
) -> Tensor:
    """Computes ||v^T dy_t/dx_s||^2, (P, S) float64, for P encoder frames t and each frame s.

    x_s are the ``stride`` feature frames of encoder frame s. v holds random signs. The expectation
    over v is the squared Frobenius norm of the derivative (Hutchinson 1990), so one backward pass
    replaces D of them. Decisions without a gradient, such as those of a gate, count as constant.

    Args:
        encoder: in eval mode, on the device of ``x``.
        x: features of one utterance.
        frames: the encoder frames t.
        generator: draws the signs, on the CPU.
    """
    number, stride = len(frames), encoder.stride
    signs = torch.randint(0, 2, (number, encoder.dim), generator=generator) * 2.0 - 1
    copies = x.detach().expand(number, -1, -1).clone().requires_grad_()
    lengths = torch.full((number,), len(x), device=x.device)
    cudnn = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False  # its recurrent kernels have no backward pass in eval mode
    try:
        with torch.enable_grad():
            y, _ = encoder(copies, lengths)  # (P, S, D)
            rows = y[torch.arange(number, device=x.device), torch.tensor(frames, device=x.device)]
            (gradient,) = torch.autograd.grad((rows * signs.to(rows)).sum(), copies)
    finally:
        torch.backends.cudnn.enabled = cudnn
    gradient = F.pad(gradient.double(), (0, 0, 0, -len(x) % stride))  # squares underflow in float32
    return gradient.unflatten(1, (-1, stride)).square().sum((2, 3))


class Decay:
    """Accumulates r(k) over utterances and frames: the root of the mean of squared norms."""

    def __init__(self) -> None:
        self._sums: list[Floats] = []  # sums of squares by lag, one array per utterance
        self._draws: list[Floats] = []  # number of summands

    def add(self, squares: Tensor, frames: Sequence[int]) -> None:
        """Adds the (P, S) ``squared_gradients`` of an utterance; ``frames`` has t of each row."""
        sums, draws = np.zeros(max(frames) + 1), np.zeros(max(frames) + 1)
        for row, t in zip(squares.cpu().numpy(), frames, strict=True):
            sums[: t + 1] += row[t::-1]
            draws[: t + 1] += 1
        self._sums.append(sums)
        self._draws.append(draws)

    @property
    def utterances(self) -> int:
        """Number of utterances that were added."""
        return len(self._sums)

    @property
    def draws(self) -> int:
        """Number of frames whose gradient was added."""
        return int(sum(draws[0] for draws in self._draws))

    def curve(self) -> Floats:
        """Returns r (K,) at lags 0, 1, ... up to the longest that half of the draws reach."""
        return self.resamples([np.ones(self.utterances)])[0]

    def resamples(self, weights: Sequence[Floats]) -> list[Floats]:
        """The curve at the same lags, for each array of weights of the utterances."""
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
    """The longest lag with a nonzero gradient; None if the curve is nonzero up to its end."""
    there = np.flatnonzero(curve)
    if not len(there) or there[-1] == len(curve) - 1:
        return None
    return int(there[-1])


def fit(curve: Floats, frame_seconds: float) -> Fit | None:
    """Least squares of log r on k and on log k, at all lags k >= 1 where r is not 0.

    Both lines have three parameters (including the variance), so AIC compares n log(RSS / n). AIC
    assumes independent residuals, but neighbouring lags share draws, so the difference is too
    large. The result is None for fewer than 4 lags.
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
    """The fit and its stability over resamples of the utterances; None if there are too few lags.

    AIC alone is overconfident, see ``fit``. A law is therefore named only if the fits to at least
    19 of 20 resamples prefer it, too.
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
