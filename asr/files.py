"""Files that are there whole or not at all."""

import contextlib
import os
import threading
from pathlib import Path


def write(path: Path, text: str) -> None:
    """A reader, a crash or a full disk never sees or leaves half a file.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror})") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
