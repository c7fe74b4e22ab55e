"""The page stands alone, follows its rules of words, and its figures can be read."""

import math
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
from matplotlib.text import Text

from asr.document.blocks import Table, to_markdown
from asr.document.figures import COLOURS, spread, style, to_svg
from asr.probes import scaling, streaming
from asr.probes.probe import Measured
from asr.report import compare
from asr.report.groups import group_runs
from asr.report.plots import tuning, wer_against_costs, wer_against_hours
from asr.report.runs import read_run
from tests.run_folders import CURVE, H200, made, pair, stream, write_run


def text_of(folder: Path) -> str:
    return (folder / "report.md").read_text()


def test_the_page_is_self_contained_and_small(tmp_path):
    runs = pair(tmp_path)
    written = compare(runs, tmp_path / "out")["files"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r"https?:|//|@import|<script|<link", page)
    assert len(page) < 3_000_000
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    assert len(ids) == len(set(ids))
    assert page.count("<figure") == page.count("aria-label") == 4
    assert "prefers-color-scheme: dark" in page
    assert sorted(path.name for path in written) == sorted(
        p.name for p in (tmp_path / "out").iterdir()
    )
    assert {path.suffix for path in written} == {".html", ".md", ".csv", ".png"}
    assert str(runs[0]) in page  # every figure can be traced to a run folder


def test_the_word_gpu_appears_only_when_one_was_used(tmp_path):
    compare(pair(tmp_path), tmp_path / "cpu")
    compare([write_run(tmp_path / "c", device=H200, errors=made(0.1))], tmp_path / "cuda")
    for name in ("report.html", "report.md", "report.csv"):
        text = (tmp_path / "cpu" / name).read_text()
        assert "GPU" not in text.replace("on a GPU", "")
    assert "| on a GPU | not measured: no run of this group" in text_of(tmp_path / "cpu")
    assert "on a GPU" not in text_of(tmp_path / "cuda")
    assert "core-hours" in (tmp_path / "cpu" / "report.html").read_text()
    assert "GPU-hours" in (tmp_path / "cuda" / "report.html").read_text()


def test_joules_are_drawn_when_metered_and_their_absence_is_explained(tmp_path):
    compare(pair(tmp_path), tmp_path / "without")
    compare([write_run(tmp_path / "c", energy_joules=5e4, energy_note=None)], tmp_path / "with")
    excuse = "Joules are not shown: energy was not metered (no energy counter for a cpu device)"
    assert excuse in (tmp_path / "without" / "report.html").read_text()
    page = (tmp_path / "with" / "report.html").read_text()
    assert "Joules are not shown" not in page
    assert "50.0 kJ" in page


def test_text_from_a_run_cannot_become_markup(tmp_path):
    compare([write_run(tmp_path / "a", "<b>Evil</b>")], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;Evil" in page


def test_the_report_needs_no_torch():
    code = "import asr.report, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_figures_follow_the_theme_and_are_readable_without_colour(tmp_path):
    (group,) = group_runs([read_run(run) for run in pair(tmp_path)])
    svg = to_svg(lambda: wer_against_hours(group, 0.1), "name")
    assert svg.startswith("<svg viewBox=")
    assert all(f"var(--{name})" in svg for name in ("ink", "faint", "arm0", "arm1"))
    assert not any(colour in svg for colour in COLOURS)
    assert 'id="name-' in svg
    assert "xmlns" not in svg
    assert all(label in svg for label in ("LSTM", "Transformer", "core-hours", "WER), %"))
    looks = [style(index) for index in range(6)]
    for part in ("color", "marker"):
        assert len({look[part] for look in looks}) == len(looks)
    assert len({str(look["linestyle"]) for look in looks}) == 5


def test_labels_at_the_ends_of_lines_do_not_overlap(tmp_path):
    runs = [write_run(tmp_path / e, e) for e in ("LSTM", "Transformer", "Conformer")]
    (group,) = group_runs([read_run(run) for run in runs])  # three times the same curve
    figure = wer_against_hours(group, None)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]  # without its tie
    assert len(boxes) == 3
    heights = sorted((box.y0, box.y1) for box in boxes)
    assert all(below[1] <= above[0] for below, above in pairwise(heights))


@pytest.mark.parametrize("seed", range(4))
def test_labels_move_no_farther_than_needed(seed):
    """Against a general solver of the same least squares."""
    wanted = sorted(np.random.default_rng(seed).uniform(0, 60, 6))
    apart = {"type": "ineq", "fun": lambda places: np.diff(places) - 15}
    start = 100.0 * np.arange(6)
    solved = scipy.optimize.minimize(
        lambda places: ((places - wanted) ** 2).sum(), start, constraints=[apart], method="SLSQP"
    )
    assert spread(wanted, 15) == pytest.approx(solved.x, abs=0.01)
    assert spread([0, 20, 50], 15) == pytest.approx([0, 20, 50])


def test_a_displaced_label_is_connected_to_its_line(tmp_path):
    for number in (1, 2):
        runs = [write_run(tmp_path / f"{number}{e}", e) for e in ("LSTM", "Transformer")[:number]]
        (group,) = group_runs([read_run(run) for run in runs])  # twice the same curve
        figure = wer_against_hours(group, None)
        ties = [text for text in figure.axes[0].texts if text.arrow_patch is not None]
        assert len(ties) == (0 if number == 1 else 2)


def test_an_encoder_looks_the_same_in_every_panel_and_figure():
    def row(name, time):
        times = dict.fromkeys(("seconds", "seconds_min", "seconds_max"), 0.1 * time)
        return scaling.Timing(name=name, subject="training", time=time, batch=1, error="", **times)

    def look(axes):
        handles, labels = axes.get_legend_handles_labels()
        return {
            label.split("  ")[0]: (line[0].get_color(), line[0].get_marker())
            for line, label in zip(handles, labels, strict=True)
        }

    names = ("lstm", "conformer", "transformer")
    rows = [row(f"{name}-small", time) for name in sorted(names) for time in (100, 200)]
    measured = Measured(rows, {}, first=["LSTM", "Transformer"])
    (axes,) = scaling.draw_encoders(rows, measured).axes
    expected = [(style(i)["color"], style(i)["marker"]) for i in range(3)]
    assert look(axes) == dict(zip(("lstm", "transformer", "conformer"), expected, strict=True))
    streamed = [point for name in names for point in stream(f"{name}-small", 1.0, 100)]
    left, right = streaming.draw_figure([streaming.StreamPoint(**point) for point in streamed]).axes
    assert look(left) == look(right)
    assert len(set(look(left).values())) == 3


def test_whiskers_of_tuning_end_at_a_wer_of_100_percent():
    curves = [("lstm", [0.5, 0.2], [0.1, math.nan], [1.4, math.nan])]
    for axes in tuning(curves, [0.1], "core-hours").axes:
        assert axes.get_ylim() == pytest.approx((0, 104))
        (whiskers,) = axes.collections
        assert whiskers.get_segments()[0][:, 1] == pytest.approx([10, 140])  # the axis cuts it


def test_an_interval_whose_rounded_ends_exclude_its_value_is_drawn():
    value, beside = [0.3, 0.2], [math.nextafter(0.3, 1), 0.2]
    curves = [("a", value, beside, beside), ("b", beside, value, value)]
    for axes in tuning(curves, [0.1, 0.1], "core-hours").axes:
        assert len(axes.collections) == 2


def test_a_long_span_of_costs_is_drawn_on_a_logarithmic_axis(tmp_path):
    long = ((20, 0.9), *CURVE)
    for name, curve, scale in (("a", CURVE, "linear"), ("b", long, "log")):
        (group,) = group_runs([read_run(write_run(tmp_path / name, curve=curve))])
        assert wer_against_hours(group, None).axes[0].get_xscale() == scale


def test_small_multiples_show_the_costs_that_were_metered(tmp_path):
    runs = [
        read_run(write_run(tmp_path / "a")),
        read_run(write_run(tmp_path / "b", energy_joules=5e4, device=H200)),
    ]
    labels = [
        [axes.get_xlabel() for axes in wer_against_costs(group).axes] for group in group_runs(runs)
    ]
    assert labels[0] == ["updates", "training compute, GFLOP", "audio trained on, hours"]
    assert labels[1] == [*labels[0], "energy, kJ"]


def test_a_cell_with_a_bar_does_not_break_the_markdown_table():
    text = to_markdown("t", [("s", [Table(["", "x|y"], [["row", "1"]])])])
    assert "|  | x\\|y |\n| --- | --- |\n| row | 1 |" in text
