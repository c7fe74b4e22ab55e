"""The hypotheses that a search returns, and the rules that score them."""

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

        (1 - ctc_weight) log p_decoder + ctc_weight log p_ctc + lm_weight log p_lm
            - internal_lm_weight log p_internal_lm + length_bonus * U

    The keys are those of ``Beam``. A weight of 0 leaves its part out.
    """

    beam: int
    ctc_weight: float = 0.0
    length_bonus: float = 0.0
    nbest: int | None = None
    lm_weight: float = 0.0
    internal_lm_weight: float = 0.0


def settled(found: Sequence[Hypothesis], bound: float, rules: Rules) -> bool:
    """Whether nothing that is still open, worth ``bound`` at most, belongs to those found."""
    needed = rules.nbest or 1
    return len(found) >= needed and found[needed - 1].score >= bound


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
