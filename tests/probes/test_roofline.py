import json
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn, randn

from asr.cli import main
from asr.probes.roofline_measure import Fit, Machine, bound, fit, time_steps, timed_step
from tests.tiny import counted_flops

SIZES = [(width, batch) for width in (64, 128, 256, 512) for batch in (1, 8, 64)]


def planted(latency, rate, noise=0.0):
    random = np.random.default_rng(0)
    return [
        timed_step(
            h, b, (latency + 16 * b * h**2 / rate) * float(1 + noise * random.standard_normal())
        )
        for h, b in SIZES
    ]


@pytest.mark.parametrize("latency", [0.0, 5e-6, 1e-3])
def test_the_fit_recovers_planted_values(latency):
    found = fit(planted(latency, 1e11))
    assert found.latency == pytest.approx(latency, abs=1e-9)
    assert found.rate == pytest.approx(1e11, rel=1e-3)
    assert found.error < 1e-6


def test_the_fit_recovers_planted_values_within_its_error_under_noise():
    found = fit(planted(5e-6, 1e11, noise=0.05))
    assert abs(found.latency - 5e-6) < 3 * found.latency_error
    assert 0 < found.latency_error < 1e-6
    assert found.error == pytest.approx(0.05, rel=0.5)


def test_a_latency_is_never_negative():
    # Small steps that are faster than in proportion to their work.
    found = fit([timed_step(h, 1, 1e-12 * h**3) for h in (64, 128, 256)])
    assert found.latency == 0


def test_fewer_than_three_sizes_give_no_fit():
    with pytest.raises(ValueError, match="three or more different widths or batches"):
        fit([timed_step(64, 4, 1.0), timed_step(128, 1, 1.0)])  # as much work


def test_the_flops_and_bytes_of_a_step_are_those_of_the_layer():
    lstm, frames = nn.LSTM(32, 32, batch_first=True), 10
    x = randn(3, frames, 32)
    assert frames * timed_step(32, 3, 1.0).flops == counted_flops(lambda: lstm(x))


def test_the_bound_follows_from_the_fit_and_the_ridge_point():
    machine = Machine(peak=1e12, bandwidth=1e11)  # ridge 10
    fitted = Fit(latency=1e-5, latency_error=0, rate=1e12, error=0)
    small = timed_step(64, 1, 1e-5)
    assert small.intensity == pytest.approx(8 * 64**2 / (4 * (4 * 64**2 + 8 * 64)))
    assert bound(small, fitted, machine) == "latency"
    wide = timed_step(4096, 2, 3e-3)  # 268 MB at 100 GB/s: 2.7 ms
    assert wide.intensity < machine.ridge
    assert bound(wide, fitted, machine) == "memory"
    assert (
        bound(timed_step(4096, 2, 1e-3), fitted, machine) == "arithmetic"
    )  # faster than its bytes
    assert bound(timed_step(4096, 64, 2e-2), fitted, machine) == "arithmetic"


def test_the_time_of_a_step_is_the_median_difference_of_two_lengths_per_frame(monkeypatch):
    def taken(*seconds):
        return SimpleNamespace(seconds=seconds)

    timings = iter(
        [
            (taken(1.0, 1.1, 0.9), taken(2.0, 2.3, 1.9)),  # differences 1.0, 1.2, 1.0
            (taken(1.0, 1.0, 1.0), taken(0.9, 1.0, 1.2)),  # differences -0.1, 0.0, 0.2
        ]
    )
    called = []

    def alternate(functions, **_):
        for function in functions:
            function()
            called.append(function)
        return next(timings)

    monkeypatch.setattr("asr.probes.roofline_measure.alternate", alternate)
    [step] = time_steps([8, 16], [2], frames=50, device="cpu", repeats=3)
    assert (step.width, step.batch) == (8, 2)  # the other size was too short to be timed
    assert step.seconds == pytest.approx(1.0 / 50)
    assert len(called) == 4


def test_the_verb_writes_a_row_per_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("asr.probes.roofline_measure.SQUARE", 128)
    monkeypatch.setattr("asr.probes.roofline_measure.COPIED", 1 << 16)
    words = "--widths 16 128 256 --batches 2 16 --frames 50 --repeats 3"
    assert main(["claims", "roofline", "--output", str(tmp_path / "o"), *words.split()]) == 0
    page = (tmp_path / "o" / "roofline.md").read_text()
    assert page in capsys.readouterr().out
    written = json.loads((tmp_path / "o" / "roofline.json").read_text())
    assert [(s["width"], s["batch"]) for s in written["steps"]][-1] == (256, 16)
    assert written["machine"]["ridge"] > 0


def test_one_size_is_refused_before_anything_is_measured(tmp_path, capsys):
    words = ["--output", str(tmp_path / "o"), "--widths", "16", "--batches", "4"]
    assert main(["claims", "roofline", *words]) == 2
    assert "three or more different sizes" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
