"""The result of a check."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of ``asr doctor``."""

    check: str  # the part that was checked
    state: State  # broken: asr does not work; warning: a part is missing or slow
    detail: str  # the result
    remedy: str = ""  # what to do; empty if nothing has to be done
