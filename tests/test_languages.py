"""Texts in five scripts go through preparation, training, evaluation and every writer unchanged."""

import json
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml

from asr.cli import main
from asr.data.utterances import read_rows
from asr.model import load_model
from asr.recognition.evaluate import evaluate, evaluation_summary
from asr.recognition.transcribe import transcribe
from asr.recognition.writers import FORMATS, width
from asr.search import Hypothesis
from asr.text.normalisers import lower

TEXTS = {
    "German": ["Übergrößen für die Straße", "Ärger mit Öl", "zwölf Boxkämpfer jagen Viktor quer"],
    "Mandarin": ["今天天气很好，我们去公园散步吧。" * 3, "打开空调", "我用windows电脑"],
    "Thai": ["สวัสดีครับยินดีที่ได้รู้จักคุณน้ำ" * 2, "ไปโรงเรียน", "เปิดเครื่องปรับอากาศ"],
    "Arabic": ["السَّلامُ عَلَيْكُم ورحمة الله", "كيف حالك؟", "أريد أن أذهب إلى السوق غدًا"],
    "Hindi": ["नमस्ते आप कैसे हैं", "क्‍या हाल है", "मुझे हिन्दी में लिखना पसन्द है"],
}
ROWS = [(language, text) for language, texts in TEXTS.items() for text in texts]
RATE, STEP = 8000, 0.16  # the length of a recording tells which one it is


def sound(number):
    time = np.arange(int((2 + number * STEP) * RATE)) / RATE
    tones = np.sin(2 * np.pi * (200 + 60 * number) * time) + np.sin(2 * np.pi * 900 * time)
    return 0.2 * tones * (1 + np.sin(8 * np.pi * time))


class Said:
    """A search that knows the text of each recording by its number of encoder frames."""

    lm_weight = 0.0

    def __init__(self, model):
        self.tokens = {}
        for number, (_, text) in enumerate(ROWS):
            waves = torch.from_numpy(sound(number).astype(np.float32))[None]
            frames = model.encode(waves, torch.tensor([waves.shape[1]]))[1]
            self.tokens[int(frames)] = tuple(model.tokenizer.encode(lower(text)))
        assert len(self.tokens) == len(ROWS)

    def __call__(self, decoder, encoded, lengths, language_model=None):
        found = [self.tokens[length] for length in lengths.tolist()]
        return [[Hypothesis(tokens, -1.0, -1.0, 0.0, 0.0, True)] for tokens in found]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A corpus of all languages, a model of two updates, its evaluation and its transcripts."""
    folder = tmp_path_factory.mktemp("languages")
    lines = []
    for number, (language, text) in enumerate(ROWS):
        soundfile.write(folder / f"{number}.wav", sound(number), RATE)
        typed = unicodedata.normalize("NFD", text)  # as some keyboards and file systems have it
        line = {"audio_filepath": f"{number}.wav", "text": typed, "id": str(number)}
        lines.append(json.dumps(line | {"lang": language, "speaker": f"s{number}"}) + "\n")
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(lines))
    recipe = {
        "data": {"corpus": str(folder / "corpus"), "max_batch_seconds": 30.0},
        "features": {"sample_rate": RATE, "num_mels": 20},
        "encoder": {"class_path": "LSTM", "init_args": {"dim": 16, "layers": 1, "channels": 4}},
        "decoder": {"class_path": "CTC"},
        "trainer": {"accelerator": "cpu", "devices": 1},
        "budget": {"updates": 2},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    corpus, run = str(folder / "corpus"), str(folder / "run")
    prepared = ["prepare", "folder", "--path", str(folder), "--output", corpus]
    assert main([*prepared, "--normaliser", "lower"]) == 0
    assert main(["train", str(folder / "recipe.yaml"), "--run", run]) == 0
    model = load_model(run)
    model.search = Said(model)
    metrics = evaluate(model, corpus, "test", output=folder / "scores")
    files = [str(folder / f"{number}.wav") for number in range(len(ROWS))]
    results = transcribe(
        model, files, output_dir=folder / "out", formats=list(FORMATS), max_chars_per_second=17
    )
    assert not [result.error for result in results if result.error]
    return SimpleNamespace(folder=folder, metrics=metrics, corpus=corpus)


def of(language):
    return [(i, lower(text)) for i, (own, text) in enumerate(ROWS) if own == language]


def letters(text):
    """The characters but white space, in their order."""
    return "".join(text.split())


@pytest.mark.parametrize("language", TEXTS)
def test_preparation_and_evaluation_keep_each_text(job, language):
    rows = read_rows(job.corpus, ["train"])
    prepared = dict(zip(rows["id"], rows["text"], strict=True))
    lines = (job.folder / "scores" / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()
    scored = {line["id"]: line for line in map(json.loads, lines)}
    for number, text in of(language):
        (own,) = [t for i, t in prepared.items() if i.rpartition("/")[2] == str(number)]
        assert own == text == unicodedata.normalize("NFC", text)
        (line,) = [one for i, one in scored.items() if i.rpartition("/")[2] == str(number)]
        assert line["reference"] == line["hypothesis"] == text
        assert " ".join(word["word"] for word in line["words"]) == text
    assert job.metrics["wer"]["rate"] == job.metrics["cer"]["rate"] == 0
    assert evaluation_summary(job.metrics)


@pytest.mark.parametrize("language", TEXTS)
def test_every_writer_keeps_each_text(job, language):
    for number, text in of(language):
        read = {
            kind: (job.folder / "out" / f"{number}.{kind}").read_text(encoding="utf-8")
            for kind in FORMATS
        }
        content = json.loads(read["json"])
        assert read["txt"] == text + "\n"
        assert content["text"] == " ".join(word["word"] for word in content["words"]) == text
        assert letters("".join(s["text"] for s in content["segments"])) == letters(text)
        assert [row.split("\t")[2] for row in read["tsv"].splitlines()[1:]] == text.split()
        assert [row.split(" ")[4] for row in read["ctm"].splitlines()] == text.split()
        for kind in ("srt", "vtt"):
            shown = [
                line
                for block in read[kind].removeprefix("WEBVTT\n\n").split("\n\n")
                for line in block.split(" --> ")[1].splitlines()[1:]
            ]
            assert letters("".join(shown)) == letters(text)
            assert max(map(width, shown)) <= 42
            assert not any(unicodedata.category(line[0]).startswith("M") for line in shown)
