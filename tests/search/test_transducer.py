"""Search over a transducer against every path, and against a search over dictionaries."""

import math
from itertools import product

import pytest
import torch

from asr.batch import BLANK, EOS
from asr.decoders.decoder import TransducerDecoder
from asr.search import Beam, Greedy
from asr.search.transducer import allowance
from tests.table_language_model import TableLanguageModel
from tests.tiny import DECODER_BUILDERS, TRANSDUCERS


class Lattice(TransducerDecoder):
    """Frames and predictions are logits that add up; a prediction depends on all tokens."""

    def __init__(self, vocabulary, seed=0, blank=0.0, sharpness=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.dim = self.vocabulary = vocabulary
        self.table = sharpness * torch.randn(16, vocabulary, vocabulary, generator=generator)
        self.blank, self.predicted = blank, []

    def project(self, encoded):
        return encoded

    def begin(self, rows):
        return {
            "sum": torch.zeros(rows, self.vocabulary),
            "count": torch.zeros(rows, dtype=torch.long),
        }

    def predict(self, tokens, cache):
        self.predicted.append(len(tokens))
        logits = cache["sum"] + self.table[cache["count"] % 16, tokens]
        return logits, {"sum": logits, "count": cache["count"] + 1}

    def join(self, frames, predictions):
        logits = frames + predictions
        logits = logits.index_fill(-1, torch.tensor([EOS]), -torch.inf)
        blank = torch.zeros(self.vocabulary)
        blank[BLANK] = self.blank
        return (logits + blank).log_softmax(-1)

    def internal_lm(self, predictions):
        return predictions.index_fill(-1, torch.tensor([BLANK, EOS]), -torch.inf).log_softmax(-1)

    def loss(self, encoded, lengths, tokens, token_lengths):
        raise NotImplementedError

    def ctc_log_probs(self, encoded):
        return None

    def flops(self, lengths, token_lengths):
        raise NotImplementedError


def frames(*lengths, V, seed=0, sharpness=1.0):
    """Random (B, S, V) with garbage in the padding, and lengths."""
    generator = torch.Generator().manual_seed(seed)
    x = sharpness * torch.randn(len(lengths), max(lengths), V, generator=generator)
    lengths = torch.tensor(lengths)
    return x.masked_fill(
        (torch.arange(x.shape[1]) >= lengths[:, None])[..., None], math.nan
    ), lengths


def predictions(decoder, tokens):
    cache, outputs = decoder.begin(1), []
    for token in (EOS, *tokens):
        output, cache = decoder.predict(torch.tensor([token]), cache)
        outputs.append(output)
    return torch.cat(outputs)  # (U + 1, J)


def brute_force(decoder, projected, tokens):
    """Sum over all paths of (S, J), written as the recursion of Graves 2012 on probabilities."""
    grid = decoder.join(projected[:, None], predictions(decoder, tokens)[None])
    grid = grid.double().exp()  # (S, U + 1, V)
    S, U = len(projected), len(tokens)
    alpha = torch.zeros(S, U + 1, dtype=torch.float64)
    for t, u in product(range(S), range(U + 1)):
        if t == u == 0:
            alpha[0, 0] = 1
            continue
        below = alpha[t - 1, u] * grid[t - 1, u, BLANK] if t else 0
        left = alpha[t, u - 1] * grid[t, u - 1, tokens[u - 1]] if u else 0
        alpha[t, u] = below + left
    return math.log(alpha[-1, -1] * grid[-1, -1, BLANK])


def internal(decoder, tokens):
    scores = decoder.internal_lm(predictions(decoder, tokens)[:-1])
    return float(scores.gather(1, torch.tensor(tokens, dtype=torch.long)[:, None]).sum())


def expected(decoder, projected, tokens, search, language_model=None):
    lm = language_model.score([*tokens, EOS]) if language_model else 0.0
    score = brute_force(decoder, projected, tokens)
    return (
        score,
        lm,
        (
            score
            + search.lm_weight * lm
            - search.internal_lm_weight * internal(decoder, tokens)
            + search.length_bonus * len(tokens)
        ),
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"length_bonus": -0.4}, {"length_bonus": 0.3}])
def test_a_beam_that_holds_every_hypothesis_sums_all_paths(seed, options):
    # One token and BLANK: hypotheses differ in length only, up to the allowance.
    decoder = Lattice(3, seed, blank=0.5)
    x, lengths = frames(4, V=3, seed=seed)
    search = Beam(beam=64, nbest=6, **options)
    found = search(decoder, x, lengths)[0]
    most = 2 * len(Greedy()(decoder, x, lengths)[0][0].tokens) + 10
    rows = [((2,) * n, expected(decoder, x[0], (2,) * n, search)) for n in range(most + 1)]
    rows.sort(key=lambda row: -row[1][2])
    assert [h.tokens for h in found] == [tokens for tokens, _ in rows[:6]]
    for h, (_, (score, _, total)) in zip(found, rows, strict=False):
        assert h.decoder_score == pytest.approx(score, abs=1e-5)
        assert h.score == pytest.approx(total, abs=1e-5)
        assert h.finished


@pytest.mark.parametrize("seed", [0, 1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lm_weight": 0.5},
        {"lm_weight": 0.7, "internal_lm_weight": 0.4, "length_bonus": 0.2},
        {"internal_lm_weight": 0.3},
    ],
)
def test_the_nbest_of_a_wide_beam_are_the_best_of_an_enumeration(seed, options):
    decoder = Lattice(5, seed, blank=3.0)
    x, lengths = frames(3, 2, V=5, seed=seed)
    language_model = TableLanguageModel(5, seed) if options.get("lm_weight") else None
    search = Beam(beam=300, nbest=8, **options)
    together = search(decoder, x, lengths, language_model)
    for row, size in enumerate((3, 2)):
        every = [t for n in range(6) for t in product((2, 3, 4), repeat=n)]
        scored = {t: expected(decoder, x[row, :size], t, search, language_model) for t in every}
        best = sorted(every, key=lambda t: -scored[t][2])[:8]
        assert [h.tokens for h in together[row]] == best
        for h in together[row]:
            score, lm, total = scored[h.tokens]
            assert h.decoder_score == pytest.approx(score, abs=1e-4)
            assert h.lm_score == pytest.approx(lm, abs=1e-4)
            assert h.score == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_greedy_search_takes_the_likeliest_step_each_time(seed):
    decoder = Lattice(5, seed, blank=1.0, sharpness=2.0)
    x, lengths = frames(40, 17, 1, V=5, seed=seed, sharpness=2.0)
    found = Greedy()(decoder, x, lengths)
    for row, size in enumerate(lengths.tolist()):
        tokens, score, t, cache = [], 0.0, 0, decoder.begin(1)
        g, cache = decoder.predict(torch.tensor([EOS]), cache)
        while t < size and len(tokens) < allowance(size):
            log_prob, token = decoder.join(x[row, t], g[0]).max(-1)
            score += float(log_prob)
            if token == BLANK:
                t += 1
            else:
                tokens.append(int(token))
                g, cache = decoder.predict(token[None], cache)
        (h,) = found[row]
        assert list(h.tokens) == tokens
        assert h.decoder_score == h.score == pytest.approx(score, abs=1e-4)
        assert h.finished == (t == size)


@pytest.mark.parametrize("search", [Greedy(), Beam(beam=4), Beam(beam=4, nbest=3, lm_weight=0.4)])
def test_results_do_not_depend_on_padding_or_on_the_rest_of_the_batch(search):
    decoder = Lattice(6, 1, blank=1.0, sharpness=1.5)
    x, lengths = frames(23, 5, 0, 14, V=6, sharpness=1.5)
    language_model = TableLanguageModel(6) if search.lm_weight else None
    together = search(decoder, x, lengths, language_model)
    for row, size in enumerate(lengths.tolist()):
        alone = search(decoder, x[row : row + 1, :size], lengths[row : row + 1], language_model)[0]
        assert [h.tokens for h in together[row]] == [h.tokens for h in alone]
        for one, other in zip(together[row], alone, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)
    assert together[2][0].tokens == ()
    assert together[2][0].finished


@pytest.mark.parametrize("seed", range(5))
def test_hypotheses_are_distinct_sorted_and_never_hold_blank_or_eos(seed):
    decoder = Lattice(6, seed, blank=0.5, sharpness=1.5)
    x, lengths = frames(20, 9, V=6, seed=seed, sharpness=1.5)
    for found in Beam(beam=6, nbest=6)(decoder, x, lengths):
        assert len({h.tokens for h in found}) == len(found) > 1
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        assert not {BLANK, EOS} & {token for h in found for token in h.tokens}


@pytest.mark.parametrize("seed", range(5))
def test_a_wider_beam_finds_a_likelier_best(seed):
    decoder = Lattice(6, seed, blank=1.0, sharpness=1.5)
    x, lengths = frames(15, V=6, seed=seed, sharpness=1.5)
    wide = Beam(beam=200)(decoder, x, lengths)[0][0]
    for beam in (1, 4, 16):
        best = Beam(beam=beam)(decoder, x, lengths)[0][0]
        assert best.score <= wide.score + 1e-6
        assert best.decoder_score <= brute_force(decoder, x[0], best.tokens) + 1e-5


class Cells(Lattice):
    """p(token | frame, tokens so far) from a table (S, U); BLANK has the rest."""

    def __init__(self, chances):
        super().__init__(3)
        self.chances = torch.tensor(chances)

    def predict(self, tokens, cache):
        cache = {**cache, "count": cache["count"] + 1}
        return (cache["count"] - 1)[:, None].float().expand(-1, 3), cache

    def join(self, frames, predictions):
        S, U = self.chances.shape
        row, column = torch.broadcast_tensors(frames[..., 0].long(), predictions[..., 0].long())
        chance = self.chances[row.clamp(max=S - 1), column.clamp(max=U - 1)]
        return torch.stack([1 - chance, torch.zeros_like(chance), chance], -1).log()


def test_open_hypotheses_that_can_merge_are_not_pruned_too_early():
    # After two steps "" is certain with 0.4, and "a" at frame 1 and "aa" at frame 0 have 0.3 each:
    # neither would overtake it, but "a" becomes "aa" and they have 0.6.
    decoder = Cells([[0.6, 0.5, 0.0], [0.0, 1.0, 0.0]])
    x, lengths = torch.arange(2.0)[None, :, None], torch.tensor([2])
    for nbest in (None, 1, 2):
        best, *others = Beam(beam=8, nbest=nbest)(decoder, x, lengths)[0]
        assert best.tokens == (2, 2)
        assert best.score == pytest.approx(math.log(0.6), abs=1e-5)
        assert [h.tokens for h in others] == ([] if nbest == 1 else [()])


def test_a_decoder_that_never_emits_blank_is_truncated_and_marked():
    decoder = Lattice(4, blank=-math.inf)
    x, lengths = frames(5, 3, V=4)
    for search in (Greedy(), Beam(beam=3)):
        for (h, *_), size in zip(search(decoder, x, lengths), lengths.tolist(), strict=True):
            assert not h.finished
            assert len(h.tokens) >= allowance(size)


def test_a_decoder_that_emits_only_blanks_gives_an_empty_hypothesis():
    decoder = Lattice(4, blank=50.0)
    x, lengths = frames(30, 11, V=4)
    for search in (Greedy(), Beam(beam=3)):
        for found in search(decoder, x, lengths):
            assert found[0].tokens == ()
            assert found[0].finished
            assert found[0].score == pytest.approx(0.0, abs=1e-4)


def test_a_decoder_that_loops_for_a_while_is_not_truncated():
    # Four tokens at every frame, then a blank.
    class Talker(Lattice):
        def join(self, frames, predictions):
            logits = torch.full((*torch.broadcast_shapes(frames.shape, predictions.shape),), -9.0)
            due = predictions[..., :1].round() % 5 == 4
            logits[..., BLANK] = torch.where(due, 9.0, -9.0)[..., 0]
            logits[..., 2] = torch.where(due, -9.0, 9.0)[..., 0]
            return logits.log_softmax(-1)

        def predict(self, tokens, cache):
            count = cache["count"] + 1
            return (count - 1)[:, None].float().expand(-1, self.vocabulary), {
                "count": count,
                "sum": cache["sum"],
            }

    x, lengths = frames(1, V=4)
    (found,) = Beam(beam=4)(Talker(4), x, lengths)
    assert found[0].tokens == (2,) * 4
    assert found[0].finished


def test_the_prediction_network_advances_only_hypotheses_that_grew():
    decoder = Lattice(6, blank=3.0, sharpness=0.1)
    x, lengths = frames(60, 60, V=6, sharpness=0.1)
    found = Greedy()(decoder, x, lengths)
    # Once for the start, then a row per token that was said.
    assert sum(decoder.predicted) == 2 + sum(len(n_best[0].tokens) for n_best in found)


def test_nan_scores_name_the_utterance():
    decoder = Lattice(4)
    x, lengths = frames(6, 6, V=4)
    x[1, 3] = math.nan
    for search in (Greedy(), Beam(beam=2)):
        with pytest.raises(ValueError, match="scores are NaN for utterances 1 of the batch"):
            search(decoder, x, lengths)


@pytest.mark.parametrize("name", sorted(TRANSDUCERS))
@torch.no_grad()
def test_the_score_of_a_real_transducer_equals_its_likelihood(name):
    torch.manual_seed(0)
    decoder = DECODER_BUILDERS[name](16, 4).eval()
    x, lengths = torch.randn(3, 4, 16), torch.tensor([4, 3, 1])
    found = Beam(beam=300, nbest=3)(decoder, x, lengths)
    for row, size in enumerate(lengths.tolist()):
        one = x[row : row + 1, :size], lengths[row : row + 1]
        projected = decoder.project(one[0])[0]
        for h in found[row]:
            truth = brute_force(decoder, projected, h.tokens)
            assert h.decoder_score == pytest.approx(truth, abs=1e-4)
            tokens = torch.tensor([h.tokens], dtype=torch.long)
            loss = decoder.loss(*one, tokens, torch.tensor([len(h.tokens)]))
            assert float(loss.terms["transducer"].sum) == pytest.approx(-truth, abs=1e-4)
