"""The instrument against what is known by hand, and the probe of scaling end to end."""

import csv
import json
import re
import statistics

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from asr.cli import main
from asr.loss import add_term
from asr.probes import scaling_measure as scaling
from asr.probes.instrument import alternate, exponent, peak_bytes
from asr.probes.layers import training
from asr.probes.scaling import PROBE
from tests.tiny import ENCODER_BUILDERS, NUM_MELS, counted_flops, encoder


def impossible():
    """A real failure of the allocator: no machine has as much."""
    torch.empty(2**62, dtype=torch.uint8)


# --- peak memory ---


@pytest.mark.parametrize("size", [1, 1000, 123457])
def test_the_peak_memory_of_forward_and_backward_equals_that_worked_out_by_hand(size):
    x = torch.randn(size, requires_grad=True)

    def chain():
        y = x.sin()
        z = y.exp()
        z.sum().backward()
        x.grad = None

    # At the last product: y, z, the gradient of y, cos(x) and the gradient of x; the sum and its
    # gradient of one number each.
    assert peak_bytes(chain) == 4 * (5 * size + 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_peak_memory_on_a_gpu_equals_that_worked_out_by_hand_in_whole_blocks():
    x = torch.randn(100 * 128, device="cuda", requires_grad=True)

    def chain():
        y = x.sin()
        z = y.exp()
        z.sum().backward()
        x.grad = None

    chain()
    assert peak_bytes(chain, "cuda") == 5 * x.nbytes + 2 * 512


def test_the_peak_counts_tensors_that_are_alive_at_the_same_time():
    assert peak_bytes(lambda: torch.empty(1000)) == 4000
    assert peak_bytes(lambda: [torch.empty(1000) for _ in range(3)]) == 12000

    def one_after_another():
        for size in (100, 1000, 10):
            torch.empty(size)

    assert peak_bytes(one_after_another) == 4000
    assert peak_bytes(lambda: None) == 0


def test_memory_that_a_call_keeps_counts_for_that_call_only():
    kept = []
    assert peak_bytes(lambda: kept.append(torch.empty(1000))) == 4000
    assert peak_bytes(lambda: kept.append(torch.empty(500))) == 2000


def test_the_peak_holds_buffers_that_live_within_a_kernel():
    x = torch.randn(2, 2, 600, 16)
    attend = torch.nn.functional.scaled_dot_product_attention
    # The result and, for a backward pass, one number per query and head; then the scores at hand.
    assert peak_bytes(lambda: attend(x, x, x)) > x.nbytes + x.nbytes // 16


def test_the_peak_is_measured_right_after_an_error():
    with pytest.raises(ZeroDivisionError):
        peak_bytes(lambda: 1 / 0)
    assert peak_bytes(lambda: torch.empty(10)) == 40


# --- turns ---


def test_functions_take_turns_after_each_was_warmed_up():
    calls = []
    found = alternate([lambda: calls.append("A"), lambda: calls.append("B")], repeats=3)
    assert "".join(calls) == "AABB" + "ABABAB"
    assert [len(one.seconds) for one in found] == [3, 3]
    assert all(seconds > 0 for one in found for seconds in one.seconds)


def test_the_median_is_of_the_seconds():
    (found,) = alternate([lambda: torch.empty(25)], repeats=4)
    assert found.median == np.median(found.seconds)
    assert found.peak_bytes == 100


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError(), None])
def test_sizes_that_do_not_fit_are_left_out_and_the_rest_measured(error):
    def fails():
        if error is None:
            impossible()
        else:
            raise error

    failed, measured = alternate([fails, lambda: torch.empty(10)], repeats=2)
    assert failed is None
    assert (len(measured.seconds), measured.peak_bytes) == (2, 40)


def test_another_error_is_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="size"):
        alternate([lambda: torch.ones(2) + torch.ones(3)])


# --- growth ---


@pytest.mark.parametrize("power", [0.0, 1.0, 1.73, 2.0])
def test_an_exponent_is_recovered(power):
    times = (100, 400, 3000, 10000)
    found = exponent(times, [3e-4 * time**power for time in times])
    assert found == pytest.approx((power, 0), abs=1e-9)


def test_the_error_of_an_exponent_is_that_of_linear_regression():
    random = np.random.default_rng(0)
    times = [100, 200, 400, 1000, 5000]
    costs = [time**1.5 * np.exp(0.2 * random.standard_normal()) for time in times]
    known = scipy.stats.linregress(np.log(times), np.log(costs))
    assert exponent(times, costs) == pytest.approx((known.slope, known.stderr))


def test_two_lengths_have_no_exponent():
    assert exponent([100, 200, 200], [1.0, 2.0, 2.1]) is None


def test_growth_is_fitted_to_each_encoder_and_pass():
    def row(name, subject, time, seconds, peak):
        return scaling.Timing(
            name=name, subject=subject, time=time, batch=1, error="", seconds=seconds,
            peak_bytes=peak,
        )  # fmt: skip

    rows = [row("a", "training", time, 1e-3 * time**2, 5 * time**3) for time in (10, 20, 50)]
    rows += [row("a", "encoding", time, 2.0 * time, time) for time in (10, 20, 50)]
    rows += [row("b", "training", time, 1.0, 1) for time in (10, 20)]
    training, encoding = scaling.exponents(rows)
    assert (training["subject"], encoding["subject"]) == ("training", "encoding")
    assert (training["seconds"], training["peak_bytes"]) == (pytest.approx(2), pytest.approx(3))
    assert (encoding["seconds"], encoding["peak_bytes"]) == (pytest.approx(1), pytest.approx(1))


# --- passes ---


class WithTerm(nn.Module):
    """An encoder with an auxiliary loss that has a parameter of its own."""

    def __init__(self, weight):
        super().__init__()
        self.inner, self.own = nn.Linear(3, 3), nn.Parameter(torch.ones(()))
        self.weight = weight

    def forward(self, x, lengths):
        add_term("own", self.own * 2, torch.ones((), dtype=torch.int64), self.weight)
        return self.inner(x), lengths


@pytest.mark.parametrize(("weight", "seen"), [(0.5, [1.0]), (0.0, [])])
def test_training_goes_through_auxiliary_losses_and_leaves_no_gradients(weight, seen):
    module, x = WithTerm(weight), torch.randn(2, 4, 3, requires_grad=True)
    gradients, reached = [], []
    module.own.register_hook(lambda g: gradients.append(float(g)))
    module.inner.weight.register_hook(lambda g: reached.append("weight"))
    x.register_hook(lambda g: reached.append("x"))
    training(module, x)()
    assert gradients == seen
    assert sorted(reached) == ["weight", "x"]
    assert [t.grad for t in (x, *module.parameters())] == [None] * 4


def test_encoding_keeps_nothing_for_a_backward_pass():
    layer, x = nn.Linear(10, 10, bias=False), torch.randn(1, 5, 10)
    layers = nn.Sequential(layer, nn.Tanh(), nn.Tanh(), nn.Tanh(), nn.Tanh())
    lengths = torch.full((1,), 5).nbytes
    assert (
        peak_bytes(lambda: scaling.encode(lambda x, n: (layers(x), n), x)) == 2 * x.nbytes + lengths
    )


# --- encoders ---


@pytest.mark.parametrize("name", ["LSTM", "Transformer causal"])
def test_flops_of_an_encoder_equal_the_count_of_torch(name):
    rows = scaling.measure_encoders(
        {name: lambda mels: ENCODER_BUILDERS[name](mels)}, [24], batch=3, device="cpu", repeats=1
    )
    built = ENCODER_BUILDERS[name](scaling.NUM_MELS).eval()
    x = torch.randn(3, 24, scaling.NUM_MELS)
    counted = counted_flops(lambda: built(x, torch.tensor([24] * 3)))
    assert {row.subject: row.flops for row in rows} == {
        "training": 3 * counted,
        "encoding": counted,
    }
    for row in rows:
        assert row.flops_per_second == row.flops / statistics.median(row.repeats)
        assert row.parameters == sum(p.numel() for p in built.parameters())


def test_the_state_of_a_stream_has_the_size_worked_out_by_hand(monkeypatch):
    monkeypatch.setattr("asr.probes.streaming_measure.NUM_MELS", NUM_MELS)
    subsampling = 4 * (NUM_MELS + 4 * NUM_MELS // 2)
    lstm = subsampling + 4 * 2 * 2 * 16  # two layers, hidden and cell, 16 cells
    assert scaling.streamed_bytes(encoder("LSTM causal"), 43) == lstm
    assert scaling.streamed_bytes(encoder("LSTM causal"), 430) == lstm
    # 42 encoder frames of keys and values in two layers, each with a position of 8 bytes.
    attention = subsampling + 2 * (2 * 42 * 16 * 4 + 8)
    assert scaling.streamed_bytes(encoder("Transformer causal"), 4 * 42 + 3) == attention


# --- the command ---


RECIPE = "class_path: {}\ninit_args: {{dim: 16, layers: 1, channels: 4{}}}\n"


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(RECIPE.format("LSTM", ", bidirectional: false"))
    return str(path)


def test_the_command_writes_a_table_and_its_files(recipe, tmp_path, capsys):
    out = tmp_path / "found"
    arguments = ["--times", "4", "8", "16", "--batch", "2", "--repeats", "3"]
    arguments += ["--encoders", recipe, "--device", "cpu", "--output", f"{out}"]
    status = main(["claims", "scaling", *arguments])
    shown = capsys.readouterr().out
    assert status == 0
    assert {path.name for path in out.iterdir()} == {"scaling.json", "scaling.csv", "scaling.md"}
    assert shown.startswith((out / "scaling.md").read_text())

    found = json.loads((out / "scaling.json").read_text())
    assert found["machine"]["device"] == "cpu"
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["machine"]["torch"] == torch.__version__.split("+")[0]
    keys = [(row["name"], row["subject"], row["time"]) for row in found["rows"]]
    assert keys == [
        ("one", subject, time) for subject in ("training", "encoding") for time in (4, 8, 16)
    ]
    for row in found["rows"]:
        assert row["batch"] == 2
        assert row["error"] == ""
        assert len(row["repeats"]) == 3
        assert row["seconds"] == statistics.median(row["repeats"])
        assert (row["seconds_min"], row["seconds_max"]) == (
            min(row["repeats"]),
            max(row["repeats"]),
        )
        assert row["peak_bytes"] > 0
        assert row["state_bytes"] == 4 * (80 + 4 * 40) + 4 * 2 * 16

    with (out / "scaling.csv").open() as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, found["rows"], strict=True):
        assert line == {k: "" if v is None else str(v) for k, v in row.items() if k in line}
        assert set(row) - set(line) == {"repeats"}

    curves = {(fit["name"], fit["subject"]): fit for fit in found["exponents"]}
    assert set(curves) == {("one", "training"), ("one", "encoding")}
    fit, rows = curves["one", "encoding"], found["rows"][-3:]
    known = scipy.stats.linregress(np.log([4, 8, 16]), np.log([row["seconds"] for row in rows]))
    assert fit["seconds"] == pytest.approx(known.slope)
    assert f"{known.slope:.2f} ± {known.stderr:.2f}" in shown


def test_a_failed_row_says_so_and_the_others_are_reported(recipe, tmp_path, capsys, monkeypatch):
    def lstm_fails(encoder, x):
        return impossible if encoder.dim == 16 else training(encoder, x)

    monkeypatch.setattr(scaling, "training", lstm_fails)
    other = tmp_path / "other.yaml"
    other.write_text("class_path: LSTM\ninit_args: {dim: 8, layers: 1, channels: 4}\n")
    arguments = ["--encoders", recipe, str(other), "--times", "5", "--output", str(tmp_path / "o")]
    assert main(["claims", "scaling", *arguments, "--repeats", "1", "--device", "cpu"]) == 1
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "o" / "scaling.json").read_text())
    rows = {(row["name"], row["subject"]): row for row in found["rows"]}
    failed = rows.pop(("one", "training"))
    assert (failed["error"], failed["seconds"], failed["repeats"]) == ("out of memory", None, [])
    assert len(rows) == 3
    assert all(row["error"] == "" and row["seconds"] > 0 for row in rows.values())
    assert re.search(r"\| one, training \| 5 \| 4 \| out of memory \|", shown)


def test_rows_of_layers_in_a_file_of_an_earlier_version_are_not_shown(recipe, tmp_path):
    encoder = {"name": "one", "subject": "training", "reference": "", "time": 5, "batch": 4}
    encoder |= {"seconds": 0.25, "seconds_min": 0.2, "seconds_max": 0.3, "error": ""}
    layers = encoder | {"name": "gru-loop", "subject": "fused GRU", "reference": "loop of cells"}
    (tmp_path / "scaling.json").write_text(json.dumps({"rows": [layers, encoder]}))
    page = PROBE.page(PROBE.read(tmp_path))
    assert "| one, training | 5 | 4 | 250 [200 to 300] |" in page
    assert "gru" not in page.lower()


MISTAKES = {
    "claims": "the following arguments are required: PROBE",
    "claims scalping": r"argument PROBE: invalid choice: 'scalping' \(choose from '?scaling",
    "claims scaling --rows lstm-loop": "arguments: --rows lstm-loop; use --encoders; layers are no",
    "claims scaling --encoders lstm-loop": "lstm-loop: no recipe has this name; nearest: lstm",
    "claims scaling --times 0": "--times: '0' is not a whole number above 0",
    "claims scaling --batch two": "--batch: 'two' is not a whole number above 0",
    "claims scaling --device gpu": "--device gpu: no such device; this machine has cpu",
    "claims scaling --encoders nowhere.yaml": "nowhere.yaml: no such recipe file; check the path",
    "claims scaling --encoders {recipe} {recipe}": "two named one; rename a recipe file",
    "claims scaling --encoders {wrong}": "wrong.yaml.width: no such key; LSTM has dim",
    "claims scaling --encoders {recipe} --times 3 --output {recipe}": "one.yaml .*is a file",
}


@pytest.mark.parametrize("text", list(MISTAKES))
def test_a_mistake_is_one_line(text, recipe, tmp_path, capsys):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(RECIPE.format("LSTM", ", width: 3"))
    words = [word.format(recipe=recipe, wrong=wrong) for word in text.split()]
    assert main(words) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    assert line.startswith("asr claims: ")
    assert re.search(MISTAKES[text], line), line
