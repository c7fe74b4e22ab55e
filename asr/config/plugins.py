"""Loads the loggers, callbacks and profilers that a recipe names by class."""

import importlib
import inspect
from typing import Any, Literal

from asr.config.strict_yaml import class_and_arguments, import_module

Spec = str | dict[str, Any]  # a class, or {class_path, init_args}
Kind = Literal["Logger", "Callback", "Profiler"]


def build(kind: Kind, spec: Spec, where: str, **defaults: Any) -> Any:
    """Builds the object that a recipe names.

    Args:
        kind: base class that the class must have.
        spec: import path of a class, or the name of a Lightning class (CSV or CSVLogger).
        where: key of the recipe, for error messages.
        defaults: arguments that are used if the class has them and the recipe does not set them.

    Raises:
        ValueError: there is no such class, or its arguments are wrong; the message names the key.
    """
    found, given = find(kind, spec, where)
    known = inspect.signature(found).parameters
    arguments = {name: value for name, value in defaults.items() if name in known} | given
    try:
        return found(**arguments)
    except ModuleNotFoundError as error:  # some loggers of Lightning need another package
        raise ValueError(f"{where}: {found.__name__}: {str(error).splitlines()[0]}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {found.__name__}: {error}") from None


def find(kind: Kind, spec: Spec, where: str) -> tuple[type, dict[str, Any]]:
    """Returns the class that a recipe names, and its arguments; raises the errors of ``build``."""
    path, given = class_and_arguments(spec, where)
    family = importlib.import_module(f"lightning.pytorch.{kind.lower()}s")
    module, _, name = path.rpartition(".")
    place = import_module(module, f"{where}.class_path {path}") if module else family
    found = getattr(place, name, getattr(place, name + kind, None))
    if not (isinstance(found, type) and issubclass(found, getattr(family, kind))):
        raise ValueError(
            f"{where}.class_path {path!r} is no {kind} of lightning.pytorch; give the name of a "
            f"Lightning {kind}, or package.module.Class"
        )
    known = inspect.signature(found).parameters
    unknown = [name for name in given if name not in known]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        raise ValueError(f"{where}.{unknown[0]}: no such key; {name} has {', '.join(known)}")
    return found, given
