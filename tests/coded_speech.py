"""A language of levels and a model that reads it without error: what it hears, it writes.

Each character lasts three encoder frames of 40 ms: one in which every sample has the level id / 64,
and two of silence. No training, no seed, and every time of every character is known. The model
takes the loudest sample of a frame, so that it need not begin where a frame of the speaker does.
"""

import io
from types import SimpleNamespace

import numpy as np
import soundfile
import torch
from torch import nn

from asr.batch import BLANK
from asr.decoders.decoder import Decoder
from asr.text.tokenizers import Characters

RATE = 8000
FRAME = 320  # samples of an encoder frame
FRAME_SECONDS = FRAME / RATE
TOKENIZER = Characters((), alphabet="abcdefghijklmnopqrstuvwxyz' ")


def speak(text: str, tokenizer=TOKENIZER) -> np.ndarray:
    """(N,) float32, 0.12 s a character."""
    frames = []
    for token in tokenizer.encode(text):
        frames += [token / 64, 0.0, 0.0]
    return np.repeat(np.array(frames, dtype=np.float32), FRAME)


def pause(seconds: float) -> np.ndarray:
    """(N,) float32 of silence, whole frames."""
    return np.zeros(round(seconds / FRAME_SECONDS) * FRAME, dtype=np.float32)


def audio_bytes(wave: np.ndarray, rate: int = RATE, kind: str = "WAV") -> bytes:
    """The samples as a file's bytes."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind)
    return file.getvalue()


class Levels(Decoder):
    """Decoder with a CTC head: the token whose level is nearest, at probability ~1."""

    dim = 1

    def loss(self, encoded, lengths, tokens, token_lengths):
        """It is not trained."""
        raise NotImplementedError

    def flops(self, lengths, token_lengths):
        """They are not counted."""
        raise NotImplementedError

    def ctc_log_probs(self, encoded):
        """(B, S, 1) -> (B, S, V)."""
        levels = torch.arange(TOKENIZER.vocabulary_size) / 64
        return torch.log_softmax(-1000 * (encoded - levels).abs(), dim=-1)


def greedy(decoder, encoded, lengths):
    """The 1-best list of each utterance, by collapsing the frames' best tokens."""
    best = torch.round(encoded[..., 0] * 64).long()  # (B, S)
    found = []
    for row, length in zip(best.tolist(), lengths.tolist(), strict=True):
        row = row[:length]
        kept = [t for i, t in enumerate(row) if t != BLANK and (i == 0 or row[i - 1] != t)]
        found.append([SimpleNamespace(tokens=tuple(kept), score=-0.5 * len(kept), finished=True)])
    return found


class Greedy:
    """A search with an option to be described by."""

    def __init__(self) -> None:
        self.beam = 1

    def __repr__(self) -> str:
        return f"Greedy(beam={self.beam})"

    def __call__(self, decoder, encoded, lengths):
        return greedy(decoder, encoded, lengths)


class CodedSpeech(nn.Module):
    """Stands where a SpeechModel does."""

    def __init__(self, decoder=None, search=None):
        super().__init__()
        self.features = SimpleNamespace(sample_rate=RATE, hop_seconds=0.01)
        self.encoder = SimpleNamespace(dim=1, stride=4, causal=True)
        self.decoder = decoder or Levels()
        self.search = search or Greedy()
        self.tokenizer = TOKENIZER
        self.normaliser = "lower"
        self.calibration = None
        self.frame_seconds = FRAME_SECONDS
        self.summary = {"updates": 7}
        self.weight = nn.Parameter(torch.zeros(1))
        self.batches: list[int] = []

    @property
    def device(self):
        """Where the model is."""
        return self.weight.device

    def encode(self, waves, lengths):
        """(B, N), (B,) -> (B, S, 1), (B,): the level of each frame."""
        self.batches.append(len(waves))
        frames = (lengths + FRAME - 1) // FRAME
        padded = nn.functional.pad(waves, (0, int(frames.max()) * FRAME - waves.shape[1]))
        return padded.unflatten(1, (-1, FRAME)).amax(dim=2)[..., None], frames

    def recognise(self, waves, lengths):
        """(B, N), (B,) -> n-best lists."""
        assert not self.training
        return self.decode(*self.encode(waves, lengths))

    def decode(self, encoded, lengths):
        """(B, S, 1), (B,) -> n-best lists."""
        return self.search(self.decoder, encoded, lengths)

    def text(self, hypothesis):
        """What was said."""
        return self.tokenizer.decode(hypothesis.tokens)
