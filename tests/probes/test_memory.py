import json

import pytest
import yaml

from asr.cli import main
from asr.probes.memory import missing, read_stored_run
from tests.run_folders import write_run


def gate_run(folder, memory, kept, **options):
    """A run of a Transformer whose last validation stored a share of the frames."""
    write_run(folder, "Transformer", **options)
    path = folder / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    if memory:
        recipe["encoder"]["init_args"]["memory"] = memory
    path.write_text(yaml.safe_dump(recipe))
    ledger = folder / "ledger.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    for line in lines:
        if line.get("validation") and kept is not None:
            line["validation"] |= {"kept": kept, "kept_speech": 0.8, "kept_silence": 0.2}
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        gate_run(tmp_path / "all", None, None, errors=[1] * 20),
        gate_run(tmp_path / "gate", {"gate": "last_kept", "threshold": 0.8}, 0.4, errors=[2] * 20),
        gate_run(tmp_path / "even", {"gate": "uniform", "rate": 0.5}, 0.5, errors=[3] * 20),
    ]


def test_stored_shares_and_error_rates_are_read_from_the_run(runs):
    everything, gate, uniform = (read_stored_run(run, "test") for run in runs)
    assert (everything.gate, everything.kept, everything.setting) == ("none", 1.0, None)
    assert (gate.gate, gate.kept, gate.setting) == ("last_kept", 0.4, 0.8)
    assert (gate.kept_speech, gate.kept_silence) == (0.8, 0.2)
    assert (uniform.gate, uniform.setting) == ("uniform", 0.5)
    assert [p.wer for p in (everything, gate, uniform)] == pytest.approx([0.1, 0.2, 0.3])
    assert gate.validation_wer == 0.1  # the best of its curve, not the last
    assert gate.device_hours > 0


def test_the_page_says_that_a_gate_without_controls_proves_nothing(runs):
    points = [read_stored_run(run, "test") for run in runs]
    assert missing(points) == [
        "No run of Transformer with gate: random, so the benefit of its gates is not known."
    ]
    assert missing(points[:1]) == []
    assert len(missing(points[1:2])) == 3


def test_the_verb_writes_a_row_per_run(runs, tmp_path, capsys):
    assert main(["claims", "memory", *map(str, runs), "--output", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "memory.md").read_text()
    assert page in capsys.readouterr().out
    assert (
        "| Transformer | last_kept 0.8 | 1 | 40.0 % | 80.0 % | 20.0 % | 10.0 % | 20.0 % [" in page
    )
    assert page.count("| Transformer |") == 3
    assert len(json.loads((tmp_path / "out" / "memory.json").read_text())["points"]) == 3


def test_a_folder_without_a_run_is_one_line(tmp_path, capsys):
    assert main(["claims", "memory", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "is not a run folder (no ledger.jsonl); check the path" in capsys.readouterr().err
