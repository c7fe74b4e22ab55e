"""Writes the table of encoder recipes to recipes/encoders/README.md.

python -m benchmarks.encoder_table
"""

from pathlib import Path
from typing import Any

import torch

from asr.files import write
from asr.recipe.catalogue import build_part

FOLDER = Path(__file__).parents[1] / "recipes" / "encoders"
SIZES = ("tiny", "small", "base", "large")
SECONDS = 15  # a long sentence of LibriSpeech
TEXT = f"""# Encoder recipes

`asr train TASK --encoder NAME-SIZE` trains a task with one of these encoders. Encoders of one size
have the same number of parameters within 5 %, subsampling included. The sizes small, base and large
expect 80 mel bins, and tiny expects 40.

A frame lasts 40 ms; with `--encoder.subsampling 8`, each of these encoders has frames of 80 ms.

The columns of the table:

- M: millions of parameters.
- GFLOP/s: GFLOP of one forward pass per second of audio, in an utterance of {SECONDS} s. The number
  is an upper bound for `universal` and `hierarchical-gated`, whose computation depends on the
  audio.
- look-ahead: future encoder frames of 40 ms that an output frame can depend on.

`python -m benchmarks.encoder_table` writes this page.

"""


def row(path: Path) -> dict[str, Any]:
    """What the table says about one recipe."""
    with torch.device("meta"):  # shapes and counts without memory
        encoder = build_part(path)
    name, size = path.stem.rsplit("-", 1)
    behind = encoder.chunk // encoder.stride - 1
    return {
        "name": name,
        "size": size,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "flops": encoder.flops([100 * SECONDS]) / SECONDS,
        "look-ahead": str(behind) if encoder.causal else "whole utterance",
    }


def recipes() -> list[Path]:
    """Every encoder recipe, by name."""
    return sorted(FOLDER.glob("*.yaml"))


def table() -> str:
    """Markdown: a row per architecture, a pair of columns per size."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in recipes():
        facts = row(path)
        found.setdefault(facts["name"], {})[facts["size"]] = facts
    heads = [f"{size}, M | GFLOP/s" for size in SIZES]
    lines = [f"| encoder | {' | '.join(heads)} | look-ahead |"]
    lines.append("| --- |" + " --: |" * (2 * len(SIZES)) + " --- |")
    for name, sizes in found.items():
        cells = [
            f"{sizes[s]['parameters'] / 1e6:.2f} | {sizes[s]['flops'] / 1e9:.3g}"
            if s in sizes
            else " | "
            for s in SIZES
        ]
        ahead = {facts["look-ahead"] for facts in sizes.values()}
        lines.append(f"| `{name}` | {' | '.join(cells)} | {' or '.join(sorted(ahead))} |")
    return TEXT + "\n".join(lines) + "\n"


if __name__ == "__main__":
    write(FOLDER / "README.md", table())
    print(table())
