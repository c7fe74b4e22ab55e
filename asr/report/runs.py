"""Run folders: what they cost, what they reached, and which of them may be compared."""

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from asr.files import read_json_lines

# Parts of a recipe that must agree before two runs stand on one axis, by their words in the page.
SHARED = {
    "training splits": ("data.train", "data.validation"),
    "features": ("features",),
    "tokenizer": ("tokenizer",),
    "decoder": ("decoder",),
    "search": ("search",),
}
# Parts that say where and from which random numbers a run was made, not what it is.
INCIDENTAL = ("seed", "data.corpus")
DEVICE = ("device_name", "device_kind", "num_devices")
STATED = 3  # differing keys named in a sentence
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Point:
    """One validation of a run: cumulative cost and the WER (a fraction) bought with it."""

    updates: int
    wer: float
    device_hours: float
    train_flops: float | None
    audio_hours: float | None
    energy_joules: float | None


@dataclass(frozen=True)
class Run:
    """What one run folder says; a piece that is missing is None, and ``notes`` say so.

    Attributes:
        recipe: flat, ``encoder`` holding the class name and ``encoder.dim`` an option.
        totals: the last line of the ledger with the constants of ``ledger.json``.
        points: validations whose weights were not lost to a crash, in order.
        metrics: of the evaluated split; None as well when they are not those of ``best/``.
        hypotheses: one entry per utterance of that split.
        corpus: ``corpus.json`` of the prepared corpus, where it can still be read.
        stale: why the evaluation on disk was left out; empty when it was not.
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
        """The seed, None when neither ledger nor recipe names one."""
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
        """Threads of one operation on a processor; None in runs that did not write it down."""
        return self.totals.get("num_threads", self.environment.get("threads"))

    @property
    def trained_on(self) -> str | None:
        """Splits with checksums of their rows; None in runs that did not write it down."""
        rows = (self.totals.get("corpus") or {}).get("rows_sha256") or {}
        return (
            ", ".join(f"{split} {checksum[:8]}" for split, checksum in sorted(rows.items())) or None
        )

    @property
    def wer(self) -> float | None:
        """WER on the evaluated split, a fraction."""
        return None if self.metrics is None else self.metrics["wer"]["rate"]

    @property
    def best_validation_wer(self) -> float | None:
        """Lowest WER of all validations."""
        return min((p.wer for p in self.points), default=None)

    @property
    def wasted_hours(self) -> float | None:
        """Device-hours of work that a crash made the run do again."""
        wasted, wall = self.totals.get("wasted_seconds"), self.totals.get("wall_seconds")
        return self.totals["device_hours"] * wasted / wall if wasted is not None and wall else None

    @property
    def audio_hours(self) -> float | None:
        """Hours of speech trained on, repetitions included."""
        seconds = self.totals.get("audio_seconds")
        return None if seconds is None else seconds / 3600

    @property
    def throughput(self) -> float | None:
        """Hours of speech per device-hour, set-up and validation included."""
        audio, spent = self.audio_hours, self.totals.get("device_hours")
        return audio / spent if audio is not None and spent else None

    @property
    def checksum(self) -> str | None:
        """Of ids, texts and audio of the evaluated split, from its metrics or from the corpus."""
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
        """Whether the corpus is computer speech."""
        told = (self.metrics or {}).get("corpus", {}).get("synthetic")
        return bool(told if told is not None else (self.corpus or {}).get("synthetic"))


def flatten(tree: Any, key: str = "") -> dict[str, Any]:
    """A recipe with dotted keys; a component is its class name, its options stand below it."""
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
    """Reads a run folder; pieces that training or evaluation have not written yet are notes.

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
        raise ValueError(f"{folder / 'recipe.yaml'} holds no recipe; train the run again")
    notes: list[str] = []
    flat = flatten(recipe)
    lines = _ledger(folder / "ledger.jsonl", notes)
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


def _evaluation(
    folder: Path, split: str, notes: list[str]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]] | None, str]:
    """Metrics, hypotheses, and why both are left out when they are not those of ``best/``."""
    command = f"asr evaluate {folder} --split {split}"
    metrics = _json(folder / "evaluations" / split / "metrics.json")
    if metrics is None:
        notes.append(f"not evaluated yet; run: {command}")
        return None, None, ""
    evaluated, best = (metrics.get("training") or {}).get("updates"), _best_updates(folder)
    if best is not None and evaluated != best:
        after = UNKNOWN if evaluated is None else evaluated
        stale = (
            f"the {split} evaluation is left out: it is of the model after {after} updates, while "
            f"best/ holds the model after {best}; run: {command}"
        )
        notes.append(stale)
        return None, None, stale
    path = folder / "evaluations" / split / "hypotheses.jsonl"
    if not path.is_file():
        notes.append("hypotheses.jsonl is missing, so no interval of a difference")
        return metrics, None, ""
    hypotheses, torn = read_json_lines(path)
    if torn:
        raise ValueError(f"{path} has {torn} lines that are not JSON; run: {command}")
    return metrics, hypotheses, ""


def _best_updates(folder: Path) -> int | None:
    """Updates of the best model, from the header of its weights; None without the file.

    Format of safetensors: the length of the header (8 bytes, little endian), then JSON.
    """
    path = folder / "best" / "model.safetensors"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, path.stat().st_size)))
        return json.loads(header.get("__metadata__", {}).get("summary", "{}")).get("updates")
    except (struct.error, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it or train again") from error


def _json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None without the file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and write it again") from error


def _ledger(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The lines of the ledger; half a line that a killed session left is noted."""
    lines, torn = read_json_lines(path) if path.is_file() else ([], 0)
    if torn:
        notes.append(f"{torn} line{'s' if torn > 1 else ''} of {path.name} cut short by a crash")
    return lines


def _totals(
    folder: Path, lines: list[dict[str, Any]], flat: dict[str, Any], notes: list[str]
) -> dict[str, Any]:
    """Constants from ``ledger.json`` and the start line, costs from the last line.

    The last sign of life of a run that did not finish is its heartbeat: what it spent since the
    last line of the ledger is cost as well.
    """
    totals = _json(folder / "ledger.json") or {}
    costs = [line for line in lines if line.get("event") in ("step", "validation", "end")]
    starts = [line for line in lines if line.get("event") == "start"]
    newer = costs and costs[-1]["device_hours"] >= totals.get("device_hours", 0)
    totals = part(starts[-1] if starts else {}, DEVICE) | totals | (costs[-1] if newer else {})
    totals.setdefault("sessions", len(starts))
    if isinstance(numbers := totals.get("parameters"), dict):  # by part of the model
        totals |= {f"{name}_parameters": number for name, number in numbers.items()}
        totals["parameters"] = sum(numbers.values())
    if totals.get("seed") is None:
        totals["seed"] = flat.get("seed")
    if not totals.get("finished"):
        beat = _json(folder / "heartbeat.json") or {}
        if beat.get("device_seconds", 0) > 3600 * totals.get("device_hours", 0):
            totals["device_hours"] = beat["device_seconds"] / 3600
            totals["wall_seconds"] = beat["wall_seconds"]
    if not costs:
        notes.append("the ledger is empty: the run has not come to its first entry")
    elif not totals.get("finished"):
        notes.append(
            f"not finished: cost and WER are those after {totals['device_hours']:.3g} "
            f"device-hours and {totals.get('updates')} updates"
        )
    return totals


def _points(lines: list[dict[str, Any]], notes: list[str]) -> list[Point]:
    """Validations in order; those after the checkpoint that a restart went back to are dropped.

    Their weights were lost with the crash, so a target they reached was not yet bought; the cost
    stays in, as all costs are cumulative.
    """
    points: list[Point] = []
    lost = 0
    for line in lines:
        if line.get("event") == "start":
            kept = [p for p in points if p.updates <= line.get("from_update", 0)]
            lost += len(points) - len(kept)
            points = kept
        elif line.get("event") == "validation" and line.get("validation"):
            audio = line.get("audio_seconds")
            points.append(
                Point(
                    updates=line["updates"],
                    wer=line["validation"]["wer"],
                    device_hours=line["device_hours"],
                    train_flops=line.get("train_flops"),
                    audio_hours=None if audio is None else audio / 3600,
                    energy_joules=line.get("energy_joules"),
                )
            )
    if lost:
        notes.append(f"validations lost to a crash and left out of the curve: {lost}")
    if lines and not points:
        notes.append("no validation yet, so no curve and no cost to a target")
    return points


def part(recipe: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The keys of a flat recipe that are one of ``names`` or below it."""
    return {k: v for k, v in recipe.items() if any(k == n or k.startswith(n + ".") for n in names)}


def differing(recipes: Sequence[dict[str, Any]]) -> list[str]:
    """Keys of flat recipes that are not the same everywhere."""
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    return [k for k in keys if any(r.get(k) != recipes[0].get(k) for r in recipes)]


def identity(run: Run, checksums: dict[Any, str]) -> dict[str, Any]:
    """What must agree for a comparison, in words -> value; None is not known and agrees with all.

    ``checksums`` gives the checksum of the test ids by the corpus' path, from any run that has it.
    """
    path = run.recipe.get("data.corpus")
    metrics = run.metrics or {}
    found: dict[str, Any] = {"corpus": run.checksum or checksums.get(path, path)}
    found["training data"] = run.trained_on
    found |= {word: part(run.recipe, names) for word, names in SHARED.items()}
    found["search of the evaluation"] = metrics.get("search")
    found["normaliser of the evaluation"] = metrics.get("normaliser")
    found["kind of device"] = run.device_kind
    found["device"] = run.device_name
    found["number of devices"] = run.totals.get("num_devices")
    found["number of threads"] = run.num_threads if run.device_kind == "cpu" else None
    return found


def _checksums(runs: Iterable[Run]) -> dict[Any, str]:
    """Corpus path -> checksum, for runs that were not evaluated and lost their corpus."""
    return {run.recipe.get("data.corpus"): found for run in runs if (found := run.checksum)}


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed only."""

    label: str
    runs: list[Run]


@dataclass(frozen=True)
class Group:
    """Runs that may be compared, as arms in the order given.

    Attributes:
        separation: why these runs stand apart from the first group; empty for the first.
    """

    arms: list[Arm]
    separation: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """All runs, arm by arm."""
        return [run for arm in self.arms for run in arm.runs]


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Comparable runs together, largest group first; every other group says what differs."""
    checksums = _checksums(runs)
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if not any(_conflicts(run, other, checksums) for other in group):
                group.append(run)
                break
        else:
            groups.append([run])
    groups.sort(key=len, reverse=True)
    first = groups[0]
    return [Group(_arms(g), [] if g is first else _separation(first, g, checksums)) for g in groups]


def _conflicts(a: Run, b: Run, checksums: dict[Any, str]) -> list[str]:
    """Words of the identity in which two runs are known to differ."""
    left, right = identity(a, checksums), identity(b, checksums)
    return [w for w in left if None not in (left[w], right[w]) and left[w] != right[w]]


def _separation(first: list[Run], group: list[Run], checksums: dict[Any, str]) -> list[str]:
    """Sentences: which key differs, and both values."""
    pairs = ((a, b) for a in first for b in group)
    a, b = max(pairs, key=lambda pair: len(_conflicts(pair[0], pair[1], checksums)))
    left, right = identity(a, checksums), identity(b, checksums)
    found = []
    for word in _conflicts(a, b, checksums):
        ours, theirs = left[word], right[word]
        if isinstance(ours, dict):
            keys = differing([ours, theirs])
            values = [f"{k} is {theirs.get(k)} instead of {ours.get(k)}" for k in keys[:STATED]]
            more = [f"and {len(keys) - STATED} more keys"] if len(keys) > STATED else []
            found.append(f"{word}: {', '.join(values + more)}")
        elif word == "corpus":
            names = [r.recipe.get("data.corpus") for r in (b, a)]
            same = " with other utterances" if names[0] == names[1] else f" instead of {names[1]}"
            found.append(f"corpus: {names[0]}{same}")
        else:
            found.append(f"{word}: {theirs} instead of {ours}")
    return found


def settings(run: Run) -> dict[str, Any]:
    """The flat recipe without what is incidental, and what the run was trained on.

    Equal for runs that differ in seed only.
    """
    incidental = part(run.recipe, INCIDENTAL)
    own = {k: v for k, v in run.recipe.items() if k not in incidental}
    return own | {"data.rows": run.trained_on or UNKNOWN}


def _arms(runs: list[Run]) -> list[Arm]:
    """Runs with equal settings together, with the shortest labels that tell arms apart."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        together.setdefault(json.dumps(settings(run), sort_keys=True, default=str), []).append(run)
    arms = list(together.values())
    labels = []
    for arm in arms:
        name = arm[0].encoder
        same = [settings(other[0]) for other in arms if other[0].encoder == name]
        own = settings(arm[0])
        options = [f"{key.rsplit('.', 1)[-1]}={own.get(key)}" for key in differing(same)]
        labels.append(" ".join([name, *options[:STATED]]))
    alike = list(labels)
    for index, label in enumerate(alike):
        if alike.count(label) > 1:  # they differ in a key beyond the first few
            labels[index] = f"{label} ({place(arms[index][0], runs)})"
    return [Arm(label, sorted(arm, key=_by_seed)) for label, arm in zip(labels, arms, strict=True)]


def place(run: Run, runs: Sequence[Run]) -> str:
    """The end of a run's path that no other run has: in a study all folders are called run."""
    paths = [other.path.parts for other in runs]
    ends = (run.path.parts[-number:] for number in range(1, len(run.path.parts)))
    unique = (end for end in ends if sum(parts[-len(end) :] == end for parts in paths) == 1)
    return str(Path(*next(unique, run.path.parts)))


def _by_seed(run: Run) -> tuple[str, str]:
    return (str(run.seed).zfill(12), run.path.name)


def read_groups(folders: Sequence[Path], split: str) -> list[Group]:
    """Run folders -> groups of comparable runs.

    Raises:
        ValueError: no folder, the same folder twice, or a folder that is not a run.
    """
    if not folders:
        raise ValueError("no run to compare; give at least one folder that asr train wrote")
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise ValueError(f"{folder} is given twice; give each run once")
        seen.add(folder.resolve())
    return group_runs([read_run(folder, split) for folder in folders])
