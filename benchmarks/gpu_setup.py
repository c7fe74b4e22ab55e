"""What a slice finds before it begins: packages and corpus out of a bundle, and the machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FACTS = """
import json, torch
from asr.environment import environment
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
cuda = {"gpu": gpu, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
print(json.dumps({**cuda, **environment()}))
"""
ROWS = ("train=256", "validation=32", "test=32")  # about an hour: 15 batches of 240 s
TOY_ROWS = ("train=40", "validation=6", "test=6")


def install(bundle: Path | None, site: Path) -> dict[str, str]:
    """Unpacks the bundle's wheels into ``site``, once; the environment of the steps.

    They come before the machine's own packages. A folder and not an environment of its own: one
    made from an environment would not see the packages of that.

    Raises:
        ValueError: no such bundle, or pip cannot install its wheels; with its own last word.
    """
    if bundle and not bundle.is_dir():
        raise ValueError(f"{bundle}: no such bundle; scripts/gpu_bundle makes one")
    wheels = sorted(bundle.rglob("*.whl")) if bundle else []
    stamp = site / "installed.txt"
    wanted = "\n".join(wheel.name for wheel in wheels)
    if wheels and not (stamp.is_file() and stamp.read_text() == wanted):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(site)]
        done = subprocess.run(
            [*command, *map(str, wheels)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise ValueError(f"{bundle}: pip cannot install its wheels ({last})")
        stamp.write_text(wanted)
    paths = [str(site.resolve())] * bool(wheels) + [str(Path.cwd()), os.environ.get("PYTHONPATH")]
    search = os.pathsep.join(path for path in paths if path)
    return {**os.environ, "PYTHONPATH": search, "PYTHONUNBUFFERED": "1"}


def find_corpus(bundle: Path | None, corpus: Path) -> Path:
    """The corpus; where it is not there, links to the files of the bundle's are made.

    Raises:
        ValueError: it is neither there nor in the bundle, or the two differ.
    """
    packed = sorted(bundle.rglob(f"{corpus.name}/*")) if bundle else []
    about = next((path for path in packed if path.name == "corpus.json"), None)
    if (corpus / "corpus.json").is_file():
        if about and about.read_text() != (corpus / "corpus.json").read_text():
            raise ValueError(f"{corpus} is not the corpus of {bundle}; remove one of the two")
        return corpus
    if about is None:
        raise ValueError(
            f"{corpus}: no prepared corpus, and none of that name in --bundle; give the bundle of "
            "scripts/gpu_bundle, or --corpus with a folder that asr prepare wrote"
        )
    corpus.mkdir(parents=True, exist_ok=True)
    for path in packed:
        link = corpus / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    return corpus


def sample(corpus: Path, place: Path, environment: dict[str, str], toy: bool) -> Path:
    """A few rows of the corpus; made once.

    Raises:
        ValueError: the corpus has no such rows; with the reason.
    """
    if not place.exists():
        command = [sys.executable, "-m", "benchmarks.corpus_sample", str(corpus), str(place)]
        command += TOY_ROWS if toy else ROWS
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"{corpus}: no sample of it ({done.stderr.strip().splitlines()[-1]})")
    return place


def describe_machine(environment: dict[str, str]) -> dict[str, Any]:
    """Versions, commit, processor; GPU, driver and memory where there is one.

    Raises:
        ValueError: torch or what the project needs cannot be imported; with the reason.
    """
    command = [sys.executable, "-c", FACTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        raise ValueError(f"this Python cannot run the project ({last}); give --bundle")
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    facts.pop("command")
    if facts["gpu"] is not None:
        query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
        try:
            told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
            facts["driver"] = told.strip().splitlines()[0]
        except (OSError, subprocess.CalledProcessError, IndexError) as error:
            facts["driver"] = f"not known ({error})"
    return facts
