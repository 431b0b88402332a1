"""A view pixel by pixel: where its centre falls on the photograph, in exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from masktree.train.geometry import Geometry


def seen_pixel(geometry: Geometry, y: int, x: int) -> tuple[int, int] | None:
    """The photograph's pixel under the centre of pixel (y, x) of the view; None in the padding."""
    row, column = y + geometry.offset[0], x + geometry.offset[1]
    height, width = geometry.resized
    if not (0 <= row < height and 0 <= column < width):
        return None
    if geometry.flipped:
        column = width - 1 - column
    half = Fraction(1, 2)
    return (
        math.floor((row + half) * geometry.size[0] / height),
        math.floor((column + half) * geometry.size[1] / width),
    )


def seen_mask(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The view of an (H, W) mask."""
    result = np.zeros(geometry.window, bool)
    for y in range(geometry.window[0]):
        for x in range(geometry.window[1]):
            at = seen_pixel(geometry, y, x)
            result[y, x] = at is not None and mask[at]
    return result


def seen_through(mask: np.ndarray, whole: Geometry, view: Geometry) -> np.ndarray:
    """A mask of a view of all of a photograph, in another view: the pixel of it under the centre of each pixel."""
    half, result = Fraction(1, 2), np.zeros(view.window, bool)
    for y in range(view.window[0]):
        for x in range(view.window[1]):
            # Where on the photograph, as fractions of its sides.
            down = (y + view.offset[0] + half) / view.resized[0]
            across = (x + view.offset[1] + half) / view.resized[1]
            if not (0 <= down < 1 and 0 <= across < 1):
                continue
            if view.flipped:
                across = 1 - across
            if whole.flipped:
                across = 1 - across
            result[y, x] = mask[math.floor(down * whole.window[0]), math.floor(across * whole.window[1])]
    return result
