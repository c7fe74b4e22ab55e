"""The loop that works through a study: takes what is missing, one unit per device at a time."""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr.corpora.prepare import prepare
from asr.data.utterances import read_corpus
from asr.items import reason
from asr.recipe.schema import Recipe
from asr.report import compare
from asr.report.runs import read_run
from asr.study import devices, results, status
from asr.study.locks import POLL_SECONDS, Claim, claim, waiting_for
from asr.study.plan import Plan, Unit
from asr.study.processes import Children
from asr.study.registration import read_registration, register
from asr.study.schema import Study
from asr.study.units import Bench, perform, read_result

log = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True)
class Selection:
    """A part of the matrix; everything where nothing is named.

    Raises:
        ValueError: something named is not in the study.
    """

    arms: Sequence[str] = ()
    budgets: Sequence[str] = ()
    seeds: Sequence[int] = ()

    def check(self, plan: Plan) -> None:
        """Refuses what the study does not have."""
        known = vars(plan.study) | {"arms": plan.arms}
        for key in ("arms", "budgets", "seeds"):
            for name in getattr(self, key):
                if name not in known[key]:
                    has = ", ".join(map(str, known[key]))
                    raise ValueError(f"{key} {name}: not in the study, which has {has}")
        if self.budgets and not plan.study.separate_budgets:
            raise ValueError(
                "budgets: they are points of one run here, so that none can be run alone"
            )

    def holds(self, unit: Unit) -> bool:
        """Whether it is to be run now."""
        if self.arms and unit.arm not in self.arms:
            return False
        if unit.role == "trial":
            return True
        return (not self.budgets or unit.budget in self.budgets) and (
            not self.seeds or unit.number in self.seeds
        )


def run_study(
    study: Study,
    folder: Path,
    *,
    workers: int | None = None,
    selection: Selection = Selection(),  # noqa: B008  (frozen)
    amend: bool = False,
    retry: bool = False,
    runner: Children | None = None,
) -> dict[str, Any]:
    """Does what is missing of a study, then writes the report; safe from several shells at once.

    Args:
        study: as read from its file.
        folder: of the study; what is done there is not done again.
        workers: runs at a time on this machine; by default one per GPU, or as many as the cores
            have room for.
        selection: a part of the matrix.
        amend: record that the file has changed, instead of refusing.
        retry: do failed units again; what they cost stays counted.
        runner: what carries out ``asr train`` and ``asr evaluate``.

    Returns:
        rows: of results.jsonl; table and remarks: what they say; blocked: arms none of whose trials
        succeeded; report: the page, None before there is a final run; failed: whether anything did.

    Raises:
        ValueError: the file is not that of the registered study, a recipe does not fit, the
            machine has too little room, or failures of some arms alone are to be done again.
        KeyboardInterrupt: told to end (SIGINT, SIGTERM); all runs have saved.
    """
    plan = Plan(study)
    selection.check(plan)
    if retry and selection.arms:
        raise ValueError(
            f"--retry --arms {' '.join(selection.arms)}: trials of these arms alone would be tried "
            "again, and all must be tuned alike; leave --arms out"
        )
    recipe = plan.any_recipe()
    wanted = study.threads or devices.shared_threads(recipe.trainer, workers)
    _room(recipe, (read_registration(folder) or {}).get("threads", wanted), workers)
    folder.mkdir(parents=True, exist_ok=True)
    with waiting_for(folder / ".register.lock"):
        rows_sha256 = _prepared(study, recipe)
        registered = register(plan, folder, wanted, rows_sha256, amend)
        if retry:
            _forget_failures(plan, folder, selection)
    threads = registered["threads"]
    free = _room(recipe, threads, workers)
    matrix = Matrix(plan, folder, registered, free, selection, runner or Children())
    matrix.work(workers or len(free))
    report = None
    try:
        report = matrix.report()
    except Exception as error:  # the runs and their rows are there in spite of it
        matrix.fail("no report", error)
    summary = status.summary(plan, folder, registered)
    return {**summary, "report": report, "failed": summary["failed"] or matrix.failed}


def _room(recipe: Recipe, threads: int, workers: int | None) -> list[devices.Slot]:
    """The slots of this machine.

    Raises:
        ValueError: more workers than it has.
    """
    free = devices.slots(recipe.trainer, threads)
    if workers is not None and not 1 <= workers <= len(free):
        raise ValueError(
            f"--workers {workers}: this machine has room for {len(free)} at a time ({threads} "
            f"threads each); give 1 to {len(free)}"
        )
    return free


def _prepared(study: Study, recipe: Recipe) -> dict[str, str]:
    """Checksums of the corpus by split, prepared where it is not there and the study says how.

    Raises:
        ValueError: it is not there, or cannot be prepared.
    """
    place = Path(recipe.data.corpus)
    if study.prepare is not None and not place.exists():
        log.info("preparing %s", place)
        prepare(study.prepare(), place, sample_rate=recipe.features.sample_rate)
    splits = read_corpus(place)["splits"]
    return {name: splits[name]["rows_sha256"] for name in sorted(splits)}


def _forget_failures(plan: Plan, folder: Path, selection: Selection) -> None:
    """Failed units may be tried again; a trial only while no final run rests on the choice."""
    for unit in results.units(plan, folder):
        found = read_result(folder, unit)
        begun = any((folder / "finals" / unit.arm).glob("*/recipe.yaml"))
        if found and found[0]["status"] == "failed" and selection.holds(unit):
            if unit.role == "trial" and begun:
                log.warning("%s is not tried again: final runs rest on the choice", unit.title)
                continue
            held = claim(folder / unit.folder / ".claim")
            if held is None:
                log.warning("%s is not tried again: another process works on it", unit.title)
                continue
            (folder / unit.folder / "result.json").unlink()
            held.release()


@dataclass
class Matrix:
    """The units of a study and the workers of this process."""

    plan: Plan
    folder: Path
    registered: Row
    free: list[devices.Slot]
    selection: Selection
    runner: Children
    failed: bool = False
    stopping: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)

    def work(self, workers: int) -> None:
        """Until nothing is missing, here or in another shell.

        Raises:
            KeyboardInterrupt: told to end.
        """
        with ThreadPoolExecutor(workers) as pool, _terminable():
            futures = [pool.submit(self._worker) for _ in range(workers)]
            try:
                waiting = set(futures)
                while waiting:  # in short steps, so that signals are heard
                    done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()  # raises what a worker raised
            finally:  # of one worker, or a signal: the others save and end, too
                self.stopping.set()
                if not all(future.done() for future in futures):
                    log.info("telling the runs to save and end")
                    self.runner.stop()
                wait(futures)

    def _worker(self) -> None:
        while not self.stopping.is_set() and self._missing():
            if not self._one():
                self.stopping.wait(10 * POLL_SECONDS)

    def _missing(self) -> list[Unit]:
        """Units that have no result yet; final runs are known once their arm is tuned."""
        return [
            unit
            for unit in results.units(self.plan, self.folder)
            if self.selection.holds(unit) and read_result(self.folder, unit) is None
        ]

    def _one(self) -> bool:
        """Does a unit that nobody works on; False where there is none, or no device is free."""
        place = devices.take(self.free)
        if place is None:
            if not self.waiting.is_set():
                log.info("waiting: runs of other processes of asr study have the devices")
                self.waiting.set()
            return False
        slot, held_devices = place
        try:
            for unit in self._missing():
                held = claim(self.folder / unit.folder / ".claim")
                if held is None:
                    continue
                try:
                    if read_result(self.folder, unit) is None:  # ended while we looked
                        self._do(unit, slot, [*held_devices, held])
                        return True
                finally:
                    held.release()
            return False
        finally:
            for device in held_devices:
                device.release()

    def _do(self, unit: Unit, slot: devices.Slot, held: list[Claim]) -> None:
        sha256, threads = self.registered["study_sha256"], self.registered["threads"]
        environment = devices.environment(slot, threads, os.environ)
        numbers = [one.number for one in held]
        bench = Bench(self.folder, sha256, self.runner, environment, numbers)
        rows = perform(unit, self.plan.study, bench)
        if rows is not None:
            log.info("%s", results.progress(rows[0]))
            results.collect(self.plan, self.folder)

    def report(self) -> Path | None:
        """The page over all final runs that are there; by the first process of a launcher."""
        launched = devices.task()
        study, runs = self.plan.study, []
        for row in results.collect(self.plan, self.folder):
            if row["role"] == "final" and row["status"] == "done":
                try:
                    read_run(Path(row["run"]), study.split)
                    runs.append(Path(row["run"]))
                except Exception as error:  # damaged later; it does not cost the others' page
                    self.fail(f"{row['run']} is not on the page", error)
        if not runs or (launched and launched[0]):
            return None
        targets = [target / 100 for target in study.targets] or None
        with waiting_for(self.folder / ".report.lock"):
            written = compare(
                runs,
                self.folder / "report",
                targets=targets,
                split=study.split,
                study=self.folder,
            )
        return next(path for path in written["files"] if path.suffix == ".html")

    def fail(self, what: str, error: Exception) -> None:
        """Reports what could not be done beside the units, which have rows for their failures."""
        self.failed = True
        log.error("%s: %s", what, reason(error))


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM is heard as SIGINT is, in the main thread."""

    def heard(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, heard) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
