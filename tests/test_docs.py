"""README.md and docs/: each command runs, or says that it needs a network or a GPU."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

import asr.report
import asr.study
from asr import cli
from asr.commands.options import VERBS
from asr.probes.probe import Probe
from asr.study import read_study
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
