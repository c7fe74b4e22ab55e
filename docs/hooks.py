"""Fills the pages with the keys of recipes and the options of commands, from the code."""

import contextlib
import io
import re
from typing import Any

from asr import cli
from asr.config.key_help import describe, describe_table
from asr.corpora import CORPORA
from asr.recipe.schema import LanguageModelRecipe, Recipe

GENERATED = {
    "keys of a recipe": lambda: describe(Recipe),
    "keys of a language model's recipe": lambda: describe(LanguageModelRecipe),
    "options of corpora": lambda: describe_table(CORPORA),
}


def help_of(command: str) -> str:
    """What ``asr COMMAND --help`` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.main([*command.split(), "--help"])
    return printed.getvalue()


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces ``{{ keys of a recipe }}`` and ``{{ asr VERB --help }}`` by the text of the code.

    Raises:
        KeyError: a page asks for something that is not in ``GENERATED``.
    """

    def filled(match: re.Match[str]) -> str:
        name = match.group(1).strip()
        command = re.fullmatch(r"asr (.+) --help", name)
        text = help_of(command.group(1)) if command else GENERATED[name]()
        return f"```text\n{text.strip()}\n```"

    return re.sub(r"^\{\{(.+?)\}\}$", filled, markdown, flags=re.M)
