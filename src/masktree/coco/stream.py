"""The records of a COCO file, one at a time: what is in memory does not grow with the file.

A file of people's outlines of a large collection has gigabytes. It is read once from front to back, and of each
annotation only the place is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from masktree.coco.masks import REMEDY
from masktree.errors import FormatError, InputError

_BLOCK = 2**20  # bytes that are read at a time
_LARGEST = 2**28  # bytes of one record: more is damage, such as a quote that is never closed (our choice)
_DECODER = json.JSONDecoder()


class Record(NamedTuple):
    """A value at the top level of a JSON object (``key``, no ``place``), or number ``place`` of a list there.

    ``start`` and ``end``: the bytes of the file that hold it.
    """

    key: str
    place: int | None
    value: Any
    start: int
    end: int


def read_records(path: Path) -> Iterator[Record]:
    """The values of a JSON object, and the entries of its lists one by one; an empty list is a value.

    In ``value`` text is not decoded: where it matters, read the record's bytes again.

    Raises:
        InputError: no such file.
        FormatError: no JSON object, or a damaged one.
    """
    try:
        with path.open("rb") as handle:
            yield from _Reader(path, handle).members()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{path}: expected a JSON file; got none there; check the path") from error


class _Reader:
    """A window on a file. Bytes are taken for Latin-1, in which structure is the same and every place is one byte."""

    def __init__(self, path: Path, handle: BinaryIO) -> None:
        self.path, self.handle = path, handle
        self.text, self.at, self.base, self.ended = "", 0, 0, False
        self._grow(_BLOCK)
        self.at = 3 if self.text.startswith("\xef\xbb\xbf") else 0  # a byte order mark

    def members(self) -> Iterator[Record]:
        self._take("{")
        while self._peek() != "}":
            key, _, _ = self._value()
            if not isinstance(key, str):
                raise self._damaged("a key that is no text")
            self._take(":")
            if self._peek() == "[":
                yield from self._entries(key)
            else:
                yield Record(key, None, *self._value())
            self._separate("}")
        self._take("}")

    def _entries(self, key: str) -> Iterator[Record]:
        self._take("[")
        index, start = 0, self.base + self.at - 1
        if self._peek() == "]":
            yield Record(key, None, [], start, self.base + self.at + 1)
        while self._peek() != "]":
            yield Record(key, index, *self._value())
            index += 1
            self._separate("]")
        self._take("]")

    def _separate(self, closing: str) -> None:
        """Past a comma, unless the end comes next."""
        if self._peek() == closing:
            return
        self._take(",")
        if self._peek() == closing:
            raise self._damaged("a comma before the end")

    def _value(self) -> tuple[Any, int, int]:
        """Any value with its first byte and the one after its last."""
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except RecursionError as error:
                raise self._damaged("brackets too deep") from error
            except json.JSONDecodeError as error:
                if self.ended or len(self.text) - self.at > _LARGEST:
                    raise self._damaged(error.msg) from error
            else:
                if self.ended or end < len(self.text):  # a number may go on
                    place = (self.base + self.at, self.base + end)
                    self.at = end
                    return value, *place
            self._grow(max(_BLOCK, len(self.text) - self.at))

    def _peek(self) -> str:
        """The next character that is no white space, without passing it; empty at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self._grow(_BLOCK)

    def _take(self, character: str) -> None:
        got = self._peek()
        if got != character:
            raise self._damaged(f"{got!r} instead of {character!r}" if got else "the end of the file")
        self.at += 1

    def _grow(self, size: int) -> None:
        """Forget what was passed, read on."""
        block = self.handle.read(size)
        self.ended = not block
        self.text = self.text[self.at :] + block.decode("latin-1")
        self.base, self.at = self.base + self.at, 0

    def _damaged(self, got: str) -> FormatError:
        return FormatError(
            f"{self.path}: expected a JSON object, as COCO has it; got {got} at byte {self.base + self.at}; {REMEDY}"
        )
