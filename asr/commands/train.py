"""``asr train``."""

import argparse
from pathlib import Path

from asr.commands.options import Parser, hyphens, parser


def train(arguments: list[str]) -> int:
    """``asr train RECIPE [--run FOLDER] [--cooldown SHARE --from UPDATE] [--key.path value ...]``.

    With ``--cooldown``, RECIPE is a run folder, and a run is branched off it.
    """
    options = train_options()
    if {"-h", "--help"} & set(arguments):
        print(train_help(options))
        return 0
    if not arguments or arguments[0].startswith("--"):
        raise ValueError("the recipe comes first: asr train RECIPE ... (see: asr train --help)")
    known, overrides = split_options(options, arguments)

    from asr.config import shipped, strict_yaml
    from asr.recipe.schema import LanguageModelRecipe, Recipe
    from asr.training.run_folder import run_name

    branches = known.cooldown is not None
    if branches is (known.from_update is None):
        raise ValueError("--cooldown and --from belong together; give both, or neither")
    if branches:
        from asr.training.branch import begin_branch, branch_tree, check_branch

        trunk = Path(known.recipe)
        recipe_file = trunk / "recipe.yaml"
        tree = branch_tree(trunk, known.from_update, known.cooldown)
    else:
        recipe_file = shipped.find(known.recipe, "tasks")
        tree = strict_yaml.load_file(recipe_file)
    schema = LanguageModelRecipe if "language_model" in tree else Recipe
    before = strict_yaml.read(schema, tree)
    recipe = strict_yaml.read(schema, strict_yaml.override(tree, overrides, schema))
    if branches:
        check_branch(before, recipe)
    if known.print_config:
        print(strict_yaml.to_yaml(strict_yaml.tree_of(recipe)), end="")
        return 0
    if isinstance(recipe, Recipe) and not Path(recipe.data.corpus).exists():
        lines = recipe_file.read_text(encoding="utf-8").splitlines()
        commands = [line[2:] for line in lines if line.startswith("# asr prepare ")]
        command = next(iter(commands), "")
        if command.endswith(f" {recipe.data.corpus}"):
            raise ValueError(f"there is no {recipe.data.corpus}; prepare it first: {command}")
    folder = known.run or Path("runs") / run_name(recipe_file, overrides, recipe)
    if branches:
        folder = known.run or trunk.with_name(f"{trunk.name}-cooldown-{known.from_update}")
        begin_branch(trunk, known.from_update, recipe, folder)

    from asr.training import summary
    from asr.training.machine import is_first_process
    from asr.training.run import train as fit

    fit(recipe, folder)
    if is_first_process(recipe.trainer):
        if isinstance(recipe, LanguageModelRecipe):
            print(summary.trained_language_model(folder))
        else:
            print(summary.trained(folder, recipe))
    return 0


def train_options() -> Parser:
    """Makes a parser with the options that are not keys of a recipe."""
    options = parser("train")
    options.usage = (
        "asr train RECIPE [--run FOLDER] [--print-config] [--key.path value ...]\n"
        "       asr train RUN --cooldown SHARE --from UPDATE [--run FOLDER]"
    )
    options.add_argument(
        "recipe", metavar="RECIPE", help="the name of a shipped recipe (asr recipes lists them), "
        "the path of a YAML file, or RUN/recipe.yaml to repeat a run",
    )  # fmt: skip
    options.add_argument(
        "--run", type=Path, metavar="FOLDER", help="run folder to write (default: "
        "runs/RECIPE-ENCODER-seedN); the same command continues from the last checkpoint",
    )  # fmt: skip
    options.add_argument(
        "--cooldown", type=float, metavar="SHARE", help="branch a new run off RUN, a run folder in "
        "place of RECIPE; the learning rate falls to 0 over the last SHARE of all updates",
    )  # fmt: skip
    options.add_argument(
        "--from", type=int, metavar="UPDATE", dest="from_update",
        help="update of RUN after which the branch begins (see trainer.keep_checkpoints_every)",
    )  # fmt: skip
    options.add_argument(
        "--print-config", action="store_true",
        help="print the recipe with all defaults and overrides, and exit",
    )  # fmt: skip
    options.add_argument_group(
        "--key.path value",
        "Each option overrides a key of the recipe. An encoder or a decoder can be given by the "
        "name of its recipe (--encoder lstm-tiny), and a whole section by a YAML file "
        "(--encoder my.yaml).",
    )
    return options


def split_options(options: Parser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits into options that are not keys of a recipe, and overrides as --key, value, ..."""
    known, rest = options.parse_known_args(hyphens(arguments))
    overrides = [part for a in rest for part in (a.split("=", 1) if a[:2] == "--" else [a])]
    for word in overrides[::2]:
        if "." not in word and (meant := options.nearest(word)).startswith("use "):
            raise ValueError(f"{word}: no such option; {meant}")
    return known, overrides


def train_help(options: Parser) -> str:
    """Describes the options and every key of a recipe."""
    from asr.config.key_help import describe
    from asr.recipe.schema import LanguageModelRecipe, Recipe

    return (
        f"{options.format_help()}\n"
        "Keys of a recipe. The keys of the encoder, decoder, search and tokenizer depend on the\n"
        "class that is chosen. The import path package.module.Class chooses a class of your own.\n"
        f"{describe(Recipe)}\n\n"
        "Keys of a recipe that trains a language model (it has the key language_model):\n"
        f"{describe(LanguageModelRecipe)}"
    )
