"""The result of a check."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of ``asr doctor``."""

    check: str  # what was looked at
    state: State  # broken: asr does not work; warning: a part is missing or slow
    detail: str  # what was found
    remedy: str = ""  # what to do; empty if nothing has to be done
