"""Measures what one training step of each encoder costs, and where the time goes.

python -m benchmarks.profile_step --size small --output runs/profile [--key.path value ...]

The keys are those of a recipe, as for `asr train`, and a step is the same as in `asr train`. The
benchmark takes ``--updates`` updates ``--warm`` times and then repeats the same batches under the
ledger of a run. The ledger gives audio-hours per device-hour, the utilisation of the device,
memory, joules and the share of data wait. The warm-up matters because on a GPU an update may take
twice as long the first time a batch shape occurs, and in a long run few shapes are new. Then the
averaged model encodes the longest batch ``--repeats`` times. Last, the profiler repeats the last
update and gives these numbers:

- kernels: number of kernels that the update launched on the GPU. On a CPU: number of operators
  that called no other operator.
- idle: share of the seconds of the update in which no kernel ran (from the union of the intervals
  of all kernels).
- launch: share of the seconds of the update that the CPU spent in the driver calls that launch
  kernels and copies.

The profiler itself slows the CPU, so idle and launch are upper bounds. They are not defined on a
CPU, where the peak of memory is the peak of the process so far.

On a CPU, MFU is the share of the speed of one large matrix product, which is measured with the same
threads before and after the updates. A second table then divides the operators' own time in the
profiled update between these parts, forward and backward together:

- features: waveforms to log-mel frames, and augmentation.
- front end: the convolutions before the first layer, with their projection.
- recurrent kernel, attention kernel, products (of matrices), copies, elementwise: operators of the
  layers of the encoder. Copies also fill, join, pad and pick values.
- decoder: the decoder with its loss.
- optimiser: the optimiser, the averages of the weights, and the clipping of gradients.

Give the threads by OMP_NUM_THREADS. The keys ``--encoder.subsampling 8 --decoder ctc
--data.max_batch_seconds 60`` profile what one of two processes of a run computes.

Every encoder is a line of steps.jsonl. The benchmark does not measure an encoder again that the
file contains.
"""

import argparse
import contextlib
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from asr.batch import Batch
from asr.config import shipped, strict_yaml
from asr.files import read_json_lines, write
from asr.kernels.linear import linear
from asr.metering.environment import environment
from asr.metering.meter import Ledger
from asr.recipe.schema import Recipe
from asr.training.average import MovingAverage
from asr.training.data import SpeechDataModule
from asr.training.machine import kernel_precision, make_trainer, quiet_lightning
from asr.training.speech import SpeechModule

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMem")  # beginnings
OPERATORS = ("aten", "mkldnn")
MOST = 8  # kernels named per encoder
LAYERS = "layers"
# Operators of the layers, by what their names contain; the first that fits counts.
KINDS = {
    "recurrent kernel": ("rnn", "lstm", "gru"),
    "attention kernel": ("attention",),
    "products": ("linear", "aten::mm", "addmm", "bmm", "matmul"),
    "copies": ("copy", "cat", "index_select", "fill", "zero", "pad", "clone", "contiguous"),
}
PARTS = ["features", "front end", *KINDS, "elementwise", "decoder", "optimiser"]
PRODUCT = 2048  # rows and columns of the large matrices
COLUMNS = {
    "encoder": "{encoder}",
    "M param.": "{parameters:.2f}",
    "ms / update": "{update_ms:.1f}",
    "audio-h / device-h": "{audio_hours_per_device_hour:.0f}",
    "encoding, audio-h / device-h": "{encoded_hours_per_device_hour:.0f}",
    "MFU": "{mfu}",
    "peak GB": "{peak_gb:.2f}",
    "J / audio-h": "{joules}",
    "data wait": "{data_wait:.1%}",
    "kernels": "{kernels}",
    "idle": "{idle}",
    "launch": "{launch}",
}

Row = dict[str, Any]


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of (start, end) intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def is_kernel(event: Any) -> bool:
    """Whether a profiler's event is work on the GPU, and not a range that marks such work."""
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation


def read_profile(events: Sequence[Any], seconds: float, cuda: bool) -> Row:
    """Kernels, idle and launch share of an update of so many seconds, and the dearest kernels."""
    dearest: Counter[str] = Counter()
    if cuda:
        kernels = [event for event in events if is_kernel(event)]
        for event in kernels:
            dearest[event.name] += event.time_range.elapsed_us()
    else:
        operators = [event for event in events if event.name.split("::")[0] in OPERATORS]
        kernels = [event for event in operators if not event.cpu_children]
        for event in operators:
            dearest[event.name] += event.self_cpu_time_total
    row: Row = {
        "kernels": len(kernels),
        "profiled_seconds": seconds,
        "dearest_ms": {name: us / 1000 for name, us in dearest.most_common(MOST)},
        "idle_share": None,
        "launch_share": None,
    }
    if cuda:
        busy = covered((e.time_range.start, e.time_range.end) for e in kernels) / 1e6
        launches = [e for e in events if e.name.startswith(LAUNCHES)]
        launching = sum(e.time_range.elapsed_us() for e in launches) / 1e6
        row |= {"idle_share": 1 - busy / seconds, "launch_share": launching / seconds}
        row["launches"] = len(launches)
    return row


def shares(events: Sequence[Any]) -> dict[str, float]:
    """Share of the operators' own time on a CPU by part; see the top of this file."""
    ranges = {*PARTS, LAYERS}
    numbered: dict[int, str] = {}  # the range of each operator of the forward pass, by its number
    total = dict.fromkeys(PARTS, 0.0)
    for event in events:
        chain = [event]
        while chain[-1].cpu_parent is not None:
            chain.append(chain[-1].cpu_parent)
        part = next((e.name for e in chain if e.name in ranges), "optimiser")
        backward = [e for e in chain if e.name.startswith("autograd::") and e.sequence_nr >= 0]
        if backward:  # has the number of its operator of the forward pass
            part = numbered.get(backward[0].sequence_nr, part)
        elif event.sequence_nr >= 0:
            numbered[event.sequence_nr] = part
        if part == LAYERS:
            kinds = (kind for kind, names in KINDS.items() if any(n in event.name for n in names))
            part = next(kinds, "elementwise")
        total[part] += event.self_cpu_time_total
    return {part: time / sum(total.values()) for part, time in total.items()}


@contextlib.contextmanager
def marked(owner: Any, method: str, name: str) -> Iterator[None]:
    """Inside the block, each call of a method is a range of the profiler with this name."""
    original = getattr(owner, method)

    def call(*arguments: Any, **options: Any) -> Any:
        with record_function(name):
            return original(*arguments, **options)

    setattr(owner, method, call)
    yield
    delattr(owner, method)


def product_flops() -> float:
    """FLOP/s of a large product of matrices on the CPU, by the kernel that layers use."""
    x, weight, taken = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT), []
    for _ in range(5):
        began = time.perf_counter()
        linear(x, weight)
        taken.append(time.perf_counter() - began)
    return 2 * PRODUCT**3 / min(taken)


class Bench(L.Callback):
    """A run on a Trainer whose updates are taken here instead of by its loop.

    Attributes:
        row: what was measured.
    """

    def __init__(self, recipe: Recipe, folder: Path, warm: int, updates: int, repeats: int):
        self.warm, self.number, self.repeats = warm, updates, repeats
        self.module, self.data = SpeechModule(recipe), SpeechDataModule(recipe)
        self.trainer = make_trainer(recipe, folder)
        self.device = self.trainer.strategy.root_device
        precision = kernel_precision(recipe.trainer, self.device)
        self.ledger = Ledger(folder, self.device, 1, precision, began=time.time())
        self.average = MovingAverage()
        self.trainer.callbacks[:0] = [self.average, self]
        self.data.enter = self.ledger.enter
        with quiet_lightning():
            self.trainer.fit(self.module, datamodule=self.data)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Everything is on the device: measures, and leaves Lightning's loop nothing to do."""
        self.go_back(0)
        on_cpu = self.device.type == "cpu"
        fastest = product_flops() if on_cpu else 0.0
        for _ in range(self.warm):
            self.updates(self.number)
            self.go_back(self.number)
        self.row = self.timed(self.number)
        if on_cpu:
            fastest = max(fastest, product_flops())
            achieved = self.row["train_flops"] / self.row["seconds"]
            self.row |= {"product_flops": fastest, "threads": torch.get_num_threads()}
            self.row["model_flops_utilisation"] = achieved / fastest
        self.row["encoded_hours_per_device_hour"] = self.encoding(self.repeats)
        self.go_back(1)
        self.row |= self.profiled()
        trainer.should_stop = True

    def synchronize(self) -> None:
        """Until a GPU has done all that it was asked to."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def step(self, batch: Batch) -> None:
        """One update, as Lightning's loop takes it."""
        module, strategy = self.module, self.trainer.strategy

        def closure() -> torch.Tensor:
            return strategy.backward(strategy.training_step(batch, 0), None)

        module.optimizer_step(0, 0, module.optimizers(), closure)
        self.average.on_train_batch_end(self.trainer, module)
        self.ledger.count(**module.amounts(batch))

    def updates(self, number: int) -> list[float]:
        """Takes so many; seconds of each, data wait included."""
        taken = []
        for _ in range(number):
            self.synchronize()
            began = time.perf_counter()
            self.step(self.trainer.strategy.batch_to_device(next(self.batches)))
            self.synchronize()
            taken.append(time.perf_counter() - began)
        self.ledger.enter("startup")
        return taken

    def go_back(self, number: int) -> None:
        """The next updates have the batches of the last ones, augmented as then."""
        self.data.position -= number
        self.batches = iter(self.data.train_dataloader())

    def timed(self, number: int) -> Row:
        """Cost of so many updates from the ledger, which begins with them."""
        before = self.ledger.line("before")
        taken = self.updates(number)
        after = self.ledger.line("after")
        wait, step = (
            after["seconds"][phase] - before["seconds"][phase] for phase in ("data_wait", "step")
        )
        heard, flops = (after[key] - before[key] for key in ("audio_seconds", "train_flops"))
        joules = [line["energy_joules"] for line in (before, after)]
        metered = None not in joules
        peak = self.ledger.peak_flops
        return {
            "update_seconds": taken,
            "audio_seconds": heard,
            "train_flops": flops,
            "seconds": wait + step,
            "audio_hours_per_device_hour": heard / (wait + step),
            "data_wait_share": wait / (wait + step),
            "model_flops_utilisation": flops / (wait + step) / peak if peak else None,
            "peak_memory_bytes": after["peak_memory_bytes"],
            "joules_per_audio_hour": (joules[1] - joules[0]) / heard * 3600 if metered else None,
            "energy_note": after["energy_note"],
        }

    @torch.inference_mode()
    def encoding(self, repeats: int) -> float:
        """Audio-hours per device-hour of features and encoder alone, on the longest batch."""
        batch = self.data.longest_batch().to(self.device)
        heard = float(batch.wave_lengths.sum()) / self.module.recipe.features.sample_rate
        taken = []
        with self.trainer.precision_plugin.forward_context():
            for _ in range(repeats + 1):  # the first warms up
                self.synchronize()
                began = time.perf_counter()
                self.module.evaluated.encode(batch.waves, batch.wave_lengths)
                self.synchronize()
                taken.append(time.perf_counter() - began)
        return heard / statistics.median(taken[1:])

    def profiled(self) -> Row:
        """One update under the profiler."""
        cuda = self.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        with contextlib.ExitStack() as stack:
            model = self.module.model
            for owner, method, part in (
                (self.module, "loss", "features"),
                (model.encoder, "forward", LAYERS),
                (model.encoder.subsampling, "forward", "front end"),
                (model.decoder, "loss", "decoder"),
            ):
                stack.enter_context(marked(owner, method, part))
            with profile(activities=activities, acc_events=True) as profiler:
                (seconds,) = self.updates(1)
        row = read_profile(profiler.events(), seconds, cuda)
        return row if cuda else row | {"parts": shares(profiler.events())}


def measure(recipe: Recipe, warm: int, updates: int, repeats: int) -> Row:
    """Everything about one encoder."""
    if torch.cuda.is_available():
        gc.collect()  # of the encoder before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it complains that there is no GPU
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(recipe, Path(folder), warm, updates, repeats)
        bench.ledger.close()
        row = bench.row
        row["parameters"] = bench.module.model.num_parameters()
        row["recurrent_kernel"] = bench.module.recurrent_kernel
        row["device_name"] = bench.ledger.device_name
        row["precision"] = bench.ledger.precision
    return row


def table(rows: Sequence[Row]) -> str:
    """Markdown; a dash where a machine cannot tell."""

    def or_dash(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    lines = [f"| {' | '.join(COLUMNS)} |", "| --- |" + " --: |" * (len(COLUMNS) - 1)]
    for row in rows:
        values = {
            **row,
            "parameters": sum(row["parameters"].values()) / 1e6,
            "update_ms": 1000 * statistics.median(row["update_seconds"]),
            "peak_gb": row["peak_memory_bytes"] / 1e9,
            "data_wait": row["data_wait_share"],
            "mfu": or_dash(row["model_flops_utilisation"], ".1%"),
            "joules": or_dash(row["joules_per_audio_hour"], ".0f"),
            "idle": or_dash(row["idle_share"], ".1%"),
            "launch": or_dash(row["launch_share"], ".1%"),
        }
        lines.append(f"| {' | '.join(form.format_map(values) for form in COLUMNS.values())} |")
    return "\n".join(lines)


def page(rows: Sequence[Row]) -> str:
    """The table, the dearest kernels of every encoder, and what it was made with."""
    told = [f"# A training step of each encoder\n\n{table(rows)}\n"]
    if parts := [row for row in rows if "parts" in row]:
        told.append(f"| encoder | {' | '.join(PARTS)} | GFLOP/s of a large product |")
        told.append("| --- |" + " --: |" * (len(PARTS) + 1))
        for row in parts:
            cells = [f"{row['parts'][part]:.1%}" for part in PARTS]
            cells.append(f"{row['product_flops'] / 1e9:.0f} (threads: {row['threads']})")
            told.append(f"| {row['encoder']} | {' | '.join(cells)} |")
        told.append("")
    told += ["Kernels that take the longest in one update, ms:\n"]
    for row in rows:
        named = ", ".join(f"{name[:60]} {ms:.2f}" for name, ms in row["dearest_ms"].items())
        told.append(f"- {row['encoder']}: {named}")
        if row["recurrent_kernel"] is not None:
            told.append(f"  (recurrences: {row['recurrent_kernel']})")
    machine = environment()
    first = rows[0]
    told.append(
        f"\n{first['device_name']}, {first['precision']}, torch {machine['torch']}, commit "
        f"{machine['git_commit']}. {first['options']}"
    )
    return "\n".join(told) + "\n"


def recipe_files(names: Sequence[str], size: str) -> list[Path]:
    """Encoder recipes of a size, all or those named, in the order of the names.

    Raises:
        ValueError: one is not there.
    """
    found = [f"{name}-{size}" for name in names] or [
        name for name in shipped.names("encoders") if name.endswith(f"-{size}")
    ]
    return [shipped.find(name, "encoders") for name in found]


def work(given: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Measures what is missing, and writes the page after each.

    Raises:
        ValueError: a key or a file is wrong, or memory runs out.
    """
    given.output.mkdir(parents=True, exist_ok=True)
    lines, page_path = given.output / "steps.jsonl", given.output / "profile.md"
    options = {"recipe": given.recipe, "warm": given.warm, "updates": given.updates}
    options |= {"repeats": given.repeats, "overrides": list(overrides)}
    for path in recipe_files(given.encoders, given.size):
        rows = read_json_lines(lines)[0] if lines.is_file() else []
        if any((row["encoder"], row["options"]) == (path.stem, options) for row in rows):
            continue
        words = ["--encoder", str(path), "--budget", "{updates: 1000000}", *overrides]
        tree = strict_yaml.override(
            strict_yaml.load_file(shipped.find(given.recipe, "tasks")), words, Recipe
        )
        row = {"encoder": path.stem, "options": options}
        row |= measure(strict_yaml.read(Recipe, tree), given.warm, given.updates, given.repeats)
        with lines.open("a") as file:
            file.write(json.dumps(row) + "\n")
        write(page_path, page([*rows, row]))
        print(table([row]).splitlines()[-1], flush=True)
    print(f"written: {page_path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line; 2 after a mistake, told in one line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="mini_librispeech", help="name or path")
    parser.add_argument("--encoders", nargs="+", default=[], help="as lstm transformer; all")
    parser.add_argument("--size", default="small", help="tiny, small, base, large; small")
    parser.add_argument("--warm", type=int, default=1, help="times before; 1 (CUDA graphs: 3)")
    parser.add_argument("--updates", type=int, default=20, help="timed; 20")
    parser.add_argument("--repeats", type=int, default=10, help="of encoding alone; 10")
    parser.add_argument("--output", type=Path, default=Path("runs/profile"))
    try:
        work(*parser.parse_known_args(arguments))
    except ValueError as error:
        print(f"profile_step: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
