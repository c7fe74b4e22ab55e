"""From recordings to a transcript, in a temporary folder: prepare, train and transcribe."""

import importlib.util
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from asr.doctor.finding import Finding

TEXTS = ("one two three four", "five six seven eight", "nine one three five", "two four six eight")
SECONDS, UPDATES = 2.0, 2


def trial() -> list[Finding]:
    """A line about training and one about transcription, each with the seconds it took."""
    from asr import config
    from asr.corpora import Folder
    from asr.corpora.prepare import prepare
    from asr.model import load_model
    from asr.recipe import Recipe
    from asr.train import train
    from asr.transcribe import transcribe

    with tempfile.TemporaryDirectory(prefix="asr-doctor-") as name:
        folder = Path(name)
        kind = write_recordings(folder / "recordings")
        begin = time.perf_counter()
        prepare(Folder(path=folder / "recordings"), folder / "corpus", sample_rate=16000)
        tree = {
            "data": {"corpus": str(folder / "corpus"), "max_batch_seconds": 10},
            "encoder": {"class_path": "LSTM", "init_args": {"dim": 32, "layers": 1}},
            "decoder": "CTC",
            "search": "Greedy",
            "budget": {"updates": UPDATES},
        }
        train(config.read(Recipe, tree), folder / "run")
        trained = time.perf_counter()
        recording = folder / "recordings" / "test" / "0.wav"
        [result] = transcribe(load_model(folder / "run"), [str(recording)], progress=False)
        ended = time.perf_counter()
    if result.error is not None:
        return [Finding("transcription", "broken", result.error, "put the lines above right first")]
    updates = f"{UPDATES} updates on {kind} in {trained - begin:.1f} s, preparation included"
    heard = f"{SECONDS:g} s of audio in {ended - trained:.1f} s, loading the model included"
    return [Finding("training", "ok", updates), Finding("transcription", "ok", heard)]


def write_recordings(folder: Path) -> str:
    """Two seconds of audio for each text, in the splits train, validation and test.

    Returns:
        What the recordings hold: speech where eSpeak NG is installed, tones elsewhere.
    """
    spoken = importlib.util.find_spec("espeakng_loader") is not None
    rate, waves = speech() if spoken else tones()
    for split in ("train", "validation", "test"):
        (folder / split).mkdir(parents=True)
        for number, (text, wave) in enumerate(zip(TEXTS, waves, strict=True)):
            soundfile.write(folder / split / f"{number}.wav", wave, rate)
            (folder / split / f"{number}.txt").write_text(text)
    return "speech of eSpeak NG" if spoken else "tones"


def speech() -> tuple[int, list[np.ndarray]]:
    """Rate in Hz, and the texts as spoken: (N,) int16 each, cut or filled up to two seconds."""
    from asr.corpora.espeak import Request, speak

    rate, said = speak([Request(text, "en-us", 160, 50) for text in TEXTS])
    length = round(SECONDS * rate)
    waves = [np.frombuffer(data, np.int16)[:length] for data in said]
    return rate, [np.pad(wave, (0, length - len(wave))) for wave in waves]


def tones() -> tuple[int, list[np.ndarray]]:
    """Rate in Hz, and for each text a tone of two seconds: (N,) float32."""
    rate = 16000
    moments = np.arange(round(SECONDS * rate)) / rate
    return rate, [
        (0.5 * np.sin(2 * np.pi * 300 * (number + 1) * moments)).astype(np.float32)
        for number in range(len(TEXTS))
    ]
