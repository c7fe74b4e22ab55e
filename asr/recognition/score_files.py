"""Scores what any recogniser wrote, as ``asr evaluate`` scores a model."""

import json
from pathlib import Path
from typing import Any

from asr.files import new_folder, write_all
from asr.recognition.error_rates import error_rates, in_words, worst, worst_in_words
from asr.recognition.transcript_files import read_pairs
from asr.text.normalisers import scoring_normaliser
from asr.text.scoring import align, percent

SHOWN = 20  # largest number of speakers that are printed


def score_files(
    hypotheses: str | Path,
    references: str | Path,
    *,
    normaliser: str = "none",
    missing_as_empty: bool = False,
    output: str | Path | None = None,
) -> dict[str, Any]:
    """Compares hypotheses with references; see ``read_pairs`` for the formats of both files.

    Args:
        hypotheses: file of the recogniser.
        references: file of the correct texts.
        normaliser: applied to both; a name of ``asr.text.normalisers.NORMALISERS``, or ``whisper``.
        missing_as_empty: whether a missing hypothesis counts as empty; otherwise it is an error.
        output: folder for ``metrics.json`` and ``hypotheses.jsonl``, which have the keys that
            ``evaluate`` writes, except those of model, audio and times. None: nothing is written.

    Returns:
        The content of ``metrics.json``.

    Raises:
        ValueError: a line cannot be read, the files do not match, or there is no normaliser.
        OSError: a file cannot be read or written.
    """
    normalise = scoring_normaliser(normaliser)
    pairs = read_pairs(Path(references), Path(hypotheses), missing_as_empty)
    texts, found = ([*map(normalise, own)] for own in (pairs.references, pairs.hypotheses))
    alignments, confusions = align(texts, found)
    lines = [
        {
            "id": name,
            "speaker_id": pairs.speakers[i] if pairs.speakers else None,
            "reference": texts[i],
            "hypothesis": found[i],
            **alignments[i]._asdict(),
        }
        for i, name in enumerate(pairs.ids)
    ]
    rows = {"text": texts, "original_text": pairs.references, "speaker_id": pairs.speakers}
    metrics = {
        "hypotheses": str(hypotheses),
        "references": str(references),
        "normaliser": normaliser,
        "notes": pairs.notes,
        **error_rates(rows, alignments, found, pairs.hypotheses),
        "worst": worst(lines, alignments),
        "confusions": confusions,
    }
    if output is not None:
        with new_folder(Path(output)):
            write_all(
                {
                    Path(output, "hypotheses.jsonl"): "".join(
                        json.dumps(line, ensure_ascii=False) + "\n" for line in lines
                    ),
                    Path(output, "metrics.json"): json.dumps(metrics, indent=1) + "\n",
                }
            )
    return metrics


def scores_summary(metrics: dict[str, Any]) -> str:
    """The text that the command prints: rates, the speakers with the highest WER, and examples."""
    speakers = metrics["by_speaker"]
    lines = [
        f"{metrics['hypotheses']}: {metrics['utterances']} utterances, "
        + (f"{len(speakers)} speakers, " if speakers else "")
        + f"{metrics['wer']['words']} words, normaliser {metrics['normaliser']}",
        *metrics["notes"],
        *in_words(metrics),
        f"in brackets: {metrics['wer']['interval_method']}",
    ]
    shown = sorted(speakers, key=lambda row: -(row["wer"] or 0))[:SHOWN]
    if shown:
        counts = ("utterances", "words", "substitutions", "deletions", "insertions")
        table = [("speaker", *counts, "WER", "CER")]
        for row in shown:
            rates = (percent(row["wer"]), percent(row["cer"]))
            table.append((row["speaker"], *(str(row[name]) for name in counts), *rates))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for first, *others in table:
            cells = [text.rjust(size) for text, size in zip(others, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *cells]))
    if left := len(speakers) - len(shown):
        lines.append(f"{left} speakers with a lower WER are not shown")
    return "\n".join(lines + worst_in_words(metrics))
