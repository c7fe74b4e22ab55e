"""Compares five ways to call cuDNN for a recurrent layer on utterances of different lengths.

python -m benchmarks.recurrence --device cuda --output runs/recurrence.json

- packed: one call computes both directions over a packed sequence, as torch offers it.
- one call: one call computes both directions over padded frames and ignores the lengths.
- padded: the same as "one call", but padding keeps a zero state at zero
  (asr/kernels/padded_cudnn.py).
- twice: each direction has a call of its own. The backward direction gets each utterance reversed
  within its length.
- forward alone: one call computes the forward direction over padded frames.

Lengths are drawn uniformly between half of the longest length and the longest length. Milliseconds
are medians of ``--repeats`` calls, and the ways take turns: see
``asr.probes.instrument.alternate``.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from asr.kernels.cudnn_rules import NAMES
from asr.kernels.low_precision import narrow
from asr.kernels.padded_cudnn import cudnn_padded
from asr.kernels.permute import Permute, reversal
from asr.metering.environment import environment
from asr.metering.precision import allow_tf32
from asr.probes.instrument import alternate

# Utterances, frames, width of a frame, cells per direction.
SIZES = [
    (16, 250, 384, 192), (64, 250, 384, 192), (64, 250, 512, 256), (24, 400, 768, 384),
    (64, 400, 768, 384), (64, 400, 512, 512),
]  # fmt: skip
TYPES = {NAMES[dtype]: dtype for dtype in (torch.float32, torch.float16, torch.bfloat16)}

Way = Callable[[Tensor], Tensor]


def ways(dim: int, cells: int, lengths: Tensor, dtype: torch.dtype) -> dict[str, Way]:
    """By name; each takes (B, S, D) float32. Weights are in float32, and cast where they must."""
    device = lengths.device
    both = nn.LSTM(dim, cells, bidirectional=True, batch_first=True).to(device)
    alone = nn.LSTM(dim, cells, batch_first=True).to(device)
    if dtype != torch.float32:
        return {
            "padded": lambda x: narrow(both, x, lengths, dtype, twice=False),
            "twice": lambda x: narrow(both, x, lengths, dtype, twice=True),
            "forward alone": lambda x: narrow(alone, x, lengths, dtype, twice=True),
        }
    other = nn.LSTM(dim, cells, batch_first=True).to(device)

    def packed(x: Tensor) -> Tensor:
        sequence = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(both(sequence)[0], batch_first=True, total_length=x.shape[1])[0]

    def twice(x: Tensor) -> Tensor:
        order = reversal(lengths, x.shape[1])
        z = Permute.apply(other(Permute.apply(x, order))[0], order)
        return torch.cat([alone(x)[0], z], dim=-1)

    return {
        "packed": packed,
        "one call": lambda x: both(x)[0],
        "padded": lambda x: cudnn_padded(both, x, lengths),
        "twice": twice,
        "forward alone": lambda x: alone(x)[0],
    }


@torch.no_grad()
def forward(run: Way, x: Tensor) -> None:
    """Nothing is kept for a backward pass."""
    run(x)


def both(run: Way, x: Tensor) -> None:
    """Forward and backward."""
    run(x).sum().backward()


def measure(sizes: Sequence[tuple[int, ...]], device: str, repeats: int) -> list[dict[str, Any]]:
    """A row for each size, type and way."""
    rows = []
    for batch, frames, dim, cells in sizes:
        torch.manual_seed(0)
        lengths = torch.randint(frames // 2, frames + 1, (batch,)).to(device)
        lengths[0] = frames
        x = torch.randn(batch, frames, dim, device=device)
        for name, dtype in TYPES.items():
            calls = ways(dim, cells, lengths, dtype)
            given = x.clone().requires_grad_()
            works = [partial(forward, run, x) for run in calls.values()]
            works += [partial(both, run, given) for run in calls.values()]
            taken = [
                one and 1000 * one.median
                for one in alternate(works, device=device, repeats=repeats)
            ]
            pairs = zip(taken[: len(calls)], taken[len(calls) :], strict=True)
            for way, (alone_ms, both_ms) in zip(calls, pairs, strict=True):
                row = {"batch": batch, "frames": frames, "cells": cells, "type": name, "way": way}
                rows.append(row | {"forward_ms": alone_ms, "both_ms": both_ms})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: forward and backward, and of a frame."""
    lines = [
        "| batch | frames | cells | type | way | forward, ms | with backward, ms | us a frame |",
        "| --: | --: | --: | --- | --- | --: | --: | --: |",
    ]
    for row in rows:
        each = 1000 * row["both_ms"] / row["frames"]
        cells = [str(row[key]) for key in ("batch", "frames", "cells", "type", "way")]
        cells += [f"{row['forward_ms']:.2f}", f"{row['both_ms']:.2f}", f"{each:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the table and writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("runs/recurrence.json"))
    parser.add_argument("--smallest", action="store_true", help="the first size alone")
    given = parser.parse_args(arguments)
    allow_tf32(given.device != "cpu")
    rows = measure(SIZES[:1] if given.smallest else SIZES, given.device, given.repeats)
    name = "cpu" if given.device == "cpu" else torch.cuda.get_device_name()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    facts = {"device": name, "machine": environment(), "rows": rows}
    given.output.write_text(json.dumps(facts, indent=1))
    print(f"{table(rows)}\n\n{name}; written: {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
