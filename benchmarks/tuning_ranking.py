"""Checks whether the short trials of a study ranked the settings as its full budget does.

python -m benchmarks.tuning_ranking quick --workers 2

The study must have ended its trials (``asr study``). The two best draws of every arm are trained
again at the largest budget of the study, with one further seed, and validated as its runs are. No
run is evaluated on the test split. The same command continues an interrupted check.

The table has both validation error rates of every draw. Below it stand the number of arms whose
better trial stayed the better draw, and Kendall's tau between the two orders of all draws: 1 if
they are the same, and -1 if they are opposite. Each draw has one seed, so that a small difference
between two draws may be chance.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy import stats

from asr.config import shipped
from asr.formatting import digits, percent
from asr.study import Plan, Study, read_study, run_study
from asr.study.budgets import plan_of_runs
from asr.study.registration import read_registration
from asr.study.units import best_trials, read_result

BEST = 2  # number of draws of each arm


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("study", help="name of a shipped study, or a YAML file")
    parser.add_argument("--folder", type=Path, help="its folder (default: runs/studies/NAME)")
    parser.add_argument("--workers", type=int, help="number of runs at a time")
    parser.add_argument("--seed", type=int, help="further seed (default: the first unused one)")
    known = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    described = read_study(shipped.find(known.study, "studies"))
    folder = known.folder or Path("runs") / "studies" / described.name
    plan = plan_of_runs(described, None, read_registration(folder))
    draws = best_draws(plan, folder)
    used = {plan.study.tuning.seed, *plan.study.seeds}
    seed = next(n for n in range(len(used) + 1) if n not in used)
    repeats = repeated(plan, draws, seed if known.seed is None else known.seed)
    result = run_study(repeats, folder.with_name(repeats.name), workers=known.workers)
    print(table(repeats, draws, result["rows"]))


def best_draws(plan: Plan, folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of the best trials of all arms, by the names that their repeats have.

    Raises:
        ValueError: an arm has not two trials that ended well.
    """
    draws = {}
    for arm in plan.arms:
        best = best_trials(plan, folder, arm)[:BEST]
        if len(best) < BEST:
            raise ValueError(
                f"{folder}: {arm} has not {BEST} trials that ended well; run asr study first, with "
                f"tuning.trials of {BEST} or more"
            )
        for unit in best:
            draws[f"{arm}-trial{unit.number}"] = (read_result(folder, unit) or [])[0]
    return draws


def repeated(plan: Plan, draws: dict[str, dict[str, Any]], seed: int) -> Study:
    """A study whose arms are the draws, at the largest budget, without trials of its own.

    Raises:
        ValueError: the seed is one of the study.
    """
    study, arms = plan.study, {}
    if seed in (study.tuning.seed, *study.seeds):
        raise ValueError(f"--seed {seed}: is a seed of the study; give another one")
    for name, row in draws.items():
        settings = [f"--{key}={json.dumps(value)}" for key, value in row["settings"].items()]
        arm = plan.arms[row["arm"]]
        arms[name] = replace(arm, overrides=[*arm.overrides, *settings], ranges={})
    return replace(
        study,
        name=f"{study.name}-ranking",
        arms=arms,
        decoders=[],
        budgets={study.largest(): study.budgets[study.largest()]},
        seeds=[seed],
        contrasts=[],
        split=plan.any_recipe().data.validation,
        tuning=replace(study.tuning, trials=0, ranges={}),
    )


def table(study: Study, draws: dict[str, dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Both error rates of every draw, and how well their orders agree; a failure counts 100 %."""
    ended = {row["arm"]: row for row in rows}
    metric = f"validation_{next(iter(draws.values()))['validation_metric'] or 'wer'}"
    lines = [f"| arm | draw | in the trial | at {study.largest()}, seed {study.seeds[0]} |"]
    lines += ["| --- | --- | --: | --: |"]
    short, full = [], []
    for name, row in draws.items():
        again = ended[name][metric] if ended[name]["status"] == "done" else 1.0
        settings = ", ".join(f"{key} {value:g}" for key, value in row["settings"].items())
        lines.append(f"| {row['arm']} | {settings} | {percent(row[metric])} | {percent(again)} |")
        short.append(row[metric])
        full.append(again)
    pairs = list(zip(full[::BEST], full[1::BEST], strict=True))  # the better trial comes first
    kept, tau = sum(a <= b for a, b in pairs), stats.kendalltau(short, full).statistic
    lines += ["", f"The better trial stayed the better draw in {kept} of {len(pairs)} arms."]
    return "\n".join([*lines, f"Kendall's tau over all {len(short)} draws: {digits(tau)}."])


if __name__ == "__main__":
    main()
