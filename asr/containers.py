"""What audio files hold: samples as they are decoded, in order, to the end of the file.

libsndfile reads the files of plain samples (WAV, AIFF, AU, CAF, SPHERE). FFmpeg (PyAV) reads
everything else, and what libsndfile does not understand. libsndfile stops where it believes that
the sound ends: in files of plain samples it knows. In MP3 and Ogg it is an estimate, or the end of
the first of several parts.
"""

import io
import logging
import re
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile

log = logging.getLogger(__name__)

Reason = Literal["unreadable", "truncated", "no samples", "not finite"]
Block = tuple[int, np.ndarray]  # rate in Hz, (N, channels) float32 in [-1, 1]

BLOCK_FRAMES = 16384  # read at once by libsndfile
MP3_FRAME_BYTES = 1441  # of the longest frame of an MP3
GAP_SECONDS = 0.25  # missing in all, from which a file is said to have gaps
RESUMES = 1000  # of reading after damage, at most
SCAN_BYTES = 1 << 20  # read at once when looking for the parts of a file

# Files of plain samples, by how they begin.
PLAIN = re.compile(
    rb"(RIFF|RIFX|RF64|BW64)....WAVE|FORM....AIF[FC]|caff|\.snd|NIST_1A",
    re.DOTALL,
)
# Their chunks: where the first begins, its identifier and length, the multiple that a chunk is
# padded to, and the identifier of the chunk with the samples.
CHUNKS = {
    b"RIFF": (12, "<4sI", 2, b"data"),
    b"RIFX": (12, ">4sI", 2, b"data"),
    b"RF64": (12, "<4sI", 2, b"data"),
    b"BW64": (12, "<4sI", 2, b"data"),
    b"FORM": (12, ">4sI", 2, b"SSND"),
    b"caff": (8, ">4sq", 1, b"data"),
    b"riff": (40, "<16sq", 8, b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"),  # Sony W64
}
# A program that writes to a pipe cannot go back to fill in the length. It leaves 0, or a length
# just below 2 or 4 GiB: SoX 0x7f000008 and 0x7ffff000, arecord 0x80000000, FFmpeg 0xffffffff.
STREAMED_MARGIN = 1 << 24
SLACK = 64  # bytes: some programs count the header among the samples
# How each part of a file begins: chained Ogg (RFC 3533, section 4) and FLAC files joined by cat.
COUNTED = {"flac", "tta", "wv", "ape"}  # FFmpeg's names of formats that promise a number of samples
PARTS = {
    b"OggS": re.compile(rb"OggS\0\x02"),
    b"fLaC": re.compile(rb"fLaC[\0\x80]\0\0\x22"),
}


class AudioError(ValueError):
    """A file that is there and is not usable; the message is one line with a remedy.

    The message alone makes one too: so pickle and the workers of torch's loader pass it on.
    """

    def __init__(self, message: str, reason: Reason = "unreadable") -> None:
        super().__init__(message)
        self.reason: Reason = reason


def blocks(stream: BinaryIO, name: str) -> Iterator[Block]:
    """All samples of a file in order, in blocks of a few seconds at most.

    The rate and the number of channels may change between blocks: in chained Ogg and joined MP3.

    Args:
        stream: the file; must be seekable.
        name: how error messages call it.

    Raises:
        AudioError: the file is no audio file. Or the file ends before its header says; everything
            that is there comes before this error.
    """
    size = stream.seek(0, io.SEEK_END)
    if size == 0:
        raise AudioError(f"{name} is empty (0 bytes); record it again")
    start, promised = _length(stream, size)
    there = size - start
    if _ends_within_a_page(stream, size):
        log.warning("%s ends within a page of Ogg: it was cut; the sound before is used", name)
    cut = promised is not None and promised > there + SLACK
    seconds = 0.0
    try:
        for part in _parts(stream, size):
            for rate, samples in _decoded(part, name):
                seconds += len(samples) / rate
                yield rate, samples
    except AudioError:
        if not cut:  # otherwise the cut is the reason
            raise
    if promised is not None and cut:
        detail = f"{there} of {promised} bytes of samples are there"
        if seconds:
            detail += f", {seconds:.2f} of {seconds * promised / there:.2f} s"
        raise truncated(name, detail)
    if not seconds:
        raise AudioError(f"{name} holds no samples; record it again", "no samples")


def truncated(name: str, detail: str) -> AudioError:
    """The error for a file that holds less than its header says."""
    return AudioError(f"{name} is truncated ({detail}); copy or download it again", "truncated")


def _length(stream: BinaryIO, size: int) -> tuple[int, int | None]:
    """Where the samples begin, and how many bytes of them the header promises (None: it does not).

    Formats that promise samples and not bytes are counted while decoding.
    """
    stream.seek(0)
    head = stream.read(1024)
    if head[:4] in CHUNKS and (PLAIN.match(head) or head[4:7] == b"\x2e\x91\xcf"):
        start, length = _chunk(stream, size, *CHUNKS[head[:4]])
        if head[:4] in (b"RF64", b"BW64") and length == 0xFFFFFFFF:
            stream.seek(20)  # the chunk ds64 comes first: its length, that of the file, of samples
            length = struct.unpack("<q", stream.read(16)[8:].ljust(8, b"\0"))[0]
    elif head[:4] == b".snd" and len(head) >= 12:
        start, length = struct.unpack(">II", head[4:12])
    elif head[:7] == b"NIST_1A" and (fields := _sphere(head)):
        start, length = fields
    elif head[4:8] == b"ftyp":
        start, length = _chunk(stream, size, 0, ">I4s", 1, b"mdat")
    else:
        return _mp3_length(stream, size)
    streamed = not 0 < length < 1 << 62 or -length % (1 << 31) <= STREAMED_MARGIN
    return start, None if streamed else length


def _chunk(
    stream: BinaryIO, size: int, place: int, layout: str, multiple: int, wanted: bytes
) -> tuple[int, int]:
    """Where the contents of the first such chunk begin, and its length; (size, 0) without one."""
    header = struct.calcsize(layout)
    while place + header <= size:
        stream.seek(place)
        first, second = struct.unpack(layout, stream.read(header))
        start = place + header
        if layout == ">I4s":  # MPEG-4: the length comes first and counts the header
            identifier, length = second, first - header
            if first == 1:  # a length of 64 bits follows
                length = struct.unpack(">q", stream.read(8).ljust(8, b"\0"))[0] - header
        else:
            identifier, length = first, second
            if multiple == 8:  # Sony W64: the length counts the header
                length -= header
        if identifier == wanted:
            return start, length
        if length < 0:
            break
        place = start + length + -length % multiple
    return size, 0


def _sphere(head: bytes) -> tuple[int, int] | None:
    """As ``_chunk``, of a NIST SPHERE file."""
    fields = dict(re.findall(rb"(sample_count|channel_count|sample_n_bytes) -i (\d+)", head))
    start = re.match(rb"NIST_1A\n\s*(\d+)\n", head)
    if start is None or len(fields) < 3:
        return None
    return int(start[1]), int(np.prod([int(n) for n in fields.values()]))


def _mp3_length(stream: BinaryIO, size: int) -> tuple[int, int | None]:
    """As ``_length``, where an MP3 has the header of Xing, LAME or Fraunhofer with its length."""
    start = 0
    stream.seek(0)
    tag = stream.read(10)
    if tag[:3] == b"ID3" and len(tag) == 10:
        start = 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(tag[6:]))
    stream.seek(start)
    frame = stream.read(200)
    xing = re.search(rb"(?:Xing|Info)\0\0\0[\x02\x03\x06\x07\x0a\x0b\x0e\x0f]", frame)
    vbri = re.search(rb"VBRI.{6}", frame, re.DOTALL)
    place = 0
    if xing:
        place = xing.end() + 4 * (frame[xing.end() - 1] & 1)  # the number of frames may come first
    elif vbri:
        place = vbri.end()
    if not (frame[:1] == b"\xff" and place and len(frame) >= place + 4):
        return start, None
    length = struct.unpack(">I", frame[place : place + 4])[0]
    # Encoders differ in whether the frame with this header counts.
    return start, length if length > size - start + MP3_FRAME_BYTES else None


class _Part(io.RawIOBase):
    """``head``, and bytes ``start`` to ``end`` of a stream, as a file of their own."""

    def __init__(self, stream: BinaryIO, start: int, end: int, head: bytes = b"") -> None:
        self.stream, self.start, self.head = stream, start - len(head), head
        self.size, self.place = end - self.start, 0

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # Libraries seek where a damaged header leads them: before the beginning, or far behind.
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        self.place = max(0, origin + offset)
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        if self.place >= self.size:
            return 0
        if self.place < len(self.head):
            data = self.head[self.place : self.place + len(buffer)]
        else:
            self.stream.seek(self.start + self.place)
            data = self.stream.read(min(len(buffer), self.size - self.place))
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def _parts(stream: BinaryIO, size: int) -> Iterator[_Part]:
    """The files that a file is made of; nearly always one, the file itself."""
    stream.seek(0)
    magic = stream.read(4)
    start, length = _length(stream, size)
    if magic in PARTS and len(starts := _starts(stream, magic)) > 1:
        for begin, end in zip(starts, [*starts[1:], size], strict=True):
            yield _Part(stream, begin, end)
    elif magic in (b"RF64", b"BW64") and length is None:
        stream.seek(4)  # without a length it is read to its end under the older name
        head = b"RIFF" + stream.read(start - 8) + b"\xff\xff\xff\xff"
        yield _Part(stream, start, size, head)
    elif magic == b"riff" and length is None:
        stream.seek(0)
        head = stream.read(start - 8)  # with the lengths of the file and of its samples
        lengths = struct.pack("<q", size), struct.pack("<q", size - start + 24)
        yield _Part(stream, start, size, head[:16] + lengths[0] + head[24:] + lengths[1])
    else:
        yield _Part(stream, 0, size)


def _starts(stream: BinaryIO, magic: bytes) -> list[int]:
    """Where the parts of a file begin."""
    found: set[int] = set()
    place, data = 0, b""
    stream.seek(0)
    while more := stream.read(SCAN_BYTES):
        data = data[-7:] + more  # a byte less than the longest pattern
        place += len(more)
        found |= {place - len(data) + match.start() for match in PARTS[magic].finditer(data)}
    # Streams side by side (sound and video) begin on consecutive pages; they are one part.
    beside = {start + _page_bytes(stream, start) for start in found if magic == b"OggS"}
    return sorted(found - beside)


def _page_bytes(stream: BinaryIO, start: int) -> int:
    """The length of a page of Ogg (RFC 3533, section 6)."""
    stream.seek(start)
    header = stream.read(27)
    segments = header[26] if len(header) == 27 else 0
    return 27 + segments + sum(stream.read(segments))


def _ends_within_a_page(stream: BinaryIO, size: int) -> bool:
    """Whether the last page of an Ogg file is not whole; a page has at most 65,307 bytes."""
    stream.seek(0)
    if stream.read(4) != b"OggS":
        return False
    begin = max(0, size - 65307)
    stream.seek(begin)
    last = stream.read().rfind(b"OggS")
    return last >= 0 and begin + last + _page_bytes(stream, begin + last) > size


def _decoded(part: _Part, name: str) -> Iterator[Block]:
    """All samples of one part, by the library that reads it."""
    plain = PLAIN.match(part.read(16))
    readers = [_by_libsndfile, _by_ffmpeg] if plain else [_by_ffmpeg, _by_libsndfile]
    why: list[AudioError] = []
    for reader in readers:
        part.seek(0)
        found = reader(part, name)
        try:
            first = next(found, None)
        except AudioError as error:
            if error.reason != "unreadable":
                raise
            why.append(error)
            continue
        if first is not None:
            yield first
            yield from found
            return
    if len(why) == len(readers):
        raise why[0]


class _Forwards(soundfile.SoundFile):
    """Reads in order: soundfile would seek after every read, and in MP3 that misses the place."""

    def seekable(self) -> bool:
        return False


def _by_libsndfile(part: _Part, name: str) -> Iterator[Block]:
    try:
        file = _Forwards(part)
        if file.subtype.startswith("MPEG"):
            raise unreadable(name, "FFmpeg reads MP3")
        with file:
            while len(samples := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                yield file.samplerate, samples
    except soundfile.LibsndfileError as error:
        raise unreadable(name, str(error)) from None


def _by_ffmpeg(part: _Part, name: str) -> Iterator[Block]:
    # Imported here: most files do not need FFmpeg.
    import av

    # Without a name, as the sound of bytes and of a path must be the same; and no file may make
    # FFmpeg open others.
    file = SimpleNamespace(read=part.read, seek=part.seek, tell=part.tell)
    options = {"protocol_whitelist": "none"}
    try:
        container = av.open(file, "r", options=options, metadata_errors="ignore")
    except av.FFmpegError as error:
        raise unreadable(name, str(error.strerror)) from None
    with container:
        stream: Any = container.streams.best("audio")
        if stream is None:
            raise AudioError(f"{name} holds no sound; give a file with an audio stream")
        if stream.codec_context is None:
            raise AudioError(f"{name} holds sound of an unknown or protected kind; convert it")
        count = damaged = 0
        gaps, end, rate = 0.0, None, stream.rate  # seconds; only they show a lost page of Ogg
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
        promised = 0
        if container.format.name in COUNTED and stream.duration:
            promised = round(stream.duration * stream.time_base * stream.rate)
    if count < promised:
        detail = f"{count} of {promised} samples are there, {count / rate:.2f} of"
        raise truncated(name, f"{detail} {promised / rate:.2f} s")
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
        except av.BlockingIOError:  # the next packet is not found yet
            continue
        except av.FFmpegError as error:
            log.warning("%s is damaged: reading it ends with: %s", name, error.strerror)
            return


def _floats(frame: Any) -> np.ndarray:
    """(N, channels) float32 in [-1, 1], scaled as libsndfile does."""
    samples = frame.to_ndarray()  # (channels, N), or (1, N * channels) where they alternate
    if frame.format.is_planar:
        samples = samples.T
    else:
        samples = samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float32, copy=False)


def unreadable(name: str, detail: str) -> AudioError:
    """The error for a file that no library understands."""
    detail = detail.rsplit(": ", 1)[-1].strip().rstrip(".") or "unknown format"
    return AudioError(
        f"{name} is not a readable audio file ({detail}); convert it to wav or flac first"
    )
