"""Checks that a study's results, its runs and its registered file agree."""

from collections.abc import Sequence

import yaml

from asr.formatting import listed, percent
from asr.report.runs import Run, differing, flatten, in_cores
from asr.report.study import DONE, FAILED, Account, Row, StudyRecord, checksum, title_of

STATED = 3  # differing keys named in a sentence
SLACK = 1e-9  # of a rate that was written and read again


def disagreements(
    study: StudyRecord, runs: Sequence[Run], split: str, targets: Sequence[float]
) -> list[str]:
    """What results, runs and the registered file contradict each other in; empty when they agree.

    Checked: the file against its own hash; the hash under which every row was made; each run's
    recipe against what the file says for its arm, settings, seed and budget; the settings of final
    runs against the best trial; the checksums of its data; each row's test WER against the
    evaluation that is in the run folder now; the runs of this page against those of the study;
    split and targets.
    """
    return [
        *_hashes(study),
        *(line for row in study.ended for line in _recipe(study, row)),
        *(line for account in study.accounts for line in _chosen(account)),
        *_compared(study, runs),
        *_asked(study, split, targets),
    ]


def _hashes(study: StudyRecord) -> list[str]:
    registered, found = study.registered, []
    now = checksum(registered["resolved"])
    if now != registered["study_sha256"]:
        found.append(
            f"study.json was changed after it was registered: its content has the hash {now[:12]}, "
            f"it was registered as {registered['study_sha256'][:12]}."
        )
    earlier = {amendment["from_sha256"] for amendment in registered["amendments"]}
    known = earlier | {registered["study_sha256"]}
    alien = [row for row in study.rows if row["study_sha256"] not in known]
    if alien:
        hashes = sorted({str(row["study_sha256"])[:12] for row in alien})
        found.append(
            f"{len(alien)} of {len(study.rows)} results were made under another file than the "
            f"registered one: hash {listed(hashes)} instead of {registered['study_sha256'][:12]}."
        )
    return found


def _recipe(study: StudyRecord, row: Row) -> list[str]:
    """Whether the run of a row was trained with what the file says."""
    place = study.run_folder(row)
    if not (place / "recipe.yaml").is_file():
        return [] if row["status"] == FAILED else [f"{place} is gone: its result has no run."]
    if row["arm"] not in study.recipes:
        return [f"{place}: the registered file has no arm {row['arm']}."]
    expected = study.expected(row)
    read = flatten(yaml.safe_load((place / "recipe.yaml").read_text(encoding="utf-8")))
    trained = in_cores(read, place)
    # On a CPU the study sets the number of processes of each run.
    keys = [key for key in differing([expected, trained]) if key != "trainer.devices"]
    if not keys:
        return []
    values = [f"{k} is {trained.get(k)} instead of {expected.get(k)}" for k in keys[:STATED]]
    more = [f"{len(keys) - STATED} more"] if len(keys) > STATED else []
    return [f"{place} was not trained as registered: {listed([*values, *more])}."]


def _chosen(account: Account) -> list[str]:
    """Whether the final runs of an arm have the settings of its best trial, or of one as good."""
    done = [row for row in account.trials if row["status"] == DONE]
    rates = [row[f"validation_{row.get('validation_metric', 'wer')}"] for row in done]
    lowest = min(rates, default=None)
    best = [row["settings"] for row, rate in zip(done, rates, strict=True) if rate == lowest]
    other = [title_of(row) for row in account.finals if best and row["settings"] not in best]
    words = "final runs with other settings than those of the best trial"
    return [f"{account.arm}: {words}: {listed(other)}."] if other else []


def _compared(study: StudyRecord, runs: Sequence[Run]) -> list[str]:
    rows = {study.run_folder(r).resolve(): r for r in study.rows if r["role"] == "final"}
    here = {run.path.resolve(): run for run in runs}
    strangers = [str(run.path) for path, run in here.items() if path not in rows]
    absent = [
        str(study.run_folder(r))
        for path, r in rows.items()
        if path not in here and r["status"] == DONE
    ]
    found = []
    if strangers:
        found.append(f"Runs on this page that are not of the study: {listed(strangers)}.")
    if absent:
        found.append(f"Final runs of the study that are not on this page: {listed(absent)}.")
    registered = study.registered.get("rows_sha256", {})
    for path, run in here.items():
        trained = (run.totals.get("corpus") or {}).get("rows_sha256") or {}
        here_rows = trained | ({run.split: run.checksum} if run.metrics else {})
        other = [k for k, v in here_rows.items() if v and registered.get(k, v) != v]
        if other:
            found.append(f"{run.path}: other rows than the registered ones in {listed(other)}.")
        told, measured = rows.get(path, {}).get("test_wer"), run.wer
        if told is not None and (measured is None or abs(told - measured) > SLACK):
            found.append(
                f"{run.path}: the study's result is a WER of {percent(told)}, the run folder now "
                f"says {'nothing' if measured is None else percent(measured)}."
            )
    return found


def _asked(study: StudyRecord, split: str, targets: Sequence[float]) -> list[str]:
    """Whether the page asks what was registered."""
    planned, found = study.plan.get("split", split), []
    if planned != split:
        found.append(f"The registered split is {planned}; this page shows {split}.")
    wanted = sorted(study.targets, reverse=True)
    if wanted and {round(t, 9) for t in targets} != {round(t, 9) for t in wanted}:
        told = [listed([percent(t) for t in some]) or "none" for some in (wanted, targets)]
        found.append(f"The registered targets are {told[0]}; this page shows {told[1]}.")
    return found
