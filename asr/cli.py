"""The command ``asr``: verbs to functions. The only file that reads the command line."""

import argparse
import functools
import importlib
import logging
import os
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
        "asr train recipes/spoken.yaml --encoder recipes/encoders/lstm-tiny.yaml",
    ),
    "tune-decoding": (
        "model and validation split -> the search that makes the fewest errors, stored with it",
        "asr tune-decoding runs/spoken-lstm-tiny-seed1 --trials 20",
    ),
    "evaluate": (
        "model and split -> WER and CER with intervals, real-time factor, hypotheses",
        "asr evaluate runs/spoken-lstm-tiny-seed1 --split test",
    ),
    "transcribe": (
        "audio files of any length -> text, json, srt, vtt or tsv",
        "asr transcribe runs/spoken-lstm-tiny-seed1 talk.mp3 --formats srt --output-dir subtitles",
    ),
    "compare": (
        "run folders -> one page: WER against device-hours, cost to reach a WER, significance",
        "asr compare runs/spoken-lstm-tiny-seed1 runs/spoken-transformer-tiny-seed1",
    ),
    "study": (
        "arms x budgets x seeds, all tuned equally -> every run that is missing, and the report",
        "asr study recipes/studies/quick.yaml",
    ),
    "claims": (
        "what is claimed of encoders, measured: time and memory against the obvious reference",
        "asr claims scaling --rows lstm-loop gru-loop --output claims",
    ),
}
PROBES = (
    "scaling",
    "horizon",
    "length",
    "streaming",
    "memory",
    "roofline",
)  # modules of asr.claims
FORMATS = ("txt", "json", "srt", "vtt", "tsv")  # of asr.writers, which takes a second to import


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb: 0 when all was done, 1 when a file of many failed, 2 for a mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--version"]:
        print(f"asr {__version__}")
        return 0
    if arguments[:1] in (["-h"], ["--help"], ["help"]):
        print(overview())
        return 0
    if not arguments:
        return fail(f"asr: say what to do: {', '.join(VERBS)} (see: asr --help)")
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        return fail(f"asr {verb}: no such command; choose one of {', '.join(VERBS)}")
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[_Lines()])
    logging.getLogger("asr").setLevel(logging.INFO)
    try:
        status = COMMANDS[verb](rest)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        return fail(f"asr {verb}: {one_line(error)}")
    except KeyboardInterrupt:
        again = "; the same command goes on from the last checkpoint" * (verb in ("train", "study"))
        return fail(f"asr {verb}: interrupted{again}", status=130)


def overview() -> str:
    """What ``asr --help`` prints."""
    lines = [f"asr {__version__}: train speech recognisers and measure what they cost", ""]
    for verb, (meaning, _) in VERBS.items():
        lines.append(f"  asr {verb:13} {meaning}")
    lines += ["", "For example, from nothing to a comparison:"]
    lines += [f"  {example}" for _, example in VERBS.values()]
    return "\n".join([*lines, "", "asr VERB --help tells the options of a verb."])


def fail(message: str, status: int = 2) -> int:
    """One line on stderr."""
    print(message, file=sys.stderr)
    return status


def one_line(error: Exception) -> str:
    """The message of an error; an operating system's with the file it is about and a remedy."""
    if isinstance(error, OSError) and error.strerror:
        from asr.files import remedy

        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; {remedy(error)}"
    return " ".join(str(error).split())


class _Lines(logging.Handler):
    """A line on stderr per record, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """argparse with our exit: the mistake in one line, no usage dump."""

    def error(self, message: str) -> Any:
        raise ValueError(f"{message} (see: {self.prog} --help)")


def parser(verb: str) -> _Parser:
    """An empty parser with the verb's meaning and example."""
    meaning, example = VERBS[verb]
    return _Parser(
        prog=f"asr {verb}",
        description=meaning,
        epilog=f"example: {example}",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=100),
    )


def hyphens(arguments: Sequence[str]) -> list[str]:
    """``--batch_seconds`` is ``--batch-seconds``; values stay as they are."""
    words = []
    for word in arguments:
        name, sign, value = word.partition("=")
        words.append(name.replace("_", "-") + sign + value if word.startswith("--") else word)
    return words


def positive(text: str) -> float:
    """A number of seconds above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


# --- prepare ---


def prepare(arguments: list[str]) -> int:
    """``asr prepare CORPUS``: the options of a corpus are the parameters of its class."""
    from asr import config
    from asr.corpora import CORPORA
    from asr.corpora import prepare as writer

    options = parser("prepare")
    options.usage = "asr prepare CORPUS --output FOLDER [--option value ...]"
    options.add_argument("corpus", choices=list(CORPORA), metavar="CORPUS", help=", ".join(CORPORA))
    options.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="to write")
    options.add_argument(
        "--sample-rate", type=int, default=16000, metavar="HZ", help="of the audio; 16000"
    )
    options.add_argument(
        "--normaliser", default="english", help="of the transcripts: english, lower or none"
    )
    options.add_argument("--alphabet", help="characters expected; those of the split train")
    if {"-h", "--help"} & set(arguments):
        print(options.format_help())
        print("options of each corpus (type, default):\n" + config.describe_table(CORPORA))
        return 0
    known, rest = options.parse_known_args(hyphens(arguments))
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
    """The splits of a corpus, and every kind of row dropped, converted or suspicious."""
    label = " (synthetic speech)" if result["synthetic"] else ""
    state = "already there, same options" if result["reused"] else "written"
    lines = [f"{result['output']}: {result['name']}{label}, licence {result['licence']}; {state}"]
    for split, facts in result["splits"].items():
        lines.append(
            f"  {split:12} {facts['utterances']:7} utterances {facts['hours']:8.2f} h "
            f"{facts['speakers']:5} speakers {facts['words']:8} words"
        )
        checked = result["preflight"][split]
        for reason, number in checked["converted"].items():
            lines.append(f"    converted   {number} ({reason.replace('_', ' ')})")
        for kind in ("dropped", "suspicious"):
            for reason, ids in checked[kind].items():
                shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
                lines.append(f"    {kind:11} {len(ids)} ({reason.replace('_', ' ')}): {shown}")
    lines += [f"  note: {remark}" for remark in result["remarks"]]
    return "\n".join([*lines, f"  full lists: {result['output']}/preflight.json"])


# --- train ---


def train(arguments: list[str]) -> int:
    """``asr train RECIPE [--run FOLDER] [--print-config] [--key.path value ...]``."""
    if {"-h", "--help"} & set(arguments):
        print(train_help())
        return 0
    if not arguments or arguments[0].startswith("--"):
        raise ValueError("the recipe comes first: asr train RECIPE ... (see: asr train --help)")
    from asr import config
    from asr.recipe import LanguageModelRecipe, Recipe
    from asr.run_folder import run_name

    recipe_file = Path(arguments[0])
    folder, only_print, rest = run_options(arguments[1:])
    tree = config.load_file(recipe_file)
    schema = LanguageModelRecipe if "language_model" in tree else Recipe
    recipe = config.read(schema, config.override(tree, rest, schema))
    if only_print:
        print(config.to_yaml(config.tree_of(recipe)), end="")
        return 0
    folder = folder or Path("runs") / run_name(recipe_file, rest, recipe)

    from asr import summaries
    from asr.machine import is_first_process
    from asr.train import train as fit
    from asr.train_language_model import train_language_model

    for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # importing it sets INFO: tips, devices
    if isinstance(recipe, LanguageModelRecipe):
        train_language_model(recipe, folder)
        told = summaries.trained_language_model
    else:
        fit(recipe, folder)
        told = functools.partial(summaries.trained, recipe=recipe)
    if is_first_process():
        print(told(folder))
    return 0


def run_options(arguments: Sequence[str]) -> tuple[Path | None, bool, list[str]]:
    """(--run, --print-config, the overrides as --key, value, --key, value ...)."""
    words = [part for a in arguments for part in (a.split("=", 1) if a[:2] == "--" else [a])]
    folder: Path | None = None
    only_print = False
    rest: list[str] = []
    while words:
        word = words.pop(0)
        if word in ("--print-config", "--print_config"):
            only_print = True
        elif word == "--run":
            if not words or words[0].startswith("--"):
                raise ValueError("--run expects a folder")
            folder = Path(words.pop(0))
        else:
            rest.append(word)
    return folder, only_print, rest


def train_help() -> str:
    """The verb's usage and every key of a recipe."""
    from asr import config
    from asr.recipe import LanguageModelRecipe, Recipe

    meaning, example = VERBS["train"]
    return (
        "usage: asr train RECIPE [--run FOLDER] [--print-config] [--key.path value ...]\n\n"
        f"{meaning}\n\n"
        "  RECIPE            a YAML file of recipes/, or RUN/recipe.yaml to repeat a run\n"
        "  --run FOLDER      where to train; runs/RECIPE-ENCODER-seedN. The same command goes on\n"
        "                    from the last checkpoint.\n"
        "  --print-config    print the recipe with every default and override, train nothing\n"
        "  --key.path value  override a key of the recipe; a value ending in .yaml is a file with\n"
        "                    the whole section: --encoder recipes/encoders/lstm-tiny.yaml\n\n"
        f"example: {example}\n\n"
        "The keys of a recipe (type, default); of LSTM | Transformer, or your own class by its\n"
        "import path package.module.Class, those of the class chosen:\n"
        f"{config.describe(Recipe)}\n\n"
        "The keys of a language model's recipe, known by its key language_model:\n"
        f"{config.describe(LanguageModelRecipe)}"
    )


# --- evaluate, tune-decoding and transcribe ---


def model_options(verb: str) -> _Parser:
    """The options of the verbs that recognise."""
    options = parser(verb)
    options.add_argument(
        "model", metavar="MODEL", help="run folder (its best model) or model folder"
    )
    options.add_argument("--search", help="Greedy, Beam or a YAML file; the model's own")
    options.add_argument(
        "--language-model", metavar="LM", help="run or folder of one, in place of the model's own"
    )
    options.add_argument("--device", help="cpu, cuda or cuda:N; cuda where there is one")
    options.add_argument(
        "--allow-code", action="store_true", help="import the model's own classes; if you trust it"
    )
    options.add_argument(
        "--batch-seconds", type=positive, default=120.0, metavar="S", help="audio in a batch; 120"
    )
    return options


def load(known: argparse.Namespace) -> Any:
    """The model of the options above."""
    from asr import config
    from asr.model import find_model, give_language_model, load_model

    find_model(known.model)
    search = known.search
    if search is not None and search.endswith((".yaml", ".yml")):
        search = config.load_file(search)
    model = load_model(known.model, device_of(known.device), search, known.allow_code)
    if known.language_model is not None:
        give_language_model(model, known.language_model, known.allow_code)
    return model


def load_to_search(known: argparse.Namespace) -> Any:
    """The same, for verbs that search as the options say.

    Raises:
        ValueError: a language model was given that the search would not ask.
    """
    model = load(known)
    if known.language_model is not None and not model.search.lm_weight:
        raise ValueError(
            f"--language-model {known.language_model}: {model.search!r} gives it no weight; run "
            "asr tune-decoding, or --search with Beam and an lm_weight above 0"
        )
    return model


def device_of(name: str | None) -> str:
    """``--device``, or the GPU where there is one.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ["cpu", *(["cuda"] if number else []), *(f"cuda:{i}" for i in range(number))]
    if name is not None and name not in there:
        raise ValueError(f"--device {name}: no such device; this machine has {', '.join(there)}")
    return name or ("cuda" if number else "cpu")


def evaluate(arguments: list[str]) -> int:
    """``asr evaluate MODEL --split test``."""
    options = model_options("evaluate")
    options.add_argument("--split", default="test", help="of the corpus; test")
    options.add_argument("--corpus", metavar="FOLDER", help="prepared; that of the training")
    options.add_argument("--output", type=Path, metavar="FOLDER", help="MODEL/evaluations/SPLIT")
    known = options.parse_args(hyphens(arguments))

    from asr import evaluate as evaluation

    model = load_to_search(known)
    output = known.output or Path(known.model) / "evaluations" / known.split
    metrics = evaluation.evaluate(
        model,
        known.corpus or corpus_of(model, known.model),
        known.split,
        output=output,
        model_name=known.model,
        batch_seconds=known.batch_seconds,
    )
    print(evaluation.summary(metrics))
    files = ["metrics.json", "hypotheses.jsonl"]
    files += [evaluation.FIGURE] * (output / evaluation.FIGURE).exists()
    print("written: " + ", ".join(str(output / name) for name in files))
    return 0


def corpus_of(model: Any, name: str) -> str:
    """The corpus that a model was trained on.

    Raises:
        ValueError: it is not known, or not there.
    """
    corpus = model.summary.get("recipe", {}).get("data", {}).get("corpus")
    if corpus is None:
        raise ValueError(f"{name} does not say on which corpus it was trained; give --corpus")
    if not Path(corpus).exists():
        raise ValueError(f"{name} was trained on {corpus}, which is not here; give --corpus")
    return str(corpus)


def tune_decoding(arguments: list[str]) -> int:
    """``asr tune-decoding MODEL [--language-model LM]``."""
    options = model_options("tune-decoding")
    options.add_argument("--split", default="validation", help="of the corpus; validation")
    options.add_argument("--corpus", metavar="FOLDER", help="prepared; that of the training")
    options.add_argument("--trials", type=int, default=20, metavar="N", help="ways to search; 20")
    options.add_argument("--beam", type=int, default=8, metavar="K", help="of the trials; 8")
    options.add_argument("--seed", type=int, default=1, help="of what is tried; 1")
    known = options.parse_args(hyphens(arguments))
    if known.search is not None:
        raise ValueError(
            f"--search {known.search}: the search is what is chosen here; leave it out"
        )

    from asr import summaries
    from asr.tune_decoding import tune_decoding as tune

    model = load(known)
    result = tune(
        model,
        known.model,
        known.corpus or corpus_of(model, known.model),
        known.split,
        trials=known.trials,
        beam=known.beam,
        seed=known.seed,
        batch_seconds=known.batch_seconds,
    )
    print(summaries.tuned(result))
    return 0


def transcribe(arguments: list[str]) -> int:
    """``asr transcribe MODEL FILE ...``."""
    options = model_options("transcribe")
    options.usage = "asr transcribe MODEL FILE ... [--formats txt srt ...] [--output-dir FOLDER]"
    options.add_argument(
        "inputs", nargs="+", metavar="FILE", help="audio files, folders, 'globs*', or - for stdin"
    )
    options.add_argument(
        "--output-dir", type=Path, metavar="FOLDER", help="for the transcripts; else they are shown"
    )
    options.add_argument(
        "--formats", nargs="+", default=["txt"], choices=FORMATS, metavar="F", help="txt; also "
        "json, srt, vtt, tsv, which hold the times of words"
    )  # fmt: skip
    options.add_argument("--recursive", action="store_true", help="folders within folders too")
    options.add_argument(
        "--window-seconds", type=positive, metavar="S", help="heard at once; as long as in training"
    )
    options.add_argument("--overwrite", action="store_true", help="replace existing transcripts")
    known = options.parse_intermixed_args(hyphens(arguments))

    from asr import summaries
    from asr.transcribe import STDIN, find
    from asr.transcribe import transcribe as run

    if known.output_dir is None and len(set(known.formats)) > 1:
        raise ValueError(f"{' and '.join(known.formats)} need a folder: give --output-dir")
    files = [name for name in known.inputs if name != STDIN]
    number = len(find(files, known.recursive)) if files else 0
    number += len(known.inputs) > len(files)
    if number > 1 and known.output_dir is None and known.formats != ["txt"]:
        raise ValueError(f"{known.formats[0]} of {number} files needs --output-dir")
    results = run(
        load_to_search(known),
        known.inputs,
        output_dir=known.output_dir,
        formats=known.formats,
        recursive=known.recursive,
        overwrite=known.overwrite,
        window_seconds=known.window_seconds,
        batch_seconds=known.batch_seconds,
        model_name=known.model,
    )
    print(summaries.transcribed(results, known.output_dir, known.formats[0]), end="")
    failed = sum(result.error is not None for result in results)
    if failed:
        fail(
            f"asr transcribe: {failed} of {summaries.count(len(results), 'file')} failed, see above"
        )
    return int(failed > 0)


# --- compare ---


def compare(arguments: list[str]) -> int:
    """``asr compare RUN ...``."""
    options = parser("compare")
    options.usage = "asr compare RUN RUN ... [--output FOLDER] [--option value ...]"
    options.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders")
    options.add_argument(
        "--output", type=Path, default=Path("report"), metavar="FOLDER", help="to write; report"
    )
    options.add_argument(
        "--targets", nargs="+", type=float, metavar="WER", help="to reach, in percent, as 10 5"
    )
    options.add_argument("--split", default="test", help="whose evaluation is compared; test")
    options.add_argument(
        "--study",
        type=Path,
        metavar="FOLDER",
        help="of asr study: its final runs, trials, failures",
    )
    options.add_argument(
        "--claims", nargs="+", type=Path, default=[], metavar="FOLDER", help="of asr claims"
    )
    known = options.parse_intermixed_args(hyphens(arguments))
    for run in known.runs:
        if not run.is_dir():
            raise ValueError(f"{run}: no such run folder; check the path")

    from asr.report import compare as report

    targets = None if known.targets is None else [t / 100 for t in known.targets]
    result = report(
        known.runs,
        known.output,
        targets=targets,
        split=known.split,
        study=known.study,
        claims=known.claims,
    )
    print(compared(result))
    return 0


def compared(result: dict[str, Any]) -> str:
    """The answer of each group of comparable runs, and where the page is."""
    lines = []
    for number, (answer, arms, why) in enumerate(
        zip(result["answer"], result["groups"], result["separation"], strict=True), start=1
    ):
        if len(result["groups"]) > 1:
            lines.append(f"Group {number}: {', '.join(arms)}")
        lines += [f"  not compared with group 1: {reason}" for reason in why]
        lines += answer
    lines += [f"{claim}: {words}" for claim, words in result["claims"].items()]
    lines += [f"results and registered file disagree: {line}" for line in result["disagreements"]]
    page = next(path for path in result["files"] if path.suffix == ".html")
    others = [path.name for path in result["files"] if path != page]
    return "\n".join([*lines, f"written: {page} (beside it {', '.join(others)})"])


# --- study ---


def study(arguments: list[str]) -> int:
    """``asr study FILE``."""
    options = parser("study")
    options.add_argument("file", type=Path, metavar="FILE", help="a YAML file of recipes/studies")
    options.add_argument("--folder", type=Path, metavar="FOLDER", help="runs/studies/NAME")
    options.add_argument(
        "--workers", type=int, metavar="N", help="runs at a time on this machine; one per GPU, or "
        "as many as the cores have room for"
    )  # fmt: skip
    for name, kind in (("arms", str), ("budgets", str), ("seeds", int)):
        options.add_argument(
            f"--{name}", nargs="+", type=kind, default=[], metavar="X", help="only these, for now"
        )
    options.add_argument("--status", action="store_true", help="print what is done; run nothing")
    options.add_argument("--retry", action="store_true", help="do again what failed; it stays paid")
    options.add_argument(
        "--amend", action="store_true", help="go on with a file that has changed, and record it"
    )
    known = options.parse_args(hyphens(arguments))

    from asr.study import Selection, read_study, run_study, status, task

    described = read_study(known.file)
    folder = known.folder or Path("runs") / "studies" / described.name
    if known.status:
        print("\n".join(status(described, folder)))
        return 0
    result = run_study(
        described,
        folder,
        workers=known.workers,
        selection=Selection(known.arms, known.budgets, known.seeds),
        amend=known.amend,
        retry=known.retry,
    )
    if (launched := task()) and launched[0]:
        return int(result["failed"])  # the first process of srun or torchrun speaks for all
    print("\n".join([result["table"], *result["remarks"]]))
    print(f"written: {folder / 'results.jsonl'}" + f", {result['report']}" * bool(result["report"]))
    return int(result["failed"])


# --- claims ---


def claims(arguments: list[str]) -> int:
    """``asr claims PROBE``: the options of a probe are in its module."""
    options = parser("claims")
    options.usage = "asr claims PROBE [--output FOLDER] [--device DEVICE] [--option value ...]"
    options.add_argument("probe", choices=PROBES, metavar="PROBE", help=", ".join(PROBES))
    probe = options.parse_args(arguments[:1]).probe
    module = importlib.import_module(f"asr.claims.{probe}")

    options = parser("claims")
    options.prog += f" {probe}"
    options.add_argument(
        "--output", type=Path, default=Path("claims"), metavar="FOLDER", help="to write; claims"
    )
    options.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, auto; auto")
    module.add_options(options)
    known = options.parse_args(hyphens(arguments[1:]))
    status: int = module.run(known, device_of(None if known.device == "auto" else known.device))
    return status


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "prepare": prepare,
    "train": train,
    "tune-decoding": tune_decoding,
    "evaluate": evaluate,
    "transcribe": transcribe,
    "compare": compare,
    "study": study,
    "claims": claims,
}
