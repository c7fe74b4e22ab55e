"""``asr claims``."""

import argparse
from pathlib import Path

from asr.commands.options import device_of, hyphens, parser


def claims(arguments: list[str]) -> int:
    """``asr claims PROBE``: each probe brings its own description and options."""
    from asr.probes import PROBES

    options = parser("claims")
    options.usage = "asr claims PROBE [--output FOLDER] [--device DEVICE] [--option value ...]"
    options.formatter_class = argparse.RawDescriptionHelpFormatter
    meanings = "\n".join(f"  {probe.name:18} {probe.meaning}" for probe in PROBES.values())
    options.epilog = f"probes:\n{meanings}\n\n{options.epilog}"
    options.add_argument("probe", choices=PROBES, metavar="PROBE", help="one of the probes below")
    probe = PROBES[options.parse_args(arguments[:1]).probe]

    options = parser("claims")
    options.prog += f" {probe.name}"
    options.description, options.epilog = probe.meaning, f"example: {probe.example}"
    options.add_argument(
        "--output", type=Path, default=Path("claims"), metavar="FOLDER",
        help="folder to write (default: claims)",
    )  # fmt: skip
    options.add_argument(
        "--device", default="auto",
        help="cpu, cuda, cuda:N or auto (the GPU if there is one; default: auto)",
    )  # fmt: skip
    probe.add_options(options)
    known = options.parse_args(hyphens(arguments[1:]))
    return probe.run(known, device_of(None if known.device == "auto" else known.device))
