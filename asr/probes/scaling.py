"""Time and peak memory of forward and backward: layers against their references, and encoders.

A comparison is a subject and the obvious way to do the same or to do without it, of equal width;
both take turns within one run, so that their ratio holds on a noisy machine. Encoders of recipes
take turns as well; beside them stands what their formulas say.
"""

import argparse
import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.config import shipped, strict_yaml
from asr.encoders import ENCODERS, Encoder, state_bytes
from asr.files import new_folder
from asr.loss import collected, weighted
from asr.metering.environment import environment, processor
from asr.probes.layers import COMPARISONS, full
from asr.probes.measure import alternate, equal_precision
from asr.probes.output import write_probe
from asr.probes.table import Row, everything, to_tables

log = logging.getLogger(__name__)

NUM_MELS = 80
TRAINING, ENCODING = "training", "encoding"
ENCODER_TIMES = (400, 1600, 6400)  # feature frames: 4, 16 and 64 s


class Features(nn.Module):
    """An encoder over utterances without padding."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, S, D)."""
        return self.encoder(x, full(x))[0]


def training(module: nn.Module, x: Tensor) -> Callable[[], None]:
    """One pass forward and back, auxiliary losses included; it leaves no gradients behind."""

    def step() -> None:
        try:
            with collected() as terms:
                y = module(x)
            tensors = [y, *([weighted(terms)] if any(t.weight for t in terms.values()) else [])]
            torch.autograd.backward(tensors, [torch.ones_like(t) for t in tensors])
        finally:  # also when the memory did not suffice
            module.zero_grad(set_to_none=True)
            x.grad = None

    return step


def encoding(module: nn.Module, x: Tensor) -> Callable[[], None]:
    """One pass forward that nothing is learnt from."""

    def step() -> None:
        with torch.inference_mode():
            module(x)

    return step


def compare(
    name: str, times: Sequence[int], *, batch: int, dim: int, device: str, repeats: int
) -> list[Row]:
    """The rows of one comparison."""
    comparison = COMPARISONS[name]
    words = (name, comparison.subject, comparison.reference)
    rows = []
    for time in times or comparison.times:
        log.info("%s, %d frames", name, time)
        torch.manual_seed(0)
        try:
            pair = [module.to(device).train() for module in comparison.build(dim)]
        except (ValueError, ImportError) as error:  # no such encoder, or of another width
            rows.append(Row(*words, time, batch, None, error=str(error)))
            continue
        # Below a layer lie others, which need the gradient of its input.
        x = torch.randn(batch, time, dim, device=device, requires_grad=True)
        steps = [training(module, x) for module in pair]
        subject, reference = alternate(steps, device=device, repeats=repeats)
        failed = "; ".join(
            f"{side}: out of memory"
            for side, cost in (("subject", subject), ("reference", reference))
            if cost is None
        )
        rows.append(Row(*words, time, batch, subject, reference, error=failed))
    return rows


def measure_encoders(
    recipes: dict[str, strict_yaml.Component],
    times: Sequence[int],
    *,
    batch: int,
    device: str,
    repeats: int,
) -> list[Row]:
    """Two rows per encoder and length: training and encoding; all encoders take turns."""
    encoders: dict[str, Encoder] = {}
    for name, component in recipes.items():
        torch.manual_seed(0)
        encoders[name] = component(NUM_MELS).to(device).train()
    rows = []
    for time in times or ENCODER_TIMES:
        log.info("%d encoders, %d feature frames", len(encoders), time)
        x = torch.randn(batch, time, NUM_MELS, device=device)
        steps = []
        for encoder in encoders.values():
            steps.append(training(Features(encoder), x))
            steps.append(encoding(Features(copy.deepcopy(encoder)).eval(), x))
        costs = iter(alternate(steps, device=device, repeats=repeats))
        for name, encoder in encoders.items():
            flops = encoder.flops([time] * batch)
            facts: dict[str, Any] = {
                "parameters": sum(p.numel() for p in encoder.parameters()),
                "state_bytes": streamed_bytes(encoder, time) if encoder.causal else None,
            }
            for subject, passes in ((TRAINING, 3), (ENCODING, 1)):
                cost = next(costs)
                error = "" if cost else "out of memory"
                words = (name, subject, "", time, batch, cost)
                rows.append(Row(*words, flops=passes * flops, error=error, **facts))
    return sorted(rows, key=lambda row: (list(recipes).index(row.name), row.subject != TRAINING))


def streamed_bytes(encoder: Encoder, time: int) -> int:
    """What a causal encoder remembers of one utterance of ``time`` frames, in whole chunks."""
    encoder = copy.deepcopy(encoder).eval()
    state = encoder.initial_state(1)
    device = next(encoder.parameters()).device
    chunks = time // encoder.chunk
    with torch.inference_mode():
        for count in [8] * (chunks // 8) + [1] * (chunks % 8):
            x = torch.randn(1, count * encoder.chunk, NUM_MELS, device=device)
            state = encoder.step(x, state)[1]
    return state_bytes(state)


def add_options(options: argparse.ArgumentParser) -> None:
    """Those of ``asr claims scaling``, beside --device and --output."""
    rows = ", ".join([*COMPARISONS, *small_encoders()])
    options.add_argument("--rows", nargs="+", metavar="NAME", help=f"all; of {rows}")
    options.add_argument(
        "--encoders", nargs="+", metavar="NAME", help="recipes, or YAML files; all small ones"
    )
    options.add_argument(
        "--times", nargs="+", type=count, default=[], metavar="T", help="lengths; those of each row"
    )
    options.add_argument("--batch", type=count, default=4, metavar="B", help="utterances; 4")
    options.add_argument("--dim", type=count, default=192, metavar="D", help="of the layers; 192")
    options.add_argument("--repeats", type=count, default=5, metavar="N", help="of each call; 5")


def count(text: str) -> int:
    """A number above zero."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def small_encoders() -> list[str]:
    """The names of the small recipes that ship."""
    return [name for name in shipped.names("encoders") if name.endswith("-small")]


def encoder_files(given: Sequence[str] | None) -> dict[str, Path]:
    """The recipes of ``--encoders`` by name; the small ones where it is not given.

    Raises:
        ValueError: no recipe has such a name.
    """
    paths = [shipped.find(text, "encoders") for text in given or small_encoders()]
    return {path.stem: path for path in paths}


def run(known: argparse.Namespace, device: str) -> int:
    """Measures, writes scaling.json, .csv and .md and prints the last; 1 if a row failed.

    Raises:
        ValueError: no such row, or a recipe that is wrong.
    """
    recipes = encoder_files(known.encoders)
    names = [*COMPARISONS, *recipes]
    if len(recipes) < len(known.encoders or ()) or len(set(names)) < len(names):
        raise ValueError("--encoders: two rows of one name; rename a recipe file")
    for name in known.rows or ():
        if name not in names:
            raise ValueError(f"--rows {name}: no such row; choose of {', '.join(names)}")
    chosen = [name for name in names if not known.rows or name in known.rows]
    components = {
        name: strict_yaml.read_component(
            ENCODERS, strict_yaml.load_file(recipes[name]), str(recipes[name]), 1
        )
        for name in chosen
        if name in recipes
    }
    settings = {"batch": known.batch, "device": device, "repeats": known.repeats}
    rows: list[Row] = []
    with new_folder(known.output), equal_precision(device):
        machine = facts(device)
        for name in chosen:
            if name in COMPARISONS:
                rows += compare(name, known.times, dim=known.dim, **settings)
                page = save(rows, machine, known.output)  # a later row may be interrupted
        if components:
            rows += measure_encoders(components, known.times, **settings)
            page = save(rows, machine, known.output)
    print(page, end="")
    print(f"written: {known.output / 'scaling.md'} (beside it scaling.csv, scaling.json)")
    failed = sum(bool(row.error) for row in rows)
    if failed:
        log.warning("%d of %d rows failed, see above", failed, len(rows))
    return int(failed > 0)


def save(rows: Sequence[Row], machine: dict[str, Any], output: Path) -> str:
    """Writes the three files, in place of those of fewer rows; the Markdown page."""
    page = to_tables(rows, machine)
    lines = [row.flat() for row in rows]
    write_probe(output, "scaling", lines, everything(rows, machine), page)
    return page


def facts(device: str) -> dict[str, Any]:
    """What a time depends on beside the code."""
    is_cpu = torch.device(device).type == "cpu"
    return {
        **environment(),
        "device": device,
        "device_name": processor() if is_cpu else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "precision": "float32" if is_cpu else "tf32",
    }
