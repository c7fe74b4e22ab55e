"""The wheel alone, installed away from the checkout: names of recipes and the main job work."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import soundfile

from tests.corpus import RATE, Tones

ROOT = Path(__file__).parents[1]


def call(*words, folder, **environment):
    """A process that sees no checkout; its standard output."""
    keep = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=keep | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def source(folder: Path) -> Path:
    """The files that are packaged, so that building leaves nothing in the checkout."""
    folder.mkdir()
    for name in ("asr", "recipes"):
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def pip(*words, folder):
    """Pip without a network."""
    offline = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    return call(sys.executable, "-m", "pip", *words, folder=folder, **offline)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    pip("wheel", *options, source(folder / "source"), folder=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """The folder of the command ``asr`` in an environment with this wheel and our dependencies."""
    place = wheel.parent / "environment"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    options = ["--no-deps", "--no-compile"]
    pip("--python", python, "install", *options, wheel, folder=wheel.parent)
    (site,) = place.glob("lib/python*/site-packages")
    # A plain path comes after the wheel, and hooks of an editable install there are not run.
    paths = dict.fromkeys(sysconfig.get_paths()[key] for key in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(paths) + "\n")
    return place / "bin"


def test_the_wheel_holds_every_recipe_and_no_results(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = {n.removeprefix("asr/") for n in file.namelist() if n.startswith("asr/recipes/")}
    shipped = {str(p.relative_to(ROOT)) for p in (ROOT / "recipes").rglob("*.yaml")}
    pages = {f"recipes/{folder}/README.md" for folder in ("encoders", "studies")}
    assert names == shipped | pages | {"recipes/measured.json"}
    with zipfile.ZipFile(wheel) as file:
        assert "asr/py.typed" in file.namelist()


def test_an_installed_wheel_prepares_trains_evaluates_and_transcribes_in_an_empty_folder(
    installed, tmp_path
):
    def asr(*words):
        return call(installed / "asr", *words, folder=tmp_path)

    place = call(installed / "python", "-c", "import asr; print(asr.__file__)", folder=tmp_path)
    assert Path(place.strip()).is_relative_to(installed.parent)

    assert " 0 broken" in asr("doctor")
    assert "lstm-tiny" in asr("recipes", "lstm-t")

    for split, rows in Tones(sizes={"train": 12, "validation": 3, "test": 3}).splits().items():
        (tmp_path / "recordings" / split).mkdir(parents=True)
        for row in rows.read():
            path = tmp_path / "recordings" / split / f"{row.id}.wav"
            path.with_suffix(".txt").write_text(row.text)
            soundfile.write(path, row.audio, RATE)
    asr("prepare", "folder", "--path", "recordings", "--output", "tones", "--sample-rate", RATE)
    small = ["--data.corpus=tones", "--encoder.layers=1", "--budget={updates: 2}"]
    names = ["fsdd", "--encoder", "lstm-tiny", "--decoder", "ctc"]
    asr("train", *names, *small, "--trainer.accelerator=cpu")
    run = "runs/fsdd-lstm-tiny-seed1"
    assert "WER" in asr("evaluate", run, "--split", "test")
    asr("transcribe", run, "recordings/test", "--output-dir", "texts")
    assert len(list((tmp_path / "texts").rglob("*.txt"))) == 3
