"""Files that are there whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_LONG = 100  # bytes; file systems allow names of 255, some of 143


@contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """Open a new binary file that takes the place of `path` at the end of the block, if that succeeds.

    It is written beside `path` under the name ``.{name}.{16 random digits}``, of a long name without its last
    characters, so that this one is not too long; it is flushed to the disk and renamed, so that whoever reads `path`
    sees the old content or the new one, also after a crash. It has the permissions of the old file. Where `path` is a
    symbolic link, its target is replaced.
    """
    path = Path(os.path.realpath(path))
    ending = f".{secrets.token_hex(8)}"
    name = path.name if len(os.fsencode(path.name)) < _LONG else path.name[: -len(ending) - 1]
    temporary = path.with_name(f".{name}{ending}")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.chmod(temporary, path.stat().st_mode & 0o777)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
