"""Draws the pictures of the pages from the committed results: ``python docs/figures.py``."""

import json
from pathlib import Path

from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
NAMES = {
    "lstm": "LSTM",
    "minlstm": "MinLSTM",
    "transformer": "Transformer",
    "conformer": "Conformer",
    "hierarchical": "Hierarchical attention",
}
LOOKS = {  # blue: recurrence; orange: attention; readable without colour by marker and line
    "lstm": {"color": "#1f5fa8", "marker": "o", "linestyle": "-"},
    "minlstm": {"color": "#1f5fa8", "marker": "s", "linestyle": "--"},
    "transformer": {"color": "#c2570c", "marker": "^", "linestyle": "-"},
    "conformer": {"color": "#c2570c", "marker": "D", "linestyle": "--"},
    "hierarchical": {"color": "#c2570c", "marker": "v", "linestyle": ":"},
}


def fsdd(output: Path) -> None:
    """Validation WER against core-hours of the study ``fsdd``: mean and range over five seeds."""
    lines = (ROOT / "recipes/studies/results/fsdd.jsonl").read_text().splitlines()
    rows = [row for line in lines if (row := json.loads(line))["role"] != "trial"]
    figure, axes = plt.subplots(figsize=(7.2, 3.9), layout="constrained")
    for arm, name in NAMES.items():
        hours, means, below, above = [], [], [], []
        for budget in ("quarter", "half", "full"):
            own = [row for row in rows if (row["arm"], row["budget"]) == (arm, budget)]
            wers = [100 * row["validation_wer"] for row in own]
            mean = sum(wers) / len(wers)
            hours.append(sum(row["device_hours"] for row in own) / len(own))
            means.append(mean)
            below.append(mean - min(wers))
            above.append(max(wers) - mean)
        axes.errorbar(hours, means, [below, above], label=name, capsize=3, **LOOKS[arm])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([0.015, 0.03, 0.06], ["0.015", "0.03", "0.06"])
    axes.minorticks_off()
    axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.set_xlabel("core-hours of training")
    axes.set_ylabel("validation WER in %")
    axes.set_title("Strings of spoken digits, 0.8 M parameters, 5 seeds", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(output, dpi=130)


if __name__ == "__main__":
    fsdd(ROOT / "docs/images/fsdd.png")
