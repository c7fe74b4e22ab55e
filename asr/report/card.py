"""Exports a recogniser as a small model folder with a card, ready to be shared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr import __version__
from asr.data.utterances import read_corpus
from asr.document.blocks import Section, Table, Text, to_markdown
from asr.files import new_folder, read_json, write
from asr.formatting import (
    count,
    digits,
    hours_of,
    listed,
    numbered,
    percent_interval,
    prefixed,
)
from asr.metering.ledger_format import read_totals
from asr.model import SpeechModel, corpus_of, find_model, load_model, save_model

CARD = "README.md"


def export(
    run: str | Path,
    output: str | Path,
    evaluations: Sequence[str | Path] = (),
    notes: str | Path | None = None,
) -> str:
    """Writes the model of a run in half precision, with its search and language models, and a card.

    The card says on what the model was trained, what that cost, and how many errors it makes.

    Args:
        run: run folder of ``asr train``, whose corpus is still there.
        output: folder to write. It may hold an earlier export of the same model.
        evaluations: folders that ``asr evaluate`` wrote for the run or for its export.
        notes: Markdown file that ends the card: what the model is bad at, whom to credit.

    Returns:
        The card.

    Raises:
        ValueError: ``run`` has no ledger or corpus, an evaluation is of another model, or
            ``output`` holds another model.
        OSError: a file cannot be read or written.
    """
    run, output = Path(run), Path(output)
    model = load_model(run)
    corpus = read_corpus(corpus_of(model, str(run)))
    # The path of the corpus on this machine means nothing on another.
    model.summary["recipe"]["data"]["corpus"] = f"data/{corpus['name']}"
    model.summary["stored_as"] = "float16"
    if (
        output.is_dir()
        and any(output.iterdir())
        and load_model(find_model(output)).summary != model.summary
    ):
        raise ValueError(f"{output} holds another model; choose another folder")
    results = [_result(Path(folder), model) for folder in evaluations]
    text = to_markdown(
        output.name, _sections(output.name, model, read_totals(run), corpus, results)
    )
    if notes is not None:
        text += "\n" + Path(notes).read_text(encoding="utf-8").strip() + "\n"
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    with new_folder(output):
        save_model(model, output, model.summary)
        write(output / CARD, text)
    return text


def _result(folder: Path, model: SpeechModel) -> list[str]:
    """Returns the row of the card for one evaluation."""
    metrics = read_json(folder / "metrics.json")
    same = ("updates", "seed", "device_hours", "tuning")
    if any(metrics["training"].get(key) != model.summary.get(key) for key in same):
        raise ValueError(f"{folder} has an evaluation of another model; evaluate this one")
    wer, about = metrics["wer"], metrics["corpus"]
    return [
        f"{about['name']}, {metrics['split']}"
        + ", used for tuning" * metrics["tuned_on_it"]
        + ", trained on" * (metrics["split"] in metrics["training"]["recipe"]["data"]["train"]),
        "this one" if "stored_as" in metrics["training"] else "before rounding to half precision",
        count(metrics["utterances"]),
        count(wer["words"]),
        percent_interval(wer["rate"], wer["interval"]),
        percent_interval(metrics["cer"]["rate"], metrics["cer"].get("interval"))
        + ", the rate to read: no spaces" * (metrics.get("headline") == "cer"),
        f"`{metrics['search']}`",
        digits(metrics["cpu_seconds"] / metrics["audio_seconds"], 2),
    ]


def _sections(
    name: str,
    model: SpeechModel,
    totals: dict[str, Any],
    corpus: dict[str, Any],
    results: Sequence[Sequence[str]],
) -> list[Section]:
    """Returns the sections of the card."""
    parts = model.num_parameters()
    kinds = {part: model.description[part]["class_path"].rpartition(".")[2] for part in parts}
    built = [f"{kinds[p]} as {p} ({digits(n / 1e6, 2)} M parameters)" for p, n in parts.items()]
    names = model.summary["recipe"]["data"]["train"]
    splits = [corpus["splits"][split] for split in names]
    utterances = sum(split["utterances"] for split in splits)
    unit = hours_of([totals["device_kind"]])
    cpu, energy = totals.get("cpu_seconds"), totals["energy_joules"]
    cost = [f"{digits(totals['device_hours'])} {unit} on {totals['device_name']}"]
    cost += [] if cpu is None else [f"{digits(sum(cpu.values()) / 3600)} CPU-hours"]
    cost += ["energy not measured" if energy is None else prefixed(energy, "J")]
    header = [
        "corpus and split",
        "model",
        "utterances",
        "words",
        "WER [95 % interval]",
        "CER [95 % interval]",
        "search",
    ]
    return [
        (
            "What it is",
            [Text([f"A speech recogniser: {', '.join(built)}. Written by asr {__version__}."])],
        ),
        ("Use", [Text([f"`asr transcribe {name} talk.wav`"])]),
        (
            "Error rates",
            [Table([*header, "CPU s per s of audio"], results)]
            if results
            else [Text(["Not measured."])],
        ),
        (
            "Training",
            [
                Text(
                    [
                        f"Corpus: {corpus['name']}, {listed(names)}: "
                        f"{digits(sum(split['hours'] for split in splits))} hours, "
                        f"{numbered(utterances, 'utterance')}. Licence: {corpus['licence']}.",
                        *corpus["remarks"],
                        f"{numbered(totals['updates'], 'update')} on "
                        f"{digits(totals['audio_seconds'] / 3600)} hours of audio, repetitions "
                        f"counted; seed {totals['seed']}.",
                        f"Cost: {', '.join(cost)}.",
                    ],
                    "list",
                )
            ],
        ),
    ]
