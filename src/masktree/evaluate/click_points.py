"""Where to click: inside a mask, and inside the largest error of a prediction."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.types import Mask, checked

_EIGHT_NEIGHBOURS = np.ones((3, 3), np.int8)


@checked
def farthest_point(mask: Mask) -> tuple[int, int]:
    """(x, y) of the pixel with the greatest Euclidean distance to the background, the first such row by row.

    What lies outside the image is background. O(H W), in 32-bit whole numbers: exact.

    Raises:
        InputError: an empty mask.
    """
    if not mask.any():
        raise InputError("expected a mask with a pixel; got an empty one; there is nothing to click on")
    return _deepest_point(mask, np.zeros((0, 2), np.int64))


def next_click(mask: np.ndarray, target: np.ndarray, clicked: np.ndarray) -> tuple[tuple[int, int], int] | None:
    """Centre of the largest error region with a pixel that is not clicked yet, and its label; None if there is none."""
    wrong = mask ^ target
    rows, columns = np.flatnonzero(wrong.any(1)), np.flatnonzero(wrong.any(0))
    if len(rows) == 0:
        return None
    top, left = int(rows[0]), int(columns[0])
    part = slice(top, rows[-1] + 1), slice(left, columns[-1] + 1)
    clicked = clicked - (left, top)
    y, x = clicked[((clicked >= 0) & (clicked < wrong[part].shape[::-1])).all(1)].T[::-1]
    regions = []
    for label, error in ((1, wrong[part] & target[part]), (0, wrong[part] & mask[part])):
        numbers, count = ndimage.label(error, _EIGHT_NEIGHBOURS)
        sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
        free = sizes - np.bincount(numbers[y, x], minlength=count + 1)[1:]
        if (free > 0).any():
            region = int(np.where(free > 0, sizes, 0).argmax())
            regions.append((int(sizes[region]), label, numbers, region + 1))
    if not regions:
        return None
    _, label, numbers, number = max(regions, key=lambda region: region[:2])  # of equal ones what is missing first
    x, y = _deepest_point(numbers == number, clicked)
    return (left + x, top + y), label


def _deepest_point(mask: np.ndarray, clicked: np.ndarray) -> tuple[int, int]:
    """(x, y) farthest from the background among the pixels that are not in ``clicked`` (n, 2) xy."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    squares = _squared_distances(np.ascontiguousarray(mask[top : rows[-1] + 1, left : columns[-1] + 1]))
    for x, y in clicked - (left, top):
        if 0 <= y < squares.shape[0] and 0 <= x < squares.shape[1]:
            squares[y, x] = 0
    y, x = np.unravel_index(int(squares.argmax()), squares.shape)
    return left + int(x), top + int(y)


@kernel()
def _squared_distances(mask: np.ndarray) -> np.ndarray:  # pragma: no cover
    """Squared Euclidean distance to the nearest background pixel, what is outside included: down and up the columns,
    then along each row the lower envelope of parabolas (Meijster et al. 2000, doi 10.1007/0-306-47025-X_36)."""
    height, width = mask.shape
    out = np.zeros((height, width), np.int64)
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                out[y, x] = 1 + (out[y - 1, x] if y else 0)
    for y in range(height - 1, -1, -1):
        for x in range(width):
            below = out[y + 1, x] if y + 1 < height else 0
            out[y, x] = min(out[y, x], below + 1)
    column = np.zeros(width + 2, np.int64)  # with one column of background on either side
    vertex = np.empty(width + 2, np.int64)
    start = np.empty(width + 2, np.int64)
    for y in range(height):
        column[1:-1] = out[y] ** 2
        last = 0
        vertex[0], start[0] = 0, 0
        for u in range(1, width + 2):
            while last >= 0:
                v, t = vertex[last], start[last]
                if (t - v) ** 2 + column[v] <= (t - u) ** 2 + column[u]:
                    break
                last -= 1
            if last < 0:
                last = 0
                vertex[0], start[0] = u, 0
                continue
            v = vertex[last]
            begin = 1 + (u * u - v * v + column[u] - column[v]) // (2 * (u - v))
            if begin < width + 2:
                last += 1
                vertex[last], start[last] = u, begin
        for x in range(width + 1, 0, -1):
            if x <= width:
                v = vertex[last]
                out[y, x - 1] = (x - v) ** 2 + column[v]
            if x == start[last]:
                last -= 1
    return out
