import itertools
import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from asr.cli import main
from asr.metering.environment import environment
from asr.probes import horizon_measure as probe
from asr.probes.horizon import (
    ARMS,
    PROBE,
    Attempt,
    extrapolation,
    extrapolations,
    horizon,
    median_accuracy,
)
from asr.probes.horizon_measure import Budget, attempts, build, chrono, size
from asr.probes.memory_tasks import NOISE, SYMBOLS, TASKS, Latch, Recall, corrected
from asr.probes.probe import Measured


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("lag", [1, 7, 64])
def test_the_latch_task_asks_for_its_first_token_at_the_lag(lag):
    tokens, answers = Latch().draw(200, lag, generator())
    assert tokens.shape == (200, lag + 1)
    assert torch.equal(tokens[:, -1 - lag], answers)
    assert set(tokens[:, -1].tolist()) == {Latch.vocabulary - 1}
    between = tokens[:, 1:-1]
    assert ((between >= SYMBOLS) & (between < SYMBOLS + NOISE)).all()
    assert answers.bincount(minlength=SYMBOLS).min() > 200 / SYMBOLS / 3


@pytest.mark.parametrize(("pairs", "lag"), [(1, 2), (4, 8), (4, 40), (16, 32)])
def test_the_answer_of_the_recall_task_is_the_value_of_the_queried_key(pairs, lag):
    task = Recall(pairs=pairs)
    tokens, answers = task.draw(300, lag, generator())
    told, asked = SYMBOLS + NOISE, SYMBOLS + NOISE + task.keys
    for row, answer in zip(tokens.tolist(), answers.tolist(), strict=True):
        keys = [place for place, token in enumerate(row) if told <= token < asked]
        assert len(keys) == len({row[place] for place in keys}) == pairs
        key = row[-1] - task.keys
        place = row.index(key) + 1
        assert row[place] == answer
        assert len(row) - 1 - place == lag


def test_impossible_lags_are_refused():
    with pytest.raises(ValueError, match="a lag of 7 does not hold 4 pairs"):
        Recall().draw(1, 7, generator())


@pytest.mark.parametrize(("name", "shortest"), [("latch-mixed", 1), ("recall-mixed", 8)])
def test_mixed_training_lags_are_log_uniform_between_the_shortest_and_the_longest(name, shortest):
    task, draws, longest = TASKS[name], generator(3), 64 * shortest
    beyond = task.questions.draw(1, longest, generator()).tokens.shape[1] - longest
    lags = torch.tensor(
        [
            task.draw_for_training(1, longest, draws).tokens.shape[1] - beyond
            for _ in range(2000)
        ]
    )  # fmt: skip
    assert lags.min() == shortest
    assert lags.max() == longest
    for bound in (2, 4, 8, 16, 32):  # as many between shortest and bound as logarithms say
        share = (lags < bound * shortest).float().mean()
        expected = math.log(bound) / math.log((longest + 1) / shortest)
        assert share == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("name", list(TASKS))
def test_tests_use_the_lag_and_training_uses_it_too_unless_it_is_mixed(name):
    task, lag = TASKS[name], 40
    tested = task.questions.draw(4, lag, generator()).tokens.shape
    trained = {task.draw_for_training(4, lag, generator(seed)).tokens.shape for seed in range(20)}
    assert (trained == {tested}) == (not name.endswith("-mixed"))


def test_guessing_has_a_corrected_accuracy_of_0():
    assert corrected(1 / 8) == 0
    assert corrected(1.0) == 1
    assert corrected(0.5) == pytest.approx(3 / 7)


def test_chrono_spreads_time_constants_up_to_the_lag():
    lstm = nn.LSTM(4, 2000)
    chrono(lstm, 500)
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().view(4, -1)
    times = bias[1].exp() + 1  # 1 / (1 - sigmoid(b))
    assert 2 <= times.min() < 10
    assert 490 < times.max() <= 500
    assert times.mean() == pytest.approx(250.5, rel=0.05)
    torch.testing.assert_close(bias[0], -bias[1])
    assert (bias[2:] == 0).all()


def test_arms_are_equal_in_size_causal_and_see_their_whole_past():
    sizes = [size(build(arm, 17, 64, seed=0)) for arm in ARMS]
    assert max(sizes) < 1.05**2 * min(sizes)  # within 5 % of 100,000
    for arm in ARMS:
        reader = build(arm, 17, 64, seed=0).eval()
        x = torch.randn(1, 40, reader.embedding.embedding_dim, requires_grad=True)
        frames = probe.Frames(x, torch.tensor([40]))
        for block in reader.layers:
            frames = block(frames)
        (past,) = torch.autograd.grad(frames.x[0, 29].sum(), x)
        reached = past[0].abs().sum(1)
        assert (reached[30:] == 0).all(), arm
        assert (reached[:30] > 0).all(), arm


def test_a_short_latch_is_learnt_and_test_sequences_are_new():
    row = probe.attempt(
        "transformer",
        "latch",
        8,
        seed=0,
        rate=3e-3,
        budget=Budget(400, 1e-9),
        device="cpu",
        name="here",
    )
    assert row.solved_updates is not None
    assert row.solved_updates == row.updates <= 400
    assert row.accuracy_updates >= probe.SOLVED
    drawn = [Latch().draw(32, 64, generator(seed)).tokens for seed in (0, 1)]
    assert not torch.equal(*drawn)


def test_a_curriculum_trains_at_shorter_lags_until_each_is_solved(monkeypatch):
    trained = []

    class Seen:
        questions, mixed = Latch(), False

        def draw_for_training(self, number, lag, generator):
            trained.append(lag)
            return self.questions.draw(number, lag, generator)

    monkeypatch.setitem(TASKS, "latch", Seen())
    settings = {"seed": 0, "rate": 3e-3, "device": "cpu", "name": "here"}
    budget = Budget(600, 1e-9)
    row = probe.attempt("transformer", "latch", 8, **settings, budget=budget, curriculum=[16, 4, 2])
    assert trained == sorted(trained)
    assert set(trained) <= {2, 4, 8}  # 16 is longer than the lag of the test
    assert trained[0] == 2
    assert len(trained) == row.updates
    assert row.solved_updates == row.updates
    assert row.curriculum == [16, 4, 2]


class Reader(nn.Module):
    """Knows the answer to a latch at lags up to ``longest``, but for the first ``wrong`` asked."""

    def __init__(self, longest, wrong=0):
        super().__init__()
        self.longest, self.wrong, self.asked = longest, wrong, []
        self.limits = []  # most mistakes in the first questions of a test
        self.scale = nn.Parameter(torch.ones(()))
        self.layers = nn.ModuleList()

    def forward(self, tokens):
        self.asked.append(tokens.shape)
        known = tokens.shape[1] - 1 <= self.longest
        said = tokens[:, 0].clone() if known else torch.zeros_like(tokens[:, 0])
        if not self.training:
            tested = sum(shape[0] for shape in self.asked[probe.CHECK_EVERY + 1 :])
            most = self.limits[0] if self.limits and tested <= 512 else self.wrong
            mistakes = min(most, self.wrong, len(said))
            self.limits = [self.limits[0] - mistakes] if self.limits else []
            said[:mistakes] = (said[:mistakes] + 1) % SYMBOLS
            self.wrong -= mistakes
        return self.scale * 9 * nn.functional.one_hot(said, SYMBOLS)


def attempted(monkeypatch, reader, extrapolate=0):
    """An attempt of a reader at the lag 32, with one check."""
    monkeypatch.setattr(probe, "build", lambda *_: reader)
    given = {"seed": 0, "rate": 1e-3, "budget": Budget(25, 0.0), "device": "cpu", "name": "here"}
    return probe.attempt("gru", "latch", 32, **given, extrapolate=extrapolate)


@pytest.mark.parametrize(
    ("longest", "limit", "found"),
    [(100, 4096, 64), (700, 4096, 512), (9999, 300, 256), (9999, 0, None), (20, 4096, None)],
)
def test_an_arm_that_solves_a_lag_is_tested_at_twice_the_lag_until_it_fails(
    monkeypatch, longest, limit, found
):
    done = attempted(monkeypatch, Reader(longest), limit)
    assert (done.extrapolate, done.extrapolates_to) == (limit, found)


@pytest.mark.parametrize(
    ("wrong", "asked", "right"),
    [
        (0, 512 + 2048, 2048),
        (32, 512 + 2048, 2048),  # all are in the first test
        (44, 512 + 2048, 2048),
        (45, 64, 64 - 45),
        (44 + 179, 512 + 2048, 2048 - 179),
        (44 + 180, 512 + 192, 192 - 180),
    ],
)
def test_a_test_ends_when_too_many_answers_are_wrong(monkeypatch, wrong, asked, right):
    """45 wrong of 512 are too many, and 180 of 2,048 in the test that confirms.

    90 % of the accuracy that chance leaves is 467.2 of 512 and 1,868.8 of 2,048.
    """
    reader = Reader(99, wrong)
    reader.limits = [44] if wrong > 45 else []  # mistakes of the first test
    done = attempted(monkeypatch, reader)
    assert sum(shape[0] for shape in reader.asked[probe.CHECK_EVERY + 1 :]) == asked
    last = asked - 512 if asked > 512 else asked
    assert done.accuracy_updates == pytest.approx(corrected(right / last))
    assert (done.solved_updates is not None) == (right > 0.9 * last)


@pytest.mark.parametrize(
    ("curriculum", "solved", "here"), [([], False, 100), ([8], True, 75), ([8], False, 0)]
)
def test_updates_of_the_curriculum_are_told_apart(monkeypatch, curriculum, solved, here):
    """The reader never learns the lag 32. A curriculum ends at its first check, or never."""
    monkeypatch.setattr(probe, "build", lambda *_: Reader(8 if solved else 4))
    given = {"seed": 0, "rate": 1e-3, "budget": Budget(100, 0.0), "device": "cpu", "name": "here"}
    done = probe.attempt("gru", "latch", 32, **given, curriculum=curriculum)
    assert (done.updates, done.updates_at_lag) == (100, here)
    assert replace(done, updates_here=None).updates_at_lag == (0 if curriculum else 100)


def test_a_test_at_the_longest_lags_has_smaller_batches_and_as_many_sequences(monkeypatch):
    monkeypatch.setattr(probe, "TEST_TOKENS", 32 * 5)
    reader = Reader(99)
    attempted(monkeypatch, reader)
    tested = [shape[0] for shape in reader.asked[probe.CHECK_EVERY + 1 :]]
    assert tested == [5] * 102 + [2] + [5] * 409 + [3]


def test_extrapolation_is_that_of_the_lower_median_seed_at_its_best_learning_rate():
    rows = [
        replace(row("a", 64, 0, 1.0), extrapolate=1024, extrapolates_to=64),
        replace(row("a", 64, 0, 1.0, rate=3e-3), extrapolate=1024, extrapolates_to=256),
        replace(row("a", 64, 1, 1.0), extrapolate=1024, extrapolates_to=1024),
        replace(row("a", 64, 2, 0.3), extrapolate=1024),
        row("a", 64, 3, 1.0),  # not asked
    ]
    assert extrapolation(rows, "updates") == 256
    assert extrapolation(rows, "seconds") == 0  # its accuracies there are half of those
    assert extrapolation(rows[:3], "updates") == 256  # the lower of two
    assert extrapolation(rows[2:3], "updates") == 1024
    assert extrapolation(rows[3:4], "updates") == 0  # asked, and not even 64
    assert extrapolation(rows[4:], "updates") is None
    table, _ = extrapolations([*rows, replace(rows[2], arm="b"), replace(rows[3], arm="c")])
    assert table.header == ["task: arm", "trained at 64"]
    assert table.rows == [
        ["latch: a", "256 / 0"],
        ["latch: b", "≥ 1,024 / 0"],
        ["latch: c", "0 / 0"],
    ]
    assert extrapolations(rows[4:]) == []


def test_of_two_seeds_the_worse_is_the_median():
    rows = [row("a", 64, 0, 1.0), row("a", 64, 1, 0.85)]
    assert median_accuracy(rows, "updates") == 0.85
    assert horizon(rows, "updates") is None


def row(arm, lag, seed, accuracy, rate=1e-3):
    return Attempt(
        arm, "latch", lag, seed, rate, 10, accuracy, accuracy / 2, None, None, 9, 1.0, 9, 1.0, "x"
    )


def test_the_horizon_is_the_longest_lag_that_the_median_seed_solves():
    rows = [
        *(row("a", 64, seed, accuracy) for seed, accuracy in enumerate((1.0, 0.95, 0.2))),
        *(row("a", 128, seed, accuracy) for seed, accuracy in enumerate((1.0, 0.5, 0.2))),
        row("a", 128, 1, 0.92, rate=3e-3),  # the better of its two rates
        *(row("a", 256, seed, accuracy) for seed, accuracy in enumerate((0.89, 0.89, 1.0))),
    ]
    assert horizon(rows, "updates") == 128
    assert horizon(rows, "seconds") is None


def test_an_arm_stops_after_two_failed_lags_and_no_attempt_is_repeated(monkeypatch):
    asked = []

    def answer(arm, task, lag, *, seed, rate, **rest):
        asked.append((arm, lag, seed))
        good = arm == "good" or lag == 64
        return row(arm, lag, seed, 1.0 if good else 0.1, rate)

    monkeypatch.setattr(probe, "attempt", answer)

    def all_missing(done):
        grid = (["bad", "good"], ["latch"], [64, 128, 256, 512], 2, [1e-3])
        return list(attempts(*grid, done))

    rows = all_missing([])
    assert {lag for arm, lag, _ in asked if arm == "bad"} == {64, 128, 256}
    assert {lag for arm, lag, _ in asked if arm == "good"} == {64, 128, 256, 512}
    asked.clear()
    assert all_missing(rows[:7]) == rows[7:]
    assert len(asked) == len(rows) - 7


def test_the_page_names_the_settings_tried_and_the_commits():
    grid = itertools.product((64, 128), range(3), (1e-3, 3e-3))
    rows = [row("all", lag, seed, 1.0, rate) for lag, seed, rate in grid]
    rows += [replace(row("one", 64, 0, 0.1, 3e-3), git_commit="abc1234")]
    rows += [row("ended", 64, *rest) for rest in ((0, 1.0), (1, 1.0), (1, 1.0, 3e-3))]
    rows += [row("later", 64, seed, 1.0) for seed in range(3)] + [row("later", 128, 0, 1.0)]
    machine = {"threads": 4, "torch": "2.11.0", "git_commit": "def5678"}
    page = PROBE.page(Measured(rows, machine))
    assert "Commits of the attempts: not recorded, abc1234." in page
    assert "4 threads; torch 2.11.0; commit def5678" in page
    assert "| trained at" not in page
    rows = [replace(r, extrapolate=512, extrapolates_to=256) if r.arm == "all" else r for r in rows]
    page = PROBE.page(Measured(rows, machine))
    assert (
        "| task: arm | trained at 64 | trained at 128 |\n| --- | --- | --- |\n"
        "| latch: all | 256 / 0 | 256 / 0 |\n"
    ) in page
    for line in (
        "| latch: all | 10 | 3 | 0.001, 0.003 | ≥ 128 | < 64 | 1.00 / 0.50 | 1.00 / 0.50 |",
        "| latch: one | 10 | 1 | 0.003 | < 64 | < 64 | 0.10 / 0.05 | not tried |",
        "| latch: ended | 10 | 2 | 0.001, 0.003, not all by every seed | ≥ 64 | < 64 | 1.00 / ",
        "| latch: later | 10 | 1 to 3 | 0.001 | ≥ 128 | < 64 | 1.00 / 0.50 | 1.00 / 0.50 |",
    ):
        assert line in page


def test_the_command_resumes_where_it_was_killed(tmp_path, capsys):
    words = "--lags 4 --tasks latch --seeds 1 --rates 3e-3 --updates 50 --seconds 0.01 --arms"
    command = ["claims", "horizon", "--output", str(tmp_path / "out"), *words.split()]
    assert main([*command, "transformer"]) == 0
    written = tmp_path / "out" / "horizon.jsonl"
    before = written.read_text()
    written.write_text(before + before[:40])  # killed while it wrote
    assert main([*command, "transformer", "gru"]) == 0
    lines = written.read_text().splitlines(keepends=True)
    assert lines[0] == before
    made = [json.loads(line) for line in lines]
    assert [one["arm"] for one in made] == ["transformer", "gru"]
    assert {one["git_commit"] for one in made} == {environment()["git_commit"]}
    page = capsys.readouterr().out
    assert "| latch: gru |" in page
    assert (tmp_path / "out" / "horizon.md").read_text() in page
    assert "trained at 4" not in page
    mixed = ["transformer", "--tasks", "latch-mixed", "--extrapolate", "8"]
    assert main([*command, *mixed]) == 0
    asked = json.loads(written.read_text().splitlines()[-1])
    assert (asked["task"], asked["extrapolate"]) == ("latch-mixed", 8)
    page = capsys.readouterr().out
    assert page.count("| latch-mixed: transformer | ") == 2
    assert "| trained at 4 |" in page


def test_wrong_options_are_one_line(tmp_path, capsys):
    start = ["claims", "horizon", "--output", str(tmp_path / "out")]
    for words, said in {
        "--arms lstm": "--arms lstm: no such arm",
        "--rates 0": "--rates 0.0: give learning rates above 0",
        "--lags 0": "'0' is not a whole number above 0",
        "--lags 64 16 --extrapolate 31": "twice the shortest of --lags is 32; give as much or more",
    }.items():
        assert main([*start, *words.split()]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_results_of_other_budgets_are_not_mixed(tmp_path):
    path = tmp_path / "horizon.jsonl"
    path.write_text(json.dumps(row("gru", 64, 0, 1.0).__dict__) + "\n")
    assert probe.read(path, Budget(9, 1.0), "x")[0].arm == "gru"
    with pytest.raises(ValueError, match=r"measured with --curriculum none; choose another"):
        probe.read(path, Budget(9, 1.0), "x", [4])
    with pytest.raises(ValueError, match=r"measured with 9 updates, 1 s on x; choose another"):
        probe.read(path, Budget(10, 1.0), "x")


def test_attempts_without_a_recorded_commit_are_still_read(tmp_path):
    old = asdict(row("gru", 64, 0, 1.0))
    del old["git_commit"]
    path = tmp_path / "horizon.jsonl"
    path.write_text(json.dumps(old) + "\n")
    assert probe.read(path, Budget(9, 1.0), "x") == [row("gru", 64, 0, 1.0)]


def test_the_first_call_which_loads_gpu_kernels_is_not_timed(monkeypatch):
    order, loss, clock = [], probe.F.cross_entropy, probe.time.perf_counter
    monkeypatch.setattr(
        probe.F, "cross_entropy", lambda *given: (order.append("loss"), loss(*given))[1]
    )
    monkeypatch.setattr(probe.time, "perf_counter", lambda: (order.append("clock"), clock())[1])
    monkeypatch.setattr(probe, "CHECK_EVERY", 1)
    monkeypatch.setattr(probe, "QUESTIONS", probe.BATCH)
    one = Budget(updates=1, seconds=0.0)
    done = probe.attempt(
        "minlstm", "latch", 4, seed=1, rate=1e-3, budget=one, device="cpu", name="here"
    )
    assert order == ["loss", "clock", "loss", "clock"]
    assert done.updates == 1
