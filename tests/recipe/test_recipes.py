import re
from pathlib import Path

import pytest
import torch

import asr.encoders
from asr.config import strict_yaml
from asr.decoders import DECODERS
from asr.model import build_model
from asr.recipe.schema import LanguageModelRecipe, Recipe
from asr.text.tokenizers import Characters
from benchmarks import encoder_table

ROOT = Path(__file__).parents[2]
TASKS = sorted((ROOT / "recipes").glob("*.yaml"))
ENCODERS = sorted((ROOT / "recipes" / "encoders").glob("*.yaml"))
DECODER_FILES = sorted((ROOT / "recipes" / "decoders").glob("*.yaml"))
LANGUAGE_MODELS = sorted((ROOT / "recipes" / "language_models").glob("*.yaml"))
# Sizes that are compared with each other have encoders within 5 % (80 mel bins, 40 for tiny).
MATCHED = 0.05


def parse(task: Path, *overrides: str) -> Recipe:
    tree = strict_yaml.override(strict_yaml.load_file(task), overrides, Recipe)
    return strict_yaml.read(Recipe, tree)


def build(recipe: Recipe):
    """On the meta device: shapes and counts without memory."""
    with torch.device("meta"):
        return build_model(
            recipe.features,
            recipe.encoder,
            recipe.decoder,
            recipe.search,
            Characters(["abcdefghijklmnopqrstuvwxyz '"]),
            "english",
        )


@pytest.mark.parametrize("encoder", [None, *ENCODERS], ids=lambda p: p.stem if p else "default")
@pytest.mark.parametrize("task", TASKS, ids=lambda p: p.stem)
def test_every_recipe_parses_and_builds_with_every_encoder(task, encoder):
    recipe = parse(task, *(["--encoder", str(encoder)] if encoder else []))
    sizes = build(recipe).num_parameters()
    assert all(size > 0 for size in sizes.values())
    assert strict_yaml.read(Recipe, strict_yaml.tree_of(recipe)) == recipe


@pytest.mark.parametrize("decoder", DECODER_FILES, ids=lambda p: p.stem)
@pytest.mark.parametrize("task", TASKS, ids=lambda p: p.stem)
def test_every_recipe_parses_and_builds_with_every_decoder(task, decoder):
    recipe = parse(task, "--decoder", str(decoder))
    assert type(build(recipe).decoder).__name__ == strict_yaml.load_file(decoder)["class_path"]
    assert strict_yaml.read(Recipe, strict_yaml.tree_of(recipe)) == recipe


@pytest.mark.parametrize("path", DECODER_FILES, ids=lambda p: p.stem)
def test_decoder_recipes_state_their_parameters(path):
    stated = re.search(
        r"has (\S+) M parameters with encoder frames of (\d+) dimensions and (\d+) tokens\.",
        path.read_text(),
    )
    described = strict_yaml.load_file(path)
    dim, vocabulary = int(stated[2]), int(stated[3])
    with torch.device("meta"):
        decoder = DECODERS[described["class_path"]](dim, vocabulary, **described["init_args"])
    parameters = sum(parameter.numel() for parameter in decoder.parameters())
    assert stated[1] == f"{parameters / 1e6:.2f}"


@pytest.mark.parametrize("path", LANGUAGE_MODELS, ids=lambda p: p.stem)
def test_every_language_model_recipe_parses_and_has_the_size_that_it_states(path):
    recipe = strict_yaml.read(LanguageModelRecipe, strict_yaml.load_file(path))
    model = recipe.language_model(256)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    stated = re.search(r"has (\S+) M parameters with 256 tokens", path.read_text())
    assert (float(stated[1]) if stated else 0.0) == pytest.approx(millions, abs=0.05)
    assert strict_yaml.read(LanguageModelRecipe, strict_yaml.tree_of(recipe)) == recipe


def test_every_decoder_but_ctc_comes_in_every_size():
    names = {path.stem: strict_yaml.load_file(path)["class_path"] for path in DECODER_FILES}
    assert names.pop("ctc") == "CTC"  # one layer, of the only size there is
    for size in ("tiny", "small", "base"):
        of_size = {name for stem, name in names.items() if stem.endswith(f"-{size}")}
        assert of_size == set(DECODERS) - {"CTC"}


@pytest.mark.parametrize("size", encoder_table.SIZES)
def test_encoders_of_one_size_are_matched_and_state_their_parameters(size):
    counts = {}
    for path in ENCODERS:
        if path.stem.endswith(f"-{size}"):
            counts[path.stem] = encoder_table.row(path)["parameters"]
            stated = f"{counts[path.stem] / 1e6:.1f} M parameters"
            assert stated in path.read_text().splitlines()[1], path
    assert len(counts) >= 2
    assert max(counts.values()) <= (1 + MATCHED) * min(counts.values()), counts


def test_the_table_of_encoders_is_what_the_recipes_build():
    assert encoder_table.table() == (encoder_table.FOLDER / "README.md").read_text()


def test_every_architecture_comes_in_every_size():
    names = {strict_yaml.load_file(p)["class_path"] for p in ENCODERS}
    assert names == set(asr.encoders.ENCODERS)
    for size in ("small", "base", "large"):
        missing = {p.stem.rsplit("-", 1)[0] for p in ENCODERS} - {
            p.stem.rsplit("-", 1)[0] for p in ENCODERS if p.stem.endswith(size)
        }
        assert missing == set(), size
