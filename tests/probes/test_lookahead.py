import json

import pytest
import torch

from asr.cli import main
from asr.config import strict_yaml
from asr.encoders import ENCODERS
from asr.probes.lookahead import look_ahead
from tests.run_folders import write_run

CAUSAL = {"heads": 2, "causal": True, "dim": 16, "layers": 1, "channels": 4, "dropout": 0.0}
TREES = {
    "causal": ("Transformer", CAUSAL),
    "chunks": ("Transformer", {**CAUSAL, "chunk": 4, "left_context": 8}),
    "full": ("Transformer", {**CAUSAL, "causal": False}),
    "one way": ("LSTM", {"dim": 16, "layers": 1, "channels": 4, "bidirectional": False}),
    "two ways": ("LSTM", {"dim": 16, "layers": 1, "channels": 4}),
}


def encoder(name):
    kind, options = TREES[name]
    return strict_yaml.read_component(
        ENCODERS, {"class_path": kind, "init_args": options}, name, 1
    )(80)


@pytest.mark.parametrize("name", TREES)
def test_the_look_ahead_is_where_the_gradient_of_a_frame_ends(name):
    torch.manual_seed(0)
    built = encoder(name).eval()
    x = torch.randn(1, 160, 80, requires_grad=True)
    y, _ = built(x, torch.tensor([160]))
    ahead = []
    weights = torch.randn(y.shape[2])
    for frame in range(y.shape[1]):
        (gradient,) = torch.autograd.grad(y[0, frame] @ weights, x, retain_graph=True)
        last = int(gradient[0].abs().sum(1).nonzero().max())
        ahead.append(max(0, last + 1 - (frame + 1) * built.stride) / 100)
    told = look_ahead(built)
    if told is None:
        assert ahead[0] > 1  # seconds: the first frame sees nearly all
    else:
        assert max(ahead) == pytest.approx(told[0])
        assert sum(ahead) / len(ahead) == pytest.approx(told[1])


def trained(folder, name, errors, **options):
    kind, tree = TREES[name]
    write_run(
        folder,
        kind,
        errors=errors,
        recipe={"encoder": {"class_path": kind, "init_args": tree}},
        **options,
    )
    return str(folder)


def test_runs_are_listed_in_the_order_of_their_look_ahead(tmp_path, capsys):
    runs = [
        trained(tmp_path / "full", "full", [1] * 20),
        trained(tmp_path / "causal", "causal", [3] * 20),
        trained(tmp_path / "chunks", "chunks", [2] * 20, seed=2),
    ]
    assert main(["claims", "lookahead", *runs, "--output", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "lookahead.md").read_text()
    assert page in capsys.readouterr().out
    points = json.loads((tmp_path / "out" / "lookahead.json").read_text())["points"]
    assert [(p["most"], p["wer"], p["seed"]) for p in points] == [
        (0.0, pytest.approx(0.3), 1),
        (0.12, pytest.approx(0.2), 2),
        (None, pytest.approx(0.1), 1),
    ]
    assert main(["compare", *runs, "--claims", str(tmp_path / "out"),
                 "--output", str(tmp_path / "report")]) == 0  # fmt: skip
    report = (tmp_path / "report" / "report.md").read_text()
    assert "| Transformer | Transformer | 0.12 s | 1 | 20.0 % |" in report
    assert "| Transformer | Transformer | the utterance | 1 | 10.0 % |" in report


def test_a_run_that_was_not_evaluated_is_refused_with_the_command(tmp_path, capsys):
    run = trained(tmp_path / "run", "causal", None)
    assert main(["claims", "lookahead", run, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"run: asr evaluate {run} --split test" in error
    assert not (tmp_path / "out").exists()
