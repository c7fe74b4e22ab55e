"""``asr evaluate``, ``asr tune-decoding`` and ``asr transcribe``."""

import argparse
from pathlib import Path
from typing import Any

from asr.commands.options import Parser, at_least_one, device_of, fail, hyphens, parser, positive

# Audio in a batch: a GPU waits for its launches, of which a search's step has as many at any size.
BATCH_SECONDS, GPU_BATCH_SECONDS = 120.0, 960.0
# Those of asr.recognition.writers, which takes a second to import.
FORMATS = ("txt", "json", "srt", "vtt", "tsv", "ctm")


def evaluate(arguments: list[str]) -> int:
    """``asr evaluate MODEL --split test``."""
    options = model_options("evaluate")
    options.add_argument("--split", default="test", help="of the corpus; test")
    options.add_argument("--corpus", metavar="FOLDER", help="prepared; that of the training")
    options.add_argument("--output", type=Path, metavar="FOLDER", help="MODEL/evaluations/SPLIT")
    known = options.parse_args(hyphens(arguments))

    from asr.model import corpus_of
    from asr.recognition import evaluate as evaluation

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
    failed = len(metrics["failed"])
    return _status("evaluate", failed, f"of {failed + metrics['utterances']} utterances failed")


def tune_decoding(arguments: list[str]) -> int:
    """``asr tune-decoding MODEL [--language-model LM]``."""
    options = model_options("tune-decoding")
    options.add_argument("--split", default="validation", help="of the corpus; validation")
    options.add_argument("--corpus", metavar="FOLDER", help="prepared; that of the training")
    options.add_argument(
        "--trials", type=at_least_one, default=20, metavar="N", help="ways to search; 20"
    )
    options.add_argument(
        "--beam", type=at_least_one, default=8, metavar="K", help="of the trials; 8"
    )
    options.add_argument("--seed", type=int, default=1, help="of what is tried; 1")
    known = options.parse_args(hyphens(arguments))
    if known.search is not None:
        raise ValueError(
            f"--search {known.search}: the search is what is chosen here; leave it out"
        )

    from asr.commands import summaries
    from asr.model import corpus_of
    from asr.recognition.tune_decoding import tune_decoding as tune

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
    return _status("tune-decoding", len(result["failed"]), "utterances failed and were left out")


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
        "--formats", nargs="+", default=["txt"], type=format_name, metavar="F", help="txt; also "
        "json, srt, vtt, tsv, ctm, which hold the times of words"
    )  # fmt: skip
    options.add_argument("--recursive", action="store_true", help="folders within folders too")
    options.add_argument(
        "--window-seconds", type=positive, metavar="S", help="heard at once; as long as in training"
    )
    options.add_argument(
        "--min-confidence", type=float, metavar="P", help="leave out words whose confidence (0 to "
        "1) is lower or unknown; a note counts them"
    )  # fmt: skip
    existing = options.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite", dest="existing", action="store_const", const="replace",
        default="refuse", help="replace existing transcripts; they are errors else",
    )  # fmt: skip
    existing.add_argument(
        "--skip-existing", dest="existing", action="store_const", const="skip",
        default="refuse", help="go on where a call stopped: what is there, by its "
        "json (needed in --formats) of the same recording, model and search, is not heard again",
    )  # fmt: skip
    known = options.parse_intermixed_args(hyphens(arguments))

    from asr.audio.sources import find
    from asr.commands import summaries
    from asr.recognition.transcribe import transcribe as run

    if known.existing == "skip" and known.output_dir is None:
        raise ValueError("--skip-existing needs --output-dir, where the transcripts are")
    if known.existing == "skip" and "json" not in known.formats:
        raise ValueError(
            f"--skip-existing needs json among --formats (now {' '.join(known.formats)}), "
            "which says whose the transcripts are; add it, or hear all again with --overwrite"
        )
    if known.output_dir is None and len(set(known.formats)) > 1:
        raise ValueError(f"{' and '.join(known.formats)} need a folder: give --output-dir")
    sources = find(known.inputs, known.recursive)
    if len(sources) > 1 and known.output_dir is None and known.formats != ["txt"]:
        raise ValueError(f"{known.formats[0]} of {len(sources)} files needs --output-dir")
    results = run(
        load_to_search(known),
        sources,
        output_dir=known.output_dir,
        formats=known.formats,
        existing=known.existing,
        window_seconds=known.window_seconds,
        batch_seconds=known.batch_seconds,
        min_confidence=known.min_confidence,
        model_name=known.model,
    )
    print(summaries.transcribed(results, known.output_dir, known.formats[0]), end="")
    failed = sum(result.error is not None for result in results)
    return _status("transcribe", failed, f"of {summaries.count(len(results), 'file')} failed")


def _status(verb: str, failed: int, words: str) -> int:
    """The exit status of a verb, which tells how many items failed."""
    if failed:
        fail(f"asr {verb}: {failed} {words}, see above")
    return int(failed > 0)


def format_name(text: str) -> str:
    """One of FORMATS; a file stands here when --formats comes before the files."""
    if text not in FORMATS:
        choices = ", ".join(FORMATS)
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of {choices}; files go before --formats, or after --"
        )
    return text


def model_options(verb: str) -> Parser:
    """The options of the verbs that recognise."""
    options = parser(verb)
    options.add_argument(
        "model", metavar="MODEL", help="run folder (its best model) or model folder"
    )
    # What tune-decoding chooses: given to it, it is told so.
    chosen = verb == "tune-decoding"
    options.add_argument(
        "--search",
        help=argparse.SUPPRESS if chosen else "Greedy, Beam or a YAML file; the model's own",
    )
    options.add_argument(
        "--language-model", metavar="LM", help="run or folder of one, in place of the model's own"
    )
    options.add_argument("--device", help="cpu, cuda or cuda:N; cuda where there is one")
    options.add_argument(
        "--allow-code", action="store_true", help="import the model's own classes; if you trust it"
    )
    options.add_argument(
        "--batch-seconds", type=positive, metavar="S", help="audio in a batch; 120, on a GPU 960"
    )
    return options


def load(known: argparse.Namespace) -> Any:
    """The model of the options above."""
    from asr.config import strict_yaml
    from asr.model import find_model, give_language_model, load_model

    find_model(known.model)
    search = known.search
    if search is not None and search.endswith((".yaml", ".yml")):
        search = strict_yaml.load_file(search)
    device = device_of(known.device)
    if known.batch_seconds is None:
        known.batch_seconds = BATCH_SECONDS if device == "cpu" else GPU_BATCH_SECONDS
    if device != "cpu":
        from asr.metering.precision import allow_tf32

        allow_tf32(True)  # for products as for recurrences, which torch computes so by default
    model = load_model(known.model, device, search, known.allow_code)
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
            f"--language-model {known.language_model}: the search gives it no weight; run "
            "asr tune-decoding, or --search with Beam and an lm_weight above 0"
        )
    return model
