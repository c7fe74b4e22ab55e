"""Losses of the first updates, as they were when training was last known to be right.

A change of these numbers means that models train differently: on other batches, with other random
numbers, another loss or another step. The tolerance leaves room for the rounding of other CPUs.
"""

import pytest

from asr.config import strict_yaml
from asr.metering.meter import read_ledger
from asr.model import save_model
from asr.recipe.schema import LanguageModelRecipe, Recipe
from asr.training.run import train
from tests.corpus import RATE, make_corpus
from tests.test_model import tiny_model

ENCODERS = {
    "LSTM": {"layers": 1},
    "Transformer": {"layers": 1, "heads": 2},
    "Hierarchical": {
        "layers": 2,
        "heads": 2,
        "window": 4,
        "memory": {"gate": "learned", "rate": 0.5},
    },
}
DECODERS = {
    "CTC": {},
    "Transformer": {"width": 16, "layers": 1, "heads": 2, "dropout": 0.1},
    "AttentionLSTM": {"width": 12, "attention": 8, "location_kernel": 5},
    "Transducer": {"width": 12, "joint": 10},
}
GOLDEN = {
    ("LSTM", "Transformer"): [2.417, 2.1665, 2.3649, 1.9995, 1.935, 1.9167, 1.7919, 1.7857],
    ("LSTM", "Transducer"): [3.0468, 2.8051, 2.6656, 2.4408, 2.2448, 2.1547, 1.9787, 1.9034],
    ("Transformer", "CTC"): [2.2383, 1.9678, 2.1443, 1.8318, 1.9367, 1.7666, 1.8841, 1.9126],
    ("Transformer", "AttentionLSTM"): [
        2.6554,
        2.5152,
        2.5597,
        2.2076,
        2.0393,
        2.0268,
        1.886,
        1.8623,
    ],
    ("Hierarchical", "Transformer"): [
        2.6145,
        2.3626,
        2.3664,
        2.0477,
        1.8867,
        1.7987,
        1.7893,
        1.8854,
    ],
    ("Hierarchical", "Transducer"): [4.3562, 3.6453, 3.3909, 2.603, 2.1947, 2.0827, 1.9907, 1.911],
}
GOLDEN_TEXT = [1.7086, 1.6849, 1.7083, 1.6504, 1.6472, 1.6423, 1.6234, 1.588]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "tones"
    make_corpus(folder, train=60, validation=4)
    return folder


def losses(folder):
    lines = read_ledger(folder / "ledger.jsonl")
    return [line["train_loss"] for line in lines if line["event"] == "step"]


OPTIONS = {
    "optimizer": {"lr": 3e-3, "warmup_updates": 4},
    "trainer": {"accelerator": "cpu", "log_every_n_steps": 1},
    "validation": {"every_updates": 100},
    "budget": {"updates": 8},
}


@pytest.mark.parametrize(("encoder", "decoder"), list(GOLDEN))
def test_the_losses_of_a_speech_model_equal_the_recorded_ones(corpus, tmp_path, encoder, decoder):
    keys = {"dim": 16, "channels": 4, "dropout": 0.1}
    tree = {
        "data": {"corpus": str(corpus), "max_batch_seconds": 8.0},
        "features": {"sample_rate": RATE, "num_mels": 20},
        "encoder": {"class_path": encoder, "init_args": keys | ENCODERS[encoder]},
        "decoder": {"class_path": decoder, "init_args": DECODERS[decoder]},
        "augmentation": {"speed": [0.95, 1.0], "time_masks": 1, "noise_probability": 0.2},
        **OPTIONS,
    }
    train(strict_yaml.read(Recipe, tree), tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(GOLDEN[encoder, decoder], rel=1e-3)


def test_the_losses_of_a_language_model_equal_the_recorded_ones(tmp_path):
    save_model(tiny_model(), tmp_path / "speech", {})
    words = ["ab", "ba", "ca", "abc", "cab", "bc"]
    (tmp_path / "text.txt").write_text("\n".join(f"ab {a} {b}" for a in words for b in words))
    (tmp_path / "held.txt").write_text("ab ca\n")
    tree = {
        "text": {
            "train": [str(tmp_path / "text.txt")],
            "validation": str(tmp_path / "held.txt"),
            "max_batch_tokens": 100,
        },
        "tokenizer_of": str(tmp_path / "speech"),
        "language_model": {"class_path": "LSTM", "init_args": {"width": 16}},
        **OPTIONS,
    }
    train(strict_yaml.read(LanguageModelRecipe, tree), tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(GOLDEN_TEXT, rel=1e-3)
