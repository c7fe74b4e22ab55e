"""What a check found out."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of ``asr doctor``.

    Attributes:
        check: what was looked at.
        state: broken is what must be put right before the project can be used; a warning is what
            costs speed or leaves out a part.
        detail: what was found.
        remedy: what to do; empty where nothing has to be done.
    """

    check: str
    state: State
    detail: str
    remedy: str = ""
