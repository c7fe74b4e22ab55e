"""Compares an update of asr and of SpeechBrain on all cores of a CPU, each used as suits it best.

scripts/benchmark_speechbrain --updates

Models, batch and loss are those of ``benchmarks.against_speechbrain``. Each side trains in two
ways, and its faster way counts: one process with a thread for each core, or one process for each
core with one thread. Processes are data-parallel (torch's DistributedDataParallel), and each trains
on a part of the batch: utterances of similar lengths. Processes of asr keep freed memory, as in
``asr train``.

Each round starts every model once in both ways, one after the other, and takes ``--steps`` updates
after two that do not count. The result of a round is the median of its updates. The table shows the
medians over the rounds with the least and the most, and the range of the ratio over the rounds.

FLOP/s: torch's counter counts the forward pass over the whole batch as each side computes it,
padding included. The backward pass counts twice that.
"""

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from asr.kernels.allocator import keep_freed_memory
from benchmarks.contenders import (
    Input,
    Ours,
    TheirLSTM,
    Theirs,
    TheirTransformer,
    draw,
    our_lstm,
    our_transformer,
)
from tests.tiny import counted_flops

WARM = 2  # updates of a round that do not count
MODELS: dict[str, dict[str, Callable[[], Ours | Theirs]]] = {
    "LSTM": {"ours": our_lstm, "SpeechBrain, packed": partial(TheirLSTM, packed=True)},
    "Transformer": {"ours": our_transformer, "SpeechBrain": TheirTransformer},
}


class Lossy(nn.Module):
    """A model whose forward pass is its loss, as DistributedDataParallel needs it."""

    def __init__(self, model: Ours | Theirs) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Input) -> Tensor:
        """The loss of a batch, ()."""
        return self.model.loss(x)


def part(x: Input, rank: int, number: int) -> Input:
    """The utterances of one of so many processes, cut to the longest of them."""
    rows = x.frames.argsort().chunk(number)[rank]
    frames, token_lengths = x.frames[rows], x.token_lengths[rows]
    features = x.features[rows, : int(frames.max())]
    tokens = x.tokens[rows, : int(token_lengths.max())]
    return replace(x, features=features, frames=frames, tokens=tokens, token_lengths=token_lengths)


def updates(rank: int, number: int, threads: int, job: dict[str, Any], file: str, results) -> None:  # type: ignore[no-untyped-def]
    """One of so many processes: trains, and the first of them sends the seconds of its updates."""
    torch.set_num_threads(threads)
    if job["model"] == "ours":
        keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=number)
    torch.manual_seed(job["seed"])
    model = Lossy(MODELS[job["encoder"]][job["model"]]()).train()
    x = draw(job["seed"], job["batch"])
    flops = 0
    if rank == 0:
        with torch.no_grad():
            flops = 3 * counted_flops(lambda: model(x))
    trained = DistributedDataParallel(model) if number > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x, taken = part(x, rank, number), []
    for _ in range(WARM + job["steps"]):
        dist.barrier()
        began = time.perf_counter()
        optimizer.zero_grad()
        trained(x).backward()
        optimizer.step()
        dist.barrier()
        taken.append(time.perf_counter() - began)
    if rank == 0:
        results.put({"seconds": statistics.median(taken[WARM:]), "flops": flops})
    dist.destroy_process_group()


def measure(number: int, threads: int, job: dict[str, Any]) -> dict[str, Any]:
    """Seconds and FLOPs of an update by so many processes of so many threads."""
    # This process computes nothing, so that it has no pool of threads and can fork.
    fork = torch.multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        given = (number, threads, job, f"{folder}/group", results)
        processes = [fork.Process(target=updates, args=(rank, *given)) for rank in range(number)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"a process of {job} with {threads} threads failed")
    return results.get()


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each encoder, model, way and round."""
    ways = {f"1 process, {options.threads} threads": (1, options.threads)}
    ways[f"{options.threads} processes, 1 thread"] = (options.threads, 1)
    rows = []
    for number in range(1, options.rounds + 1):
        for encoder, models in MODELS.items():
            for model in models:
                for way, (processes, threads) in ways.items():
                    job = {"encoder": encoder, "model": model, "seed": options.seed}
                    job |= {"batch": options.batch, "steps": options.steps}
                    found = measure(processes, threads, job)
                    rows.append({**job, "way": way, "round": number, **found})
                    logging.info("%s", rows[-1])
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: both ways of both sides, and the ratio of the faster ones."""
    lines = [
        "| encoder | model | way | s per update | GFLOP/s | ours / theirs, the faster ways |",
        "| --- | --- | --- | --: | --: | --: |",
    ]
    for encoder, models in MODELS.items():
        fastest: dict[str, list[float]] = {}
        told = []
        for model in models:
            for way in dict.fromkeys(row["way"] for row in rows):
                found = [
                    row
                    for row in rows
                    if (row["encoder"], row["model"], row["way"]) == (encoder, model, way)
                ]
                seconds = [row["seconds"] for row in found]
                median = statistics.median(seconds)
                speed = found[0]["flops"] / median / 1e9
                cells = f"{encoder} | {model} | {way} | {median:.3f} ({min(seconds):.3f} to "
                told.append(f"| {cells}{max(seconds):.3f}) | {speed:.0f} |")
                if model not in fastest or median < statistics.median(fastest[model]):
                    fastest[model] = seconds
        ours, theirs = fastest.values()
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        ratio = statistics.median(ours) / statistics.median(theirs)
        told[-1] += f" **{ratio:.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) |"
        lines += [line if line is told[-1] else f"{line} |" for line in told]
    return "\n".join(lines)
