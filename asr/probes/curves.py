"""Draws the word error rates of several models of one kind as one line."""

from collections.abc import Sequence
from typing import Any

from asr.document.figures import Series
from asr.probes.probe import grouped


def models(rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Rows of each encoder and decoder, by their names."""
    return {" + ".join(names): own for names, own in grouped(rows, "encoder", "decoder")}


def wer_over_runs(label: str, rows: Sequence[Any], key: str, shift: float = 0.0) -> Series:
    """WER, in percent, against ``key``: of a run with its interval over speakers.

    Of several runs their mean, from the least to the greatest, and the mean of ``key`` where theirs
    differ: the n-th row of one belongs to the n-th of another.
    """
    runs = [sorted(own, key=lambda row: getattr(row, key)) for _, own in grouped(rows, "run")]
    steps = list(zip(*runs, strict=False))
    x = [shift + sum(getattr(row, key) for row in step) / len(step) for step in steps]
    y = [100 * sum(row.wer for row in step) / len(step) for step in steps]
    ends = ("low", "high") if len(runs) == 1 else ("wer", "wer")
    low = [100 * min(getattr(row, ends[0]) for row in step) for step in steps]
    high = [100 * max(getattr(row, ends[1]) for row in step) for step in steps]
    return Series(label, x, y, low, high)
