"""What ``asr claims context`` writes: a table for readers, CSV of every context, JSON of it all."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asr.probes.output import threads, write_probe


@dataclass(frozen=True)
class Point:
    """One model whose encoder hears so much of the past.

    Attributes:
        run: folder of the model.
        encoder, decoder, seed: of the run.
        context, frames: seconds and encoder frames before its own that a frame may hear; of the
            whole past, those of the last frame of the longest utterance.
        whole: whether it is the whole past, an ordinary evaluation.
        loss: of the decoder per token, in evaluation.
        loss_ratio, ratio_low, ratio_high: loss over that of the whole past, with its 95 % interval
            over speakers, of the same utterances in both.
        errors, reference_words: pooled, of greedy search.
        wer, low, high: with its 95 % interval over speakers.
    """

    run: str
    encoder: str
    decoder: str
    seed: int
    context: float
    frames: int
    whole: bool
    loss: float
    loss_ratio: float
    ratio_low: float
    ratio_high: float
    errors: int
    reference_words: int
    wer: float
    low: float
    high: float


@dataclass(frozen=True)
class Effective:
    """What the contexts and the gradients of one model come to.

    Attributes:
        run, encoder, decoder, seed: as of a point.
        search: what found the words.
        utterances, utterances_of: drawn, and how many there are.
        frame_seconds, chunk_seconds: of an encoder frame, and of the frames that see each other.
        loss, wer: with the whole past.
        context: seconds, the shortest tried that is enough; None: only the whole past is.
        context_low, context_high: enough by the lower and by the upper end of the ratio's interval.
        again_above: longer contexts, in seconds, whose loss is above the bound again.
        half_life: seconds, of the exponential; None: the gradient does not fall, or too few lags.
        half_life_low, half_life_high: 95 % interval over utterances; None: it does not fall.
        exponent: of the power law.
        aic_difference: AIC of the power law less that of the exponential.
        law: which of them fits better, or neither clearly; empty: too few lags.
        agreement: share of resamples of the utterances that prefer the same.
        sight: seconds after which the gradient is exactly zero; None: not within the lags.
        draws: frames whose gradient was taken.
        gradient: r at lags of 0, 1, ... encoder frames.
    """

    run: str
    encoder: str
    decoder: str
    seed: int
    search: str
    utterances: int
    utterances_of: int
    frame_seconds: float
    chunk_seconds: float
    loss: float
    wer: float
    context: float | None
    context_low: float | None
    context_high: float | None
    again_above: list[float]
    half_life: float | None
    half_life_low: float | None
    half_life_high: float | None
    exponent: float | None
    aic_difference: float | None
    law: str
    agreement: float | None
    sight: float | None
    draws: int
    gradient: list[float]


def save(
    points: Sequence[Point],
    runs: Sequence[Effective],
    machine: dict[str, Any],
    output: Path,
    plan: dict[str, Any],
) -> str:
    """Writes context.json, .csv and .md; the last as text."""
    rows = [asdict(point) for point in points]
    page = to_page(points, runs, machine, plan)
    everything = {
        "machine": machine,
        "plan": plan,
        "points": rows,
        "runs": [asdict(one) for one in runs],
    }
    write_probe(output, "context", rows, everything, page)
    return page


def to_page(
    points: Sequence[Point],
    runs: Sequence[Effective],
    machine: dict[str, Any],
    plan: dict[str, Any],
) -> str:
    """Two tables: what the runs come to, and every context of each."""
    return (
        "\n\n".join(
            [
                "# Effective context",
                f"{machine['device_name']}, {threads(machine)}, {machine['precision']}; "
                f"torch {machine['torch']}; commit {machine['git_commit']}. Split {plan['split']}, "
                f"utterances drawn with seed {plan['seed']}.",
                exactness(plan),
                "Effective context: the shortest tried whose loss (of the decoder per token, "
                "teacher-forced, without label smoothing) is at most 1.01 times that of the whole "
                "past; in brackets by the ends of the 95 % interval of that ratio over speakers.",
                "Gradient: r(k), root mean square over frames and utterances of the derivative of "
                "a frame by the features k frames before, each by a random projection (unbiased "
                "for the square); half-life and exponent by least squares of log r on k and on "
                "log k. The better law by AIC, where 19 of 20 resamples of the utterances agree, "
                "as AIC takes lags for independent.",
                _lines(_summary(runs)),
                _lines(_contexts(points)),
                *remarks(runs),
            ]
        )
        + "\n"
    )


def exactness(plan: dict[str, Any]) -> str:
    """How the past was cut."""
    exact = (
        "Exact: each encoder frame is that of a run that begins so long before it"
        if plan["block"] == 1
        else f"Blocks of {plan['block']} encoder frames share a run: a context is what the first "
        "of them has, the last has a block less one frame more"
    )
    return (
        f"{exact}; the future is as ever. A run that begins within speech is unlike those of "
        "training, which can make contexts longer than what is remembered."
    )


def remarks(runs: Sequence[Effective]) -> list[str]:
    """What the tables do not show."""
    told = []
    for one in runs:
        if one.again_above:
            longer = ", ".join(f"{s:.2f} s" for s in one.again_above)
            told.append(f"{one.run}: above the bound again at {longer}.")
        if one.chunk_seconds > one.frame_seconds:
            told.append(
                f"{one.run}: frames share chunks of {one.chunk_seconds:.2f} s, so a context is "
                "that of the first of a chunk."
            )
        if not one.law:
            told.append(f"{one.run}: too few lags ({len(one.gradient)}) to fit a law.")
    return told


def told_context(one: Effective) -> str:
    """``0.64 s [0.32 to 1.28]``; ``all`` where nothing less is enough."""
    low, high = ("all" if c is None else f"{c:.2f}" for c in (one.context_low, one.context_high))
    return ("all" if one.context is None else f"{one.context:.2f} s") + f" [{low} to {high}]"


def told_half_life(one: Effective) -> str:
    """``0.21 s [0.18 to 0.25]``, or why there is none."""
    if not one.law:
        return "too few lags"
    if one.half_life is None:
        return "does not fall"
    ends = (one.half_life_low, one.half_life_high)
    low, high = ("no end" if end is None else f"{end:.3f}" for end in ends)
    return f"{one.half_life:.3f} s [{low} to {high}]"


def told_law(one: Effective) -> str:
    """``power (-12.6, in 98 %)``: the difference of AIC, and the share of resamples that agree."""
    if one.aic_difference is None or one.agreement is None:
        return "too few lags"
    return f"{one.law} ({one.aic_difference:+.1f}, in {100 * one.agreement:.0f} %)"


def _summary(runs: Sequence[Effective]) -> list[list[str]]:
    head = ["run", "encoder", "decoder", "seed", "utterances", "loss", "WER", "search"]
    head += ["effective context", "encoder frames", "gradient's half-life", "exponent"]
    head += ["better law (AIC of power less exponential, agreement)", "zero beyond"]
    table = [head, ["---"] * 4 + ["--:"] * (len(head) - 4)]
    for one in runs:
        frames = "all" if one.context is None else f"{one.context / one.frame_seconds:.0f}"
        table.append(
            [
                one.run,
                one.encoder,
                one.decoder,
                str(one.seed),
                f"{one.utterances} of {one.utterances_of}",
                f"{one.loss:.4f}",
                f"{100 * one.wer:.2f} %",
                one.search,
                told_context(one),
                frames,
                told_half_life(one),
                "" if one.exponent is None else f"{one.exponent:.2f}",
                told_law(one),
                "" if one.sight is None else f"{one.sight:.2f} s",
            ]
        )
    return table


def _contexts(points: Sequence[Point]) -> list[list[str]]:
    """A row per model, a column per context: loss over that of the whole past, and WER."""
    tried = sorted({round(p.context, 4) for p in points if not p.whole})
    head = ["run: loss ratio, WER", *(f"{s:.2f} s" for s in tried), "whole past"]
    table = [head, ["---"] + ["--:"] * (len(head) - 1)]
    for name in dict.fromkeys(p.run for p in points):
        own = {None if p.whole else round(p.context, 4): p for p in points if p.run == name}
        cells = [
            f"{own[s].loss_ratio:.3f}, {100 * own[s].wer:.2f} %" if s in own else ""
            for s in (*tried, None)
        ]
        table.append([name, *cells])
    return table


def _lines(table: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)
