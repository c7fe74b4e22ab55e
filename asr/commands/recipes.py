"""``asr recipes``."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from asr.commands.options import hyphens, parser
from asr.config import shipped

if TYPE_CHECKING:
    from asr.recipe.catalogue import Entry

NOTE = """\
The columns are the name, millions of parameters, the cost of training if it was measured, and the
meaning. The parameters are those of the part alone: of encoders with 80 mel bins (tiny: 40), of
decoders with the encoder frames and tokens of their size, of language models with 256 tokens. The
cost is that of one run on a CPU in core-hours, with its test WER. --json prints all measured runs
and their pages."""


def recipes(arguments: list[str]) -> int:
    """``asr recipes [NAME]``."""
    options = parser("recipes")
    families = ", ".join(shipped.COMMANDS)
    options.add_argument(
        "name", nargs="?", default="", metavar="NAME",
        help=f"a family ({families}) or the beginning of a name (default: all recipes)",
    )  # fmt: skip
    options.add_argument("--json", action="store_true", help="print JSON, with every measured run")
    known = options.parse_args(hyphens(arguments))

    from asr.recipe.catalogue import entries

    chosen = [known.name] if known.name in shipped.COMMANDS else list(shipped.COMMANDS)
    found = entries(chosen, "" if known.name in shipped.COMMANDS else known.name)
    if not found:
        names = [name for family in shipped.COMMANDS for name in shipped.names(family)]
        near = shipped.nearest(known.name, [*shipped.COMMANDS, *names])
        raise ValueError(f"{known.name}: no recipe has a name that begins so; {near}")
    if known.json:
        print(json.dumps([asdict(entry) for entry in found], indent=1))
    else:
        print(table(found))
    return 0


def table(found: "list[Entry]") -> str:
    """Formats a block for each family, headed by its command, with a line for each recipe."""
    width = max(len(entry.name) for entry in found)
    lines = []
    for family, command in shipped.COMMANDS.items():
        own = [entry for entry in found if entry.family == family]
        if own:
            lines.append(f"{family.replace('_', ' ')}: {command}")
            lines += [f"  {entry.name:{width}}  {_facts(entry)}  {entry.what}" for entry in own]
            lines.append("")
    return "\n".join([*lines, NOTE])


def _facts(entry: "Entry") -> str:
    size = f"{entry.parameters / 1e6:.2f} M" if entry.parameters else ""
    cost = ""
    if entry.measured:
        first = entry.measured[0]
        cost = f"{first['device_hours']:.3f} h"
        if "wer_percent" in first:
            cost += f", {first['wer_percent']:.2f} % on {first['corpus']}"
    return f"{size:>8}  {cost:25}"
