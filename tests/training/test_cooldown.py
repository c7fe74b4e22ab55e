"""Cooldown, branches off a longer run, and the average of the last validations."""

import json

import pytest
import torch

from asr.cli import main
from asr.config import strict_yaml
from asr.metering.ledger_format import read_ledger
from asr.model import load_model
from asr.recipe.schema import OptimizerOptions
from asr.training.run import train
from asr.training.task import Task
from tests.corpus import make_corpus
from tests.training.test_train import KilledError, assert_equal_weights, recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "tones"
    make_corpus(folder, train=60, validation=6)
    return folder


def given(corpus, budget, trainer=None, **optimizer):
    return recipe(
        corpus,
        trainer={"accelerator": "cpu", "log_every_n_steps": 1, **(trainer or {})},
        optimizer={"lr": 5e-3, "warmup_updates": 2, "decay": "constant", **optimizer},
        validation={"every_updates": 4},
        budget=budget,
    )


def steps(folder):
    return [line for line in read_ledger(folder) if line["event"] == "step"]


def test_the_rate_falls_linearly_to_zero_over_the_last_share_of_the_budget():
    options = OptimizerOptions(lr=1.0, warmup_updates=1, decay="constant", cooldown=0.2)
    rates = [options.rate(9, spent) for spent in (0.0, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1)]
    assert rates == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0, 0])


@pytest.mark.parametrize("unit", ["updates", "audio_hours"])
@pytest.mark.parametrize("processes", [1, 2])
def test_the_rate_follows_the_budget_that_is_spent(corpus, tmp_path, unit, processes):
    budget = {"updates": 10} if unit == "updates" else {"audio_hours": 0.025, "updates": 100}
    train(given(corpus, budget, {"devices": processes}, cooldown=0.5), tmp_path)
    lines = steps(tmp_path)
    assert len(lines) >= 8
    heard = [line["updates" if unit == "updates" else "audio_seconds"] for line in lines]
    limit = 10 if unit == "updates" else 90.0
    spent = [before / limit for before in [0, *heard[:-1]]]
    expected = [5e-3 * min(1, (1 - share) / 0.5) for share in spent]
    found = [line["learning_rate"] for line in lines]
    assert found[1:] == pytest.approx(expected[1:])
    assert found[0] == pytest.approx(5e-3 / 2)  # the first update of the warm-up


def test_a_cooldown_resumes_exactly(corpus, tmp_path, monkeypatch):
    cooled = given(corpus, {"audio_hours": 0.025}, {"checkpoint_every_seconds": 0}, cooldown=0.6)
    train(cooled, tmp_path / "whole")
    original, calls = Task.optimizer_step, []

    def dying(self, *arguments):
        calls.append(1)
        if len(calls) == 7:
            raise KilledError
        return original(self, *arguments)

    monkeypatch.setattr(Task, "optimizer_step", dying)
    with pytest.raises(KilledError):
        train(cooled, tmp_path / "parts")
    monkeypatch.setattr(Task, "optimizer_step", original)
    train(cooled, tmp_path / "parts")
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_branch_is_the_run_that_had_cooled_down_from_there(corpus, tmp_path, capsys):
    keep = {"keep_checkpoints_every": 2}
    trunk, branch = tmp_path / "trunk", tmp_path / "trunk-cooldown-6"
    train(given(corpus, {"updates": 12}, keep), trunk)
    kept = sorted(int(path.stem) for path in (trunk / "kept").iterdir())
    assert kept == [2, 4, 6, 8, 10, 12]
    command = ["train", str(trunk), "--cooldown", "0.25", "--from", "6"]
    assert main(command) == 0
    train(given(corpus, {"updates": 8}, cooldown=0.25), tmp_path / "whole")
    assert_equal_weights(tmp_path / "whole", branch)

    state = torch.load(trunk / "kept" / "6.ckpt", weights_only=True)
    lines = read_ledger(branch)
    assert [line["updates"] for line in lines if line["event"] == "step"] == list(range(1, 9))
    assert [line["event"] for line in lines].count("start") == 2
    seventh = next(line for line in lines if line.get("updates") == 7)
    assert seventh["device_hours"] > state["ledger"]["device_hours"]
    assert seventh["audio_seconds"] > state["ledger"]["audio_seconds"]
    assert seventh["wasted_seconds"] == pytest.approx(0, abs=1e-6)
    assert load_model(branch).summary["updates"] > 6

    # The same command finds the branch finished; other branches and mistakes are refused.
    assert main(command) == 0
    assert json.loads((branch / "ledger.json").read_text())["updates"] == 8
    for arguments, message in [
        (["--cooldown", "0.5", "--from", "6"], "holds another run"),
        (["--cooldown", "0.25", "--from", "5"], "kept the states after 2, 4, 6, 8, 10, 12 updates"),
        (["--cooldown", "1", "--from", "6"], "--cooldown 1.0: expects a share between 0 and 1"),
        (["--cooldown", "0.25"], "--cooldown and --from belong together"),
        (["--cooldown", "0.25", "--from", "6", "--seed", "2"], "--seed: a branch has the recipe"),
    ]:
        capsys.readouterr()
        assert main(["train", str(trunk), "--run", str(branch), *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_branch_that_stops_resumes(corpus, tmp_path, monkeypatch):
    trainer = {"keep_checkpoints_every": 6, "checkpoint_every_seconds": 0.0}
    train(given(corpus, {"updates": 6}, trainer), tmp_path / "trunk")
    command = ["train", str(tmp_path / "trunk"), "--cooldown", "0.5", "--from", "6"]
    assert main([*command, "--run", str(tmp_path / "whole")]) == 0
    original = Task.optimizer_step

    def dying(self, *arguments):
        if self.progress.updates == 9:
            raise KilledError
        return original(self, *arguments)

    monkeypatch.setattr(Task, "optimizer_step", dying)
    with pytest.raises(KilledError):
        main([*command, "--run", str(tmp_path / "parts")])
    monkeypatch.setattr(Task, "optimizer_step", original)
    assert main([*command, "--run", str(tmp_path / "parts")]) == 0
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


def test_the_last_model_is_the_mean_of_the_weights_at_the_last_validations(corpus, tmp_path):
    for updates in (4, 8, 12):
        train(given(corpus, {"updates": updates}), tmp_path / str(updates))
    states = [
        torch.load(tmp_path / str(updates) / "last.ckpt", weights_only=True) for updates in (8, 12)
    ]
    averaged = given(corpus, {"updates": 12}, average_last=2)
    train(given(corpus, {"updates": 8}, average_last=2), tmp_path / "parts")
    train(averaged, tmp_path / "parts")
    train(averaged, tmp_path / "whole")
    assert_equal_weights(tmp_path / "whole", tmp_path / "12")  # training is the same
    models = [load_model(tmp_path / run / "last") for run in ("whole", "parts")]
    for name, parameter in models[0].named_parameters():
        expected = (states[0]["model"][name].double() + states[1]["model"][name].double()) / 2
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(parameter, models[1].get_parameter(name))
    lines = read_ledger(tmp_path / "whole")
    validated = [line for line in lines if line["event"] == "validation"]
    assert [line["updates"] for line in validated] == [4, 8, 12]
    moving = read_ledger(tmp_path / "12")[-2]
    assert validated[-1]["validation"]["loss"] != moving["validation"]["loss"]


def test_the_options_are_bounded(corpus):
    for key, value in (("cooldown", 1.5), ("average_last", -1)):
        with pytest.raises(ValueError, match=f"optimizer.{key} {value}"):
            OptimizerOptions(**{key: value})
    with pytest.raises(ValueError, match="trainer.keep_checkpoints_every"):
        given(corpus, {"updates": 1}, {"keep_checkpoints_every": -1})
    assert strict_yaml.tree_of(OptimizerOptions())["cooldown"] == 0.0
