"""Run folders as training and evaluation leave them, made by hand for the tests of the report."""

import hashlib
import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from asr.probes.context import ContextPoint, Effective
from asr.probes.horizon import Attempt

CPU = {"device_name": "EPYC", "device_kind": "cpu", "num_devices": 1}
H200 = {"device_name": "NVIDIA H200", "device_kind": "cuda", "num_devices": 2}
CURVE = ((100, 0.5), (200, 0.2), (300, 0.1), (400, 0.12))  # (wall seconds, WER)


def line(wall: float, wer: float | None = None, devices: int = 1, **facts: Any) -> dict[str, Any]:
    """A ledger line: 10 s of set-up, 80 % steps; 1 GFLOP and 20 s of audio in a second."""
    rest = wall - 10
    phases = {"step": 0.8, "data_wait": 0.02, "validation": 0.13, "checkpoint": 0.05}
    return {
        "event": "end" if wer is None else "validation",
        "updates": int(wall),
        "wall_seconds": wall,
        "device_hours": devices * wall / 3600,
        "seconds": {"startup": 10.0} | {name: share * rest for name, share in phases.items()},
        "wasted_seconds": 0.0,
        "audio_seconds": 20.0 * wall,
        "padded_seconds": 21.0 * wall,
        "train_flops": 1e9 * wall,
        "padded_train_flops": 1.1e9 * wall,
        "model_flops_utilisation": None,
        "peak_memory_bytes": 300 * 2**20,
        "energy_joules": None,
        "energy_note": "no energy counter for a cpu device",
        "validation": None if wer is None else {"wer": wer, "cer": wer / 2},
        "cpu_seconds": {"step": facts.pop("cpu_rate") * wall} if "cpu_rate" in facts else None,
    } | facts


def recorded(wall_to_cpu: float = 1.0, *texts: str) -> dict[str, Any]:
    """Facts for ``write_run`` of a run of this version, disturbed in the ways that texts tell.

    ``wall_to_cpu`` is the number of CPU seconds in a second.
    """
    disturbances = [{"kind": "core_wait", "value": 0.3, "text": text} for text in texts]
    return {
        "format": 3,
        "num_threads": 1,
        "cpu_rate": wall_to_cpu,
        "core_wait_share": 0.3 if texts else 0.01,
        "disturbances": disturbances,
    }


def write_run(
    folder: Path,
    encoder: str = "LSTM",
    *,
    seed: int = 1,
    curve: tuple[tuple[float, float], ...] = CURVE,
    errors: list[int] | None = None,
    speakers: int = 10,
    device: dict[str, Any] = CPU,
    parameters: int = 1000,
    rtf: float = 0.05,
    encode: float | None = None,
    recipe: dict[str, Any] | None = None,
    finished: bool = True,
    **facts: Any,
) -> Path:
    """A run folder as training and evaluation leave it; ``errors`` of 10-word utterances."""
    folder.mkdir(parents=True)
    tree = {
        "data": {"corpus": "data/spoken", "train": ["train"], "max_batch_seconds": 60.0},
        "features": {"num_mels": 80},
        "encoder": {"class_path": encoder, "init_args": {"dim": 64}},
        "decoder": {"class_path": "Transformer", "init_args": {"layers": 1}},
        "search": {"class_path": "Greedy"},
        "optimizer": {"lr": 0.001},
        "budget": {"device_hours": 0.125, "updates": None},
        "seed": seed,
    } | (recipe or {})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    environment = {"torch": "2.11.0", "git_commit": "abc1234", "command": f"asr train {encoder}"}
    environment |= {"format": facts["format"]} if "format" in facts else {}
    (folder / "environment.json").write_text(json.dumps(environment))
    devices = device["num_devices"]
    lines = [{"event": "start", "session": 1, **device, "from_update": 0, "wasted_seconds": 0}]
    lines += [line(wall, wer, devices, **facts) for wall, wer in curve]
    if finished:
        lines.append(line(450, None, devices, **facts))
    write_lines(folder / "ledger.jsonl", lines)
    numbers = {"encoder": parameters, "decoder": 500}
    summary = {"parameters": numbers, "seed": seed, "finished": finished, "reason": "budget"}
    (folder / "ledger.json").write_text(json.dumps({**lines[-1], **device, **summary}))
    if errors is not None:
        write_evaluation(folder, errors, speakers, rtf, encode)
    return folder


def write_evaluation(
    folder: Path, errors: list[int], speakers: int, rtf: float, encode: float | None = None
) -> None:
    """``rtf`` and ``encode``: seconds in all and of the encoder for a second of audio, if known."""
    place = folder / "evaluations" / "test"
    place.mkdir(parents=True)
    rows = [
        {"id": f"u{i:04d}", "speaker_id": f"s{i % speakers}", "duration": 3.0}
        | {"substitutions": e, "deletions": 0, "insertions": 0, "hits": 10 - e}
        for i, e in enumerate(errors)
    ]
    write_lines(place / "hypotheses.jsonl", rows)
    rate = sum(errors) / (10 * len(errors))
    metrics = {
        "corpus": {"name": "spoken", "rows_sha256": f"{len(errors):064d}", "synthetic": True},
        "normaliser": "english",
        "search": "Greedy()",
        "utterances": len(errors),
        "real_time_factor": rtf,
        "device_name": "EPYC",
        "threads": 1,
        "batch_seconds": 120.0,
        "git_commit": "abc1234",
        "wer": {"rate": rate, "interval": [0.8 * rate, 1.2 * rate], "words": 10 * len(errors)},
        "cer": {"rate": rate / 2},
        "training": {"updates": 300},
    }
    if encode is not None:
        audio = 3.0 * len(errors)
        metrics |= {"audio_seconds": audio, "encode_seconds": encode * audio}
    (place / "metrics.json").write_text(json.dumps(metrics))


def write_best(folder: Path, updates: int) -> None:
    (folder / "best").mkdir()
    summary = json.dumps({"updates": updates, "seed": 1})
    path = folder / "best" / "model.safetensors"
    save_file({"weight": np.zeros(3, dtype=np.float32)}, path, {"summary": summary})


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def made(rate: float, number: int = 400, seed: int = 0) -> list[int]:
    """Errors of 10-word utterances at this rate."""
    return [int(e) for e in np.random.default_rng(seed).binomial(10, rate, size=number)]


def pair(folder: Path, **second: Any) -> list[Path]:
    """An LSTM and a Transformer; ``second`` changes the latter."""
    options = {"errors": made(0.1, seed=2)} | second
    return [
        write_run(folder / "a", errors=made(0.1, seed=1)),
        write_run(folder / "b", "Transformer", **options),
    ]


def seeds(
    folder: Path,
    encoder: str,
    rate: float,
    number: int = 5,
    slower: float = 1.0,
    number_of_utterances: int = 800,
    **options: Any,
) -> list[Path]:
    """Runs of one arm: errors about ``rate``, each target reached ``slower`` times as late."""
    curve = tuple((round(slower * wall), wer) for wall, wer in CURVE)
    return [
        write_run(
            folder / f"{encoder}-{seed}",
            encoder,
            seed=seed,
            curve=tuple((wall + seed, wer) for wall, wer in curve),
            errors=made(rate + 0.0005 * seed, number_of_utterances, seed=100 * seed),
            speakers=40,
            **options,
        )
        for seed in range(1, number + 1)
    ]


def write_horizon(
    folder: Path,
    horizons: dict[str, int],
    lags: list[int],
    number: int = 3,
    tasks: tuple[str, ...] = ("latch", "recall"),
) -> Path:
    """Attempts of arms that answer every lag up to theirs, at equal updates and seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for arm, longest in horizons.items():
        for lag in lags:
            good = 1.0 if lag <= longest else 0.1
            for task in tasks:
                rows += [
                    Attempt(
                        *(arm, task, lag, seed, 0.001, 100_000, good, good),
                        *(100, 10.0) if good == 1 else (None, None),
                        *(1500, 60.0, 1500, 60.0, "EPYC"),
                    )
                    for seed in range(number)
                ]
    write_lines(folder / "horizon.jsonl", [asdict(row) for row in rows])
    return folder


def write_probe(folder: Path, name: str, rows: list[dict[str, Any]], **rest: Any) -> Path:
    """The file of a probe as it writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    key = {"scaling": "rows", "roofline": "steps"}.get(name, "points")
    about = {"device_name": "EPYC", "threads": 1, "torch": "2.11.0", "git_commit": "abc1234"}
    tree = {"about" if name == "roofline" else "machine": about, key: rows} | rest
    (folder / f"{name}.json").write_text(json.dumps(tree))
    return folder


def write_context(folder: Path, contexts: dict[str, float | None]) -> Path:
    """Trained models, one per encoder, with the effective context of each in seconds."""
    points, runs = [], []
    for encoder, context in contexts.items():
        name = {"run": f"runs/{encoder}", "encoder": encoder, "decoder": "CTC", "seed": 1}
        for seconds in (0.0, 0.64, 5.12):
            few = context is None or seconds < context
            wer = 0.3 if few and seconds < 5.12 else 0.1
            point = ContextPoint(
                **name, context=seconds, frames=round(seconds / 0.04), whole=seconds == 5.12,
                loss=10 * wer, loss_ratio=10 * wer, ratio_low=8 * wer, ratio_high=12 * wer,
                errors=round(100 * wer), reference_words=100, wer=wer, low=0.9 * wer,
                high=1.1 * wer,
            )  # fmt: skip
            points.append(asdict(point))
        one = Effective(
            **name, search="Greedy(ctc_weight=None)", utterances=50, utterances_of=300,
            frame_seconds=0.04, chunk_seconds=0.04, loss=1.0, wer=0.1, context=context,
            context_low=context, context_high=None, again_above=[], half_life=0.25,
            half_life_low=0.2, half_life_high=0.3, agreement=0.98, exponent=1.2,
            aic_difference=12.3, law="exponential", sight=None, draws=100,
            gradient=[0.5**k for k in range(9)],
        )  # fmt: skip
        runs.append(asdict(one))
    plan = {"split": "validation", "seed": 0, "block": 1}
    return write_probe(folder, "context", points, runs=runs, plan=plan)


def stream(
    encoder: str, milliseconds: float, state: int, chunk: int = 4, repeats: int = 6
) -> list[dict[str, Any]]:
    """Points of one encoder at two positions of a stream; repeats differ by 1 % from the median."""
    shared: dict[str, Any] = {"encoder": encoder, "chunk": chunk, "batch": 1, "parameters": 1000}
    shared["repeats"] = [milliseconds * (1 + 0.01 * (k % 3 - 1)) for k in range(repeats)]
    return [
        shared
        | {"position": position, "milliseconds": milliseconds, "slowest": 2 * milliseconds}
        | {"state_bytes": state}
        for position in (400, 10_000)
    ]


def write_threads(
    folder: Path, lstm: list[float], transformer: list[float], product: float = 1.95
) -> Path:
    """Layers whose speed-ups on two threads are given by repeat, at batch 1 and 16."""
    speedups = {"LSTM": lstm, "Transformer": transformer, "MinLSTM": [1.0] * len(lstm)}
    rows = [
        {"layer": layer, "width": 320, "frames": 400, "batch": batch, "threads": 2, "flops": 1000}
        | {"seconds": 0.2 if layer == "MinLSTM" else 0.1, "one": [0.1] * len(lstm)}
        | {"many": [0.1 / gain for gain in gains], "share": [0.5] * len(lstm)}
        | {
            "ratio": [
                a / b if batch == 16 else 9.0 for a, b in zip(gains, transformer, strict=True)
            ]
        }
        for batch in (1, 16)
        for layer, gains in speedups.items()
    ]
    times = {"one": [0.1] * len(lstm), "many": [0.1 / product] * len(lstm)}
    times |= {"share": [1.0] * len(lstm), "ratio": [1.0] * len(lstm)}
    of_product = {"layer": "matrix product", "width": 2048, "frames": 0, "batch": 0, "threads": 2}
    rows.append(of_product | {"flops": 1000, "seconds": 0.1} | times)
    return write_probe(folder, "threads", rows)


def write_roofline(folder: Path, bounds: list[str], error: float = 0.1) -> Path:
    """Steps of an LSTM with what bounds each."""
    steps = [
        {"width": 64 * (i + 1), "batch": 4, "seconds": 1e-5, "flops": 10**5 * (i + 1)}
        | {"intensity": 0.5 * (i + 1), "latency_share": 0.1, "bound": bound}
        for i, bound in enumerate(bounds)
    ]
    machine = {"peak": 5e10, "bandwidth": 1e10, "ridge": 5.0}
    fit = {"latency": 1e-6, "latency_error": 1e-7, "rate": 4e10, "error": error}
    return write_probe(folder, "roofline", steps, machine=machine, fit=fit)


def write_study(
    folder: Path,
    arms: dict[str, str],
    *,
    trials: int = 4,
    failed: int = 0,
    numbers: int = 2,
    separate: bool = False,
) -> Path:
    """A study as ``asr study`` leaves it: arms by name and class of encoder, final runs done.

    ``separate`` gives each of its two budgets runs of its own.
    """
    setting = {"optimizer.lr": 0.002}
    half, full = ({"device_hours": hours, "updates": None} for hours in (0.06, 0.125))
    recipes, rows = {}, []
    for place, (arm, encoder) in enumerate(arms.items()):
        runs = []
        for number in range(1, trials + 1):
            run = folder / "trials" / arm / f"{number:02}" / "run"
            tried = {"optimizer": {"lr": 0.002}, "budget": {"device_hours": 0.03, "updates": None}}
            write_run(run, encoder, seed=0, recipe=tried)
            bad = number <= failed
            runs.append(
                {"role": "trial", "number": number, "budget": "tuning", "device_hours": 0.03}
                | {"validation_wer": None if bad else 0.1 * number + 0.05 * place}
                | {"status": "failed" if bad else "done", "reason": "diverged" if bad else None}
                | {"test_wer": None, "run": str(run)}
            )
        budgets = {"half": half, "full": full} if separate else {"full": full}
        for name, seed in itertools.product(budgets, range(1, numbers + 1)):
            run = folder / "finals" / arm / f"{name}-seed{seed}" / "run"
            tuned = {"optimizer": {"lr": 0.002}, "budget": budgets[name]}
            errors = made(0.1 + 0.02 * place, seed=seed)
            write_run(run, encoder, seed=seed, recipe=tuned, errors=errors)
            rate = sum(errors) / (10 * len(errors))
            done = {"role": "final", "seed": seed, "budget": name, "device_hours": 0.125}
            done |= {"status": "done", "reason": None, "validation_wer": 0.1, "test_wer": rate}
            runs += [done | {"run": str(run)}]
            runs += [] if separate else [done | {"role": "point", "run": str(run)}]
        recipes[arm] = yaml.safe_load((run / "recipe.yaml").read_text())
        rows += [{"arm": arm, "settings": setting} | row for row in runs]
    plan = {
        "name": "made",
        "arms": {arm: {"encoder": encoder, "ranges": {}} for arm, encoder in arms.items()},
        "budgets": {"half": half, "full": full},
        "separate_budgets": separate,
        "seeds": list(range(1, numbers + 1)),
        "split": "test",
        "tuning": {
            "trials": trials,
            "seed": 0,
            "budget": {"device_hours": 0.03, "updates": None},
            "ranges": {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "scale": "log"}},
        },
    }
    resolved = {"study": plan, "recipes": recipes}
    sha256 = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()
    registered = {"name": "made", "study_sha256": sha256, "registered": "2026-01-01T00:00:00+00:00"}
    registered |= {"amendments": [], "resolved": resolved}
    (folder / "study.json").write_text(json.dumps(registered))
    write_lines(folder / "results.jsonl", [row | {"study_sha256": sha256} for row in rows])
    return folder
