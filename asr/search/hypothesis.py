"""What a search finds, and by which rules hypotheses are scored."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Hypothesis:
    """What an utterance may say.

    Attributes:
        tokens: without EOS.
        score: by which hypotheses are ranked, see ``Rules``; natural logarithm.
        decoder_score: log-probability under the decoder: of an attention decoder with EOS once
            finished; of a transducer or of CTC alone, summed over the alignments that were kept
            (by greedy search one, the path that it takes).
        ctc_score: log-probability of all CTC alignments; 0 where CTC takes no part beside the
            decoder.
        lm_score: log-probability under the language model, EOS included once finished; 0 without.
        finished: False if the search was cut off before the end of sentence.
    """

    tokens: tuple[int, ...]
    score: float
    decoder_score: float
    ctc_score: float
    lm_score: float
    finished: bool


@dataclass(frozen=True)
class Rules:
    """How hypotheses of U tokens are scored, and how many are kept.

        (1 - c) log p_decoder + c log p_ctc + l log p_lm - i log p_internal + length_bonus * U

    Attributes:
        beam: hypotheses kept.
        ctc_weight: c, of attention decoders with a CTC head; 0 for other decoders.
        length_bonus: per token.
        nbest: how many hypotheses must be certain; None: the best.
        lm_weight: l, shallow fusion (Gulcehre et al. 2015); 0 without a language model.
        internal_lm_weight: i, of a transducer's internal language model, EOS not included.
    """

    beam: int
    ctc_weight: float = 0.0
    length_bonus: float = 0.0
    nbest: int | None = None
    lm_weight: float = 0.0
    internal_lm_weight: float = 0.0


def refuse_nan(utterances: Sequence[int]) -> None:
    """Places in the batch of the utterances that have a score of NaN.

    Raises:
        ValueError: there are any.
    """
    if utterances:
        places = ", ".join(map(str, utterances))
        raise ValueError(
            f"scores are NaN for utterances {places} of the batch: check that the audio is finite, "
            "and that the weights are, a language model's too (else use an earlier checkpoint)"
        )
