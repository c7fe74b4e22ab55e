"""The rules of the verdicts on made-up measurements whose outcome is known, each one reached."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from asr.document.blocks import Table, Text
from asr.encoders import ENCODERS
from asr.probes import PROBES
from asr.probes.curves import models, wer_over_runs
from asr.probes.horizon import Attempt
from asr.probes.length import LengthPoint
from asr.probes.probe import Measured
from asr.report.claim_sections import claim_sections
from asr.report.claims import RULES, judge
from asr.report.cost_claims import bandwidth, parallel, running
from asr.report.evidence import Evidence, compare_arms
from asr.report.families import FAMILIES, family
from asr.report.findings import Finding, conclude
from asr.report.groups import group_runs
from asr.report.memory_claims import hierarchy, lstm_memory, storing
from asr.report.probes import Probes, read_probes
from asr.report.runs import read_run
from asr.report.training_claim import training
from tests.run_folders import (
    compared_layers,
    made,
    seeds,
    write_context,
    write_horizon,
    write_probe,
    write_roofline,
    write_run,
)

LAGS = [64, 256, 1024, 4096, 16384]


def evidence(folder: Path, *arms: tuple[Any, ...], number: int = 5, **options: Any) -> Evidence:
    """Arms of (encoder, WER, how much later they reach a target)."""
    runs = [
        run for e, rate, late in arms for run in seeds(folder, e, rate, number, late, **options)
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    return compare_arms(group, [0.2])


# --- from findings to a verdict ---


@pytest.mark.parametrize(
    ("signs", "needs", "words"),
    [
        ("ff", "", "supported"),
        ("aa", "", "refuted"),
        ("fa", "", "depends on the place (for: 0; against: 1)"),
        ("fu", "", "supported"),
        ("fuu", "", "not enough evidence: 1 of 3 comparisons decided"),
        ("uu", "", "not enough evidence: 0 of 2 comparisons decided"),
        ("", "", "not enough evidence: 0 of 0 comparisons decided"),
        ("ff", "half is missing", "not enough evidence: half is missing"),
        ("fa", "half is missing", "depends on the place (for: 0; against: 1)"),
    ],
)
def test_the_signs_of_findings_determine_the_verdict(signs, needs, words):
    names = {"f": "for", "a": "against", "u": "unknown"}
    findings = [Finding(names[s], s, {"the place": str(i)}) for i, s in enumerate(signs)]
    verdict = conclude("C1", findings, ["asr train"], needs)
    assert verdict.words == words
    missing = verdict.kind == "not enough evidence" or needs
    assert verdict.commands == (["asr train"] if missing else [])


def test_a_verdict_names_its_measurements_where_others_were_undecided():
    signs = {"speed": "for", "state": "for", "errors": "unknown"}
    findings = [Finding(sign, "", {"the measurement": name}) for name, sign in signs.items()]
    verdict = conclude("C1", findings)
    assert verdict.kind == "supported"
    assert verdict.words == "supported by speed and state; errors: undecided"
    findings.append(Finding("for", "", {"the measurement": "errors"}))
    assert conclude("C1", findings).words == "supported"


@pytest.mark.parametrize(
    ("signs", "words", "first"),
    [
        ("ffu", "supported", "Of 3 comparisons, 1 could not have been decided: too few seeds; "),
        ("fau", "depends on the place (for: 0; against: 1)", "Of 3 comparisons, 1 could not have "),
        (
            "fuu",
            "not enough evidence: 1 of 3 comparisons decided; 2 could not have been decided: too "
            "few seeds; give 6",
            "For: f",
        ),
    ],
)
def test_an_undecidable_comparison_is_reported_separately_with_its_remedy(signs, words, first):
    names = {"f": "for", "a": "against", "u": "unknown"}
    why = {"u": "too few seeds; give 6"}
    findings = [
        Finding(names[s], s, {"the place": str(i)}, why.get(s, "")) for i, s in enumerate(signs)
    ]
    verdict = conclude("C1", findings)
    assert verdict.words == words
    assert verdict.reasons[0].startswith(first)
    assert [r for r in verdict.reasons if r.startswith("Undec")] == ["Undecidable: u"] * (
        signs.count("u")
    )


def test_a_verdict_depends_on_the_fewest_facets_that_separate_the_signs():
    table = {("lstm", "long"): "for", ("lstm", "short"): "against", ("gru", "long"): "against"}
    findings = [
        Finding(sign, "", {"the encoder": encoder, "the length": length, "the place": "here"})
        for (encoder, length), sign in table.items()
    ]
    words = "depends on the encoder and the length (1 for: lstm, long; 2 against)"
    assert conclude("C1", findings).words == words
    findings.append(Finding("against", "", findings[0].context))
    assert conclude("C1", findings).words == "depends on what is compared (1 for, 3 against)"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LSTM", "recurrent"),
        ("lstm-causal-small", "recurrent"),
        ("minlstm-causal-small", "recurrent"),
        ("StateSpace", "recurrent"),
        ("Hierarchical", "attention"),
        ("conformer-chunked-small", "attention"),
        ("Convolution", "other"),
        ("Hybrid", "other"),
        ("window 200", None),
        ("MyLSTM", None),
        ("", None),
    ],
)
def test_the_family_of_an_encoder_follows_from_its_class_or_its_name(name, expected):
    assert family(name) == expected


def test_every_encoder_that_ships_has_a_family():
    assert set(FAMILIES) == set(ENCODERS)


def test_an_encoder_of_no_known_family_is_named_beside_the_verdicts(tmp_path):
    found = evidence(tmp_path, ("Mamba", 0.1, 1.0), ("LSTM", 0.1, 1.0), number=1)
    for verdict in (training([found], {}), running([found], {})):
        assert "whether they are recurrent or use attention: Mamba." in verdict.beside[0]


# --- C1 ---


@pytest.mark.parametrize(
    ("lstm", "transformer", "words"),
    [
        ((0.2, 2.0), (0.1, 1.0), "supported"),
        ((0.1, 1.0), (0.2, 2.0), "refuted"),
        ((0.1, 2.0), (0.2, 1.0), "depends on the measurement (for: cost to a target; against: e"),
    ],
)
def test_training_is_judged_by_cost_to_a_target_and_errors_at_equal_cost(
    tmp_path, lstm, transformer, words
):
    found = evidence(tmp_path, ("LSTM", *lstm), ("Transformer", *transformer))
    assert training([found], {}).words.startswith(words)


def test_one_seed_decides_nothing_about_encoders(tmp_path):
    found = evidence(tmp_path, ("LSTM", 0.2, 2.0), ("Transformer", 0.1, 1.0), number=1)
    verdict = training([found], {})
    assert verdict.words == (
        "not enough evidence: 0 of 2 comparisons decided; 2 could not have been decided: one seed "
        "of an arm allows no test; 4 seeds per arm could decide; 1 seed of an arm cannot tell "
        "encoders apart; 3 seeds of each arm are needed"
    )
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["Undecidable"] * 2


def test_an_arm_of_one_seed_beside_one_of_five_decides_nothing(tmp_path):
    """The seeds of the other arm do not tell how much its own scatter."""
    runs = seeds(tmp_path, "LSTM", 0.2, 5) + seeds(tmp_path, "Transformer", 0.1, 1)
    (group,) = group_runs([read_run(run) for run in runs])
    verdict = training([compare_arms(group, [0.2])], {})
    assert verdict.words.startswith("not enough evidence: 0 of 2 comparisons decided; 2 could not")
    assert "LSTM: not enough evidence" in verdict.reasons[1]


def test_many_pairs_need_more_seeds_than_one(tmp_path):
    """Four seeds against four: p is 2 / 70 at least, and twice that as one of two pairs (Holm)."""
    arms = [("LSTM", 0.1, 2.0), ("Transformer", 0.1, 1.0), ("GRU", 0.1, 2.0)]
    said = (
        "4 seeds against 4 give no p below 0.057 as one of 2 comparisons at any cost; "
        "5 seeds per arm or at most 1 comparison could decide"
    )
    for number, sign in ((2, "For"), (3, "Undecidable")):
        found = evidence(tmp_path / str(number), *arms[:number], number=4)
        verdict = training([found], {})
        reasons = [r for r in verdict.reasons if "log-rank p" in r]
        assert len(reasons) == number - 1
        assert all(reason.startswith(sign) for reason in reasons)
        assert all(("after Holm over 2 pairs" in reason) == (number == 3) for reason in reasons)
        assert all((said in reason) == (number == 3) for reason in reasons)
        assert (f"2 could not have been decided: {said}" in verdict.words) == (number == 3)


def test_a_verdict_without_a_decidable_comparison_names_the_seeds_that_would_decide_it(tmp_path):
    """With three runs against three, p is at least 0.1 at any cost, and all errors are equal."""
    found = evidence(tmp_path, ("LSTM", 0.1, 3.0), ("Transformer", 0.1, 1.0), number=3)
    verdict = training([found], {})
    assert verdict.words == (
        "not enough evidence: 0 of 2 comparisons decided; 1 could not have been decided: 3 seeds "
        "against 3 give no p below 0.10 at any cost; 4 seeds per arm could decide"
    )
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["Undecidable", "Undecided"]


def test_training_needs_arms_of_both_families_and_one_budget(tmp_path):
    alone = evidence(tmp_path / "a", ("LSTM", 0.2, 1.0), ("Convolution", 0.1, 1.0), number=2)
    assert (
        training([alone], {}).words == "not enough evidence: not measured on arms of both families"
    )
    longer = {"recipe": {"budget": {"device_hours": 0.5, "updates": None}}}
    runs = [
        *seeds(tmp_path / "b", "LSTM", 0.2, 2),
        *seeds(tmp_path / "b", "Transformer", 0.1, 2, **longer),
    ]
    (group,) = group_runs([read_run(run) for run in runs])
    assert training([compare_arms(group, [0.2])], {}).reasons == []


def test_errors_at_unequal_cost_count_only_where_cost_cannot_excuse_them(tmp_path):
    """The recurrent arm is worse with half of the device-hours: nothing can be said of it."""
    dear = evidence(tmp_path, ("LSTM", 0.2, 1.0), ("Transformer", 0.1, 1.0), finished=False)
    twice = [run for arm in dear.group.arms for run in arm.runs if run.encoder == "Transformer"]
    for run in twice:
        run.totals["device_hours"] *= 2
    reasons = training([dear], {}).reasons
    assert any("the costs are too unequal or unknown for a finding" in reason for reason in reasons)
    for run in dear.group.arms[0].runs:
        run.totals["device_hours"] *= 4
    reasons = training([dear], {}).reasons
    assert any(r.startswith("For: errors, LSTM minus Transformer") for r in reasons)


# --- C3 ---


@pytest.mark.parametrize(
    ("horizons", "number", "words"),
    [
        ({"lstm, bias 1": 256, "transformer": 16384}, 3, "supported"),
        ({"lstm, bias 1": 1024, "lstm, chrono": 4096}, 3, "refuted"),
        (
            {"lstm, bias 1": 0, "lstm, chrono": 1024},
            3,
            "depends on the initialisation of the forget gate (for: lstm, bias 1; against: lstm,",
        ),
        ({"lstm, bias 1": 256, "transformer": 256}, 3, "not enough evidence: 0 of 2"),
        ({"lstm, bias 1": 256, "transformer": 16384}, 2, "not enough evidence: 0 of 2"),
    ],
)
def test_an_lstm_forgets_only_where_another_arm_remembers(tmp_path, horizons, number, words):
    probes = read_probes([write_horizon(tmp_path, horizons, LAGS, number)])
    assert lstm_memory([], probes).words.startswith(words)


def test_a_horizon_at_the_longest_lag_tried_is_no_limit(tmp_path):
    probes = read_probes([write_horizon(tmp_path, {"lstm, chrono": 256}, [64, 256])])
    verdict = lstm_memory([], probes)
    assert verdict.kind == "not enough evidence"
    assert "no lag above 256 was tried" in verdict.reasons[0]


def attempted(attempts: list[Attempt]) -> Probes:
    return {"horizon": Measured(attempts, {})}


def tried_both_ways(folder, fixed, mixed):
    """Attempts trained at the lag of the test, and at all lags up to it."""
    ways = {"latch": fixed, "latch-mixed": mixed}
    folders = [write_horizon(folder / t, h, LAGS, tasks=(t,)) for t, h in ways.items()]
    return attempted([row for one in folders for row in read_probes([one])["horizon"].rows])


def test_a_horizon_that_other_training_lags_lengthen_depends_on_them(tmp_path):
    fixed = {"lstm, bias 1": 256, "lstm, chrono": 512, "transformer": 16384}
    probes = tried_both_ways(tmp_path, fixed, {"lstm, bias 1": 4096, "lstm, chrono": 4096})
    assert lstm_memory([], probes).words == (
        "depends on the training lags (for: the lag of the test; "
        "against: lags up to the lag of the test)"
    )


def test_training_lags_that_decide_nothing_do_not_change_the_verdict_of_others(tmp_path):
    """Short of 1,000 in the mixed task, where no other arm got there: that is not known."""
    fixed = {"lstm, chrono": 256, "transformer": 16384, "hierarchical": 256}
    probes = tried_both_ways(tmp_path, fixed, {"lstm, chrono": 256, "hierarchical": 256})
    cheap = write_probe(
        tmp_path / "scaling", "scaling", [compared_layers("hierarchical-full", 10_000, 0.4)]
    )
    cost = {**probes, **read_probes([cheap])}
    for verdict, words, sign in (
        (lstm_memory([], probes), "supported", "For"),
        (hierarchy([], cost), "refuted", "Against"),
    ):
        assert verdict.words == words
        assert [reason.split(":")[0] for reason in verdict.reasons[:2]] == [sign, sign]
        assert all("lags up to" not in reason for reason in verdict.reasons)
        assert len(verdict.beside) == 2
        assert all("so the budget may be too small" in told for told in verdict.beside)


@pytest.mark.parametrize(
    ("number", "words"), [(3, "refuted"), (2, "not enough evidence: 0 of 2 comparisons decided")]
)
def test_a_lag_counts_where_enough_seeds_were_tried_at_it(tmp_path, number, words):
    horizons = {"lstm, chrono": 4096}
    attempts = [
        row
        for row in read_probes([write_horizon(tmp_path, horizons, LAGS)])["horizon"].rows
        if row.lag < 1024 or row.seed < number
    ]
    assert lstm_memory([], attempted(attempts)).words == words


def test_lags_solved_without_training_on_them_are_reported_and_decide_nothing(tmp_path):
    horizons = {"lstm, chrono": 256, "transformer": 16384}
    probes = read_probes([write_horizon(tmp_path, horizons, LAGS, tasks=("latch",))])
    without = lstm_memory([], probes)
    far = {64: (4096, 2048, 64), 256: (1024, 4096, 256)}  # by lag and seed; 32 and 4 times as far
    asked = [
        replace(row, extrapolate=4096, extrapolates_to=far[row.lag][row.seed])
        if row.arm == "lstm, chrono" and row.lag in far
        else row
        for row in probes["horizon"].rows
    ]
    verdict = lstm_memory([], attempted(asked))
    assert replace(verdict, beside=[]) == without
    assert verdict.beside == [
        "Not part of the verdict: lstm, chrono, trained at 64 steps, solves 2,048 steps without "
        "further training."
    ]
    nowhere = [
        replace(row, extrapolate=128, extrapolates_to=row.lag) for row in probes["horizon"].rows
    ]
    assert lstm_memory([], attempted(nowhere)) == without


def test_the_page_shows_how_far_beyond_its_own_training_lags_each_arm_solves():
    made = Attempt(
        *("lstm, bias 1", "latch", 64, 0, 0.001, 100_000, 0.1, 0.1, None, None),
        *(1500, 60.0, 1500, 60.0, "EPYC"),
    )
    mixed = replace(
        made,
        task="latch-mixed",
        lag=512,
        accuracy_updates=1.0,
        extrapolate=4096,
        extrapolates_to=4096,
    )
    failed = replace(mixed, arm="gru", accuracy_updates=0.1, extrapolates_to=None)
    probes = attempted([made, mixed, failed])
    sections = claim_sections([lstm_memory([], probes)], [], probes)
    horizons, beyond = [b for b in sections[0][1] if isinstance(b, Table)]
    assert [line[0] for line in horizons.rows] == [
        "latch: lstm, bias 1",
        "latch-mixed: lstm, bias 1",
        "latch-mixed: gru",
    ]
    assert [line[4] for line in horizons.rows] == ["< 64", "≥ 512", "< 512"]
    assert beyond.rows == [
        ["latch-mixed: lstm, bias 1", "≥ 4,096 / 0"],
        ["latch-mixed: gru", "0 / 0"],
    ]
    text = " ".join(t for b in sections[0][1] if isinstance(b, Text) for t in b.lines)
    assert "trained at up to 512 steps, solves 4,096 steps without further training" in text


@pytest.mark.parametrize("horizons", [{"lstm, bias 1": 256, "transformer": 16384}, {}])
@pytest.mark.parametrize("context", [0.04, 5.12, None])
def test_the_context_of_trained_models_is_reported_and_decides_nothing(tmp_path, horizons, context):
    folders = [write_horizon(tmp_path / "a", horizons, LAGS)] if horizons else []
    without = lstm_memory([], read_probes(folders))
    contexts = write_context(tmp_path / "b", {"LSTM": context, "Conformer": 0.64})
    verdict = lstm_memory([], read_probes([*folders, contexts]))
    assert replace(verdict, beside=[]) == without
    lstm, conformer = verdict.beside
    told = "the whole past is needed" if context is None else f"effective context {context:.3g}"
    assert lstm.startswith(f"Not part of the verdict: LSTM trained on speech (runs: 1): {told}")
    assert conformer.endswith("context 0.640 s, 16.0 encoder frames; gradients halve in 0.250 s.")


# --- C4 ---


@pytest.mark.parametrize(
    ("ratio", "spread", "words"),
    [
        (0.5, 0.02, "refuted"),
        (1.1, 0.02, "supported"),
        (0.8, 0.3, "not enough evidence: 0 of 1"),
    ],
)
def test_a_scan_counts_when_it_beats_its_loop_in_every_repeat(tmp_path, ratio, spread, words):
    short = compared_layers("minlstm-loop", 200, 5.0)  # below 1,000 frames nothing is judged
    rows = [short, compared_layers("minlstm-loop", 4000, ratio, spread)]
    probes = read_probes([write_probe(tmp_path, "scaling", rows)])
    assert parallel([], probes).words.startswith(words)


def test_a_fast_scan_that_errs_more_depends_on_what_counts(tmp_path):
    rows = [compared_layers("minlstm-loop", 4000, 0.5)]
    probes = read_probes([write_probe(tmp_path, "scaling", rows)])
    found = evidence(tmp_path, ("LSTM", 0.1, 1.0), ("MinLSTM", 0.2, 1.0))
    words = "depends on the measurement (for: errors; against: speed)"
    assert parallel([found], probes).words == words


def test_errors_at_other_budgets_do_not_count_against_a_scan(tmp_path):
    rows = [compared_layers("minlstm-loop", 4000, 0.5)]
    probes = read_probes([write_probe(tmp_path, "scaling", rows)])
    longer = {"recipe": {"budget": {"device_hours": 0.5, "updates": None}}}
    runs = seeds(tmp_path, "LSTM", 0.1, 5, **longer) + seeds(tmp_path, "MinLSTM", 0.2, 5)
    (group,) = group_runs([read_run(run) for run in runs])
    assert parallel([compare_arms(group, [])], probes).words == "refuted"


# --- C5 ---


@pytest.mark.parametrize(
    ("bounds", "error", "words"),
    [
        (["memory"] * 10, 0.1, "supported"),
        (["memory"] + ["latency"] * 9, 0.1, "refuted"),
        (["memory"] * 5 + ["arithmetic"] * 5, 0.1, "depends on width and batch"),
        (["memory"] * 10, 0.6, "not enough evidence: the fit is poor; measure on an idle machine"),
    ],
)
def test_bandwidth_is_judged_by_what_bounds_the_steps(tmp_path, bounds, error, words):
    assert bandwidth([], read_probes([write_roofline(tmp_path, bounds, error)])).words == words


# --- C6 ---


@pytest.mark.parametrize(
    ("reach", "ratio", "words"),
    [
        (16384, 0.4, "supported"),
        (4096, 0.4, "refuted"),
        (16384, 1.5, "depends on the measurement (for: reach; against: cost)"),
        (None, 0.4, "not enough evidence: its reach is not known"),
    ],
)
def test_the_hierarchy_is_judged_by_its_horizon_first(tmp_path, reach, ratio, words):
    arms = {"transformer": 16384} | ({} if reach is None else {"hierarchical": reach})
    write_horizon(tmp_path, arms, LAGS)
    near = compared_layers("hierarchical-full", 400, 9.0)  # below 10,000 frames: not judged
    write_probe(tmp_path, "scaling", [near, compared_layers("hierarchical-full", 10_000, ratio)])
    assert hierarchy([], read_probes([tmp_path])).words == words


def test_a_horizon_reached_with_mixed_training_lags_counts(tmp_path):
    fixed = {"transformer": 16384, "hierarchical": 1024}
    probes = tried_both_ways(tmp_path, fixed, {"hierarchical": 16384})
    assert hierarchy([], probes).words == (
        "depends on the training lags (for: lags up to the lag of the test; "
        "against: the lag of the test)"
    )


def test_more_errors_of_the_hierarchy_are_against_it(tmp_path):
    probes = read_probes([write_horizon(tmp_path, {"hierarchical": 16384}, LAGS)])
    found = evidence(tmp_path, ("Hierarchical", 0.2, 1.0), ("Transformer", 0.1, 1.0))
    words = "depends on the measurement (for: reach; against: errors)"
    assert hierarchy([found], probes).words == words


def test_errors_and_cost_decide_nothing_while_the_horizon_is_unknown(tmp_path):
    write_horizon(tmp_path, {"transformer": 16384}, LAGS)
    write_probe(tmp_path, "scaling", [compared_layers("hierarchical-full", 10_000, 0.4)])
    found = evidence(tmp_path / "runs", ("Hierarchical", 0.2, 1.0), ("Transformer", 0.1, 1.0))
    verdict = hierarchy([found], read_probes([tmp_path]))
    assert verdict.words == "not enough evidence: its reach is not known"
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["For", "Against"]


# --- C7 ---


def evaluated() -> Any:
    """Evidence of which only the split is read."""
    return SimpleNamespace(group=SimpleNamespace(runs=[SimpleNamespace(split="test")]))


def gates(
    folder: Path, *arms: tuple[str, float, float], number: int = 5, **recipes: dict[str, Any]
) -> Probes:
    """Runs of one encoder by (gate, share stored, WER), with more of the recipe by gate."""
    rows = []
    for gate, kept, rate in arms:
        options = {"class_path": "Transformer", "init_args": {"gate": gate}}
        recipe = {"encoder": options} | recipes.get(gate, {})
        runs = seeds(folder / gate, "Transformer", rate, number, recipe=recipe)
        rows += [
            {"run": str(run), "encoder": "Transformer", "gate": gate, "seed": seed, "kept": kept}
            | {"setting": None if gate == "none" else 0.5, "wer": rate, "low": rate, "high": rate}
            | {"kept_speech": kept, "kept_silence": kept, "validation_wer": rate}
            | {"device_hours": 0.1, "train_flops": 1e12, "real_time_factor": 0.1}
            for seed, run in enumerate(runs, 1)
        ]
    return read_probes([write_probe(folder, "memory", rows)])


@pytest.mark.parametrize(
    ("gate", "everything", "controls", "words"),
    [
        (0.10, 0.20, 0.20, "supported"),
        (0.20, 0.10, 0.10, "refuted"),
        (0.10, 0.20, 0.05, "depends on what it is compared with (for: storing everything; against"),
    ],
)
def test_a_gate_must_beat_controls_that_store_as_many_frames(
    tmp_path, gate, everything, controls, words
):
    probes = gates(
        tmp_path,
        ("last_kept", 0.5, gate),
        ("none", 1.0, everything),
        ("uniform", 0.5, controls),
        ("random", 0.52, controls),
    )
    assert storing([evaluated()], probes).words.startswith(words)


def test_a_gate_without_its_controls_is_not_judged(tmp_path):
    probes = gates(tmp_path, ("last_kept", 0.5, 0.1), ("none", 1.0, 0.2), ("uniform", 0.9, 0.2))
    verdict = storing([evaluated()], probes)
    assert verdict.words == (
        "not enough evidence: no run of Transformer with gate random stores 50.0 %; "
        "no run of Transformer with gate uniform stores 50.0 %"
    )


def test_gates_of_other_budgets_are_not_compared(tmp_path):
    arms = [
        ("last_kept", 0.5, 0.1),
        ("none", 1.0, 0.2),
        ("uniform", 0.5, 0.2),
        ("random", 0.5, 0.2),
    ]
    longer = {"budget": {"device_hours": 0.5, "updates": None}}
    verdict = storing([evaluated()], gates(tmp_path, *arms, last_kept=longer))
    assert verdict.words == "not enough evidence: 0 of 3 comparisons decided"
    assert all("their runs differ in budget.device_hours" in told for told in verdict.reasons)


def test_a_gate_that_stores_nearly_all_frames_is_not_judged(tmp_path):
    probes = gates(tmp_path, ("last_kept", 0.95, 0.1), ("none", 1.0, 0.1), number=1)
    assert storing([evaluated()], probes).words.endswith("no gate stores less than 90.0 %")


# --- nothing measured ---


def test_a_missing_measurement_is_named_with_its_command(tmp_path):
    (group,) = group_runs([read_run(write_run(tmp_path / "a", errors=made(0.1, 60)))])
    verdicts = judge([compare_arms(group, [])], {})
    assert [v.claim for v in verdicts] == list(RULES)
    assert {v.kind for v in verdicts} == {"not enough evidence"}
    told = {v.claim: v.commands for v in verdicts}
    assert told["C3"] == [PROBES["horizon"].command]
    assert told["C5"] == [PROBES["roofline"].command]
    assert all(told.values())


def test_seeds_of_one_model_are_drawn_as_mean_minimum_and_maximum():
    def row(run, seconds, wer):
        return LengthPoint(
            run, "LSTM", "CTC", 1, 1, 9, 1.0, seconds, seconds, 0, 9, wer, 0.0, 1.0, 0.0, 0, 0, 0.1
        )

    rows = [row("a", 2.0, 0.2), row("a", 1.0, 0.1), row("b", 1.0, 0.3), row("b", 2.0, 0.6)]
    assert list(models(rows)) == ["LSTM + CTC"]
    both = wer_over_runs("LSTM + CTC", rows, "mean_seconds")
    assert both.x == [1.0, 2.0]
    assert both.y == pytest.approx([20, 40])
    assert (both.low, both.high) == (pytest.approx([10, 20]), pytest.approx([30, 60]))
    alone = wer_over_runs("LSTM + CTC", rows[:2], "mean_seconds")
    assert (alone.y, alone.low, alone.high) == (pytest.approx([10, 20]), [0, 0], [100, 100])
