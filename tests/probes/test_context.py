import csv
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from asr.audio.features import LogMel
from asr.batch import BLANK, mask
from asr.cli import main
from asr.data.utterances import DataOptions, SpeechData
from asr.decoders import CTC
from asr.encoders import ENCODERS, Encoder
from asr.model import SpeechModel, save_model
from asr.probes.context import ContextPoint
from asr.probes.context_measure import (
    BOUND,
    Plan,
    contexts,
    draw,
    effective,
    losses,
    measure_contexts,
)
from asr.probes.gradient_decay import Decay, fit, judge, sight, squared_gradients
from asr.probes.truncated_context import chunk_frames, encode, whole_chunks, windows
from asr.recognition.validate import Validation
from asr.search import Greedy
from asr.text.tokenizers import Characters
from tests.corpus import make_corpus
from tests.test_model import tiny_model
from tests.tiny import ENCODER_BUILDERS, NUM_MELS, encoder

FRAMES = 47  # features: no multiple of any stride or chunk
CAUSAL = [name for name in ENCODER_BUILDERS if encoder(name).causal]


def features(frames=FRAMES, seed=0):
    return torch.randn(frames, NUM_MELS, generator=torch.Generator().manual_seed(seed))


def alone(model, x):
    """(T, F) -> (S, D) of one plain run."""
    with torch.inference_mode():
        return model(x[None], torch.tensor([len(x)]))[0][0]


# --- windows ---


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("block", [1, 4])
def test_every_frame_is_encoded_once_with_the_context_that_it_may_see(block, chunk, causal):
    for frames in (1, 2, 7, 20):
        for context in (*range(0, 24, chunk), None):
            runs = windows(frames, context, block=block, chunk=chunk, causal=causal)
            assert [t for run in runs for t in range(run.first, run.stop)] == list(range(frames))
            size = chunk * math.ceil(block / chunk)
            for run in runs:
                assert run.begin % chunk == 0
                assert run.end == frames or (causal and run.end % chunk == 0)
                for t in range(run.first, run.stop):
                    least = t if context is None else min(t, context)
                    most = t if context is None else min(t, context + size - 1)
                    assert least <= t - run.begin <= most
                    assert run.end == frames or run.end == run.stop


def test_contexts_are_rounded_up_to_whole_chunks_of_frames():
    assert [whole_chunks(frames, 3) for frames in (0, 0.5, 3, 3.0000001, 3.1)] == [0, 3, 3, 3, 6]
    assert chunk_frames(encoder("Transformer chunk")) == 3
    for name in ("LSTM", "LSTM projected", "Hierarchical", "Hybrid"):
        assert chunk_frames(encoder(name)) == 1


def test_all_shipped_encoders_are_tested_here():
    assert {type(encoder(name)).__name__ for name in ENCODER_BUILDERS} == set(ENCODERS)


@pytest.mark.parametrize("name", list(ENCODER_BUILDERS))
def test_a_frame_with_bounded_context_equals_that_of_a_pass_that_begins_there(name):
    """One run per frame, with the whole future, nothing batched, nothing shared."""
    model, x = encoder(name), features()
    chunk, stride = chunk_frames(model), model.stride
    for context in (0, 2 * chunk):
        for block in (1, 3):
            size = chunk * math.ceil(block / chunk)
            y = encode(model, x, context, block=block, max_frames=100)
            assert y.shape == (-(-FRAMES // stride), model.dim)
            for t in range(len(y)):
                begin = max(0, t // size * size - context)
                expected = alone(model, x[begin * stride :])[t - begin]
                torch.testing.assert_close(y[t], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", list(ENCODER_BUILDERS))
@pytest.mark.parametrize("context", [None, 100])
def test_the_whole_past_as_context_equals_an_ordinary_pass(name, context):
    model, x = encoder(name), features()
    context = context and whole_chunks(context, chunk_frames(model))
    torch.testing.assert_close(encode(model, x, context), alone(model, x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_encoder_is_reset_at_the_beginning_of_the_context(name):
    """Against the stream, another implementation: from its first state on."""
    model, x = encoder(name), features(48)
    chunk, stride = chunk_frames(model), model.stride
    context = 2 * chunk
    y = encode(model, x, context)
    for first in range(0, 48 // stride // chunk * chunk, chunk):
        state, begin = model.initial_state(1), max(0, first - context)
        with torch.inference_mode():
            for t in range(begin, first + chunk, chunk):
                part = x[None, t * stride : (t + chunk) * stride]
                out, state = model.step(part, state)
        torch.testing.assert_close(y[first : first + chunk], out[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["LSTM", "Transformer", "Conformer", "Hierarchical", "Universal"])
def test_only_frames_within_the_context_change_the_output(name):
    model, x, t, context = encoder(name), features(), 8, 3
    stride, y = model.stride, encode(model, x, context)[t]
    first = (t - context) * stride  # the first feature frame that may be heard
    older, newer = x.clone(), x.clone()
    older[:first] += 1
    newer[first : first + stride] += 1
    torch.testing.assert_close(encode(model, older, context)[t], y, atol=0, rtol=0)
    assert (encode(model, newer, context)[t] - y).abs().max() > 1e-4
    assert (alone(model, older)[t] - alone(model, x)[t]).abs().max() > 1e-4


def test_a_convolution_needs_its_receptive_field_and_no_more():
    """2 layers of 2 convolutions of 3 frames see 8 frames before, the subsampling one more."""
    model, x = encoder("Convolution causal without excitation"), features(120)
    whole = alone(model, x)
    off = [float((encode(model, x, c) - whole).abs().max()) for c in range(12)]
    assert min(off[:9]) > 1e-4
    assert max(off[9:]) < 1e-5


# --- loss and WER ---


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones") / "corpus"
    make_corpus(folder, train=3, validation=9, test=3)
    return folder


def plan(**options):
    everything = {"split": "validation", "seconds": (0.0, 0.08), "utterances": 9, "block": 1}
    return Plan(**everything | {"gradients": 4, "seed": 0, "batch_seconds": 60.0} | options)


@pytest.mark.parametrize("decoder", ["AttentionLSTM", "Transformer", "Transducer", "CTC"])
def test_with_the_whole_past_loss_and_wer_are_those_of_a_validation(corpus, decoder):
    model = tiny_model("LSTM", decoder)
    sample = draw(model, str(corpus), plan())
    *_, last = measure_contexts("run", model, str(corpus), sample, plan())
    data = SpeechData(DataOptions(corpus=str(corpus)), model.tokenizer, 8000, seed=0)
    (first, *_) = batches = list(data.validation_batches())
    terms = model(first.waves, first.wave_lengths, first.tokens, first.token_lengths)[0].terms
    weights = {name: term.weight for name, term in terms.items()}
    validation = Validation(model, Greedy())
    with torch.inference_mode():
        for batch in batches:
            validation.add(batch)
    expected = validation.metrics(weights, lambda value: value)
    assert last.whole
    assert last.loss == pytest.approx(expected["loss"], rel=1e-5)
    assert (last.wer, last.reference_words) == (expected["wer"], expected["words"])
    assert last.loss_ratio == last.ratio_low == last.ratio_high == 1


def test_label_smoothing_is_left_out(corpus):
    smooth, plain = tiny_model(), tiny_model()
    sample = draw(plain, str(corpus), plan())
    smooth.decoder.head.label_smoothing = 0.5
    encoded = [encode(plain.encoder, x, None) for x in sample.features]
    assert losses(smooth, encoded, sample).sum() == losses(plain, encoded, sample).sum()


def single():
    """A decay of one draw at the first frame."""
    decay = Decay()
    decay.add(torch.ones(1, 1, dtype=torch.float64), [0])
    return decay


class Average(Encoder):
    """The mean of the last ``length`` encoder frames, whose features are averaged; no parameter."""

    stride, causal, dim = 4, True, NUM_MELS

    def __init__(self, length):
        super().__init__()
        self.length = length

    def forward(self, x, lengths):
        frames = torch.div(lengths + 3, 4, rounding_mode="floor")
        x = F.pad(x * mask(lengths, x.shape[1])[..., None], (0, 0, 0, -x.shape[1] % 4))
        total = x.unflatten(1, (-1, 4)).mean(2).cumsum(1)  # (B, S, F)
        before = F.pad(total, (0, 0, self.length, 0))[:, : total.shape[1]]
        y = (total - before) / self.length
        return y.masked_fill(~mask(frames, y.shape[1])[..., None], 0.0), frames

    def initial_state(self, batch):
        raise NotImplementedError

    step = flops = initial_state


@pytest.mark.parametrize("length", [1, 4, 7])
def test_the_effective_context_of_a_moving_average_is_its_length_less_one(corpus, length):
    """The decoder says BLANK the surer the larger the mean of log-mels, all of them negative."""
    tokenizer = Characters(["abc "])
    decoder = CTC(NUM_MELS, tokenizer.vocabulary_size)
    torch.nn.init.zeros_(decoder.head.output.weight)
    torch.nn.init.constant_(decoder.head.output.weight[BLANK], -0.2 / NUM_MELS)
    front = LogMel(sample_rate=8000, num_mels=NUM_MELS)
    model = SpeechModel(front, Average(length), decoder, Greedy(), tokenizer, "none").eval()
    model.description = {name: {"class_path": name} for name in ("encoder", "decoder")}
    asked = plan(seconds=tuple(0.04 * c for c in range(10)))
    sample = draw(model, str(corpus), asked)
    curve = measure_contexts("run", model, str(corpus), sample, asked)
    found = effective(curve, single(), model, sample)
    assert found.context == pytest.approx(0.04 * (length - 1))
    assert [p.frames for p in curve[:-1]] == list(range(10))
    assert found.again_above == []


def made(ratios):
    """Points of contexts of 0, 1, 2 ... seconds with these ratios (low, value, high)."""
    shared = dict.fromkeys(("errors", "reference_words", "wer", "low", "high", "loss"), 1)
    names = {"run": "run", "encoder": "LSTM", "decoder": "CTC", "seed": 1} | shared
    return [
        ContextPoint(
            **names, context=float(s), frames=25 * s, whole=s == len(ratios) - 1,
            ratio_low=low, loss_ratio=value, ratio_high=high,
        )
        for s, (low, value, high) in enumerate(ratios)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ratios", "context", "low", "high", "again"),
    [
        ([(2, 2, 2), (1, 1.01, 1.5), (1, 1, 1.0)], 1.0, 1.0, None, []),
        ([(1, 1.5, 2), (1, 1.0, 1.01), (1, 1, 1)], 1.0, 0.0, 1.0, []),
        ([(1, 1.0, 1), (1, 1.02, 2), (1, 1.0, 1), (1, 1, 1)], 0.0, 0.0, 0.0, [1.0]),
        ([(2, 2, 2), (2, 2, 2), (1, 1, 1)], None, None, None, []),
    ],
)
def test_the_shortest_context_within_a_hundredth_of_the_loss_is_enough(
    corpus, ratios, context, low, high, again
):
    assert BOUND == 1.01
    model = tiny_model()
    sample = draw(model, str(corpus), plan(utterances=1))
    found = effective(made(ratios), single(), model, sample)
    assert (found.context, found.context_low, found.context_high) == (context, low, high)
    assert found.again_above == again


def test_the_same_utterances_are_drawn_for_every_model_and_by_every_repetition(corpus):
    asked = plan(utterances=4)
    first, again = (draw(tiny_model(name), str(corpus), asked) for name in ("LSTM", "GRU"))
    other = draw(tiny_model(), str(corpus), plan(utterances=4, seed=1))
    assert (len(first.texts), first.of) == (4, 9)
    assert all(map(torch.equal, first.features, again.features))
    assert [len(x) for x in other.features] != [len(x) for x in first.features]


def test_contexts_of_a_coarser_encoder_are_reported_as_used():
    model = tiny_model("LSTM projected")  # 80 ms a frame
    asked = plan(seconds=(0.0, 0.04, 0.08, 0.12, 0.16))
    assert contexts(model, asked) == [0, 1, 2, None]


# --- gradients ---


def test_squared_gradients_are_the_squares_of_the_derivative_in_expectation():
    """Against the whole derivative, row by row."""
    model, x, t = encoder("Conformer"), features(26), 4
    jacobian = torch.autograd.functional.jacobian(
        lambda x: model(x[None], torch.tensor([len(x)]))[0][0, t], x
    )  # (D, T, F)
    per_frame = F.pad(jacobian, (0, 0, 0, 2)).unflatten(1, (-1, 4))
    expected = per_frame.square().sum((0, 2, 3)).double()
    generator = torch.Generator().manual_seed(0)
    found = squared_gradients(model, x, [t] * 3000, generator)
    assert found.shape == (3000, 7)
    error = found.std(0) / math.sqrt(3000)
    assert ((found.mean(0) - expected).abs() < 4 * error).all()
    assert (error < 0.05 * expected).all()


@pytest.mark.parametrize("name", CAUSAL)
def test_the_future_of_a_causal_encoder_has_no_gradient(name):
    model, chunk = encoder(name), chunk_frames(encoder(name))
    x, t = features(4 * chunk * model.stride), 2 * chunk
    (found,) = squared_gradients(model, x, [t], torch.Generator().manual_seed(0))
    assert found[t] > 0
    assert not found[t + chunk :].any()


def test_the_gradient_of_a_windowed_transformer_ends_at_layers_times_left_context():
    """2 layers of 2 frames before; the subsampling of the oldest sees one frame more."""
    model, x = encoder("Transformer left context"), features(120)
    frames = [20, 25, 29]
    squares = squared_gradients(model, x, frames, torch.Generator().manual_seed(0))
    decay = Decay()
    decay.add(squares, frames)
    curve = decay.curve()
    assert (curve[: 2 * 2 + 2] > 0).all()
    assert not curve[2 * 2 + 2 :].any()
    assert sight(curve) == 2 * 2 + 1
    assert sight(curve[:6]) is None  # nothing says that it ends there


def test_the_curve_is_the_root_of_the_mean_square_at_lags_that_half_of_the_draws_reach():
    draws = [(3, [1.0, 2, 3, 4, 99]), (1, [5.0, 6, 99, 99, 99]), (4, [7.0, 8, 9, 10, 11])]
    decay = Decay()
    for t, squares in draws:
        decay.add(torch.tensor([squares], dtype=torch.float64), [t])
    expected = [(4 + 6 + 11) / 3, (3 + 5 + 10) / 3, (2 + 9) / 2, (1 + 8) / 2]  # lag 4: one of three
    np.testing.assert_allclose(decay.curve(), np.sqrt(expected))
    assert decay.draws == 3


def noise(number, scale, seed=0):
    return np.exp(scale * np.random.default_rng(seed).standard_normal(number))


@pytest.mark.parametrize("half_life", [0.04, 0.5, 3.0])
def test_a_planted_half_life_is_found_and_the_exponential_chosen(half_life):
    curve = 7 * 0.5 ** (0.04 * np.arange(100) / half_life)
    exact, rough = fit(curve, 0.04), fit(curve * noise(100, 0.1), 0.04)
    assert exact.half_life == pytest.approx(half_life)
    assert exact.law == "exponential"
    if half_life < 3:
        assert rough.half_life == pytest.approx(half_life, rel=0.1)
        assert rough.law == "exponential"


@pytest.mark.parametrize("exponent", [0.3, 1.0, 2.5])
def test_a_planted_exponent_is_found_and_the_power_law_chosen(exponent):
    curve = 7 * np.maximum(np.arange(100), 0.5) ** -exponent
    exact, rough = fit(curve, 0.04), fit(curve * noise(100, 0.1), 0.04)
    assert exact.exponent == pytest.approx(exponent)
    assert (exact.law, rough.law) == ("power", "power")
    assert rough.exponent == pytest.approx(exponent, abs=0.1)


def test_the_difference_of_aic_is_that_of_gaussian_likelihoods():
    """By scipy's log-density at the estimated variance, with three parameters in both."""
    curve = 0.8 ** np.arange(30) * noise(30, 0.3)
    lags, logs, aic = np.arange(1, 30), np.log(curve[1:]), {}
    for name, x in (("power", np.log(lags)), ("exponential", lags)):
        line = stats.linregress(x, logs)
        left = logs - line.intercept - line.slope * x
        aic[name] = 2 * 3 - 2 * stats.norm.logpdf(left, 0, left.std()).sum()
    assert fit(curve, 1.0).aic_difference == pytest.approx(aic["power"] - aic["exponential"])


def test_without_a_clear_difference_neither_law_is_chosen():
    assert fit(noise(8, 1.0), 0.04).law == "neither"


def decay_of(curves):
    """A decay of utterances with these curves."""
    decay = Decay()
    for curve in curves:
        decay.add(torch.from_numpy(curve[None, ::-1].copy() ** 2), [len(curve) - 1])
    return decay


def test_a_decay_law_is_named_only_where_resampled_utterances_agree():
    lags = np.arange(1, 41)
    fading, powerful = 0.9**lags, 0.5 / lags
    alike = judge(decay_of([fading * noise(40, 0.05, seed) for seed in range(20)]), 0.04)
    assert (alike.fit.law, alike.agreement) == ("exponential", 1.0)
    low, high = alike.interval
    true = 0.04 * math.log(0.5) / math.log(0.9)
    assert low < true < high < 1.1 * low
    odd = judge(decay_of([*[0.01 * fading] * 19, powerful]), 1.0)  # in two of three resamples
    assert fit(powerful, 1.0).law == "power"
    assert 0.5 < odd.agreement < 0.8
    assert odd.fit.law == "neither"


def test_the_interval_of_a_half_life_has_its_nominal_coverage():
    """Utterances with half-lives of their own, 50 times: 95 % less what few utterances cost."""
    lags, covered, widths = np.arange(30), 0, []
    random = np.random.default_rng(0)
    for _ in range(50):
        scales = np.exp(0.3 * random.standard_normal((12, 1)))
        curves = scales * 0.5 ** (lags / 5) * np.exp(0.3 * random.standard_normal((12, 30)))
        low, high = judge(decay_of(curves), 1.0, seed=int(random.integers(1000))).interval
        covered += low <= 5 <= high
        widths.append(high - low)
    assert covered >= 42
    assert np.mean(widths) < 1


def test_gradients_that_do_not_decay_have_no_half_life_and_a_few_lags_give_no_law():
    assert fit(2.0 ** np.arange(20), 0.04).half_life is None
    assert fit(np.ones(4), 0.04) is None
    beyond = np.concatenate([0.5 ** np.arange(10), np.zeros(10)])  # zeros have no logarithm
    assert fit(beyond, 0.04).half_life == pytest.approx(0.04)


# --- the verb ---


@pytest.fixture
def runs(tmp_path, corpus):
    for seed, name in enumerate(("LSTM", "Transformer left context", "Transformer chunk"), 1):
        summary = {"seed": seed, "recipe": {"data": {"corpus": str(corpus)}}}
        save_model(tiny_model(name), tmp_path / f"run{seed}", summary)
    return [str(tmp_path / f"run{seed}") for seed in (1, 2, 3)]


def test_the_verb_writes_a_row_per_model_and_context(runs, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--contexts", "0", "0.08", "--utterances", "4", "--gradients", "2"]
    assert main(["claims", "context", *runs, "--output", str(out), *options]) == 0
    page = (out / "context.md").read_text()
    assert page in capsys.readouterr().out
    assert "| run1 | LSTM + AttentionLSTM | 1 | 4 of 9 |" in page
    assert "Contexts are exact: each encoder frame comes from a run" in page
    assert f"{runs[2]}: frames share chunks of 0.12 s" in page
    written = json.loads((out / "context.json").read_text())
    assert [len([p for p in written["points"] if p["run"] == run]) for run in runs] == [3, 3, 3]
    assert [p["context"] for p in written["points"][-3:-1]] == [0.0, 0.12]  # of chunks of 3 frames
    assert [one["run"] for one in written["runs"]] == runs
    assert (written["plan"]["split"], written["plan"]["seed"]) == ("validation", 0)
    assert "git_commit" in written["machine"]
    with (out / "context.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["wer"]) for row in rows] == [p["wer"] for p in written["points"]]


def test_a_second_measurement_is_equal_and_the_page_names_the_blocks(runs, tmp_path, capsys):
    options = ["--contexts", "0", "--utterances", "3", "--gradients", "2", "--block", "2"]
    found = []
    for name in ("a", "b"):
        out = ["--output", str(tmp_path / name)]
        assert main(["claims", "context", runs[0], *out, *options]) == 0
        found.append(json.loads((tmp_path / name / "context.json").read_text()))
    assert found[0]["points"] == found[1]["points"]
    assert found[0]["runs"] == found[1]["runs"]
    assert "Blocks of 2 encoder frames share a run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "dev"], "split 'dev' is not in"),
        (["--contexts", "-1"], "'-1' is not a number of seconds, 0 or more"),
        (["--block", "0"], "'0' is not a whole number above 0"),
        (["--batch-seconds", "0"], "'0' is not a number of seconds above 0"),
    ],
)
def test_a_mistake_is_one_line(runs, tmp_path, capsys, options, message):
    assert main(["claims", "context", runs[0], "--output", str(tmp_path / "o"), *options]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert message in told[0]


def test_a_missing_model_is_one_line(tmp_path, capsys):
    assert main(["claims", "context", str(tmp_path / "no"), "--output", str(tmp_path / "o")]) == 2
    assert "no such model or run folder" in capsys.readouterr().err
