"""What costs say: the tests of C1 that no deal could make significant, and the times of C2."""

import shutil
from pathlib import Path

import pytest

from asr.report.cost_claims import running
from asr.report.evidence import compare_arms
from asr.report.groups import Group, group_runs
from asr.report.probes import Probes, read_probes
from asr.report.runs import read_run
from asr.report.training_claim import training
from tests.run_folders import CURVE, made, seeds, stream, write_probe, write_run

NEVER = tuple((wall, 0.5) for wall, _ in CURVE)

# --- C1 ---


def test_too_many_tied_runs_give_a_test_that_cannot_be_significant(tmp_path):
    """3 of 5 runs reached the target, none of the others: as do 21 of 252 deals, and mirrored."""
    runs = seeds(tmp_path, "LSTM", 0.1, 3) + seeds(tmp_path / "b", "Transformer", 0.1, 5)
    runs += [
        write_run(tmp_path / f"never-{seed}", seed=seed, curve=NEVER, errors=made(0.1, 800))
        for seed in (4, 5)
    ]
    for run in runs[3:8]:
        shutil.copy(runs[-1] / "ledger.jsonl", run / "ledger.jsonl")
    (group,) = group_runs([read_run(run) for run in runs])
    (reason,) = [r for r in training([compare_arms(group, [0.2])], {}).reasons if "log-rank" in r]
    assert reason.startswith("Undecided: ")
    said = "log-rank p 0.17; because runs tie (3 of 10 at the target), p cannot be below 0.17; "
    assert said in reason


def test_an_undecided_test_of_tied_runs_names_the_correction_for_several_comparisons(tmp_path):
    """9 of 10 runs tie two by two: p is 4 / 252 at least, of which 6 are too much and 3 are not."""
    runs = []
    for encoder in ("LSTM", "GRU", "Transformer", "Conformer", "Hierarchical"):
        recurrent = encoder in ("LSTM", "GRU")
        runs += seeds(tmp_path, encoder, 0.1, 4 if recurrent else 5, number_of_utterances=80)
        if recurrent:
            late = {"seed": 5, "curve": NEVER, "errors": made(0.1, 80)}
            runs.append(write_run(tmp_path / f"{encoder}-never", encoder, **late))
    (group,) = group_runs([read_run(run) for run in runs])
    verdict = training([compare_arms(group, [0.2])], {})
    reasons = [reason for reason in verdict.reasons if "log-rank" in reason]
    assert len(reasons) == 6
    said = (
        "; because runs tie (9 of 10 at the target), p cannot be below 0.095 as one of 6 "
        "comparisons; a larger budget, a higher target, more seeds or at most 3 comparisons could "
        "decide)."
    )
    assert all(r.startswith("Undecided: ") and r.endswith(said) for r in reasons)
    assert "could not have been decided" not in verdict.words


def test_error_free_arms_are_reported_as_an_outcome(tmp_path):
    """Errors could have told these arms apart: that there are none is not for want of seeds."""
    runs = [
        write_run(tmp_path / f"{encoder}{seed}", encoder, seed=seed, errors=[0] * 80)
        for encoder in ("LSTM", "Transformer")
        for seed in (1, 2, 3)
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    (reason,) = [r for r in training([compare_arms(group, [])], {}).reasons if "errors" in r]
    assert reason.startswith("Undecided: ")
    assert "(no arm made an error on 800 words: harder or more speech is needed)" in reason


# --- C2 ---


def streams(folder: Path, lstm: tuple[float, int], transformer: tuple[float, int]) -> Probes:
    rows = stream("lstm-causal-small", *lstm) + stream("transformer-causal-small", *transformer)
    rows += stream("conformer-chunked-small", 0.001, 1, chunk=64)  # answers later: not compared
    return read_probes([write_probe(folder, "streaming", rows)])


@pytest.mark.parametrize(
    ("rtf", "lstm", "transformer", "words"),
    [
        (0.10, (4.0, 900), (1.0, 100), "supported"),
        (0.05, (1.2, 100), (1.0, 900), "refuted"),
        (0.10, (4.0, 100), (1.0, 900), "depends on the measurement (for: offline speed and strea"),
    ],
)
def test_running_is_judged_by_three_measurements(tmp_path, rtf, lstm, transformer, words):
    runs = seeds(tmp_path, "LSTM", 0.1, 2, rtf=rtf) + seeds(tmp_path, "Transformer", 0.1, 2)
    (group,) = group_runs([read_run(run) for run in runs])
    probes = streams(tmp_path / "claims", lstm, transformer)
    assert running([compare_arms(group, [])], probes).words.startswith(words)


@pytest.mark.parametrize(
    ("lstm", "transformer", "sign"),
    [
        ((0.060, 0.012), (0.056, 0.008), "For"),  # 1.5 times, of which the whole shows 1.07
        ((0.070, 0.008), (0.050, 0.008), "Against"),  # its search took longer, not its encoder
        (
            (0.060, None),
            (0.050, None),
            "Undecided",
        ),  # 1.2 in all may be anything without the search
        ((0.060, 0.012), (0.050, None), "Undecided"),
        ((0.050, None), (0.050, None), "Against"),
        ((0.070, None), (0.050, None), "For"),  # a common part can only have made it smaller
    ],
)
def test_offline_speed_is_that_of_the_encoders_where_the_search_was_timed_separately(
    tmp_path, lstm, transformer, sign
):
    names = ("rtf", "encode")
    runs = seeds(tmp_path, "LSTM", 0.1, 2, **dict(zip(names, lstm, strict=True)))
    runs += seeds(tmp_path, "Transformer", 0.1, 2, **dict(zip(names, transformer, strict=True)))
    (group,) = group_runs([read_run(run) for run in runs])
    (reason,) = running([compare_arms(group, [])], {}).reasons
    assert reason.startswith(f"{sign}, offline speed: 1 of 1 pairs")
    apart = None not in (lstm[1], transformer[1])
    assert ("s of features and encoder per second" in reason) == apart
    assert ("with the search, which was not timed separately" in reason) != apart
    assert f"{lstm[0]:.3f} and {transformer[0]:.3f} s per second of audio" in reason


@pytest.mark.parametrize("encode", [(0.02, 0.03), (None, None)])
def test_seeds_timed_on_a_busy_machine_decide_only_if_they_agree(tmp_path, encode):
    """1.5 times in the mean, and 0.8 to 2.4 by the seed: of which nothing can be said."""
    spent = {"LSTM": (0.08, 0.12), "Transformer": (0.05, 0.10)}
    runs = [
        write_run(
            tmp_path / f"{encoder}{seed}", encoder, seed=seed, errors=made(0.1), rtf=seconds,
            encode=part and seconds / 10,
        )
        for encoder, both in spent.items()
        for seed, (seconds, part) in enumerate(zip(both, encode, strict=True))
    ]  # fmt: skip
    (group,) = group_runs([read_run(run) for run in runs])
    (reason,) = running([compare_arms(group, [])], {}).reasons
    assert reason.startswith("Undecided, offline speed")
    assert reason.endswith(
        "0.80 to 2.4 times, above 1.25 in 2 of 4 pairs of seeds, so the pairs disagree: "
        "run OMP_NUM_THREADS=1 asr evaluate RUN on a quiet machine."
    )


def test_running_is_not_judged_from_incomplete_measurements(tmp_path):
    (group,) = group_runs([read_run(write_run(tmp_path / "a", errors=made(0.1, 60)))])
    verdict = running([compare_arms(group, [])], streams(tmp_path / "c", (4.0, 900), (1.0, 100)))
    assert verdict.kind == "not enough evidence"
    assert verdict.commands == ["OMP_NUM_THREADS=1 asr evaluate RUN"]


def twice(folder: Path, **options: object) -> Group:
    """An LSTM whose features and encoder take 1.5 times those of a Transformer, two seeds each."""
    spent = {"LSTM": 0.012, "Transformer": 0.008}
    runs = [
        run
        for encoder, encode in spent.items()
        for run in seeds(folder, encoder, 0.1, 2, rtf=0.06, encode=encode, **options)
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    return group


def offline(group: Group) -> str:
    (reason,) = running([compare_arms(group, [])], {}).reasons
    return reason


@pytest.mark.parametrize(
    ("key", "value", "differ"),
    [
        ("device_name", "H200", "device (LSTM: EPYC; Transformer: H200 and EPYC)"),
        ("threads", 8, "number of threads (LSTM: 1; Transformer: 8 and 1)"),
        ("batch_seconds", 9.5, "seconds of a batch (LSTM: 120.0; Transformer: 9.5 and 120.0)"),
        ("search", "Beam()", "search (LSTM: Greedy(); Transformer: Beam() and Greedy())"),
    ],
)
@pytest.mark.parametrize("recorded", [True, False])
def test_times_of_evaluations_with_different_settings_are_not_compared(
    tmp_path, key, value, differ, recorded
):
    group = twice(tmp_path, num_threads=2)
    assert offline(group).startswith("For, offline speed")
    for run in group.runs:
        if not recorded and key != "threads":
            del run.metrics["threads"]
    group.arms[1].runs[0].metrics[key] = value
    verdict = running([compare_arms(group, [])], {})
    (reason,) = verdict.reasons
    assert reason.startswith("Undecided, offline speed")
    command = "OMP_NUM_THREADS=2 asr evaluate RUN"
    said = f"because the evaluations differ in {differ}: run {command} for all"
    assert said in reason
    assert verdict.commands[0] == command


def test_unrecorded_thread_counts_are_reported_and_do_not_prevent_a_comparison(tmp_path):
    group = twice(tmp_path)
    assert "recorded" not in offline(group)
    for number, run in enumerate(group.runs[:3], 1):
        del run.metrics["threads"]
        reason = offline(group)
        assert reason.startswith("For, offline speed")
        assert reason.endswith(f"; the threads of {number} of 4 evaluations are not recorded.")


def test_different_commits_are_reported_and_do_not_prevent_a_comparison(tmp_path):
    group = twice(tmp_path)
    assert "commit" not in offline(group)
    group.runs[0].metrics["git_commit"] = "def5678"
    assert offline(group).startswith("For, offline speed")
    assert offline(group).endswith("; evaluated at commits def5678 and abc1234.")


@pytest.mark.parametrize(("busy", "sign"), [(1, "For"), (2, "Undecided")])
def test_one_seed_on_a_busy_machine_does_not_outweigh_many(tmp_path, busy, sign):
    """The slowest of ever more seeds is ever slower: the range of their ratios alone grows."""
    spent = {"LSTM": [0.012] * 2, "Transformer": [0.012] * busy + [0.008] * (12 - busy)}
    runs = [
        write_run(
            tmp_path / f"{encoder}{seed}", encoder, seed=seed, errors=made(0.1, 80), rtf=0.06,
            encode=encode,
        )
        for encoder, values in spent.items()
        for seed, encode in enumerate(values)
    ]  # fmt: skip
    (group,) = group_runs([read_run(run) for run in runs])
    reason = offline(group)
    assert reason.startswith(f"{sign}, offline speed")
    assert f"1.0 to 1.5 times, above 1.25 in {2 * (12 - busy)} of 24 pairs of seeds" in reason
