"""Loss and error rates of a model on batches, pooled over processes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from asr.batch import Batch
from asr.loss import collected
from asr.model import SpeechModel
from asr.scoring import align, characters, pooled
from asr.search import Search


@torch.inference_mode()
def try_search(search: Search, model: SpeechModel) -> None:
    """Searches one frame of nothing: whether search and decoder fit shows before training.

    Raises:
        ValueError: it asks for a CTC head that the decoder does not have.
    """
    frame = torch.zeros(1, 1, model.encoder.dim, device=model.device)
    search(model.decoder, frame, torch.ones(1, dtype=torch.int64, device=model.device))


@torch.inference_mode()
def validate(
    model: SpeechModel,
    search: Search,
    batches: Iterable[Batch],
    weights: Mapping[str, float],
    total: Callable[[float], float],
) -> dict[str, Any]:
    """Sums and counts are added up over utterances and processes, and divided once.

    Args:
        model: in eval mode, on the device of the batches.
        search: how hypotheses are found.
        batches: this process' share; it may be empty.
        weights: of the terms of the loss, by name.
        total: one number, summed over all processes.
    """
    references: list[str] = []
    hypotheses: list[str] = []
    sums = {f"{name}_{part}": 0.0 for name in weights for part in ("sum", "count")}
    unfinished = 0
    for batch in batches:
        with collected() as terms:
            encoded, lengths = model.encode(batch.waves, batch.wave_lengths)
        loss = model.decoder.loss(encoded, lengths, batch.tokens, batch.token_lengths)
        best = [n_best[0] for n_best in search(model.decoder, encoded, lengths)]
        unfinished += sum(not hypothesis.finished for hypothesis in best)
        references += batch.texts
        hypotheses += [model.text(hypothesis) for hypothesis in best]
        for name, term in (loss.terms | terms).items():
            sums[f"{name}_sum"] += float(term.sum)
            sums[f"{name}_count"] += float(term.count)
    words = pooled(align(references, hypotheses)[0])
    letters = characters(references, hypotheses)
    sums |= {"word_errors": words.errors, "words": words.words}
    sums |= {"character_errors": letters.errors, "characters": letters.words}
    sums |= {"utterances": len(references), "unfinished": unfinished}
    totals = {name: total(value) for name, value in sums.items()}
    losses = {name: totals[f"{name}_sum"] / max(1.0, totals[f"{name}_count"]) for name in weights}
    return {
        "wer": totals["word_errors"] / max(1.0, totals["words"]),
        "cer": totals["character_errors"] / max(1.0, totals["characters"]),
        "loss": sum(weight * losses[name] for name, weight in weights.items()),
        # A term without weight is no loss: the kept fraction, the steps taken.
        **{f"{name}_loss" if weights[name] else name: value for name, value in losses.items()},
        **{name: int(totals[name]) for name in ("utterances", "words", "unfinished")},
    }
