"""Labels recognised words as correct or wrong, and draws the reliability diagram."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from asr.recognition.transcript import Word
from asr.text.scoring import hits

INK, FAINT, FILL = "#1b1b1f", "#76767c", "#d9d9dc"


class Judgement(NamedTuple):
    """W words and whether they are correct.

    Attributes:
        confidences: (W,) confidence of each word.
        correct: (W,) whether each word is correct.
        utterances: (W,) number of the hypothesis of each word.
        left_out: number of words that could not be judged, or that have no confidence.
    """

    confidences: list[float]
    correct: list[bool]
    utterances: list[int]
    left_out: int


def judged(
    words: Sequence[Sequence[Word]], references: Sequence[str], normalise: Callable[[str], str]
) -> Judgement:
    """Judges which words of the hypotheses are correct, by their references.

    A word is correct if all words that the normaliser makes of it are hits in the alignment of the
    WER. A word that the normaliser removes is not judged. Neither are the words of an utterance
    that the normaliser does not change word by word. References must be normalised already.

    Raises:
        ValueError: the lists differ in length.
    """
    whole = [normalise(" ".join(word.text for word in own)) for own in words]
    confidences: list[float] = []
    correct: list[bool] = []
    utterances: list[int] = []
    left_out = 0
    for number, right in enumerate(hits(references, whole)):
        parts = [normalise(word.text).split() for word in words[number]]
        if [text for part in parts for text in part] != whole[number].split():
            left_out += len(parts)
            continue
        place = 0
        for word, part in zip(words[number], parts, strict=True):
            own, place = right[place : place + len(part)], place + len(part)
            if word.confidence is None or not part:
                left_out += 1
            else:
                confidences.append(word.confidence)
                correct.append(all(own))
                utterances.append(number)
    return Judgement(confidences, correct, utterances, left_out)


def diagram(content: Mapping[str, Any], note: str = "") -> bytes:
    """Draws the reliability diagram (Guo et al. 2017) of the result of ``confidence_measures``.

    Returns a PNG without colours. The upper panel shows the share of correct words of each bin at
    its mean confidence, with 95 % intervals (Wilson 1927, which assumes independent words). On the
    diagonal, confidences are calibrated. The lower panel shows the number of words of each bin. The
    note, if any, is a line of the title.
    """
    rows = [row for row in content["bins"] if row["count"]]
    x, counts, share = ([row[key] for row in rows] for key in ("confidence", "count", "correct"))
    ends = [
        binomtest(round(part * count), count).proportion_ci(0.95, method="wilson")
        for part, count in zip(share, counts, strict=True)
    ]
    bars = np.abs(np.array([(end.low, end.high) for end in ends]).T - share)  # (2, K)
    figure = Figure(figsize=(5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], "--", color=FAINT, label="calibrated")
    upper.errorbar(
        x, share, yerr=bars, fmt="o", color=INK, capsize=3, markersize=5,
        label="words of a bin, 95 % interval",
    )  # fmt: skip
    upper.set(ylabel="share of correct words", ylim=(-0.03, 1.03))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    values = ", ".join(
        f"{name.upper()} {'-' if content[name] is None else format(content[name], '.3f')}"
        for name in ("ece", "nce", "auc")
    )
    title = [f"{content['count']} words, {content['correct']} correct", values, note]
    upper.set_title("\n".join(filter(None, title)), fontsize="medium")
    left = [row["low"] for row in rows]
    widths = [row["high"] - row["low"] for row in rows]
    drawn = lower.bar(left, counts, widths, align="edge", color=FILL, edgecolor=INK, hatch="//")
    lower.bar_label(drawn, fontsize=7)
    lower.set(yscale="log", xlabel="confidence", ylabel="words", xlim=(-0.03, 1.03))
    lower.set_ylim(0.7, 5 * max(counts))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
