"""Downloads archives: resumes, verifies checksums, and unpacks completely or not at all."""

import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60


def fetch(url: str, folder: Path, *, sha256: str = "") -> Path:
    """Downloads ``url`` to ``folder``, resuming an interrupted download; returns the file.

    Raises:
        ValueError: the checksum of the file is not the published one.
        OSError: the file cannot be downloaded or written; the next call resumes.
    """
    target = folder / url.rsplit("/", 1)[-1]
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    try:
        _continue(url, partial)
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # an error of the disk
        raise OSError(
            f"{url}: the download failed ({getattr(error, 'reason', error)}); run the command again"
            " to resume, or give a copy on this machine: --path FOLDER"
        ) from None
    if sha256 and (found := checksum(partial)) != sha256:
        partial.unlink()
        raise ValueError(
            f"{url}: the download has SHA-256 {found}, not {sha256} and was removed; try again"
        )
    os.replace(partial, target)
    return target


def _continue(url: str, partial: Path) -> None:
    """Downloads the missing end of ``partial``."""
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or start == 0:
            raise
        # The server has nothing left to send: the partial file has all bytes or too many.
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return
        partial.unlink()
        raise OSError(f"the part of {start} bytes does not fit the file, it was removed") from None
    with response:
        resumed = getattr(response, "status", None) == 206
        done = start if resumed else 0
        left = response.headers.get("Content-Length")
        total = None if left is None else done + int(left)
        form = {"initial": done, "total": total, "unit": "B", "unit_scale": True, "disable": None}
        with partial.open("ab" if resumed else "wb") as file, tqdm(desc="download", **form) as bar:
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                done += len(block)
                bar.update(len(block))
    if total is not None and done != total:
        raise OSError(f"{done} of {total} bytes arrived")


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, inner: str, target: Path) -> None:
    """Extracts to ``target`` the folder of a zip or tar archive whose path ends in ``inner``.

    Raises ValueError if the archive is damaged or holds no such folder.
    """
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=archive.parent) as unpacked:
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(unpacked)  # checks every member's CRC
            else:
                with tarfile.open(archive) as packed_tar:
                    packed_tar.extractall(unpacked, filter="data")
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk is full, for instance
            why = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
            raise ValueError(f"{archive} is damaged ({why}); remove it and try again") from None
        found = next(Path(unpacked).rglob(inner), None)
        if found is None:
            raise ValueError(f"{archive} holds no {inner}; remove it and try again")
        target.parent.mkdir(exist_ok=True)
        os.replace(found, target)
