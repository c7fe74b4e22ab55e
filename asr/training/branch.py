"""Branches a run with a cooldown off a kept state of a longer run."""

import json
import math
import shutil
import time
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from asr.config import strict_yaml
from asr.files import write
from asr.metering.ledger_format import read_ledger
from asr.training.checkpoint import kept_checkpoint, read_checkpoint
from asr.training.machine import is_first_process
from asr.training.run_folder import CHANGEABLE, AnyRecipe, check_folder

POLL_SECONDS = 0.1


def branch_tree(trunk: Path, update: int, cooldown: float) -> dict[str, Any]:
    """Returns the recipe of a branch: the trunk's, with a budget that ends with the cooldown.

    Args:
        trunk: run folder.
        update: number of updates after which the branch begins, and the cooldown with it.
        cooldown: share of the branch's updates, those before it included, in which the learning
            rate falls to 0.

    Raises:
        ValueError: the share is not between 0 and 1, or the trunk has not kept this state.
    """
    if not 0 < cooldown < 1:
        raise ValueError(f"--cooldown {cooldown}: expects a share between 0 and 1")
    kept_checkpoint(trunk, update)
    tree: dict[str, Any] = strict_yaml.load_file(trunk / "recipe.yaml")
    tree["optimizer"]["cooldown"] = cooldown
    tree["budget"] = dict.fromkeys(tree["budget"]) | {"updates": round(update / (1 - cooldown))}
    return tree


def check_branch(before: AnyRecipe, recipe: AnyRecipe) -> None:
    """Checks that a branch differs from ``before``, its recipe, as a resumed run may, at most.

    Raises:
        ValueError: another key differs.
    """
    for line in strict_yaml.differences(*map(strict_yaml.tree_of, (before, recipe))):
        if line.startswith("budget.") or not line.startswith(CHANGEABLE):
            raise ValueError(f"--{line}: a branch has the recipe of its run; leave it out")


def begin_branch(trunk: Path, update: int, recipe: AnyRecipe, folder: Path) -> None:
    """Makes the run folder of a branch, whose ledger begins with the cost of the trunk.

    Does nothing if the folder holds the branch, which ``train`` then resumes. The first process of
    a launcher makes the folder, and the others wait for it.

    Raises:
        ValueError: the kept state is damaged, or the folder holds another run or other files.
    """
    last = folder / "last.ckpt"
    while not is_first_process(recipe.trainer) and not last.exists():
        time.sleep(POLL_SECONDS)  # the launcher ends this process if the first one fails
    if last.exists():
        check_folder(recipe, folder)
        budget = strict_yaml.load_file(folder / "recipe.yaml")["budget"]
        if budget != strict_yaml.tree_of(recipe.budget):
            raise ValueError(f"{folder} holds another run; choose another --run or remove it")
        return
    lock = folder / ".lock"  # of a run that failed before it had a result
    if found := sorted(path.name for path in folder.glob("*") if path != lock):
        why = f"{folder} holds {found[0]} and no last.ckpt, so the branch cannot continue there"
        raise ValueError(f"{why}; choose another --run or remove the folder")
    state = read_checkpoint(kept_checkpoint(trunk, update))
    assert state is not None
    # The trunk's best model may be younger than the branch, so the branch looks for its own.
    state["best"] = (math.inf,)
    state["ledger"]["validation"] = None
    new = folder.with_name(f".{folder.name}.branch")
    shutil.rmtree(new, ignore_errors=True)  # of a branch that was killed here
    new.mkdir(parents=True)
    until = state["ledger"]["wall_seconds"]
    lines = takewhile(lambda line: line.get("wall_seconds", 0.0) <= until, read_ledger(trunk))
    write(new / "ledger.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write(new / "last.ckpt", lambda file: torch.save(state, file))
    strict_yaml.dump(strict_yaml.tree_of(recipe), new / "recipe.yaml")
    lock.unlink(missing_ok=True)
    new.rename(folder)  # also onto an empty folder
