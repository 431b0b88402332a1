"""Set arithmetic on the runs of single masks, and masks drawn by hand as runs.

A ``RunSet`` is what :class:`masktree.trees.rle.Runs` holds of one mask. Every function takes time in proportion to the
number of runs, about the height of an object's box times its number of pieces, not to its pixels: this is what makes
corrections of one mask among a thousand on 16 megapixels a matter of milliseconds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.trees import rle
from masktree.types import checked

_MAX_CROSSINGS = 2**22  # of a polygon's edges with columns: 64 MB while they are sorted (our choice)


class RunSet(NamedTuple):
    """Foreground runs of one mask: half-open column-major pixel intervals, ascending, disjoint, never adjacent."""

    starts: Int64[np.ndarray, " r"]
    ends: Int64[np.ndarray, " r"]

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int((self.ends - self.starts).sum())

    def encode(self, size: tuple[int, int]) -> bytes:
        """Compressed COCO run-length string in an image of ``size`` (height, width)."""
        return rle.encode_runs(self.starts, self.ends, size)

    def box(self, height: int) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the smallest box around the pixels; zeros for none."""
        if len(self.starts) == 0:
            return 0, 0, 0, 0
        first, last = self.starts // height, (self.ends - 1) // height
        left, right = int(first[0]), int(last[-1])
        if np.any(first != last):  # a run that goes on in the next column has the first and the last row
            return left, 0, right - left + 1, height
        top, bottom = int((self.starts - first * height).min()), int((self.ends - 1 - first * height).max())
        return left, top, right - left + 1, bottom - top + 1


def decode_set(text: bytes, size: tuple[int, int]) -> RunSet:
    """The runs of a compressed string.

    Raises:
        InputError: damaged, or of another image size.
    """
    runs = rle.runs([text], size)
    return RunSet(runs.starts, runs.ends)


def unite(a: RunSet, b: RunSet) -> RunSet:
    """Pixels of either."""
    return RunSet(*_unite(*a, *b))


def intersect(a: RunSet, b: RunSet) -> RunSet:
    """Pixels of both."""
    return RunSet(*_intersect(*a, *b))


def subtract(a: RunSet, b: RunSet) -> RunSet:
    """Pixels of ``a`` that ``b`` does not have."""
    return RunSet(*_subtract(*a, *b))


def shared_area(a: RunSet, b: RunSet) -> int:
    """Number of pixels of both."""
    return int(_shared(*a, *b)[0])


@checked
def polygon_set(points: Float64[np.ndarray, "k 2"], size: tuple[int, int]) -> RunSet:
    """The pixels whose centres a closed polygon goes around: what a lasso that crosses itself encloses has no holes
    (rule of non-zero winding). Points may leave the image.

    Args:
        points: x and y of the corners in pixels; pixel (column, row) is the square from (column, row) to
            (column + 1, row + 1).
        size: (height, width).

    Raises:
        InputError: edges that are too long altogether.
    """
    x, y = points[:, 0], points[:, 1]
    first = np.clip(np.ceil(x - 0.5), 0, size[1]).astype(np.int64)
    crossings = int(np.abs(first - np.roll(first, -1)).sum())
    if crossings > _MAX_CROSSINGS:
        raise InputError(
            f"expected a polygon that crosses at most {_MAX_CROSSINGS:,} columns of pixels; got {crossings:,}; draw a "
            "simpler one"
        )
    keys, directions = _cross_columns(x, y, first, size[0], crossings)
    order = np.argsort(keys, kind="stable")
    return RunSet(*_wound(keys[order], directions[order], size[0]))


@checked
def line_set(points: Float64[np.ndarray, "k 2"], size: tuple[int, int]) -> RunSet:
    """The pixels of a line through ``points``, each of which touches the next one at an edge or a corner (8-connected);
    points may leave the image.

    Args:
        points: x and y in pixels, as for :func:`polygon_set`.
        size: (height, width).

    Raises:
        InputError: a line that is too long.
    """
    height, width = size
    steps = np.ceil(np.abs(np.diff(points, axis=0)).max(axis=1)).astype(np.int64) + 1
    if int(steps.sum()) > _MAX_CROSSINGS:
        raise InputError(
            f"expected a line of at most {_MAX_CROSSINGS:,} pixels; got {steps.sum():,}; draw a shorter one"
        )
    segments = np.repeat(np.arange(len(steps)), steps)
    fractions = (np.arange(len(segments)) - (np.cumsum(steps) - steps)[segments]) / steps[segments]
    along = points[segments] + fractions[:, None] * (points[segments + 1] - points[segments])
    pixels = np.floor(np.concatenate([along, points[-1:]])).astype(np.int64)
    pixels = pixels[((pixels >= 0) & (pixels < [width, height])).all(axis=1)]
    positions = np.unique(pixels[:, 0] * height + pixels[:, 1])
    breaks = np.flatnonzero(np.diff(positions) > 1)
    firsts = np.concatenate([[0], breaks + 1]).astype(np.int64)[: len(positions)]
    lasts = np.concatenate([breaks, [len(positions) - 1]]).astype(np.int64)[: len(positions)]
    return RunSet(positions[firsts], positions[lasts] + 1)


def split_columns(runs: RunSet, height: int) -> RunSet:
    """The same pixels in runs that end where their column does, which may thus be adjacent."""
    return RunSet(*_split_columns(*runs, height))


def components(runs: RunSet, height: int) -> Int64[np.ndarray, " r"]:
    """Number of the 4-connected component, from 0, of each of the runs of :func:`split_columns`."""
    return _components(*runs, height)


def nearest_owner(
    pixels: Int64[np.ndarray, " p"], runs: RunSet, owners: Int64[np.ndarray, " r"], size: tuple[int, int]
) -> tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]:
    """The owner of the nearest pixel of ``runs`` (of :func:`split_columns`), and its squared distance, for each of the
    pixels at column-major positions ``pixels``. At the same distance the one further left counts, then the upper."""
    columns = np.searchsorted(runs.starts, np.arange(size[1] + 1) * size[0])
    return _nearest_owner(pixels, *runs, owners, columns, size[0])


@kernel()
def _unite(
    starts_a: np.ndarray, ends_a: np.ndarray, starts_b: np.ndarray, ends_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    starts = np.empty(len(starts_a) + len(starts_b), np.int64)
    ends = np.empty(len(starts), np.int64)
    n, i, j = 0, 0, 0
    while i < len(starts_a) or j < len(starts_b):
        if j == len(starts_b) or (i < len(starts_a) and starts_a[i] <= starts_b[j]):
            start, end = starts_a[i], ends_a[i]
            i += 1
        else:
            start, end = starts_b[j], ends_b[j]
            j += 1
        if n and start <= ends[n - 1]:
            ends[n - 1] = max(ends[n - 1], end)
        else:
            starts[n], ends[n] = start, end
            n += 1
    return starts[:n].copy(), ends[:n].copy()


@kernel()
def _intersect(
    starts_a: np.ndarray, ends_a: np.ndarray, starts_b: np.ndarray, ends_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    starts = np.empty(len(starts_a) + len(starts_b), np.int64)
    ends = np.empty(len(starts), np.int64)
    n, i, j = 0, 0, 0
    while i < len(starts_a) and j < len(starts_b):
        start, end = max(starts_a[i], starts_b[j]), min(ends_a[i], ends_b[j])
        if start < end:
            starts[n], ends[n] = start, end
            n += 1
        if ends_a[i] < ends_b[j]:
            i += 1
        else:
            j += 1
    return starts[:n].copy(), ends[:n].copy()


@kernel()
def _subtract(
    starts_a: np.ndarray, ends_a: np.ndarray, starts_b: np.ndarray, ends_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    starts = np.empty(len(starts_a) + len(starts_b), np.int64)
    ends = np.empty(len(starts), np.int64)
    n, j = 0, 0
    for i in range(len(starts_a)):
        start, end = starts_a[i], ends_a[i]
        while j < len(starts_b) and ends_b[j] <= start:
            j += 1
        k = j
        while k < len(starts_b) and starts_b[k] < end:
            if start < starts_b[k]:
                starts[n], ends[n] = start, starts_b[k]
                n += 1
            start = ends_b[k]
            k += 1
        if start < end:
            starts[n], ends[n] = start, end
            n += 1
    return starts[:n].copy(), ends[:n].copy()


@kernel()
def _shared(
    starts_a: np.ndarray, ends_a: np.ndarray, starts_b: np.ndarray, ends_b: np.ndarray
) -> np.ndarray:  # pragma: no cover
    total = np.zeros(1, np.int64)
    if len(starts_a) == 0 or len(starts_b) == 0:
        return total
    i = np.searchsorted(ends_a, starts_b[0], side="right")
    j = np.searchsorted(ends_b, starts_a[0], side="right")
    while i < len(starts_a) and j < len(starts_b):
        total[0] += max(np.int64(0), min(ends_a[i], ends_b[j]) - max(starts_a[i], starts_b[j]))
        if ends_a[i] < ends_b[j]:
            i += 1
        else:
            j += 1
    return total


@kernel()
def _cross_columns(
    x: np.ndarray, y: np.ndarray, first: np.ndarray, height: int, count: int
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """For each crossing of an edge with the centre line of a column: column * (height + 1) + the first row of centres
    below it, and whether the edge goes right (1) or left (-1)."""
    keys, directions = np.empty(count, np.int64), np.empty(count, np.int8)
    n = 0
    for i in range(len(x)):
        k = i + 1 if i + 1 < len(x) else 0
        direction = 1 if first[i] < first[k] else -1
        slope = (y[k] - y[i]) / (x[k] - x[i]) if first[i] != first[k] else 0.0
        for column in range(min(first[i], first[k]), max(first[i], first[k])):
            row = np.ceil(y[i] + (column + 0.5 - x[i]) * slope - 0.5)
            keys[n] = column * (height + 1) + np.int64(min(max(row, 0.0), float(height)))
            directions[n] = direction
            n += 1
    return keys, directions


@kernel()
def _wound(keys: np.ndarray, directions: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """Runs between crossings in the order of their keys where the winding number is not zero."""
    starts, ends = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    n, winding = 0, 0
    for i in range(len(keys) - 1):
        winding += directions[i]
        if winding == 0:
            continue
        column = keys[i] // (height + 1)  # every column is left with a winding number of 0
        start, end = keys[i] - column, keys[i + 1] - column
        if start == end:
            continue
        if n and ends[n - 1] == start:
            ends[n - 1] = end
        else:
            starts[n], ends[n] = start, end
            n += 1
    return starts[:n].copy(), ends[:n].copy()


@kernel()
def _split_columns(
    starts: np.ndarray, ends: np.ndarray, height: int
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    count = 0
    for i in range(len(starts)):
        count += (ends[i] - 1) // height - starts[i] // height + 1
    out_starts, out_ends = np.empty(count, np.int64), np.empty(count, np.int64)
    n = 0
    for i in range(len(starts)):
        start = starts[i]
        while start < ends[i]:
            end = min((start // height + 1) * height, ends[i])
            out_starts[n], out_ends[n] = start, end
            n += 1
            start = end
    return out_starts, out_ends


@kernel()
def _components(starts: np.ndarray, ends: np.ndarray, height: int) -> np.ndarray:  # pragma: no cover
    parents = np.arange(len(starts))
    j = 0
    for i in range(len(starts)):
        while ends[j] <= starts[i] - height:
            j += 1
        k = j
        while starts[k] < ends[i] - height:  # ends before i, whose own start is not below its shifted end
            a, b = i, k
            while parents[a] != a:
                parents[a] = parents[parents[a]]
                a = parents[a]
            while parents[b] != b:
                parents[b] = parents[parents[b]]
                b = parents[b]
            parents[max(a, b)] = min(a, b)
            k += 1
    labels = np.empty(len(starts), np.int64)
    count = 0
    for i in range(len(starts)):  # a root is the first of its runs
        if parents[i] == i:
            labels[i] = count
            count += 1
        else:
            labels[i] = labels[parents[i]]
    return labels


@kernel()
def _nearest_owner(
    pixels: np.ndarray, starts: np.ndarray, ends: np.ndarray, owners: np.ndarray, columns: np.ndarray, height: int
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    width = len(columns) - 1
    found, distances = np.full(len(pixels), -1, np.int64), np.full(len(pixels), 2**62, np.int64)
    for i in range(len(pixels)):
        x, y = pixels[i] // height, pixels[i] % height
        for dx in range(width):
            if dx * dx >= distances[i]:
                break
            for side in range(2 if dx else 1):
                column = x - dx if side == 0 else x + dx
                if column < 0 or column >= width:
                    continue
                for k in range(columns[column], columns[column + 1]):
                    top, bottom = starts[k] - column * height, ends[k] - 1 - column * height
                    dy = top - y if y < top else (y - bottom if y > bottom else 0)
                    if dx * dx + dy * dy < distances[i]:
                        distances[i] = dx * dx + dy * dy
                        found[i] = owners[k]
    return found, distances
