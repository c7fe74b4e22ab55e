"""Trains encoders to recall a symbol after a lag, with equal updates and with equal seconds.

The blocks of causal encoders, without subsampling, read one token per frame, and name the symbol
after the last token (``memory_tasks``). A failed attempt does not show whether the encoder cannot
hold the symbol or whether training did not find a way to hold it. The initialisation matters as
much as the architecture, so there are three LSTM arms. Mixed tasks train at random lags up to the
lag of the test, so that short lags prepare for long ones. With ``--extrapolate``, arms that solve
their lag are also tested at 2, 4, ... times this lag, without further training. With
``--curriculum``, an attempt first trains at shorter lags, each until it is solved.
"""

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.config import strict_yaml
from asr.encoders import ENCODERS, Encoder, Frames
from asr.encoders.stack import Stack
from asr.locks import locked
from asr.metering.device_clock import wait_for
from asr.probes.horizon import ARMS, AXES, SOLVED, Attempt, median_accuracy
from asr.probes.instrument import facts
from asr.probes.layers import full
from asr.probes.memory_tasks import SYMBOLS, TASKS, Questions, corrected
from asr.probes.probe import Measured

log = logging.getLogger(__name__)

BATCH, QUESTIONS = 32, 512  # questions per training batch, questions per test
# A test that succeeds is confirmed with this number of new questions: tests are repeated while an
# arm trains, so one of them succeeds by chance more often than a single test does.
CONFIRM = 2048
TEST_TOKENS = 2**19  # most tokens in a test batch, which limits the batch at the longest lags
CHECK_EVERY = 25  # updates between tests
CLIP_NORM = 1.0


@dataclass(frozen=True)
class Budget:
    """An attempt ends when both parts of the budget are spent, or when it solves the task."""

    updates: int
    seconds: float


class Reader(nn.Module):
    """Embeds tokens, runs the blocks of an encoder and classifies the last frame."""

    def __init__(self, encoder: Encoder, vocabulary: int) -> None:
        super().__init__()
        assert isinstance(encoder, Stack)
        self.embedding = nn.Embedding(vocabulary, encoder.dim)
        self.layers, self.norm = encoder.layers, encoder.norm
        self.answer = nn.Linear(encoder.dim, SYMBOLS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Computes logits (B, SYMBOLS) of the answer from tokens (B, S)."""
        x = self.embedding(tokens)
        frames = Frames(x, full(x))
        for block in self.layers:
            frames = block(frames)
        return self.answer(self.norm(frames.x[:, -1]))


def build(arm: str, vocabulary: int, lag: int, seed: int) -> Reader:
    """Builds an arm with its initialisation; that of chrono uses ``lag``, as in the paper."""
    kind, options, bias = ARMS[arm]
    torch.manual_seed(seed)
    given = options if bias in (None, "chrono") else {**options, "forget_bias": bias}
    tree = {"class_path": kind, "init_args": given}
    encoder: Encoder = strict_yaml.read_component(ENCODERS, tree, arm, 1)(vocabulary)
    if bias == "chrono":
        for module in encoder.modules():
            if isinstance(module, nn.LSTM):
                chrono(module, lag)
    return Reader(encoder, vocabulary)


@torch.no_grad()
def chrono(lstm: nn.LSTM, longest: int) -> None:
    """Sets forget biases to log U[1, longest - 1] and input biases to their negative.

    A gate with the bias log(t - 1) forgets in about t steps, so the cells start with time constants
    from 1 to ``longest`` (Tallec and Ollivier 2018).
    """
    cells = lstm.hidden_size
    for layer in range(lstm.num_layers):
        bias, other = getattr(lstm, f"bias_ih_l{layer}"), getattr(lstm, f"bias_hh_l{layer}")
        bias.zero_()
        other.zero_()
        forget = torch.empty(cells).uniform_(1, max(longest - 1, 1.001)).log()
        bias[cells : 2 * cells] = forget.to(bias)
        bias[:cells] = -forget.to(bias)


def attempt(
    arm: str,
    task: str,
    lag: int,
    *,
    seed: int,
    rate: float,
    budget: Budget,
    device: str,
    name: str,
    commit: str | None = None,
    extrapolate: int = 0,
    curriculum: Sequence[int] = (),
) -> Attempt:
    """Trains one arm at one lag, and tests it with new questions.

    Before, it trains at those lags of ``curriculum`` that are shorter, each until it is solved.

    An arm that solves its lag is also tested at longer lags up to ``extrapolate``, without further
    training.
    """
    memory = TASKS[task]
    reader = build(arm, memory.questions.vocabulary, lag, seed).to(device)
    optimizer = torch.optim.Adam(reader.parameters(), lr=rate)
    training = torch.Generator().manual_seed(2 * seed)
    testing = torch.Generator().manual_seed(2 * seed + 1)

    def test(distance: int) -> float:
        accuracy = ask(distance, QUESTIONS)
        return accuracy if accuracy < SOLVED else ask(distance, CONFIRM)

    def ask(distance: int, questions: int) -> float:
        reader.eval()
        right = wrong = 0
        batch = max(1, min(BATCH, TEST_TOKENS // distance))
        with torch.inference_mode():
            # Stop as soon as the test has failed.
            while right + wrong < questions and corrected(1 - wrong / questions) >= SOLVED:
                number = min(batch, questions - right - wrong)
                tokens, answers = memory.questions.draw(number, distance, testing)
                hits = int((reader(tokens.to(device)).argmax(1).cpu() == answers).sum())
                right, wrong = right + hits, wrong + number - hits
        reader.train()
        return corrected(right / (right + wrong))

    def gradient(questions: Questions) -> None:
        F.cross_entropy(
            reader(questions.tokens.to(device)), questions.answers.to(device)
        ).backward()

    # The first call loads GPU kernels, so it runs outside of the measured time.
    gradient(memory.questions.draw(BATCH, lag, torch.Generator().manual_seed(0)))
    optimizer.zero_grad(set_to_none=True)
    updates, here, seconds, accuracy = 0, 0, 0.0, 0.0
    trained = [*sorted(shorter for shorter in curriculum if shorter < lag), lag]
    at: dict[str, float] = {}
    while len(at) < 2:
        wait_for(device)
        began = time.perf_counter()
        for _ in range(CHECK_EVERY):
            gradient(memory.draw_for_training(BATCH, trained[0], training))
            nn.utils.clip_grad_norm_(reader.parameters(), CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait_for(device)
        seconds += time.perf_counter() - began
        updates += CHECK_EVERY
        here += CHECK_EVERY * (len(trained) == 1)
        while len(trained) > 1 and test(trained[0]) >= SOLVED:
            log.info("%s: solved %d after %d updates", arm, trained.pop(0), updates)
        spent = updates >= budget.updates or (seconds >= budget.seconds and "seconds" not in at)
        if len(trained) > 1 and not spent:
            continue  # a test at a long lag takes as long as many updates at short ones
        accuracy = test(lag)
        solved = accuracy >= SOLVED
        if updates >= budget.updates or solved:
            at.setdefault("updates", accuracy)
        if seconds >= budget.seconds or solved:
            at.setdefault("seconds", accuracy)
    solved = accuracy >= SOLVED
    reached = lag if solved and extrapolate else None
    while reached and 2 * reached <= extrapolate and test(2 * reached) >= SOLVED:
        reached *= 2
    total = (updates, seconds)
    at_solved: tuple[int | None, float | None] = total if solved else (None, None)
    accuracies = (at["updates"], at["seconds"])
    return Attempt(
        arm, task, lag, seed, rate, size(reader), *accuracies, *at_solved, *total, budget.updates,
        budget.seconds, name, commit, extrapolate, reached, [*curriculum], here,
    )  # fmt: skip


def attempts(
    arms: Sequence[str],
    tasks: Sequence[str],
    lags: Sequence[int],
    seeds: int,
    rates: Sequence[float],
    done: Sequence[Attempt],
    **settings: Any,
) -> Iterator[Attempt]:
    """Runs the attempts that are not in ``done``; an arm stops after two failed lags in a row.

    All arms run at one lag before the next lag, so that an interrupted run can compare them. The
    ``settings`` are those of ``attempt``.
    """
    failures = dict.fromkeys(product(arms, tasks), 0)
    for lag in sorted(lags):
        for (arm, task), failed in list(failures.items()):
            if failed >= 2:
                continue
            here = [r for r in done if (r.arm, r.task, r.lag) == (arm, task, lag)]
            for seed, rate in product(range(seeds), rates):
                if any(r.seed == seed and r.rate == rate for r in here):
                    continue
                row = attempt(arm, task, lag, seed=seed, rate=rate, **settings)
                here.append(row)
                yield row
            solved = max(median_accuracy(here, axis) for axis in AXES) >= SOLVED
            failures[arm, task] = 0 if solved else failed + 1


def measure(options: argparse.Namespace, device: str) -> Iterator[Measured]:
    """Runs the missing attempts, and appends a line to horizon.jsonl after each.

    Raises:
        ValueError: an option is invalid, or the folder has other budgets.
    """
    arms = options.arms or list(ARMS)
    for arm in arms:
        if arm not in ARMS:
            raise ValueError(f"--arms {arm}: no such arm; choose from {', '.join(ARMS)}")
    for rate in options.rates:
        if not 0 < rate < math.inf:
            raise ValueError(f"--rates {rate}: give learning rates above 0")
    if 0 < options.extrapolate < 2 * min(options.lags):
        raise ValueError(
            f"--extrapolate {options.extrapolate}: twice the shortest of --lags is "
            f"{2 * min(options.lags)}; give as much or more"
        )
    budget = Budget(options.updates, options.seconds)
    path: Path = options.output / "horizon.jsonl"
    machine = facts(device)
    with locked(options.output / ".lock"):
        rows = read(path, budget, machine["device_name"], options.curriculum)
        missing = attempts(
            arms, options.tasks, options.lags, options.seeds, options.rates, list(rows),
            budget=budget, device=device, name=machine["device_name"],
            commit=machine["git_commit"], extrapolate=options.extrapolate,
            curriculum=options.curriculum,
        )  # fmt: skip
        with path.open("a", encoding="utf-8") as file:
            for row in missing:
                rows.append(row)
                file.write(json.dumps(asdict(row)) + "\n")
                file.flush()
                log.info(
                    "%s, %s, lag %d, seed %d, rate %g: %.2f after %d updates, %.1f s",
                    *(row.task, row.arm, row.lag, row.seed, row.rate),
                    *(row.accuracy_updates, row.updates, row.seconds),
                )
        yield Measured(rows, machine)


def size(reader: Reader) -> int:
    """Number of parameters in the blocks."""
    return sum(p.numel() for p in reader.layers.parameters())  # type: ignore[attr-defined]


def read(
    path: Path, budget: Budget, device_name: str, curriculum: Sequence[int] = ()
) -> list[Attempt]:
    """Reads earlier attempts, and removes an incomplete last line from the file.

    Raises:
        ValueError: an attempt had another budget, device or curriculum.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]  # without an incomplete last line
    if len(whole) < len(lines):
        path.write_text("".join(whole), encoding="utf-8")
    rows = [Attempt(**json.loads(line)) for line in whole]
    for row in rows:
        before = (row.budget_updates, row.budget_seconds, row.device_name)
        if before != (budget.updates, budget.seconds, device_name):
            raise ValueError(
                f"{path} was measured with {before[0]} updates, {before[1]:g} s on {before[2]}; "
                "choose another --output"
            )
        if [*row.curriculum] != [*curriculum]:
            lags = " ".join(map(str, row.curriculum)) or "none"
            raise ValueError(
                f"{path} was measured with --curriculum {lags}; choose another --output"
            )
    return rows
