"""Recipes by name: what a name means, where files are looked for, and what a wrong one is told."""

import re
from pathlib import Path

import pytest
import yaml

from asr import cli
from asr.config import shipped, strict_yaml
from asr.recipe.schema import Recipe
from asr.study import read_study
from asr.study.plan import Plan

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "recipes").rglob("*.yaml"))
OWN = {"class_path": "LSTM", "init_args": {"dim": 24, "layers": 1}}


def printed(capsys, *words):
    """The recipe that a command line means."""
    assert cli.main(["train", *words, "--print-config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def error(capsys, *words):
    """The one line on stderr."""
    assert cli.main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT / "recipes")))
def test_every_file_is_found_by_its_name_from_any_folder(path):
    family = "tasks" if path.parent == ROOT / "recipes" else path.parent.name
    assert shipped.find(path.stem, family).samefile(path)


def test_families_and_names_are_the_folders_and_files():
    folders = {path.parent.name for path in FILES} - {"recipes"}
    assert {*shipped.COMMANDS} == {"tasks", *folders}
    names = sum(len(shipped.names(family)) for family in shipped.COMMANDS)
    assert names == len(FILES) + len(shipped.names("language_models"))  # which are tasks, too


def test_names_on_the_command_line_mean_the_files(capsys):
    named = printed(capsys, "fsdd", "--encoder", "transformer-tiny", "--decoder=transducer-tiny")
    for key, name in (("encoder", "transformer-tiny"), ("decoder", "transducer-tiny")):
        file = yaml.safe_load((ROOT / "recipes" / f"{key}s" / f"{name}.yaml").read_text())
        assert named[key]["class_path"] == file["class_path"]
        assert file["init_args"].items() <= named[key]["init_args"].items()
    paths = [
        f"{ROOT}/recipes/fsdd.yaml",
        f"--encoder={ROOT}/recipes/encoders/transformer-tiny.yaml",
    ]
    paths += ["--decoder", f"{ROOT}/recipes/decoders/transducer-tiny.yaml"]
    assert printed(capsys, *paths) == named


def test_a_class_name_selects_the_class_and_a_key_below_a_name_changes_the_recipe(capsys):
    words = ["--encoder", "LSTM", "--encoder.dim", "24", "--encoder.layers", "1"]
    assert printed(capsys, "fsdd", *words)["encoder"]["init_args"]["dim"] == 24
    words = ["--encoder", "lstm-tiny", "--encoder.layers", "1"]
    encoder = printed(capsys, "fsdd", *words)["encoder"]
    assert (encoder["init_args"]["dim"], encoder["init_args"]["layers"]) == (200, 1)


def test_a_recipe_may_name_an_encoder_or_a_file_beside_it_or_in_the_working_directory(tmp_path):
    task = strict_yaml.load_file(shipped.find("fsdd", "tasks"))
    (tmp_path / "mine").mkdir()
    for path, dim in (("mine/own.yaml", 24), ("own.yaml", 32), ("far.yaml", 40)):
        (tmp_path / path).write_text(f"class_path: LSTM\ninit_args: {{dim: {dim}, layers: 1}}\n")
    for value, dim in (("lstm-tiny", 200), ("own.yaml", 24), ("../own.yaml", 32), ("far.yaml", 40)):
        (tmp_path / "mine" / "task.yaml").write_text(yaml.safe_dump({**task, "encoder": value}))
        recipe = strict_yaml.read(Recipe, strict_yaml.load_file("mine/task.yaml"))
        assert recipe.encoder.init_args["dim"] == dim, value


def test_a_study_finds_files_beside_it_and_shipped_names(tmp_path):
    place = tmp_path / "studies"
    place.mkdir()
    (place / "own.yaml").write_text(yaml.safe_dump(OWN))
    (place / "study.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "mine",
                "recipe": "fsdd",
                "arms": {"own": {"encoder": "own.yaml"}, "shipped": {"encoder": "gru-small"}},
                "overrides": ["--decoder=ctc"],
                "budgets": {"full": {"updates": 2}},
                "seeds": [1],
                "tuning": {"trials": 0, "budget": {"updates": 1}},
            }
        )
    )
    recipes = Plan(read_study(Path("studies/study.yaml"))).recipes
    dims = {arm: tree["encoder"]["init_args"]["dim"] for arm, tree in recipes.items()}
    assert dims == {"own": 24, "shipped": 432}
    assert {tree["decoder"]["class_path"] for tree in recipes.values()} == {"CTC"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "fsd"], "fsd: no recipe has this name; nearest: fsdd; asr recipes lists all"),
        (["train", "zzz"], "zzz: no recipe has this name; asr recipes lists all"),
        (["train", "encoders/gru-base"], "did you mean asr train TASK --encoder gru-base"),
        (["train", "recipes/fsdd.yaml"], "ships with asr: asr train fsdd"),
        (["train", "/old/recipes/language_models/ngram.yaml"], "asr train language_models/ngram"),
        (["train", "recipes/none.yaml"], "recipes/none.yaml: no such recipe file; check the path"),
        (["train", "fsdd", "--encoder", "lstm-tny"], "--encoder lstm-tny: .* lstm-tiny, "),
        (["train", "fsdd", "--encoder", "lstm"], "nearest: LSTM, "),
        (["train", "fsdd", "--encoder=recipes/encoders/gru-base.yaml"], "--encoder gru-base"),
        (["study", "quic"], "quic: no recipe has this name; nearest: quick; "),
        (["study", "recipes/studies/quick.yaml"], "ships with asr: asr study quick"),
        (["claims", "streaming", "--encoders", "gru-causal-smal"], "nearest: gru-causal-small, "),
        (["recipes", "lstn"], "lstn: no recipe has a name that begins so; nearest: "),
    ],
)
def test_an_unknown_name_gets_one_line_with_the_nearest_name(words, message, capsys):
    assert re.search(message, error(capsys, *words))
