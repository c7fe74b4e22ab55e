"""Reserves a run folder for one recipe, and for one process at a time."""

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr.config import strict_yaml
from asr.data.utterances import read_corpus
from asr.files import check_format, new_folder, remove_stale, write
from asr.locks import locked
from asr.metering.ledger_format import FORMAT, read_totals
from asr.recipe.schema import LanguageModelRecipe, Recipe

log = logging.getLogger(__name__)

AnyRecipe = Recipe | LanguageModelRecipe

# Beginnings of the keys that may change when a run is resumed, because its batches do not depend on
# them. The corpus may move to another folder; ``_check_rows`` checks its rows.
CHANGEABLE: tuple[str, ...] = ("budget.", "trainer.", "data.corpus:")
CHANGEABLE += ("data.num_workers:", "data.device_cache:")
# These may change if the order of batches does not; the checkpoint has that order.
CHANGEABLE += ("data.cache_gib:", "data.shuffle_seconds:")
# Files of a run before it has a result, and its results.
FIRST_FILES = (".lock", "recipe.yaml", "heartbeat.json", "environment.json", "ledger.jsonl")
RESULTS = ("ledger.json", "last.ckpt")


def run_name(recipe_file: Path, overrides: list[str], recipe: AnyRecipe) -> str:
    """Returns the default name of a run folder: recipe, encoder (of a speech model) and seed."""
    if recipe_file.name == "recipe.yaml":  # the recipe of an earlier run
        name = re.sub(r"-seed\d+$", "", recipe_file.resolve().parent.name)
        return f"{name}-repeated-seed{recipe.seed}"
    if isinstance(recipe, LanguageModelRecipe):
        return f"{recipe_file.stem}-seed{recipe.seed}"
    encoder = recipe.encoder.kind.__name__.lower()
    if "--encoder" in overrides:
        encoder = Path(overrides[overrides.index("--encoder") + 1]).stem
    return f"{recipe_file.stem}-{encoder}-seed{recipe.seed}"


@contextlib.contextmanager
def claimed(recipe: AnyRecipe, folder: Path) -> Iterator[None]:
    """Reserves the folder for this recipe and this process.

    If an error ends the run before it has a new result, the folder is restored. Otherwise it would
    hold the faulty recipe, and refuse the corrected one as another recipe.

    Raises:
        ValueError: the folder is in use, or holds a run of another recipe or other files.
        OSError: the folder cannot be written.
    """
    path = folder / "recipe.yaml"
    with new_folder(folder), locked(folder / ".lock"):
        earlier = path.read_text(encoding="utf-8") if path.exists() else None
        before = _result_times(folder)
        try:
            check_folder(recipe, folder)
            strict_yaml.dump(strict_yaml.tree_of(recipe), path)
            remove_stale(folder)
            yield
        except Exception:
            if _result_times(folder) == before:
                with contextlib.suppress(OSError):
                    if earlier is not None:
                        write(path, earlier)
                    else:
                        for name in FIRST_FILES:
                            (folder / name).unlink(missing_ok=True)
                        shutil.rmtree(folder / "logs", ignore_errors=True)
            raise


def _result_times(folder: Path) -> list[int]:
    """Returns the modification times of the files in ``RESULTS``, in nanoseconds."""
    return [path.stat().st_mtime_ns for name in RESULTS if (path := folder / name).exists()]


def check_folder(recipe: AnyRecipe, folder: Path) -> None:
    """Checks that a folder is unused or holds a run of this recipe.

    The keys in ``CHANGEABLE`` may differ, and the corpus may be in another folder if it holds the
    same rows.

    Raises:
        ValueError: the folder holds a run of another recipe or corpus, or other files.
    """
    path = folder / "recipe.yaml"
    check_format(folder / "environment.json", FORMAT)
    if path.exists():
        old, new = strict_yaml.load_file(path), strict_yaml.tree_of(recipe)
        with contextlib.suppress(ValueError):  # a recipe of an earlier version may lack keys
            old = strict_yaml.tree_of(strict_yaml.read(type(recipe), old))
        differing = [
            line for line in strict_yaml.differences(old, new) if not line.startswith(CHANGEABLE)
        ]
        if differing:
            why = f"{folder} holds a run of another recipe ({'; '.join(differing)})"
            raise ValueError(f"{why}; choose another --run or remove the folder")
        if isinstance(recipe, Recipe):
            _check_rows(recipe.data.corpus, old["data"]["corpus"], folder)
    elif folder.is_dir():
        others = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if others:
            why = f"{folder} holds {others[0]} and no recipe.yaml, so it is not a run folder"
            raise ValueError(f"{why}; choose another --run")


def _check_rows(corpus: str, earlier: str, folder: Path) -> None:
    """Checks that the corpus holds the rows on which the run was trained.

    Raises:
        ValueError: the rows differ; the message names the splits.
    """
    try:
        trained = json.loads((folder / "ledger.json").read_text())["corpus"]
        splits = read_corpus(corpus)["splits"]
    except (OSError, ValueError, KeyError):
        return  # there is no training yet, or training will report what is wrong with the corpus
    moved = f"data.corpus: was {earlier}, is now {corpus}" if corpus != earlier else ""
    why = [moved] * bool(moved)
    for split, checksum in trained["rows_sha256"].items():
        found = splits.get(split, {"utterances": "none"})
        if found.get("rows_sha256") != checksum:
            before, now = trained.get("utterances", {}).get(split, "some"), found["utterances"]
            others = " other ones" * (before == now)
            why.append(f"split {split} had {before} utterances, has {now}{others}")
    if len(why) > bool(moved):
        changed = f"the data changed since the run began ({'; '.join(why)})"
        raise ValueError(f"{folder}: {changed}; restore it, or choose another --run")
    if moved:
        log.info("%s, which holds the same rows; the run continues", moved)


def finished(recipe: AnyRecipe, folder: Path) -> dict[str, Any] | None:
    """Returns the last line of the ledger if the run finished with this budget; otherwise None.

    Raises:
        ValueError: the folder holds a run of another recipe.
    """
    try:
        line = read_totals(folder)
        before = strict_yaml.load_file(folder / "recipe.yaml")["budget"]
        now = strict_yaml.tree_of(recipe.budget)
        same = now == {key: before.get(key) for key in now}  # earlier versions had fewer keys
    except (OSError, ValueError):  # there is no run, or training will report the damaged files
        return None
    if not (line["finished"] and same):
        return None
    check_folder(recipe, folder)
    log.info("%s is finished (%s); raise the budget to continue", folder, line["reason"])
    return line
