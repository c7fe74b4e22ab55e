"""Checks every row of a corpus before training: what is dropped, what is suspicious, and why.

Dropped is what cannot be used: broken, silent or empty rows and, from the split "train" alone,
those that are too short for CTC over characters. A test set is to be the published one, so in other
splits these are suspicious and stay.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asr import audio, folders, text
from asr.corpora.corpus import Row

ENCODER_FRAME_SECONDS = 0.04  # four feature frames of 10 ms, the subsampling of every recipe
SILENCE_PEAK = 1e-4  # -80 dB of full scale
CLIPPED_SHARE = 0.001  # of the samples at full scale, from which an utterance is suspicious
OUTLIER_DEVIATIONS = 5  # robust standard deviations, 1.4826 median absolute deviations each
OUTLIER_MIN_COUNT = 20  # utterances in a split, below which outliers cannot be told
ADVICE = {  # by reason; the braces stand for examples
    "tags": "hold tags ({}), which are read as words; --strip-tags leaves them out",
    "not_english": "are not what the normaliser english is made for ({}); use --normaliser lower,"
    " which loses no sign of any script",
}
MORE_LABELS_THAN_FRAMES = "more_labels_than_frames"


class DroppedError(ValueError):
    """Why a row cannot be used."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Utterance:
    """A row whose audio was decoded, checked and brought to the corpus' rate.

    Attributes:
        row: as the corpus published it.
        audio: an audio file, mono, at the corpus' rate.
        path: a file name that fits the bytes.
        seconds: duration.
        audio_hash: of the bytes as published.
        resampled: whether the rate was another.
        mixed: whether there were several channels.
        clipped: whether many samples are at full scale.
    """

    row: Row
    audio: bytes
    path: str
    seconds: float
    audio_hash: str
    resampled: bool
    mixed: bool
    clipped: bool


def load(row: Row, sample_rate: int) -> Utterance:
    """Decodes and checks the audio of one row; keeps its bytes where nothing has to change.

    Raises:
        DroppedError: with the reason and a message of one line.
    """
    data, suffix = _published(row)
    try:
        wave, rate, channels = _samples(row, data)
    except audio.AudioError as error:
        reason = {"no samples": "too_short", "not finite": "not_finite"}.get(
            error.reason, f"{error.reason}_audio"
        )
        raise DroppedError(reason, f"{row.id}: {error}") from None
    whole = len(wave)
    wave = _cut(row, wave, rate)
    if len(wave) <= 1:
        raise DroppedError("too_short", f"{row.id}: {len(wave)} samples of audio")
    peak = float(np.abs(wave).max())
    if peak < SILENCE_PEAK:
        raise DroppedError("silence", f"{row.id}: no sample exceeds {peak:.1g} of full scale")
    as_published = data is not None and (rate, channels, len(wave)) == (sample_rate, 1, whole)
    if data is None or not as_published:
        encoded = audio.encode_flac(audio.resample(wave, rate, sample_rate), sample_rate)
        suffix = ".flac"
    else:
        encoded = data
    return Utterance(
        row=row,
        audio=encoded,
        path=f"{Path(row.id).name}{suffix}",
        seconds=len(wave) / rate,
        audio_hash=hashlib.sha256(wave.tobytes()).hexdigest()[:24],
        resampled=rate != sample_rate,
        mixed=channels > 1,
        clipped=bool(np.mean(np.abs(wave) >= 32767 / 32768) > CLIPPED_SHARE),
    )


def _published(row: Row) -> tuple[bytes | None, str]:
    """The bytes of the audio file and a suffix for it; None where the row holds samples."""
    if isinstance(row.audio, np.ndarray):
        return None, ".flac"
    if isinstance(row.audio, bytes):
        return row.audio, ""
    try:
        return row.audio.read_bytes(), row.audio.suffix
    except OSError as error:
        reason = "missing_audio" if isinstance(error, FileNotFoundError) else "unreadable_audio"
        raise DroppedError(reason, f"{row.id}: {row.audio}: {error.strerror}") from None


def _samples(row: Row, data: bytes | None) -> tuple[np.ndarray, int, int]:
    """(N,) float32, rate in Hz, channels."""
    if data is not None:
        try:
            return audio.decode_native(data)
        except audio.AudioError as error:
            if isinstance(row.audio, Path):
                message = str(error).replace(audio.name(data), str(row.audio))
                raise audio.AudioError(message, error.reason) from None
            raise
    assert isinstance(row.audio, np.ndarray)
    assert row.sample_rate is not None, "samples need their rate"
    wave = row.audio
    if wave.dtype == np.int16:
        wave = wave.astype(np.float32) / 32768
    wave = wave.astype(np.float32, copy=False)
    if not np.isfinite(wave).all():
        raise audio.AudioError("the samples hold NaN or infinity", "not finite")
    return wave, row.sample_rate, 1


def _cut(row: Row, wave: np.ndarray, rate: int) -> np.ndarray:
    """The part of the file that is the utterance."""
    start = round(row.start_seconds * rate)
    if row.seconds is None:
        return wave[start:]
    end = start + round(row.seconds * rate)
    # Manifests round durations: a tenth of a second is forgiven.
    if end > len(wave) + rate // 10:
        raise DroppedError(
            "truncated_audio",
            f"{row.id}: ends at {end / rate:.2f} s, the audio at {len(wave) / rate:.2f} s",
        )
    return wave[start:end]


def check_length(text: str, seconds: float) -> None:
    """Raises DroppedError where CTC over characters has no path: labels and repeats > frames."""
    repeats = sum(a == b for a, b in zip(text, text[1:], strict=False))
    frames = math.ceil(seconds / ENCODER_FRAME_SECONDS)
    if len(text) + repeats > frames:
        raise DroppedError(
            MORE_LABELS_THAN_FRAMES,
            f"{len(text)} characters and {repeats} repeats in {frames} encoder frames",
        )


@dataclass
class Split:
    """What happened to the rows of one split; kept + dropped == read.

    Attributes:
        for_training: whether rows too short for CTC are dropped, and not only suspicious.
        read: rows the corpus gave.
        ids, texts, speakers, seconds, hashes: of the rows kept, in order.
        dropped: ids by reason.
        messages: one line per row dropped.
        suspicious: ids by reason; kept.
        converted: rows by kind of conversion.
        found: what made rows suspicious of tags or of another language, with counts.
    """

    for_training: bool = True
    read: int = 0
    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    speakers: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    suspicious: dict[str, list[str]] = field(default_factory=dict)
    converted: Counter[str] = field(default_factory=Counter)
    found: dict[str, Counter[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._seen: set[str] = set()

    def admit(self, row: Row, loaded: Utterance | DroppedError, words: str) -> Utterance | None:
        """Counts one row, of these normalised words; the utterance when it is kept."""
        row_id = row.id
        self.read += 1
        try:
            if row_id in self._seen:
                raise DroppedError("duplicate_id", f"{row_id}: a row before has the same id")
            self._seen.add(row_id)
            if row.fault is not None:
                raise DroppedError(*row.fault)
            if isinstance(loaded, DroppedError):
                raise loaded
            if not words:
                spoken = row.text.strip()
                why = "no text is left after normalisation" if spoken else "it has no transcript"
                raise DroppedError("empty_text", f"{row_id}: {why}")
            self._check_length(row_id, words, loaded.seconds)
        except DroppedError as error:
            self.dropped.setdefault(error.reason, []).append(row_id)
            self.messages.append(folders.printable(str(error)))
            return None
        self.ids.append(row_id)
        self.texts.append(words)
        self.speakers.append(loaded.row.speaker_id)
        self.seconds.append(loaded.seconds)
        self.hashes.append(loaded.audio_hash)
        self.converted["resampled"] += loaded.resampled
        self.converted["mixed_to_mono"] += loaded.mixed
        if loaded.clipped:
            self.suspect("clipped", [row_id])
        return loaded

    def _check_length(self, row_id: str, text: str, seconds: float) -> None:
        try:
            check_length(text, seconds)
        except DroppedError as error:
            if self.for_training:
                raise DroppedError(error.reason, f"{row_id}: {error}") from None
            self.suspect(error.reason, [row_id])

    def judge(self, row: Row, normaliser: str, strip_tags: bool) -> None:
        """Suspects a row that was kept of tags, and of a language its normaliser is not for."""
        tags = text.TAG.findall(row.text)
        if tags and strip_tags:
            self.converted["tags_stripped"] += 1
        elif tags:
            self.suspect("tags", [row.id])
            self.found.setdefault("tags", Counter()).update(tags)
        if normaliser == "english" and (why := text.not_english(row.text, row.language)):
            self.suspect("not_english", [row.id])
            self.found.setdefault("not_english", Counter())[why] += 1

    def advice(self) -> Iterator[str]:
        """What to do about what ``judge`` found."""
        for reason, remedy in ADVICE.items():
            if counts := self.found.get(reason):
                number = f"{len(self.suspicious[reason])} of {len(self.ids)} rows"
                commonest = folders.examples([what for what, _ in counts.most_common()])
                yield f"{number} {remedy.format(commonest)}"

    def suspect(self, reason: str, ids: Iterable[str]) -> None:
        """Lists ids under a reason; no entry when there are none."""
        if found := list(ids):
            self.suspicious.setdefault(reason, []).extend(found)

    def summary(self) -> dict[str, object]:
        """For preflight.json."""
        lost = sum(len(ids) for ids in self.dropped.values())
        assert len(self.ids) + lost == self.read, "a row disappeared uncounted"
        return {
            "read": self.read,
            "kept": len(self.ids),
            "dropped": self.dropped,
            "messages": self.messages,
            "suspicious": self.suspicious,
            "converted": {kind: n for kind, n in self.converted.items() if n},
        }


def compare(
    splits: dict[str, Split],
    alphabet: str | None = None,
    expected: dict[str, dict[str, int]] | None = None,
) -> None:
    """Lists what is suspicious only in sight of all rows: outliers and what splits share.

    Characters are compared with ``alphabet``, composed, or else with those of the split "train";
    reading a corpus without either, none is called foreign. ``expected`` has the published counts.
    """
    known = set(text.composed(alphabet)) if alphabet is not None else None
    if known is None and "train" in splits:
        known = set().union(*splits["train"].texts)
    earlier: dict[str, Split] = {}
    for name, split in splits.items():
        if known is not None:
            foreign = [i for i, t in zip(split.ids, split.texts, strict=True) if set(t) - known]
            split.suspect("characters_outside_alphabet", foreign)
        split.suspect("characters_per_second", _outliers(split))
        counts = Counter(split.hashes)
        repeated = [i for i, h in zip(split.ids, split.hashes, strict=True) if counts[h] > 1]
        split.suspect("repeated_audio", repeated)
        for other_name, other in earlier.items():
            _shared(split, other, other_name)
        earlier[name] = split
        found = {"utterances": split.read, "words": sum(len(t.split()) for t in split.texts)}
        for unit, count in (expected or {}).get(name, {}).items():
            if count != found[unit]:
                split.suspect(f"{unit}_not_as_published", [f"{found[unit]} of {count}"])


def _shared(split: Split, other: Split, other_name: str) -> None:
    ids, hashes = set(other.ids), set(other.hashes)
    split.suspect(f"id_also_in_{other_name}", [i for i in split.ids if i in ids])
    pairs = zip(split.ids, split.hashes, strict=True)
    split.suspect(f"audio_also_in_{other_name}", [i for i, h in pairs if h in hashes])
    speakers = (set(split.speakers) & set(other.speakers)) - {""}
    split.suspect(f"speakers_also_in_{other_name}", sorted(speakers))


def _outliers(split: Split) -> list[str]:
    """Ids whose characters per second are far from the split's median."""
    if len(split.ids) < OUTLIER_MIN_COUNT:
        return []
    # On a logarithmic scale twice as fast is as far as half as fast.
    speed = np.log([len(t) / s for t, s in zip(split.texts, split.seconds, strict=True)])
    distance = np.abs(speed - np.median(speed))
    deviation = 1.4826 * np.median(distance)
    far = distance > OUTLIER_DEVIATIONS * deviation
    return [i for i, out in zip(split.ids, far, strict=True) if out and deviation > 0]
