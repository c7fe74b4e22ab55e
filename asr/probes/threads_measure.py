"""Times layers of equal FLOPs on one thread and on several, to see which one gains more.

Threads of OpenMP wait for each other at the end of each operation, so many small operations gain
less than a few large ones. The number of threads is set when a process starts, and each timing is
made in a process of its own. Processes of one thread and of several alternate.
"""

import argparse
import bisect
import logging
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from asr.kernels.linear import linear
from asr.metering.environment import cores
from asr.probes.instrument import alternate, facts, in_process, used
from asr.probes.layers import ONE_WAY, layer, training
from asr.probes.probe import Measured
from asr.probes.threads import PRODUCT, REFERENCE, Speedup

log = logging.getLogger(__name__)

LAYERS: dict[str, dict[str, Any]] = {"LSTM": ONE_WAY, REFERENCE: {"heads": 4}, "MinLSTM": ONE_WAY}
SQUARE = 2048  # rows and columns of the product that measures the peak
STEP, TOLERANCE = 8, 0.05  # widths are multiples of the step; largest difference of the FLOPs


def widths(dim: int, frames: int) -> dict[str, int]:
    """The width of each layer at which its FLOPs are closest to those of an LSTM of width ``dim``.

    Raises:
        ValueError: the FLOPs of a layer differ by more than 5 % at every width.
    """
    target, found = flops("LSTM", dim, frames), {"LSTM": dim}
    for name in LAYERS:
        if name in found:
            continue
        sizes = range(STEP, 4 * dim, STEP)
        above = bisect.bisect(sizes, target, key=lambda width: flops(name, width, frames))
        near = sizes[max(0, above - 1) : above + 1]
        error, found[name] = min((abs(flops(name, w, frames) / target - 1), w) for w in near)
        if error > TOLERANCE:
            raise ValueError(
                f"--dim {dim}: the FLOPs of a {name} layer of {frames} frames differ by "
                f"{100 * error:.0f} % from those of the LSTM at every width; give a larger --dim"
            )
    return found


def flops(name: str, width: int, frames: int) -> int:
    """FLOPs of a training pass over one utterance; a backward pass counts as two forward ones."""
    return 3 * layer(name, width, **LAYERS[name]).flops(frames)


def time_layers(
    sizes: dict[str, int], frames: int, batches: Sequence[int], calls: int
) -> dict[str, Any]:
    """Times all layers in this process.

    Returns:
        ``seconds``: for each batch, the median times of the layers and of the product.

    Raises:
        ValueError: memory is too small.
    """
    square, seconds = torch.randn(SQUARE, SQUARE), []
    for batch in batches:
        passes = []
        for name, width in sizes.items():
            module = layer(name, width, **LAYERS[name]).train()
            passes.append(training(module, torch.randn(batch, frames, width, requires_grad=True)))
        found = alternate([*passes, lambda: linear(square, square)], repeats=calls)
        taken = [one.median for one in found if one is not None]
        if len(taken) < len(found):
            raise ValueError(f"--batches {batch}: out of memory; give a smaller one")
        seconds.append(taken)
    return {"seconds": seconds}


def measure(options: argparse.Namespace, device: str) -> Iterator[Measured]:
    """Starts the processes in turn, and yields the rows of all repeats.

    Raises:
        ValueError: the machine has fewer cores, no width gives equal FLOPs, or a process failed.
    """
    if device != "cpu":
        raise ValueError(f"--device {device}: threads are those of a CPU; give --device cpu")
    if not 2 <= options.threads <= cores():
        raise ValueError(f"--threads {options.threads}: give 2 to {cores():g}, the cores there are")
    sizes = widths(options.dim, options.frames)
    arguments = (sizes, options.frames, options.batches, options.calls)
    found: dict[int, list[dict[str, Any]]] = {1: [], options.threads: []}
    for repeat in range(options.repeats):
        for threads, processes in found.items():
            processes.append(in_process(time_layers, threads, device, *arguments))
            log.info("repeat %d of %d, threads: %d", repeat + 1, options.repeats, threads)
        every = [process for processes in found.values() for process in processes]
        machine = {**facts(device), "threads": options.threads, **used(every)}
        yield Measured(rows(sizes, options, found), machine)


def rows(
    sizes: dict[str, int], options: argparse.Namespace, found: dict[int, list[dict[str, Any]]]
) -> list[Speedup]:
    """The rows of all layers by batch, then the product."""
    made: list[Speedup] = []
    product = 2 * SQUARE**3
    for index, batch in enumerate(options.batches):
        # seconds[threads][layer][repeat]
        seconds = {
            n: list(zip(*(p["seconds"][index] for p in found[n]), strict=True)) for n in found
        }
        one, many = seconds[1], seconds[options.threads]
        gains = [
            [a / b for a, b in zip(*pair, strict=True)] for pair in zip(one, many, strict=True)
        ]
        names = [*sizes, PRODUCT]
        reference = gains[names.index(REFERENCE)]
        for i, name in enumerate(names):
            work = product if name == PRODUCT else batch * flops(name, sizes[name], options.frames)
            made.append(
                Speedup(
                    layer=name, width=sizes.get(name, SQUARE), flops=work, threads=options.threads,
                    frames=options.frames if name in sizes else 0,
                    batch=batch if name in sizes else 0,
                    seconds=statistics.median(one[i]), one=one[i], many=many[i],
                    share=[work / s / (product / p) for s, p in zip(one[i], one[-1], strict=True)],
                    ratio=[g / r for g, r in zip(gains[i], reference, strict=True)],
                )
            )  # fmt: skip
    last = len(options.batches) * len(names)
    return [row for i, row in enumerate(made, 1) if row.batch or i == last]
