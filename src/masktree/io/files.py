"""Atomic writing, reading and locking of masktree's own files."""

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
    """Call ``write(handle)`` on a temporary file beside ``path``, flush it to disk and rename it to ``path``.

    A full disk or an exception leaves an existing ``path`` untouched and removes the temporary file; one that a killed
    process leaves behind is replaced by the next write to the same path. The temporary name is a short hash, so that
    it fits wherever ``path`` does.
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
    """Write JSON atomically, as ASCII so that it can hold file names of any encoding; numbers must be finite."""
    text = json.dumps(value, allow_nan=False, indent=indent)
    write_atomically(path, lambda handle: handle.write(text.encode("ascii")))


def read_json(path: Path, expected: dict[str, type]) -> dict[str, Any]:
    """Read one of masktree's JSON files: an object with at least the expected keys, of the expected types.

    Raises:
        FormatError: no JSON, not an object, or a key is missing or has another type.
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
    """Hex SHA-256 digest of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make ``folder`` and lock it for this process; the operating system releases the lock if the process is killed.

    Raises:
        InputError: another process holds the lock.
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
