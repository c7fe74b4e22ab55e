"""The command ``asr``: verbs to functions. The only file that reads the command line."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from asr import __version__

VERBS: dict[str, tuple[str, str]] = {
    "prepare": (
        "public corpus or your own recordings -> prepared parquet and a preflight report",
        "asr prepare spoken --output data/spoken",
    ),
    "train": (
        "recipe -> run folder with checkpoints, ledger and logs; resumes by itself",
        "asr train recipes/spoken.yaml --encoder recipes/encoders/lstm-small.yaml",
    ),
    "evaluate": (
        "model and split -> WER and CER with intervals, real-time factor, hypotheses",
        "asr evaluate runs/spoken-lstm-small --split test",
    ),
    "transcribe": (
        "audio files of any length -> text, json, srt, vtt or tsv",
        "asr transcribe runs/spoken-lstm-small talk.mp3 --formats srt --output-dir subtitles",
    ),
    "compare": (
        "run folders -> one page: WER against device-hours, cost to reach a WER, significance",
        "asr compare runs/spoken-lstm-small runs/spoken-transformer-small --output report",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; 0 when all that was asked for was done, 2 for a mistake of the user's."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--version"]:
        print(f"asr {__version__}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0 if arguments else 2
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        return fail(f"asr {verb}: no such command; choose one of {', '.join(VERBS)}")
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("asr").setLevel(logging.INFO)
    try:
        return COMMANDS[verb](rest)
    except (ValueError, OSError) as error:
        return fail(f"asr {verb}: {one_line(error)}")
    except KeyboardInterrupt:
        return fail(f"asr {verb}: interrupted", status=130)


def overview() -> str:
    """What ``asr --help`` prints."""
    lines = [f"asr {__version__}: train speech recognisers and measure what they cost", ""]
    for verb, (meaning, _) in VERBS.items():
        lines.append(f"  asr {verb:11} {meaning}")
    return "\n".join([*lines, "", "asr VERB --help tells the options and gives an example."])


def fail(message: str, status: int = 2) -> int:
    """One line on stderr."""
    print(message, file=sys.stderr)
    return status


def one_line(error: Exception) -> str:
    """The message of an error; an operating system's with the file it is about."""
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or "the output"
        return f"{where}: {error.strerror}; check the path, its permissions and the space left"
    return " ".join(str(error).split())


class _Parser(argparse.ArgumentParser):
    """argparse with our exit: the mistake in one line, no usage dump."""

    def error(self, message: str) -> Any:
        raise ValueError(f"{message} (see: asr {self.prog.split()[-1]} --help)")


def parser(verb: str) -> _Parser:
    """An empty parser with the verb's meaning and example."""
    meaning, example = VERBS[verb]
    return _Parser(
        prog=f"asr {verb}",
        description=meaning,
        epilog=f"example: {example}",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def prepare(arguments: list[str]) -> int:
    """``asr prepare CORPUS``: the options of a corpus are the parameters of its class."""
    from asr import config
    from asr.corpora import CORPORA
    from asr.corpora import prepare as writer

    options = parser("prepare")
    options.usage = "asr prepare CORPUS --output FOLDER [--option value ...]"
    options.add_argument("corpus", choices=list(CORPORA), help="which corpus")
    options.add_argument("--output", type=Path, required=True, help="folder to write")
    options.add_argument("--sample-rate", type=int, default=16000, help="Hz of the prepared audio")
    options.add_argument("--normaliser", default="english", help="of the transcripts")
    options.add_argument("--alphabet", default=None, help="characters expected; default: train's")
    if not arguments or {"-h", "--help"} & set(arguments):
        print(options.format_help())
        print("options of each corpus:\n" + config.describe_table(CORPORA))
        return 0 if arguments else 2
    known, rest = options.parse_known_args(arguments)
    tree = config.override({}, rest, schema=None)
    corpus = config.read_component(
        CORPORA, {"class_path": known.corpus, "init_args": tree}, known.corpus
    )()
    result = writer.prepare(
        corpus,
        known.output,
        sample_rate=known.sample_rate,
        normaliser=known.normaliser,
        alphabet=known.alphabet,
    )
    print(prepared(result))
    return 0


def prepared(result: dict[str, Any]) -> str:
    """What ``prepare`` prints: the splits, and every kind of row dropped, converted or suspicious."""
    label = " (synthetic speech)" if result["synthetic"] else ""
    state = "already there, same options" if result["reused"] else "written"
    lines = [f"{result['output']}: {result['name']}{label}, {result['licence']}; {state}"]
    for split, facts in result["splits"].items():
        lines.append(
            f"  {split:12} {facts['utterances']:7} utterances {facts['hours']:8.2f} h "
            f"{facts['speakers']:5} speakers {facts['words']:8} words"
        )
        checked = result["preflight"][split]
        for reason, count in checked["converted"].items():
            lines.append(f"    converted   {count} ({reason})" if count else "")
        for kind in ("dropped", "suspicious"):
            for reason, ids in checked[kind].items():
                shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
                lines.append(f"    {kind:11} {len(ids)} ({reason}): {shown}")
    lines += [f"  note: {remark}" for remark in result["remarks"]]
    return "\n".join([*filter(None, lines), f"  full lists: {result['output']}/preflight.json"])


def train(arguments: list[str]) -> int:
    """``asr train RECIPE [--run FOLDER] [--key.path value ...]``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(train_help())
        return 0 if arguments else 2
    from asr import config
    from asr.train import Recipe, run_name
    from asr.train import train as fit

    recipe_file, rest = Path(arguments[0]), arguments[1:]
    folder: Path | None = None
    if "--run" in rest:
        at = rest.index("--run")
        if at + 1 == len(rest):
            raise ValueError("--run expects a folder")
        folder, rest = Path(rest[at + 1]), rest[:at] + rest[at + 2 :]
    tree = config.override(config.load_file(recipe_file), rest, Recipe)
    recipe = config.read(Recipe, tree)
    line = fit(recipe, folder or Path("runs") / run_name(recipe_file, rest, recipe))
    print(line)
    return 0


def train_help() -> str:
    """The verb's usage and every key of a recipe."""
    from asr import config
    from asr.train import Recipe

    meaning, example = VERBS["train"]
    return (
        f"usage: asr train RECIPE [--run FOLDER] [--key.path value ...]\n\n{meaning}\n\n"
        f"example: {example}\n\nThe keys of a recipe, as overrides (default):\n"
        f"{config.describe(Recipe)}"
    )


def evaluate(arguments: list[str]) -> int:
    """``asr evaluate MODEL --split test``."""
    options = parser("evaluate")
    options.add_argument("model", help="run folder or model folder")
    options.add_argument("--split", default="test", help="split of the corpus")
    options.add_argument("--corpus", help="prepared corpus; default: the one it was trained on")
    options.add_argument("--output", type=Path, help="default: MODEL/evaluations/SPLIT")
    options.add_argument("--search", default=None, help="recipe file of a search, or a class name")
    options.add_argument("--device", default=None, help="cpu or cuda; default: cuda if present")
    options.add_argument("--batch-seconds", type=float, default=120.0, help="audio per batch")
    known = options.parse_args(arguments)

    from asr import evaluate as evaluation
    from asr.model import load_model

    model = load_model(known.model, device_of(known.device), search_of(known.search))
    corpus = known.corpus or model.summary["recipe"]["data"]["corpus"]
    metrics = evaluation.evaluate(
        model,
        corpus,
        known.split,
        output=known.output or Path(known.model) / "evaluations" / known.split,
        model_name=known.model,
        batch_seconds=known.batch_seconds,
    )
    print(evaluation.summary(metrics))
    return 0


def device_of(name: str | None) -> str:
    """``--device``, or the GPU where there is one.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}; use cpu") from None
    return name


def search_of(text: str | None) -> Any:
    """``--search``: a YAML file or a class name as a component's tree."""
    from asr import config

    if text is None or not text.endswith((".yaml", ".yml")):
        return text
    return config.load_file(text)


def transcribe(arguments: list[str]) -> int:
    """``asr transcribe MODEL FILE ...``."""
    options = parser("transcribe")
    options.add_argument("model", help="run folder or model folder")
    options.add_argument("inputs", nargs="+", help="audio files, folders, globs, or - for stdin")
    options.add_argument("--output-dir", type=Path, help="default: text on stdout")
    options.add_argument("--formats", nargs="+", default=["txt"], help="txt json srt vtt tsv")
    options.add_argument("--recursive", action="store_true", help="folders within folders too")
    options.add_argument("--window-seconds", type=float, help="default: as long as in training")
    options.add_argument("--batch-seconds", type=float, default=120.0, help="audio per batch")
    options.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    options.add_argument("--search", default=None, help="recipe file of a search, or a class name")
    options.add_argument("--device", default=None, help="cpu or cuda; default: cuda if present")
    known = options.parse_args(arguments)

    from asr.model import load_model
    from asr.transcribe import transcribe as run
    from asr.writers import FORMATS

    model = load_model(known.model, device_of(known.device), search_of(known.search))
    results = run(
        model,
        known.inputs,
        output_dir=known.output_dir,
        formats=known.formats,
        recursive=known.recursive,
        overwrite=known.overwrite,
        window_seconds=known.window_seconds,
        batch_seconds=known.batch_seconds,
        model_name=known.model,
    )
    if known.output_dir is None:
        for result in results:
            if result.transcript is not None:
                print(FORMATS[known.formats[0]](result.transcript), end="")
    return int(any(result.error for result in results))


def compare(arguments: list[str]) -> int:
    """``asr compare RUN ...``."""
    options = parser("compare")
    options.add_argument("runs", nargs="+", type=Path, help="run folders")
    options.add_argument("--output", type=Path, default=Path("report"), help="folder to write")
    options.add_argument("--targets", nargs="+", type=float, help="WERs to reach, in percent")
    options.add_argument("--split", default="test", help="whose evaluation is compared")
    known = options.parse_args(arguments)

    from asr.report import compare as report

    targets = None if known.targets is None else [t / 100 for t in known.targets]
    report(known.runs, known.output, targets=targets, split=known.split)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "transcribe": transcribe,
    "compare": compare,
}
