"""The command ``asr``: runs a verb, and reports an error in one line."""

import io
import logging
import os
import sys
from collections.abc import Callable, Sequence

from asr import __version__
from asr.commands.claims import claims
from asr.commands.compare import compare, study
from asr.commands.doctor import doctor
from asr.commands.options import VERBS, fail
from asr.commands.prepare import prepare
from asr.commands.recipes import recipes
from asr.commands.recognise import evaluate, export, transcribe, tune_decoding
from asr.commands.train import train
from asr.files import ESCAPED
from asr.items import one_line

_FUNCTIONS: tuple[Callable[[list[str]], int], ...] = (
    prepare, recipes, train, tune_decoding, evaluate, transcribe, export, compare, study, claims,
    doctor,
)  # fmt: skip
COMMANDS = {function.__name__.replace("_", "-"): function for function in _FUNCTIONS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb: 0 when all was done, 1 when a file of many failed, 2 for a mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # of a terminal that may not know every letter
            stream.reconfigure(errors=ESCAPED)
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the program that reads the output, such as head, has closed it
        # At exit, Python writes what is still buffered: it must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: list[str]) -> int:
    """The exit status of one verb, or of a question for help."""
    if arguments[:1] == ["--version"]:
        print(f"asr {__version__}")
        return 0
    if arguments[:1] in (["-h"], ["--help"], ["help"]):
        print(overview())
        return 0
    if not arguments:
        return fail(f"asr: give a verb: {', '.join(VERBS)} (see: asr --help)")
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        return fail(f"asr {verb}: no such command; choose one of {', '.join(VERBS)}")
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[_Lines()])
    logging.getLogger("asr").setLevel(logging.INFO)
    try:
        status = COMMANDS[verb](rest)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        return fail(f"asr {verb}: {one_line(error)}")
    except KeyboardInterrupt:
        again = "; the same command continues from the last checkpoint" * (
            verb in ("train", "study")
        )
        return fail(f"asr {verb}: interrupted{again}", status=130)


def overview() -> str:
    """Returns the text of ``asr --help``."""
    lines = [f"asr {__version__} trains speech recognisers and measures what they cost", ""]
    for verb, (meaning, _) in VERBS.items():
        lines.append(f"  asr {verb:13} {meaning}")
    lines += ["", "For example, from nothing to a comparison:"]
    lines += [f"  {example}" for _, example in VERBS.values()]
    return "\n".join([*lines, "", "asr VERB --help lists the options of a verb."])


class _Lines(logging.Handler):
    """Writes a line on stderr per record, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)
