"""A matrix of runs - arms, budgets, seeds, after equally many trials of each arm - and its report.

A study's folder holds ``study.json`` (what was registered, with its hash), ``results.jsonl`` (a row
per unit of work), ``report/``, and a folder per unit:

    trials/ARM/NUMBER/           recipe.yaml, run/, log.txt, attempts.jsonl, result.json
    finals/ARM/BUDGET-seedSEED/  the same; its run is evaluated

A unit is done when its ``result.json`` is there. Whoever works on one holds a lock on it, and so do
the processes that it starts: killed at any moment, the same command goes on where things stand.
"""

from asr.study.devices import task
from asr.study.matrix import Selection, run_study
from asr.study.outlook import outlook
from asr.study.plan import Plan
from asr.study.results import status
from asr.study.schema import Study, read_study

__all__ = ["Plan", "Selection", "Study", "outlook", "read_study", "run_study", "status", "task"]
