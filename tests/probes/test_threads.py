import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import randn

from asr.cli import main
from asr.probes import threads_measure
from asr.probes.instrument import in_process
from asr.probes.layers import layer, whole
from asr.probes.threads import PRODUCT
from asr.probes.threads_measure import LAYERS, rows, time_layers, widths
from tests.tiny import counted_flops


def test_layers_have_equal_flops_by_the_count_of_torch():
    sizes = widths(160, 12)
    assert list(sizes) == list(LAYERS)
    counted = []
    for name, width in sizes.items():
        module = layer(name, width, **LAYERS[name]).eval()
        counted.append(counted_flops(lambda m=module, w=width: whole(m, randn(2, 12, w))))
    assert max(counted) < 1.05 * counted[0]
    assert min(counted) > 0.95 * counted[0]
    assert [2 * threads_measure.flops(*size, 12) / 3 for size in sizes.items()] == counted


def test_the_speed_ups_follow_from_the_times_of_processes_of_equal_index():
    def process(*seconds):
        return {"seconds": [[*seconds, 2.0]]}  # the product takes 2 s

    options = SimpleNamespace(batches=[3], frames=10, threads=2)
    found = {
        1: [process(4.0, 6.0, 1.0), process(4.4, 6.0, 1.0)],
        2: [process(4.0, 3.0, 1.0), process(2.2, 2.0, 1.0)],
    }
    lstm, transformer, _, product = rows(
        {"LSTM": 8, "Transformer": 8, "MinLSTM": 8}, options, found
    )
    assert lstm.speedup == pytest.approx([1, 2])
    assert transformer.speedup == pytest.approx([2, 3])
    assert lstm.ratio == pytest.approx([1 / 2, 2 / 3])
    assert lstm.flops == 3 * threads_measure.flops("LSTM", 8, 10)
    peak = 2 * threads_measure.SQUARE**3 / 2.0
    assert lstm.share == pytest.approx([lstm.flops / s / peak for s in (4.0, 4.4)])
    assert (product.layer, product.batch, product.share) == (PRODUCT, 0, [1, 1])


def test_each_process_has_its_number_of_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    sizes = {"LSTM": 8, "Transformer": 8, "MinLSTM": 8}
    found = in_process(time_layers, 1, "cpu", sizes, 3, [2, 1], 1)
    assert found["threads"] == 1
    assert [len(seconds) for seconds in found["seconds"]] == [4, 4]
    assert found["cpu_seconds"] > 0
    with pytest.raises(ValueError, match="divide"):
        in_process(time_layers, 1, "cpu", {"Transformer": 9}, 3, [1], 1)


def killed():
    """Ends its process as the kernel does where memory is too small."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_one_line(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # where ``killed`` is
    with pytest.raises(ValueError, match="ended with status -9; free some memory"):
        in_process(killed, 1, "cpu")


def test_the_verb_starts_processes_in_turn_and_tells_whether_others_ran(
    tmp_path, capsys, monkeypatch
):
    started = []

    def in_process(function, threads, device, sizes, frames, batches, calls):
        started.append(threads)
        seconds = [[0.1 / threads] * (len(sizes) + 1)] * len(batches)
        wait = 0.3 if len(started) == 2 else 0.0
        shares = {"core_wait_share": wait, "gpu_shared_share": None, "gpu_throttled_share": None}
        return {"seconds": seconds, "threads": threads, "cpu_seconds": 1.0, **shares}

    monkeypatch.setattr(threads_measure, "in_process", in_process)
    monkeypatch.setattr(threads_measure, "cores", lambda: 2)
    words = f"--dim 160 --frames 9 --batches 4 1 --repeats 3 --device cpu --output {tmp_path / 'o'}"
    assert main(["claims", "threads", *words.split()]) == 0
    assert started == [1, 2] * 3
    page = (tmp_path / "o" / "threads.md").read_text()
    assert page in capsys.readouterr().out
    assert "| LSTM 160 | 4 x 9 |" in page
    assert "| 2.00 [2.00 to 2.00] | 1.00 [1.00 to 1.00] |" in page
    assert "waited for a core during 30 % of the time" in page
    written = json.loads((tmp_path / "o" / "threads.json").read_text())
    assert [row["batch"] for row in written["points"]] == [4, 4, 4, 1, 1, 1, 0]
    assert written["machine"]["cpu_seconds"] == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--threads 1", "--threads 1: give 2 to 2, the cores there are"),
        ("--threads 3", "--threads 3: give 2 to 2, the cores there are"),
        ("--dim 10", "--dim 10: the FLOPs of a .* differ by .* give a larger --dim"),
    ],
)
def test_what_cannot_be_measured_is_one_line(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(threads_measure, "cores", lambda: 2)
    options = [*words.split(), "--device", "cpu", "--output", str(tmp_path / "o")]
    assert main(["claims", "threads", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("asr claims: ")
    assert re.search(said, line), line
