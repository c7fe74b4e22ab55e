"""Checks every row of a corpus: drops unusable rows, marks suspicious rows, gives reasons.

Rows with broken or silent audio and rows without text are dropped. Rows that are too short for CTC
over characters are dropped from the split "train" only. In other splits they stay and are marked
suspicious, because a test set must not differ from the published one.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from asr import folders, items
from asr.corpora.corpus import DroppedError, Row
from asr.corpora.loading import Loaded, Utterance
from asr.text import normalisers

ENCODER_FRAME_SECONDS = 0.04  # four feature frames of 10 ms, the default of every encoder
OUTLIER_DEVIATIONS = 5  # robust standard deviations, 1.4826 median absolute deviations each
OUTLIER_MIN_COUNT = 20  # a split with fewer utterances is not searched for outliers
ADVICE = {  # advice for each reason; examples replace the braces
    "tags": "hold tags ({}), which are read as words; --strip-tags leaves them out",
    "not_english": "are not what the normaliser english is made for ({}); use --normaliser lower,"
    " which keeps the characters of every script, and punctuation",
}
# Reasons why a row could not be read; the other reasons concern rows that were read.
NOT_READ = (
    "missing_audio unreadable_audio truncated_audio not_finite bad_row not_utf8 error".split()  # noqa: SIM905
)


def missing_frames(text: str, seconds: float) -> str:
    """Says why CTC over characters has no path (labels + repeats > frames); '' if it has."""
    repeats = sum(a == b for a, b in itertools.pairwise(text))
    frames = math.ceil(seconds / ENCODER_FRAME_SECONDS)
    if len(text) + repeats <= frames:
        return ""
    return f"{len(text)} characters and {repeats} repeats in {frames} encoder frames"


@dataclass
class Split:
    """The result of checking one split; kept + dropped == read."""

    name: str
    normaliser: str = "none"  # normaliser of the transcripts
    strip_tags: bool = False  # whether to remove tags such as [laughter]
    read: int = 0  # number of rows that were read
    # These lists describe the kept rows, in order.
    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    speakers: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    # These dictionaries hold ids by reason. Suspicious rows are kept.
    dropped: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    suspicious: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    messages: list[str] = field(default_factory=list)  # one for each row dropped
    converted: Counter[str] = field(default_factory=Counter)  # rows by kind of conversion
    # These counters hold the tags and the signs of another language that made rows suspicious.
    signs: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def __post_init__(self) -> None:
        self._seen: set[str] = set()
        self._normalise = normalisers.normaliser(self.normaliser)

    def admit(self, row: Row, loaded: Loaded) -> tuple[Utterance, str] | None:
        """Counts one row; returns its audio and normalised text if the row is kept."""
        self.read += 1
        tags = normalisers.TAG.findall(row.text)
        text = normalisers.without_tags(row.text) if self.strip_tags else row.text
        words = self._normalise(text)
        try:
            utterance = self._checked(row, loaded, words)
        except DroppedError as error:
            self.dropped[error.reason].append(row.id)
            self.messages.append(items.printable(str(error)))
            return None
        self.ids.append(row.id)
        self.texts.append(words)
        self.speakers.append(row.speaker_id)
        self.seconds.append(utterance.seconds)
        self.hashes.append(utterance.audio_hash)
        self.converted["resampled"] += utterance.resampled
        self.converted["mixed_to_mono"] += utterance.mixed
        self.converted["tags_stripped"] += bool(tags and self.strip_tags)
        if utterance.clipped:
            self.suspicious["clipped"].append(row.id)
        signs = {"tags": [] if self.strip_tags else tags, "not_english": []}
        if self.normaliser == "english":
            signs["not_english"] += filter(None, [normalisers.not_english(row.text, row.language)])
        for reason, found in signs.items():
            if found:
                self.signs[reason].update(found)
                self.suspicious[reason].append(row.id)
        return utterance, words

    def _checked(self, row: Row, loaded: Loaded, words: str) -> Utterance:
        """Returns the audio of a row; raises DroppedError if the row cannot be used."""
        if row.id in self._seen:
            raise DroppedError("duplicate_id", f"{row.id}: an earlier row has the same id")
        self._seen.add(row.id)
        if row.fault is not None:
            raise row.fault
        if isinstance(loaded, DroppedError):
            raise loaded
        if not words:
            spoken = row.text.strip()
            why = "no text is left after normalisation" if spoken else "it has no transcript"
            raise DroppedError("empty_text", f"{row.id}: {why}")
        if why := missing_frames(words, loaded.seconds):
            if self.name == "train":
                raise DroppedError("more_labels_than_frames", f"{row.id}: {why}")
            self.suspicious["more_labels_than_frames"].append(row.id)
        return loaded

    def advice(self) -> Iterator[str]:
        """Yields advice about bracketed tags and about text in another language."""
        for reason, remedy in ADVICE.items():
            if counts := self.signs[reason]:
                number = f"{len(self.suspicious[reason])} of {len(self.ids)} rows"
                commonest = folders.examples([sign for sign, _ in counts.most_common()])
                yield f"{self.name}: {number} {remedy.format(commonest)}"

    def summary(self) -> dict[str, object]:
        """Returns the content of preflight.json for this split."""
        lost = sum(len(ids) for ids in self.dropped.values())
        assert len(self.ids) + lost == self.read, "a row disappeared uncounted"
        return {
            "read": self.read,
            "kept": len(self.ids),
            "dropped": dict(self.dropped),
            "messages": self.messages,
            "suspicious": {reason: ids for reason, ids in self.suspicious.items() if ids},
            "converted": {kind: n for kind, n in self.converted.items() if n},
        }


def compare(
    splits: dict[str, Split], alphabet: str | None, expected: dict[str, dict[str, int]]
) -> None:
    """Adds findings that need all rows: outliers, and rows or speakers that splits share.

    Args:
        splits: the splits by name.
        alphabet: characters that are expected, by default those of the split "train". Without
            either, no character is unexpected.
        expected: the published counts.
    """
    known = set(normalisers.composed(alphabet)) if alphabet is not None else None
    if known is None and "train" in splits:
        known = set().union(*splits["train"].texts)
    before: dict[str, Split] = {}
    for name, split in splits.items():
        if known is not None:
            split.suspicious["characters_outside_alphabet"] += [
                i for i, t in zip(split.ids, split.texts, strict=True) if set(t) - known
            ]
        split.suspicious["characters_per_second"] += _outliers(split)
        counts = Counter(split.hashes)
        hashed = list(zip(split.ids, split.hashes, strict=True))
        split.suspicious["repeated_audio"] += [i for i, h in hashed if counts[h] > 1]
        found = {"utterances": split.read, "words": sum(len(t.split()) for t in split.texts)}
        for unit, count in expected.get(name, {}).items():
            if count != found[unit]:
                split.suspicious[f"{unit}_not_as_published"].append(f"{found[unit]} of {count}")
        for earlier, other in before.items():
            ids, hashes = set(other.ids), set(other.hashes)
            speakers = (set(split.speakers) & set(other.speakers)) - {""}
            split.suspicious[f"id_also_in_{earlier}"] += [i for i in split.ids if i in ids]
            split.suspicious[f"audio_also_in_{earlier}"] += [i for i, h in hashed if h in hashes]
            split.suspicious[f"speakers_also_in_{earlier}"] += sorted(speakers)
        before[name] = split


def _outliers(split: Split) -> list[str]:
    """Returns the ids whose characters per second are far from the split's median."""
    if len(split.ids) < OUTLIER_MIN_COUNT:
        return []
    # On a logarithmic scale, twice and half the speed are equally far from the median.
    speed = np.log([len(t) / s for t, s in zip(split.texts, split.seconds, strict=True)])
    distance = np.abs(speed - np.median(speed))
    deviation = 1.4826 * np.median(distance)
    far = distance > OUTLIER_DEVIATIONS * deviation
    return [i for i, out in zip(split.ids, far, strict=True) if out and deviation > 0]
