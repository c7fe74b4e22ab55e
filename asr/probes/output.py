"""What a probe writes into its folder: a page for readers, CSV of its rows, JSON of everything."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr.files import write_all


def threads(machine: Mapping[str, Any]) -> str:
    """Of a machine as ``asr.probes.scaling.facts`` has it, in words: 1 thread, 2 threads."""
    number = machine["threads"]
    return f"{number} thread" if number == 1 else f"{number} threads"


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys, one at least -> a line of keys, then a line per row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_probe(
    output: Path, probe: str, rows: Sequence[Mapping[str, Any]], everything: Any, page: str
) -> None:
    """Writes PROBE.json, PROBE.csv and PROBE.md, all or none.

    Args:
        output: folder, which is there.
        probe: as in ``asr claims PROBE``.
        rows: of the CSV.
        everything: of the JSON, the rows included.
        page: of the Markdown.

    Raises:
        OSError: the folder cannot be written.
    """
    write_all(
        {
            output / f"{probe}.json": json.dumps(everything, indent=1) + "\n",
            output / f"{probe}.csv": to_csv(rows),
            output / f"{probe}.md": page,
        }
    )
