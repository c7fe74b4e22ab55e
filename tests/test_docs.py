"""README.md and docs/: each command runs, or says that it needs a network or a GPU."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import soundfile

import asr.report
import asr.study
from asr import cli
from asr.commands.options import VERBS
from asr.model import load_model
from asr.probes.probe import Probe
from asr.study import read_study
from asr.text.normalisers import NORMALISERS
from tests.corpus import RATE, make_corpus, tone_speech

ROOT = Path(__file__).parents[1]
PAGES = {
    path.name: path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
}
MARK = re.compile(r"#.*\bneeds a (network|GPU)")
# Options that make the work of a command small and leave its way through the code as it is.
SMALL = {
    ("train",): ["--budget={updates: 2}", "--trainer.accelerator=cpu"],
    ("train", "spoken"): ["--features.sample_rate=8000"],  # as the corpus of this test has it
    ("train", "mini_librispeech"): ["--features.sample_rate=8000"],
    ("tune-decoding",): ["--trials=2"],
    ("prepare", "spoken"): ["--train=20", "--validation=4", "--test=4"],
    ("claims", "context"): ["--utterances=2"],
    ("doctor",): ["--quick"],
}
GERMAN = [
    "Nach zwei Runden war der Kampf relativ ausgeglichen.",
    "Sie betrug zwischen drei Monaten und einem Jahr.",
    "Die Gebühr beträgt zwei Euro pro Paar.",
    "Übrigens: Wer weiß, ob Größe zählt?",
    "Aber die „Pflege der Bewegungsspiele“ umfasste weitaus mehr.",
    "Äpfel, Öl – und Bio-Müsli; so geht's!",
]
TIMED = (
    "scaling",
    "threads",
    "horizon",
    "streaming",
    "roofline",
)  # probes that measure for minutes


def fenced(text: str, *languages: str) -> list[str]:
    """Blocks of code of a page in these languages; "" for a block that names none."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [block for language, block in blocks if language in languages]


def commands(text: str) -> list[str]:
    """The lines of a page that call ``asr``; a line that goes on is joined with the next."""
    blocks = [block.replace("\\\n", " ") for block in fenced(text, "bash", "")]
    return [line for block in blocks for line in block.splitlines() if line.startswith("asr ")]


LINES = list(dict.fromkeys(line for text in PAGES.values() for line in commands(text)))
CALLS = {
    shlex.join(words): words
    for line in LINES
    if not MARK.search(line)
    for words in [shlex.split(line, comments=True)[1:]]
}


def german_blocks(language: str, word: str) -> str:
    """The one block of the page on German, in this language, that holds a word."""
    (block,) = [b for b in fenced(PAGES["another-language.md"], language) if word in b]
    return block


def make_german(folder: Path) -> None:
    """Makes the stand-in for Kerstin, and runs the steps of its page up to the training."""
    (folder / "kerstin" / "clips").mkdir(parents=True)
    draw = np.random.default_rng(0)
    lines = []
    for i in range(24):
        text = GERMAN[i % len(GERMAN)]
        name = {0: "kerstin-0064", 1: "kerstin-0197"}.get(i, f"kerstin-9{i:03}")
        tones = np.repeat([300 + ord(c) % 97 * 30 for c in text], RATE // 10)
        wave = 0.3 * np.sin(2 * np.pi * np.cumsum(tones) / RATE)
        wave += 0.003 * draw.standard_normal(len(wave))
        path = folder / "kerstin" / "clips" / f"{name}.opus"
        soundfile.write(path, wave, RATE, format="OGG", subtype="OPUS")
        lines.append(f"{name}|{text}\n")
    (folder / "kerstin" / "metadata.csv").write_text("".join(lines), encoding="utf-8")
    (folder / "german.yaml").write_text(german_blocks("yaml", "tokenizer"), encoding="utf-8")
    subprocess.run(["bash", "-c", german_blocks("bash", "awk")], cwd=folder, check=True)
    for words in [shlex.split(line)[1:] for line in commands(PAGES["another-language.md"])]:
        if words[0] in ("prepare", "train"):
            assert cli.main([*words, *SMALL.get((words[0],), [])]) == 0


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Corpora, recordings and two runs of two updates, under the names that the pages use."""
    folder = tmp_path_factory.mktemp("docs")
    make_corpus(folder / "data" / "mine", train=24, validation=6, test=6)
    for name in ("spoken", "fsdd", "mini_librispeech"):
        shutil.copytree(folder / "data" / "mine", folder / "data" / name)
    counts = {"my-recordings": 24, "interviews": 1, "new-recordings": 1, "more": 1}
    for name, number in counts.items():
        (folder / name).mkdir()
        for i in range(number):
            path = folder / name / f"{i}.{'opus' if name == 'more' else 'wav'}"
            kind = {"format": "OGG", "subtype": "OPUS"} if name == "more" else {}
            soundfile.write(path, tone_speech("ab ca", i), RATE, **kind)
            if name == "my-recordings":
                path.with_suffix(".txt").write_text("ab ca")
    words = {"trn": "one two (ann-1)\n", "jsonl": '{"id": "ann-1", "text": "one two"}\n'}
    words |= {"stm": "talk 1 ann 0 2 one two\n", "ctm": "talk 1 0 1 one\ntalk 1 1 1 two\n"}
    for kind, content in words.items():
        for name in ("theirs", "correct"):
            (folder / f"{name}.{kind}").write_text(content)
    soundfile.write(folder / "talk.mp3", tone_speech("ab ba ca", 1), RATE)
    shutil.copy(ROOT / "recipes" / "fsdd.yaml", folder / "my-recipe.yaml")
    encoders = {block for block in fenced(PAGES["README.md"], "python") if "my_encoders" in block}
    (folder / "my_encoders.py").write_text(encoders.pop())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small = ["--encoder=LSTM", "--encoder.dim=16", "--encoder.layers=1", *SMALL["train",]]
        assert cli.main(["train", "fsdd", *small, "--run=runs/mine"]) == 0
        transducer = ["--decoder=transducer-tiny", "--run=runs/fsdd-transducer"]
        assert cli.main(["train", "fsdd", *small, *transducer]) == 0
        ngram = ["--tokenizer_of=runs/fsdd-transducer", "--text.train=[data/fsdd]"]
        ngram += ["--text.validation=data/fsdd", "--run=runs/fsdd-ngram"]
        assert cli.main(["train", "language_models/ngram", *ngram]) == 0
        words = ["--tokenizer_of=runs/mine", "--text.train=[data/mine]"]
        words.append("--text.validation=data/mine")
        for name, run in (("word-ngram", "runs/words"), ("ngram", "runs/pieces")):
            assert cli.main(["train", f"language_models/{name}", *words, f"--run={run}"]) == 0
        assert cli.main(["train", "fsdd", *small, "--seed=2", "--run=runs/transformer"]) == 0
        for run in ("runs/mine", "runs/transformer"):
            assert cli.main(["evaluate", run]) == 0
        make_german(folder)
    return folder


@pytest.fixture
def work(place, tmp_path, monkeypatch):
    """A copy of the place as the working directory."""
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_encoders", raising=False)
    return tmp_path


def provide_runs(words: list[str], folder: Path) -> list[str]:
    """Makes the run folders that a command reads, and removes the folder that it makes.

    Placeholders RUN become runs of their own.
    """
    for option, made in zip(words, words[1:], strict=False):
        if option in ("--run", "--output") and words[0] != "claims":
            shutil.rmtree(folder / made, ignore_errors=True)
    named = [f"runs/number{i}" if word == "RUN" else word for i, word in enumerate(words)]
    read = [word for word in named if word.startswith("runs/") and named[0] != "train"]
    read += [named[i + 1] for i, word in enumerate(named) if word == "--tokenizer_of"]
    for run in read:
        if not (folder / run).exists():
            model = "transformer" if "transformer" in run else "mine"
            shutil.copytree(folder / "runs" / model, folder / run)
    return named


@pytest.mark.parametrize("words", CALLS.values(), ids=CALLS)
def test_a_command_of_the_pages_runs(words, work, monkeypatch):
    reached = []
    if words[0] == "study" and "--status" not in words:
        result = {"failed": False, "table": "", "remarks": [], "report": None}
        monkeypatch.setattr(
            asr.study, "run_study", lambda *known, **options: reached.append(known) or result
        )
    elif words[0] == "claims" and words[1] in TIMED:
        monkeypatch.setattr(Probe, "run", lambda *known: reached.append(known) or 0)
    elif words[0] == "compare" and "--study" in words:
        with pytest.raises(ValueError, match="runs/studies/fsdd"):  # which takes an hour to make
            asr.report.compare([], work / "report", study=Path("runs/studies/fsdd"))
        return
    extra = SMALL.get(tuple(words[:1]), []) + SMALL.get(tuple(words[:2]), [])
    assert cli.main([*provide_runs(words, work), *extra]) == 0
    assert reached or words[0] not in ("study",) or "--status" in words


def test_every_verb_has_an_example():
    assert {shlex.split(line)[1] for line in LINES} == set(VERBS)


def test_examples_in_python_equal_those_of_the_readme():
    readme = fenced(PAGES["README.md"], "python")
    for name, text in PAGES.items():
        assert set(fenced(text, "python")) <= set(readme), name  # which other tests run


def test_the_study_in_the_documentation_is_valid(work):
    (text,) = fenced(PAGES["studies.md"], "yaml")
    (work / "mine.yaml").write_text(text)
    study = read_study(work / "mine.yaml")
    assert list(study.arms) == ["lstm", "transformer"]


def texts_of(corpus: Path) -> set[str]:
    """The distinct texts of a prepared corpus, in all splits."""
    tables = [parquet.read_table(path, columns=["text"]) for path in corpus.glob("*.parquet")]
    return {text for table in tables for text in table["text"].to_pylist()}


def test_german_texts_survive_every_step(work):
    assert texts_of(work / "data/german") == set(GERMAN)
    words = texts_of(work / "data/german-words")
    assert "übrigens wer weiß ob größe zählt" in words
    assert "äpfel öl und bio müsli so geht's" in words
    model = load_model(work / "runs/german")
    for text in GERMAN:
        assert model.tokenizer.decode(model.tokenizer.encode(text)) == text
    assert cli.main(["evaluate", "runs/german"]) == 0
    written = (work / "runs/german/evaluations/test/hypotheses.jsonl").read_text(encoding="utf-8")
    references = [json.loads(line)["reference"] for line in written.splitlines()]
    assert references
    assert set(references) <= set(GERMAN)
    assert all(text in written for text in references)  # as text, not as \\u00fc


def test_the_table_of_normalisers_is_what_they_make():
    rows = re.findall(
        r"^\| `(none|lower|english)`[^|]*\| `(.+?)` \|", PAGES["another-language.md"], re.M
    )
    assert [name for name, _ in rows] == ["none", "lower", "english"]
    for name, text in rows:
        assert NORMALISERS[name](rows[0][1]) == text


def test_the_ledger_page_names_every_field(place):
    named = set(re.findall(r"`(\w+)`", PAGES["ledger.md"]))
    lines = (place / "runs" / "mine" / "ledger.jsonl").read_text().splitlines()
    written = {key for line in lines for key in json.loads(line)}
    assert written - named == set()


def test_the_readme_is_short_and_pictures_are_small():
    assert len(PAGES["README.md"].split()) <= 1500
    assert all(p.stat().st_size < 200_000 for p in (ROOT / "docs" / "images").iterdir())


def test_the_pages_render_without_warnings(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--site-dir", tmp_path / "site"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "site" / "recipes" / "index.html").read_text()
    assert "--data.max_batch_seconds" in page


@pytest.mark.parametrize("name", PAGES)
def test_paths_and_links_of_a_page_exist(name):
    page = ROOT / ("" if name == "README.md" else "docs") / name
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[name])
    assert [link for link in links if not (page.parent / link).exists()] == []
    paths = re.findall(r"\b((?:asr|tests|scripts|benchmarks)/[\w/-]+(?:\.\w+)?)\b", PAGES[name])
    assert [p for p in paths if "NAME" not in p and not (ROOT / p).exists()] == []
