"""When each word of a hypothesis was said, and how sure that is: forced alignment of its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchaudio.functional import forced_align

from asr.batch import BLANK, EOS
from asr.calibration import Calibration
from asr.decoders import Decoder, TransducerDecoder
from asr.text import Tokenizer

CHUNK = 2**22  # log-probabilities of a lattice that are held at once: 16 MB


@dataclass(frozen=True)
class Word:
    """A word and when it was said.

    Attributes:
        text: without spaces.
        start: seconds.
        end: seconds.
        confidence: that it is correct; None where the times are a guess, because there were more
            tokens than encoder frames to align them to.
    """

    text: str
    start: float
    end: float
    confidence: float | None


@dataclass(frozen=True)
class Span:
    """Where a token was emitted, in encoder frames from start to end, and its probability there."""

    start: float
    end: float
    probability: float


def aligns(decoder: Decoder) -> bool:
    """Whether the times of words can be found: with a CTC head, or by a transducer's lattice."""
    if isinstance(decoder, TransducerDecoder):
        return True
    device = next((parameter.device for parameter in decoder.parameters()), None)
    with torch.inference_mode():
        return decoder.ctc_log_probs(torch.zeros(1, 1, decoder.dim, device=device)) is not None


def align(
    decoder: Decoder,
    encoded: Tensor,
    tokens: Sequence[int],
    tokenizer: Tokenizer,
    frame_seconds: float,
    calibration: Calibration | None = None,
) -> list[Word]:
    """(1, S, D) frames of one utterance, U tokens -> its words with times and confidences.

    A transducer's tokens stand where its likeliest path says them, those of all others where the
    likeliest path of the CTC head does. Either emits a token in a frame or two somewhere within its
    sound, so that a word seems to begin and end up to a few frames inside its true boundaries.

    Args:
        decoder: one that ``aligns``.
        encoded: without padding.
        tokens: without EOS.
        tokenizer: that spells them.
        frame_seconds: of an encoder frame.
        calibration: of the confidences; None: the mean probability of the word's tokens.
    """
    words, places = spelled(tokens, tokenizer)
    if isinstance(decoder, TransducerDecoder):
        spans = transducer_spans(decoder, encoded, tokens)
    else:
        log_probs = decoder.ctc_log_probs(encoded)  # (1, S, V)
        assert log_probs is not None, "align() needs a decoder that aligns()"
        spans = ctc_spans(log_probs[0], tokens)
    if spans is None:
        return _spread(words, encoded.shape[1] * frame_seconds)
    aligned = []
    for number, word in enumerate(words):
        own = [
            span
            for span, place in zip(spans, places, strict=True)
            if number in place  # the range of words that the token writes in
        ]
        sure = confidence([span.probability for span in own])
        aligned.append(
            Word(
                word,
                own[0].start * frame_seconds,
                own[-1].end * frame_seconds,
                sure if calibration is None else calibration.apply(sure),
            )
        )
    return aligned


def confidence(probabilities: Sequence[float]) -> float:
    """Probabilities of a word's tokens -> their mean."""
    return sum(probabilities) / len(probabilities)


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


def ctc_spans(log_probs: Tensor, tokens: Sequence[int]) -> list[Span] | None:
    """(S, V), U tokens -> the frames of each on the likeliest CTC path; None if they do not fit.

    The probability of a token is its mean over its frames. U tokens need U frames, and one more
    between two equal neighbours (Graves et al. 2006).
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


def transducer_spans(
    decoder: TransducerDecoder, encoded: Tensor, tokens: Sequence[int]
) -> list[Span] | None:
    """(1, S, D), U tokens -> where each is said on the likeliest path; None without a frame.

    Of n tokens of a frame each has an n-th of it, in order. Any number of tokens has a path.
    """
    if not tokens:
        return []
    if not encoded.shape[1]:
        return None
    blank, emit = lattice(decoder, encoded, tokens)
    frames, _ = viterbi(blank, emit)
    said = emit[frames, torch.arange(len(tokens), device=emit.device)].exp().tolist()
    places = frames.tolist()
    spans = []
    for number, (frame, probability) in enumerate(zip(places, said, strict=True)):
        count, before = places.count(frame), number - places.index(frame)
        spans.append(Span(frame + before / count, frame + (before + 1) / count, probability))
    return spans


def lattice(
    decoder: TransducerDecoder, encoded: Tensor, tokens: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """(1, S, D), U tokens -> (S, U + 1), (S, U) float64 log-probabilities of BLANK and of tokens.

    Element (t, u): at frame t after u tokens, BLANK, and the token that comes next.
    """
    previous = torch.tensor([EOS, *tokens], device=encoded.device)  # (U + 1,)
    cache, steps = decoder.begin(1), []
    for token in previous.split(1):
        prediction, cache = decoder.predict(token, cache)  # (1, J)
        steps.append(prediction)
    predictions = torch.cat(steps)  # (U + 1, J)
    blank, emit = [], []
    rows = max(1, CHUNK // (len(previous) * decoder.vocabulary))
    for frames in decoder.project(encoded)[0].split(rows):
        log_probs = decoder.join(frames[:, None], predictions).double()  # (rows, U + 1, V)
        blank.append(log_probs[..., BLANK])
        following = previous[1:].expand(len(frames), -1)[..., None]  # (rows, U, 1)
        emit.append(log_probs[:, :-1].gather(2, following)[..., 0])
    return torch.cat(blank), torch.cat(emit)


def viterbi(blank: Tensor, emit: Tensor) -> tuple[Tensor, Tensor]:
    """(S, U + 1), (S, U) log-probabilities -> (U,) frame of each token, () that of the path.

    The likeliest path through the lattice of Graves 2012, which begins at frame 0 and ends with
    BLANK at the last, S - 1. With B_u(t) the sum of blank[s, u] over s < t,

        best_u(t) = B_u(t) + max_{s <= t} (best_{u-1}(s) + emit[s, u-1] - B_u(s)),

    a running maximum over frames for each token, whose places lead back along the path.
    """
    silent = blank.cumsum(0) - blank  # (S, U + 1), before each frame
    best, places = silent[:, 0], []
    for u in range(emit.shape[1]):
        highest, place = (best + emit[:, u] - silent[:, u + 1]).cummax(0)
        best = highest + silent[:, u + 1]  # (S,)
        places.append(place)
    frame, path = torch.tensor(len(blank) - 1, device=blank.device), []
    for place in reversed(places):
        frame = place[frame]
        path.append(frame)
    frames = torch.stack(path[::-1]) if path else torch.zeros(0, dtype=torch.long)
    return frames, best[-1] + blank[-1, -1]


def _spread(words: Sequence[str], seconds: float) -> list[Word]:
    """Evenly over the audio: better than nothing, and marked by having no confidence."""
    step = seconds / max(len(words), 1)
    return [Word(word, i * step, (i + 1) * step, None) for i, word in enumerate(words)]
