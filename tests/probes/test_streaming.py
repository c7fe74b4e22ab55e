import json

import pytest
import torch

from asr.cli import main
from asr.config import strict_yaml
from asr.encoders import ENCODERS
from asr.probes.scaling_measure import streamed_bytes
from asr.probes.streaming_measure import Stream, measure_streams
from tests.tiny import ENCODER_BUILDERS

CAUSAL = {"heads": 2, "causal": True, "dim": 16, "layers": 1, "channels": 4}
TREES = {
    "recurrent": ("GRU", {"dim": 16, "layers": 2, "bidirectional": False, "channels": 4}),
    "growing": ("Transformer", CAUSAL),
    "bounded": ("Transformer", {**CAUSAL, "left_context": 8, "chunk": 4}),
    "offline": ("Transformer", {**CAUSAL, "causal": False}),
}


def recipes(*names):
    return {
        name: strict_yaml.read_component(
            ENCODERS, {"class_path": TREES[name][0], "init_args": TREES[name][1]}, name, 1
        )
        for name in names
    }


@pytest.fixture(scope="module")
def points():
    found = measure_streams(recipes(*TREES), [64, 640], batch=2, chunks=3, repeats=2, device="cpu")
    return {(point.encoder, point.position): point for point in found}


def test_an_encoder_that_sees_the_future_is_not_streamed(points):
    assert {name for name, _ in points} == {"recurrent", "growing", "bounded"}


def test_the_state_of_a_stream_has_the_size_of_the_formula(points):
    assert points["recurrent", 64].state_bytes == points["recurrent", 640].state_bytes
    grown = points["growing", 640].state_bytes - points["growing", 64].state_bytes
    frames = (640 - 64) // 4
    assert grown == frames * 2 * 16 * 4  # a key and a value of 16 float32 each
    assert points["bounded", 64].state_bytes == points["bounded", 640].state_bytes


def test_a_stream_has_read_up_to_the_position_that_it_reports(points):
    for (name, position), point in points.items():
        encoder = recipes(name)[name](80).eval()
        read = position // encoder.chunk * encoder.chunk  # the timed chunks are not kept
        assert point.chunk == encoder.chunk
        # The position, 8 bytes, is one for all streams.
        assert point.state_bytes == pytest.approx(streamed_bytes(encoder, read), abs=8)
        assert len(point.repeats) == 2
        assert point.milliseconds == pytest.approx(sum(point.repeats) / 2)
        assert 0 < point.milliseconds <= point.slowest


def test_an_encoder_reads_the_chunks_that_are_multiples_of_its_own():
    settings = {"batch": 1, "chunks": 1, "repeats": 1, "device": "cpu"}
    found = measure_streams(recipes("recurrent", "bounded"), [64], **settings, chunk=[4, 16])
    read = [(point.encoder, point.chunk) for point in found]
    assert read == [("recurrent", 4), ("recurrent", 16), ("bounded", 16)]
    assert len({point.state_bytes for point in found[:2]}) == 1  # equal positions
    with pytest.raises(ValueError, match="--chunk 4: bounded reads chunks of 16 feature frames"):
        measure_streams(recipes("recurrent", "bounded"), [64], **settings, chunk=[4])


@torch.inference_mode()
def test_skipping_ahead_gives_the_state_of_reading_in_chunks():
    encoder = recipes("growing")["growing"](80).eval()
    stream = Stream("growing", encoder, 1, 4, "cpu")
    stream.skip_to(83)
    assert stream.position == 80
    other = torch.Generator().manual_seed(0)
    sizes = [64, 16]
    x = torch.cat([torch.randn(1, size, 80, generator=other) for size in sizes], dim=1)
    _, state = encoder.step(x, encoder.initial_state(1))
    for name, value in state.items():
        torch.testing.assert_close(stream.state[name], value)


@pytest.mark.parametrize("frames", [1, 2, 4, 5])
@torch.inference_mode()
def test_an_lstm_reads_few_frames_cell_by_cell_as_it_reads_many(frames):
    encoder = ENCODER_BUILDERS["LSTM causal projected"](8).eval()
    chunk = encoder.chunk
    x = torch.randn(1, 40 * chunk, 8)
    whole, _ = encoder(x, torch.tensor([x.shape[1]]))
    state, parts = encoder.initial_state(1), []
    for piece in x.split(frames * chunk, dim=1):
        y, state = encoder.step(piece, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


def test_the_verb_writes_a_row_per_encoder(tmp_path, capsys):
    file = tmp_path / "small.yaml"
    file.write_text("class_path: GRU\ninit_args: {dim: 16, layers: 1, bidirectional: false}\n")
    words = f"--encoders {file} --positions 40 80 --chunks 2 --batch 3 --output {tmp_path / 'o'}"
    assert main(["claims", "streaming", *words.split()]) == 0
    page = (tmp_path / "o" / "streaming.md").read_text()
    assert page in capsys.readouterr().out
    assert "| small | " in page
    assert "Number of parallel streams: 3;" in page
    written = json.loads((tmp_path / "o" / "streaming.json").read_text())["points"]
    assert [point["position"] for point in written] == [40, 80]


def test_a_recipe_that_cannot_stream_is_one_line(tmp_path, capsys):
    file = tmp_path / "both.yaml"
    file.write_text("class_path: GRU\ninit_args: {dim: 16, layers: 1}\n")
    words = ["--encoders", str(file), "--output", str(tmp_path / "o")]
    assert main(["claims", "streaming", *words]) == 2
    assert "none of them is causal; give one" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_two_recipe_files_of_one_name_are_refused(tmp_path, capsys):
    files = [tmp_path / folder / "a.yaml" for folder in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        file.write_text("class_path: GRU\ninit_args: {dim: 16, layers: 1, bidirectional: false}\n")
    words = ["--encoders", *map(str, files), "--output", str(tmp_path / "o")]
    assert main(["claims", "streaming", *words]) == 2
    assert "--encoders: two named a; rename a recipe file" in capsys.readouterr().err
