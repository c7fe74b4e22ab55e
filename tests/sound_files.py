"""Audio files of many kinds for tests, made and judged by FFmpeg in its plainest use (PyAV)."""

import contextlib
import io
from types import SimpleNamespace

import av
import numpy as np
import soundfile

# Container, codec, and whether the container says how much there must be.
KINDS = [
    ("wav", "pcm_s16le", True),
    ("wav", "pcm_s24le", True),
    ("wav", "pcm_f64le", True),
    ("wav", "pcm_mulaw", True),
    ("wav", "adpcm_ms", True),
    ("wav", "libmp3lame", True),
    ("w64", "pcm_s16le", True),
    ("aiff", "pcm_s16be", True),
    ("au", "pcm_s16be", True),
    ("caf", "pcm_s16le", True),
    ("flac", "flac", True),
    ("mp3", "libmp3lame", True),
    ("tta", "tta", True),
    ("ogg", "vorbis", False),
    ("ogg", "libopus", False),
    ("ogg", "flac", False),
    ("ipod", "aac", True),
    ("ipod", "alac", True),
    ("mp4", "aac", True),
    ("mov", "pcm_s16le", True),
    ("webm", "libopus", False),
    ("matroska", "aac", False),
    ("adts", "aac", False),
    ("asf", "wmav2", False),
    ("mpegts", "aac", False),
    ("avi", "libmp3lame", False),
]


def speech(seconds, rate=16000, seed=0):
    """(N,) float32: tones of random loudness, which resemble themselves at no other place."""
    random, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * f * time) for f in random.uniform(150, 2500, 6))
    knots = np.arange(0, seconds + 0.1, 0.1)
    return (0.1 * tones * np.interp(time, knots, random.random(len(knots)))).astype(np.float32)


def file(
    wave, rate=16000, container="wav", codec="pcm_s16le", *, piped=False, bits=96000, **options
):
    """(N,) or (channels, N) float32 -> the bytes of an audio file.

    ``piped`` is as FFmpeg writes where it cannot seek back; ``bits`` a second are for lossy codecs;
    options are those of the container.
    """
    data = io.BytesIO()
    if codec == "vorbis":  # FFmpeg's own encoder is experimental
        soundfile.write(data, wave.T, rate, format="OGG", subtype="VORBIS")
        return data.getvalue()
    output = SimpleNamespace(write=data.write) if piped else data
    layout = "mono" if wave.ndim == 1 else "stereo"
    with av.open(output, "w", format=container, options=options) as target:
        stream = target.add_stream(codec, rate=rate, layout=layout)
        if codec in ("wmav2", "aac", "libmp3lame"):
            stream.bit_rate = bits
        frame = av.AudioFrame.from_ndarray(np.atleast_2d(wave), "fltp", layout)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(stream.codec.audio_formats[0], layout, rate)
        for part in [*resampler.resample(frame), None]:
            for packet in stream.encode(part):
                target.mux(packet)
    return data.getvalue()


def samples(data):
    """How many samples FFmpeg decodes: the judge."""
    count = 0
    with av.open(io.BytesIO(data)) as container:
        packets = container.demux(audio=0)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                packet = None
            if packet is None:
                return count
            with contextlib.suppress(av.FFmpegError):
                count += sum(frame.samples for frame in packet.decode())
