"""The file of edits: a header, then one JSON object per line, appended and flushed to disk before it counts.

Layout (version 1)::

    {"format": "masktree-edits", "version": 1, "tree": "SHA-256 of the tree file"}
    {"op": "merge", "ids": [3, 7]}
    {"op": "undo"}

A line without its end was never acknowledged: it is what a killed process leaves, and it is dropped.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from masktree.errors import FormatError, InputError, MasktreeWarning
from masktree.io.files import check_writable, parse_json, sha256_of

SUFFIX = ".edits.jsonl"
FORMAT, VERSION = "masktree-edits", 1
MAX_LINE_BYTES = 2**24  # of an edit: the run lengths of a mask on 100 megapixels have some 100 kB (our choice)
_LOCK = ".edits.lock"  # beside the file: held while a line is appended
_LOCK_SECONDS = 10


def log_path(tree_file: Path) -> Path:
    """Where the edits of a tree file are: ``photo.edits.jsonl`` beside ``photo.json``."""
    return tree_file.with_name(tree_file.name.removesuffix(".json") + SUFFIX)


def refuse_edited(tree_files: Iterable[Path]) -> None:
    """Raise InputError if a tree file that would be replaced has edits, which belong to no other tree."""
    logs = [log_path(path) for path in tree_files if path.exists() and log_path(path).exists()]
    if logs:
        more = f" and {len(logs) - 1} more" if len(logs) > 1 else ""
        raise InputError(
            f"expected trees without edits where trees are replaced; got {logs[0]}{more}, which would be of no use; "
            "export the corrected masks, then move the files of edits away, or choose another output folder"
        )


def count_edits(tree_file: Path) -> int:
    """Number of edits beside a tree file, from the number of lines."""
    path = log_path(tree_file)
    return max(path.read_bytes().count(b"\n") - 1, 0) if path.is_file() else 0


class EditLog:
    """The edits of one tree file. Reading changes nothing; the file is made by the first edit.

    Attributes:
        path: of the file.
        edits: that it held when it was opened, in their order.
    """

    def __init__(self, tree_file: Path) -> None:
        """Read the edits of a tree file, if it has any.

        Raises:
            InputError: damaged, or the edits of another tree.
        """
        self.path = log_path(tree_file)
        self.edits: list[Any] = []
        self._tree_file = tree_file
        self._tree_stat = _stat(tree_file)
        self._tree_hash = sha256_of(tree_file)
        self._size = 0  # bytes of whole lines
        if self.path.exists():
            self._read()

    @property
    def num_bytes(self) -> int:
        """Of the lines that count."""
        return self._size

    def append(self, edit: dict[str, Any]) -> None:
        """Write an edit; when this returns it is on the disk.

        Raises:
            InputError: too long, the file or its tree was changed by another program, or it cannot be written.
        """
        line = encode(edit)
        with _locked(self.path):
            self._check_unchanged()
            is_new = self._size == 0
            head = {"format": FORMAT, "version": VERSION, "tree": self._tree_hash}
            data = (encode(head) if is_new else b"") + line
            try:
                self._write(data, is_new)
            except OSError as error:
                raise InputError(
                    f"expected to write to {self.path}; got {error.strerror or error}; the edit was not made: make "
                    "room or change the permissions, and repeat it"
                ) from error
            self._size += len(data)

    def _write(self, data: bytes, is_new: bool) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        with open(descriptor, "r+b", buffering=0) as handle:
            try:
                handle.truncate(self._size)  # what a killed process has left
                handle.seek(self._size)
                written = 0
                while written < len(data):
                    written += handle.write(data[written:])
                os.fsync(handle.fileno())
            except BaseException:
                with suppress(OSError):
                    handle.truncate(self._size)
                raise
        if is_new:
            _sync_folder(self.path.parent)

    def _check_unchanged(self) -> None:
        """Raise InputError if another program has appended, or has written another tree."""
        content = self.path.read_bytes() if self.path.exists() else b""
        if len(content) < self._size or b"\n" in content[self._size :]:
            raise InputError(f"expected {self.path} as it was read; got another program's edits; open the tree again")
        if _stat(self._tree_file) != self._tree_stat:
            if not self._tree_file.exists() or sha256_of(self._tree_file) != self._tree_hash:
                raise InputError(f"expected {self._tree_file} as it was read; got another tree; open it again")
            self._tree_stat = _stat(self._tree_file)

    def _read(self) -> None:
        *lines, rest = self.path.read_bytes().split(b"\n")
        if rest:
            text = f"{self.path}: the last line has no end, which a killed process leaves: it is dropped"
            warnings.warn(text, MasktreeWarning, stacklevel=4)
        for number, line in enumerate(lines, start=1):
            try:
                value = parse_json(line, f"line {number}")
                if number == 1:
                    self._check_header(value)
                    continue
            except FormatError as error:
                raise InputError(f"{self.path}: {error}") from error
            self.edits.append(value)
        self._size = sum(len(line) + 1 for line in lines)

    def _check_header(self, header: Any) -> None:
        if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") != VERSION:
            raise InputError(
                f"{self.path}, line 1: expected edits of masktree, version {VERSION}; got something else; move the "
                "file away, or use the masktree that wrote it"
            )
        if header.get("tree") != self._tree_hash:
            raise InputError(
                f"{self.path}: expected the edits of {self._tree_file.name}; got those of another tree of that "
                "name, which was segmented again since; move the file of edits away to begin anew"
            )


def encode(edit: dict[str, Any]) -> bytes:
    """An edit as a line.

    Raises:
        InputError: values that JSON does not have, or too long.
    """
    try:
        line = json.dumps(edit, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"expected an edit of text, lists and finite numbers, as JSON has them; got others ({error})"
        ) from error
    if len(line) > MAX_LINE_BYTES:
        raise InputError(f"expected an edit of at most {MAX_LINE_BYTES:,} bytes; got {len(line):,}; use simpler shapes")
    return line


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock for appending to a file of edits."""
    from filelock import FileLock, Timeout

    check_writable(path)
    try:
        with FileLock(path.with_name(_LOCK), timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise InputError(f"expected {path} free for writing; got another program writing to it; try again") from error
    except PermissionError as error:
        raise InputError(
            f"expected a folder that you may write to; got {path.parent}; change its permissions"
        ) from error


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _sync_folder(folder: Path) -> None:
    """Flush the entry of a new file to disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
