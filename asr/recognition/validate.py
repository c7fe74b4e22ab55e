"""Loss and error rates of a model on batches, pooled over processes."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch

from asr.batch import Batch
from asr.loss import collected
from asr.model import SpeechModel
from asr.recognition.recognise import Encoded, encode_padded, search_frames
from asr.search import Search
from asr.text.scoring import align, characters, pooled


@torch.inference_mode()
def try_search(search: Search, model: SpeechModel) -> None:
    """Runs the search on one frame, to check before training that the decoder supports it.

    Raises:
        ValueError: the search needs a CTC head that the decoder does not have.
    """
    frame = torch.zeros(1, 1, model.encoder.dim, device=model.device)
    search_frames(
        model, Encoded(frame, torch.ones(1, dtype=torch.int64, device=model.device)), search=search
    )


class Validation:
    """Sums errors and losses over the batches of a split, and over processes.

    Attributes:
        weights: weights of the terms of the loss that occurred, by name.
        references, hypotheses: transcripts, in the order of the batches.
    """

    def __init__(self, model: SpeechModel, search: Search) -> None:
        """Starts with empty sums.

        Args:
            model: speech model in eval mode.
            search: search that finds the hypotheses.
        """
        self.model, self.search = model, search
        self.weights: dict[str, float] = {}
        self.references: list[str] = []
        self.hypotheses: list[str] = []
        self._sums: dict[str, float] = defaultdict(float)
        self._unfinished = 0

    @torch.inference_mode()
    def add(self, batch: Batch) -> None:
        """Recognises a batch, which must be on the device of the model."""
        model = self.model
        with collected() as terms:
            encoded = encode_padded(model, batch.waves, batch.wave_lengths)
        labels = batch.tokens, batch.token_lengths
        loss = model.decoder.loss(encoded.frames, encoded.lengths, *labels)
        best = search_frames(model, encoded, search=self.search)
        self._unfinished += sum(not hypothesis.finished for hypothesis in best)
        self.references += batch.texts
        self.hypotheses += [model.text(hypothesis) for hypothesis in best]
        for name, term in (loss.terms | terms).items():
            self.weights[name] = term.weight
            self._sums[f"{name}_sum"] += float(term.sum)
            self._sums[f"{name}_count"] += float(term.count)

    def metrics(
        self, weights: Mapping[str, float], total: Callable[[float], float]
    ) -> dict[str, Any]:
        """Error rates and losses; call it on every process, even on one without batches.

        Args:
            weights: weights of the terms of the loss, by name; the same on every process.
            total: function that sums a number over all processes.
        """
        words = pooled(align(self.references, self.hypotheses)[0])
        letters = characters(self.references, self.hypotheses)
        sums = {f"{name}_{part}": 0.0 for name in weights for part in ("sum", "count")}
        sums |= self._sums
        sums |= {"word_errors": words.errors, "words": words.words}
        sums |= {"character_errors": letters.errors, "characters": letters.words}
        sums |= {"utterances": len(self.references), "unfinished": self._unfinished}
        totals = {name: total(value) for name, value in sums.items()}
        losses = {
            name: totals[f"{name}_sum"] / max(1.0, totals[f"{name}_count"]) for name in weights
        }
        return {
            "wer": totals["word_errors"] / max(1.0, totals["words"]),
            "cer": totals["character_errors"] / max(1.0, totals["characters"]),
            "loss": sum(weight * losses[name] for name, weight in weights.items()),
            # A term without weight, such as the fraction of kept frames, is not part of the loss.
            **{f"{name}_loss" if weights[name] else name: value for name, value in losses.items()},
            **{name: int(totals[name]) for name in ("utterances", "words", "unfinished")},
        }
