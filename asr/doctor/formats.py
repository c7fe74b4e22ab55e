"""Checks which audio formats can be read: encodes a tone in each format, and decodes it."""

import io

import numpy as np
import soundfile

from asr.audio.audio_file import AudioError, decode
from asr.doctor.finding import Finding

SECONDS, HERTZ = 0.5, 440.0
SAMPLES = {  # name of a format: FFmpeg's container and codec
    "wav": ("wav", "pcm_s16le"),
    "flac": ("flac", "flac"),
    "mp3": ("mp3", "mp3"),
    "ogg (Vorbis)": ("ogg", "vorbis"),
    "opus": ("ogg", "opus"),
    "aiff": ("aiff", "pcm_s16be"),
    "au": ("au", "pcm_s16be"),
    "caf": ("caf", "pcm_s16be"),
    "w64": ("w64", "pcm_s16le"),
    "m4a (AAC)": ("ipod", "aac"),
    "aac": ("adts", "aac"),
    "mp4 (AAC)": ("mp4", "aac"),
    "webm (Opus)": ("webm", "opus"),
    "mkv (AAC)": ("matroska", "aac"),
    "wma": ("asf", "wmav2"),
    "amr": ("amr", "amrnb"),
}
ENCODERS = {  # codec: its encoder, if the name differs
    "mp3": "libmp3lame",
    "opus": "libopus",
    "amrnb": "libopencore_amrnb",
}
NEEDED = ("wav", "flac")  # most recordings are wav, and prepared corpora hold flac


def formats() -> list[Finding]:
    """Returns one finding with all readable formats, and one for each format that fails."""
    found = [_finding(name) for name in SAMPLES]
    read = [finding.detail for finding in found if finding.state == "ok"]
    failed = [finding for finding in found if finding.state != "ok"]
    return [Finding("audio formats", "ok", f"read: {', '.join(read)}"), *failed]


def _finding(name: str) -> Finding:
    """Tests whether a tone in this format can be read."""
    container, codec = SAMPLES[name]
    rate = sample_rate_for(codec)  # also the rate of decoding: resampling is not tested here
    try:
        data = encoded(container, codec)
        if data is None:
            return Finding(name, "ok", f"{name} (not tested: no encoder)")
        if is_tone(decode(data, rate), rate):
            return Finding(name, "ok", name)
        problem = "a test tone is decoded wrongly; convert such files to wav or flac"
    except AudioError as error:
        problem = str(error)
    except ImportError as error:
        problem = f"{error}; pip install --force-reinstall av"
    reason, _, remedy = problem.rpartition("; ")
    return Finding(f"audio {name}", "broken" if name in NEEDED else "warning", reason, remedy)


def sample_rate_for(codec: str) -> int:
    """Returns the sample rate in Hz at which the tone is encoded with a codec."""
    return 8000 if codec == "amrnb" else 48000


def tone(rate: int) -> np.ndarray:
    """Returns the samples of the tone, (N,) float32 at ``rate`` Hz."""
    time = np.arange(round(SECONDS * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * HERTZ * time)).astype(np.float32)


def is_tone(wave: np.ndarray, rate: int) -> bool:
    """Returns whether a wave, (N,) at ``rate`` Hz, has the length and frequency of the tone."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    peak = spectrum.argmax() * rate / len(wave)
    return bool(abs(len(wave) / rate - SECONDS) < 0.2 and abs(peak - HERTZ) < 10)


def encoded(container: str, codec: str) -> bytes | None:
    """Encodes the tone in a container; returns None if this FFmpeg cannot encode the codec.

    Raises:
        AudioError: this FFmpeg has no decoder for the codec.
    """
    import av

    if codec not in av.codecs_available:
        raise AudioError(f"this FFmpeg cannot decode {codec}; convert such files to wav or flac")
    file, rate = io.BytesIO(), sample_rate_for(codec)
    if codec == "vorbis":  # FFmpeg's own Vorbis encoder is experimental
        soundfile.write(file, tone(rate), rate, format="OGG", subtype="VORBIS")
        return file.getvalue()
    try:
        with av.open(file, "w", format=container) as output:
            stream = output.add_stream(ENCODERS.get(codec, codec), rate=rate, layout="mono")
            assert isinstance(stream, av.AudioStream)
            stream.bit_rate = 12_200 if codec == "amrnb" else 64_000
            frame = av.AudioFrame.from_ndarray(tone(rate)[None], format="fltp", layout="mono")
            frame.sample_rate = rate
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    except (av.FFmpegError, ValueError):
        return None
    return file.getvalue()
