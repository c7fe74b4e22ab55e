"""What a GPU would refuse or be waited for, found without one; see ``tests.fake_gpu``."""

import itertools
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from asr.audio.features import Augmentation, FeatureOptions, LogMel
from asr.data.utterances import DataOptions, SpeechData
from asr.encoders.recurrent import set_recurrent_precision
from asr.kernels import linear
from asr.kernels.cudnn_rules import GPU
from asr.language_models import LSTM, LanguageModel, NGram, Transformer, WordNGram
from asr.loss import collected, weighted
from asr.model import build_model
from asr.probes import horizon_measure as horizon
from asr.probes.gradient_decay import squared_gradients
from asr.probes.truncated_context import encode
from asr.recognition.alignment import align_words
from asr.recognition.evaluate import evaluate
from asr.search import Beam, Greedy
from asr.study.processes import IMPORTED
from asr.text.tokenizers import Characters
from asr.training.average import MovingAverage
from asr.training.data import SpeechDataModule
from asr.training.speech import MULTIPLE_SECONDS, SpeechModule
from tests import corpus, tiny
from tests.decoders.test_decoders import utterances
from tests.fake_gpu import CUDA, RefusedError, has_kernel, pretended
from tests.recognition.test_evaluate import RATE, make_corpus
from tests.training.test_train import recipe

ROOT = Path(__file__).parents[1]
ENCODERS, DECODERS = list(tiny.ENCODER_BUILDERS), list(tiny.DECODER_BUILDERS)
# How many vectors a gate stored, and whether a frame still ponders, decides what is computed next.
WAITING = [n for n in ENCODERS if n.startswith("Universal") or n.split()[-1] in ("drop", "merge")]
WAITING += ["Hierarchical last_kept", "Hierarchical uniform"]
LETTERS = Characters((), alphabet="ab ")


def ngram() -> LanguageModel:
    model = NGram(tiny.VOCABULARY, order=3)
    model.fit([list(row) for row in itertools.product((2, 3, 4, 5), repeat=3)], [])
    return model


def word_ngram() -> LanguageModel:
    tokenizer = Characters((), alphabet=" ab")
    model = WordNGram(tiny.VOCABULARY, order=2)
    texts = ["a ba a", "ab ba", "b a ab"]
    model.fit(map(tokenizer.encode, texts), tokenizer.pieces(), tokenizer.encode)
    return model


LANGUAGE_MODELS = {
    "LSTM": partial(LSTM, tiny.VOCABULARY, width=16, layers=2),
    "Transformer": partial(Transformer, tiny.VOCABULARY, width=16, layers=2, heads=2),
    "NGram": ngram,
    "WordNGram": word_ngram,
}


def language_model(name: str) -> LanguageModel:
    torch.manual_seed(0)
    return LANGUAGE_MODELS[name]().eval()


@pytest.fixture(autouse=True)
def same_products(monkeypatch):
    """Those of a GPU are not oneDNN's, which differ in the last bit."""
    monkeypatch.setattr(linear, "ONEDNN", False)


def on_gpu(values):
    return [value.to("cuda") for value in values]


def test_operands_on_two_devices_are_refused():
    with pretended():
        x = torch.ones(2, 3, device="cuda")
        assert (x + torch.tensor(1.0)).sum().item() == 12, "a number may lie on the CPU"
        assert x[torch.tensor([1])].shape == (1, 3), "and positions to index with"
        with pytest.raises(RefusedError, match="add"):
            x + torch.ones(2, 3)
        with pytest.raises(RefusedError, match="index"):
            torch.ones(2)[torch.zeros(1, dtype=torch.int64, device="cuda")]
        with pytest.raises(RefusedError, match="cat"):
            torch.cat([torch.ones(1, 3), x])


def test_kernels_and_types_that_a_gpu_lacks_are_refused():
    assert has_kernel("aten::topk")
    assert not has_kernel("aten::mkldnn_linear")
    with pretended():
        flags = torch.zeros(2, 3, dtype=torch.bool, device="cuda")
        at = torch.zeros(2, 3, dtype=torch.int64, device="cuda")
        with pytest.raises(RefusedError, match=r"scatter_reduce.*bool"):
            flags.scatter_reduce_(1, at, flags, "amax")


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_trains_on_a_gpu_without_synchronising(name):
    encoder = tiny.encoder(name).train()
    with pretended() as gpu:
        x, lengths = on_gpu(tiny.features(41, 97))
        encoder.to("cuda")
        with collected() as terms:
            y, _ = encoder(x, lengths)
            (y.sum() + (weighted(terms) if terms else 0)).backward()
        assert (gpu.waits > 0) == (name in WAITING)
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("name", [name for name in ENCODERS if tiny.encoder(name).causal])
@torch.no_grad()
def test_an_encoder_streams_on_a_gpu(name):
    encoder = tiny.encoder(name)
    with pretended() as gpu:
        encoder.to("cuda")
        state = encoder.initial_state(2)
        for _ in range(2):
            x = torch.randn(2, 3 * encoder.chunk, tiny.NUM_MELS).to("cuda")
            _, state = encoder.step(x, state)
        assert not gpu.waits or name in WAITING


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["LSTM", "LSTM causal projected", "GRU", "GRU causal"])
def test_recurrences_in_16_bits_do_not_synchronise_with_the_gpu(name, precision, monkeypatch):
    monkeypatch.setattr(GPU, "of", lambda device: GPU())
    encoder = tiny.encoder(name).train()
    set_recurrent_precision(encoder.modules(), precision)
    with pretended() as gpu:
        y, _ = encoder.to("cuda")(*on_gpu(tiny.features(41, 97)))
        y.sum().backward()
        assert gpu.waits == 0


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_trains_on_a_gpu_and_synchronises_at_most_to_read_sizes(name):
    decoder = tiny.decoder(name).train()
    with pretended() as gpu:
        encoded, *others = on_gpu(utterances())
        decoder.to("cuda").loss(encoded.requires_grad_(), *others).total().backward()
        assert gpu.waits == (1 if name in tiny.TRANSDUCERS else 0)
        assert encoded.grad is not None


@pytest.mark.parametrize("name", list(LANGUAGE_MODELS))
def test_a_language_model_scores_on_a_gpu_without_synchronising(name):
    model, (_, _, tokens, lengths) = language_model(name), utterances()
    expected = model.log_probs(tokens, lengths)
    with pretended() as gpu:
        found = model.to("cuda").log_probs(*on_gpu((tokens, lengths)))
        assert gpu.waits == 0
        torch.testing.assert_close(found.cpu(), expected.detach())


@pytest.mark.parametrize(
    ("name", "beside"),
    [(name, None) for name in DECODERS]
    + list(
        itertools.product(["AttentionLSTM", "Transformer", "Transducer", "CTC"], LANGUAGE_MODELS)
    ),
)
def test_a_search_finds_the_same_hypotheses_on_a_gpu_and_on_a_cpu(name, beside):
    decoder, model = tiny.decoder(name), None
    searches = [Greedy(), Beam(beam=3, nbest=2)]
    if beside is not None:
        share = {"internal_lm_weight": 0.2} if name in tiny.TRANSDUCERS else {}
        searches, model = [Beam(beam=3, lm_weight=0.3, **share)], language_model(beside)
    encoded, lengths, _, _ = utterances()
    encoded, lengths = encoded[:, :12], lengths.clamp(max=12) - torch.tensor([0, 4, 12])
    expected = [search(decoder, 3 * encoded, lengths, model) for search in searches]
    with pretended():
        frames, sizes = on_gpu((3 * encoded, lengths))
        decoder.to("cuda")
        model = None if model is None else model.to("cuda")
        found = [search(decoder, frames, sizes, model) for search in searches]
    for one, other in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert [h.tokens for h in one] == [h.tokens for h in other]
        assert [h.score for h in one] == pytest.approx([h.score for h in other], rel=1e-4)


@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_words_get_the_same_times_on_a_gpu_and_on_a_cpu(name):
    decoder, (encoded, lengths, _, _) = tiny.decoder(name), utterances()
    tokens = [[4, 3, 5], [4, 4], []]
    expected = align_words(decoder, encoded, lengths, tokens, LETTERS, 0.04)
    with pretended():
        frames, sizes = on_gpu((encoded, lengths))
        found = align_words(decoder.to("cuda"), frames, sizes, tokens, LETTERS, 0.04)
    for one, other in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert (one.text, one.start, one.end) == (other.text, other.start, other.end)
        assert one.confidence == pytest.approx(other.confidence, rel=1e-4)


def test_features_are_computed_and_masked_on_a_gpu_without_synchronising():
    augmentation = Augmentation(speed=[0.9], noise_probability=1.0, time_masks=2, frequency_masks=2)
    given, sizes = torch.randn(2, 9000), [9000, 5000]
    expected, _ = augmentation.perturb(given, torch.tensor(sizes), 8000, 1)
    with pretended() as gpu:
        waves, lengths = on_gpu((given, torch.tensor(sizes)))
        waves, lengths = augmentation.perturb(waves, lengths, 8000, 1, num_samples=sizes)
        torch.testing.assert_close(waves.held, expected)
        x, frames = LogMel(sample_rate=8000, num_mels=20).to("cuda")(waves, lengths)
        augmentation.spec_augment(x, frames, 2)
        assert gpu.waits == 0


@pytest.mark.parametrize("name", ["LSTM", "Transformer", "Transformer last_kept drop"])
def test_the_probe_of_context_runs_on_a_gpu(name):
    encoder, (x, _) = tiny.encoder(name), tiny.features(61)
    signs = partial(torch.Generator().manual_seed, 0)
    expected = squared_gradients(encoder, x[0], [5, 9], signs())
    windowed = encode(encoder, x[0], 4)
    with pretended():
        encoder.to("cuda")
        frames = x[0].to("cuda")
        found = squared_gradients(encoder, frames, [5, 9], signs())
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-8)
        torch.testing.assert_close(encode(encoder, frames, 4).cpu(), windowed)


@pytest.mark.parametrize("arm", ["lstm, chrono", "gru", "transformer", "hierarchical"])
def test_the_probe_of_memory_runs_on_a_gpu(arm, monkeypatch):
    monkeypatch.setattr(horizon, "CHECK_EVERY", 1)
    monkeypatch.setattr(horizon, "QUESTIONS", horizon.BATCH)
    with pretended():
        budget = horizon.Budget(updates=1, seconds=0.0)
        done = horizon.attempt(
            arm, "recall", 8, seed=1, rate=1e-3, budget=budget, device="cuda", name="fake"
        )
    assert done.updates == 1


@pytest.mark.parametrize("name", ["Transformer", "Transducer", "CTC"])
def test_a_split_is_evaluated_on_a_gpu(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "fake")
    model = build_model(
        FeatureOptions(sample_rate=RATE, num_mels=tiny.NUM_MELS),
        tiny.ENCODER_BUILDERS["LSTM"],
        tiny.DECODER_BUILDERS[name],
        Greedy,
        LETTERS,
        "lower",
    )
    corpus = make_corpus(tmp_path / "corpus")
    with pretended():
        metrics = evaluate(model.to("cuda"), corpus, "test", output=tmp_path / "out")
    assert metrics["device_name"] == "fake"
    assert metrics["utterances"] == 6


IMPORTING = """
import importlib, sys, threading
import torch

def asked(*arguments):
    raise SystemExit("a process that has asked for a GPU cannot hand it to one that it forks")

for place, name in ((torch._C, "_cuda_getDeviceCount"), (torch._C, "_cuda_init"),
                    (torch.cuda, "_lazy_init"), (torch.cuda, "_raw_device_count_nvml")):
    setattr(place, name, asked)
for name in sys.argv[1:]:
    importlib.import_module(name)
assert threading.active_count() == 1
"""


def test_modules_loaded_before_a_study_forks_do_not_initialise_a_gpu():
    command = [sys.executable, "-c", IMPORTING, *IMPORTED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_validation_on_a_gpu_uses_fewer_batches(tmp_path):
    corpus.make_corpus(tmp_path / "tones", train=4, validation=20)
    options = DataOptions(corpus=str(tmp_path / "tones"), max_batch_seconds=2.0)
    cpu, cuda = (
        SpeechData(options, LETTERS, corpus.RATE, 1, torch.device(device))
        for device in ("cpu", "cuda")
    )
    seconds = cpu.validation.sizes
    cpu, cuda = cpu.validation_rows(), cuda.validation_rows()
    for batches, limit in ((cpu, 2.0), (cuda, 8.0)):
        assert sorted(itertools.chain(*batches)) == list(range(20))
        assert all(len(rows) * max(seconds[row] for row in rows) <= limit for rows in batches)
    assert 2 * len(cuda) <= len(cpu)


@pytest.mark.parametrize("encoder", ["LSTM", "Transformer"])
def test_a_run_on_a_gpu_synchronises_seldom_and_its_ledger_covers_all_computation(
    encoder, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "fake")
    monkeypatch.setattr(GPU, "of", lambda device: GPU())
    corpus.make_corpus(tmp_path / "tones", train=40, validation=4)
    data = {"corpus": str(tmp_path / "tones"), "max_batch_seconds": 12.0, "device_cache": True}
    augmentation = {
        "speed": [0.9], "noise_probability": 0.5, "time_masks": 2, "frequency_masks": 1
    }  # fmt: skip
    given = recipe(tmp_path / "tones", encoder, data=data, augmentation=augmentation)
    with pretended() as gpu:
        module, data = SpeechModule(given), SpeechDataModule(given)
        # What a module asks of a Trainer, which Lightning cannot set up on a pretended GPU.
        strategy = SimpleNamespace(root_device=CUDA, barrier=lambda: None)
        trainer = SimpleNamespace(
            datamodule=data, strategy=strategy, is_global_zero=True, world_size=1, global_rank=0,
            accumulate_grad_batches=1,
        )  # fmt: skip
        module._trainer = data.trainer = trainer
        strategy.broadcast = lambda value: value
        strategy.training_step = module.training_step
        strategy.batch_to_device = lambda batch: batch.to("cuda")
        data.setup("fit")
        module.configure_model()
        model = module.model.to("cuda")
        average = MovingAverage()
        average.on_fit_start(trainer, module)
        optimizer = given.optimizer.build(model, CUDA)
        trainer.optimizers = [optimizer]
        module.on_fit_start()
        sizes = []
        model.encoder.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[:2]))
        counters = dict.fromkeys(("padded_seconds", "padded_train_flops"), 0.0)
        seconds = flops = 0.0
        for batch in itertools.islice(data.train_dataloader(), 3):
            before = gpu.waits

            def closure(batch=batch):
                module.training_step(batch, 0).backward()
                module.on_after_backward()

            module.optimizer_step(
                0, 0, SimpleNamespace(optimizer=optimizer, step=optimizer.step), closure
            )  # noqa: E501
            average.on_train_batch_end(trainer, module)
            amounts = module.amounts(batch)
            assert gpu.waits - before <= 4, "for the gradient's norm and the ledger's lengths"
            for name in counters:
                counters[name] += amounts[name]
            rows, time = sizes.pop()
            assert (time + 2) % round(100 * MULTIPLE_SECONDS) == 0, "all but the end of a window"
            frames = -(-time // model.encoder.stride)
            seconds += rows * time / 100
            flops += 3 * rows * model.encoder.flops([time])
            flops += 3 * rows * model.decoder.flops([frames], [batch.tokens.shape[1]])
        assert counters["padded_seconds"] == pytest.approx(seconds)
        assert counters["padded_train_flops"] == flops
        module.on_validation_epoch_start()
        for batch in data.val_dataloader():
            module.validation_step(batch, 0)
        assert len(module._validation.references) == 4
