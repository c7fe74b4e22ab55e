"""Cooldown, branches off a longer run, and the average of the last validations."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import nn

from asr.cli import main
from asr.config import strict_yaml
from asr.metering.cpu import CpuClock
from asr.metering.ledger_format import read_ledger
from asr.metering.meter import Ledger
from asr.model import load_model
from asr.recipe.schema import OptimizerOptions
from asr.training import branch, checkpoint, ledger
from asr.training.ending import BudgetCallback
from asr.training.run import train
from asr.training.speech import SpeechModule
from asr.training.task import Progress, Task
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


def test_a_warm_up_by_share_is_that_of_as_many_updates_of_a_run_of_known_length():
    """A fifth of 100 updates is 20 updates, whatever the decay."""
    for decay in ("inverse_sqrt", "constant"):
        share = OptimizerOptions(lr=1.0, warmup_share=0.2, decay=decay)
        updates = OptimizerOptions(lr=1.0, warmup_updates=20, decay=decay)
        for update in range(1, 101):
            assert share.rate(7, update / 100) == pytest.approx(updates.rate(update))


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


def test_augmentation_and_dropout_begin_at_a_share_of_the_budget(corpus, tmp_path, monkeypatch):
    decoder = {"class_path": "Transformer", "init_args": {"width": 32, "layers": 1, "heads": 2}}

    def trained(name, dropout, augmentation):
        decoder["init_args"]["dropout"] = dropout
        keys = {"budget": {"updates": 8}, "decoder": decoder, "augmentation": augmentation}
        log = {"accelerator": "cpu", "log_every_n_steps": 1, "checkpoint_every_seconds": 0}
        train(recipe(corpus, trainer=log, **keys), tmp_path / name)
        return [line["train_loss"] for line in steps(tmp_path / name)]

    late = {"speed": [0.8], "time_masks": 2, "from_share": 0.5}
    plain = trained("plain", 0.0, {})
    regularised = trained("late", 0.5, late)
    assert regularised[:4] == plain[:4]
    assert all(a > b for a, b in zip(regularised[4:], plain[4:], strict=True))
    assert trained("masks", 0.0, late)[4] != regularised[4], "dropout acts as well"

    original, calls = Task.optimizer_step, []

    def dying(self, *arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KilledError
        return original(self, *arguments)

    monkeypatch.setattr(Task, "optimizer_step", dying)
    with pytest.raises(KilledError):
        trained("parts", 0.5, late)
    monkeypatch.setattr(Task, "optimizer_step", original)
    trained("parts", 0.5, late)
    assert_equal_weights(tmp_path / "late", tmp_path / "parts")


def test_dropout_of_any_kind_waits_for_its_share_of_the_budget(corpus):
    """An encoder of your own may hold ``nn.Dropout`` under any name."""
    module = SpeechModule(recipe(corpus, augmentation={"from_share": 0.5}))
    module.model = nn.ModuleDict({"dropout": nn.Dropout(0.3), "own": nn.LSTM(2, 2, dropout=0.0)})
    module.silence_dropout()
    assert module.model["dropout"].p == 0.0
    module.regularise()
    assert module.model["dropout"].p == 0.3
    assert module.model["own"].dropout == 0.0


def test_a_branch_is_the_run_that_had_cooled_down_from_there(corpus, tmp_path, capsys):
    keep = {"keep_checkpoints_every": 2}
    trunk, branched = tmp_path / "trunk", tmp_path / "trunk-cooldown-6"
    train(given(corpus, {"updates": 12}, keep), trunk)
    kept = sorted(int(path.stem) for path in (trunk / "kept").iterdir())
    assert kept == [2, 4, 6, 8, 10, 12]
    command = ["train", str(trunk), "--cooldown", "0.25", "--from", "6"]
    assert main(command) == 0
    train(given(corpus, {"updates": 8}, cooldown=0.25), tmp_path / "whole")
    assert_equal_weights(tmp_path / "whole", branched)

    state = torch.load(trunk / "kept" / "6.ckpt", weights_only=True)
    lines = read_ledger(branched)
    assert [line["updates"] for line in lines if line["event"] == "step"] == list(range(1, 9))
    assert [line["event"] for line in lines].count("start") == 2
    seventh = next(line for line in lines if line.get("updates") == 7)
    assert seventh["device_hours"] > state["ledger"]["device_hours"]
    assert seventh["audio_seconds"] > state["ledger"]["audio_seconds"]
    assert seventh["wasted_seconds"] == pytest.approx(0, abs=1e-6)
    assert load_model(branched).summary["updates"] > 6

    # The same command finds the branch finished; other branches and mistakes are refused.
    assert main(command) == 0
    assert json.loads((branched / "ledger.json").read_text())["updates"] == 8
    for arguments, message in [
        (
            ["--cooldown", "0.5", "--from", "6"],
            "run of another recipe (optimizer.cooldown: was",
        ),
        (["--cooldown", "0.25", "--from", "5"], "kept the states after 2, 4, 6, 8, 10, 12 updates"),
        (["--cooldown", "1", "--from", "6"], "--cooldown 1.0: expects a share between 0 and 1"),
        (["--cooldown", "0.25"], "--cooldown and --from belong together"),
        (
            ["--cooldown", "0.25", "--from", "6", "--seed", "2"],
            "--seed: was 1, is now 2: a branch has the recipe",
        ),
        (
            ["--cooldown", "0.25", "--from", "6", "--trainer.devices=1", "--optimizer.lr=5"],
            "--optimizer.lr: was 0.005, is now 5.0: a branch has the recipe",
        ),
        (
            ["--cooldown", "0.25", "--from", "6", "--data.max_batch_seconds", "5"],
            "--data.max_batch_seconds: was 12.0, is now 5.0: a branch",
        ),
        (
            ["--cooldown", "0.25", "--from", "6", "--budget.updates", "9"],
            "--budget.updates: was 8, is now 9: a branch",
        ),
    ]:
        capsys.readouterr()
        assert main(["train", str(trunk), "--run", str(branched), *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def trunk(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trunk") / "trunk"
    train(given(corpus, {"updates": 6}, {"keep_checkpoints_every": 6}), folder)
    return folder


def test_a_branch_fills_an_empty_folder_and_refuses_other_files(trunk, tmp_path, capsys):
    folder = tmp_path / "branch"
    folder.mkdir()
    command = ["train", str(trunk), "--cooldown", "0.25", "--from", "6", "--run", str(folder)]
    (folder / "notes.txt").touch()
    assert main(command) == 2
    assert "holds notes.txt and no last.ckpt" in capsys.readouterr().err
    (folder / "notes.txt").unlink()
    (folder / ".lock").touch()
    assert main(command) == 0
    starts = [line for line in read_ledger(folder) if line["event"] == "start"]
    assert [line["from_update"] for line in starts] == [0, 6]


def test_only_the_first_process_of_a_launcher_makes_the_folder_of_a_branch(
    corpus, trunk, tmp_path, monkeypatch
):
    folder, asked = tmp_path / "branch", given(corpus, {"updates": 8}, cooldown=0.25)
    two = dataclasses.replace(asked, trainer=dataclasses.replace(asked.trainer, devices=2))
    seen = []

    def wait(seconds):
        seen.append(folder.exists())
        monkeypatch.setattr(rank_zero_only, "rank", 0)
        branch.begin_branch(trunk, 6, two, folder)
        monkeypatch.setattr(rank_zero_only, "rank", 1)

    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    monkeypatch.setattr(branch.time, "sleep", wait)
    branch.begin_branch(trunk, 6, two, folder)
    assert seen == [False]
    assert (folder / "last.ckpt").exists()


def test_a_budget_leaves_time_for_the_validation_of_the_average(corpus):
    def stops(updates, validated_at, hours, **optimizer):
        asked = given(corpus, {"device_hours": 10.0}, **optimizer)
        progress = Progress(updates=updates, validated_at=validated_at, validation_seconds=3600.0)
        module = SimpleNamespace(
            recipe=asked, progress=progress, exhausted=None, average=("copy",), spent=0.0
        )
        cost = SimpleNamespace(device_hours=hours, num_devices=1)
        trainer = SimpleNamespace(should_stop=False, world_size=1)
        callback = BudgetCallback(SimpleNamespace(ledger=cost))
        callback._check(trainer, module)
        return trainer.should_stop

    # A validation takes an hour of ten, and comes every four updates.
    assert [stops(5, 4, hours, average_last=2) for hours in (8.9, 9.1)] == [False, True]
    assert [stops(8, 4, hours, average_last=2) for hours in (7.9, 8.1)] == [False, True]
    assert [stops(8, 8, hours, average_last=2) for hours in (8.9, 9.1)] == [False, True]
    assert [stops(8, 4, hours) for hours in (8.9, 9.1)] == [False, True]
    assert [stops(8, 8, hours) for hours in (9.9, 10.1)] == [False, True]


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


class FakeClock:
    """A clock that only start-up, updates and validations advance, by given seconds."""

    def __init__(self, monkeypatch, *, update, validation=0.0):
        self.now = 0.0
        steps = {"optimizer_step": update, "on_validation_epoch_end": validation}
        for name, seconds in steps.items():
            monkeypatch.setattr(Task, name, self.advancing(getattr(Task, name), seconds))
        monkeypatch.setattr(Ledger, "_now", lambda ledger: self.now)
        monkeypatch.setattr(CpuClock, "read", lambda clock: (self.now, 0.0))
        for module in (checkpoint, ledger):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def advancing(self, method, seconds):
        def advanced(*arguments):
            result = method(*arguments)
            self.now += seconds
            return result

        return advanced


def test_a_warm_up_by_share_begins_at_the_first_update_also_when_resumed(
    corpus, tmp_path, monkeypatch
):
    """A start of 400 of 1000 s leaves 600 s, whose fifth is the warm-up."""
    clock = FakeClock(monkeypatch, update=10.0)
    asked = given(
        corpus, {"device_hours": 1000 / 3600}, {"devices": 1}, warmup_updates=1, warmup_share=0.2
    )
    advancing = Task.optimizer_step

    def dying(self, *arguments):
        if self.progress.updates == 8:
            raise KilledError
        advancing(self, *arguments)

    monkeypatch.setattr(Task, "optimizer_step", dying)
    clock.now = 400.0
    with pytest.raises(KilledError):
        train(asked, tmp_path)
    monkeypatch.setattr(Task, "optimizer_step", advancing)
    clock.now = 30.0
    train(asked, tmp_path)
    lines = steps(tmp_path)
    assert [line["updates"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) == 57  # 600 s less the second start of 30 s
    before = [3600 * line["device_hours"] - 10 for line in lines]
    expected = [5e-3 * min(1, (seconds - 400) / 600 / 0.2) for seconds in before]
    assert [line["learning_rate"] for line in lines] == pytest.approx(expected)
    assert expected[0] == 0
    assert expected[7] == pytest.approx(5e-3 * 7 / 12)


@pytest.mark.parametrize("unit", ["cpu_hours", "device_hours"])
def test_a_slow_validation_ends_within_2_percent_of_its_share_of_the_time(
    corpus, tmp_path, monkeypatch, unit
):
    clock = FakeClock(monkeypatch, update=35.0, validation=600.0)
    clock.now = 100.0
    asked = recipe(
        corpus,
        trainer={"accelerator": "cpu", "devices": 1},
        validation={"every_updates": 1000, "at_shares": [0.5]},
        budget={unit: 4000 / 3600},
    )
    train(asked, tmp_path)
    points = [line for line in read_ledger(tmp_path) if line["event"] == "validation"]
    first, half, last = (3600 * line["device_hours"] for line in points)
    assert first < 2000
    assert abs(half - 2000) < 40
    assert abs(last - 4000) < 80
