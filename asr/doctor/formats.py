"""Which containers and codecs ``asr`` reads here: a tone is encoded, and decoded as recordings are.

It is made at the rate that it is read at, so that this says nothing of resampling.
"""

import io

import numpy as np

from asr.audio.audio_file import AudioError, decode
from asr.doctor.finding import Finding

SECONDS, HERTZ = 0.5, 440.0
# Suffix: libsndfile's format and subtype.
SOUNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg (Vorbis)": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
}
# Suffix: FFmpeg's container and codec, and Hz; what encodes a codec may have another name.
FFMPEG = {
    "m4a (AAC)": ("ipod", "aac", 48000),
    "aac": ("adts", "aac", 48000),
    "mp4 (AAC)": ("mp4", "aac", 48000),
    "webm (Opus)": ("webm", "opus", 48000),
    "mkv (AAC)": ("matroska", "aac", 48000),
    "wma": ("asf", "wmav2", 48000),
    "amr": ("amr", "amrnb", 8000),
}
ENCODERS = {"opus": "libopus", "amrnb": "libopencore_amrnb"}
NEEDED = ("wav", "flac")  # recordings, and how a prepared corpus keeps them


def formats() -> list[Finding]:
    """One line about all that are read, and one for each that is not."""
    found = [_finding(name) for name in (*SOUNDFILE, *FFMPEG)]
    read = [finding.detail for finding in found if finding.state == "ok"]
    return [
        Finding("audio formats", "ok", f"read: {', '.join(read)}"),
        *(finding for finding in found if finding.state != "ok"),
    ]


def tone(rate: int) -> np.ndarray:
    """(N,) float32 at ``rate`` Hz."""
    time = np.arange(round(SECONDS * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * HERTZ * time)).astype(np.float32)


def heard(data: bytes, rate: int) -> bool:
    """Whether a file holds the tone.

    Raises:
        AudioError: it is not read.
    """
    wave = decode(data, rate)
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    peak = spectrum.argmax() * rate / len(wave)
    return bool(abs(len(wave) / rate - SECONDS) < 0.2 and abs(peak - HERTZ) < 10)


def _finding(name: str) -> Finding:
    try:
        sample = _sample(name)
        if sample is None:
            return Finding(name, "ok", f"{name} (decoder present, not tried)")
        if heard(*sample):
            return Finding(name, "ok", name)
        problem = "it is read, but not as it was written; convert it to wav or flac"
    except AudioError as error:
        problem = str(error)
    except ImportError as error:
        problem = f"{error}; pip install --force-reinstall av"
    reason, _, remedy = problem.rpartition("; ")
    return Finding(f"audio {name}", "broken" if name in NEEDED else "warning", reason, remedy)


def _sample(name: str) -> tuple[bytes, int] | None:
    """The tone in that format and its rate in Hz; None where no encoder for it is here.

    Raises:
        AudioError: there is no decoder.
    """
    import av
    import soundfile

    try:
        if name in SOUNDFILE:
            file = io.BytesIO()
            kind, subtype = SOUNDFILE[name]
            soundfile.write(file, tone(48000), 48000, format=kind, subtype=subtype)
            return file.getvalue(), 48000
        container, codec, rate = FFMPEG[name]
        if codec in av.codecs_available:
            return encoded(container, codec, rate), rate
    except (soundfile.LibsndfileError, av.FFmpegError, ValueError):
        return None
    raise AudioError(f"this FFmpeg has no decoder {codec}; convert such files to wav or flac")


def encoded(container: str, codec: str, rate: int) -> bytes:
    """The tone as FFmpeg writes it."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(ENCODERS.get(codec, codec), rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = 12_200 if codec == "amrnb" else 64_000
        frame = av.AudioFrame.from_ndarray(tone(rate)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()
