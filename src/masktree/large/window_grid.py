"""Overlapping windows of one size that cover an image, or a reduced copy of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from masktree.io.windows import Window


@dataclass(frozen=True)
class WindowGrid:
    """Windows of at most ``side`` x ``side`` pixels at equal distances, row by row.

    Attributes:
        size: (height, width) of the image.
        side: of a window, in pixels.
        overlap: pixels that neighbouring windows share, at least.
    """

    size: tuple[int, int]
    side: int
    overlap: int

    @cached_property
    def tops(self) -> list[int]:
        return _starts(self.size[0], self.side, self.overlap)

    @cached_property
    def lefts(self) -> list[int]:
        return _starts(self.size[1], self.side, self.overlap)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def window(self, index: int) -> Window:
        """The pixels of a window."""
        row, column = divmod(index, len(self.lefts))
        top, left = self.tops[row], self.lefts[column]
        return Window(top, left, min(top + self.side, self.size[0]), min(left + self.side, self.size[1]))

    def pairs(self) -> list[tuple[int, int, Window]]:
        """Neighbouring windows, also those at a corner, and what they share."""
        rows, columns = len(self.tops), len(self.lefts)
        pairs = []
        for index in range(len(self)):
            row, column = divmod(index, columns)
            for down, across in ((0, 1), (1, -1), (1, 0), (1, 1)):
                if row + down < rows and 0 <= column + across < columns:
                    other = (row + down) * columns + column + across
                    pairs.append((index, other, _shared(self.window(index), self.window(other))))
        return pairs

    def cutting(self, index: int) -> np.ndarray:
        """(4,) bool: whether the top, left, bottom and right side of a window lie inside the image."""
        top, left, bottom, right = self.window(index)
        return np.array([top > 0, left > 0, bottom < self.size[0], right < self.size[1]])


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(k * (length - side) / (count - 1)) for k in range(count)]


def _shared(one: Window, other: Window) -> Window:
    return Window(
        max(one.top, other.top), max(one.left, other.left), min(one.bottom, other.bottom), min(one.right, other.right)
    )
