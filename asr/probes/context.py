"""Draws the page of the probe ``context``: loss, errors and gradients by length of the past."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from asr.document.blocks import Block, Picture, Text
from asr.formatting import digits, duration, percent, whole_number
from asr.probes.length import SEVERAL, corpus_options, models, wer_over_runs
from asr.probes.probe import Columns, Measured, Option, Part, Probe, grouped, run_names, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS = (0.0, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24)


@dataclass(frozen=True)
class ContextPoint:
    """Loss and errors of greedy search for one model, with a limited past of its encoder."""

    run: str  # folder of the model
    encoder: str  # class of the encoder
    decoder: str  # class of the decoder
    seed: int
    context: float  # seconds of past that a frame sees; the longest past if ``whole``
    frames: int  # ``context`` in encoder frames
    whole: bool  # whether the encoder sees the whole past, as in an ordinary evaluation
    loss: float  # of the decoder, per token, in evaluation mode
    loss_ratio: float  # loss divided by the loss with the whole past
    ratio_low: float  # 95 % interval of the ratio over speakers, paired by utterance
    ratio_high: float
    errors: int  # sum over utterances
    reference_words: int
    wer: float
    low: float  # 95 % interval of the WER over speakers
    high: float


@dataclass(frozen=True)
class Effective:
    """The effective context and the decay of gradients of one model."""

    run: str
    encoder: str
    decoder: str
    seed: int
    search: str  # the search that gave the words
    utterances: int  # number that was drawn
    utterances_of: int  # number in the split
    frame_seconds: float  # duration of an encoder frame
    chunk_seconds: float  # duration of a chunk, whose frames see each other
    loss: float  # with the whole past
    wer: float  # with the whole past
    context: float | None  # seconds; None: only the whole past is sufficient
    context_low: float | None  # by the lower end of the interval of the loss ratio
    context_high: float | None
    again_above: list[float]  # longer contexts, seconds, with a loss above the bound
    half_life: float | None  # seconds; None: the gradient does not fall, or too few lags
    half_life_low: float | None  # 95 % interval over utterances; None: does not fall
    half_life_high: float | None
    exponent: float | None  # of the power law
    aic_difference: float | None  # AIC of the power law minus AIC of the exponential
    law: str  # the law that fits better; neither if unclear; empty: too few lags
    agreement: float | None  # share of resamples of utterances that prefer the same law
    sight: float | None  # seconds beyond which the gradient is 0; None: nonzero at all lags
    draws: int  # number of frames whose gradient was computed
    gradient: list[float]  # root mean square at lags of 0, 1, ... encoder frames


def exactness(plan: dict[str, Any]) -> str:
    """Returns the note of the page that says how the probe limited the past."""
    exact = (
        "Contexts are exact: each encoder frame comes from a run that begins one context before it"
        if plan["block"] == 1
        else f"Blocks of {plan['block']} encoder frames share a run: the first frame of a block "
        "has the stated context, and the last frame has a block minus one frame more"
    )
    return (
        f"{exact}. The encoder sees the whole future. A run that begins within speech differs from "
        "the training data, so the measured context can be longer than the memory of the encoder."
    )


def remarks(runs: Sequence[Effective]) -> list[str]:
    """Sentences on the models that the tables do not show."""
    lines = []
    for one in runs:
        if one.again_above:
            longer = ", ".join(f"{s:.2f} s" for s in one.again_above)
            lines.append(f"{one.run}: the loss is above the bound again at {longer}.")
        if one.chunk_seconds > one.frame_seconds:
            lines.append(
                f"{one.run}: frames share chunks of {one.chunk_seconds:.2f} s; a context is "
                "exact for the first frame of a chunk."
            )
    return lines


def format_context(one: Effective) -> str:
    """``0.64 s [0.32 to 1.28]``; ``all`` if only the whole past is sufficient."""
    low, high = ("all" if c is None else f"{c:.2f}" for c in (one.context_low, one.context_high))
    return ("all" if one.context is None else f"{one.context:.2f} s") + f" [{low} to {high}]"


def format_half_life(one: Effective) -> str:
    """``0.21 s [0.18 to 0.25]``, or the reason why there is no half-life."""
    if not one.law:
        return "too few lags"
    if one.half_life is None:
        return "does not fall"
    ends = (one.half_life_low, one.half_life_high)
    low, high = ("no end" if end is None else f"{end:.3f}" for end in ends)
    return f"{one.half_life:.3f} s [{low} to {high}]"


def format_law(one: Effective) -> str:
    """``power (-12.6, in 98 %)``: the AIC difference and the share of resamples that agree."""
    if one.aic_difference is None or one.agreement is None:
        return "too few lags"
    return f"{one.law} ({one.aic_difference:+.1f}, in {100 * one.agreement:.0f} %)"


def effective_contexts(measured: Measured) -> list[Effective]:
    """The effective context of each model."""
    return [Effective(**run) for run in measured.rest["runs"]]


def draw(measured: Measured) -> list[Block]:
    """A figure, a table of effective contexts, a table of all contexts, and notes."""
    runs, plan, name = (
        effective_contexts(measured),
        measured.rest["plan"],
        run_names(measured.rows)[1],
    )
    summary: Columns = {
        "run folder": name,
        "encoder + decoder": lambda r: f"{r.encoder} + {r.decoder}",
        "seed": lambda r: str(r.seed),
        "utterances": lambda r: f"{r.utterances} of {r.utterances_of}",
        "loss": lambda r: f"{r.loss:.4f}",
        "WER": lambda r: percent(r.wer),
        "search": lambda r: r.search,
        "effective context [95 % interval]": format_context,
        "in encoder frames": lambda r: (
            "all" if r.context is None else f"{r.context / r.frame_seconds:.0f}"
        ),
        "half-life of gradients": format_half_life,
        "exponent": lambda r: digits(r.exponent),
        "law (difference of AIC, agreement)": format_law,
        "no gradient beyond": lambda r: "" if r.sight is None else f"{r.sight:.2f} s",
    }
    tried = sorted({round(p.context, 4) for p in measured.rows if not p.whole})
    contexts: Columns = {
        "run folder: loss ratio, WER": lambda own: name(own[0]),
        **{f"{context:.2f} s": partial(_at, context=context) for context in tried},
        "whole past": partial(_at, context=None),
    }
    note = (
        f"Split {plan['split']}, utterances drawn with seed {plan['seed']}. The effective context "
        "of a trained model is the shortest past with which its loss is at most 1.01 times the "
        "loss with the whole past (decoder loss per token, teacher-forced, without label "
        "smoothing). Brackets give the contexts at the ends of the 95 % interval of this ratio "
        "over speakers. "
        "Gradients are derivatives of an encoder frame with respect to the features k frames "
        "before, by a random projection, as root mean square over frames and utterances. They are "
        "fitted by an exponential (half-life) and by a power of k (exponent). The law is the one "
        "that AIC prefers, or “neither” if fewer than 19 of 20 resamples of the utterances agree. "
        "Utterances are short, so this shows what the model used, not what it could remember. It "
        "does not affect the verdict."
    )
    words = (
        "Left: WER of greedy search against the past that a frame sees, itself included. Right: "
        f"gradient against distance, relative to the gradient at distance 0. {SEVERAL}"
    )
    own_of = [own for _, own in grouped(measured.rows, "run")]
    return [
        Picture("context", lambda: draw_figure(measured.rows, runs), words),
        table(runs, summary),
        table(own_of, contexts),
        Text([note, exactness(plan), *remarks(runs)], "list"),
    ]


def _at(points: Sequence[ContextPoint], context: float | None) -> str:
    """``1.012, 10.3 %``: loss ratio and WER at a context; None is the whole past."""
    for point in points:
        if context == (None if point.whole else round(point.context, 4)):
            return f"{point.loss_ratio:.3f}, {percent(point.wer)}"
    return ""


def draw_figure(points: Sequence[ContextPoint], runs: Sequence[Effective]) -> "Figure":
    """WER against the past that a frame sees, and gradients against distance, by model."""
    from asr.document.figures import Series, draw_lines, legend_above, new_figure

    kinds = models(points)
    figure, panels = new_figure(3.6 + 0.09 * len(kinds), 2)
    errors, gradients = [], []
    for label, own in kinds.items():
        trained = [run for run in runs if f"{run.encoder} + {run.decoder}" == label]
        frame = trained[0].frame_seconds
        errors.append(wer_over_runs(label, own, "context", frame))
        curves = [run.gradient for run in trained if run.gradient[0] > 0]
        ratios = list(zip(*([r / one[0] for r in one] for one in curves), strict=False))
        lags = [k for k in range(1, len(ratios)) if min(ratios[k]) > 0]
        if lags:
            means = [sum(ratios[k]) / len(curves) for k in lags]
            low, high = ([edge(ratios[k]) for k in lags] for edge in (min, max))
            gradients.append(Series(label, [k * frame for k in lags], means, low, high))
    draw_lines(figure, panels[0], errors, log=False, legend=list(kinds))
    legend_above(figure, panels[0], 3)
    panels[0].set_ylim(bottom=0)
    panels[0].set(xlabel="past seen, seconds", ylabel="WER, %")
    if gradients:
        draw_lines(figure, panels[1], gradients, legend=list(kinds))
    panels[1].set(xlabel="distance, seconds", ylabel="gradient, relative")
    return figure


PROBE = Probe(
    name="context",
    title="Effective context",
    meaning="loss, word error rate and gradients of trained models, by seconds of past audio",
    example="asr claims context runs/fsdd-transducer --split validation --output claims",
    module="asr.probes.context_measure",
    row=ContextPoint,
    options=(
        *corpus_options("validation"),
        Option(
            "contexts",
            SECONDS,
            "seconds of past audio that the encoder sees; the whole past is always measured too",
            duration,
            "S",
        ),
        Option("utterances", 50, "number of utterances to draw", whole_number, "N"),
        Option(
            "block",
            1,
            "encoder frames that are computed in one run of the encoder: N times cheaper, but "
            "contexts are up to N - 1 frames longer; 1 is exact",
            whole_number,
            "N",
        ),
        Option("gradients", 8, "frames per utterance with a gradient", whole_number, "N"),
        Option("seed", 0, "seed that draws the utterances and frames", int, "N"),
    ),
    parts=(
        Part(
            "C3",
            "By model and context",
            draw,
            "Trained models: effective context not measured.",
        ),
    ),
    takes_runs=True,
)
