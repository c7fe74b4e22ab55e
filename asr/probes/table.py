"""What the probe of scaling found, as rows, exponents and Markdown."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asr.probes.measure import Measurement, exponent
from asr.probes.output import threads

NONE = "not measured"
PREFIXES = ("", "k", "M", "G", "T", "P")


@dataclass(frozen=True)
class Row:
    """One measurement, or one pair of them.

    Attributes:
        name: of the comparison, or of the encoder's recipe.
        subject: in words; of an encoder ``training`` (forward and backward) or ``encoding``.
        reference: in words; empty for an encoder.
        time: encoder frames of a layer, feature frames of an encoder.
        batch: utterances.
        cost: of the subject; None: it failed.
        reference_cost: None: it failed, or there is none.
        flops: of the call by the encoder's formula; backward is twice forward.
        parameters: of the encoder.
        state_bytes: what a causal encoder remembers of one utterance after ``time`` frames.
        error: why there is no measurement.
    """

    name: str
    subject: str
    reference: str
    time: int
    batch: int
    cost: Measurement | None
    reference_cost: Measurement | None = None
    flops: int | None = None
    parameters: int | None = None
    state_bytes: int | None = None
    error: str = ""

    def ratios(self) -> list[float]:
        """Seconds of the subject over those of the reference, by repeat."""
        if self.cost is None or self.reference_cost is None:
            return []
        pairs = zip(self.cost.seconds, self.reference_cost.seconds, strict=True)
        return [subject / reference for subject, reference in pairs]

    def flat(self) -> dict[str, Any]:
        """As a line of the CSV file."""
        line: dict[str, Any] = {
            key: getattr(self, key) for key in ("name", "subject", "reference", "time", "batch")
        }
        for prefix, cost in (("", self.cost), ("reference_", self.reference_cost)):
            line |= spread(f"{prefix}seconds", cost.seconds if cost else ())
            line[f"{prefix}peak_bytes"] = cost.peak_bytes if cost else None
        line |= spread("ratio", self.ratios())
        line["peak_ratio"] = self.peak_ratio()
        line |= {key: getattr(self, key) for key in ("flops", "parameters", "state_bytes")}
        line["flops_per_second"] = self.flops_per_second()
        return {**line, "error": self.error}

    def peak_ratio(self) -> float | None:
        """Peak memory of the subject over that of the reference."""
        if self.cost is None or self.reference_cost is None:
            return None
        return self.cost.peak_bytes / self.reference_cost.peak_bytes

    def flops_per_second(self) -> float | None:
        """FLOPs by the formula per median second."""
        if self.cost is None or self.flops is None:
            return None
        return self.flops / self.cost.median


def spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Median, least and greatest."""
    summary = (statistics.median(values), min(values), max(values)) if values else (None,) * 3
    return dict(zip((name, f"{name}_min", f"{name}_max"), summary, strict=True))


@dataclass(frozen=True)
class Growth:
    """How a cost grows with the length: the p of T^p, by least squares of the logarithms."""

    name: str
    subject: str
    seconds: float
    seconds_error: float
    peak_bytes: float
    peak_bytes_error: float


def growths(rows: Sequence[Row]) -> list[Growth]:
    """For each subject and reference that was measured at three lengths or more."""
    curves: dict[tuple[str, str], list[tuple[int, Measurement]]] = {}
    for row in rows:
        for words, cost in ((row.subject, row.cost), (row.reference, row.reference_cost)):
            if cost is not None:
                curves.setdefault((row.name, words), []).append((row.time, cost))
    found = []
    for (name, words), points in curves.items():
        times = [time for time, _ in points]
        seconds = exponent(times, [cost.median for _, cost in points])
        peak = exponent(times, [cost.peak_bytes for _, cost in points])
        if seconds is not None and peak is not None:
            found.append(Growth(name, words, seconds.value, seconds.error, peak.value, peak.error))
    return found


def everything(rows: Sequence[Row], machine: dict[str, Any]) -> dict[str, Any]:
    """For the JSON: the machine, the rows with every repeat, the exponents."""
    lines = []
    for row in rows:
        repeats = {
            "repeats": row.cost.seconds if row.cost else [],
            "reference_repeats": row.reference_cost.seconds if row.reference_cost else [],
        }
        lines.append({**row.flat(), **repeats})
    fitted = [asdict(growth) for growth in growths(rows)]
    return {"machine": machine, "rows": lines, "exponents": fitted}


def to_tables(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """The Markdown page."""
    fitted = {(growth.name, growth.subject): growth for growth in growths(rows)}
    pairs = [row for row in rows if row.reference]
    encoders = [row for row in rows if not row.reference]
    parts = [
        "# Scaling",
        f"{machine['device_name']}, {threads(machine)}, {machine['precision']}; torch "
        f"{machine['torch']}; commit {machine['git_commit']}.",
        "Medians [least to greatest] of repeats in turn; peak: memory allocated during the call. "
        "T^p: exponent fitted over the lengths, with its standard error.",
    ]
    if pairs:
        parts += [
            "## Layers: forward and backward",
            _markdown(PAIR, [_pair(r, fitted) for r in pairs]),
        ]
    if encoders:
        parts += ["## Encoders", _markdown(ENCODER, [_encoder(r, fitted) for r in encoders])]
    failed = [f"- {row.name}, {row.time} frames: {row.error}" for row in rows if row.error]
    if failed:
        parts += ["## Failed", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))


def digits(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def prefixed(value: float | None, unit: str) -> str:
    """``1.34 G``, ``12.3 kB``."""
    if value is None:
        return NONE
    power = 0
    while abs(value) >= 1000 and power < len(PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{digits(value)} {PREFIXES[power]}{unit}"


PAIR = (
    "row",
    "subject",
    "reference",
    "frames",
    "batch",
    "ms",
    "reference ms",
    "ratio",
    "peak MB",
    "reference MB",
    "ratio",
    "T^p",
    "reference T^p",
)
ENCODER = (
    "encoder",
    "pass",
    "feature frames",
    "batch",
    "ms",
    "peak MB",
    "FLOP",
    "FLOP/s",
    "parameters",
    "state",
    "T^p",
)
Fitted = dict[tuple[str, str], Growth]


def _pair(row: Row, fitted: Fitted) -> list[str]:
    ratios = row.ratios()
    return [
        row.name,
        row.subject,
        row.reference,
        str(row.time),
        str(row.batch),
        _milliseconds(row.cost),
        _milliseconds(row.reference_cost),
        _spread(ratios) if ratios else NONE,
        _megabytes(row.cost),
        _megabytes(row.reference_cost),
        digits(row.peak_ratio()),
        _power(fitted.get((row.name, row.subject))),
        _power(fitted.get((row.name, row.reference))),
    ]


def _encoder(row: Row, fitted: Fitted) -> list[str]:
    return [
        row.name,
        row.subject,
        str(row.time),
        str(row.batch),
        _milliseconds(row.cost),
        _megabytes(row.cost),
        prefixed(row.flops, ""),
        prefixed(row.flops_per_second(), ""),
        prefixed(row.parameters, ""),
        "sees the future" if row.state_bytes is None else prefixed(row.state_bytes, "B"),
        _power(fitted.get((row.name, row.subject))),
    ]


def _spread(values: Sequence[float]) -> str:
    low, high = digits(min(values)), digits(max(values))
    return f"{digits(statistics.median(values))} [{low} to {high}]"


def _milliseconds(cost: Measurement | None) -> str:
    return NONE if cost is None else _spread([1e3 * seconds for seconds in cost.seconds])


def _megabytes(cost: Measurement | None) -> str:
    return digits(None if cost is None else cost.peak_bytes / 1e6)


def _power(growth: Growth | None) -> str:
    return "" if growth is None else f"{growth.seconds:.2f} ± {growth.seconds_error:.2f}"
