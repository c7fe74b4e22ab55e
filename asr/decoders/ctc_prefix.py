"""CTC prefix scores: the probability of each extension of a prefix by one label.

Computes the forward variables of Graves 2008 for all prefixes of a beam at once, without a loop
over frames.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.batch import BLANK, EOS, mask

# Log-probabilities below this limit count as probability 0, so that cumulative sums stay finite and
# precise. exp(-1e4) is 0 in float64; float32, for devices without float64, needs a higher limit.
LOG_ZERO = {torch.float64: -1e4, torch.float32: -1e2}


class CTCPrefixes(NamedTuple):
    """The CTC forward variables of K label prefixes per utterance.

    Attributes:
        probabilities: (B, V, S) of labels by frame; blank has probability 1 after the end.
        silence: (B, 1, S + 1) log-probability that the first t frames are blank.
        total: (B, K, S + 1) log-probability that the first t frames spell the prefix.
        blank: (B, K, S + 1) the part of ``total`` in which frame t is blank.
        last: (B, K) last label of each prefix; EOS for the empty prefix.
        emitted: (B, K, S) probability of that last label by frame.

    A prefix of U labels needs at least U frames. As prefixes grow, the first frames are therefore
    left out, and S counts the remaining ones.
    """

    probabilities: Tensor
    silence: Tensor
    total: Tensor
    blank: Tensor
    last: Tensor
    emitted: Tensor

    def select(self, utterances: Tensor) -> "CTCPrefixes":
        """Keeps these utterances."""
        return CTCPrefixes(*(value[utterances] for value in self))


def precision(device: torch.device) -> torch.dtype:
    """Returns the type in which a search sums: float64, or float32 on a device without it."""
    return torch.float32 if device.type == "mps" else torch.float64


def empty_prefixes(log_probs: Tensor, lengths: Tensor) -> CTCPrefixes:
    """Returns the empty prefix of each utterance (K = 1), given (B, S, V) log-probabilities.

    All values have the type that ``precision`` returns.
    """
    probabilities = (
        log_probs.to(precision(log_probs.device)).exp().transpose(1, 2).contiguous()
    )  # (B, V, S)
    padding = ~mask(lengths.to(log_probs.device), log_probs.shape[1])  # (B, S)
    probabilities = probabilities.masked_fill_(padding[:, None], 0)
    probabilities[:, BLANK].masked_fill_(padding, 1)
    silence = _cumulative(probabilities[:, BLANK : BLANK + 1])  # (B, 1, S + 1)
    last = torch.full((len(log_probs), 1), EOS, device=log_probs.device)  # (B, 1)
    return CTCPrefixes(
        probabilities, silence, silence, silence, last, probabilities[:, EOS : EOS + 1]
    )


def extension_scores(prefixes: CTCPrefixes) -> Tensor:
    """Returns the log-probability that each prefix continues with each label, (B, K, V).

    The column of EOS holds the probability that the prefix ends; that of BLANK is -inf. If a label
    is less likely than exp(-700) times its prefix, its score may be -inf.
    """
    # psi(hc) = sum over t of phi_{t-1} p_t(c), where c begins at frame t. phi depends on c only if
    # c repeats the last label, because a blank must then separate the two.
    total, blank = prefixes.total[..., :-1], prefixes.blank[..., :-1]  # (B, K, S)
    peak = total.amax(-1, keepdim=True).clamp_(min=torch.finfo(total.dtype).min)  # (B, K, 1)
    scores = torch.bmm((total - peak).exp_(), prefixes.probabilities.transpose(1, 2))  # (B, K, V)
    repeated = (blank - peak).exp_().mul_(prefixes.emitted).sum(-1, keepdim=True)  # (B, K, 1)
    scores.scatter_(2, prefixes.last[..., None], repeated)
    scores = scores.log_().add_(peak)
    scores[..., EOS] = prefixes.total[..., -1]
    scores[..., BLANK] = -math.inf
    return scores


def extend(prefixes: CTCPrefixes, parents: Tensor, labels: Tensor) -> CTCPrefixes:
    """Appends labels (B, K') to the prefixes at the positions ``parents`` (B, K').

    The recurrence r_t = p_t (r_{t-1} + phi_{t-1}) of the label, and that of blank, are solved for
    all frames at once: r_t = P_t sum_{s<=t} phi_{s-1} / P_{s-1} with P the cumulative product.
    """
    utterances = torch.arange(len(labels), device=labels.device)[:, None]
    repeats = (labels == prefixes.last[utterances, parents])[..., None]  # (B, K', 1)
    arrived = torch.where(
        repeats, prefixes.blank[utterances, parents], prefixes.total[utterances, parents]
    )  # (B, K', S + 1)
    emitted = prefixes.probabilities[utterances, labels]  # (B, K', S)
    label = _recurrence(_cumulative(emitted), arrived)  # (B, K', S + 1)
    blank = _recurrence(prefixes.silence, label)  # (B, K', S + 1)
    left = slice(min(1, emitted.shape[-1] - 1), None)  # keeps a single frame
    return CTCPrefixes(
        prefixes.probabilities[..., left],
        prefixes.silence[..., left],
        torch.logaddexp(label, blank)[..., left],
        blank[..., left],
        labels,
        emitted[..., left],
    )


def expected_length(prefixes: CTCPrefixes) -> Tensor:
    """Returns the mean number of labels under the CTC posterior, (B,).

    A label begins where a frame has it and the frame before does not. Frames are independent, so
    the mean is the sum of p_t(c) (1 - p_{t-1}(c)) over frames and labels.
    """
    labels = prefixes.probabilities[:, BLANK + 1 :]  # (B, V - 1, S)
    return labels.sum((1, 2)) - (labels[..., 1:] * labels[..., :-1]).sum((1, 2))  # (B,)


def _cumulative(probabilities: Tensor) -> Tensor:
    """Returns the log of the product of the first t = 0 ... S values, (..., S + 1)."""
    floor = LOG_ZERO[probabilities.dtype]
    return F.pad(probabilities.log().clamp(min=floor).cumsum(-1), (1, 0))


def _recurrence(cumulative: Tensor, arrived: Tensor) -> Tensor:
    """Solves r_t = p_t (r_{t-1} + arrived_{t-1}), r_0 = 0, in logarithms; all (..., S + 1)."""
    entered = torch.logcumsumexp(arrived[..., :-1] - cumulative[..., :-1], -1)  # (..., S)
    return F.pad(cumulative[..., 1:] + entered, (1, 0), value=-math.inf)
