"""Reads run folders: costs and error rates."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asr.files import read_json, read_json_lines
from asr.formatting import hours_of
from asr.metering.ledger_format import read_heartbeat, read_ledger, read_totals, upgraded

DEVICE = ("device_name", "device_kind", "num_devices")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Point:
    """One validation of a run: cumulative cost, and WER and CER as fractions."""

    updates: int
    wer: float
    device_hours: float
    train_flops: float | None
    audio_hours: float | None
    energy_joules: float | None
    cer: float | None = None
    loss: float | None = None  # None if it is not finite
    cpu_hours: float | None = None


@dataclass(frozen=True)
class Run:
    """The content of a run folder; missing parts are None, and ``notes`` names them.

    Costs and the budget are in the units of this version, also for a run of an earlier one.

    Attributes:
        recipe: flat recipe; ``encoder`` is the class name, and ``encoder.dim`` an option.
        totals: the last line of the ledger with the constants of ``ledger.json``.
        points: validations in order, except those whose weights a crash destroyed.
        metrics: metrics of the evaluated split; None also if they are not those of ``best/``.
        hypotheses: one entry per utterance of the evaluated split.
        corpus: ``corpus.json`` of the prepared corpus, if it still exists.
        stale: why the existing evaluation is left out; empty if it is used.
    """

    path: Path
    split: str
    recipe: dict[str, Any]
    environment: dict[str, Any]
    totals: dict[str, Any]
    points: list[Point]
    metrics: dict[str, Any] | None
    hypotheses: list[dict[str, Any]] | None
    corpus: dict[str, Any] | None
    notes: list[str]
    stale: str = ""

    @property
    def seed(self) -> Any:
        """The random seed; None if neither the ledger nor the recipe has one."""
        return self.totals.get("seed")

    @property
    def encoder(self) -> str:
        """The class of the encoder."""
        return str(self.recipe.get("encoder", "unknown encoder"))

    @property
    def device_kind(self) -> str | None:
        """``cpu`` or ``cuda``; None before the ledger's first line."""
        return self.totals.get("device_kind")

    @property
    def device_name(self) -> str | None:
        """The device, as the ledger names it."""
        return self.totals.get("device_name") or self.environment.get("device_name")

    @property
    def num_threads(self) -> int | None:
        """Number of CPU threads of one operation; None if the run did not record it."""
        return self.totals.get("num_threads", self.environment.get("threads"))

    @property
    def trained_on(self) -> str | None:
        """Training splits with checksums of their rows; None if the run did not record them."""
        rows = (self.totals.get("corpus") or {}).get("rows_sha256") or {}
        return (
            ", ".join(f"{split} {checksum[:8]}" for split, checksum in sorted(rows.items())) or None
        )

    @property
    def wer(self) -> float | None:
        """WER on the evaluated split, as a fraction."""
        return self.metric("wer", "rate")

    @property
    def wer_interval(self) -> tuple[float, float] | None:
        """95 % interval of the WER, as fractions."""
        return tuple(found) if (found := self.metric("wer", "interval")) else None

    @property
    def cer(self) -> float | None:
        """CER on the evaluated split, as a fraction."""
        return self.metric("cer", "rate")

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of recognition per second of audio."""
        return self.metric("real_time_factor")

    @property
    def validation_metric(self) -> str:
        """The metric that chose the best model: ``wer`` or ``cer``."""
        return str(self.totals.get("validation_metric", "wer"))

    @property
    def best_validation_wer(self) -> float | None:
        """Lowest WER of all validations."""
        return min((p.wer for p in self.points), default=None)

    @property
    def wasted_device_hours(self) -> float | None:
        """Core-hours or GPU-hours of work that the run had to repeat after a crash."""
        wasted, wall = self.totals.get("wasted_seconds"), self.totals.get("wall_seconds")
        return self.totals["device_hours"] * wasted / wall if wasted is not None and wall else None

    @property
    def audio_hours(self) -> float | None:
        """Hours of speech in training, including repetitions."""
        seconds = self.totals.get("audio_seconds")
        return None if seconds is None else seconds / 3600

    @property
    def throughput(self) -> float | None:
        """Hours of speech per core-hour or GPU-hour, including set-up and validation."""
        audio, spent = self.audio_hours, self.totals.get("device_hours")
        return audio / spent if audio is not None and spent else None

    @property
    def cpu_hours(self) -> float | None:
        """Hours of CPU time that all processes of the run got; None if it was not measured."""
        return _cpu_hours(self.totals)

    @property
    def speed(self) -> float | None:
        """Seconds of speech per second of training steps and of waiting for data."""
        seconds, audio = self.totals.get("seconds") or {}, self.totals.get("audio_seconds")
        busy = seconds.get("step", 0.0) + seconds.get("data_wait", 0.0)
        return audio / busy if audio is not None and busy else None

    @property
    def disturbances(self) -> list[str] | None:
        """What other programs or the machine did to the run, in sentences; None if unknown."""
        found = self.totals.get("disturbances")
        return None if found is None else [one["text"] for one in found]

    @property
    def encoder_factor(self) -> float | None:
        """Seconds of features and encoder per second of audio; None if not timed separately."""
        seconds, audio = self.metric("encode_seconds"), self.metric("audio_seconds")
        return seconds / audio if seconds is not None and audio else None

    @property
    def checksum(self) -> str | None:
        """Checksum of the ids, texts and audio of the evaluated split, from metrics or corpus."""
        splits = (self.corpus or {}).get("splits", {})
        return self.metric("corpus", "rows_sha256") or splits.get(self.split, {}).get("rows_sha256")

    def metric(self, *keys: str) -> Any:
        """An entry of ``metrics.json``; None without an evaluation."""
        found: Any = self.metrics
        for key in keys:
            found = (found or {}).get(key)
        return found

    @property
    def synthetic(self) -> bool:
        """Whether the corpus is synthetic speech."""
        told = (self.metrics or {}).get("corpus", {}).get("synthetic")
        return bool(told if told is not None else (self.corpus or {}).get("synthetic"))


def flatten(tree: Any, key: str = "") -> dict[str, Any]:
    """A recipe with dotted keys; the value of a component is its class name, options follow."""
    if not isinstance(tree, dict):
        return {key: tree}
    flat: dict[str, Any] = {}
    if "class_path" in tree:
        flat[key] = str(tree["class_path"]).rsplit(".", 1)[-1]
        tree = tree.get("init_args") or {}
    for name, value in tree.items():
        flat |= flatten(value, f"{key}.{name}" if key else str(name))
    return flat


def read_run(folder: Path, split: str = "test") -> Run:
    """Reads a run folder; notes name the parts that do not exist yet.

    Raises:
        ValueError: the folder is not a run, or one of its files cannot be read.
    """
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        raise ValueError(
            f"{folder} is not a run folder (no recipe.yaml); give folders that asr train wrote"
        )
    try:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{folder / 'recipe.yaml'} is not YAML: {error}".split("\n")[0]) from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{folder / 'recipe.yaml'} is not a recipe; train the run again")
    notes: list[str] = []
    flat = in_cores(flatten(recipe), folder)
    ledger, lines = folder / "ledger.jsonl", read_ledger(folder)
    if torn := read_json_lines(ledger)[1] if ledger.is_file() else 0:
        notes.append(f"{torn} line{'s' if torn > 1 else ''} of {ledger.name} cut short by a crash")
    metrics, hypotheses, stale = _evaluation(folder, split, notes)
    return Run(
        path=folder,
        split=split,
        recipe=flat,
        environment=_json(folder / "environment.json") or {},
        totals=_totals(folder, lines, flat, notes),
        points=_points(lines, notes),
        metrics=metrics,
        hypotheses=hypotheses,
        corpus=_json(Path(str(flat.get("data.corpus", ""))) / "corpus.json"),
        notes=notes,
        stale=stale,
    )


def in_cores(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The flat recipe of a run folder, with the budget of an earlier version in core-hours."""
    environment = _json(folder / "environment.json") or {}
    facts = environment | (_json(folder / "ledger.json") or {})
    facts["format"] = environment.get("format", 1)
    if (spent := recipe.get("budget.device_hours")) is None:
        return recipe
    converted = upgraded({"device_hours": spent}, facts)["device_hours"]
    return recipe | {"budget.device_hours": converted}


def _cpu_hours(line: dict[str, Any]) -> float | None:
    """Hours of CPU time in a line of a ledger."""
    seconds = line.get("cpu_seconds")
    return None if seconds is None else sum(seconds.values()) / 3600


def _evaluation(
    folder: Path, split: str, notes: list[str]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]] | None, str]:
    """Metrics, hypotheses, and why both are left out if they are not those of ``best/``."""
    command = f"asr evaluate {folder} --split {split}"
    metrics = _json(folder / "evaluations" / split / "metrics.json")
    if metrics is None:
        notes.append(f"not evaluated yet; run: {command}")
        return None, None, ""
    evaluated, best = (metrics.get("training") or {}).get("updates"), _best_updates(folder)
    if best is not None and evaluated != best:
        after = UNKNOWN if evaluated is None else evaluated
        stale = (
            f"the {split} evaluation is left out: it is of the model after {after} updates, but "
            f"best/ has the model after {best}; run: {command}"
        )
        notes.append(stale)
        return None, None, stale
    if metrics.get("headline") == "cer":
        notes.append("the texts have hardly any spaces between words: read the CER, not the WER")
    path = folder / "evaluations" / split / "hypotheses.jsonl"
    if not path.is_file():
        notes.append("hypotheses.jsonl is missing, so differences have no interval")
        return metrics, None, ""
    hypotheses, torn = read_json_lines(path)
    if torn:
        raise ValueError(f"{path} has {torn} lines that are not JSON; run: {command}")
    return metrics, hypotheses, ""


def _best_updates(folder: Path) -> int | None:
    """Number of updates of the best model, from the header of its weights; None without a file."""
    from safetensors import SafetensorError, safe_open

    path = folder / "best" / "model.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            facts = file.metadata() or {}
        return json.loads(facts.get("summary", "{}")).get("updates")
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it or train again") from error


def _json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None without the file."""
    return read_json(path) if path.is_file() else None


def _totals(
    folder: Path, lines: list[dict[str, Any]], flat: dict[str, Any], notes: list[str]
) -> dict[str, Any]:
    """Constants from ``ledger.json`` and the start line, and costs from the last line.

    If a run did not finish, its heartbeat gives the cost since the last line of the ledger.
    """
    totals = read_totals(folder) if (folder / "ledger.json").is_file() else {}
    costs = [line for line in lines if line.get("event") in ("step", "validation", "end")]
    starts = [line for line in lines if line.get("event") == "start"]
    newer = costs and costs[-1]["device_hours"] >= totals.get("device_hours", 0)
    totals = part(starts[-1] if starts else {}, DEVICE) | totals | (costs[-1] if newer else {})
    totals.setdefault("sessions", len(starts))
    totals |= {f"{phase}_seconds": s for phase, s in (totals.get("seconds") or {}).items()}
    if isinstance(numbers := totals.get("parameters"), dict):  # by model part
        totals |= {f"{name}_parameters": number for name, number in numbers.items()}
        totals["parameters"] = sum(numbers.values())
    if totals.get("seed") is None:
        totals["seed"] = flat.get("seed")
    if not totals.get("finished"):
        beat = read_heartbeat(folder)
        if beat.get("device_seconds", 0) > 3600 * totals.get("device_hours", 0):
            totals["device_hours"] = beat["device_seconds"] / 3600
            totals["wall_seconds"] = beat["wall_seconds"]
    if not costs:
        notes.append("the ledger is empty: the run has not written its first entry")
    elif not totals.get("finished"):
        notes.append(
            f"the run is not finished: cost and WER are those after {totals['device_hours']:.3g} "
            f"{hours_of([totals.get('device_kind')])} and {totals.get('updates')} updates"
        )
    notes += [f"disturbed: {one['text']}" for one in totals.get("disturbances") or ()]
    return totals


def _points(lines: list[dict[str, Any]], notes: list[str]) -> list[Point]:
    """Validations in order, except those whose weights were lost in a crash.

    These come after the checkpoint from which the run restarted, so a target that they reached
    does not count. Costs are cumulative and therefore include the lost work.
    """
    points: list[Point] = []
    lost = 0
    for line in lines:
        if line.get("event") == "start":
            kept = [p for p in points if p.updates <= line.get("from_update", 0)]
            lost += len(points) - len(kept)
            points = kept
        elif line.get("event") == "validation" and line.get("validation"):
            audio, loss = line.get("audio_seconds"), line["validation"].get("loss", math.nan)
            points.append(
                Point(
                    updates=line["updates"],
                    wer=line["validation"]["wer"],
                    device_hours=line["device_hours"],
                    train_flops=line.get("train_flops"),
                    audio_hours=None if audio is None else audio / 3600,
                    energy_joules=line.get("energy_joules"),
                    cer=line["validation"].get("cer"),
                    loss=loss if math.isfinite(loss) else None,
                    cpu_hours=_cpu_hours(line),
                )
            )
    if lost:
        notes.append(f"validations lost to a crash and left out of the curve: {lost}")
    if lines and not points:
        notes.append("the run has no validation yet, so no curve and no cost to a target")
    return points


def part(recipe: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The keys of a flat recipe that are one of ``names`` or below it."""
    return {k: v for k, v in recipe.items() if any(k == n or k.startswith(n + ".") for n in names)}


def differing(recipes: Sequence[dict[str, Any]]) -> list[str]:
    """Keys whose values differ between flat recipes."""
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    return [k for k in keys if any(r.get(k) != recipes[0].get(k) for r in recipes)]
