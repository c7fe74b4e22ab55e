"""Checks that preparing, training and transcribing work, in a temporary folder."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from asr.doctor.finding import Finding

TEXTS = ("one two three four", "five six seven eight", "nine one three five", "two four six eight")
SECONDS, RATE, UPDATES = 2, 16000, 2


def trial() -> Iterator[Finding]:
    """Reports one finding for training and one for transcription, with their times in seconds."""
    from asr.config import strict_yaml
    from asr.corpora import Folder
    from asr.corpora.prepare import prepare
    from asr.model import load_model
    from asr.recipe.schema import Recipe
    from asr.recognition.transcribe import transcribe
    from asr.training.run import train

    with tempfile.TemporaryDirectory(prefix="asr-doctor-") as name:
        folder = Path(name)
        write_recordings(folder / "recordings")
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
        [result] = transcribe(load_model(folder / "run"), [str(recording)])
        ended = time.perf_counter()
    if result.error is not None:
        remedy = "solve the problems in the lines above"
        yield Finding("transcription", "broken", result.error, remedy)
        return
    updates = f"{UPDATES} updates in {trained - begin:.1f} s, preparation included"
    transcription = f"{SECONDS} s of audio in {ended - trained:.1f} s, loading the model included"
    yield Finding("training", "ok", updates)
    yield Finding("transcription", "ok", transcription)


def write_recordings(folder: Path) -> None:
    """Writes a tone of two seconds for each text, in the splits train, validation and test.

    The files have the sample rate of the model, so that this works without torchaudio.
    """
    moments = np.arange(SECONDS * RATE) / RATE
    for split in ("train", "validation", "test"):
        (folder / split).mkdir(parents=True)
        for number, text in enumerate(TEXTS):
            wave = 0.5 * np.sin(2 * np.pi * 300 * (number + 1) * moments)
            soundfile.write(folder / split / f"{number}.wav", wave, RATE)
            (folder / split / f"{number}.txt").write_text(text)
