import csv
import itertools
import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asr import config
from asr.data import BatchStream, read_rows
from asr.meter import read_ledger
from asr.model import load_model
from asr.recipe import OptimizerOptions, Recipe, check_folder, run_name
from asr.train import Run, train
from tests.corpus import RATE, make_corpus

ENCODERS = {
    "LSTM": {"dim": 32, "layers": 1, "channels": 4, "dropout": 0.0},
    "Transformer": {"dim": 32, "layers": 1, "heads": 2, "channels": 4, "dropout": 0.0},
}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "tones"
    make_corpus(folder, train=120, validation=12, test=12)
    return folder


def recipe(corpus: Path, encoder: str = "LSTM", **keys) -> Recipe:
    tree = {
        "data": {"corpus": str(corpus), "max_batch_seconds": 12.0},
        "features": {"sample_rate": RATE, "num_mels": 20},
        "encoder": {"class_path": encoder, "init_args": ENCODERS[encoder]},
        "decoder": {
            "class_path": "Transformer",
            "init_args": {"width": 32, "layers": 1, "heads": 2, "dropout": 0.1},
        },
        "optimizer": {"lr": 5e-3, "warmup_updates": 10, "ema_decay": 0.9},
        "augmentation": {"speed": [0.95, 1.0], "time_masks": 1, "noise_probability": 0.2},
        "validation": {"every_updates": 6},
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 4},
        "budget": {"updates": 12},
        **keys,
    }
    return config.read(Recipe, tree)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "last.ckpt", weights_only=True)
    flat = {f"model.{k}": v for k, v in state["model"].items()}
    flat |= {f"average.{k}": v for k, v in state["average"].items()}
    for i, moments in state["optimizer"]["state"].items():
        flat |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
    return flat


def assert_equal_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_a_language_of_tones_is_learnt(corpus, tmp_path, encoder):
    line = train(
        recipe(
            corpus,
            encoder,
            budget={"updates": 150},
            validation={"every_updates": 50},
            augmentation={},
            optimizer={"lr": 5e-3, "warmup_updates": 30, "ema_decay": 0.9},
        ),
        tmp_path,
    )
    last = [e for e in read_ledger(tmp_path / "ledger.jsonl") if e["event"] == "validation"][-1]
    assert last["updates"] == line["updates"] == 150
    assert last["validation"]["wer"] <= 0.1
    assert last["validation"]["unfinished"] == 0
    model = load_model(tmp_path)
    assert model.summary["validation"]["wer"] <= 0.1


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("moment", "number"), [("step", 3), ("step", 9), ("measure", 1), ("save", 2)]
)
def test_a_run_that_dies_and_resumes_is_the_run_that_did_not(
    corpus, tmp_path, monkeypatch, moment, number
):
    given = recipe(corpus, trainer={"accelerator": "cpu", "checkpoint_every_seconds": 0.0})
    train(given, tmp_path / "whole")
    original, calls = getattr(Run, moment), []

    def dying(self, *arguments):
        calls.append(1)
        if len(calls) == number:
            raise KilledError
        return original(self, *arguments)

    monkeypatch.setattr(Run, moment, dying)
    with pytest.raises(KilledError):
        train(given, tmp_path / "broken")
    monkeypatch.setattr(Run, moment, original)
    line = train(given, tmp_path / "broken")
    assert_equal_weights(tmp_path / "whole", tmp_path / "broken")
    assert line["updates"] == 12
    total = sum(line["seconds"].values()) + line["wasted_seconds"]
    assert total == pytest.approx(line["wall_seconds"], abs=0.1)
    whole = json.loads((tmp_path / "whole" / "ledger.json").read_text())
    assert line["audio_seconds"] == pytest.approx(whole["audio_seconds"])
    assert line["train_flops"] == whole["train_flops"]
    assert json.loads((tmp_path / "broken" / "ledger.json").read_text())["sessions"] == 2


def test_a_finished_run_with_a_larger_budget_goes_on(corpus, tmp_path):
    train(recipe(corpus), tmp_path / "parts")
    train(recipe(corpus, budget={"updates": 15}), tmp_path / "parts")
    train(recipe(corpus, budget={"updates": 15}), tmp_path / "whole")
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_run_folder_belongs_to_one_recipe(corpus, tmp_path):
    check_folder(recipe(corpus), tmp_path)
    check_folder(recipe(corpus, budget={"updates": 99}), tmp_path)
    with pytest.raises(ValueError, match=r"another recipe \(they differ in seed\)"):
        check_folder(recipe(corpus, seed=2), tmp_path)


def test_a_run_folder_tells_its_whole_story(corpus, tmp_path):
    given = recipe(corpus)
    train(given, tmp_path)
    assert config.read(Recipe, config.load_file(tmp_path / "recipe.yaml")) == given
    assert json.loads((tmp_path / "environment.json").read_text())["torch"]
    lines = read_ledger(tmp_path / "ledger.jsonl")
    assert [(e["event"], e.get("updates")) for e in lines] == [
        ("start", None), ("step", 4), ("validation", 6), ("step", 8), ("step", 12),
        ("validation", 12), ("end", 12),
    ]  # fmt: skip
    hours = [e["device_hours"] for e in lines[1:]]
    assert hours == sorted(hours)
    assert lines[-1]["padded_seconds"] > lines[-1]["audio_seconds"] > 0
    assert lines[-1]["padded_train_flops"] > lines[-1]["train_flops"] > 0
    assert set(lines[1]["train_loss"]) == {"attention", "ctc"}
    with (tmp_path / "logs" / "validation.csv").open() as file:
        assert [row["updates"] for row in csv.DictReader(file)] == ["6", "12"]
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))
    for name in ("best", "last"):
        assert load_model(tmp_path / name).summary["recipe"] == config.tree_of(given)


def test_the_saved_model_is_the_moving_average(corpus, tmp_path):
    train(recipe(corpus), tmp_path)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    saved = load_model(tmp_path / "last").state_dict()
    assert all(torch.equal(saved[name], value) for name, value in state["average"].items())
    assert any(not torch.equal(saved[name], value) for name, value in state["model"].items())


@pytest.mark.parametrize(
    ("budget", "reason"),
    [({"audio_hours": 0.001}, "budget.audio_hours"), ({"device_hours": 1e-9}, "budget.device")],
)
def test_every_kind_of_budget_ends_a_run(corpus, tmp_path, budget, reason):
    train(recipe(corpus, budget=budget), tmp_path)
    last = json.loads((tmp_path / "ledger.json").read_text())
    assert last["finished"]
    assert last["reason"].startswith(reason)
    assert (tmp_path / "best" / "model.safetensors").exists()


def test_a_budget_is_needed(corpus):
    with pytest.raises(ValueError, match="set device_hours, updates or audio_hours"):
        recipe(corpus, budget={})


def test_updates_without_a_finite_gradient_are_skipped_counted_and_at_last_fatal(
    corpus, tmp_path, monkeypatch, caplog
):
    original = Run.total

    def poisoned(self, loss):
        return original(self, loss) * (math.nan if 3 <= self.updates < self.poison_until else 1.0)

    monkeypatch.setattr(Run, "total", poisoned)
    monkeypatch.setattr(Run, "poison_until", 5, raising=False)
    with caplog.at_level(logging.WARNING):
        line = train(recipe(corpus), tmp_path / "a")
    assert line["nonfinite_updates"] == 2
    assert sum("gradient not finite" in record.message for record in caplog.records) == 2
    assert all(value.isfinite().all() for value in weights(tmp_path / "a").values())
    monkeypatch.setattr(Run, "poison_until", 999)
    with pytest.raises(ValueError, match="no finite gradient in 10 updates in a row.*optimizer.lr"):
        train(recipe(corpus, budget={"updates": 30}), tmp_path / "b")


def test_a_damaged_checkpoint_is_named(corpus, tmp_path):
    train(recipe(corpus), tmp_path)
    (tmp_path / "last.ckpt").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="last.ckpt is damaged.*remove it to begin again"):
        train(recipe(corpus, budget={"updates": 13}), tmp_path)


def test_the_schedule_rises_linearly_and_falls_with_the_inverse_square_root():
    options = OptimizerOptions(lr=1.0, warmup_updates=100)
    assert [options.rate(u) for u in (1, 50, 100, 400, 10000)] == [0.01, 0.5, 1.0, 0.5, 0.1]
    constant = OptimizerOptions(lr=1.0, warmup_updates=100, decay="constant")
    assert constant.rate(10000) == 1.0


def test_the_default_run_name_tells_recipe_encoder_and_seed(corpus):
    name = run_name(Path("recipes/fsdd.yaml"), ["--encoder", "recipes/encoders/x-small.yaml"],
                    recipe(corpus))  # fmt: skip
    assert name == "fsdd-x-small-seed1"
    assert run_name(Path("a.yaml"), [], recipe(corpus)) == "a-lstm-seed1"


def test_a_finished_run_is_left_as_it_is(corpus, tmp_path, caplog):
    first = train(recipe(corpus), tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with caplog.at_level(logging.INFO):
        again = train(recipe(corpus), tmp_path)
    assert again["device_hours"] == first["device_hours"]
    assert "budget.updates 12 reached" in caplog.text
    untouched = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert {p: t for p, t in untouched.items() if p.name != "recipe.yaml"} == {
        p: t for p, t in before.items() if p.name != "recipe.yaml"
    }


def test_two_processes_share_the_stream_and_add_up_in_the_ledger(corpus, tmp_path):
    given = recipe(corpus, budget={"updates": 6}, augmentation={})
    config.dump(config.tree_of(given), tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "asr", "train", str(tmp_path / "recipe.yaml")]
    options = [
        "--run",
        str(tmp_path / "two"),
        "--trainer.devices",
        "2",
        "--trainer.strategy",
        "ddp",
    ]
    done = subprocess.run(
        [*command, *options],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    line = json.loads((tmp_path / "two" / "ledger.json").read_text())
    seconds = list(read_rows(corpus, ["train"])["duration"])
    batches = list(itertools.islice(BatchStream(seconds, given.data, given.seed), 12))
    expected = sum(seconds[i] for batch in batches for i in batch)
    assert line["audio_seconds"] == pytest.approx(expected, rel=1e-3)
    assert line["device_hours"] == pytest.approx(2 * line["wall_seconds"] / 3600)
    validation = json.loads((tmp_path / "two" / "ledger.jsonl").read_text().splitlines()[-2])
    assert validation["validation"]["utterances"] == 12
