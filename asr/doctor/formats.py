"""Which containers and codecs ``asr`` reads here: a tone is encoded, and decoded as recordings are.

It is made at the rate that it is read at, so that this says nothing of resampling.
"""

import io

import numpy as np

from asr.audio import AudioError, decode
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
BIT_RATES = {"amrnb": 12_200}  # its highest; 64,000 for others, which all of them take
NEEDED = ("wav", "flac")  # recordings, and how a prepared corpus keeps them


def formats() -> list[Finding]:
    """One line about all that are read, and one for each that is not."""
    found = [_by_soundfile(name) for name in SOUNDFILE] + [_by_ffmpeg(name) for name in FFMPEG]
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


def _by_soundfile(name: str) -> Finding:
    import soundfile

    kind, subtype = SOUNDFILE[name]
    file = io.BytesIO()
    try:
        soundfile.write(file, tone(48000), 48000, format=kind, subtype=subtype)
    except (soundfile.LibsndfileError, ValueError) as error:
        reason = f"this libsndfile cannot write it: {error}"
        return _not_read(name, reason, "pip install --force-reinstall soundfile")
    return _decoded(name, file.getvalue(), 48000)


def _by_ffmpeg(name: str) -> Finding:
    container, codec, rate = FFMPEG[name]
    try:
        import av

        if codec not in av.codecs_available:
            reason = f"this FFmpeg has no decoder {codec}"
            return _not_read(name, reason, "convert such files to wav or flac")
        data = encoded(container, codec, rate)
    except ImportError as error:
        return _not_read(name, str(error), "pip install --force-reinstall av")
    except (av.FFmpegError, ValueError):  # no encoder, or one of another version
        return Finding(name, "ok", f"{name} (decoder present, not tried)")
    return _decoded(name, data, rate)


def encoded(container: str, codec: str, rate: int) -> bytes:
    """The tone as FFmpeg writes it."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(ENCODERS.get(codec, codec), rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = BIT_RATES.get(codec, 64_000)
        frame = av.AudioFrame.from_ndarray(tone(rate)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def _decoded(name: str, data: bytes, rate: int) -> Finding:
    try:
        if heard(data, rate):
            return Finding(name, "ok", name)
    except AudioError as error:  # what is wrong; what to do
        reason, _, remedy = str(error).partition("; ")
        return _not_read(name, reason, remedy)
    except ImportError as error:
        return _not_read(name, str(error), "pip install --force-reinstall av")
    return _not_read(name, "it is read, but not as it was written", "convert it to wav or flac")


def _not_read(name: str, reason: str, remedy: str) -> Finding:
    return Finding(f"audio {name}", "broken" if name in NEEDED else "warning", reason, remedy)
