import importlib.metadata
from dataclasses import dataclass, field
from typing import Literal

import pytest
import yaml

from asr.config import strict_yaml
from asr.config.key_help import describe
from asr.config.strict_yaml import Component, component
from asr.metering.environment import environment


@dataclass(frozen=True)
class Border:
    """The line around a shape.

    Args:
        style: how it is drawn.
        width: of the line.
    """

    style: str
    width: float = 1.0


class Shape:
    """The family."""


class Square(Shape):
    """A square.

    Args:
        unit: given by the program.
        side: of the square.
        colours: of the sides.
    """

    def __init__(self, unit: int, *, side: float, colours: list[str] | None = None):
        self.unit, self.side, self.colours = unit, side, colours


class Circle(Shape):
    def __init__(self, unit: int, *, radius: int = 3, side: float = 1.5):
        self.unit, self.radius, self.side = unit, radius, side


class Framed(Shape):
    """A shape with a border.

    Args:
        unit: given by the program.
        border: around it.
    """

    def __init__(self, unit: int, *, border: Border | None = None):
        self.border = border


class Stranger:
    """Not of the family."""


SHAPES = {"Square": Square, "Circle": Circle, "Framed": Framed}


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A section.

    Args:
        rate: a number.
        limits: a pair.
    """

    rate: float = 0.5
    limits: tuple[float, float] = (0.0, 1.0)
    names: list[str] = field(default_factory=lambda: ["a"])


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A schema."""

    count: int
    shape: Component = component(SHAPES, positional=1)
    other: Component = component(SHAPES, positional=1, default="Circle")
    inner: Inner = field(default_factory=Inner)


BASE = {"count": 2, "shape": {"class_path": "Square", "init_args": {"side": 2.0}}}


def test_a_recipe_becomes_parts_with_every_default_filled_in():
    read = strict_yaml.read(Outer, BASE)
    square = read.shape(7)
    assert (square.unit, square.side, square.colours) == (7, 2.0, None)
    assert read.other(1).radius == 3
    assert read.inner == Inner()


def test_the_dump_of_a_recipe_reads_back_as_the_same_recipe(tmp_path):
    read = strict_yaml.read(Outer, {**BASE, "inner": {"rate": 1e-3, "limits": [0, 2]}})
    strict_yaml.dump(strict_yaml.tree_of(read), tmp_path / "r.yaml")
    assert strict_yaml.read(Outer, strict_yaml.load_file(tmp_path / "r.yaml")) == read
    assert yaml.safe_load((tmp_path / "r.yaml").read_text())["inner"]["rate"] == 0.001


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": "x"}, r"^count: expected an integer, got x"),
        ({"count": 1.5}, r"^count: expected an integer, got 1.5"),
        ({"count": True}, r"^count: expected an integer"),
        ({"count": "3"}, r"^count: expected a number, got the text '3'"),
        (
            {"shape": {"class_path": "Square", "init_args": {"side": 1.0, "colours": 3}}},
            r"^shape.colours: expected .* or null, got 3$",
        ),
        ({"colour": 1}, r"^colour: no such key; Outer has count, shape, other, inner"),
        ({"inner": {"rates": 1}}, r"^inner.rates: no such key; Inner has rate, limits, names"),
        ({"inner": {"rate": "fast"}}, r"^inner.rate: expected a number, got fast"),
        ({"inner": {"limits": [1]}}, r"^inner.limits: expected \[number, number\], got \[1\]"),
        ({"inner": {"names": "a"}}, r"^inner.names: expected list of texts, got a; write \[a\]$"),
        ({"inner": 3}, r"^inner: expects keys, got 3"),
        ({"shape": {"class_path": "Squire"}}, r"^shape.class_path 'Squire' is no Shape; shipped"),
        ({"shape": "square-tiny"}, r"'square-tiny' is no Shape; .* a file: its path, with .yaml"),
        (
            {"shape": {"init_args": {}}},
            r"^shape.class_path is missing; shipped: Square, Circle, Framed",
        ),
        ({"shape": "Square"}, r"^shape.side is missing and has no default"),
        (
            {"shape": {"class_path": "Circle", "init_args": {"radius": "big"}}},
            r"^shape.radius: expected an integer, got big",
        ),
        (
            {"shape": {"class_path": "Circle", "init_args": {"depth": 1}}},
            r"^shape.depth: no such key; Circle has radius, side",
        ),
        ({"shape": {"class_path": "Circle", "radius": 1}}, r"^shape: expects class_path and"),
        (
            {"shape": {"class_path": "os.path.join"}},
            r"^shape.class_path 'os.path.join' is no Shape",
        ),
        ({"shape": {"class_path": "no.such.Thing"}}, r"^shape.class_path no.such.Thing: No module"),
    ],
)
def test_a_wrong_key_is_named_by_its_path(change, message):
    with pytest.raises(ValueError, match=message):
        strict_yaml.read(Outer, {**BASE, **change})


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="^count is missing"):
        strict_yaml.read(Outer, {"shape": BASE["shape"]})


def overridden(*arguments):
    tree = {"count": 2, "shape": {"class_path": "Square", "init_args": {"side": 2.0}}}
    return strict_yaml.override(tree, arguments, Outer)


def test_overrides_reach_sections_and_the_inside_of_components():
    tree = overridden("--inner.rate", "1e-3", "--shape.side=4", "--count", "5")
    assert tree["inner"] == {"rate": 0.001}
    assert tree["shape"]["init_args"] == {"side": 4}
    assert tree["count"] == 5


def test_an_override_of_an_unnamed_component_changes_its_default():
    assert strict_yaml.read(Outer, overridden("--other.radius", "7")).other.init_args["radius"] == 7


def test_an_override_reaches_a_component_inside_a_section():
    @dataclass(frozen=True, kw_only=True)
    class Whole:
        part: Outer

    tree = strict_yaml.override(
        {"part": {**BASE, "shape": "Circle"}}, ["--part.shape.radius=4"], Whole
    )
    assert strict_yaml.read(Whole, tree).part.shape.init_args == {"radius": 4, "side": 1.5}


def test_another_class_inherits_no_options_from_the_one_it_replaces():
    circle = strict_yaml.read(Outer, overridden("--shape", "Circle")).shape
    assert circle.kind is Circle
    assert circle.init_args == {"radius": 3, "side": 1.5}


def test_an_option_may_hold_options_of_its_own(tmp_path):
    read = strict_yaml.read(Outer, overridden("--shape", "Framed", "--shape.border.style", "thin"))
    assert read.shape(1).border == Border("thin", 1.0)
    strict_yaml.dump(strict_yaml.tree_of(read), tmp_path / "r.yaml")
    again = strict_yaml.load_file(tmp_path / "r.yaml")
    assert again["shape"]["init_args"] == {"border": {"style": "thin", "width": 1.0}}
    assert strict_yaml.read(Outer, again) == read
    help = describe(Outer)
    assert "--shape.border.style (text, required)  how it is drawn." in help
    assert "--shape.border.width (number, default: 1.0)" in help


def test_an_option_that_is_null_takes_options_of_its_own_too():
    tree = {"count": 2, "shape": {"class_path": "Framed", "init_args": {"border": None}}}
    assert strict_yaml.read(Outer, tree).shape(1).border is None
    strict_yaml.override(tree, ["--shape.border.style=thin"], Outer)
    assert strict_yaml.read(Outer, tree).shape(1).border == Border("thin")


@pytest.mark.parametrize(
    ("border", "message"),
    [
        ({"width": 1}, "^shape.border.style is missing"),
        ({"style": "thin", "widths": 1}, "^shape.border.widths: no such key; Border has style,"),
        ({"style": "thin", "width": "wide"}, "^shape.border.width: expected a number, got wide"),
        (3, "^shape.border: expects keys, got 3"),
    ],
)
def test_a_wrong_option_of_an_option_is_named_by_its_path(border, message):
    shape = {"class_path": "Framed", "init_args": {"border": border}}
    with pytest.raises(ValueError, match=message):
        strict_yaml.read(Outer, {"count": 2, "shape": shape})


def test_a_file_replaces_a_component(tmp_path):
    (tmp_path / "c.yaml").write_text("class_path: Circle\ninit_args: {radius: 9}\n")
    tree = overridden("--shape", str(tmp_path / "c.yaml"), "--shape.side", "2")
    assert strict_yaml.read(Outer, tree).shape.init_args == {"radius": 9, "side": 2.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--count", "3", "more"), "^overrides come as --key.path value, got: more$"),
        (("--count", "3", "--other"), "^--other expects a value$"),
        (("--other", "--count", "3"), "^--other expects a value$"),
        (("--count.x", "3"), "count is a value, not a section"),
    ],
)
def test_a_malformed_override_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        overridden(*arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "'a' stands twice"),
        ("a: [1\n", "not YAML"),
        ("- 1\n", "mapping of keys, not list"),
        ("a: \0\n", "not YAML"),
        (b"\xff\xfe\x00RIFF", "is not a text file"),
    ],
)
def test_a_broken_file_is_named_with_its_fault(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as caught:
        strict_yaml.load_file(path)
    assert str(path) in str(caught.value)


def test_a_wrong_choice_lists_the_allowed_values():
    @dataclass(frozen=True)
    class Rounded:
        precision: Literal["32-true", "bf16-mixed"] = "32-true"

    with pytest.raises(ValueError, match=r"^precision: expected 32-true or bf16-mixed, got x"):
        strict_yaml.read(Rounded, {"precision": "x"})


def test_a_run_folder_given_as_a_recipe_is_refused_with_the_path_of_its_recipe(tmp_path):
    with pytest.raises(ValueError, match="is a folder; give a recipe .*/recipe.yaml$"):
        strict_yaml.load_file(tmp_path)


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match="nowhere.yaml: no such recipe file"):
        strict_yaml.load_file("nowhere.yaml")


def test_numbers_with_an_exponent_are_numbers():
    assert strict_yaml.load_yaml("[1e-3, 1.5E+2, -2e4, 3, '1e-3']", "x") == [
        0.001,
        150.0,
        -20000.0,
        3,
        "1e-3",
    ]


def test_the_description_lists_every_key_with_its_meaning():
    text = describe(Outer)
    assert "--inner.rate (number, default: 0.5)  a number." in text
    assert "--inner.limits ([number, number], default: [0.0, 1.0])  a pair." in text
    assert "--shape.side (number, required)  of the square." in text
    assert "--shape.colours (list of texts | null, default: null)  of the sides." in text
    assert "--inner.names (list of texts, default: [a])" in text
    assert "--count (integer, required)" in text
    assert "--shape (Square | Circle | Framed, required)" in text
    assert "--other (Square | Circle | Framed, default: Circle)" in text


def test_the_environment_names_machine_versions_and_command():
    facts = environment()
    assert facts["torch"] == importlib.metadata.version("torch")
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert facts["command"]
