"""The small folder that a slice leaves: everything but checkpoints, from which it can go on."""

import json
import shutil
import tarfile
from pathlib import Path

WEIGHTS = {".ckpt", ".safetensors"}


def pack(folder: Path, archive: Path) -> list[str]:
    """Writes the slice's folder into a tar; what was left out of it and why, a line each.

    Weights stay behind. A unit of a study that has no result yet stays behind whole, as without
    its checkpoint it begins anew, and must not find half of its account: the seconds that it had
    cost are named here.

    Raises:
        OSError: it cannot be written.
    """
    unfinished = {
        beat.parents[1]: json.loads(beat.read_text())["wall_seconds"]
        for beat in folder.rglob("heartbeat.json")
        if beat.parent.name == "run" and not (beat.parents[1] / "result.json").is_file()
    }
    left = [
        f"{unit.relative_to(folder)}: unfinished after {seconds:.0f} s, begins anew elsewhere"
        for unit, seconds in sorted(unfinished.items())
    ]
    weights = 0
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f".{archive.name}.partial")
    with tarfile.open(partial, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or unfinished.keys() & set(path.parents):
                continue
            if path.suffix in WEIGHTS:
                weights += path.stat().st_size
            elif not path.name.startswith("."):  # claims of processes, files half written
                tar.add(path, path.relative_to(folder))
    partial.replace(archive)
    return left + [f"weights and checkpoints, {weights / 1e6:.1f} MB"] * bool(weights)


def unpack(archive: Path, folder: Path) -> bool:
    """Fills the slice's folder from the tar of an earlier call; False where there is nothing to do.

    A folder that is there is newer, and left as it is.

    Raises:
        ValueError: the archive is damaged.
    """
    if folder.exists() or not archive.is_file():
        return False
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        why = str(error).splitlines()[0].rstrip(":")
        raise ValueError(f"{archive} is damaged ({why}); remove it to begin anew") from None
    partial.rename(folder)
    return True
