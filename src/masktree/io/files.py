"""Atomic writing, reading and locking of masktree's own files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeGuard

from masktree.errors import FormatError, InputError

LOCK = ".lock"  # name of the lock file of an output folder
_PARTIAL = re.compile(r"\.[0-9a-f]{16}(\.[0-9a-f]{8})?\.partial")

_writer = ""  # of this process, see ``name_writer``


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call ``write(handle)`` on a temporary file beside ``path``, flush it to disk and rename it to ``path``.

    A full disk or an exception leaves an existing ``path`` untouched and removes the temporary file; one that a killed
    process leaves behind is replaced by the next write to the same path. The temporary name is a short hash, so that
    it fits wherever ``path`` does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{hashlib.sha1(os.fsencode(path.name)).hexdigest()[:16]}{_writer}.partial")
    try:
        with temporary.open("wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def name_writer(name: str) -> None:
    """Give the temporary files of this process names of its own: 8 hexadecimal digits.

    For processes on several machines, where one that is believed dead may write the same file as its successor. What
    they leave behind is removed by ``remove_partial_files``.
    """
    global _writer
    _writer = f".{name}"


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that killed processes have left below a folder."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if _PARTIAL.fullmatch(name):
                Path(parent, name).unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write JSON atomically, as ASCII so that it can hold file names of any encoding; numbers must be finite."""
    text = json.dumps(value, allow_nan=False, indent=indent)
    write_atomically(path, lambda handle: handle.write(text.encode("ascii")))


def write_json_lists(path: Path, head: Mapping[str, Any], lists: Mapping[str, Iterable[Any]]) -> None:
    """Write a JSON object of ``head`` and then ``lists``, atomically; records are taken one at a time."""

    def write(handle: IO[bytes]) -> None:
        separator = b"{"
        for key, value in head.items():
            handle.write(separator + json.dumps({key: value}, allow_nan=False)[1:-1].encode())
            separator = b", "
        for key, records in lists.items():
            handle.write(separator + f'"{key}": ['.encode())
            separator = b", "
            for number, record in enumerate(records):
                handle.write(b", " * bool(number) + json.dumps(record, allow_nan=False).encode())
            handle.write(b"]")
        handle.write(b"}")

    write_atomically(path, write)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"the number {name}, which JSON does not have")


_DECODER, _STRICT_DECODER = json.JSONDecoder(), json.JSONDecoder(parse_constant=_refuse_constant)


def parse_json(data: bytes, where: object, *, strict: bool = True) -> Any:
    """The value of a JSON text. A number beyond the range of float64 becomes infinity: check it where it is used.

    Args:
        data: UTF-8; with a byte order mark also UTF-16 and UTF-32.
        where: file, for messages.
        strict: refuse NaN and infinity, which JSON does not have; other tools' files may hold them.

    Raises:
        FormatError: damaged text, NaN or infinity, a whole number of more than 4300 digits, brackets too deep.
    """
    try:
        decoder = _STRICT_DECODER if strict else _DECODER
        return decoder.decode(data.decode(json.detect_encoding(data), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: expected JSON; got a damaged file ({error}); restore or delete it") from error


def is_number(value: object, low: float = -1e15, high: float = 1e15) -> bool:
    """Whether a JSON value is a number in [low, high]: not NaN, and not a boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: object, low: int = 0, high: int = 2**53) -> TypeGuard[int]:
    """Whether a JSON value is a whole number in [low, high], and not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_relative_path(value: object) -> bool:
    """Whether a JSON value is the POSIX path of a file below some folder, which it does not leave."""
    if not isinstance(value, str) or "\0" in value:
        return False
    path = PurePosixPath(value)
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return bool(path.name) and not path.is_absolute() and ".." not in path.parts


def read_json(path: Path, expected: dict[str, type]) -> dict[str, Any]:
    """Read one of masktree's JSON files: an object with at least the expected keys, of the expected types.

    Raises:
        FormatError: no JSON, not an object, or a key is missing or has another type.
    """
    value = parse_json(path.read_bytes(), path)
    missing = [
        key
        for key, kind in expected.items()
        if not isinstance(value, dict)
        or not isinstance(value.get(key), kind)
        or (kind is int and isinstance(value[key], bool))
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


def has_sha256(path: Path, expected: object) -> bool:
    """Whether a file has that hash; also true for one that cannot be read any more, whose results are kept."""
    try:
        return sha256_of(path) == expected
    except OSError:
        return True


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make ``folder`` and lock it for this process; the operating system releases the lock if the process is killed.

    The lock is on the hidden file ``.lock``, which stays: if it were removed, a process that has opened it and one that
    makes it anew could both hold a lock.

    Raises:
        InputError: another process holds the lock, or there can be no such folder that is written to.
    """
    from filelock import FileLock, Timeout

    check_writable(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except PermissionError as error:
        raise _not_writable(folder) from error
    except Timeout as error:
        raise InputError(f"expected a folder that no other run writes to; got {folder}; wait for that run") from error
    try:
        yield
    finally:
        lock.release()


def check_writable(path: Path) -> None:
    """Raise InputError unless a file can be written at ``path``, in folders that may have to be made; makes nothing."""
    if path.is_dir():
        raise InputError(f"expected the name of a file to write; got the folder {path}; add a name")
    above = path.parent
    while not above.exists() and above != above.parent:
        if above.is_symlink():
            raise InputError(f"expected a folder to write to; got {above}, a link to nothing; choose another")
        above = above.parent
    if not above.is_dir():
        raise InputError(f"expected a folder to write to; got the file {above}; choose another name")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _not_writable(above)


def _not_writable(folder: Path) -> InputError:
    return InputError(
        f"expected a folder that you may write to; got {folder}; choose another output, or change its permissions"
    )


def check_locked(folder: Path) -> None:
    """Raise InputError if a folder that this process has locked was removed or moved away meanwhile."""
    if not (folder / LOCK).exists():
        raise InputError(
            f"expected the output folder {folder} to stay while the run writes to it; got it removed or moved; run the "
            "same command again: results that are still there are kept"
        )


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise InputError if a file or folder to write is one to read, or a folder to write to holds one to read.

    Paths are compared after symbolic links are resolved; an output need not exist.
    """
    read = [(path, Path(os.path.realpath(path))) for path in inputs]
    for output in outputs:
        written = Path(os.path.realpath(output))
        for path, real in read:
            if (
                real == written
                or written in real.parents
                or (output.exists() and path.exists() and output.samefile(path))
            ):
                raise InputError(
                    f"expected an output apart from the inputs; got {output} for the output and {path} for an input; "
                    "choose another output"
                )


def remove_empty_folders(folder: Path) -> None:
    """Remove ``folder`` and the folders in it as far as they hold no files."""
    for parent, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty
            os.rmdir(parent)
