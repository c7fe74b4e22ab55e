"""Checks every row of a corpus before training: what is dropped, what is suspicious, and why.

Dropped is what cannot be used: broken, silent or empty rows and, from the split "train" alone,
those that are too short for CTC over characters. A test set is to be the published one, so in other
splits these are suspicious and stay.
"""

import contextlib
import hashlib
import io
import itertools
import math
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from asr import folders, items
from asr.audio import audio_file
from asr.corpora.corpus import Row
from asr.text import normalisers

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
# Reasons of rows that could not be read, in distinction to rows that are of no use.
NOT_READ = (
    "missing_audio",
    "unreadable_audio",
    "truncated_audio",
    "not_finite",
    "bad_row",
    "not_utf8",
    "error",
)


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


Loaded = Utterance | DroppedError


def load(rows: Sequence[Row], sample_rate: int) -> Iterator[Loaded]:
    """Decodes and checks the audio of rows that share it: once, in order, whatever their number.

    Bytes are kept where nothing has to change. The results come in the order of the rows, each as
    soon as those before it are there. Memory holds the audio of the rows that have begun and not
    ended, and the finished rows that wait for a row before them. Whatever goes wrong, of any kind,
    is the result of the row or rows that it concerns.
    """
    found: dict[int, Future[Loaded]] = {}
    given = 0
    # A thread encodes what is cut out while what follows is decoded.
    with ThreadPoolExecutor(1) as beside:
        try:
            with _open(rows[0]) as sound:
                latest: Future[Loaded] | None = None
                for cut in _cuts(rows, sound):
                    if latest is not None:
                        latest.result()  # no more than one waits to be encoded
                    latest = beside.submit(_attempt, rows[cut.index], cut, sound, sample_rate)
                    found[cut.index] = latest
                    while given in found and found[given].done():
                        yield found.pop(given).result()
                        given += 1
        except Exception as error:
            for index in {*range(given, len(rows))} - found.keys():
                found[index] = beside.submit(_dropped, rows[index], error)
        for index in range(given, len(rows)):
            yield found.pop(index).result()


@dataclass(eq=False)
class _Cut:
    """The part of some audio that is an utterance.

    Attributes:
        index: which of the rows it is.
        start, end: in samples of the audio; no end is beyond every end.
        pieces: (N,) float32 each, those read so far.
        length: samples of the audio, None as long as it goes on behind this part.
    """

    index: int
    start: int
    end: int
    pieces: list[np.ndarray] = field(default_factory=list)
    length: int | None = None


def _cuts(rows: Sequence[Row], sound: audio_file.Sound) -> Iterator[_Cut]:
    """The part of each row, in the order in which the rows end."""
    rate = sound.sample_rate
    cuts = []
    for index, row in enumerate(rows):
        start = round(row.start_seconds * rate)
        end = sys.maxsize if row.seconds is None else start + round(row.seconds * rate)
        cuts.append(_Cut(index, start, end))
    coming = deque(sorted(cuts, key=lambda cut: cut.start))
    current: list[_Cut] = []
    position = 0
    for piece in sound.pieces:
        behind = position + len(piece)
        while coming and coming[0].start < behind:
            current.append(coming.popleft())
        for cut in current:
            cut.pieces.append(piece[max(0, cut.start - position) : cut.end - position])
        position = behind
        # One that ends here exactly may be the whole of the audio: the next piece tells.
        ended = [cut for cut in current if cut.end < position]
        current = [cut for cut in current if cut.end >= position]
        yield from ended
        if not current and not coming:
            return
    for cut in [*current, *coming]:
        cut.length = position
        yield cut


def _attempt(row: Row, cut: _Cut, sound: audio_file.Sound, sample_rate: int) -> Loaded:
    try:
        return _utterance(row, cut, sound, sample_rate)
    except Exception as error:
        return _dropped(row, error)


def _utterance(row: Row, cut: _Cut, sound: audio_file.Sound, sample_rate: int) -> Utterance:
    wave = np.concatenate([np.zeros(0, np.float32), *cut.pieces])
    cut.pieces.clear()  # of a long recording two copies would be held
    rate = sound.sample_rate
    # Manifests round durations: a tenth of a second is forgiven.
    if cut.length is not None and row.seconds is not None and cut.end > cut.length + rate // 10:
        raise DroppedError(
            "truncated_audio",
            f"{row.id}: ends at {cut.end / rate:.2f} s, the audio at {cut.length / rate:.2f} s",
        )
    if len(wave) <= 1:
        raise DroppedError("too_short", f"{row.id}: {len(wave)} samples of audio")
    peak = float(max(wave.max(), -wave.min()))
    if peak < SILENCE_PEAK:
        raise DroppedError("silence", f"{row.id}: no sample exceeds {peak:.1g} of full scale")
    full = np.count_nonzero(wave >= 32767 / 32768) + np.count_nonzero(wave <= -32767 / 32768)
    kept = None
    if (rate, sound.channels, len(wave)) == (sample_rate, 1, cut.length):
        kept = _published(row, len(wave))
    encoded, suffix = kept or (
        audio_file.encode_flac(audio_file.resample(wave, rate, sample_rate), sample_rate),
        ".flac",
    )
    return Utterance(
        row=row,
        audio=encoded,
        path=f"{Path(row.id).name}{suffix}",
        seconds=len(wave) / rate,
        audio_hash=hashlib.sha256(wave.data).hexdigest()[:24],
        resampled=rate != sample_rate,
        mixed=sound.channels > 1,
        clipped=bool(full > CLIPPED_SHARE * len(wave)),
    )


def _dropped(row: Row, error: Exception) -> DroppedError:
    """Why a row cannot be used, whatever was raised."""
    if isinstance(error, DroppedError):
        return error
    if isinstance(error, audio_file.AudioError):
        reasons = {"no samples": "too_short", "not finite": "not_finite"}
        reason = reasons.get(error.reason, f"{error.reason}_audio")
    elif isinstance(error, FileNotFoundError):
        reason = "missing_audio"
    else:
        reason = "unreadable_audio" if isinstance(error, OSError) else "error"
    return DroppedError(reason, f"{row.id}: {items.reason(error)}")


def _open(row: Row) -> contextlib.AbstractContextManager[audio_file.Sound]:
    """The audio of a row, at its own rate."""
    if isinstance(row.audio, Path) and row.audio.exists() and not row.audio.is_file():
        raise audio_file.AudioError(f"{row.audio} is a folder, a pipe or a device; give a file")
    if not isinstance(row.audio, np.ndarray):
        return audio_file.open_sound(row.audio)
    assert row.sample_rate is not None, "samples need their rate"
    wave = row.audio
    wave = wave.astype(np.float32, copy=False) / (32768 if wave.dtype == np.int16 else 1)
    if not np.isfinite(wave).all():
        raise audio_file.AudioError("the samples hold NaN or infinity", "not finite")
    return contextlib.nullcontext(audio_file.Sound(row.sample_rate, 1, iter([wave])))


def _published(row: Row, samples: int) -> tuple[bytes, str] | None:
    """The bytes of the audio file and a suffix for it; None where libsndfile reads them otherwise.

    What reads a prepared corpus with the library `datasets` uses libsndfile.
    """
    if isinstance(row.audio, np.ndarray):
        return None
    if isinstance(row.audio, Path):
        data, suffix = row.audio.read_bytes(), row.audio.suffix
    else:
        data, suffix = row.audio, ""
    with contextlib.suppress(soundfile.LibsndfileError):
        if soundfile.info(io.BytesIO(data)).frames == samples:
            return data, suffix
    return None


def check_length(text: str, seconds: float) -> None:
    """Raises DroppedError where CTC over characters has no path: labels and repeats > frames."""
    repeats = sum(a == b for a, b in itertools.pairwise(text))
    frames = math.ceil(seconds / ENCODER_FRAME_SECONDS)
    if len(text) + repeats > frames:
        raise DroppedError(
            "more_labels_than_frames",
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
    found: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def __post_init__(self) -> None:
        self._seen: set[str] = set()

    def admit(self, row: Row, loaded: Loaded, words: str) -> Utterance | None:
        """Counts one row, of these normalised words; the utterance when it is kept."""
        self.read += 1
        try:
            if row.id in self._seen:
                raise DroppedError("duplicate_id", f"{row.id}: a row before has the same id")
            self._seen.add(row.id)
            if row.fault is not None:
                raise DroppedError(*row.fault)
            if isinstance(loaded, DroppedError):
                raise loaded
            if not words:
                spoken = row.text.strip()
                why = "no text is left after normalisation" if spoken else "it has no transcript"
                raise DroppedError("empty_text", f"{row.id}: {why}")
            try:
                check_length(words, loaded.seconds)
            except DroppedError as error:
                if self.for_training:
                    raise DroppedError(error.reason, f"{row.id}: {error}") from None
                self.suspect(error.reason, [row.id])
        except DroppedError as error:
            self.dropped.setdefault(error.reason, []).append(row.id)
            self.messages.append(items.printable(str(error)))
            return None
        self.ids.append(row.id)
        self.texts.append(words)
        self.speakers.append(loaded.row.speaker_id)
        self.seconds.append(loaded.seconds)
        self.hashes.append(loaded.audio_hash)
        self.converted["resampled"] += loaded.resampled
        self.converted["mixed_to_mono"] += loaded.mixed
        if loaded.clipped:
            self.suspect("clipped", [row.id])
        return loaded

    def judge(self, row: Row, normaliser: str, strip_tags: bool) -> None:
        """Suspects a row that was kept of tags, and of a language its normaliser is not for."""
        tags = normalisers.TAG.findall(row.text)
        self.converted["tags_stripped"] += bool(tags and strip_tags)
        foreign = normalisers.not_english(row.text, row.language) if normaliser == "english" else ""
        what = {"tags": [] if strip_tags else tags, "not_english": [foreign] if foreign else []}
        for reason, signs in what.items():
            self.found[reason].update(signs)
            self.suspect(reason, [row.id] if signs else [])

    def advice(self) -> Iterator[str]:
        """What to do about what ``judge`` found."""
        for reason, remedy in ADVICE.items():
            if counts := self.found[reason]:
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
    splits: dict[str, Split], alphabet: str | None, expected: dict[str, dict[str, int]]
) -> None:
    """Lists what is suspicious only in sight of all rows: outliers and what splits share.

    Characters are compared with ``alphabet``, composed, or else with those of the split "train";
    reading a corpus without either, none is called foreign. ``expected`` has the published counts.
    """
    known = set(normalisers.composed(alphabet)) if alphabet is not None else None
    if known is None and "train" in splits:
        known = set().union(*splits["train"].texts)
    for name, split in splits.items():
        if known is not None:
            foreign = [i for i, t in zip(split.ids, split.texts, strict=True) if set(t) - known]
            split.suspect("characters_outside_alphabet", foreign)
        split.suspect("characters_per_second", _outliers(split))
        counts = Counter(split.hashes)
        repeated = [i for i, h in zip(split.ids, split.hashes, strict=True) if counts[h] > 1]
        split.suspect("repeated_audio", repeated)
        found = {"utterances": split.read, "words": sum(len(t.split()) for t in split.texts)}
        for unit, count in expected.get(name, {}).items():
            if count != found[unit]:
                split.suspect(f"{unit}_not_as_published", [f"{found[unit]} of {count}"])
    for (earlier, other), (_, split) in itertools.combinations(splits.items(), 2):
        ids, hashes = set(other.ids), set(other.hashes)
        split.suspect(f"id_also_in_{earlier}", [i for i in split.ids if i in ids])
        pairs = zip(split.ids, split.hashes, strict=True)
        split.suspect(f"audio_also_in_{earlier}", [i for i, h in pairs if h in hashes])
        speakers = (set(split.speakers) & set(other.speakers)) - {""}
        split.suspect(f"speakers_also_in_{earlier}", sorted(speakers))


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
