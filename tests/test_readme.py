import re
import shlex
from pathlib import Path

import pytest
import torch

from asr.cli import VERBS
from asr.commands.train import split_options, train_options
from asr.config import shipped, strict_yaml
from asr.corpora import CORPORA
from asr.recipe.schema import LanguageModelRecipe, Recipe
from tests.coded_speech import CodedSpeech, audio_bytes, speak
from tests.tiny import counted_flops, features

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [shlex.split(line, comments=True) for line in re.findall(r"^asr .*", README, re.M)]

PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)


def verb(name):
    return [command[2:] for command in COMMANDS if command[1] == name]


def test_every_verb_has_an_example_in_the_readme():
    assert {command[1] for command in COMMANDS} == set(VERBS)


@pytest.fixture
def own_encoder(tmp_path, monkeypatch):
    """The README's encoder as a user's own module."""
    (source,) = [code for code in PYTHON if code.startswith("# my_encoders.py")]
    (tmp_path / "my_encoders.py").write_text(source)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("arguments", verb("train"), ids=" ".join)
def test_every_training_command_of_the_readme_is_a_valid_recipe(arguments, own_encoder):
    _, overrides = split_options(train_options(), arguments)
    tree = strict_yaml.load_file(shipped.find(arguments[0], "tasks"))
    schema = LanguageModelRecipe if "language_model" in tree else Recipe
    recipe = strict_yaml.read(schema, strict_yaml.override(tree, overrides, schema))
    assert (
        strict_yaml.read(schema, strict_yaml.tree_of(recipe)) == recipe
    )  # its recipe.yaml repeats it


@pytest.mark.parametrize("arguments", verb("prepare"), ids=" ".join)
def test_every_preparing_command_of_the_readme_names_options_that_exist(arguments):
    own = {"output", "sample_rate", "normaliser", "alphabet"}
    tree = strict_yaml.override({}, arguments[1:], CORPORA[arguments[0]])
    options = {key: value for key, value in tree.items() if key not in own}
    component = {"class_path": arguments[0], "init_args": options}
    assert (
        strict_yaml.read_component(CORPORA, component, arguments[0]).kind is CORPORA[arguments[0]]
    )


def test_the_readmes_transcription_from_python_hears_what_is_said(tmp_path, monkeypatch, capsys):
    (source,) = [code for code in PYTHON if "load_model(" in code]
    (tmp_path / "talk.mp3").write_bytes(audio_bytes(speak("hello")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("asr.model.load_model", lambda path: CodedSpeech())
    exec(source, {})
    assert re.match(r"hello \(Word\(text='hello', start=", capsys.readouterr().out)


def test_the_readmes_encoder_keeps_the_contract(own_encoder):
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


@pytest.mark.parametrize(
    "path", re.findall(r"(?:asr|recipes|tests|scripts|benchmarks)/[\w./-]*", README)
)
def test_every_path_in_the_readme_is_there(path):
    made_by_running = path.startswith("recipes") and not path.endswith((".yaml", "/"))
    assert made_by_running or (ROOT / path).exists(), path
