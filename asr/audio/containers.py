"""Reads audio containers: decoded samples in order, to the end of the file.

libsndfile reads files of plain samples (WAV, AIFF, CAF) many times faster than FFmpeg. FFmpeg
(PyAV) reads all other files, and files that libsndfile cannot read. In MP3 and Ogg, libsndfile
would stop at the estimated end, or at the end of the first of several parts.
"""

import io
import logging
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile

log = logging.getLogger(__name__)

Reason = Literal["unreadable", "truncated", "no samples", "not finite"]
Block = tuple[int, np.ndarray]  # sample rate in Hz; (N, channels) float32 samples in [-1, 1]

# FLAC files of these sizes, such as the utterances of prepared corpora, are decoded at once.
FLAC_BYTES, FLAC_FRAMES = 2_000_000, 1 << 23
BLOCK_FRAMES = 16384  # frames that libsndfile reads at once
MP3_FRAME_BYTES = 1441  # the longest frame of an MP3
GAP_SECONDS = 0.25  # a warning is logged if more than this is missing in total
RESUMES = 1000  # largest number of times that reading resumes after damage
SCAN_BYTES = 1 << 20  # number of bytes that are read at once in the search for parts

# Formats that consist of chunks, by the first bytes of a file: position of the first chunk, layout
# of its identifier and length, padding multiple, and identifier of the chunk with the samples.
CHUNKS = {
    b"RIFF": (12, "<4sI", 2, b"data"),
    b"RIFX": (12, ">4sI", 2, b"data"),
    b"RF64": (12, "<4sI", 2, b"data"),
    b"BW64": (12, "<4sI", 2, b"data"),
    b"FORM": (12, ">4sI", 2, b"SSND"),
    b"caff": (8, ">4sq", 1, b"data"),
    b"riff": (40, "<16sq", 8, b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"),  # Sony W64
    b"ftyp": (0, ">I4sq", 1, b"mdat"),  # MPEG-4: the length comes first, and again in 64 bits
}
PLAIN = {*CHUNKS} - {b"riff"}  # read by libsndfile, which reads W64 beyond its end
# A program that writes to a pipe cannot go back to fill in the length. It leaves 0, or a length
# just below 2 or 4 GiB: SoX 0x7f000008 and 0x7ffff000, arecord 0x80000000, FFmpeg 0xffffffff.
STREAMED_MARGIN = 1 << 24
SLACK = 64  # bytes: some programs count the header among the samples
# FFmpeg reads the number of samples of these formats.
COUNTED = {"flac", "tta", "wv", "ape", "au", "nistsphere"}
# The first bytes of an Ogg page, which can begin a part (chained Ogg, RFC 3533, section 4), and of
# each FLAC file in a file that was joined by cat.
PARTS = {
    b"OggS": re.compile(rb"OggS\0[\0-\x07]"),
    b"fLaC": re.compile(rb"fLaC[\0\x80]\0\0\x22"),
}
# Headers of Xing, LAME or Fraunhofer in the first frame of an MP3, which give its length in bytes.
# The lowest bits of Xing's header say whether the numbers of frames and of bytes follow.
MP3_BYTES = re.compile(
    rb"(?:Xing|Info)\0\0\0(?:[\x02\x06\x0a\x0e]|[\x03\x07\x0b\x0f].{4})(.{4})|VBRI.{6}(.{4})",
    re.DOTALL,
)


class AudioError(ValueError):
    """A file that exists and cannot be used; the message is one line with a remedy."""

    # The reason has a default, because pickle passes only the message on from torch's workers.
    def __init__(self, message: str, reason: Reason = "unreadable") -> None:
        super().__init__(message)
        self.reason: Reason = reason


def blocks(stream: BinaryIO, name: str) -> Iterator[Block]:
    """Yields all samples of a file in order, in blocks of a few seconds at most.

    The rate and the number of channels may change between blocks, in chained Ogg and joined MP3.
    The stream must be seekable; error messages call it ``name``.

    Raises:
        AudioError: the file is not an audio file, or is shorter than its header says. In the second
            case, all existing samples are yielded before the error.
    """
    size = stream.seek(0, io.SEEK_END)
    if size == 0:
        raise AudioError(f"{name} is empty (0 bytes); record it again")
    start, promised = _length(stream, size)
    there = size - start
    cut = promised > there + SLACK
    seconds = 0.0
    try:
        for part in _parts(stream, size, start, promised, name):
            for rate, samples in _decoded(part, name):
                seconds += len(samples) / rate
                yield rate, samples
    except AudioError:
        if not cut:  # a truncated file is reported below instead
            raise
    if cut:
        raise _truncated(name, there, promised, "bytes of samples", seconds)
    if not seconds:
        raise AudioError(f"{name} holds no samples; record it again", "no samples")


def _truncated(name: str, there: int, promised: int, unit: str, seconds: float) -> AudioError:
    detail = f"{there} of {promised} {unit} are there"
    if seconds:
        detail += f", {seconds:.2f} of {seconds * promised / there:.2f} s"
    return AudioError(f"{name} is truncated ({detail}); copy or download it again", "truncated")


def _length(stream: BinaryIO, size: int) -> tuple[int, int]:
    """The position of the samples and their number of bytes by the header; 0 if it gives none."""
    stream.seek(0)
    head = stream.read(8)
    kind = b"ftyp" if head[4:] == b"ftyp" else head[:4]
    if kind not in CHUNKS:
        return _mp3_length(stream, size)
    start, length = _chunk(stream, size, *CHUNKS[kind])
    if kind in (b"RF64", b"BW64") and length == 0xFFFFFFFF:
        stream.seek(28)  # the length is in the first chunk, ds64
        length = int.from_bytes(stream.read(8), "little", signed=True)
    streamed = not 0 < length < 1 << 62 or -length % (1 << 31) <= STREAMED_MARGIN
    return start, 0 if streamed else length


def _chunk(
    stream: BinaryIO, size: int, place: int, layout: str, multiple: int, wanted: bytes
) -> tuple[int, int]:
    """The start and length of the first chunk named ``wanted``; (size, 0) if there is none.

    In W64 and MPEG-4, start and length include the chunk's header, otherwise only its content.
    """
    header = struct.calcsize(layout)
    while place + header <= size:
        stream.seek(place)
        identifier, length, *long = struct.unpack(layout, stream.read(header))
        if long:
            identifier, length = length, long[0] if identifier == 1 else identifier
        start = place if long or multiple == 8 else place + header
        if identifier == wanted:
            return start, length
        if length < 0 or start + length == place:
            break
        place = start + length + -length % multiple
    return size, 0


def _mp3_length(stream: BinaryIO, size: int) -> tuple[int, int]:
    """The position and number of bytes of the frames of an MP3, by its optional header."""
    stream.seek(0)
    tag, start = stream.read(10), 0
    if tag[:3] == b"ID3":
        start = 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(tag[6:]))
    stream.seek(start)
    frame = stream.read(200)
    found = MP3_BYTES.search(frame) if frame[:1] == b"\xff" else None
    length = int.from_bytes(found[1] or found[2], "big") if found else 0
    # Encoders differ in whether the frame with this header counts.
    return start, length if length > size - start + MP3_FRAME_BYTES else 0


class _Part:
    """A file made of ``head`` and the bytes from ``start`` to ``end`` of a stream."""

    def __init__(self, stream: BinaryIO, start: int, end: int, head: bytes = b"") -> None:
        self.stream, self.start, self.size, self.head = stream, start, end - start, head
        self.place = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # With a damaged header, libraries can seek before the beginning or far beyond the end.
        place = offset + (0, self.place, self.size)[whence]
        self.place = min(max(0, place), self.size)
        return self.place

    def tell(self) -> int:
        return self.place

    def read(self, count: int) -> bytes:
        if self.place < len(self.head):
            data = self.head[self.place : self.place + count]
        else:
            self.stream.seek(self.start + self.place)
            data = self.stream.read(min(count, self.size - self.place))
        self.place += len(data)
        return data


def _parts(stream: BinaryIO, size: int, start: int, promised: int, name: str) -> Iterator[_Part]:
    """Yields the files that were joined into this file; nearly always only the file itself."""
    stream.seek(0)
    magic = stream.read(4)
    starts, head = [0], b""
    if magic in PARTS:
        starts = _starts(stream, size, magic, name)
    elif magic in (b"RF64", b"BW64") and not promised:  # RIFF may leave the length open
        head = b"RIFF" + stream.read(start - 8) + b"\xff\xff\xff\xff"
    elif magic == b"riff" and not promised:
        head = magic + stream.read(12) + struct.pack("<q", size)
        head += stream.read(start)[8:] + struct.pack("<q", size - start)
    for begin, end in zip(starts, [*starts[1:], size], strict=True):
        yield _Part(stream, begin, end, head)


def _starts(stream: BinaryIO, size: int, magic: bytes, name: str) -> list[int]:
    """The positions at which the parts of a file begin."""
    found: dict[int, int] = {}  # position -> sixth byte; in Ogg, it is the kind of the page
    for place in range(0, size, SCAN_BYTES):
        stream.seek(place)
        data = stream.read(SCAN_BYTES + 7)  # a pattern may continue after these bytes
        found |= {place + match.start(): match[0][5] for match in PARTS[magic].finditer(data)}
    starts = set(found)
    if magic == b"OggS":
        last = max(found, default=0)
        if last + _page_bytes(stream, last) > size:
            log.warning("%s was cut within a page of Ogg; only the sound before is used", name)
        starts = {start for start, kind in found.items() if kind & 2}  # first pages of streams
        # Parallel streams (sound and video) begin on consecutive pages; they are one part.
        starts -= {start + _page_bytes(stream, start) for start in starts}
    return sorted({0, *starts})


def _page_bytes(stream: BinaryIO, start: int) -> int:
    """The length of a page of Ogg (RFC 3533, section 6)."""
    stream.seek(start)
    header = stream.read(27)
    segments = header[26] if len(header) == 27 else 0
    return 27 + segments + sum(stream.read(segments))


class _Forwards(soundfile.SoundFile):
    """Reads without seeking; soundfile seeks after each read, and some codecs seek inexactly."""

    def seekable(self) -> bool:
        return False


def _decoded(part: _Part, name: str) -> Iterator[Block]:
    """Yields all samples of one part, decoded by libsndfile or FFmpeg."""
    started = False
    magic = part.read(4)
    if magic == b"fLaC" and part.size <= FLAC_BYTES and (found := _intact_flac(part)) is not None:
        rate, samples = found
        for begin in range(0, len(samples), BLOCK_FRAMES):
            yield rate, samples[begin : begin + BLOCK_FRAMES]
        return
    if magic in PLAIN:
        part.seek(0)
        try:
            file = _Forwards(part)
            while not file.subtype.startswith("MPEG") and len(
                samples := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
            ):
                started = True
                yield file.samplerate, samples
        except soundfile.LibsndfileError:
            if started:
                raise
    if not started:
        part.seek(0)
        yield from _by_ffmpeg(part, name)


def _intact_flac(part: _Part) -> Block | None:
    """Decodes an utterance with libsndfile, which takes half of FFmpeg's time.

    Returns None if the length differs from the header, or libsndfile does not reach the end.
    """
    part.seek(0)
    try:
        with _Forwards(part) as file:
            if not 0 < file.frames <= FLAC_FRAMES:
                return None
            samples = file.read(file.frames, dtype="float32", always_2d=True)
            complete = len(samples) == file.frames and part.place >= part.size
            return (file.samplerate, samples) if complete else None
    except soundfile.LibsndfileError:
        return None


def _by_ffmpeg(part: _Part, name: str) -> Iterator[Block]:
    # Imported here: most files do not need FFmpeg.
    import av

    # FFmpeg gets no name, because bytes and a path must give the same samples, and because a file
    # must not make FFmpeg open other files.
    options = {"protocol_whitelist": "none"}
    try:
        container = av.open(part, "r", options=options, metadata_errors="ignore")
    except av.FFmpegError as error:
        problem = f"{name} is not a readable audio file ({error.strerror})"
        raise AudioError(f"{problem}; convert it to wav or flac first") from None
    with container:
        stream: Any = container.streams.best("audio")
        if stream is None or stream.codec_context is None:
            raise AudioError(f"{name} has no audio that FFmpeg can decode; give another file")
        count = damaged = 0
        gaps, end, rate = 0.0, None, stream.rate  # seconds; a lost page of Ogg gives no error
        for packet in _packets(container, stream, name):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                damaged += 1
                continue
            for frame in frames:
                if end is not None and frame.time is not None and frame.sample_rate == rate:
                    gaps += max(0.0, frame.time - end)
                rate = frame.sample_rate
                end = None if frame.time is None else frame.time + frame.samples / rate
                count += frame.samples
                yield rate, _floats(frame)
        if container.format.name in COUNTED and stream.duration:
            promised = round(stream.duration * stream.time_base * stream.rate)
            if count < promised:
                raise _truncated(name, count, promised, "samples", count / rate)
    if damaged or gaps > GAP_SECONDS:
        message = "%s is damaged: packets left out: %d, seconds of sound missing: %.2f"
        log.warning(message, name, damaged, gaps)


def _packets(container: Any, stream: Any, name: str) -> Iterator[Any]:
    """The packets of a stream, as far as FFmpeg's own program reads them."""
    import av

    for _ in range(RESUMES):
        try:
            yield from container.demux(stream)
            return
        except av.BlockingIOError:  # FFmpeg has not found the next packet yet
            continue
        except av.FFmpegError as error:
            log.warning("%s is damaged; reading stopped with the error: %s", name, error.strerror)
            return


def _floats(frame: Any) -> np.ndarray:
    """Converts samples to (N, channels) float32 in [-1, 1], scaled as libsndfile does."""
    samples = frame.to_ndarray()  # (channels, N), or interleaved as (1, N * channels)
    planar = frame.format.is_planar
    samples = samples.T if planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    unsigned = samples.dtype.kind == "u"
    return samples.astype(np.float32) / 2.0 ** (8 * samples.itemsize - 1) - unsigned
