"""Reads recipes strictly: YAML whose types come from the signatures of classes.

A recipe is a tree of plain values. A *section* is a dataclass whose fields are its keys. A
*component* is ``{class_path: LSTM, init_args: {...}}``: a class by its short name among the shipped
ones, or a user's own by full import path, whose keyword-only parameters are its keys. jsonargparse
reads names, types and defaults from the signatures, so nothing is declared twice. A key that is
unknown, missing or of the wrong type raises an error that names its path.
"""

import dataclasses
import functools
import importlib
import inspect
import itertools
import os
import re
import sys
import types
import typing
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from asr.config import shipped
from asr.files import write

Tree = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2 floats (``1e-3`` is a number) and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            line = node.start_mark.line + 1
            raise ValueError(
                f"key {twice[0]!r} stands twice in the mapping at line {line}; keep one"
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class Component:
    """A class and its keyword arguments; a call supplies the positional arguments."""

    kind: type
    init_args: Tree

    def __call__(self, *positional: Any) -> Any:
        """Builds an object; adds the name of the class to a ValueError of its constructor."""
        try:
            return self.kind(*positional, **self.init_args)
        except ValueError as error:
            raise ValueError(f"{self.kind.__name__}: {error}") from None

    def tree(self) -> Tree:
        """Returns the tree that a recipe contains for this component."""
        shipped = self.kind.__module__.split(".")[0] == "asr"
        path = self.kind.__name__ if shipped else f"{self.kind.__module__}.{self.kind.__name__}"
        return {"class_path": path, "init_args": self.init_args}


def component(
    table: Mapping[str, type],
    positional: int = 0,
    default: str | None = None,
    recipes: str | None = None,
) -> Any:
    """Makes a dataclass field that holds a Component of a class in ``table``.

    Args:
        table: the shipped classes by short name; a user's own class must share their base class.
        positional: number of leading parameters that the program supplies.
        default: the class that is used if a recipe names none.
        recipes: folder of the shipped recipes that may be named in place of a class.
    """
    metadata = {"table": table, "positional": positional, "default": default, "recipes": recipes}
    if default is None:
        return dataclasses.field(metadata=metadata)
    made = functools.partial(read_component, table, default, default, positional)
    return dataclasses.field(metadata=metadata, default_factory=made)


def load_yaml(text: str, where: str) -> Any:
    """Reads YAML text as plain values; a ValueError names ``where`` and the line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise ValueError(f"{where}{line}: not YAML ({problem or 'not text'})") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def load_file(path: str | Path) -> Tree:
    """Reads a recipe file as a tree.

    Files that the recipe names are searched for in its folder, then in the working directory.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a recipe (.yaml), of a run {path}/recipe.yaml")
    if not path.is_file():
        meant = shipped.instead_of(path)
        remedy = f"the recipe of this name ships with asr: {meant}" if meant else "check the path"
        raise ValueError(f"{path}: no such recipe file; {remedy}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file; give a recipe (.yaml)") from None
    tree = load_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: a recipe is a mapping of keys, not {type(tree).__name__}")
    return {key: _beside(value, path.parent) for key, value in tree.items()}


def _beside(value: Any, folder: Path) -> Any:
    """Puts ``folder`` before each name of a recipe file in a value if the folder has the file."""
    if isinstance(value, dict):
        return {key: _beside(below, folder) for key, below in value.items()}
    if isinstance(value, list):
        return [_beside(item, folder) for item in value]
    if isinstance(value, str) and value.endswith(".yaml"):
        option, sign, path = value.rpartition("=")  # an override of a study: --decoder=mine.yaml
        if (folder / path).is_file():
            return f"{option}{sign}{folder / path}"
    return value


def override(tree: Tree, arguments: Sequence[str], schema: type) -> Tree:
    """Applies ``--key.path value`` pairs to a tree; ``--key=value`` is the same.

    A value that ends in .yaml names a file whose content replaces the whole branch. The name of a
    class or of a shipped recipe replaces the component; the new one starts from its own defaults
    and keeps nothing of the old one. Below a component, ``encoder.layers`` is short for
    ``encoder.init_args.layers``.
    """
    words = [part for a in arguments for part in (a.split("=", 1) if a[:2] == "--" else [a])]
    for key, text in itertools.zip_longest(words[::2], words[1::2]):
        if not key.startswith("--"):
            raise ValueError(f"overrides come as --key.path value, got: {key}")
        if text is None or text.startswith("--"):
            raise ValueError(f"{key} expects a value")
        keys = key[2:].replace("-", "_").split(".")
        branch: Tree = tree
        place: Any = schema
        for at, name in enumerate(keys[:-1]):
            field = _field(place, name)
            if field is not None and "table" in field.metadata:
                below = _named(field, branch.get(name, field.metadata["default"] or {}), name)
                branch[name] = {"class_path": below} if isinstance(below, str) else below
                if keys[at + 1] not in ("init_args", "class_path"):
                    branch, name = _section(branch, name, key), "init_args"
            branch, place = _section(branch, name, key), field and field.type
        field = _field(place, keys[-1])
        if yaml.reader.Reader.NON_PRINTABLE.search(text):
            value: Any = Path(text)  # YAML cannot hold a name that is not UTF-8
        else:
            value = load_file(text) if text.endswith(".yaml") else load_yaml(text, key)
        if field and field.type in (str, str | None) and isinstance(value, int | float):
            value = text  # 007 stays 007
        branch[keys[-1]] = _named(field, value, key) if field else value
    return tree


def _named(field: "dataclasses.Field[Any]", value: Any, key: str) -> Any:
    """Returns the value of a component; reads the recipe if the value is its name or path."""
    table, family = field.metadata.get("table"), field.metadata.get("recipes")
    if table is None or not isinstance(value, str) or value in table:
        return value
    if value.endswith(".yaml"):
        return load_file(value)
    if family is None or "." in value:  # a user's class: package.module.Class
        return value
    names = shipped.names(family)
    if value not in names:
        raise ValueError(
            f"{key} {value}: no recipe and no class has this name; "
            f"{shipped.nearest(value, [*names, *table])}; your own: package.module.Class, or a "
            "file: its path, with .yaml"
        )
    return load_file(shipped.find(value, family))


def _section(tree: Tree, name: str, key: str) -> Tree:
    """Returns the branch below a name; adds it if it is missing or null."""
    tree[name] = {} if tree.get(name) is None else tree[name]
    if not isinstance(tree[name], dict):
        raise ValueError(f"{key}: {name} is a value, not a section")
    return tree[name]


def _field(schema: Any, name: str) -> "dataclasses.Field[Any] | None":
    """Returns the field of a section; None if the schema has no field of that name."""
    return getattr(schema, "__dataclass_fields__", {}).get(name)


def read(schema: type, tree: Tree, path: str = "") -> Any:
    """Turns a tree into the dataclass ``schema``; checks all sections and components in it.

    Raises:
        ValueError: a key is unknown, missing or of the wrong type; the message names its path.
    """
    found: Tree = {}
    rest = dict(_keys(tree, path))
    for field in (field for field in dataclasses.fields(schema) if field.name in tree):
        where = _at(path, field.name)
        if "read" in field.metadata:  # a function (tree, path) -> value
            found[field.name] = field.metadata["read"](rest.pop(field.name), where)
        elif "table" in field.metadata:
            table, positional = field.metadata["table"], field.metadata["positional"]
            below = _named(field, rest.pop(field.name), where)
            found[field.name] = read_component(table, below, where, positional)
        elif dataclasses.is_dataclass(field.type):
            assert isinstance(field.type, type)
            found[field.name] = read(field.type, rest.pop(field.name), where)
    return schema(**_typed(schema, rest, path, given=found))


def _at(path: str, name: str) -> str:
    return f"{path}.{name}".lstrip(".")


def read_component(
    table: Mapping[str, type], tree: Any, path: str, positional: int = 0, allow_code: bool = True
) -> Component:
    """Turns ``{class_path, init_args}`` into a Component with every default filled in.

    Args:
        table: the shipped classes by short name.
        tree: the component, or the name of its class if it has no init_args.
        path: path of the key, for errors.
        positional: number of leading parameters that the program supplies.
        allow_code: whether a class that is not shipped may be imported, which runs its module.

    Raises:
        ValueError: there is no such class, or one of its keys is wrong; the message names the path.
    """
    name, init_args = class_and_arguments(tree, path, f"; shipped: {', '.join(table)}")
    kind = _find(table, name, path, allow_code)
    return Component(kind, _typed(kind, init_args, path, positional))


def class_and_arguments(tree: Any, path: str, choices: str = "") -> tuple[str, Tree]:
    """Returns the class path and the arguments of a component.

    The component is written as ``{class_path, init_args}`` or, without arguments, as a class name.
    """
    tree = {"class_path": tree} if isinstance(tree, str) else tree
    if not isinstance(tree, dict) or not set(tree) <= {"class_path", "init_args"}:
        raise ValueError(f"{path}: expects class_path and init_args, got {tree!r}")
    if not isinstance(tree.get("class_path"), str):
        raise ValueError(f"{path}.class_path is missing{choices}")
    return tree["class_path"], _keys(tree.get("init_args") or {}, path)


def _keys(tree: Any, path: str) -> Tree:
    """Returns a tree; raises ValueError if it is not a section."""
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expects keys, got {tree!r}")
    return tree


def import_module(module: str, where: str) -> types.ModuleType:
    """Imports a module, which may be in the working directory; a ValueError names ``where``."""
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{where}: {error}") from None
    finally:
        sys.path.pop(0)


def _find(table: Mapping[str, type], name: str, path: str, allow_code: bool) -> type:
    """Finds a shipped class by its short name, or a user's own class by its import path."""
    if name in table:
        return table[name]
    family = next(iter(table.values())).__mro__
    base = next((c for c in family if ABC in c.__bases__), family[1])
    if not allow_code:
        raise ValueError(
            f"{path}.class_path {name!r} is not shipped, and a model may not run code; if you "
            "trust it, --allow-code imports the class from the working directory"
        )
    module, _, short = name.rpartition(".")
    where = f"{path}.class_path {name}"
    kind = getattr(import_module(module, where), short, None) if module else None
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ValueError(
            f"{path}.class_path {name!r} is no {base.__name__}; shipped: {', '.join(table)}; "
            f"a file: its path, with .yaml; your own: package.module.Class, a subclass of "
            f"{base.__module__}.{base.__name__}"
        )
    return kind


def _typed(
    kind: type, tree: Tree, path: str, positional: int = 0, given: Tree | None = None
) -> Tree:
    """Checks the keys of one section or component against the signature; fills in defaults."""
    given = dict(given or {})
    parameters = dict(inspect.signature(kind).parameters)
    skip = set(list(parameters)[:positional])  # the program supplies these
    parameters = {name: p for name, p in parameters.items() if name not in skip}
    if not dataclasses.is_dataclass(kind):  # ``read`` has read the groups of a section
        for key, schema in groups(kind).items():
            if not isinstance(tree.get(key), schema | None):
                given[key] = read(schema, tree[key], f"{path}.{key}")
        tree = {key: value for key, value in tree.items() if key not in given}
    for key in tree:
        if key not in parameters:
            known = ", ".join(parameters)
            raise ValueError(f"{_at(path, key)}: no such key; {kind.__name__} has {known}")
    for name, p in parameters.items():
        if p.default is p.empty and name not in tree and name not in given:
            raise ValueError(f"{_at(path, name)} is missing and has no default")
    skip |= {name for name in parameters if name in given or nested(kind, name)}
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(kind, None, skip=skip, fail_untyped=True)
    try:
        values = parser.parse_object(tree).as_dict()
    except ArgumentError as error:
        key = re.search(r'Parser key "(\w+)', str(error))[1]  # type: ignore[index]
        articles = {"integer": "an integer", "number": "a number"}
        words = type_name(type_hints(kind)[key]).split(" | ")
        wanted = " or ".join(articles.get(word, word) for word in words)
        is_list = isinstance(tree[key], str) and wanted.startswith("list")
        remedy = f"; write [{tree[key]}]" if is_list else ""
        raise ValueError(f"{_at(path, key)}: expected {wanted}, got {tree[key]}{remedy}") from None
    for key, value in tree.items():
        if isinstance(value, str) and isinstance(values[key], (int, float)):
            wrong = f"expected a number, got the text {value!r}; drop the quotes"
            raise ValueError(f"{_at(path, key)}: {wrong}")
    # A key that the tree does not name keeps its default, in nested dataclasses, too.
    return {**{k: v for k, v in values.items() if k in tree or not nested(kind, k)}, **given}


def type_hints(kind: type) -> dict[str, Any]:
    """Returns the types of the keys of a section or component."""
    return typing.get_type_hints(kind if dataclasses.is_dataclass(kind) else kind.__init__)  # type: ignore[misc]


def groups(kind: type) -> dict[str, type]:
    """Returns the options of a component that are dataclasses (or null), by name."""
    return {
        name: inner
        for name, hint in type_hints(kind).items()
        for inner in typing.get_args(hint) or (hint,)
        if isinstance(inner, type) and dataclasses.is_dataclass(inner)
    }


def nested(kind: type, name: str) -> bool:
    """Returns whether a key is a section or component, whose default is already complete."""
    if not dataclasses.is_dataclass(kind):
        return False
    field = kind.__dataclass_fields__[name]
    return bool({"table", "read"} & field.metadata.keys()) or dataclasses.is_dataclass(field.type)


TYPE_NAMES = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true | false",
    type(None): "null",
}


def type_name(kind: Any) -> str:
    """Describes a type in words for the reader."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_name, inner))
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"[{', '.join(map(type_name, inner))}]"
    if origin is dict:
        return "mapping"
    if origin is not None:
        plural = "" if typing.get_origin(inner[0]) in (typing.Union, types.UnionType) else "s"
        return f"list of {type_name(inner[0])}{plural}"
    return TYPE_NAMES.get(kind, getattr(kind, "__name__", str(kind)).lower())


def tree_of(value: Any) -> Any:
    """Turns a recipe back into plain values, with every default written out."""
    if isinstance(value, Component):
        return tree_of(value.tree())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: tree_of(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: tree_of(item) for key, item in value.items()}
    return [tree_of(item) for item in value] if isinstance(value, (list, tuple)) else value


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Lists the keys in which two trees differ, spelt as on the command line, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        path = f"{key}." if key else ""
        names = {"class_path": key, "init_args": key}  # the command line omits these two names
        return [
            line
            for name in {**old, **new}
            for line in differences(
                old.get(name, "not set"), new.get(name, "not set"), names.get(name, path + name)
            )
        ]
    return [] if old == new else [f"{key}: was {old!s:.60}, is now {new!s:.60}"]


def to_yaml(tree: Tree) -> str:
    """Formats a tree as the text of a recipe file."""
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=False)


def dump(tree: Tree, path: Path) -> None:
    """Writes a tree as YAML."""
    write(path, to_yaml(tree))
