"""The main loop of a study: runs the missing units, one per device at a time."""

import contextlib
import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from asr.corpora.prepare import prepare
from asr.data.utterances import decode_for, read_corpus
from asr.files import write
from asr.items import reason
from asr.locks import POLL_SECONDS, take, waiting_for
from asr.recipe.schema import Recipe
from asr.report import compare
from asr.report.runs import read_run
from asr.report.study import read_record
from asr.study import devices, results
from asr.study.budgets import plan_of_runs
from asr.study.outlook import check
from asr.study.plan import Plan, Unit
from asr.study.processes import Children
from asr.study.registration import DECODING, differences, read_registration, register
from asr.study.schema import Study
from asr.study.units import perform, read_result

log = logging.getLogger(__name__)

# Time reserved at the end of ``--minutes``, at most a fifth of it: two thirds for the runs to save
# (then they are killed), and one third to write the results.
SAVING_SECONDS = 30.0
# Keys on which it depends whether the contrasts can decide; an amendment of them is checked again.
PROMISED = {f"study.{key}" for key in ("contrasts", "seeds", "split", "targets", "descriptive")}


@dataclass(frozen=True)
class Selection:
    """A part of a study; an empty list selects everything."""

    arms: Sequence[str] = ()
    budgets: Sequence[str] = ()
    seeds: Sequence[int] = ()

    def check(self, plan: Plan) -> None:
        """Checks that the study has everything that is selected.

        Raises:
            ValueError: the study lacks a selected arm, budget or seed.
        """
        known = vars(plan.study) | {"arms": plan.arms}
        for key in ("arms", "budgets", "seeds"):
            for name in getattr(self, key):
                if name not in known[key]:
                    has = ", ".join(map(str, known[key]))
                    raise ValueError(f"{key} {name}: not in the study, which has {has}")
        if self.budgets and not plan.study.separate_budgets:
            raise ValueError(
                "--budgets: all budgets of this study are points of one run and cannot be run alone"
            )

    def holds(self, unit: Unit) -> bool:
        """Whether the unit is selected."""
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
    minutes: float | None = None,
    runner: Children | None = None,
) -> dict[str, Any]:
    """Runs the missing units of a study and writes the report; may run in several shells at once.

    Args:
        study: the study.
        folder: folder of the study; units that have a result there are not repeated.
        workers: number of runs at a time on this machine; by default one per GPU, or as many as fit
            on the CPU cores.
        selection: the part of the study to run.
        amend: whether to accept and record a changed study file.
        retry: whether to repeat failed units; their cost still counts.
        minutes: time after which the study stops. Unfinished runs are saved, and the next call
            continues them; the report is written only when nothing is left.
        runner: runs ``asr train`` and ``asr evaluate``.

    Returns:
        rows: rows of results.jsonl; table and remarks: their summary; blocked: arms without a
        successful trial; report: path of the page, None if there is no final run; failed: whether
        a unit failed; left: number of selected units without a result.

    Raises:
        ValueError: the file differs from the registered study, a recipe is wrong, a contrast can
            decide nothing, the machine is too small, only some arms with failures are to be
            repeated, or ``minutes`` is not above 0.
        KeyboardInterrupt: the study got SIGINT or SIGTERM; all runs are saved.
    """
    if minutes is not None and not minutes > 0:
        raise ValueError(f"--minutes {minutes:g}: expects more than 0")
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    registered = read_registration(folder)
    plan = plan_of_runs(study, workers, registered)
    selection.check(plan)
    if retry and selection.arms:
        raise ValueError(
            f"--retry --arms {' '.join(selection.arms)}: only the trials of these arms would be "
            "repeated, but all arms must be tuned equally; leave --arms out"
        )
    recipe = plan.any_recipe()
    new = registered is None or (amend and not PROMISED.isdisjoint(differences(plan, registered)))
    if new:
        check(plan)
    wanted = study.threads or devices.shared_threads(recipe.trainer, workers)
    _room(recipe, (registered or {}).get("threads", wanted), workers)
    folder.mkdir(parents=True, exist_ok=True)
    with waiting_for(folder / ".register.lock"):
        rows_sha256 = _prepared(study, recipe)
        if new:
            check(plan)  # now the speakers and words are known
        registered = register(plan, folder, wanted, rows_sha256, amend)
        if retry:
            _forget_failures(plan, folder, selection)
    free = _room(recipe, registered["threads"], workers)
    matrix = Matrix(plan, folder, registered, free, selection, runner or Children())
    if matrix.missing():
        _decode(recipe, folder)
    matrix.work(workers or len(free), end)
    report, left = None, len(matrix.missing())
    if not left or minutes is None:
        try:
            report = matrix.report()
        except Exception as error:  # the runs and their rows remain valid
            matrix.fail("no report", error)
    found = results.summary(plan, folder)
    failed = found["failed"] or matrix.failed
    return {**found, "report": report, "failed": failed, "left": left}


def _room(recipe: Recipe, threads: int, workers: int | None) -> list[devices.Slot]:
    """The slots of this machine.

    Raises:
        ValueError: there are more workers than slots.
    """
    free = devices.slots(recipe.trainer, threads)
    if workers is not None and not 1 <= workers <= len(free):
        raise ValueError(
            f"--workers {workers}: this machine has room for {len(free)} at a time ({threads} "
            f"threads each); give 1 to {len(free)}"
        )
    return free


def _prepared(study: Study, recipe: Recipe) -> dict[str, str]:
    """Checksums of the splits of the corpus, which is prepared first if the study says how.

    Raises:
        ValueError: the corpus does not exist, or cannot be prepared.
    """
    place = Path(recipe.data.corpus)
    if study.prepare is not None and not place.exists():
        log.info("preparing %s", place)
        prepare(study.prepare(), place, sample_rate=recipe.features.sample_rate)
    splits = read_corpus(place)["splits"]
    return {name: splits[name]["rows_sha256"] for name in sorted(splits)}


def _decode(recipe: Recipe, folder: Path) -> None:
    """Decodes the audio of all runs, so that no run is charged for it; notes the time it took."""
    try:
        seconds = decode_for(recipe.data, recipe.features.sample_rate)
    except (OSError, ValueError) as error:  # the runs will fail and report it
        log.warning("audio is not decoded before the first run: %s", reason(error))
        return
    if seconds:
        log.info("decoding took %.1f s, which the study is charged for and no run", seconds)
        with waiting_for(folder / ".register.lock"):
            registered = read_registration(folder) or {}
            registered[DECODING] = registered.get(DECODING, 0.0) + seconds
            write(folder / "study.json", json.dumps(registered, indent=1))


def _forget_failures(plan: Plan, folder: Path, selection: Selection) -> None:
    """Deletes results of failed units, so that they run again; trials only before final runs."""
    for unit in results.units(plan, folder):
        found = read_result(folder, unit)
        begun = any((folder / "finals" / unit.arm).glob("*/recipe.yaml"))
        if found and found[0]["status"] == "failed" and selection.holds(unit):
            if unit.role == "trial" and begun:
                log.warning("%s is not repeated: final runs use the tuned settings", unit.title)
                continue
            held = take(folder / unit.folder / ".claim")
            if held is None:
                log.warning("%s is not repeated: another process works on it", unit.title)
                continue
            with held:
                (folder / unit.folder / "result.json").unlink()


@dataclass
class Matrix:
    """The units of a study and the workers of this process."""

    plan: Plan
    folder: Path
    registered: dict[str, Any]
    free: list[devices.Slot]
    selection: Selection
    runner: Children
    failed: bool = False
    stopping: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)

    def work(self, workers: int, end: float = math.inf) -> None:
        """Works until no unit is missing, or until the time ``end`` of ``time.monotonic``.

        Raises:
            KeyboardInterrupt: the process got SIGINT or SIGTERM.
        """
        saving = min(SAVING_SECONDS, max(0.0, end - time.monotonic()) / 5)
        with ThreadPoolExecutor(workers) as pool, _terminable():
            futures = [pool.submit(self._worker) for _ in range(workers)]
            try:
                working = set(futures)
                # Waits in short steps, so that Python handles signals in between.
                while working and time.monotonic() < end - saving:
                    done, working = wait(working, timeout=0.2, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()  # raises what a worker raised
            finally:  # after an error, a signal or the time limit, the other runs save and end
                self.stopping.set()
                if not all(future.done() for future in futures):
                    log.info("stopping: the runs save their state and end")
                    self.runner.stop()
                seconds = max(0.0, end - saving / 3 - time.monotonic())
                if wait(futures, seconds if end < math.inf else None).not_done:
                    log.warning("a run did not save in time; it resumes from its last checkpoint")
                    self.runner.kill()
            for future in futures:
                future.result()

    def _worker(self) -> None:
        while not self.stopping.is_set() and self.missing():
            if not self._one():
                self.stopping.wait(10 * POLL_SECONDS)

    def missing(self) -> list[Unit]:
        """The selected units without a result; an arm's final runs count once it is tuned."""
        return [
            unit
            for unit in results.units(self.plan, self.folder)
            if self.selection.holds(unit) and read_result(self.folder, unit) is None
        ]

    def _one(self) -> bool:
        """Runs one missing unit; returns False if all are taken or no device is free."""
        place = devices.take_slot(self.free)
        if place is None:
            if not self.waiting.is_set():
                log.info("waiting: other processes of asr study use all devices")
                self.waiting.set()
            return False
        slot, locks = place
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            for unit in self.missing():
                held = take(self.folder / unit.folder / ".claim")
                if held is None:
                    continue
                with held:
                    if read_result(self.folder, unit) is None:  # no other process did it
                        self._do(unit, slot, [*locks, held])
                        return True
            return False

    def _do(self, unit: Unit, slot: devices.Slot, held: list[TextIO]) -> None:
        threads = self.registered["threads"]
        if self.registered["device_kind"] == "cpu":  # it shares them among its processes
            threads //= devices.processes(unit.recipe["trainer"]["devices"], threads)
        rows = perform(
            unit,
            self.plan.study,
            self.folder,
            self.registered,
            self.runner,
            environment=devices.environment(slot, threads, os.environ),
            held=[lock.fileno() for lock in held],
        )
        if rows is not None:
            log.info("%s", results.progress(rows[0]))
            results.collect(self.plan, self.folder)

    def report(self) -> Path | None:
        """Writes the report of all final runs; under a launcher, only its first process does."""
        launched = devices.task()
        results.collect(self.plan, self.folder)
        study, runs = self.plan.study, []
        for run in read_record(self.folder).final_runs:
            try:
                read_run(run, study.split)
                runs.append(run)
            except Exception as error:  # a damaged run must not prevent the report
                self.fail(f"{run} is not in the report", error)
        if not runs or (launched and launched[0]):
            return None
        output = self.folder / "report"
        with waiting_for(self.folder / ".report.lock"):
            written = compare(runs, output, split=study.split, study=self.folder)
        return next(path for path in written["files"] if path.suffix == ".html")

    def fail(self, what: str, error: Exception) -> None:
        """Logs a failure outside the units; failures of units are in their own rows."""
        self.failed = True
        log.error("%s: %s", what, reason(error))


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Handles SIGTERM like SIGINT inside the block, if this is the main thread."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
