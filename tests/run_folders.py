"""Run folders as training and evaluation leave them, made by hand for the tests of the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

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
    } | facts


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
        write_evaluation(folder, errors, speakers, rtf)
    return folder


def write_evaluation(folder: Path, errors: list[int], speakers: int, rtf: float) -> None:
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
        "wer": {"rate": rate, "interval": [0.8 * rate, 1.2 * rate], "words": 10 * len(errors)},
        "cer": {"rate": rate / 2},
        "training": {"updates": 300},
    }
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
