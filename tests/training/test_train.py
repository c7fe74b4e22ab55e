import csv
import dataclasses
import itertools
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from asr.config import strict_yaml
from asr.config.strict_yaml import Component
from asr.data.batches import BatchStream
from asr.data.utterances import read_rows
from asr.metering.ledger_format import read_ledger
from asr.model import load_model
from asr.recipe.schema import OptimizerOptions, Recipe, TrainerOptions
from asr.training.checkpoint import CheckpointCallback, read_checkpoint
from asr.training.run import train
from asr.training.run_folder import check_folder, claimed, run_name
from asr.training.speech import SpeechModule
from asr.training.summary import trained
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
    return strict_yaml.read(Recipe, tree)


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
def test_a_model_learns_to_recognise_tones(corpus, tmp_path, encoder):
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
    last = [e for e in read_ledger(tmp_path) if e["event"] == "validation"][-1]
    assert last["updates"] == line["updates"] == 150
    assert last["validation"]["wer"] <= 0.1
    assert last["validation"]["unfinished"] == 0
    model = load_model(tmp_path)
    assert model.summary["validation"]["wer"] <= 0.1


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("kind", "moment", "number"),
    [
        (SpeechModule, "training_step", 4),  # the longest batch is tried before the first update
        (SpeechModule, "training_step", 10),
        (SpeechModule, "optimizer_step", 7),
        (SpeechModule, "validation_step", 1),
        (CheckpointCallback, "save", 2),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    corpus, tmp_path, monkeypatch, kind, moment, number
):
    given = recipe(corpus, trainer={"accelerator": "cpu", "checkpoint_every_seconds": 0.0})
    train(given, tmp_path / "whole")
    original, calls = getattr(kind, moment), []

    def dying(self, *arguments):
        calls.append(1)
        if len(calls) == number:
            raise KilledError
        return original(self, *arguments)

    monkeypatch.setattr(kind, moment, dying)
    with pytest.raises(KilledError):
        train(given, tmp_path / "broken")
    monkeypatch.setattr(kind, moment, original)
    line = train(given, tmp_path / "broken")
    assert_equal_weights(tmp_path / "whole", tmp_path / "broken")
    assert line["updates"] == 12
    total = sum(line["seconds"].values()) + line["wasted_seconds"]
    assert total == pytest.approx(line["wall_seconds"], abs=0.1)
    whole = json.loads((tmp_path / "whole" / "ledger.json").read_text())
    assert line["audio_seconds"] == pytest.approx(whole["audio_seconds"])
    assert line["train_flops"] == whole["train_flops"]
    assert json.loads((tmp_path / "broken" / "ledger.json").read_text())["sessions"] == 2


def test_a_finished_run_continues_with_a_larger_budget(corpus, tmp_path):
    train(recipe(corpus), tmp_path / "parts")
    train(recipe(corpus, budget={"updates": 15}), tmp_path / "parts")
    train(recipe(corpus, budget={"updates": 15}), tmp_path / "whole")
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_run_folder_belongs_to_one_recipe_and_one_process(corpus, tmp_path):
    folder = tmp_path / "run"
    with claimed(recipe(corpus), folder):
        (folder / "ledger.json").write_text("{}")
        with (
            pytest.raises(ValueError, match="in use by another process"),
            claimed(recipe(corpus), folder),
        ):
            pass
    check_folder(recipe(corpus, budget={"updates": 99}), folder)
    with pytest.raises(ValueError, match=r"another recipe \(seed: was 1, is now 2\)"):
        check_folder(recipe(corpus, seed=2), folder)


def test_changed_keys_are_named_with_both_values_and_free_keys_may_change(corpus, tmp_path):
    folder = tmp_path / "run"
    with claimed(recipe(corpus), folder):
        (folder / "ledger.json").write_text("{}")
    free = {"num_workers": 2, "cache_gib": 0.5, "device_cache": True}
    data = strict_yaml.tree_of(recipe(corpus).data)
    check_folder(recipe(corpus, data=data | free, trainer={"log_every_n_steps": 7}), folder)
    changed = recipe(corpus, "Transformer", data=data | {"max_batch_seconds": 99.0})
    with pytest.raises(ValueError, match="run of another recipe") as error:
        check_folder(changed, folder)
    before = data["max_batch_seconds"]
    assert f"data.max_batch_seconds: was {before}, is now 99.0" in str(error.value)
    assert "encoder: was LSTM, is now Transformer" in str(error.value)


def test_a_run_whose_recipe_lacks_a_newer_key_resumes(corpus, tmp_path):
    with claimed(recipe(corpus), tmp_path / "run"):
        (tmp_path / "run" / "ledger.json").write_text("{}")
    path = tmp_path / "run" / "recipe.yaml"
    tree = strict_yaml.load_file(path)
    del tree["data"]["curriculum_seconds"]
    path.write_text(strict_yaml.to_yaml(tree))
    check_folder(recipe(corpus), path.parent)
    with pytest.raises(ValueError, match=r"curriculum_seconds: was \[\], is now \[2.0\]"):
        check_folder(recipe(corpus, data=tree["data"] | {"curriculum_seconds": [2.0]}), path.parent)


def test_other_data_under_the_same_path_are_refused(tmp_path):
    make_corpus(tmp_path / "corpus", train=40, validation=4)
    given = recipe(tmp_path / "corpus")
    train(given, tmp_path / "run")
    shutil.rmtree(tmp_path / "corpus")
    make_corpus(tmp_path / "corpus", train=41, validation=4)
    words = "the data changed since the run began .split train had 40 utterances, has 41.; restore"
    with pytest.raises(ValueError, match=words):
        train(recipe(tmp_path / "corpus", budget={"updates": 14}), tmp_path / "run")
    with pytest.raises(ValueError, match=words):  # also where the budget is spent
        train(given, tmp_path / "run")
    assert (tmp_path / "run" / "last.ckpt").exists()


def test_a_moved_corpus_is_accepted_and_another_corpus_is_refused(tmp_path, caplog):
    make_corpus(tmp_path / "here", train=40, validation=4)
    train(recipe(tmp_path / "here"), tmp_path / "run")
    make_corpus(tmp_path / "other", train=39, validation=4)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = f"data.corpus: was {tmp_path}/here, is now {tmp_path}"
    with pytest.raises(ValueError, match=f"{moved}/other; split train had 40 utterances, has 39"):
        train(recipe(tmp_path / "other", budget={"updates": 14}), tmp_path / "run")
    with caplog.at_level("INFO"):
        line = train(recipe(tmp_path / "there", budget={"updates": 14}), tmp_path / "run")
    assert f"{moved}/there, which holds the same rows" in caplog.text
    assert line["updates"] == 14


def test_a_budget_that_is_already_spent_is_reported(corpus, tmp_path, caplog):
    train(recipe(corpus, budget={"updates": 8}), tmp_path / "run")
    train(recipe(corpus, budget={"updates": 5}), tmp_path / "run")
    assert "budget.updates 5 reached before: nothing is left to train" in caplog.text


def test_a_resumed_run_keeps_its_tokenizer(corpus, tmp_path):
    spm = {"class_path": "SentencePiece", "init_args": {"size": 20}}
    train(recipe(corpus, tokenizer=spm), tmp_path)
    before = load_model(tmp_path / "last").tokenizer.state()
    train(recipe(corpus, tokenizer=spm, budget={"updates": 14}), tmp_path)
    assert load_model(tmp_path / "last").tokenizer.state() == before
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["tokenizer"] == before


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"features": {"sample_rate": 16000}}, "tones has 8000 Hz.*--features.sample_rate 8000"),
        ({"search": {"class_path": "Beam", "init_args": {"ctc_weight": 0.3}},
          "decoder": {"class_path": "Transformer", "init_args": {
            "width": 32, "layers": 1, "heads": 2, "ctc_weight": 0.0}}}, "no CTC head"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused_before_training_and_leave_nothing(
    corpus, tmp_path, keys, message
):
    with pytest.raises(ValueError, match=message):
        train(recipe(corpus, **keys), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("optimizer", "clip_norm", 0.0),
        ("optimizer", "ema_decay", -3.0),
        ("optimizer", "betas", [0.9, 1.0]),
        ("validation", "every_updates", 0),
        ("trainer", "log_every_n_steps", 0),
        ("data", "max_batch_seconds", -5.0),
        ("budget", "updates", -1),
        ("augmentation", "time_masks", -1),
    ],
)
def test_impossible_numbers_are_refused_by_name(corpus, section, key, value):
    keys = {"data": {"corpus": "x"}, section: {"corpus": "x", key: value}}
    if section != "data":
        del keys[section]["corpus"]
    with pytest.raises(ValueError, match=f"{section}.{key}"):
        recipe(corpus, **keys)


def test_utterances_that_ctc_cannot_align_are_counted(tmp_path, caplog, monkeypatch):
    make_corpus(tmp_path / "corpus", train=40, validation=4)
    reduced = {**ENCODERS["LSTM"], "time_reduction": [1]}
    monkeypatch.setitem(ENCODERS, "LSTM", reduced)
    given = recipe(tmp_path / "corpus", augmentation={"speed": [2.0]}, budget={"updates": 4})
    with caplog.at_level(logging.WARNING):
        line = train(given, tmp_path / "run")
    assert line["infeasible_utterances"] > 0
    assert "left out of the CTC loss" in caplog.text


def test_a_run_folder_holds_recipe_environment_ledger_and_models(corpus, tmp_path):
    given = recipe(corpus)
    train(given, tmp_path)
    assert strict_yaml.read(Recipe, strict_yaml.load_file(tmp_path / "recipe.yaml")) == given
    facts = json.loads((tmp_path / "environment.json").read_text())
    assert facts["torch"]
    assert facts["working_directory"] == os.getcwd()
    lines = read_ledger(tmp_path)
    assert [(e["event"], e.get("updates")) for e in lines] == [
        ("start", None), ("step", 4), ("validation", 6), ("step", 8), ("step", 12),
        ("validation", 12), ("end", 12),
    ]  # fmt: skip
    hours = [e["device_hours"] for e in lines[1:]]
    assert hours == sorted(hours)
    assert lines[-1]["padded_seconds"] > lines[-1]["audio_seconds"] > 0
    assert lines[-1]["padded_train_flops"] > lines[-1]["train_flops"] > 0
    assert set(lines[1]["train_terms"]) == {"attention", "ctc"}
    assert lines[1]["train_loss"] > 0
    with (tmp_path / "logs" / "validation.csv").open() as file:
        assert [row["updates"] for row in csv.DictReader(file)] == ["6", "12"]
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))
    for name in ("best", "last"):
        assert load_model(tmp_path / name).summary["recipe"] == strict_yaml.tree_of(given)


def test_the_saved_model_is_the_moving_average(corpus, tmp_path):
    train(recipe(corpus), tmp_path)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    saved = load_model(tmp_path / "last").state_dict()
    assert all(torch.equal(saved[name], value) for name, value in state["average"].items())
    assert any(not torch.equal(saved[name], value) for name, value in state["model"].items())


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"audio_hours": 0.001}, "budget.audio_hours"),
        ({"device_hours": 1e-9}, "budget.device"),
        ({"cpu_hours": 1e-9}, "budget.cpu_hours"),
    ],
)
def test_every_kind_of_budget_ends_a_run(corpus, tmp_path, budget, reason):
    train(recipe(corpus, budget=budget), tmp_path)
    last = json.loads((tmp_path / "ledger.json").read_text())
    assert last["finished"]
    assert last["reason"].startswith(reason)
    assert (tmp_path / "best" / "model.safetensors").exists()


@pytest.mark.parametrize("every", [100, 6])
def test_a_run_is_validated_once_at_each_share_of_its_budget(corpus, tmp_path, every):
    validation = {"every_updates": every, "at_shares": [0.25, 0.5]}
    train(recipe(corpus, validation=validation, budget={"updates": 12}), tmp_path)
    lines = [line for line in read_ledger(tmp_path) if line["event"] == "validation"]
    assert [line["updates"] for line in lines] == [3, 6, 12]


def test_an_impossible_encoder_is_refused_before_the_corpus_is_decoded(tmp_path):
    make_corpus(tmp_path / "corpus", train=6, validation=2)
    options = ENCODERS["LSTM"] | {"subsampling": 6}
    whole = recipe(tmp_path / "corpus")
    given = dataclasses.replace(whole, encoder=Component(whole.encoder.kind, options))
    with pytest.raises(ValueError, match="subsampling 6: an encoder frame is 4 or 8"):
        train(given, tmp_path / "run")
    assert not (tmp_path / "corpus" / "cache").exists()
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_remembers_the_speed_of_its_batches(corpus, tmp_path):
    options = {"validation": {"every_updates": 15}, "trainer": {"log_every_n_steps": 5}}
    train(recipe(corpus, budget={"updates": 15}, **options), tmp_path)
    saved = read_checkpoint(tmp_path / "last.ckpt")["callbacks"]["LedgerCallback"]
    assert len(saved["pace"]["batches"]) == 5  # after the warm-up of 10
    train(recipe(corpus, budget={"updates": 30}, **options), tmp_path)
    again = read_checkpoint(tmp_path / "last.ckpt")["callbacks"]["LedgerCallback"]
    assert again["pace"]["batches"][:5] == saved["pace"]["batches"]
    assert len(again["pace"]["batches"]) == 10
    lines = [line for line in read_ledger(tmp_path) if line["event"] == "step"]
    assert all(line["speed"] > 0 for line in lines)
    first, second = lines[:2]
    busy = [line["seconds"]["step"] + line["seconds"]["data_wait"] for line in lines[:2]]
    heard = second["audio_seconds"] - first["audio_seconds"]
    assert second["speed"] == pytest.approx(heard / (busy[1] - busy[0]))


@pytest.mark.parametrize(
    ("metric", "rates", "best"),
    [
        ("auto", [(0.5, 0.5), (0.9, 0.4), (0.5, 0.6)], 2),  # the texts have spaces
        ("cer", [(0.5, 0.5), (0.9, 0.4), (0.4, 0.4)], 6),
        ("wer", [(1.0, 0.5), (1.0, 0.4), (1.0, 0.4)], 4),
    ],
)
def test_the_best_model_has_the_lowest_rate_of_the_metric_then_of_the_other(
    corpus, tmp_path, monkeypatch, metric, rates, best
):
    told = iter(rates)

    def measure(self):
        wer, cer = next(told)
        self.metrics = {"wer": wer, "cer": cer, "loss": 1.0, "utterances": 1, "words": 1}

    monkeypatch.setattr(SpeechModule, "on_validation_epoch_end", measure)
    validation = {"every_updates": 2, "metric": metric}
    given = recipe(corpus, validation=validation, budget={"updates": 6})
    line = train(given, tmp_path)
    assert load_model(tmp_path / "best").summary["updates"] == best
    last = json.loads((tmp_path / "ledger.json").read_text())
    assert last["validation_metric"] == ("cer" if metric == "cer" else "wer")
    chosen = rates[best // 2 - 1][metric == "cer"]
    assert f"best {100 * chosen:.2f} % after {best} updates" in trained(tmp_path, given)
    assert line["finished"]


def test_a_run_that_began_without_a_metric_resumes_with_the_wer(corpus, tmp_path):
    train(recipe(corpus, budget={"updates": 6}), tmp_path)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    before, metric = state.pop("best"), state.pop("metric")
    torch.save({**state, "best_wer": before[0]}, tmp_path / "last.ckpt")
    tree = strict_yaml.load_file(tmp_path / "recipe.yaml")
    del tree["validation"]["metric"]
    strict_yaml.dump(tree, tmp_path / "recipe.yaml")
    train(recipe(corpus), tmp_path)
    after = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (metric, after["metric"]) == ("wer", "wer")
    assert after["best"][0] <= before[0]


def test_a_budget_is_needed(corpus):
    with pytest.raises(ValueError, match="set device_hours, cpu_hours, updates or audio_hours"):
        recipe(corpus, budget={})


def test_updates_without_a_finite_gradient_are_skipped_and_counted_and_too_many_are_fatal(
    corpus, tmp_path, monkeypatch, caplog
):
    original, until = SpeechModule.mean, 5

    def poisoned(self, loss):
        factor = math.nan if 3 <= self.progress.updates < until else 1.0
        return original(self, loss) * factor

    monkeypatch.setattr(SpeechModule, "mean", poisoned)
    with caplog.at_level(logging.WARNING):
        line = train(recipe(corpus), tmp_path / "a")
    assert line["nonfinite_updates"] == 2
    assert sum("gradient not finite" in record.message for record in caplog.records) == 2
    assert all(value.isfinite().all() for value in weights(tmp_path / "a").values())
    until = 999
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


def test_the_default_run_name_holds_recipe_encoder_and_seed(corpus):
    name = run_name(Path("recipes/fsdd.yaml"), ["--encoder", "recipes/encoders/x-small.yaml"],
                    recipe(corpus))  # fmt: skip
    assert name == "fsdd-x-small-seed1"
    assert run_name(Path("a.yaml"), [], recipe(corpus)) == "a-lstm-seed1"


def test_a_finished_run_is_left_unchanged(corpus, tmp_path, caplog):
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


def start(folder: Path, *options: str) -> subprocess.Popen:
    """``asr train`` of the recipe beside the run folder, in a process of its own."""
    command = [sys.executable, "-m", "asr", "train", str(folder.parent / "recipe.yaml")]
    return subprocess.Popen(
        [*command, "--run", str(folder), *options],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def test_processes_share_the_stream_and_the_ledger_and_their_number_may_change_on_resuming(
    corpus, tmp_path
):
    keys = {"validation": {"every_updates": 4}, "decoder": {"class_path": "CTC",
            "init_args": {"dropout": 0.0}}}  # fmt: skip
    given = recipe(corpus, budget={"updates": 6}, **keys)
    strict_yaml.dump(strict_yaml.tree_of(given), tmp_path / "recipe.yaml")
    run = tmp_path / "run"
    two = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.checkpoint_every_seconds=0",
           "--trainer.accumulate_grad_batches=2")  # fmt: skip
    _, errors = (process := start(run, *two)).communicate(timeout=300)
    assert process.returncode == 0, errors
    line = json.loads((run / "ledger.json").read_text())
    seconds = list(read_rows(corpus, ["train"])["duration"])
    stream = BatchStream(seconds, given.data.max_batch_seconds, given.seed)
    batches = list(itertools.islice(stream.batches(0), 15))
    expected = [sum(seconds[i] for i in batch) for batch in batches]
    assert line["audio_seconds"] == pytest.approx(sum(expected[:12]), rel=1e-3)
    assert line["num_devices"] == 2 * line["num_threads"]  # cores
    assert line["device_hours"] == pytest.approx(line["num_devices"] * line["wall_seconds"] / 3600)
    validation = json.loads((run / "ledger.jsonl").read_text().splitlines()[-2])
    assert validation["validation"]["utterances"] == 12

    # One process that takes the same batches for an update learns the same.
    alone = {"accelerator": "cpu", "log_every_n_steps": 4, "accumulate_grad_batches": 2}
    train(dataclasses.replace(given, trainer=TrainerOptions(**alone)), tmp_path / "one")
    losses = [
        [e["train_loss"] for e in read_ledger(folder) if e.get("train_loss")]
        for folder in (run, tmp_path / "one")
    ]
    assert len(losses[0]) >= 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)

    more = train(recipe(corpus, budget={"updates": 9}, **keys), run)
    assert more["updates"] == 9
    assert more["audio_seconds"] == pytest.approx(sum(expected), rel=1e-3)


@pytest.mark.parametrize(
    ("number", "processes"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGTERM, 2)]
)
def test_a_run_that_gets_sigterm_saves_its_state_and_resumes(corpus, tmp_path, number, processes):
    given = recipe(
        corpus,
        budget={"updates": 200 if processes == 1 else 60},
        validation={"every_updates": 100},
        trainer={"accelerator": "cpu", "log_every_n_steps": 4, "devices": processes},
    )

    def complete(folder):
        if processes == 1:
            train(given, folder)
        else:
            _, errors = (process := start(folder)).communicate(timeout=300)
            assert process.returncode == 0, errors

    strict_yaml.dump(strict_yaml.tree_of(given), tmp_path / "recipe.yaml")
    run = tmp_path / "run"
    process = start(run)
    while not (run / "ledger.json").exists():  # the first line of the log
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "saved at update" in errors
    last = json.loads((run / "ledger.json").read_text())
    assert last["reason"] == f"told to end by {number.name}"
    assert not last["finished"]
    complete(run)
    assert json.loads((run / "ledger.json").read_text())["wasted_seconds"] < 1
    complete(tmp_path / "whole")
    assert_equal_weights(tmp_path / "whole", run)


def test_the_device_cache_changes_no_loss_and_a_run_with_it_resumes(corpus, tmp_path, monkeypatch):
    data = {"corpus": str(corpus), "max_batch_seconds": 12.0}
    on_device = recipe(corpus, data={**data, "device_cache": True})
    train(recipe(corpus), tmp_path / "host")
    line = train(on_device, tmp_path / "device")
    assert_equal_weights(tmp_path / "host", tmp_path / "device")
    curves = [
        [e.get("train_loss") for e in read_ledger(tmp_path / name)] for name in ("host", "device")
    ]
    assert curves[0] == curves[1]
    assert line["seconds"]["data_wait"] > 0

    train(recipe(corpus, data={**data, "device_cache": True}, budget={"updates": 7}),
          tmp_path / "parts")  # fmt: skip
    train(on_device, tmp_path / "parts")
    assert_equal_weights(tmp_path / "device", tmp_path / "parts")


@pytest.mark.parametrize(("precision", "close"), [("fp16", 0.02), ("bf16", 0.1)])
def test_recurrent_kernels_in_16_bits_have_close_losses_and_the_run_names_them(
    corpus, tmp_path, caplog, precision, close
):
    losses = {}
    for name in ("float32", precision):
        trainer = {"accelerator": "cpu", "log_every_n_steps": 4, "recurrent_precision": name}
        with caplog.at_level(logging.INFO):
            train(recipe(corpus, trainer=trainer), tmp_path / name)
        lines = read_ledger(tmp_path / name)
        losses[name] = [e["train_loss"] for e in lines if e["event"] == "step"]
    assert losses[precision] != losses["float32"]
    assert losses[precision] == pytest.approx(losses["float32"], rel=close)
    last = json.loads((tmp_path / precision / "ledger.json").read_text())
    assert last["recurrent_kernel"] == f"each direction over padded frames, in {precision} on a cpu"
    assert f"recurrent kernel: {last['recurrent_kernel']}" in caplog.text


def test_the_optimiser_is_fused_on_a_gpu_and_the_default_of_torch_on_a_cpu():
    model = torch.nn.Linear(3, 2)
    for device, fused in (("cuda", True), ("cpu", None)):
        built = OptimizerOptions().build(model, torch.device(device))
        assert [group["fused"] for group in built.param_groups] == [fused, fused]
        assert [group["weight_decay"] for group in built.param_groups] == [0.01, 0.0]
