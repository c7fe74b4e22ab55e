"""``asr train``."""

from collections.abc import Sequence
from pathlib import Path

from asr.commands.options import VERBS


def train(arguments: list[str]) -> int:
    """``asr train RECIPE [--run FOLDER] [--print-config] [--key.path value ...]``."""
    if {"-h", "--help"} & set(arguments):
        print(train_help())
        return 0
    if not arguments or arguments[0].startswith("--"):
        raise ValueError("the recipe comes first: asr train RECIPE ... (see: asr train --help)")
    from asr.config import shipped, strict_yaml
    from asr.recipe.schema import LanguageModelRecipe, Recipe
    from asr.training.run_folder import run_name

    recipe_file = shipped.find(arguments[0], "tasks")
    folder, only_print, rest = run_options(arguments[1:])
    tree = strict_yaml.load_file(recipe_file)
    schema = LanguageModelRecipe if "language_model" in tree else Recipe
    recipe = strict_yaml.read(schema, strict_yaml.override(tree, rest, schema))
    if only_print:
        print(strict_yaml.to_yaml(strict_yaml.tree_of(recipe)), end="")
        return 0
    folder = folder or Path("runs") / run_name(recipe_file, rest, recipe)

    from asr.commands import summaries
    from asr.training.machine import is_first_process
    from asr.training.run import train as fit

    fit(recipe, folder)
    if is_first_process(recipe.trainer):
        if isinstance(recipe, LanguageModelRecipe):
            print(summaries.trained_language_model(folder))
        else:
            print(summaries.trained(folder, recipe))
    return 0


def run_options(arguments: Sequence[str]) -> tuple[Path | None, bool, list[str]]:
    """(--run, --print-config, the overrides as --key, value, --key, value ...)."""
    words = [part for a in arguments for part in (a.split("=", 1) if a[:2] == "--" else [a])]
    folder: Path | None = None
    only_print = False
    rest: list[str] = []
    while words:
        word = words.pop(0)
        if word in ("--print-config", "--print_config"):
            only_print = True
        elif word == "--run":
            if not words or words[0].startswith("--"):
                raise ValueError("--run expects a folder")
            folder = Path(words.pop(0))
        else:
            rest.append(word)
    return folder, only_print, rest


def train_help() -> str:
    """The verb's usage and every key of a recipe."""
    from asr.config.key_help import describe
    from asr.recipe.schema import LanguageModelRecipe, Recipe

    meaning, example = VERBS["train"]
    return (
        "usage: asr train RECIPE [--run FOLDER] [--print-config] [--key.path value ...]\n\n"
        f"{meaning}\n\n"
        "  RECIPE            the name of a shipped recipe (asr recipes lists them), the path of a\n"
        "                    YAML file, or RUN/recipe.yaml to repeat a run\n"
        "  --run FOLDER      where to train; runs/RECIPE-ENCODER-seedN. The same command goes on\n"
        "                    from the last checkpoint.\n"
        "  --print-config    print the recipe with every default and override, train nothing\n"
        "  --key.path value  override a key of the recipe. A recipe's name stands for an encoder\n"
        "                    or a decoder: --encoder lstm-tiny. A value that ends in .yaml is a\n"
        "                    file that holds the whole section.\n\n"
        f"example: {example}\n\n"
        "The keys of a recipe (type, default); of LSTM | Transformer, or your own class by its\n"
        "import path package.module.Class, those of the class chosen:\n"
        f"{describe(Recipe)}\n\n"
        "The keys of a language model's recipe, known by its key language_model:\n"
        f"{describe(LanguageModelRecipe)}"
    )
