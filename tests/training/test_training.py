"""What Lightning's users expect of training: accumulation, their own parts, their own Trainer."""

import dataclasses
import itertools
import json
import logging
import re
import warnings
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger

from asr.config import strict_yaml
from asr.data.batches import BatchStream
from asr.data.utterances import SpeechData
from asr.metering.ledger_format import read_ledger
from asr.model import build_model, load_model
from asr.recipe.schema import LanguageModelRecipe, TrainerOptions
from asr.recognition.evaluate import evaluate
from asr.report.runs import read_run
from asr.text.tokenizers import restore
from asr.training.data import SpeechDataModule
from asr.training.run import train
from asr.training.speech import SpeechModule
from asr.training.summary import trained
from tests.corpus import make_corpus, train_batches
from tests.training.test_train import assert_equal_weights, recipe, weights


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "tones"
    make_corpus(folder, train=60, validation=12, test=12)
    return folder


def options(**keys):
    return {"accelerator": "cpu", "log_every_n_steps": 1, **keys}


# --- accumulation ---


@pytest.mark.parametrize(
    "decoder",
    [
        {"class_path": "CTC", "init_args": {"dropout": 0.0}},
        {"class_path": "Transformer", "init_args": {"width": 32, "layers": 1, "heads": 2,
                                                    "dropout": 0.0, "ctc_weight": 0.3}},
    ],
    ids=["ctc", "attention and ctc"],
)  # fmt: skip
def test_an_update_of_three_batches_equals_the_step_on_their_mean_per_token(
    corpus, tmp_path, decoder
):
    given = recipe(
        corpus,
        decoder=decoder,
        augmentation={},
        trainer=options(accumulate_grad_batches=3),
        budget={"updates": 1},
    )
    train(given, tmp_path / "run")
    tokenizer = restore(torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["tokenizer"])

    torch.manual_seed(given.seed)
    parts = (given.features, given.encoder, given.decoder, given.search)
    model = build_model(*parts, tokenizer, "none")
    data = SpeechData(given.data, tokenizer, given.features.sample_rate, given.seed)
    model.features.fit(data.sample(500))
    sums, counts = {}, {}
    for batch in itertools.islice(train_batches(data), 3):
        loss, _ = model(batch.waves, batch.wave_lengths, batch.tokens, batch.token_lengths)
        for name, term in loss.terms.items():
            sums[name] = sums.get(name, 0) + term.weight * term.sum
            counts[name] = counts.get(name, 0) + term.count
    sum(sums[name] / counts[name] for name in sums).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), given.optimizer.clip_norm)
    optimizer = given.optimizer.build(model, torch.device("cpu"))
    optimizer.step()
    found, moments = weights(tmp_path / "run"), optimizer.state_dict()["state"]
    for number, state in moments.items():  # the first moment is a tenth of the gradient
        torch.testing.assert_close(
            found[f"optimizer.{number}.exp_avg"], state["exp_avg"], rtol=1e-3, atol=1e-6
        )


def test_a_run_with_accumulation_counts_updates_and_resumes(corpus, tmp_path):
    keys = {
        "trainer": options(accumulate_grad_batches=2, checkpoint_every_seconds=0.0),
        "validation": {"every_updates": 3},
    }
    train(recipe(corpus, budget={"updates": 5}, **keys), tmp_path / "parts")
    line = train(recipe(corpus, budget={"updates": 8}, **keys), tmp_path / "parts")
    train(recipe(corpus, budget={"updates": 8}, **keys), tmp_path / "whole")
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")
    lines = read_ledger(tmp_path / "whole")
    validated = [entry["updates"] for entry in lines if entry["event"] == "validation"]
    assert validated == [3, 6, 8]
    seconds = SpeechData(
        recipe(corpus).data, restore(load_model(tmp_path / "whole").tokenizer.state()), 8000, 1
    ).train.sizes
    stream = BatchStream(seconds, recipe(corpus).data.max_batch_seconds, 1)
    heard = sum(seconds[row] for rows in itertools.islice(stream.batches(0), 16) for row in rows)
    assert line["audio_seconds"] == pytest.approx(heard, rel=1e-3)


# --- loggers, callbacks, profilers ---


class Kept(Logger):
    """A logger of one's own."""

    rows: list = []  # noqa: RUF012

    def __init__(self, project: str):
        super().__init__()
        self.project = project

    name = version = "kept"

    def log_metrics(self, metrics, step=None):
        Kept.rows.append((self.project, step, metrics))

    def log_hyperparams(self, *arguments, **keys):
        raise AssertionError("a recipe lies in the run folder")


class Stopping(L.Callback):
    """Ends a run after three updates, and has a state of its own."""

    seen = 0

    def __init__(self, after: int):
        self.after = after

    def on_train_batch_end(self, trainer, module, *batch):
        self.seen += 1
        trainer.should_stop = trainer.global_step >= self.after

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]
        Stopping.resumed = state["seen"]


def test_a_recipe_may_name_loggers_callbacks_and_a_profiler(corpus, tmp_path, caplog):
    here = __name__
    stopping = {"class_path": f"{here}.Stopping", "init_args": {"after": 3}}
    given = recipe(
        corpus,
        trainer=options(
            loggers=["TensorBoard", "CSV",
                     {"class_path": f"{here}.Kept", "init_args": {"project": "p"}}],
            callbacks=[stopping],
            profiler="Simple",
        ),
    )  # fmt: skip
    Kept.rows = []
    with caplog.at_level(logging.INFO):
        line = train(given, tmp_path / "run")
    assert line["updates"] == 3
    last = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert last["reason"] == "a callback stopped the run"
    assert [(project, step) for project, step, _ in Kept.rows] == [
        ("p", 1), ("p", 2), ("p", 3), ("p", 3), ("p", 3),
    ]  # fmt: skip
    assert Kept.rows[-2][2]["validation_wer"] > 0
    logs = tmp_path / "run" / "logs"
    assert list(logs.glob("events.out.tfevents.*"))
    assert list(logs.rglob("metrics.csv"))
    assert "optimizer_step" in next(logs.glob("*profile*.txt")).read_text()
    assert re.search(r"reference  [abc ]+\n  hypothesis ", caplog.text)
    # The state of a callback goes on with the run.
    more = {**stopping, "init_args": {"after": 5}}
    again = dataclasses.replace(given, trainer=TrainerOptions(**options(callbacks=[more])))
    again = dataclasses.replace(again, budget=dataclasses.replace(given.budget, updates=20))
    assert train(again, tmp_path / "run")["updates"] == 5
    assert Stopping.resumed == 3


def test_a_lightning_callback_can_monitor_a_metric(corpus, tmp_path):
    watching = {
        "class_path": "EarlyStopping",
        "init_args": {"monitor": "validation_loss", "mode": "max", "patience": 1},
    }
    given = recipe(
        corpus,
        trainer=options(callbacks=[watching]),
        validation={"every_updates": 2},
        budget={"updates": 40},
    )
    line = train(given, tmp_path / "run")  # a loss that falls is no maximum
    assert line["updates"] < 40


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loggers": ["Nothing"]}, "trainer.loggers.class_path 'Nothing' is no Logger"),
        ({"callbacks": ["nowhere.Stop"]}, "trainer.callbacks.class_path nowhere.Stop: No module"),
        ({"callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitr": "x"}}]},
         "trainer.callbacks.monitr: no such key; EarlyStopping has monitor"),
        ({"profiler": {"init_args": {}}}, "trainer.profiler.class_path is missing"),
        ({"accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches 0: expects 1 or more"),
    ],
)  # fmt: skip
def test_wrong_names_of_loggers_and_callbacks_are_refused(corpus, keys, message):
    with pytest.raises(ValueError, match=message):
        recipe(corpus, trainer=options(**keys))


def test_an_unknown_strategy_is_refused_in_one_line(corpus, tmp_path):
    given = recipe(corpus, trainer=options(strategy="abacus"))
    with pytest.raises(ValueError, match="trainer: .*abacus"):
        train(given, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "trainer", "message"),
    [
        ("LSTM", {"compile": "eager"}, "trainer.compile eager: a language model does not read it"),
        ("LSTM", {"recurrent_precision": "fp16"}, "trainer.recurrent_precision fp16: a language"),
        ("NGram", {"devices": 2}, "one process counts n-grams, not 2"),
    ],
)
def test_an_option_that_a_task_does_not_read_is_refused(kind, trainer, message):
    tree = {
        "text": {"train": ["a.txt"], "validation": "b.txt"},
        "tokenizer_of": "speech",
        "language_model": {"class_path": kind, "init_args": {"width": 8} if kind == "LSTM" else {}},
        "budget": {"updates": 1},
        "trainer": trainer,
    }
    with pytest.raises(ValueError, match=message):
        strict_yaml.read(LanguageModelRecipe, tree)


# --- a Trainer of one's own ---


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(recipe(corpus, budget={"updates": 40}, augmentation={}), folder)
    return folder


def test_a_run_whose_waiting_is_unknown_is_not_recorded_as_quiet(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("asr.metering.cpu.SCHEDSTAT", "/proc/nothing")
    given = recipe(corpus, budget={"updates": 2}, augmentation={})
    line = train(given, tmp_path)
    assert line["disturbances"] is line["core_wait_share"] is None
    assert "has no /proc/nothing" in line["core_wait_note"]
    assert read_run(tmp_path).disturbances is None
    assert "disturbed" not in trained(tmp_path, given)


def trainer(folder, **keys):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(
        accelerator="cpu", devices=1, logger=CSVLogger(folder), use_distributed_sampler=False,
        **quiet, **keys,
    )  # fmt: skip


def test_trainer_validate_gives_the_word_error_rate_of_evaluate(corpus, run, tmp_path):
    module = SpeechModule.load(run)
    data = SpeechDataModule(module.recipe, module.model.tokenizer.state())
    (found,) = trainer(tmp_path).validate(module, datamodule=data, verbose=False)
    expected = evaluate(load_model(run), corpus, "validation", output=tmp_path / "out")
    assert found["validation_wer"] == pytest.approx(expected["wer"]["rate"])
    assert 0 < found["validation_wer"] < 1.5


def test_trainer_fit_makes_the_updates_of_a_run_and_resumes_at_the_next_batch(corpus, tmp_path):
    given = recipe(corpus, budget={"updates": 6})
    train(given, tmp_path / "run")
    expected = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["model"]
    keys = {"max_epochs": -1, "num_sanity_val_steps": 0, "limit_val_batches": 0}
    module = SpeechModule(given)
    first = trainer(tmp_path, max_steps=4, enable_checkpointing=False, **keys)
    first.fit(module, datamodule=SpeechDataModule(given))
    first.save_checkpoint(tmp_path / "four.ckpt", weights_only=False)
    module = SpeechModule(given)
    second = trainer(tmp_path, max_steps=6, enable_checkpointing=False, **keys)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a loader does not know its position
        second.fit(
            module, datamodule=SpeechDataModule(given), ckpt_path=tmp_path / "four.ckpt",
            weights_only=True,
        )  # fmt: skip
    assert module.progress.updates == 6
    for name, value in module.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    "keys",
    [
        {"optimizer": {"warmup_share": 0.1}},
        {"optimizer": {"cooldown": 0.1}},
        {"validation": {"at_shares": [0.5]}},
        {"augmentation": {"from_share": 0.1}},
    ],
)
def test_a_trainer_of_your_own_refuses_shares_of_a_budget(corpus, tmp_path, keys):
    given = recipe(corpus, budget={"updates": 2}, **keys)
    ((section, (key,)),) = ((name, list(values)) for name, values in keys.items())
    with pytest.raises(ValueError, match=rf"{section}\.{key} .* leave the key out"):
        trainer(tmp_path, max_steps=2).fit(SpeechModule(given), datamodule=SpeechDataModule(given))


# --- formats ---


def test_folders_of_a_newer_format_are_refused(corpus, tmp_path):
    given = recipe(corpus, budget={"updates": 2})
    train(given, tmp_path / "run")
    more = recipe(corpus, budget={"updates": 3})
    for name, reading in (
        ("environment.json", lambda: train(more, tmp_path / "run")),
        ("best/model.json", lambda: load_model(tmp_path / "run")),
    ):
        path = tmp_path / "run" / name
        before = path.read_text()
        tree = json.loads(before)
        path.write_text(json.dumps({**tree, "format": 99}))
        with pytest.raises(ValueError, match="has format 99.*install a newer asr"):
            reading()
        path.write_text(json.dumps({k: v for k, v in tree.items() if k != "format"}))
        reading()
        path.write_text(before)


def test_a_checkpoint_of_the_first_format_resumes(corpus, tmp_path):
    train(recipe(corpus, budget={"updates": 7}), tmp_path / "old")
    path = tmp_path / "old" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    state["best_wer"] = state.pop("best")[0]
    for name in ("format", "callbacks", "tokens", "metric"):
        del state[name]
    torch.save(state, path)
    train(recipe(corpus), tmp_path / "old")
    train(recipe(corpus), tmp_path / "whole")
    assert_equal_weights(tmp_path / "whole", tmp_path / "old")


def test_the_readme_example_with_a_trainer_validates_and_trains(corpus, run, tmp_path, monkeypatch):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (source,) = [
        code for code in re.findall(r"```python\n(.*?)```", readme, re.S) if "L.Tr" in code
    ]
    monkeypatch.chdir(tmp_path)
    for shown, tried in (
        ("runs/fsdd-lstm-tiny-seed1", str(run)),
        ("max_steps=1000", "max_steps=3"),
        ("val_check_interval=500", "val_check_interval=3"),
    ):
        assert shown in source
        source = source.replace(shown, tried)
    names = {}
    exec(source, names)
    assert names["module"].progress.updates == 3
    assert names["data"].position == 3
