import hashlib
import random
from collections import Counter

import numpy as np
import pytest

from asr.audio import audio_file
from asr.corpora import espeak
from asr.corpora.prepare import prepare
from asr.corpora.spoken import ACCENTS, GRAMMAR, ROOTS, VARIANTS, Spoken, _trim, plan, vocabulary
from asr.text import normalisers


def listing(rows):
    return "\n".join(f"{row.id}\t{row.text}\t{row.speaker_id}" for row in rows)


def test_ids_texts_and_voices_are_the_same_on_every_machine_and_version():
    splits = Spoken(train=70, validation=5, test=5, seed=3).splits()
    found = {
        s: hashlib.sha256(listing(rows.read()).encode()).hexdigest() for s, rows in splits.items()
    }
    assert found == {
        "train": "3e9f9a12d4d40479c64d7d8d666caec17678200269c60a1495c41c5391e82cc5",
        "validation": "422cc12cf884f8d50ca4f7f22bb36b07765164758cf0eecf2d2ed22092e62dd6",
        "test": "af094871a5286d6bc83f2ca04a02ded6e83daadbe51e55b609cb09ad03515ab8",
    }


def test_the_same_options_give_the_same_samples():
    first, again = (
        [row.audio for row in Spoken(train=66, validation=1, test=1).splits()["train"].read()]
        for _ in range(2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_longer_corpus_begins_with_the_shorter_one():
    assert plan("train", 50, 0, 8, "all") == plan("train", 500, 0, 8, "all")[:50]


def test_seeds_and_splits_differ():
    plans = [plan(split, 40, seed, 8, "all") for split in VARIANTS for seed in (0, 1)]
    assert len({tuple(r.text for r in p) for p in plans}) == len(plans)


def test_no_voice_is_in_two_splits():
    voices = {split: {v.lower() for v in variants} for split, variants in VARIANTS.items()}
    assert not voices["train"] & voices["validation"]
    assert not voices["train"] & voices["test"]
    assert not voices["validation"] & voices["test"]
    for split in VARIANTS:
        used = {r.voice.split("+")[1] for r in plan(split, 2000, 0, 8, "all")}
        assert used == set(VARIANTS[split])


@pytest.mark.parametrize("split", VARIANTS)
def test_every_voice_speaks_audibly_at_a_human_pace_and_repeatably(split):
    """A voice that the library does not know or renders as silence would fail here."""
    voices = [f"{accent}+{variant}" for accent in ACCENTS[:2] for variant in VARIANTS[split]]
    sentence = "turn on the light at seven"
    requests = [espeak.Request(sentence, voice, 150, 50) for voice in voices]
    rate, waves = espeak.speak(requests)
    assert espeak.speak(requests) == (rate, waves)  # some voices have a breath of random noise
    for voice, samples in zip(voices, waves, strict=True):
        wave = np.frombuffer(samples, np.int16) / 32768
        assert 0.9 < len(wave) / rate < 3, voice
        assert wave.std() > 0.01, voice
        assert np.mean(np.abs(wave) > 0.999) < 0.002, voice


def test_accents_are_different_voices():
    requests = [espeak.Request("close the door", f"{accent}+m3", 150, 50) for accent in ACCENTS]
    _, waves = espeak.speak(requests)
    assert len(set(waves)) == len(ACCENTS)


def test_faster_is_shorter_and_an_unknown_voice_is_an_error():
    slow = espeak.Request("one two three", "en-us+f1", 120, 50)
    fast = espeak.Request("one two three", "en-us+f1", 180, 50)
    _, (long, short) = espeak.speak([slow, fast])
    assert len(short) < 0.85 * len(long)
    with pytest.raises(OSError, match="no voice xx-nowhere"):
        espeak.speak([espeak.Request("hi", "xx-nowhere", 150, 50)])


@pytest.mark.parametrize("grammar", ROOTS)
@pytest.mark.parametrize("max_words", [1, 2, 3, 8])
def test_sentences_have_the_words_and_lengths_that_were_asked_for(grammar, max_words):
    texts = [r.text for r in plan("train", 600, 0, max_words, grammar)]
    lengths = Counter(len(t.split()) for t in texts)
    assert min(lengths) == 1
    assert max(lengths) <= max_words
    words = set(" ".join(texts).split())
    assert words <= set(vocabulary(ROOTS[grammar])) | set(GRAMMAR["DIGIT"])
    if max_words > 1:
        assert 0.22 < lengths[1] / 600 < 0.4
    if grammar == "digits":
        assert words == set(GRAMMAR["DIGIT"])


def test_the_vocabulary_is_small_and_survives_normalisation():
    words = vocabulary("ALL")
    assert 60 <= len(words) <= 80
    assert all(normalisers.english(word) == word for word in words)


def test_every_word_of_test_is_in_train_but_not_every_sentence():
    train = {r.text for r in plan("train", 5000, 0, 8, "all")}
    test = [r.text for r in plan("test", 400, 0, 8, "all")]
    assert set(" ".join(test).split()) <= set(" ".join(train).split())
    assert 0.25 < np.mean([sentence not in train for sentence in test]) < 0.9


def test_the_prepared_corpus_is_labelled_synthetic_and_nothing_is_dropped(tmp_path):
    summary = prepare(Spoken(train=12, validation=4, test=4), tmp_path / "out", sample_rate=8000)
    assert summary["synthetic"] is True
    assert summary["licence"].startswith("CC0")
    for split, count in (("train", 12), ("validation", 4), ("test", 4)):
        assert summary["splits"][split]["utterances"] == count
        assert summary["preflight"][split]["dropped"] == {}
        assert summary["preflight"][split]["converted"] == {"resampled": count}


def test_silence_is_trimmed_to_a_margin():
    speech = np.full(1000, 5000, np.int16)
    wave = np.concatenate([np.zeros(5000, np.int16), speech, np.zeros(9000, np.int16)])
    trimmed = _trim(wave, 10_000)
    assert len(trimmed) == pytest.approx(1000 + 2 * 800, abs=2)
    assert trimmed.sum() == speech.sum(dtype=np.int64)
    assert len(_trim(np.zeros(50, np.int16), 10_000)) == 50


@pytest.mark.parametrize(
    ("options", "words"),
    [({"train": 0}, "train 0"), ({"test": -1}, "test -1"), ({"max_words": 0}, "max_words 0")],
)
def test_impossible_sizes_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Spoken(**options)


def test_audio_is_deterministic_through_flac():
    wave = np.array([random.Random(0).random() for _ in range(100)], np.float32)
    assert audio_file.encode_flac(wave, 16000) == audio_file.encode_flac(wave, 16000)
