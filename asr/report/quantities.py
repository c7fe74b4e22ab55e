"""Declares the numbers of a run once: column, heading, unit and format."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from asr.document.figures import PHASES
from asr.formatting import count, digits, hours, mebibytes, percent, prefixed
from asr.report import costs
from asr.report.groups import Arm, Group
from asr.report.runs import Run

MEMORY = {"cuda": "allocated on the device", "cpu": "of the process"}  # key: kind of device


@dataclass(frozen=True)
class Quantity:
    """A number that each run has.

    Attributes:
        column: column in report.csv, with the unit; ``_percent`` multiplies a fraction by 100.
        name: attribute of ``Run``, or key in the last line of its ledger; if empty, the column. For
            a cost, also a field of ``Point`` and a key in the results of a study.
        heading: heading in tables and on axes; empty if only report.csv has the quantity.
        show: formats the value of an arm.
        of_arm: computes the value of an arm; by default the mean over its seeds.
        cost: unit of a training cost on an axis; empty for other quantities.
    """

    column: str
    name: str = ""
    heading: str = ""
    show: Callable[[float | None], str] = digits
    of_arm: Callable[[Arm], float | None] | None = None
    cost: str = ""

    @property
    def key(self) -> str:
        """The name of the quantity in runs and ledgers."""
        return self.name or self.column

    def value(self, run: Run) -> Any:
        """The value of a run; None if it was not measured."""
        return getattr(run, self.key) if hasattr(Run, self.key) else run.totals.get(self.key)

    def cell(self, run: Run) -> Any:
        """The value of a run in report.csv."""
        value = self.value(run)
        return 100 * value if value is not None and self.column.endswith("_percent") else value

    def told(self, arm: Arm) -> str:
        """The value of an arm in a table."""
        mean = costs.mean([self.value(run) for run in arm.runs])
        return self.show(mean if self.of_arm is None else self.of_arm(arm))

    def title(self, group: Group) -> str:
        """The heading with the unit of the group's hours and the kind of its memory."""
        unit = costs.hours_unit(group)
        memory = MEMORY.get(str(group.runs[0].device_kind), "")
        hour = unit.removesuffix("s")
        return self.heading.format(hours=unit, hour=hour, memory=memory).strip()


FLOP, JOULES = (partial(prefixed, unit=unit) for unit in ("FLOP", "J"))
# In the order of the columns of report.csv.
QUANTITIES = (
    Quantity("encoder_parameters", heading="parameters of the encoder", show=count),
    Quantity("parameters", heading="parameters of the model", show=count),
    Quantity("wer_percent", "wer"),
    Quantity("cer_percent", "cer", "character error rate (CER)", percent),
    Quantity(
        "best_validation_wer_percent",
        "best_validation_wer",
        "best validation WER",
        percent,
        of_arm=costs.arm_best,
    ),
    Quantity("device_name"),
    Quantity("device_kind"),
    Quantity("num_devices"),
    Quantity("num_threads"),
    Quantity("device_hours", "", "training cost, {hours}", hours, cost="hours"),
    Quantity("wasted_device_hours", "", "part of this cost lost to crashes, {hours}"),
    Quantity("wall_seconds"),
    *(Quantity(f"{phase}_seconds") for phase in PHASES if phase not in ("wasted", "other")),
    Quantity("updates", "", "updates", count, cost="updates"),
    Quantity("train_flop", "train_flops", "training compute", FLOP, cost="FLOP"),
    Quantity("padded_train_flop", "padded_train_flops"),
    Quantity("audio_hours", "", "audio trained on, hours", cost="hours"),
    Quantity("audio_hours_per_device_hour", "throughput", "throughput, audio hours per {hour}"),
    Quantity("cpu_hours", "", "CPU time, hours", hours, cost="hours"),
    Quantity(
        "core_wait_percent", "core_wait_share", "time waited for a core, share of it held", percent
    ),
    Quantity(
        "audio_seconds_per_second", "speed", "speed of training, audio-seconds per second", count
    ),
    Quantity(
        "model_flops_utilisation_percent",
        "model_flops_utilisation",
        "share of the device's peak FLOP/s used (MFU)",
        percent,
    ),
    Quantity(
        "infeasible_utterances",
        "",
        "utterances too short for their text, left out of the CTC term (repetitions counted)",
        count,
    ),
    Quantity("peak_memory_bytes", "", "peak memory {memory}", mebibytes),
    Quantity("energy_joules", "", "energy", JOULES, cost="J"),
    Quantity(
        "real_time_factor_seconds_per_second",
        "real_time_factor",
        "running cost, seconds per second of audio (real-time factor)",
        partial(digits, number=2),
    ),
    Quantity(
        "encoder_seconds_per_second",
        "encoder_factor",
        "part of this for features and encoder; the rest is search with the decoder",
        partial(digits, number=2),
        of_arm=costs.encoder_factor,
    ),
    Quantity("sessions"),
    Quantity("finished"),
)
BY_COLUMN = {quantity.column: quantity for quantity in QUANTITIES}
COSTS = tuple(quantity for quantity in QUANTITIES if quantity.cost)
