"""Describes the keys of a recipe for ``--help``: type, default and meaning, from signatures."""

import dataclasses
import inspect
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docstring_parser

from asr.config.strict_yaml import groups, nested, type_hints, type_name


def describe(schema: type) -> str:
    """Lists every key of a schema with type, default and meaning, for ``--help``."""
    lines: list[str] = []
    for field in dataclasses.fields(schema):
        if "table" not in field.metadata and dataclasses.is_dataclass(field.type):
            assert isinstance(field.type, type)
            lines += ["", field.name, *_keys(field.type, f"{field.name}.")]
            lines += _components(field.type, f"{field.name}.")
    lines += _components(schema, "")
    return "\n".join([*lines, "", "other", *_keys(schema, "")])


def describe_table(table: Mapping[str, type]) -> str:
    """Lists every option of every class of a table, for ``--help``."""
    return "\n".join(line for name, kind in table.items() for line in _keys(kind, "", 0, name))


def _components(schema: type, prefix: str) -> list[str]:
    """Lists the keys of every class that a component of a section may name."""
    lines: list[str] = []
    for field in dataclasses.fields(schema):
        if "table" in field.metadata:
            table, default = field.metadata["table"], field.metadata["default"]
            key = f"{prefix}{field.name}"
            stands = f"default: {default}" if default else "required"
            head = f"--{key} ({' | '.join(table)}, {stands})"
            lines += [f"    {head}  has the keys of --{field.name}"] if prefix else ["", head]
            if not prefix:
                for name, kind in table.items():
                    lines += _keys(kind, f"{key}.", field.metadata["positional"], name)
    return lines


def _keys(kind: type, prefix: str, positional: int = 0, title: str = "") -> list[str]:
    """Writes ``--key (type, default)  meaning`` for each parameter of a section or component."""
    parameters = list(inspect.signature(kind).parameters.values())[positional:]
    # A key that is not described in the class is described in one that it inherits from.
    classes = [base for base in reversed(kind.__mro__) if not base.__module__.startswith("torch")]
    sources = [source for base in classes for source in (base, vars(base).get("__init__"))]
    texts = [inspect.cleandoc(source.__doc__) for source in sources if source and source.__doc__]
    found = [p for text in texts for p in docstring_parser.parse(text).params]
    meanings = {p.arg_name: " ".join((p.description or "").split()) for p in found}
    hints = type_hints(kind)
    lines = [f"  {title}"] if title else []
    inner = {} if dataclasses.is_dataclass(kind) else groups(kind)
    for p in parameters:
        if not nested(kind, p.name):
            shown = f"default: {_shown(_default(kind, p))}"
            default = "required" if p.default is p.empty else shown
            head = f"--{prefix}{p.name} ({type_name(hints[p.name])}, {default})"
            meaning = meanings.get(p.name, "").replace("``", "")
            lines += textwrap.wrap(
                f"{head}  {meaning}",
                width=100,
                initial_indent="    ",
                subsequent_indent=" " * 10,
                break_on_hyphens=False,
                break_long_words=False,
            )
            if p.name in inner:
                lines += _keys(inner[p.name], f"{prefix}{p.name}.")
    return lines


def _shown(value: Any) -> str:
    """Writes a default as a recipe would."""
    if isinstance(value, str | Path):
        return str(value) or "''"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_shown, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _default(kind: type, parameter: inspect.Parameter) -> Any:
    """Returns a default; calls the factory that a dataclass hides behind a marker."""
    if dataclasses.is_dataclass(kind):
        factory = kind.__dataclass_fields__[parameter.name].default_factory
        if factory is not dataclasses.MISSING:
            return factory()
    return parameter.default
