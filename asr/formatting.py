"""Formats numbers for readers (few digits, a unit), and converts numbers of the command line."""

import argparse
import math
from collections.abc import Iterable, Sequence

NONE = "not measured"
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def digits(value: float | None, number: int = 3) -> str:
    """Formats significant digits without an exponent, with separated thousands."""
    if value is None:
        return NONE
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    power = int(f"{value:.{number - 1}e}".partition("e")[2])  # power of the rounded value
    places = max(0, number - 1 - power)
    return f"{value:,.{places}f}"


def count(number: float | None) -> str:
    """Formats a whole number with separated thousands."""
    return NONE if number is None else f"{number:,.0f}"


def numbered(number: int, noun: str) -> str:
    """Formats a number with its noun, as ``1 file`` or ``2 files``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def percent(rate: float | None) -> str:
    """Formats a fraction as ``4.12 %`` or ``41.2 %``."""
    return NONE if rate is None else f"{100 * rate:.{_places(rate)}f} %"


def _places(rate: float) -> int:
    return 2 if abs(rate) < 0.0995 else 1


def percent_interval(rate: float | None, interval: Sequence[float] | None) -> str:
    """Formats a rate with its interval, as ``4.12 % [3.50 to 4.81]``."""
    if rate is None or interval is None:
        return percent(rate)
    low, high = (f"{100 * bound:.{_places(rate)}f}" for bound in interval)
    return f"{percent(rate)} [{low} to {high}]"


def points_interval(value: float, interval: Sequence[float]) -> str:
    """Formats a difference of two rates in percentage points with its interval."""
    low, high = (f"{100 * bound:.2f}" for bound in interval)
    return f"{100 * value:.2f} points [{low} to {high}]"


def prefixed(value: float | None, unit: str) -> str:
    """Formats a value with a unit prefix, as ``1.34 PFLOP`` or ``12.3 kJ``."""
    if value is None:
        return NONE
    power = 0
    while abs(value) >= 1000 and power < len(PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{digits(value)} {PREFIXES[power]}{unit}"


def scale(values: Sequence[float]) -> tuple[float, str]:
    """Returns (divisor, prefix) for an axis, so that the largest value is below 1000."""
    power = 0
    while max(values, default=0) / 1000**power >= 1000 and power < len(PREFIXES) - 1:
        power += 1
    return 1000.0**power, PREFIXES[power]


def mebibytes(value: float | None) -> str:
    """Formats bytes in MiB, or in GiB from 10 GiB on."""
    if value is None:
        return NONE
    return f"{value / 2**30:,.1f} GiB" if value >= 10 * 2**30 else f"{value / 2**20:,.0f} MiB"


def hours(value: float | None, unit: str = "") -> str:
    """Formats hours, followed by minutes if they are less than one."""
    if value is None:
        return NONE
    text = f"{digits(value)} {unit}".rstrip()
    minute = unit.replace("hours", "min") if "hours" in unit else "min"
    return text if value >= 1 else f"{text} ({digits(60 * value, 2)} {minute})"


def hours_of(kinds: Iterable[str | None]) -> str:
    """Names the hours of devices, from their kinds: a CPU counts cores, a GPU counts GPUs."""
    units = {{"cpu": "core-hours", "cuda": "GPU-hours"}.get(str(kind)) for kind in kinds if kind}
    return units.pop() or "device-hours" if len(units) == 1 else "device-hours"


def times(ratio: float) -> str:
    """Formats a ratio as ``1.8 times``."""
    return f"{digits(ratio, 2)} times"


def listed(words: Sequence[str]) -> str:
    """Joins words as ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))


# --- types of options ---


def whole_number(text: str) -> int:
    """Converts a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def duration(text: str) -> float:
    """Converts a number of seconds, 0 or more."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return value


def positive_duration(text: str) -> float:
    """Converts a number of seconds above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _number(text: str) -> float:
    """Returns the number that a text states; NaN if it states none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
