"""``asr prepare``."""

import inspect
from pathlib import Path
from typing import Any

from asr.commands.options import fail, hyphens, parser
from asr.folders import counted, examples
from asr.items import printable


def prepare(arguments: list[str]) -> int:
    """``asr prepare CORPUS``: the options of a corpus are the parameters of its class."""
    from asr.config import strict_yaml
    from asr.config.key_help import describe_table
    from asr.corpora import CORPORA
    from asr.corpora import prepare as writer
    from asr.corpora.preflight import NOT_READ

    options = parser("prepare")
    options.usage = "asr prepare CORPUS --output FOLDER [--option value ...]"
    options.add_argument("corpus", choices=list(CORPORA), metavar="CORPUS", help=", ".join(CORPORA))
    options.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="folder to write (required)"
    )
    options.add_argument(
        "--sample-rate", type=int, default=16000, metavar="HZ",
        help="sample rate of the prepared audio (default: 16000)",
    )  # fmt: skip
    options.add_argument(
        "--normaliser", default="english", metavar="NAME",
        help="normaliser of the transcripts: english, lower (for any language) or none "
        "(default: english)",
    )  # fmt: skip
    options.add_argument(
        "--alphabet", metavar="CHARACTERS",
        help="characters expected in the transcripts (default: the characters of the split train)",
    )  # fmt: skip
    options.add_argument(
        "--strip-tags", action="store_true",
        help="remove bracketed tags from the transcripts, such as [laughter], <unk>, {breath}",
    )  # fmt: skip
    options.add_argument(
        "--refresh", action="store_true",
        help="replace the corpus in the folder, even if it was prepared with other options",
    )  # fmt: skip
    if {"-h", "--help"} & set(arguments):
        print(options.format_help())
        print("options of each corpus:\n" + describe_table(CORPORA))
        return 0
    known, rest = options.parse_known_args(hyphens(arguments))
    given = vars(known)
    name = given.pop("corpus")
    of_corpus = hyphens([f"--{option}" for option in inspect.signature(CORPORA[name]).parameters])
    for word in rest:  # options of the corpus and their values, which may be any words
        unknown = word.startswith("--") and word.partition("=")[0] not in of_corpus
        if unknown and options.nearest(word):
            options.error(f"unrecognized arguments: {word}")
    tree = strict_yaml.override({}, rest, CORPORA[name])
    corpus = strict_yaml.read_component(CORPORA, {"class_path": name, "init_args": tree}, name)()
    result: dict[str, Any] = writer.prepare(corpus, **given)
    print(prepared(result))
    dropped = [checked["dropped"] for checked in result["preflight"].values()]
    lost = [row for rows in dropped for reason in NOT_READ for row in rows.get(reason, ())]
    why = f"{counted({'rows': lost})} could not be read; {known.output}/preflight.json says why"
    return fail(f"asr prepare: {why}", status=1) if lost else 0


def prepared(result: dict[str, Any]) -> str:
    """Describes the splits of a corpus, and counts dropped, converted and suspicious rows."""
    label = " (synthetic speech)" if result["synthetic"] else ""
    state = "already there, same options" if result["reused"] else "written"
    lines = [f"{result['output']}: {result['name']}{label}, licence {result['licence']}; {state}"]
    for split, facts in result["splits"].items():
        units = ("utterances", "speakers", "words")
        utterances, speakers, words = (  # 1 speaker, 2 speakers
            f"{facts[unit]:7} {unit.removesuffix('s') if facts[unit] == 1 else unit}"
            for unit in units
        )
        lines.append(f"  {split:12} {utterances:18} {facts['hours']:8.2f} h {speakers:16} {words}")
        checked = result["preflight"][split]
        for reason, number in checked["converted"].items():
            lines.append(f"    converted   {number} ({reason.replace('_', ' ')})")
        for kind in ("dropped", "suspicious"):
            for reason, ids in checked[kind].items():
                shown = f"{len(ids)} ({reason.replace('_', ' ')}): {examples(ids)}"
                lines.append(f"    {kind:11} {shown}")
    if passed_over := counted(result.get("passed_over", {})):
        lines.append(f"  passed over {passed_over}")
    lines += [f"  note: {remark}" for remark in result["remarks"]]
    lines.append(f"  full lists: {result['output']}/preflight.json")
    return "\n".join(map(printable, lines))
