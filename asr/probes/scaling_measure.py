"""Measures time and peak memory of forward and backward passes of layers and encoders.

A comparison times a layer and a reference implementation of equal width. Both take turns, so that
their ratio is reliable on a noisy machine. The encoders of recipes take turns as well; their FLOPs
by formula are reported, too.
"""

import argparse
import copy
import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.config import strict_yaml
from asr.encoders import ENCODERS, Encoder, state_bytes
from asr.loss import collected, weighted
from asr.probes.instrument import Measurement, alternate, exponent, facts
from asr.probes.layers import BUILD, Call, full
from asr.probes.probe import Measured
from asr.probes.scaling import COMPARISONS, Timing, encoder_files

log = logging.getLogger(__name__)

NUM_MELS = 80
ENCODER_TIMES = (400, 1600, 6400)  # feature frames: 4 s, 16 s and 64 s


def encoded(encoder: Encoder, x: Tensor) -> Tensor:
    """Encodes features (B, T, F) of utterances without padding as frames (B, S, D)."""
    return encoder(x, full(x))[0]


def training(module: nn.Module, x: Tensor) -> Callable[[], None]:
    """A function that runs forward and backward, with auxiliary losses, and clears gradients."""

    def step() -> None:
        try:
            with collected() as terms:
                y = module(x)
            tensors = [y, *([weighted(terms)] if any(t.weight for t in terms.values()) else [])]
            torch.autograd.backward(tensors, [torch.ones_like(t) for t in tensors])
        finally:  # also if the device is out of memory
            module.zero_grad(set_to_none=True)
            x.grad = None

    return step


def encoding(module: nn.Module, x: Tensor) -> Callable[[], None]:
    """A function that runs a forward pass in inference mode."""

    def step() -> None:
        with torch.inference_mode():
            module(x)

    return step


def compare(
    name: str, times: Sequence[int], *, batch: int, dim: int, device: str, repeats: int
) -> list[Timing]:
    """The rows of one comparison, one for each length."""
    subject, reference, own_times = COMPARISONS[name]
    rows = []
    for time in times or own_times:
        log.info("%s, %d frames", name, time)
        torch.manual_seed(0)
        try:
            pair = [module.to(device).train() for module in BUILD[name](dim)]
        except ValueError as error:  # invalid width
            rows.append(row((name, subject, reference, time, batch), None, error=str(error)))
            continue
        # In a model the layers below need the gradient of the input, so it is computed here, too.
        x = torch.randn(batch, time, dim, device=device, requires_grad=True)
        costs = alternate([training(module, x) for module in pair], device=device, repeats=repeats)
        sides = zip(("subject", "reference"), costs, strict=True)
        failed = "; ".join(f"{side}: out of memory" for side, cost in sides if cost is None)
        rows.append(row((name, subject, reference, time, batch), *costs, error=failed))
    return rows


def measure_encoders(
    recipes: Mapping[str, strict_yaml.Component],
    times: Sequence[int],
    *,
    batch: int,
    device: str,
    repeats: int,
) -> list[Timing]:
    """Two rows, training and encoding, per encoder and length; all encoders take turns."""
    encoders: dict[str, Encoder] = {}
    for name, component in recipes.items():
        torch.manual_seed(0)
        encoders[name] = component(NUM_MELS).to(device).train()
    rows = []
    for time in times or ENCODER_TIMES:
        log.info("%d encoders, %d feature frames", len(encoders), time)
        x = torch.randn(batch, time, NUM_MELS, device=device)
        steps = []
        for encoder in encoders.values():
            steps.append(training(Call(encoder, encoded), x))
            steps.append(encoding(Call(copy.deepcopy(encoder), encoded).eval(), x))
        costs = iter(alternate(steps, device=device, repeats=repeats))
        for name, encoder in encoders.items():
            flops = encoder.flops([time] * batch)
            parameters = sum(p.numel() for p in encoder.parameters())
            state = streamed_bytes(encoder, time) if encoder.causal else None
            for subject, passes in (("training", 3), ("encoding", 1)):
                cost = next(costs)
                rows.append(
                    row(
                        (name, subject, "", time, batch), cost, flops=passes * flops,
                        parameters=parameters, state_bytes=state,
                        error="" if cost else "out of memory",
                    )
                )  # fmt: skip
    return sorted(rows, key=lambda one: (list(recipes).index(one.name), one.subject != "training"))


def row(
    what: tuple[str, str, str, int, int],
    cost: Measurement | None,
    reference: Measurement | None = None,
    *,
    error: str,
    flops: int | None = None,
    **facts: Any,
) -> Timing:
    """A row with medians, ratios and speed; a cost is None if it ran out of memory."""
    found: dict[str, Any] = {}
    for prefix, one in (("", cost), ("reference_", reference)):
        if one is not None:
            found |= spread(f"{prefix}seconds", one.seconds)
            found |= {f"{prefix}peak_bytes": one.peak_bytes, f"{prefix}repeats": one.seconds}
    if cost is not None and reference is not None:
        pairs = zip(cost.seconds, reference.seconds, strict=True)
        found |= spread("ratio", [subject / reference for subject, reference in pairs])
        found["peak_ratio"] = cost.peak_bytes / reference.peak_bytes
    if cost is not None and flops is not None:
        found["flops_per_second"] = flops / cost.median
    names: dict[str, Any] = dict(
        zip(("name", "subject", "reference", "time", "batch"), what, strict=True)
    )
    return Timing(**names, error=error, flops=flops, **{"seconds": None, **found}, **facts)


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum of values, by key."""
    ends = (statistics.median(values), min(values), max(values))
    return dict(zip((name, f"{name}_min", f"{name}_max"), ends, strict=True))


def exponents(rows: Sequence[Timing]) -> list[dict[str, Any]]:
    """Exponents p of the growth T^p of time and peak memory, with standard errors.

    They are fitted for each subject and reference with measurements at three or more lengths.
    """
    curves: dict[tuple[str, str], list[tuple[int, float, int]]] = {}
    for one in rows:
        for words, prefix in ((one.subject, ""), (one.reference, "reference_")):
            middle, peak = (getattr(one, prefix + key) for key in ("seconds", "peak_bytes"))
            if middle is not None:
                curves.setdefault((one.name, words), []).append((one.time, middle, peak))
    fitted = []
    for (name, words), points in curves.items():
        times, *costs = zip(*points, strict=True)
        found: dict[str, Any] = {"name": name, "subject": words}
        for key, values in zip(("seconds", "peak_bytes"), costs, strict=True):
            if (power := exponent(times, values)) is not None:
                found |= dict(zip((key, f"{key}_error"), power, strict=True))
        if len(found) > 2:
            fitted.append(found)
    return fitted


def streamed_bytes(encoder: Encoder, time: int) -> int:
    """Bytes of state of a causal encoder after the whole chunks of ``time`` feature frames."""
    encoder = copy.deepcopy(encoder).eval()
    state = encoder.initial_state(1)
    device = next(encoder.parameters()).device
    chunks = time // encoder.chunk
    with torch.inference_mode():
        for number in [8] * (chunks // 8) + [1] * (chunks % 8):
            x = torch.randn(1, number * encoder.chunk, NUM_MELS, device=device)
            state = encoder.step(x, state)[1]
    return state_bytes(state)


def components(files: Mapping[str, Path]) -> dict[str, strict_yaml.Component]:
    """The encoders of recipe files, by name.

    Raises:
        ValueError: a recipe is invalid.
    """
    return {
        name: strict_yaml.read_component(ENCODERS, strict_yaml.load_file(path), str(path), 1)
        for name, path in files.items()
    }


def measure(options: argparse.Namespace, device: str) -> Iterator[Measured]:
    """Measures row by row and yields all rows so far, in case a later row is interrupted.

    Raises:
        ValueError: a row does not exist, two rows have one name, or a recipe is invalid.
    """
    recipes = encoder_files(options.encoders)
    names = [*COMPARISONS, *recipes]
    if len(recipes) < len(options.encoders or ()) or len(set(names)) < len(names):
        raise ValueError("--encoders: two rows of one name; rename a recipe file")
    for name in options.rows or ():
        if name not in names:
            raise ValueError(f"--rows {name}: no such row; choose from {', '.join(names)}")
    chosen = [name for name in names if not options.rows or name in options.rows]
    encoders = components({name: recipes[name] for name in chosen if name in recipes})
    settings = {"batch": options.batch, "device": device, "repeats": options.repeats}
    machine, rows = facts(device), []
    for name in chosen:
        if name in COMPARISONS:
            rows += compare(name, options.times, dim=options.dim, **settings)
            yield Measured(rows, machine, {"exponents": exponents(rows)})
    if encoders:
        rows += measure_encoders(encoders, options.times, **settings)
        yield Measured(rows, machine, {"exponents": exponents(rows)})
