"""``asr recipes``: parameters against models that are built, figures against the pages."""

import json
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from asr import cli
from asr.config import shipped, strict_yaml
from asr.model import build_model
from asr.recipe.schema import Recipe
from asr.text.tokenizers import Characters

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "recipes").rglob("*.yaml"))
MEASURED = json.loads((ROOT / "recipes" / "measured.json").read_text())


@pytest.fixture(scope="module")
def listed():
    """What ``asr recipes --json`` prints, by family and name."""
    with redirect_stdout(StringIO()) as out:
        assert cli.main(["recipes", "--json"]) == 0
    return {(entry["family"], entry["name"]): entry for entry in json.loads(out.getvalue())}


def test_every_recipe_is_listed_once_with_a_sentence_of_its_own_kind(listed):
    assert len(listed) == len(FILES)
    for entry in listed.values():
        assert re.fullmatch(r"[A-Z0-9][^#]{20,}\.", entry["what"]), entry


@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize("decoder", ["attention-lstm", "transducer-stateless", "transformer"])
def test_parameters_are_those_of_a_model_that_is_built(listed, size, decoder):
    task = {"tiny": "fsdd", "small": "mini_librispeech"}[size]
    words = ["--encoder", f"lstm-{size}", "--decoder", f"{decoder}-{size}"]
    tree = strict_yaml.override(strict_yaml.load_file(shipped.find(task, "tasks")), words, Recipe)
    recipe = strict_yaml.read(Recipe, tree)
    tokens = {"tiny": 31, "small": 256}[size]
    tokenizer = Characters(["".join(chr(97 + number) for number in range(tokens - 3))])
    assert tokenizer.vocabulary_size == tokens
    model = build_model(
        recipe.features, recipe.encoder, recipe.decoder, recipe.search, tokenizer, "none"
    )
    for part in ("encoder", "decoder"):
        name = words[words.index(f"--{part}") + 1]
        built = sum(parameter.numel() for parameter in getattr(model, part).parameters())
        assert listed[f"{part}s", name]["parameters"] == built


# Which of a row's recipes its line in the page names.
NAMED = {
    "docs/results.md": slice(0, 2),
    "recipes/encoders/RESULTS.md": slice(1, 2),
    "recipes/decoders/RESULTS.md": slice(-2, None),
}


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: " ".join(row["recipes"]))
def test_a_measured_figure_is_found_in_the_page_that_it_cites(row):
    names = [re.sub("-(tiny|small)$", "", name.split("/")[-1]) for name in row["recipes"]]
    text = (ROOT / row["source"]).read_text()
    if row["recipes"][0].startswith("studies/"):
        (said,) = re.findall(rf"`asr study {names[0]}\b[^`]*`(.{{0,160}})", text, re.S)[:1]
        assert row["device_hours"] in map(float, re.findall(r"([\d.]+)\s+core-\s?hours", said))
        return
    figures = [f" {row['device_hours']:.3f} "]
    if "wer_percent" in row:
        low, high = row["interval_percent"]
        figures += [f" {row['wer_percent']:.2f} ", f" [{low:.2f}, {high:.2f}] "]
    else:
        figures += [f" {row['perplexity_per_word']:,} "]
    lines = [line.lower() for line in text.splitlines() if all(f in line for f in figures)]
    assert any(all(name in line for name in names[NAMED[row["source"]]]) for line in lines)


def test_measured_rows_name_existing_recipes(listed):
    names = {name if family == "tasks" else f"{family}/{name}" for family, name in listed}
    for row in MEASURED:
        assert set(row["recipes"]) <= names
    assert len(listed["encoders", "gru-small"]["measured"]) == 1
    assert listed["encoders", "gru-large"]["measured"] == []


def test_the_table_shows_the_requested_recipes(capsys):
    assert cli.main(["recipes", "transducer-"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "decoders: asr train TASK --decoder NAME"
    names = [line.split()[0] for line in out[1:] if line.startswith("  ")]
    assert names == [n for n in shipped.names("decoders") if n.startswith("transducer-")]
    (line,) = (line for line in out if line.split()[:1] == ["transducer-tiny"])
    assert "0.36 M  0.060 h, 0.58 % on fsdd" in line
