"""The recognition loop: batches of audio -> encoder frames -> hypotheses -> words.

``asr evaluate``, ``asr transcribe``, ``asr tune-decoding``, the validation during training and the
probes use these steps. Each step runs on the model's device and is timed separately. If the memory
of the device is too small, the error names the option to lower.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.audio.audio_file import decode
from asr.data.batches import bucket
from asr.data.utterances import read_corpus, read_rows
from asr.metering.device_clock import wait_for
from asr.metering.device_memory import enough_memory
from asr.model import SpeechModel
from asr.recognition.alignment import align_words
from asr.recognition.transcript import Word
from asr.search import Hypothesis, Search
from asr.text.normalisers import normaliser

log = logging.getLogger(__name__)


@dataclass
class Encoded:
    """The encoder output of a batch of utterances.

    Attributes:
        frames: (B, S, D).
        lengths: (B,) number of encoder frames of each utterance.
        seconds: time spent on the batch, by step: ``encode`` (features and encoder), ``search``
            (with decoder and language model), ``alignment`` (times and confidences of words).
            Each step waits for the device; padding and copying to the device are not counted.
    """

    frames: Tensor
    lengths: Tensor
    seconds: dict[str, float] = field(default_factory=dict)


class Recognised(NamedTuple):
    """The best hypotheses of a batch, their words if requested, and the seconds by step."""

    best: list[Hypothesis]
    words: list[list[Word]]
    seconds: dict[str, float]


def recognise(
    model: SpeechModel,
    waves: Sequence[np.ndarray],
    remedy: str | None = None,
    *,
    words: bool = False,
) -> Recognised:
    """Recognises a batch with the search of the model.

    Args:
        model: in eval mode.
        waves: (N,) float32 samples of each utterance at the model's rate.
        remedy: advice for the error message if device memory is too small; None if the caller uses
            ``enough_memory`` itself.
        words: whether to find the times and confidences of words.

    Raises:
        ValueError: scores are NaN.
        DeviceError: the memory of the device is too small, or the device has failed.
    """
    encoded = encode_waves(model, waves, remedy)
    best = search_frames(model, encoded, remedy)
    found = locate_words(model, encoded, best, remedy) if words else [[] for _ in best]
    return Recognised(best, found, encoded.seconds)


@torch.inference_mode()
def encode_waves(
    model: SpeechModel, waves: Sequence[np.ndarray], remedy: str | None = None
) -> Encoded:
    """Pads and encodes the samples (N,) of each utterance; see ``recognise``."""
    with enough_memory(model.device, remedy):
        lengths = torch.tensor([len(wave) for wave in waves], device=model.device)  # (B,)
        padded = pad_sequence([torch.from_numpy(wave) for wave in waves], batch_first=True)
        padded = padded.to(model.device)  # (B, N)
    return encode_padded(model, padded, lengths, remedy)


@torch.inference_mode()
def encode_padded(
    model: SpeechModel, waves: Tensor, lengths: Tensor, remedy: str | None = None
) -> Encoded:
    """Encodes padded samples (B, N) on the device of the model."""
    seconds: dict[str, float] = {}
    with _timed(model.device, seconds, "encode", remedy):
        return Encoded(*model.encode(waves, lengths), seconds)


@torch.inference_mode()
def search_frames(
    model: SpeechModel, encoded: Encoded, remedy: str | None = None, search: Search | None = None
) -> list[Hypothesis]:
    """The best hypothesis of each utterance, found by ``search`` or the search of the model."""
    frames, lengths = encoded.frames, encoded.lengths
    with _timed(model.device, encoded.seconds, "search", remedy):
        if search is None:
            n_best = model.decode(frames, lengths)
        else:
            language_model = model.language_model if search.lm_weight else None
            n_best = search(model.decoder, frames, lengths, language_model)
        return [hypotheses[0] for hypotheses in n_best]


@torch.inference_mode()
def locate_words(
    model: SpeechModel,
    encoded: Encoded,
    best: Sequence[Hypothesis],
    remedy: str | None = None,
) -> list[list[Word]]:
    """The words of hypotheses with their times; only for a model whose decoder ``aligns``."""
    with _timed(model.device, encoded.seconds, "alignment", remedy):
        return align_words(
            model.decoder, encoded.frames, encoded.lengths, [own.tokens for own in best],
            model.tokenizer, model.frame_seconds, model.calibration,
        )  # fmt: skip


@contextlib.contextmanager
def _timed(
    device: torch.device, seconds: dict[str, float], step: str, remedy: str | None
) -> Iterator[None]:
    """Records the seconds and CPU seconds of a step; waits for the device before and after it."""
    with enough_memory(device, remedy):
        wait_for(device)
        began, cpu = time.perf_counter(), time.process_time()
        yield
        wait_for(device)
    seconds[step] = time.perf_counter() - began
    seconds[f"{step}_cpu"] = time.process_time() - cpu


class SplitReader:
    """The utterances of a split of a prepared corpus that are to be recognised.

    Attributes:
        corpus: the content of ``corpus.json``.
        rows: rows of the split; see ``asr.data.utterances.Table``.
        normalise: the normaliser of the corpus.
        about: name and path of the corpus, and the checksum of the rows.
        failed: reasons of the rows that could not be recognised, by row number.
    """

    def __init__(self, folder: str | Path, split: str, sample_rate: int) -> None:
        """Reads all columns but the audio.

        Args:
            folder: folder that ``asr prepare`` wrote.
            split: name of one of its splits.
            sample_rate: sample rate of the model, in Hz.

        Raises:
            ValueError: the corpus, the split or the normaliser does not exist.
        """
        self.corpus, self.rows = read_corpus(folder), read_rows(folder, [split])
        self.normalise = normaliser(self.corpus["normaliser"])
        self.about = {
            "name": self.corpus["name"],
            "path": str(folder),
            "rows_sha256": self.corpus["splits"][split]["rows_sha256"],
        }
        self.failed: dict[int, str] = {}
        self._sample_rate, self._ids = sample_rate, self.rows["id"]

    def wave(self, row: int) -> np.ndarray:
        """Returns the samples (N,) float32 at the rate of the model."""
        return decode(self.rows.encoded(row), self._sample_rate)

    def batches(self, batch_seconds: float) -> list[list[int]]:
        """Row numbers in batches of similar length, longest first, so that errors show early."""
        return bucket(self.rows["duration"], batch_seconds)[::-1]

    def fail(self, row: int, why: str) -> None:
        """Records and logs a row that failed."""
        self.failed[row] = why
        log.error("%s: %s", self._ids[row], why)

    def failures(self) -> list[dict[str, Any]]:
        """Id and reason of the rows that were left out, in the order of the split."""
        return [{"id": self._ids[i], "reason": why} for i, why in sorted(self.failed.items())]
