"""Says before a study runs what its contrasts can decide."""

import logging
import math
from pathlib import Path
from typing import Any

from asr.data.utterances import read_corpus
from asr.formatting import digits, listed
from asr.statistics.censoring import runs_to_decide
from asr.statistics.comparison import LEVEL, MIN_SEEDS, MIN_SPEAKERS, SCATTERS
from asr.statistics.contrast import Contrast
from asr.statistics.power import (
    detectable_shift,
    expected_error,
)
from asr.study.plan import Plan

log = logging.getLogger(__name__)

OF_SPEAKERS = (0.03, 0.05)  # scatter of a difference between speakers, relative to the rate
UNKNOWN = ", speakers and words not known before the corpus is prepared: both widen the difference"
OF_COSTS = (0.05, 0.30)  # assumed scatter of the logarithm of a cost between seeds
RATE = 0.2  # expected error rate of a study without targets


def outlook(plan: Plan) -> tuple[list[str], list[str]]:
    """Returns a line for each contrast on what it can detect, and a line for each refused one.

    The scatter of the runs is not known yet, so that a range is given. Speakers and words are those
    of the evaluated split; before the corpus is prepared they are left out. A descriptive study may
    run whatever its contrasts can decide, so that none is refused.

    Raises:
        ValueError: the corpus is prepared and has no split of this name.
    """
    split, described = _split(plan), plan.study.descriptive
    found = [_of(contrast, plan, split) for contrast in plan.study.contrasts]
    lines = [f"{line}{f': CANNOT DECIDE: {why}' if why else ''}" for line, why in found]
    lines += [_dimensions(plan)] if plan.study.tuning.trials else []
    lines += [] if found else ["No contrast is planned: the study describes, and decides nothing."]
    lines += ["descriptive: true: the study may run without a decision."] if described else []
    return lines, [] if described else [f"{line}: {why}" for line, why in found if why]


def check(plan: Plan) -> None:
    """Logs the outlook; refuses contrasts that can decide nothing, unless the study is descriptive.

    Raises:
        ValueError: a contrast can decide nothing, or the corpus lacks the split.
    """
    lines, refused = outlook(plan)
    for line in lines:
        log.info("%s", line)
    if refused:
        raise ValueError(f"contrasts: {'; '.join(refused)}; or set descriptive: true")


def _of(contrast: Contrast, plan: Plan, split: dict[str, Any]) -> tuple[str, str]:
    """What a contrast can detect, and why it can decide nothing; empty if it can."""
    study, number = plan.study, len(plan.study.contrasts)
    seeds, level = len(study.seeds), 1 - (1 - LEVEL) / number
    head = f"{contrast.claim}, {contrast.subject} and {contrast.reference}, {contrast.estimator}"
    head += f" ({seeds} seeds, {number} contrast{'s' * (number > 1)}"
    if seeds < MIN_SEEDS:
        return f"{head})", f"give {MIN_SEEDS} seeds or more"
    if contrast.estimator == "cost to a target":
        shift = math.sqrt(2 / seeds) * detectable_shift(2 * seeds - 2, level)
        low, high = (math.exp(scatter * shift) for scatter in OF_COSTS)
        told = f"{head}): detectable {digits(low)} to {digits(high)} times, if costs scatter by "
        told += f"{100 * OF_COSTS[0]:g} to {100 * OF_COSTS[1]:g} % between seeds (an assumption) "
        told += f"and all reach the target, margin {contrast.margin:g} times"
        told += _warning(contrast, low, high)
        needed = runs_to_decide(level)
        return told + f"; if a seed misses it, {needed} seeds are needed" * (seeds < needed), ""
    speakers, words = split.get("speakers", math.inf), split.get("words", math.inf)
    head += f", {speakers or 'unknown'} speakers, {words:,} words" if split else UNKNOWN
    if speakers < MIN_SPEAKERS:
        known = "" if speakers else " whose names the corpus has"
        return f"{head})", f"give a split with {MIN_SPEAKERS} speakers or more{known}"
    rate = min(study.targets) / 100 if study.targets else RATE
    found = []
    for scatter, of_speakers in zip(SCATTERS, OF_SPEAKERS, strict=True):
        error, freedom = expected_error(rate, seeds, speakers, words, scatter, of_speakers)
        found.append(100 * error * detectable_shift(freedom, level))
    head += f"): detectable {found[0]:.2g} to {found[1]:.2g} points at {100 * rate:g} %"
    head += f" WER, margin {contrast.margin:g}{_warning(contrast, *found)}"
    return head, "give more seeds, speakers or words" if found[0] >= 100 * rate else ""


def _warning(contrast: Contrast, low: float, high: float) -> str:
    """A warning if the detectable difference, from low to high, is or may be above the margin."""
    if high <= contrast.margin:
        return ""
    verb = "is" if low > contrast.margin else "may be"
    return f"; WARNING: it {verb} too large to find the arms equivalent within the margin"


def _split(plan: Plan) -> dict[str, Any]:
    """Facts of the evaluated split; empty if the corpus is not prepared or does not tell."""
    place, name = Path(plan.any_recipe().data.corpus), plan.study.split
    if not place.exists():
        return {}
    if name not in (splits := read_corpus(place)["splits"]):
        raise ValueError(
            f"split {name}: {place} has no such split; it has {', '.join(sorted(splits))}; set "
            "split to one of them, or prepare the corpus with it"
        )
    return splits[name] if {"speakers", "words"} <= splits[name].keys() else {}


def _dimensions(plan: Plan) -> str:
    """The number of tuned keys of each arm, with a warning if arms differ in it."""
    number = {name: len(plan.study.tuning.ranges) + len(a.ranges) for name, a in plan.arms.items()}
    told = listed([f"{name} {count}" for name, count in number.items()])
    if len(set(number.values())) == 1:
        return f"Tuned keys: {next(iter(number.values()))} of each arm."
    return f"Tuned keys differ, which favours arms with more: {told}."
