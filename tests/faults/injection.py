"""Faults of the file system, injected into this process: the end of the process at a given change, and a full disk."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from masktree.errors import MasktreeError

_CHANGES = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync")


class CrashError(BaseException):
    """Stands for kill -9; it is no Exception, so that nothing handles it."""


@contextlib.contextmanager
def crash_at(number: int) -> Iterator[None]:
    """Raise CrashError instead of the ``number``-th change of the file system, from 1, and of every later one.

    As after kill -9, no handler can tidy up: its changes fail too. Files that are open keep what was written.
    """
    counter = itertools.count(1)

    def guard(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(counter) >= number:
                raise CrashError
            return change(*arguments, **options)

        return call

    with _patched(guard):
        yield


@contextlib.contextmanager
def disk_full_after(number: int) -> Iterator[None]:
    """Let only ``number`` files reach the disk; flushing a further one fails as on a full disk.

    The run may end in an error that says so, and in no other.
    """
    counter = itertools.count(1)
    fsync = os.fsync

    def call(descriptor: int) -> None:
        if next(counter) > number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    try:
        with mock.patch.object(os, "fsync", call):
            yield
    except (OSError, MasktreeError) as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise


def count_changes(action: Callable[[], object]) -> int:
    """Number of changes of the file system that ``action`` makes."""
    counter = itertools.count()

    def guard(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            next(counter)
            return change(*arguments, **options)

        return call

    with _patched(guard):
        action()
    return next(counter)


@contextlib.contextmanager
def _patched(guard: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in _CHANGES:
            stack.enter_context(mock.patch.object(os, name, guard(getattr(os, name))))
        yield


def files(folder: Path) -> dict[str, bytes]:
    """Content of all files below a folder by name, without the lock and what killed processes leave behind."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and path.suffix != ".partial"
    }
