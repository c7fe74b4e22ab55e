import re
from pathlib import Path

import pytest
import torch

from asr.config import shipped, strict_yaml
from asr.recipe.schema import Recipe
from tests.coded_speech import CodedSpeech, audio_bytes, speak
from tests.tiny import counted_flops, features

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.fixture
def own_encoder(tmp_path, monkeypatch):
    """The README's encoder as a user's own module."""
    (source,) = [code for code in PYTHON if code.startswith("# my_encoders.py")]
    (tmp_path / "my_encoders.py").write_text(source)
    monkeypatch.chdir(tmp_path)


def test_the_readme_example_of_transcription_gives_the_spoken_text(tmp_path, monkeypatch, capsys):
    (source,) = [code for code in PYTHON if "load_model(" in code]
    (tmp_path / "talk.mp3").write_bytes(audio_bytes(speak("hello")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("asr.model.load_model", lambda path: CodedSpeech())
    exec(source, {})
    assert re.match(r"hello \(Word\(text='hello', start=", capsys.readouterr().out)


def test_the_encoder_of_the_readme_passes_the_contract_tests(own_encoder):
    task = strict_yaml.load_file(shipped.find("fsdd", "tasks"))
    recipe = strict_yaml.override(task, ["--encoder", "my_encoders.Gated"], Recipe)
    torch.manual_seed(0)
    encoder = strict_yaml.read(Recipe, recipe).encoder(8).eval()
    x, lengths = features(40, 21)
    whole, sizes = encoder(x, lengths)
    alone, _ = encoder(x[1:, :21], lengths[1:])
    torch.testing.assert_close(whole[1, : sizes[1]], alone[0], atol=1e-5, rtol=0)
    state, parts = encoder.initial_state(2), []
    for chunk in x.split(8, dim=1):
        y, state = encoder.step(chunk, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1)[0], whole[0], atol=1e-5, rtol=0)
    assert counted_flops(lambda: encoder(x[:1], lengths[:1])) == encoder.flops([40])
