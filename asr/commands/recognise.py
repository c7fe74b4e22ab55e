"""``asr evaluate``, ``tune-decoding``, ``transcribe`` and ``export``."""

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

from asr.commands.options import Parser, device_of, fail, hyphens, parser
from asr.formatting import listed, numbered, positive_duration, whole_number
from asr.recognition.writers import FORMATS
from asr.text.normalisers import NORMALISERS

# Seconds of audio in a batch. On a GPU a search step takes the time of its kernel launches, whose
# number does not depend on the size of the batch.
BATCH_SECONDS, GPU_BATCH_SECONDS = 120.0, 960.0


def evaluate(arguments: list[str]) -> int:
    """``asr evaluate MODEL --split test``, or ``--hypotheses FILE --references FILE``."""
    options = model_options("evaluate")
    options.usage = (
        "asr evaluate MODEL [--split test] [--option value ...], or\n"
        "       asr evaluate --hypotheses FILE --references FILE [--normaliser NAME]"
    )
    corpus_options(options, "test")
    options.add_argument(
        "--output", type=Path, metavar="FOLDER",
        help="folder to write (default: MODEL/evaluations/SPLIT; nothing is written for files)",
    )  # fmt: skip
    group = options.add_argument_group("to score what any recogniser wrote, without a model")
    for name, kinds in (("hypotheses", ".ctm with .stm"), ("references", ".stm with .ctm")):
        group.add_argument(
            f"--{name}", metavar="FILE", type=Path,
            help=f"file of {name}; its ending tells the format: .trn, {kinds}, .jsonl, .json, .csv "
            "or .tsv with id and text, .txt line by line, or none for Kaldi's text",
        )  # fmt: skip
    group.add_argument(
        "--normaliser", choices=(*NORMALISERS, "whisper"), default="none",
        help="applied to hypotheses and references; whisper is the English one of Whisper "
        "(default: none)",
    )  # fmt: skip
    group.add_argument(
        "--missing-as-empty", action="store_true",
        help="count a reference without a hypothesis as deleted words (default: an error)",
    )  # fmt: skip
    known = options.parse_args(hyphens(arguments))
    of_files = {"hypotheses", "references", "normaliser", "missing_as_empty"}
    given = {name for name, value in vars(known).items() if value != options.get_default(name)}
    if known.hypotheses or known.references:
        if not (known.hypotheses and known.references):
            raise ValueError("give both --hypotheses and --references")
        _refuse_idle("--hypotheses", given - of_files - {"output"})
        from asr.recognition import score_files as scoring

        settings = {name: getattr(known, name) for name in (*of_files, "output")}
        print(scoring.scores_summary(scoring.score_files(**settings)))
        if known.output:
            print(f"written: {known.output / 'metrics.json'}, {known.output / 'hypotheses.jsonl'}")
        return 0
    if known.model is None:
        options.error("the following arguments are required: MODEL")
    _refuse_idle("MODEL", given & of_files)

    from asr.model import corpus_of
    from asr.recognition import evaluate as evaluation

    model = load(known)
    output = known.output or Path(known.model) / "evaluations" / known.split
    metrics = evaluation.evaluate(
        model,
        known.corpus or corpus_of(model, known.model),
        known.split,
        output=output,
        model_name=known.model,
        batch_seconds=known.batch_seconds,
    )
    print(evaluation.evaluation_summary(metrics))
    files = ["metrics.json", "hypotheses.jsonl"]
    files += [evaluation.FIGURE] * (output / evaluation.FIGURE).exists()
    print("written: " + ", ".join(str(output / name) for name in files))
    failed = len(metrics["failed"])
    return _status("evaluate", failed, f"of {failed + metrics['utterances']} utterances failed")


def tune_decoding(arguments: list[str]) -> int:
    """``asr tune-decoding MODEL [--language-model LM]``."""
    options = model_options("tune-decoding")
    corpus_options(options, "validation")
    options.add_argument(
        "--trials", type=whole_number, default=20, metavar="N",
        help="number of settings to try; the first are the defaults (default: 20)",
    )  # fmt: skip
    options.add_argument(
        "--beam", type=whole_number, default=8, metavar="K",
        help="number of hypotheses that the beam search of each trial keeps (default: 8); the best "
        "settings are then tried with beams of 1, 2, 4, 8 and 16 too",
    )  # fmt: skip
    options.add_argument(
        "--seed", type=int, default=1, help="seed of the random trials (default: 1)"
    )
    known = options.parse_args(hyphens(arguments))

    from asr.model import corpus_of
    from asr.recognition import tune_decoding as tuning

    model = load(known, tuned=True)
    result = tuning.tune_decoding(
        model,
        known.model,
        known.corpus or corpus_of(model, known.model),
        known.split,
        trials=known.trials,
        beam=known.beam,
        seed=known.seed,
        batch_seconds=known.batch_seconds,
    )
    print(tuning.tuning_summary(result))
    return _status("tune-decoding", len(result["failed"]), "utterances failed and were left out")


def transcribe(arguments: list[str]) -> int:
    """``asr transcribe MODEL FILE ...``."""
    options = model_options("transcribe")
    options.usage = "asr transcribe MODEL FILE ... [--formats txt srt ...] [--output-dir FOLDER]"
    options.add_argument(
        "inputs", nargs="+", metavar="FILE", help="audio files, folders, 'globs*', or - for stdin"
    )
    options.add_argument(
        "--output-dir", type=Path, metavar="FOLDER",
        help="folder to write the transcripts to (default: print them)",
    )  # fmt: skip
    untimed = " and ".join(name for name, one in FORMATS.items() if not one.timed)
    timed = ", ".join(name for name, one in FORMATS.items() if one.timed)
    options.add_argument(
        "--formats", nargs="+", default=["txt"], type=format_name, metavar="F",
        help=f"formats of the transcripts: {untimed}, or {timed}, which hold the times of words "
        "(default: txt)",
    )  # fmt: skip
    options.add_argument(
        "--recursive", action="store_true", help="read the folders within a folder too"
    )
    options.add_argument(
        "--window-seconds", type=positive_duration, metavar="S",
        help="longest window that is recognised at once (default: the length of the longest "
        "training utterance, but 3 s at least and 30 s at most)",
    )  # fmt: skip
    options.add_argument(
        "--min-confidence", type=float, metavar="P", help="leave out words whose confidence (0 to "
        "1) is below P or unknown; a note gives their number"
    )  # fmt: skip
    options.add_argument(
        "--max-chars-per-second", type=float, metavar="N", help="reading speed of subtitles (srt, "
        "vtt, json): a faster one stays longer where there is time, for example 17, or 9 for "
        "Chinese; a note gives the number of those that stay too fast (default: no limit)"
    )  # fmt: skip
    existing = options.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite", dest="existing", action="store_const", const="replace", default="refuse",
        help="replace existing transcripts (default: an existing transcript is an error)",
    )  # fmt: skip
    existing.add_argument(
        "--skip-existing", dest="existing", action="store_const", const="skip", default="refuse",
        help="continue an interrupted call: skip each recording whose json transcript is of the "
        "same audio, model and search; needs json in --formats",
    )  # fmt: skip
    known = options.parse_intermixed_args(hyphens(arguments))

    from asr.audio.sources import find
    from asr.recognition import transcribe as transcription

    settings = {
        name: getattr(known, name)
        for name in (
            "formats",
            "output_dir",
            "window_seconds",
            "existing",
            "min_confidence",
            "max_chars_per_second",
        )
    }
    transcription.check_request(**settings)
    sources = find(known.inputs, known.recursive)
    if len(sources) > 1 and known.output_dir is None and known.formats != ["txt"]:
        raise ValueError(f"{known.formats[0]} of {len(sources)} files needs --output-dir")
    model = load(known)
    results = transcription.transcribe(
        model, sources, batch_seconds=known.batch_seconds, model_name=known.model, **settings
    )
    print(transcription.transcription_summary(results, known.output_dir, known.formats[0]), end="")
    failed = sum(result.error is not None for result in results)
    return _status("transcribe", failed, f"of {numbered(len(results), 'file')} failed")


def export(arguments: list[str]) -> int:
    """``asr export RUN FOLDER``."""
    options = parser("export")
    options.add_argument("run", metavar="RUN", help="run folder, whose best model is exported")
    options.add_argument("output", type=Path, metavar="FOLDER", help="folder to write")
    options.add_argument(
        "--evaluations", nargs="+", default=[], metavar="FOLDER",
        help="folders that asr evaluate wrote for RUN or for its export (default: none)",
    )  # fmt: skip
    options.add_argument(
        "--notes", metavar="FILE",
        help="Markdown file that ends the card: what the model is bad at, whom to credit",
    )  # fmt: skip
    known = options.parse_args(hyphens(arguments))

    from asr.report import card

    print(card.export(known.run, known.output, known.evaluations, known.notes), end="")
    size = sum(file.stat().st_size for file in known.output.iterdir())
    print(f"written: {known.output} ({size / 1e6:.1f} MB)")
    return 0


def _refuse_idle(what: str, idle: Collection[str]) -> None:
    """Refuses options that have no meaning beside ``what``."""
    if idle:
        names = [("MODEL" if n == "model" else f"--{n.replace('_', '-')}") for n in sorted(idle)]
        raise ValueError(f"{what} does not read {listed(names)}; leave them out")


def _status(verb: str, failed: int, words: str) -> int:
    """Returns the exit status of a verb; reports the number of items that failed."""
    if failed:
        fail(f"asr {verb}: {failed} {words}, see above")
    return int(failed > 0)


def format_name(text: str) -> str:
    """Checks that a name is in FORMATS; a file follows --formats if it precedes the files."""
    if text not in FORMATS:
        choices = ", ".join(FORMATS)
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of {choices}; files go before --formats, or after --"
        )
    return text


def model_options(verb: str) -> Parser:
    """Makes a parser with the options that the verbs for recognition share."""
    options = parser(verb)
    options.add_argument(
        "model",
        metavar="MODEL",
        nargs="?" if verb == "evaluate" else None,
        help="run folder (its best model is used), model folder, or shipped model",
    )
    options.set_defaults(search=None)
    if verb != "tune-decoding":
        options.add_argument(
            "--search", help="Greedy, Beam, or a YAML file with a search (default: the one stored "
            "with the model)",
        )  # fmt: skip
    options.add_argument(
        "--language-model", metavar="LM", action="append",
        help="run folder or model folder of a language model; give the option again to mix several "
        "(default: those stored with the model, if there are any)",
    )  # fmt: skip
    options.add_argument(
        "--device", help="cpu, cuda or cuda:N (default: cuda if there is a GPU, otherwise cpu)"
    )
    options.add_argument(
        "--allow-code", action="store_true",
        help="allow the model to import classes of its own; use it only if you trust the model",
    )  # fmt: skip
    options.add_argument(
        "--batch-seconds", type=positive_duration, metavar="S",
        help="seconds of audio in a batch (default: 120, on a GPU 960)",
    )  # fmt: skip
    return options


def corpus_options(options: Parser, split: str) -> None:
    """Adds the options that choose the utterances to recognise."""
    options.add_argument("--split", default=split, help=f"split of the corpus (default: {split})")
    options.add_argument(
        "--corpus", metavar="FOLDER",
        help="folder of a prepared corpus (default: the one that the model was trained on)",
    )  # fmt: skip


def load(known: argparse.Namespace, *, tuned: bool = False) -> Any:
    """Loads the model that the options choose.

    Raises:
        ValueError: there is no such model, or the search does not fit the model or the language
            models of the options (which is allowed if the search will be ``tuned``).
    """
    from asr.config import strict_yaml
    from asr.model import find_model, give_language_model, load_model
    from asr.recognition.validate import try_search

    find_model(known.model)
    search = known.search
    if search is not None and search.endswith((".yaml", ".yml")):
        search = strict_yaml.load_file(search)
    device = device_of(known.device)
    if known.batch_seconds is None:
        known.batch_seconds = BATCH_SECONDS if device == "cpu" else GPU_BATCH_SECONDS
    if device != "cpu":
        from asr.metering.precision import allow_tf32

        allow_tf32(True)  # for matrix products, too; recurrent layers use TF32 by default
    model = load_model(known.model, device, search, known.allow_code)
    if known.language_model is not None:
        give_language_model(model, known.language_model, known.allow_code)
        if not tuned and not model.search.lm_weight:
            given = " ".join(known.language_model)
            raise ValueError(
                f"--language-model {given}: the search gives it no weight; run "
                "asr tune-decoding, or --search with Beam and an lm_weight above 0"
            )
    if not tuned:
        try:
            try_search(model.search, model)
        except ValueError as error:
            remedy = "asr tune-decoding stores a search that fits these language models"
            raise ValueError(f"{known.model}: {error}; {remedy}") from None
    return model
