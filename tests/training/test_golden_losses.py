"""Losses of the first updates, as they were when training was last known to be right.

A change of these numbers means that models train differently: on other batches, with other random
numbers, another loss or another step. The tolerance leaves room for the rounding of other CPUs.
"""

import pytest

from asr.config import strict_yaml
from asr.metering.ledger_format import read_ledger
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
    ("LSTM", "Transformer"): [2.4148, 2.1611, 2.3575, 1.9965, 1.9276, 1.933, 1.7939, 1.7894],
    ("LSTM", "Transducer"): [3.0513, 2.7902, 2.6547, 2.4389, 2.2441, 2.1522, 1.9765, 1.9013],
    ("Transformer", "CTC"): [2.2526, 1.9555, 2.1441, 1.8304, 1.9407, 1.7577, 1.8827, 1.9121],
    ("Transformer", "AttentionLSTM"): [
        2.6561,
        2.5203,
        2.5674,
        2.2056,
        2.0372,
        2.0526,
        1.8855,
        1.8617,
    ],
    ("Hierarchical", "Transformer"): [
        2.6199,
        2.3598,
        2.3696,
        2.0465,
        1.8812,
        1.7819,
        1.7863,
        1.8839,
    ],
    ("Hierarchical", "Transducer"): [4.3146, 3.5721, 3.3657, 2.5993, 2.1852, 2.0695, 1.9889, 1.909],
}
GOLDEN_TEXT = [1.7086, 1.6849, 1.7083, 1.6504, 1.6472, 1.6423, 1.6234, 1.588]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "tones"
    make_corpus(folder, train=60, validation=4)
    return folder


def losses(folder):
    lines = read_ledger(folder)
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
