"""Compares asr and SpeechBrain: seconds per training step and per decoded second of audio.

``scripts/benchmark_speechbrain`` makes the environment and runs this module. The comparison keeps
these things equal:

- Input: both sides get the same padded log-mel tensors of 16 utterances of 5 to 10 s. The time of
  the features is not measured.
- Models: both sides have the sizes of recipes/encoders/*-small.yaml, and their numbers of
  parameters differ by at most 5 %. SpeechBrain's front end is its ConvolutionFrontEnd with the two
  convolutions of asr (kernel 3, stride 2, 32 channels, ReLU, no norm, no dropout) and a linear
  layer. Both front ends make one output frame from 4 input frames. SpeechBrain's encoder and
  decoder are either nnet.RNN.LSTM and an AttentionalRNNDecoder (LSTM cells, location-aware
  attention), or a pre-norm TransformerASR. The context of the AttentionalRNNDecoder has the
  decoder's inner width, so the context of asr has this width, too.
- Training: the loss is 0.7 cross-entropy (label smoothing 0.1) + 0.3 CTC, computed in SpeechBrain
  by the functions of its recipes. Dropout is 0.1. A step is the forward pass, the backward pass
  and an update of the same AdamW. SpeechBrain's modules are called without its training loop.
- Decoding: the input is features and the output is tokens, in eval mode. The weights are random.
  Therefore both sides exclude the end of sentence until an utterance has as many tokens as its
  transcript, and force the end of sentence then. Both sides take the same number of steps and
  write the same number of tokens, which is checked. Greedy search runs without CTC because
  SpeechBrain's greedy search has none. Beam search gives CTC a weight of 0.3, with one or eight
  hypotheses.
- Device: the device is a CPU, or a GPU with ``--device cuda``. On a GPU both sides round float32
  products to TF32 and use the fused optimiser of torch. ``--batch`` sets the number of utterances.
- Threads: ``--threads`` sets the number of threads of the one process. ``--updates`` measures an
  update on all cores instead, each side in the way that suits it best; see ``benchmarks.updates``.
- Time: the members of a group take turns in every round. The first round is not counted (beam 8
  has no such round). The results are the median wall time, and the range over rounds of the ratio
  of asr's time to SpeechBrain's.

These differences remain:

- SpeechBrain's LSTM has no norms and no residual connections. SpeechBrain's CRDNN calls the LSTM
  without lengths, so its backward direction reads the padding first. The variant "packed" gives it
  lengths, which is the work that asr does.
- SpeechBrain's front end pads by reflection. The front end of asr pads with zeros.
- SpeechBrain's location-aware attention passes no gradient to the previous alignment. The
  attention of asr does.
- SpeechBrain's Transformer also applies dropout to the attention weights. The variant "attention
  undropped" does not. It has rotary positions in the encoder only. The variant "regularMHA",
  SpeechBrain's default, has sinusoidal positions.
- SpeechBrain's CTC scores the 16 best tokens of each hypothesis. The variant "all tokens" scores
  the whole vocabulary, as asr does.
"""

import argparse
import json
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from asr.metering.environment import environment
from benchmarks import updates
from benchmarks.contenders import (
    BEAM,
    CTC_WEIGHT,
    Input,
    Ours,
    TheirLSTM,
    Theirs,
    TheirTransformer,
    draw,
    our_lstm,
    our_transformer,
)

ENCODE = "encoder alone"
SEARCHES = {
    "greedy": (1, 0.0),
    "CTC, beam 1": (1, CTC_WEIGHT),
    f"CTC, beam {BEAM}": (BEAM, CTC_WEIGHT),
}


@dataclass
class Timing:
    """What one model took for one task, round by round."""

    task: str
    encoder: str
    model: str
    parameters: int
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def run(self, work: Callable[[], object]) -> None:
        """Times one call, to the end of what it asked a GPU for."""
        synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        synchronize()
        self.seconds.append(time.perf_counter() - wall)
        self.cpu_seconds.append(time.process_time() - cpu)


def synchronize() -> None:
    """Until a GPU has done all that it was asked to."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def race(
    task: str, encoder: str, works: dict[str, tuple], rounds: int, warm: bool = True
) -> list[Timing]:
    """Name -> (model, function, whether in every round); times them in turn, ours first.

    ``warm``: one more round before, which does not count.
    """
    logging.info("%s, %s", encoder, task)
    timings = {name: Timing(task, encoder, name, count(work[0])) for name, work in works.items()}
    for number in range(0 if warm else 1, rounds + 1):
        for name, (_, work, always) in works.items():
            if number == 0 and always:
                work()
            elif always or number == 1:
                timings[name].run(work)
    return list(timings.values())


def count(model: torch.nn.Module) -> int:
    """Trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def trainer(model: Ours | Theirs, x: Input) -> Callable[[], None]:
    """One training step."""
    fused = True if x.features.is_cuda else None  # None: as torch sees fit
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused)

    def step() -> None:
        optimizer.zero_grad()
        model.loss(x).backward()
        optimizer.step()

    return step


def training(encoder: str, models: dict, x: Input, rounds: int) -> list[Timing]:
    """All models' training steps."""
    works = {name: (model.train(), trainer(model, x), True) for name, model in models.items()}
    return race("training step", encoder, works, rounds)


@torch.no_grad()
def decoding(encoder: str, models: dict, x: Input, steps: int, decodes: int) -> list[Timing]:
    """All models' encoders alone, and each search; searches of many seconds need no warming."""

    def encode(model: Ours | Theirs) -> Callable[[], object]:
        return lambda: model.encode(x)

    def transcribe(model: Ours | Theirs, *options: float | bool) -> Callable[[], None]:
        def work() -> None:
            lengths = [len(tokens) for tokens in model.transcribe(x, *options)]
            assert lengths == x.token_lengths.tolist(), lengths

        return work

    works = {name: (model.eval(), encode(model), True) for name, model in models.items()}
    timings = race(ENCODE, encoder, works, steps)
    for task, options in SEARCHES.items():
        works = {name: (m, transcribe(m, *options), True) for name, m in list(models.items())[:2]}
        if options[0] > 1 and encoder == "LSTM":
            theirs = list(models.values())[1]
            works["SpeechBrain, all tokens"] = (theirs, transcribe(theirs, *options, True), False)
        if decodes:
            timings += race(task, encoder, works, decodes, warm=options[0] == 1)
    return timings


def compare(timings: list[Timing], audio_seconds: float) -> list[dict]:
    """A row for each model of theirs beside ours of the same task."""
    rows = []
    for theirs in timings:
        ours = next(t for t in timings if (t.task, t.encoder) == (theirs.task, theirs.encoder))
        if theirs is ours:
            continue
        unit = 1.0 if theirs.task == "training step" else audio_seconds
        ratios = [a / b for a, b in zip(ours.seconds, theirs.seconds, strict=False)]
        rows.append(
            {
                "encoder": theirs.encoder,
                "task": theirs.task,
                "against": theirs.model,
                "unit": "s/step" if unit == 1 else "s per second of audio",
                "ours": spread(ours.seconds, unit),
                "theirs": spread(theirs.seconds, unit),
                "ratio": statistics.median(ours.seconds) / statistics.median(theirs.seconds),
                "ratio_range": [min(ratios), max(ratios)],
                "parameters": [ours.parameters, theirs.parameters],
            }
        )
    return rows


def spread(seconds: list[float], unit: float) -> dict[str, float]:
    """Median, least and most per unit."""
    functions = {"median": statistics.median, "min": min, "max": max}
    return {name: function(seconds) / unit for name, function in functions.items()}


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    lines = [
        "| encoder | task | against | ours | theirs | ours / theirs | parameters, M |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        low, high = row["ratio_range"]
        cells = [row["encoder"], row["task"], row["against"]]
        for side in ("ours", "theirs"):
            cells.append("{median:.3g} ({min:.3g}-{max:.3g})".format(**row[side]))
        cells.append(f"**{row['ratio']:.2f}** ({low:.2f}-{high:.2f})")
        cells.append(" / ".join(f"{number / 1e6:.2f}" for number in row["parameters"]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def contenders() -> dict[str, dict[str, Ours | Theirs]]:
    """The models by encoder: ours, then SpeechBrain's as near to it as can be, then its others.

    Raises:
        ValueError: parameters differ by more than 5 %.
    """
    found = {
        "LSTM": {
            "ours": our_lstm(),
            "SpeechBrain": TheirLSTM(),
            "SpeechBrain, packed": TheirLSTM(packed=True),
        },
        "Transformer": {
            "ours": our_transformer(),
            "SpeechBrain": TheirTransformer(),
            "SpeechBrain, attention undropped": TheirTransformer(attention_dropout=False),
            "SpeechBrain, regularMHA": TheirTransformer(attention="regularMHA"),
        },
    }
    for models in found.values():
        ours, *others = [count(model) for model in models.values()]
        for theirs in others:
            if abs(ours / theirs - 1) > 0.05:
                raise ValueError(f"{ours} and {theirs} parameters differ by more than 5 %")
    return found


def show_updates(options: argparse.Namespace) -> None:
    """Compares updates on all cores and prints the table."""
    load = os.getloadavg()[0]
    rows, machine = updates.compare(options), environment()
    report = {"machine": machine, "load": load, "rows": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1))
    print(updates.table(rows))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "speechbrain"))
    print(f"\n{machine['cpu']}, {options.threads} cores, load {load:.1f} before; {versions}")


def main() -> None:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--updates", action="store_true", help="only updates, on all cores")
    parser.add_argument("--rounds", type=int, default=3, help="with --updates; 3")
    parser.add_argument("--steps", type=int, default=7, help="rounds of training steps")
    parser.add_argument("--decodes", type=int, default=3, help="rounds of each search; 0: none")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; cpu")
    parser.add_argument("--batch", type=int, default=16, help="utterances; 16")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/against_speechbrain.json"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("speechbrain").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*mismatched.*mask")  # of SpeechBrain's masks
    if options.updates:
        show_updates(options)
        return
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    started, load = time.time(), os.getloadavg()
    torch.set_float32_matmul_precision("high" if options.device == "cuda" else "highest")
    x = draw(options.seed, options.batch).to(options.device)
    timings = []
    for encoder, models in contenders().items():
        for model in models.values():
            model.to(options.device)
        timings += training(encoder, models, x, options.steps)
        timings += decoding(encoder, models, x, options.steps, options.decodes)
    rows = compare(timings, x.audio_seconds)
    report = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": options.threads,
        "seed": options.seed,
        "versions": {name: version(name) for name in ("torch", "speechbrain")},
        "machine": environment(),
        "load_average": {"before": load, "after": os.getloadavg()},
        "batch": {
            "utterances": len(x.frames),
            "audio_seconds": x.audio_seconds,
            "padded_seconds": 0.01 * x.features.shape[0] * x.features.shape[1],
            "tokens": int(x.token_lengths.sum()),
        },
        "wall_seconds": time.time() - started,
        "rows": rows,
        "timings": [asdict(timing) for timing in timings],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1))
    print(table(rows))
    described = {key: report[key] for key in ("threads", "seed", "versions", "batch")}
    print(f"\nTraining in s per step, the rest in s per second of audio. {described}")
    machine = f"{report['machine']['cpu']}, {report['machine']['cores']} cores"
    if options.device == "cuda":
        machine = f"{torch.cuda.get_device_name()}, {machine}"
    print(f"{machine}, load {load[0]:.1f} before; {report['wall_seconds']:.0f} s in all")


if __name__ == "__main__":
    main()
