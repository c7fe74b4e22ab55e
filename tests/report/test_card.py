"""``asr export``: the folder recognises like the run, and the card says what was measured."""

import json

import pytest
import torch

from asr import model as models
from asr.cli import main
from asr.model import load_model
from asr.training.run import train
from tests.corpus import make_corpus
from tests.training.test_train import recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    make_corpus(folder / "tones", train=20, validation=6)
    train(recipe(folder / "tones", budget={"updates": 2}), folder / "run")
    evaluate = ["evaluate", str(folder / "run"), "--split", "validation"]
    assert main(evaluate) == 0
    return folder / "run"


def test_an_export_recognises_like_the_run_and_takes_half_the_space(run, tmp_path, capsys):
    output = tmp_path / "small"
    notes = tmp_path / "notes.md"
    notes.write_text("## Limits\n\nIt hears tones only.")
    results = run / "evaluations" / "validation"
    command = ["export", str(run), str(output), "--evaluations", str(results)]
    assert main([*command, "--notes", str(notes)]) == 0
    card = (output / "README.md").read_text()
    assert card in capsys.readouterr().out
    metrics = json.loads((results / "metrics.json").read_text())
    ledger = json.loads((run / "ledger.json").read_text())
    for words in (
        f"{100 * metrics['wer']['rate']:.1f} %",
        f"{ledger['updates']} updates",
        "20 utterances",
        "## Limits\n\nIt hears tones only.",
        "asr transcribe small talk.wav",
    ):
        assert words in card
    for file in output.iterdir():
        assert str(run.parent) not in file.read_bytes().decode("utf-8", "replace"), "a local path"

    whole, half = load_model(run), load_model(output)
    waves, lengths = torch.randn(2, 8000).clamp(-1, 1), torch.tensor([8000, 5000])
    with torch.inference_mode():
        a, b = (model.encode(waves, lengths)[0] for model in (whole, half))
    torch.testing.assert_close(a, b, rtol=0.01, atol=0.01)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (run / "best", output)]
    assert sizes[1] < 0.6 * sizes[0]
    assert main(command) == 0, "the same model may be exported again"


def test_a_shipped_model_is_found_by_its_name(run, tmp_path, monkeypatch, capsys):
    assert main(["export", str(run), str(tmp_path / "models" / "tiny")]) == 0
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "models")
    assert models.find_model("tiny") == tmp_path / "models" / "tiny"
    with pytest.raises(ValueError, match="huge: no such model .* shipped model: tiny"):
        models.find_model("huge")


def test_an_evaluation_or_a_folder_of_another_model_is_refused(run, tmp_path, capsys):
    corpus = run.parent / "tones"
    train(recipe(corpus, budget={"updates": 2}, seed=2), tmp_path / "other")
    results = run / "evaluations" / "validation"
    command = ["export", str(tmp_path / "other"), str(tmp_path / "small")]
    assert main([*command, "--evaluations", str(results)]) == 2
    assert "an evaluation of another model; evaluate this one" in capsys.readouterr().err
    assert not (tmp_path / "small").exists()
    assert main(command) == 0
    assert main(["export", str(run), str(tmp_path / "small")]) == 2
    assert "holds another model; choose another folder" in capsys.readouterr().err
