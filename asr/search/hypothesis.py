"""The hypotheses that a search returns, and the rules that score them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Hypothesis:
    """A possible transcript of an utterance, with its scores (natural logarithms).

    Attributes:
        tokens: the tokens without EOS.
        score: the score that ranks hypotheses; see ``Rules``.
        decoder_score: log-probability under the decoder. That of an attention decoder includes EOS
            if the hypothesis is finished. That of a transducer or of CTC alone is the sum over the
            alignments that the search kept (in greedy search, one path).
        ctc_score: log-probability of all CTC alignments; 0 if CTC is not combined with the decoder.
        lm_score: log-probability under the language model, with EOS if finished; 0 without one.
        finished: False if the search was cut off before the end of the sentence.
    """

    tokens: tuple[int, ...]
    score: float
    decoder_score: float
    ctc_score: float
    lm_score: float
    finished: bool


@dataclass(frozen=True)
class Rules:
    """Options of a search: the number of hypotheses, and the weights of the score of U tokens.

        (1 - ctc_weight) log p_decoder + ctc_weight log p_ctc + lm_weight log p_lm
            - internal_lm_weight log p_internal_lm + length_bonus * U

    The options are those of ``Beam``. A weight of 0 leaves its term out.
    """

    beam: int
    ctc_weight: float = 0.0
    length_bonus: float = 0.0
    nbest: int | None = None
    lm_weight: float = 0.0
    internal_lm_weight: float = 0.0


def settled(found: Sequence[Hypothesis], bound: float, rules: Rules) -> bool:
    """Whether no open hypothesis, with a score of at most ``bound``, can enter the results."""
    needed = rules.nbest or 1
    return len(found) >= needed and found[needed - 1].score >= bound


def refuse_nan(utterances: Sequence[int]) -> None:
    """Checks that no utterance has a score of NaN; ``utterances`` are batch indices that do.

    Raises:
        ValueError: ``utterances`` is not empty.
    """
    if utterances:
        listed = ", ".join(map(str, utterances))
        raise ValueError(
            f"scores are NaN for utterances {listed} of the batch: check that the audio and the "
            "weights (also of the language model) are finite, or use an earlier checkpoint"
        )
