"""Tiny folders of recordings and texts, and the rows that are read from them."""

import numpy as np
import soundfile

from asr.corpora.folder import Folder

RATE = 16000


def wave(seed, seconds=3.0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE))


def record(path, seconds=3.0, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    sides = [wave(seed, seconds) for seed in range(channels)]
    soundfile.write(path, np.stack(sides, 1), RATE, "FLOAT" if path.suffix == ".wav" else None)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def rows(path, **options):
    corpus = Folder(path=path, validation_share=0, test_share=0, **options)
    (part,) = corpus.splits().values()
    return list(part.read())


def shown(path, **options):
    """Id, text, speaker, start, duration and channel of each row; a message if it has a fault."""
    return {
        str(r.fault) if r.fault else
        (r.id, r.text, r.speaker_id, round(r.start_seconds, 6), r.seconds, r.channel)
        for r in rows(path, **options)
    }  # fmt: skip


def plain(name, text, speaker=""):
    return name, text, speaker, 0.0, None, None
