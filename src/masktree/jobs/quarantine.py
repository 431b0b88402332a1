"""Images that have failed too often: they are listed with their errors and not tried again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from masktree.errors import FormatError
from masktree.io.files import is_whole, parse_json, write_json
from masktree.io.photos import Photo
from masktree.jobs.batch import JobResult

QUARANTINE = "quarantine.json"
MAX_TRIES = 3  # of an image over all runs into a folder: errors that pass, as of a network, pass by then (our choice)
_WRITE_INTERVAL = 10.0  # seconds between updates of the file during a run (our choice)
_KEYS = {"name", "path", "tries", "error", "content"}


class Quarantine:
    """The images that have failed in the runs into a folder, in its quarantine.json.

    An image leaves it when it succeeds or when its file changes. Errors of the file system or the network are not
    counted: a full disk says nothing of an image.

    Args:
        folder: of quarantine.json.
        max_tries: images that have failed so often are not tried again.
        is_continued: whether the earlier runs into the folder count: they had the same configuration.

    Raises:
        FormatError: quarantine.json is damaged or of something else.
    """

    def __init__(self, folder: Path, max_tries: int = MAX_TRIES, *, is_continued: bool = True) -> None:
        self.path = folder / QUARANTINE
        self.max_tries = max_tries
        self._written = 0.0
        entries = _read(self.path)
        self._entries = {entry["name"]: entry for entry in entries} if is_continued else {}

    def held(self, photos: Sequence[Photo]) -> list[JobResult[Photo]]:
        """The failures, as before, of those that are not tried again; the files of these are hashed."""
        results = []
        for photo in photos:
            entry = self._entries.get(photo.name)
            if entry is None:
                continue
            if entry["content"] != photo.content_key():
                del self._entries[photo.name]
            elif entry["tries"] >= self.max_tries:
                results.append(JobResult(photo, 0.0, entry["error"], tries=0))
        return results

    def add(self, result: JobResult[Photo]) -> None:
        """Count a failure, or forget an image that has succeeded."""
        photo = result.item
        if result.error is None:
            self._entries.pop(photo.name, None)
            return
        tries = result.tries + (self._entries[photo.name]["tries"] if photo.name in self._entries else 0)
        self._entries[photo.name] = {
            "name": photo.name,
            "path": photo.location,
            "tries": tries,
            "error": result.error,
            "content": photo.content_key(),
        }
        if time.monotonic() - self._written > _WRITE_INTERVAL:
            with suppress(OSError):  # a full disk must not end the run; the last write raises
                self.write()

    def write(self) -> None:
        """Write the list; no file where there is nothing to list."""
        self._written = time.monotonic()
        if self._entries:
            write_json(self.path, [self._entries[name] for name in sorted(self._entries)], indent=1)
        else:
            self.path.unlink(missing_ok=True)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    entries = parse_json(path.read_bytes(), path)
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict)
        and entry.keys() == _KEYS
        and all(isinstance(entry[key], str) for key in ("name", "path", "error"))
        and is_whole(entry["tries"])
        for entry in entries
    ):
        raise FormatError(f"{path}: expected the list of images that failed; got something else; restore or delete it")
    return entries
