"""Measures time and peak memory of training passes and of encoding, by encoder and length.

All encoders take turns, so that a slow moment of the machine affects all of them. Their FLOPs by
formula are reported, too.
"""

import argparse
import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from asr.config import strict_yaml
from asr.encoders import Encoder, state_bytes
from asr.probes.instrument import alternate, exponent, facts
from asr.probes.layers import NUM_MELS, recipes, training, whole
from asr.probes.probe import Measured, grouped
from asr.probes.scaling import PASSES, Timing
from asr.probes.streaming_measure import Stream

log = logging.getLogger(__name__)

TIMES = (400, 1600, 6400)  # feature frames: 4 s, 16 s and 64 s


@torch.inference_mode()
def encode(encoder: Encoder, x: Tensor) -> Tensor:
    """Runs a forward pass of features (B, T, F), which keeps nothing for a backward pass."""
    return whole(encoder, x)


def measure_encoders(
    components: Mapping[str, strict_yaml.Component],
    times: Sequence[int],
    *,
    batch: int,
    device: str,
    repeats: int,
) -> list[Timing]:
    """Two rows, training and encoding, per encoder and length; all encoders take turns."""
    encoders: dict[str, Encoder] = {}
    for name, component in components.items():
        torch.manual_seed(0)
        encoders[name] = component(NUM_MELS).to(device).train()
    rows = []
    for time in times or TIMES:
        log.info("%d encoders, %d feature frames", len(encoders), time)
        x = torch.randn(batch, time, NUM_MELS, device=device)
        steps: list[Callable[[], object]] = []
        for encoder in encoders.values():
            steps += [training(encoder, x), partial(encode, copy.deepcopy(encoder).eval(), x)]
        costs = iter(alternate(steps, device=device, repeats=repeats))
        for name, encoder in encoders.items():
            parameters = sum(p.numel() for p in encoder.parameters())
            state = streamed_bytes(encoder, time) if encoder.causal else None
            for subject, passes in PASSES.items():
                flops, cost = passes * encoder.flops([time] * batch), next(costs)
                found: dict[str, Any] = {}
                if cost is not None:
                    found = {
                        "seconds_min": min(cost.seconds), "seconds_max": max(cost.seconds),
                        "repeats": cost.seconds, "peak_bytes": cost.peak_bytes,
                        "flops_per_second": flops / cost.median,
                    }  # fmt: skip
                rows.append(
                    Timing(
                        name=name, subject=subject, time=time, batch=batch, flops=flops,
                        parameters=parameters, state_bytes=state,
                        seconds=None if cost is None else cost.median,
                        error="out of memory" if cost is None else "", **found,
                    )
                )  # fmt: skip
    order = {name: place for place, name in enumerate(encoders)}
    return sorted(rows, key=lambda one: (order[one.name], one.subject != "training"))


def exponents(rows: Sequence[Timing]) -> list[dict[str, Any]]:
    """Exponents p of the growth T^p of time and peak memory, with standard errors.

    They are fitted for each encoder and pass with measurements at three or more lengths.
    """
    fitted = []
    for (name, subject), own in grouped([row for row in rows if not row.error], "name", "subject"):
        found: dict[str, Any] = {"name": name, "subject": subject}
        for key in ("seconds", "peak_bytes"):
            power = exponent([row.time for row in own], [getattr(row, key) for row in own])
            if power is not None:
                found |= dict(zip((key, f"{key}_error"), power, strict=True))
        if len(found) > 2:
            fitted.append(found)
    return fitted


@torch.inference_mode()
def streamed_bytes(encoder: Encoder, time: int) -> int:
    """Bytes of state of a causal encoder after the whole chunks of ``time`` feature frames."""
    device = str(next(encoder.parameters()).device)
    stream = Stream("", copy.deepcopy(encoder).eval(), 1, encoder.chunk, device)
    stream.skip_to(time)
    return state_bytes(stream.state)


def measure(options: argparse.Namespace, device: str) -> Iterator[Measured]:
    """Measures all encoders together.

    Raises:
        ValueError: a recipe does not exist or is invalid, or two have one name.
    """
    rows = measure_encoders(
        recipes(options.encoders), options.times, batch=options.batch, device=device,
        repeats=options.repeats,
    )  # fmt: skip
    yield Measured(rows, facts(device), {"exponents": exponents(rows)})
