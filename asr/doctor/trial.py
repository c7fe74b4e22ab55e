"""From recordings to a transcript, in a temporary folder: prepare, train and transcribe."""

import importlib.util
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from asr.doctor.finding import Finding

TEXTS = ("one two three four", "five six seven eight", "nine one three five", "two four six eight")
SECONDS, RATE, UPDATES = 2, 16000, 2
MOMENTS = np.arange(SECONDS * RATE) / RATE


def trial() -> list[Finding]:
    """A line about training and one about transcription, each with the seconds it took."""
    from asr.config import strict_yaml
    from asr.corpora import Folder
    from asr.corpora.prepare import prepare
    from asr.model import load_model
    from asr.recipe.schema import Recipe
    from asr.recognition.transcribe import transcribe
    from asr.training.run import train

    with tempfile.TemporaryDirectory(prefix="asr-doctor-") as name:
        folder = Path(name)
        kind = write_recordings(folder / "recordings")
        begin = time.perf_counter()
        prepare(Folder(path=folder / "recordings"), folder / "corpus", sample_rate=RATE)
        tree = {
            "features": {"sample_rate": RATE},
            "data": {"corpus": str(folder / "corpus"), "max_batch_seconds": 10},
            "encoder": {"class_path": "LSTM", "init_args": {"dim": 32, "layers": 1}},
            "decoder": "CTC",
            "search": "Greedy",
            "budget": {"updates": UPDATES},
        }
        train(strict_yaml.read(Recipe, tree), folder / "run")
        trained = time.perf_counter()
        recording = folder / "recordings" / "test" / "0.wav"
        [result] = transcribe(load_model(folder / "run"), [str(recording)], progress=False)
        ended = time.perf_counter()
    if result.error is not None:
        return [Finding("transcription", "broken", result.error, "put right what is said above")]
    updates = f"{UPDATES} updates on {kind} in {trained - begin:.1f} s, preparation included"
    heard = f"{SECONDS} s of audio in {ended - trained:.1f} s, loading the model included"
    return [Finding("training", "ok", updates), Finding("transcription", "ok", heard)]


def write_recordings(folder: Path) -> str:
    """Two seconds of audio for each text, in the splits train, validation and test.

    They are at the rate that the model hears, so that this works without torchaudio.

    Returns:
        What the recordings hold: speech where eSpeak NG is installed, tones elsewhere.
    """
    spoken = importlib.util.find_spec("espeakng_loader") is not None
    waves = speech() if spoken else tones()
    for split in ("train", "validation", "test"):
        (folder / split).mkdir(parents=True)
        for number, (text, wave) in enumerate(zip(TEXTS, waves, strict=True)):
            soundfile.write(folder / split / f"{number}.wav", wave, RATE)
            (folder / split / f"{number}.txt").write_text(text)
    return "speech of eSpeak NG" if spoken else "tones"


def speech() -> list[np.ndarray]:
    """The texts as spoken: (N,) float64 each, of two seconds."""
    from asr.corpora.espeak import Request, speak

    rate, said = speak([Request(text, "en-us", 160, 50) for text in TEXTS])
    waves = [np.frombuffer(data, np.int16) / 32768 for data in said]
    # Linear interpolation is a poor filter, and good enough here; beyond the end it gives zeros.
    return [np.interp(MOMENTS, np.arange(len(w)) / rate, w, right=0.0) for w in waves]


def tones() -> list[np.ndarray]:
    """A tone for each text: (N,) float64, of two seconds."""
    return [0.5 * np.sin(2 * np.pi * 300 * (n + 1) * MOMENTS) for n in range(len(TEXTS))]
