"""Reading and writing our own files so that no half-written file is ever read as a result."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from masktree.errors import FormatError, InputError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call ``write(handle)`` on a temporary file beside ``path``, flush it to disk, then rename it.

    A full disk or an exception leaves an earlier ``path`` untouched and no temporary file behind; what a kill leaves
    behind is replaced by the next write of the same path. The temporary name is short, so that any name that the file
    system takes can be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{hashlib.sha1(os.fsencode(path.name)).hexdigest()[:16]}.partial")
    try:
        with temporary.open("wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write JSON atomically, in ASCII, so that file names of any encoding fit; numbers must be finite."""
    text = json.dumps(value, allow_nan=False, indent=indent)
    write_atomically(path, lambda handle: handle.write(text.encode("ascii")))


def read_json(path: Path, expected: dict[str, type]) -> dict[str, Any]:
    """Read one of our own JSON files, an object with at least the expected keys and types.

    Raises:
        FormatError: damaged, or something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path}: expected JSON; got a damaged file ({error}); restore or delete it") from error
    missing = [
        key for key, kind in expected.items() if not isinstance(value, dict) or not isinstance(value.get(key), kind)
    ]
    if missing:
        raise FormatError(
            f"{path}: expected a file of masktree with {', '.join(expected)}; got no proper {', '.join(missing)}; "
            "restore or delete it"
        )
    return value


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it even after a kill.

    Raises:
        InputError: another run is writing there.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"expected a folder that no other run writes to; got {folder}; wait for that run") from error
    try:
        yield
    finally:
        lock.release()
        (folder / ".lock").unlink(missing_ok=True)
