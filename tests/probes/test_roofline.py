import json

import pytest
import torch
from torch import nn, randn

from asr.cli import main
from asr.encoders import Frames
from asr.probes import roofline_measure
from asr.probes.roofline_measure import (
    READ,
    bound,
    combined,
    readers,
    stream,
    time_once,
    timed_step,
    weight_bytes,
)
from tests.tiny import counted_flops


def test_the_flops_and_bytes_of_a_step_are_those_of_the_layer():
    lstm, frames = nn.LSTM(32, 32, batch_first=True), 10
    x = randn(3, frames, 32)
    assert frames * timed_step(32, 3, 1.0).flops == counted_flops(lambda: lstm(x))


def test_a_stream_reads_all_weights_of_all_layers_for_each_frame():
    lstm = nn.LSTM(32, 32, num_layers=5, bias=False)
    weights = sum(p.numel() for p in lstm.parameters())
    step = timed_step(32, 3, 1.0, layers=5)
    assert step.bytes == weight_bytes(32, 5) == 4 * weights
    assert step.flops == counted_flops(lambda: lstm(randn(1, 3, 32)))
    assert step.intensity == pytest.approx(step.flops / (4 * weights + 5 * 4 * 8 * 3 * 32))
    recurrent = lstm.weight_hh_l0.numel()
    assert timed_step(32, 3, 1.0).bytes == 4 * recurrent


@torch.inference_mode()
def test_a_stream_computes_the_layers_of_the_encoder_frame_by_frame(monkeypatch):
    made = []
    build = roofline_measure.layer
    monkeypatch.setattr(
        roofline_measure, "layer", lambda *a, **k: made.append(build(*a, **k)) or made[-1]
    )
    torch.manual_seed(0)
    steps = []
    read = stream(8, 3, 2, 4, "cpu")
    for block in made:
        step = block.step
        monkeypatch.setattr(
            block, "step", lambda *a, step=step: steps.append(step(*a)) or steps[-1]
        )
    read()
    assert len(steps) == 4 * 3
    torch.manual_seed(0)
    [build("LSTM", 8, bidirectional=False) for _ in range(3)]
    x = randn(2, 1, 8).expand(2, 4, 8)  # the same frame again and again
    y = Frames(x, torch.tensor([4, 4]))
    for block in made:
        y = block(y)
    torch.testing.assert_close(steps[-1][0].x[:, 0], y.x[:, -1], atol=1e-6, rtol=1e-5)


def test_as_many_bytes_are_summed_and_multiplied_over_and_over():
    (summing, multiply), passes = readers(2**16, 64, "cpu")
    assert passes == READ / 2**16
    assert summing().tolist() == [2**14] * passes  # ones
    assert multiply().tolist() == [64] * (2**14 // 64)


@pytest.mark.parametrize(
    ("reading", "seconds", "said"),
    [(0.4, 1.0, "latency"), (0.6, 1.0, "memory"), (0.6, 0.2, "arithmetic"), (1.2, 0.2, "memory")],
)
def test_the_bound_is_what_takes_more_than_half_of_the_time(reading, seconds, said):
    step = timed_step(64, 4, seconds, reading=[reading] * 3)
    assert bound(step, step.flops / 0.16) == said  # arithmetic takes 0.16 s at the peak


def test_the_time_of_a_step_is_the_difference_of_two_lengths_per_frame(monkeypatch):
    passes = readers(weight_bytes(8, 0), 8, "cpu")[1]
    reads = [passes * 0.002, passes * 0.004]
    called = []

    def medians(functions, device):
        for function in functions:
            called.append(function())
        return next(timings)

    monkeypatch.setattr(roofline_measure, "medians", medians)
    monkeypatch.setattr(roofline_measure, "SQUARE", 128)
    monkeypatch.setattr(roofline_measure, "SETS", (2**12, 2**16))
    timings = iter([[1.0], [2.0], None, [*reads, 2.0, 1.0], [*reads, 5.0], None, [*reads, 5.0]])
    found = time_once([8, 16], [2], 50, 3, "cpu")
    assert found["peak"] == 2 * 128**3
    assert found["caches"] == [READ / 2.0, None]
    step, live, missing, _ = found["steps"]
    assert step == pytest.approx([1.0 / 50, 0.002, 0.004])
    assert live[0] == pytest.approx(5.0 / 50)
    assert missing is None
    assert len(called) == 1 + 2 + 2 * (4 + 3)


def test_shares_are_those_of_repeats_and_what_cannot_be_timed_is_told():
    repeats = [[1.0, 0.5, 0.8], [2.0, 0.5, 0.8], [4.0, 0.5, 0.8]]
    step, why = combined(8, 2, 3, repeats)
    assert not why
    assert (step.width, step.batch, step.layers, step.seconds) == (8, 2, 3, 2.0)
    assert step.reading == [0.5, 0.25, 0.125]
    assert step.multiplying == pytest.approx([0.8, 0.4, 0.2])
    assert combined(8, 2, 3, [*repeats, None]) == (None, "out of memory")
    assert combined(8, 2, 0, [*repeats, [-0.1, 0.5, 0.8]]) == (None, "too short to be timed")


def test_the_verb_writes_a_row_per_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(roofline_measure, "SQUARE", 128)
    monkeypatch.setattr(roofline_measure, "SETS", (2**12, 2**16))
    asked = []

    def in_process(function, threads, device, *arguments):
        asked.append(arguments)
        shares = {"core_wait_share": 0.0, "gpu_shared_share": None, "gpu_throttled_share": None}
        return {**function(*json.loads(json.dumps(arguments))), "cpu_seconds": 1.0, **shares}

    monkeypatch.setattr(roofline_measure, "in_process", in_process)
    words = "--widths 16 --batches 2 16 --frames 50 --repeats 3 --layers 2"
    assert main(["claims", "roofline", "--output", str(tmp_path / "o"), *words.split()]) == 0
    page = (tmp_path / "o" / "roofline.md").read_text()
    assert page in capsys.readouterr().out
    written = json.loads((tmp_path / "o" / "roofline.json").read_text())
    assert {(s["width"], s["layers"]) for s in written["steps"]} >= {(16, 2)}
    assert "| frame by frame, 2 layers |" in page
    assert len(asked) == 3
    assert written["about"]["cpu_seconds"] == 3
    assert written["machine"]["bandwidth"] == written["caches"][-1]["rate"] > 0
    assert [cache["bytes"] for cache in written["caches"]] == [2**12, 2**16]
