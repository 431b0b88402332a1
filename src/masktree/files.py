"""Writing results so that no half-written file is ever read as one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from masktree.errors import FormatError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call ``write(handle)`` on a temporary file beside ``path``, flush it to disk, then rename it.

    A full disk, a kill or an exception leaves an earlier ``path`` untouched and no temporary file behind (but
    for a kill, after which the next write of the same path replaces it).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
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
    """Write JSON atomically; numbers must be finite, so that every reader accepts the file."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    write_atomically(path, lambda handle: handle.write(text.encode()))


def read_json(path: Path) -> Any:
    """Read one of our own JSON files.

    Raises:
        FormatError: damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: expected JSON; got a damaged file ({error}); delete it and run again") from error


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
