"""What a GPU machine without a network needs to run the slices: code, corpus and wheels, weighed.

scripts/gpu_bundle build/gpu --present pyarrow matplotlib tensorboard --rows test=500

A folder ``part-1`` (``part-2``, ... with ``--parts``) of at most ``--limit`` megabytes each holds

- ``code.tar.gz``: HEAD, as ``git archive`` packs it, which writes the commit into it;
- ``CORPUS/``: a prepared corpus, where ``--rows`` says so with a random sample of a split's rows;
- ``*.whl``: what ``pyproject.toml`` asks for to train, evaluate, report and test, and what that
  needs, at the versions of this environment, less what torch, torchaudio, lightning and
  ``--present`` bring, and those of ``--wheels``;
- ``bundle.json``: the commit, and what was left out, why.

Everything is measured before it is written; over the limit nothing is.
"""

import argparse
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from asr.files import remedy
from benchmarks.corpus_sample import counts, sample

ROOT = Path(__file__).parents[1]
MEGABYTE = 1_000_000
PRESENT = ("torch", "torchaudio", "lightning")
# Requirements of the project that no slice uses.
LEFT_OUT = {
    "datasets": "reads corpora of the Hugging Face Hub, for asr prepare",
    "av": "reads containers that libsndfile does not, for asr prepare and transcribe",
}
# Of the extras: joules, and the tests marked gpu.
ADDED = ("nvidia-ml-py", "pytest", "pytest-xdist")
# glibc of Debian 10, Ubuntu 20.04 and later; pip takes each name literally.
PLATFORMS = [
    *(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)),
    *("manylinux2014_x86_64", "manylinux1_x86_64"),
]


def closure(requirements: Iterable[Requirement], python: str) -> dict[str, Requirement]:
    """The packages that these need, themselves included, by canonical name.

    As this environment's packages say; one that is not installed here is taken to need no other.
    """
    environment = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.0",
    }
    found: dict[str, Requirement] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(requirements)
    while waiting:
        one = waiting.pop()
        name, extras = canonicalize_name(one.name), frozenset(one.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.setdefault(name, one)
        for text in _requires(name):
            needed = Requirement(text)
            marker = needed.marker
            asked = ({**environment, "extra": extra} for extra in ("", *sorted(extras)))
            if marker is None or any(marker.evaluate(values) for values in asked):
                waiting.append(needed)
    return found


def _requires(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def lacking(python: str, present: Sequence[str]) -> list[str]:
    """``name==version`` of the wheels that a machine lacks which has torch, lightning and these."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    extras = [Requirement(t) for group in project["optional-dependencies"].values() for t in group]
    wanted = [one for one in wanted if one.name not in LEFT_OUT]
    wanted += [one for one in extras if one.name in ADDED]
    there = closure(map(Requirement, (*PRESENT, *present)), python)
    needed = closure((one for one in wanted if one.name not in there), python)
    return [_pinned(one) for name, one in sorted(needed.items()) if name not in there]


def _pinned(one: Requirement) -> str:
    """At the version that the tests here pass with, where it is installed here."""
    try:
        return f"{one.name}=={importlib.metadata.version(one.name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{one.name}{one.specifier}"


def download(packages: Sequence[str], python: str, folder: Path) -> None:
    """The wheels of ``name==version`` for Linux on x86-64.

    Raises:
        ValueError: pip does not find one of them; with its own last word.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--python-version", python, "--dest", folder]
    command += ["--implementation", "cp", *(f"--platform={name}" for name in PLATFORMS)]
    done = subprocess.run([*command, *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ValueError(f"pip download for Python {python}: {(errors or ['no word'])[-1]}")


def pack_code(path: Path) -> tuple[str, int]:
    """HEAD into ``path``; the commit, and how many files differ from it and are not packed."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("archive", "--format=tar.gz", f"--output={path.resolve()}", "HEAD")
    return git("rev-parse", "HEAD"), len(git("status", "--porcelain").splitlines())


def share_out(sizes: Mapping[str, int], parts: int, limit: int) -> dict[str, int]:
    """The part (from 1) of each file, none above ``limit`` bytes: largest first, where it fits.

    Raises:
        ValueError: they do not fit; names the largest and the remedies.
    """
    room = [limit] * parts
    placed: dict[str, int] = {}
    for name, size in sorted(sizes.items(), key=lambda pair: -pair[1]):
        fitting = [part for part in range(parts) if room[part] >= size]
        if not fitting:
            raise ValueError(_too_large(sizes, parts, limit))
        room[fitting[0]] -= size
        placed[name] = fitting[0] + 1
    return placed


def _too_large(sizes: Mapping[str, int], parts: int, limit: int) -> str:
    largest = sorted(sizes.items(), key=lambda pair: -pair[1])[:3]
    told = ", ".join(f"{name} {size / MEGABYTE:.1f} MB" for name, size in largest)
    return (
        f"the bundle is {sum(sizes.values()) / MEGABYTE:.1f} MB, over {parts} x "
        f"{limit / MEGABYTE:g} MB (largest: {told}); name what the machine has by --present, "
        "sample rows by --rows test=500, or allow --parts 3"
    )


def table(sizes: Mapping[str, int], placed: Mapping[str, int]) -> str:
    """Markdown: every file with its part and megabytes, and the sum of each part."""
    lines = ["| part | file | MB |", "| --: | --- | --: |"]
    for part in sorted(set(placed.values())):
        names = sorted((n for n in placed if placed[n] == part), key=lambda n: -sizes[n])
        lines += [f"| {part} | {name} | {sizes[name] / MEGABYTE:.2f} |" for name in names]
        total = sum(sizes[name] for name in names)
        lines.append(f"| {part} | **all** | **{total / MEGABYTE:.2f}** |")
    return "\n".join(lines)


def bundle(
    output: Path,
    corpus: Path,
    *,
    python: str = "3.12",
    present: Sequence[str] = (),
    wheels: Sequence[str] = (),
    rows: Mapping[str, int] | None = None,
    seed: int = 1,
    parts: int = 1,
    limit: int = 60 * MEGABYTE,
) -> str:
    """Writes the bundle into a new folder; what it holds and what was left out, in Markdown.

    Raises:
        ValueError: the output exists, the corpus is none, a wheel is missing, or it is too large.
    """
    if output.exists():
        raise ValueError(f"{output} exists; remove it or choose another folder")
    packages = [*lacking(python, present), *wheels]
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary)
        remarks = sample(corpus, whole / corpus.name, rows or {}, seed)
        commit, dirty = pack_code(whole / "code.tar.gz")
        download(packages, python, whole)
        remarks += [f"{name}: {why}" for name, why in LEFT_OUT.items()]
        remarks += [f"{name}: said to be there" for name in (*PRESENT, *present)]
        remarks += [f"{dirty} files that differ from the commit"] * bool(dirty)
        facts = {"commit": commit, "python": python, "corpus": corpus.name, "left_out": remarks}
        (whole / "bundle.json").write_text(json.dumps(facts, indent=1))
        paths = [path for path in whole.rglob("*") if path.is_file()]
        sizes = {str(path.relative_to(whole)): path.stat().st_size for path in paths}
        placed = share_out(sizes, parts, limit)
        for name, part in placed.items():
            target = output / f"part-{part}" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(whole / name, target)
    told = [table(sizes, placed), "", f"Commit {commit}, Python {python}. Left out:", ""]
    return "\n".join([*told, *(f"- {remark}" for remark in remarks)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line; 2 after a mistake, told in one line."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_bundle", description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--corpus", type=Path, default=Path("data/mini_librispeech"))
    parser.add_argument("--python", default="3.12", help="of the machine; 3.12")
    parser.add_argument("--present", nargs="+", default=[], help="packages that the machine has")
    parser.add_argument("--wheels", nargs="+", default=[], help="NAME==VERSION: of others, too")
    parser.add_argument("--rows", nargs="+", default=[], help="SPLIT=NUMBER: a sample of a split")
    parser.add_argument("--seed", type=int, default=1, help="of the sample; 1")
    parser.add_argument("--parts", type=int, default=1, help="folders of at most --limit each; 1")
    parser.add_argument("--limit", type=float, default=60, help="megabytes of a part; 60")
    given = parser.parse_args(arguments)
    options = {
        name: getattr(given, name) for name in ("python", "present", "wheels", "seed", "parts")
    }
    try:
        limit = int(given.limit * MEGABYTE)
        print(bundle(given.output, given.corpus, rows=counts(given.rows), limit=limit, **options))
    except ValueError as error:
        print(f"gpu_bundle: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gpu_bundle: {error}; {remedy(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
