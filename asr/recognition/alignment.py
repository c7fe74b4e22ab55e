"""Times and confidences of words, by forced alignment of their tokens."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.batch import BLANK, EOS
from asr.decoders import Decoder, TransducerDecoder
from asr.kernels.torchaudio_functional import forced_align
from asr.recognition.transcript import Word
from asr.search.calibration import Calibration
from asr.text.tokenizers import Tokenizer

# The definition of a confidence, as written to metrics.json.
CONFIDENCE = "geometric mean over the tokens of a word of p(token) / (1 - p(BLANK))"
CHUNK = 2**22  # number of log-probabilities of a lattice that are held at once: 16 MB


class TokenSpan(NamedTuple):
    """The position of a token in the audio.

    Attributes:
        start, end: encoder frames.
        probability: p(token) / (1 - p(BLANK)), at the frame that emits the token.
    """

    start: float
    end: float
    probability: float


def aligns(decoder: Decoder) -> bool:
    """Whether the decoder can give the times of words: a transducer, or one with a CTC head."""
    return decoder.aligner != "ctc" or decoder.has_ctc()


def align_words(
    decoder: Decoder,
    encoded: Tensor,
    lengths: Tensor,
    tokens: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    frame_seconds: float,
    calibration: Calibration | None = None,
) -> list[list[Word]]:
    """Returns the words of each utterance with their times and confidences.

    Tokens are placed by the most likely path of a transducer, or of the CTC head of any other
    decoder. Both emit a token within its sound, so words seem shorter than they are. On FSDD, in
    frames of 40 ms, CTC begins words 1-2 frames late and ends them 2-3 frames early. A transducer,
    which may emit a whole word at once, begins them 2-4 frames late and ends them 4-5 early.

    Args:
        decoder: a decoder that ``aligns``.
        encoded: encoder output in which the tokens were found.
        lengths: number of frames of each utterance.
        tokens: tokens of each utterance, without EOS.
        tokenizer: tokenizer of the tokens.
        frame_seconds: duration of an encoder frame.
        calibration: calibration of the ``confidence``; None leaves the confidence as it is.
    """
    sizes = lengths.tolist()
    spans = ALIGNERS[decoder.aligner](decoder, encoded, sizes, tokens)
    aligned = []
    for ids, path, size in zip(tokens, spans, sizes, strict=True):
        words, ranges, reached = spelled(ids, tokenizer)
        if path is None:
            # No path: the words are spread evenly over the audio and have no confidence.
            step = size * frame_seconds / max(len(words), 1)
            timed = [Word(word, i * step, (i + 1) * step, None) for i, word in enumerate(words)]
        else:
            timed = []
            for number, word in enumerate(words):
                # A token belongs to every word to which it adds characters.
                own = [k for k, words_of in enumerate(ranges) if number in words_of]
                parts = [path[k] for k in own]
                sure = confidence([span.probability for span in parts])
                if calibration is not None:
                    sure = calibration.apply(sure)
                ends = [reached[k] if number == ranges[k][-1] else len(word) for k in own]
                times = parts[0].start * frame_seconds, parts[-1].end * frame_seconds
                timed.append(Word(word, *times, sure, _letters(parts, ends)))
        aligned.append(timed)
    return aligned


def _letters(parts: Sequence[TokenSpan], ends: Sequence[int]) -> tuple[tuple[float, float], ...]:
    """Divides the time of each token of a word equally among its characters; see ``Word``.

    ``ends`` has the number of characters that the word has after each token.
    """
    first, whole = parts[0].start, max(parts[-1].end - parts[0].start, 1e-9)
    letters: list[tuple[float, float]] = []
    for part, end in zip(parts, ends, strict=True):
        begin, number = (part.start - first) / whole, max(end - len(letters), 1)
        step = (part.end - part.start) / whole / number
        new = range(end - len(letters))
        letters += [(begin + i * step, begin + (i + 1) * step) for i in new]
    return tuple(letters)


def confidence(probabilities: Sequence[float]) -> float:
    """The geometric mean of the probabilities of the tokens of a word, before calibration.

    The mean was chosen by the area under the curve (AUC) of correct against wrong words, which is
    0.891 on 7,091 validation words of LibriSpeech (arithmetic mean 0.867, minimum 0.892, product
    0.885). It also has the highest normalised cross entropy before calibration (0.36 against 0.27,
    0.32, 0.16). BLANK is left out, because the frame of a token can be uncertain when the token is
    not: the AUC of a transducer on FSDD is 0.69 with BLANK and 0.97 without. Two other measures are
    no better than chance on LibriSpeech: the token probability of an attention decoder (0.46) and
    the share of the n-best list that contains the word (0.51).
    """
    return math.prod(p ** (1 / len(probabilities)) for p in probabilities)


def spelled(
    tokens: Sequence[int], tokenizer: Tokenizer
) -> tuple[list[str], list[range], list[int]]:
    """The words, the words of each token, and the length of the last word after each token.

    A token belongs to a range of words, to which it adds characters. The function only decodes
    longer and longer prefixes, so it works with any tokenizer.
    """
    words: list[str] = []
    places, reached = [], []
    for end in range(1, len(tokens) + 1):
        before, words = words, tokenizer.decode(tokens[:end]).split()
        same = 0
        while same < min(len(before), len(words)) and before[same] == words[same]:
            same += 1
        places.append(range(same, len(words)))
        reached.append(len(words[-1]) if words else 0)
    return words, places, reached


def ctc_spans(log_probs: Tensor, tokens: Sequence[int]) -> list[TokenSpan] | None:
    """Returns the frames of each token on the most likely CTC path; None if there are too few.

    U tokens need U frames, and one more between two equal neighbours (Graves et al. 2006). The
    probability of a token is the largest one among its frames.
    """
    repeats = sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))
    if len(log_probs) < len(tokens) + repeats:
        return None
    if not tokens:
        return []
    log_probs = log_probs.float().cpu()
    target = torch.tensor([list(tokens)], dtype=torch.int32)
    path, scores = forced_align(log_probs[None], target, blank=BLANK)
    labels, likelihoods = path[0].tolist(), scores[0].tolist()
    ends = [t for t in range(1, len(labels) + 1) if t == len(labels) or labels[t] != labels[t - 1]]
    runs = [
        (start, end) for start, end in zip([0, *ends], ends, strict=False) if labels[start] != BLANK
    ]
    peaks = [max(range(start, end), key=lambda t: likelihoods[t]) for start, end in runs]
    chances = _among_tokens(log_probs[peaks], tokens)
    return [TokenSpan(*run, chance) for run, chance in zip(runs, chances, strict=True)]


def _ctc_batch(
    decoder: Decoder, encoded: Tensor, lengths: Sequence[int], tokens: Sequence[Sequence[int]]
) -> list[list[TokenSpan] | None]:
    """Returns the spans of the tokens of each utterance."""
    log_probs = decoder.ctc_log_probs(encoded)  # (B, S, V)
    assert log_probs is not None, "align_words() needs a decoder that aligns()"
    rows = zip(log_probs, lengths, tokens, strict=True)
    return [ctc_spans(row[:size], own) for row, size, own in rows]


def _transducer_batch(
    decoder: TransducerDecoder,
    encoded: Tensor,
    lengths: Sequence[int],
    tokens: Sequence[Sequence[int]],
) -> list[list[TokenSpan] | None]:
    """Returns the spans of the tokens of each utterance."""
    rows = [torch.tensor([EOS, *own], device=encoded.device) for own in tokens]
    previous = pad_sequence(rows, batch_first=True, padding_value=EOS)  # (B, U + 1)
    cache, steps = decoder.begin(len(rows)), []
    for last in previous.T:
        prediction, cache = decoder.predict(last, cache)  # (B, J)
        steps.append(prediction)
    frames, predictions = decoder.project(encoded), torch.stack(steps, 1)  # (B, S, J), (B, U+1, J)
    return [
        transducer_spans(decoder, frames[b, :length], predictions[b, : len(own) + 1], own)
        for b, (length, own) in enumerate(zip(lengths, tokens, strict=True))
    ]


# By ``Decoder.aligner``.
ALIGNERS: dict[str, Callable[..., list[list[TokenSpan] | None]]] = {
    "ctc": _ctc_batch,
    "transducer": _transducer_batch,
}


def transducer_spans(
    decoder: TransducerDecoder, frames: Tensor, predictions: Tensor, tokens: Sequence[int]
) -> list[TokenSpan] | None:
    """Returns the spans of tokens on the most likely path; None if there are no frames.

    A path exists for any number of tokens. The n tokens of one frame divide it equally, in order.
    """
    if not tokens:
        return []
    if not len(frames):
        return None
    path, _ = viterbi(*lattice(decoder, frames, predictions, tokens))
    chances = _among_tokens(decoder.join(frames[path], predictions[:-1]), tokens)
    places = path.tolist()
    spans = []
    for number, (frame, chance) in enumerate(zip(places, chances, strict=True)):
        count, before = places.count(frame), number - places.index(frame)
        spans.append(TokenSpan(frame + before / count, frame + (before + 1) / count, chance))
    return spans


def lattice(
    decoder: TransducerDecoder, frames: Tensor, predictions: Tensor, tokens: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Computes float64 log-probabilities of BLANK (S, U + 1) and of the next token (S, U).

    Elements (t, u) belong to frame t after u tokens.
    """
    following = torch.tensor(tokens, device=frames.device)[:, None]  # (U, 1)
    blank, emit = [], []
    for chunk in frames.split(max(1, CHUNK // (len(predictions) * decoder.vocabulary))):
        log_probs = decoder.join(chunk[:, None], predictions).double()  # (rows, U + 1, V)
        blank.append(log_probs[..., BLANK])
        emit.append(log_probs[:, :-1].gather(2, following.expand(len(chunk), -1, -1))[..., 0])
    return torch.cat(blank), torch.cat(emit)


def viterbi(blank: Tensor, emit: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the frame (U,) of each token and the score () of the most likely path.

    The path goes through the lattice of Graves 2012, from frame 0 to BLANK at the last
    frame, S - 1. With B_u(t) the sum of blank[s, u] over s < t,

        best_u(t) = B_u(t) + max_{s <= t} (best_{u-1}(s) + emit[s, u-1] - B_u(s)),

    a running maximum over frames for each token; the positions of the maxima give the path.
    """
    silent = blank.cumsum(0) - blank  # (S, U + 1), before each frame
    best, places = silent[:, 0], []
    for u in range(emit.shape[1]):
        highest, place = (best + emit[:, u] - silent[:, u + 1]).cummax(0)
        best = highest + silent[:, u + 1]  # (S,)
        places.append(place)
    frame, path = len(blank) - 1, []
    for place in torch.stack(places).cpu().numpy()[::-1] if places else ():
        frame = int(place[frame])
        path.append(frame)
    frames = torch.tensor(path[::-1], dtype=torch.int64, device=blank.device)
    return frames, best[-1] + blank[-1, -1]


def _among_tokens(log_probs: Tensor, tokens: Sequence[int]) -> list[float]:
    """Returns the probability of each of U tokens among all tokens that are not BLANK."""
    blank = torch.tensor([BLANK], device=log_probs.device)
    chances = log_probs.float().index_fill(1, blank, -torch.inf).softmax(1)
    places = torch.tensor(tokens, device=log_probs.device)[:, None]
    found: list[float] = chances.gather(1, places)[:, 0].tolist()
    return found
