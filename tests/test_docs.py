"""Every command and example of README.md and docs/ runs, or says that it needs a network or a GPU."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import soundfile

from asr import cli
from asr.commands.options import VERBS
from tests.corpus import RATE, make_corpus, tone_speech

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
NEEDS = re.compile(r"#.*\bneeds (a network|a GPU|hours|another page)")
LINES = [
    line
    for block in re.findall(r"^```(?:bash)?\n(.*?)^```", TEXT, re.M | re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("asr ")
]
COMMANDS = sorted({tuple(shlex.split(line, comments=True)) for line in LINES if not NEEDS.search(line)})
MARKED = sorted({tuple(shlex.split(line, comments=True)) for line in LINES if NEEDS.search(line)})
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.S)
# What makes a command of the pages small: as little training and as few trials as the verb permits.
LESS = {
    "train": ["--budget", "{updates: 2}", "--trainer.accelerator", "cpu", "--data.num_workers", "0"],
    "tune-decoding": ["--trials", "2"],
    "prepare": [],
}


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with everything that the pages name: corpora, recordings, runs, a user's encoder."""
    folder = tmp_path_factory.mktemp("docs")
    make_corpus(folder / "data" / "mine", train=24, validation=6, test=6)
    for name in ("spoken", "fsdd", "mini_librispeech"):
        shutil.copytree(folder / "data" / "mine", folder / "data" / name)
    for name in ("my-recordings", "interviews", "new-recordings", "more"):
        (folder / name).mkdir()
    for number in range(30):
        for name in ("my-recordings", "interviews", "new-recordings"):
            if name == "my-recordings" or number < 2:
                path = folder / name / f"{number}.wav"
                soundfile.write(path, tone_speech("ab ca", number), RATE)
                path.with_suffix(".txt").write_text("ab ca")
    soundfile.write(folder / "talk.mp3", tone_speech("ab ba ca", 1), RATE)
    soundfile.write(folder / "more" / "a.opus", tone_speech("ab", 2), RATE)
    shutil.copy(ROOT / "recipes" / "fsdd.yaml", folder / "my-recipe.yaml")
    (encoder,) = {code for code in PYTHON if code.startswith("# my_encoders.py")}
    (folder / "my_encoders.py").write_text(encoder)
    return folder
