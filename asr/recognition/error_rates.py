"""Error rates of utterances with intervals and speakers, and how they are printed."""

from collections.abc import Mapping, Sequence
from typing import Any

from asr.recognition.writers import UNSPACED
from asr.statistics.bootstrap import METHOD, bootstrap_interval, resampling_unit
from asr.text.scoring import (
    Alignment,
    align,
    align_characters,
    percent,
    pooled,
    score,
    telling_metric,
)

RESAMPLES = 10_000
NUM_WORST = 20


def error_rates(
    rows: Mapping[str, Sequence[Any]],
    alignments: Sequence[Alignment],
    hypotheses: Sequence[str],
    raw: Sequence[str],
) -> dict[str, Any]:
    """WER and CER with counts and intervals, rates of speakers, and the WER before normalising.

    Args:
        rows: columns of B utterances: ``text`` (normalised reference), ``original_text``, and
            ``speaker_id``, which is empty if the speakers are not known.
        alignments: (B,) the word alignments of ``text`` and ``hypotheses``.
        hypotheses: (B,) normalised hypotheses.
        raw: (B,) the hypotheses before they were normalised.

    Raises:
        ValueError: no reference has a word.
    """
    speakers, references = rows["speaker_id"] or None, rows["text"]
    letters = align_characters(references, hypotheses)
    scores = score(alignments, letters)
    unit = f"95 % {METHOD}, {RESAMPLES} resamples of {resampling_unit(speakers)}"
    for name, counts in (("wer", alignments), ("cer", letters)):
        errors, totals = [a.errors for a in counts], [a.words for a in counts]
        interval = bootstrap_interval(errors, totals, speakers, resamples=RESAMPLES)
        scores[name] |= {"interval": list(interval), "interval_method": unit}
    verbatim = pooled(align(rows["original_text"], raw)[0])
    rate = verbatim.errors / verbatim.words if verbatim.words else None
    return {
        # A corpus of single words has no spaces either, and its WER tells more.
        "headline": telling_metric(references) if any(map(UNSPACED.search, references)) else "wer",
        **scores,
        "wer_unnormalised": {"rate": rate},
        "by_speaker": by_speaker(speakers or (), alignments, letters),
    }


def by_speaker(
    speakers: Sequence[str], words: Sequence[Alignment], letters: Sequence[Alignment]
) -> list[dict[str, Any]]:
    """Number of utterances, counts of words, WER and CER of each speaker, sorted by speaker."""
    table = []
    for speaker in sorted(set(speakers)):
        members = [i for i, name in enumerate(speakers) if name == speaker]
        total, spelt = (pooled(own[i] for i in members) for own in (words, letters))
        table.append(
            {
                "speaker": speaker,
                "utterances": len(members),
                "words": total.words,
                **total._asdict(),
                "wer": total.errors / total.words if total.words else None,
                "cer": spelt.errors / spelt.words if spelt.words else None,
            }
        )
    return table


def worst(lines: Sequence[dict[str, Any]], words: Sequence[Alignment]) -> list[dict[str, Any]]:
    """Utterances by falling WER, then number of errors; an empty reference counts as one word."""
    rated = [
        (own.errors / max(own.words, 1), own.errors, line)
        for own, line in zip(words, lines, strict=True)
    ]
    rated.sort(key=lambda row: (-row[0], -row[1], row[2]["id"]))
    return [
        {"id": line["id"], "wer": wer} | {name: line[name] for name in ("reference", "hypothesis")}
        for wer, _, line in rated[:NUM_WORST]
    ]


def in_words(metrics: dict[str, Any]) -> list[str]:
    """Two lines with WER and CER; the CER comes first if the texts have hardly any spaces."""
    lines = []
    for name in ("wer", "cer"):
        own = metrics[name]
        low, high = map(percent, own["interval"])
        lines.append(
            f"{name.upper()} {percent(own['rate'])} [{low}, {high}]  {own['substitutions']} "
            f"substitutions, {own['deletions']} deletions, {own['insertions']} insertions"
        )
    if metrics["headline"] == "cer":
        lines.reverse()
        lines[0] += "  (read this rate: the texts have hardly any spaces between words)"
    lines.append(f"sentences with an error {percent(metrics['sentence_error_rate'])}")
    return lines


def worst_in_words(metrics: dict[str, Any]) -> list[str]:
    """Three lines for each of the three worst utterances that have errors."""
    return [
        line
        for row in metrics["worst"][:3]
        if row["wer"] > 0
        for line in (
            f"worst: {row['id']}, WER {100 * row['wer']:.0f} %",
            f"  reference  {row['reference']}",
            f"  recognised {row['hypothesis']}",
        )
    ]
