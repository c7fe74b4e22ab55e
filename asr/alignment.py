"""When each word of a hypothesis was said: forced alignment of its tokens to the CTC head."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchaudio.functional import forced_align

from asr.batch import BLANK
from asr.text import Tokenizer


@dataclass(frozen=True)
class Word:
    """A word and when it was said.

    Attributes:
        text: without spaces.
        start: seconds.
        end: seconds.
        confidence: mean CTC probability of its tokens; None where the times are a guess, because
            there were more tokens than encoder frames to align them to.
    """

    text: str
    start: float
    end: float
    confidence: float | None


@dataclass(frozen=True)
class Span:
    """The encoder frames [start, end) of a token, and the mean probability it has there."""

    start: int
    end: int
    probability: float


def align(
    log_probs: Tensor, tokens: Sequence[int], tokenizer: Tokenizer, frame_seconds: float
) -> list[Word]:
    """(S, V) CTC log-probabilities of one utterance, its tokens -> its words with their times.

    CTC emits a token in a frame or two somewhere within its sound, so that a word seems to begin
    and end up to a few frames inside its true boundaries.
    """
    words, places = spelled(tokens, tokenizer)
    spans = token_spans(log_probs, tokens)
    if spans is None:
        return _spread(words, len(log_probs) * frame_seconds)
    aligned = []
    for number, word in enumerate(words):
        own = [
            span
            for span, place in zip(spans, places, strict=True)
            if number in place  # the range of words that the token writes in
        ]
        aligned.append(
            Word(
                word,
                own[0].start * frame_seconds,
                own[-1].end * frame_seconds,
                sum(span.probability for span in own) / len(own),
            )
        )
    return aligned


def spelled(tokens: Sequence[int], tokenizer: Tokenizer) -> tuple[list[str], list[range]]:
    """The words, and for each token the range of words that it writes in; separators write in none.

    Only ``decode`` is asked, on ever longer beginnings, so that this holds for any tokenizer.
    """
    words: list[str] = []
    places = []
    for end in range(1, len(tokens) + 1):
        before, words = words, tokenizer.decode(tokens[:end]).split()
        same = 0
        while same < min(len(before), len(words)) and before[same] == words[same]:
            same += 1
        places.append(range(same, len(words)))
    return words, places


def token_spans(log_probs: Tensor, tokens: Sequence[int]) -> list[Span] | None:
    """(S, V), U tokens -> the frames of each on the likeliest CTC path; None if they do not fit.

    U tokens need U frames, and one more between two equal neighbours (Graves et al. 2006).
    """
    repeats = sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))
    if len(log_probs) < len(tokens) + repeats:
        return None
    if not tokens:
        return []
    target = torch.tensor([list(tokens)], dtype=torch.int32)
    path, scores = forced_align(log_probs[None].float().cpu(), target, blank=BLANK)
    labels, probabilities = path[0].tolist(), scores[0].exp().tolist()
    spans = []
    start = 0
    for frame in range(1, len(labels) + 1):
        if frame == len(labels) or labels[frame] != labels[start]:
            if labels[start] != BLANK:
                mean = sum(probabilities[start:frame]) / (frame - start)
                spans.append(Span(start, frame, mean))
            start = frame
    return spans


def _spread(words: Sequence[str], seconds: float) -> list[Word]:
    """Evenly over the audio: better than nothing, and marked by having no confidence."""
    step = seconds / max(len(words), 1)
    return [Word(word, i * step, (i + 1) * step, None) for i, word in enumerate(words)]
