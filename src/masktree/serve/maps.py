"""What the page draws masks with: for each pixel the smallest mask on it, and the leaves of the dendrogram.

One label map and the parents of the masks give the chain of masks under the pointer; where masks overlap without being
nested, a list says what the chain does not reach. Images are worked on in strips of columns, so that memory does not
grow with them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from masktree.kernels import kernel
from masktree.trees import rle
from masktree.trees.decimals import ceil_float32
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree

MAX_MAP_PIXELS = 16_000_000  # of a map: 64 MB in the browser (our choice)
_STRIP_PIXELS = 2**22  # worked on at a time (our choice)


@dataclass(frozen=True)
class SmallestMasks:
    """For each pixel the smallest mask on it.

    Attributes:
        labels: (h, w) little-endian uint32: 0 for none, else 1 + id of the mask.
        factor: pixel (y, x) is pixel (factor * y + factor // 2, factor * x + factor // 2) of the image, or the last.
        left, top: the map's column and row at its left and upper border; 0 unless it is that of a box.
    """

    labels: np.ndarray
    factor: int
    left: int = 0
    top: int = 0


def reduction(size: tuple[int, int]) -> int:
    """The least whole factor by which an image of (height, width) has at most ``MAX_MAP_PIXELS``."""
    factor = 1
    while math.prod(reduced_size(size, factor)) > MAX_MAP_PIXELS:
        factor += 1
    return factor


def reduced_size(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """(height, width) of a map that is reduced by a factor."""
    return -(-size[0] // factor), -(-size[1] // factor)


def smallest_masks(
    tree: MaskTree, ids: Sequence[int], box: tuple[int, int, int, int] | None = None
) -> SmallestMasks | None:
    """The map of a tree, in O(pixels of all masks), or the part of it in a box, in O(pixels of them in its columns).

    Args:
        tree: of N masks.
        ids: of each.
        box: (x, y, width, height) in pixels of the image; None for all of it.

    Returns:
        None if the reduced map has no pixel in the box.
    """
    height, width = tree.size
    factor = reduction(tree.size)
    x, y, wide, tall = (0, 0, width, height) if box is None else box
    rows, columns = _samples(height, factor), _samples(width, factor)
    top, bottom = np.searchsorted(rows, [y, y + tall]).tolist()
    first, last = np.searchsorted(columns, [x, x + wide]).tolist()
    if top == bottom or first == last:
        return None
    labels = np.zeros((bottom - top, last - first), "<u4")
    label_of = np.concatenate([[0], np.asarray(ids, np.int64) + 1]).astype("<u4")
    strip, runs, order = _strip_columns(height), rle.runs(tree.rles, tree.size), paint_order(tree)
    for left in range(x, x + wide, strip):
        right = min(left + strip, x + wide)
        begin, end = np.searchsorted(columns, [left, right]).tolist()
        if begin < end:
            owner = _paint_strip(runs, order, left * height, right * height).reshape(right - left, height)
            owner = owner[columns[begin:end] - left][:, rows[top:bottom]]
            labels[:, begin - first : end - first] = label_of[owner + 1].T
    return SmallestMasks(labels, factor, first, top)


def paint_order(tree: MaskTree) -> np.ndarray:
    """(N,) int64: masks from large to small, parents before children of the same size, so that the smallest one stays
    on top. Masks above that are larger do not matter, so that an edit of them changes nothing elsewhere."""
    areas = tree.areas
    rank = np.zeros(len(tree), np.int64)  # number of ancestors of the same area
    for index in np.argsort(tree.depths, kind="stable"):
        parent = tree.parents[index]
        if parent >= 0 and areas[parent] == areas[index]:
            rank[index] = rank[parent] + 1
    return np.lexsort((rank, -areas))


def are_nested(tree: MaskTree) -> bool:
    """True if every mask lies in its parent, and masks of one parent, or of none, share no pixel: all masks at a pixel
    are then the ancestors of the smallest one. In O(runs), a tenth of the time of :func:`overlaps`."""
    runs = rle.runs(tree.rles, tree.size)
    owners = np.repeat(np.arange(len(tree)), np.diff(runs.offsets))
    # Runs of the masks of one parent, one after the other by their starts
    keys = (tree.parents[owners].astype(np.int64) + 1) * math.prod(tree.size) + runs.starts
    order = np.argsort(keys, kind="stable")
    ends = keys[order] + (runs.ends - runs.starts)[order]
    if np.any(ends[:-1] > keys[order][1:]):
        return False
    for index, parent in enumerate(tree.parents.tolist()):
        if parent < 0:
            continue
        mine, above = (slice(runs.offsets[k], runs.offsets[k + 1]) for k in (index, parent))
        place = np.searchsorted(runs.starts[above], runs.starts[mine], side="right") - 1
        if np.any(place < 0) or np.any(runs.ends[above][place] < runs.ends[mine]):
            return False
    return True


def overlaps(tree: MaskTree, ids: Sequence[int]) -> list[dict[str, Any]]:
    """The parts of masks that are not on the chain of the smallest mask there; none where all masks are nested.

    Returns:
        One dictionary for each such mask: ``id``, ``bbox`` [x, y, width, height] in pixels of the image,
        ``counts`` lengths of alternating background and foreground runs of that box, down its columns.
    """
    height, width = tree.size
    if are_nested(tree):
        return []
    runs, order = rle.runs(tree.rles, tree.size), paint_order(tree)
    enter, leave = _intervals(tree)
    pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for left in range(0, width, strip := _strip_columns(height)):
        low, high = left * height, min(left + strip, width) * height
        owner = _paint_strip(runs, order, low, high)
        pieces.append(_unreached(owner, low, height, *runs, enter, leave))
    masks, starts, ends = (np.concatenate([piece[k] for piece in pieces]) for k in range(3))
    found = []
    for index in np.unique(masks).tolist():
        mine = masks == index
        found.append({"id": ids[index], **_crop(starts[mine], ends[mine], height)})
    return found


def overlaps_json(tree: MaskTree, ids: Sequence[int]) -> bytes:
    """The answer of the interface: ``{}`` or ``{"extra": [..]}``."""
    extra = overlaps(tree, ids)
    return json.dumps({"extra": extra} if extra else {}, separators=(",", ":")).encode()


def regions(dendrogram: PartitionTree) -> bytes:
    """The dendrogram for the slider, as little-endian numbers: uint32 number of leaves n, width, height and factor of
    the leaf map; (height, width) int32 leaves, row by row; (2n-1,) int32 parents; (2n-1,) float32 granularities."""
    factor = reduction(dendrogram.size)
    rows, columns = (_samples(side, factor) for side in dendrogram.size)
    leaves = dendrogram.leaves if factor == 1 else dendrogram.leaves[np.ix_(rows, columns)]
    head = np.array([dendrogram.n_leaves, len(columns), len(rows), factor], "<u4")
    arrays = (
        head,
        leaves.astype("<i4"),
        dendrogram.parents.astype("<i4"),
        ceil_float32(dendrogram.altitudes).astype("<f4"),
    )
    return b"".join(array.tobytes() for array in arrays)


def _samples(side: int, factor: int) -> np.ndarray:
    """The pixels of a side that a reduced map shows."""
    return np.minimum(np.arange(0, side, factor) + factor // 2, side - 1)


def _strip_columns(height: int) -> int:
    return max(1, _STRIP_PIXELS // height)


def _intervals(tree: MaskTree) -> tuple[np.ndarray, np.ndarray]:
    """(N,) ``enter`` and ``leave``: mask i is j or an ancestor of j if ``enter[i] <= enter[j] < leave[i]``."""
    n = len(tree)
    enter = np.zeros(n, np.int64)
    below = np.ones(n, np.int64)
    by_depth = np.argsort(tree.depths, kind="stable")
    for i in by_depth[::-1]:
        if tree.parents[i] >= 0:
            below[tree.parents[i]] += below[i]
    next_root, next_child = 0, np.zeros(n, np.int64)
    for i in by_depth:
        parent = tree.parents[i]
        if parent < 0:
            enter[i] = next_root
            next_root += below[i]
        else:
            enter[i] = enter[parent] + 1 + next_child[parent]
            next_child[parent] += below[i]
    return enter, enter + below


def _crop(starts: np.ndarray, ends: np.ndarray, height: int) -> dict[str, Any]:
    """Runs inside single columns as run lengths of their box."""
    columns, tops = starts // height, starts % height
    bottoms = tops + (ends - starts)
    left, top = int(columns.min()), int(tops.min())
    width, tall = int(columns.max()) + 1 - left, int(bottoms.max()) - top
    first = (columns - left) * tall + tops - top
    last = first + (ends - starts)
    joined = np.flatnonzero(first[1:] == last[:-1])
    first, last = np.delete(first, joined + 1), np.delete(last, joined)
    borders = np.concatenate([[0], np.stack([first, last], 1).ravel(), [width * tall]])
    counts = np.diff(borders)
    return {
        "bbox": [left, top, width, tall],
        "counts": (counts if counts[-1] else counts[:-1]).tolist(),
    }


def _paint_strip(runs: rle.Runs, order: np.ndarray, low: int, high: int) -> np.ndarray:
    """(high - low,) int32: the last of the masks ``order`` that contains each pixel of an interval, -1 for none."""
    owner = np.full(high - low, -1, np.int32)
    _paint(owner, low, *runs, order)
    return owner


@kernel()
def _first_run(ends: np.ndarray, begin: int, end: int, low: int) -> int:  # pragma: no cover
    """The first run from ``begin`` to ``end - 1`` that ends after ``low``."""
    while begin < end:
        middle = (begin + end) // 2
        if ends[middle] > low:
            end = middle
        else:
            begin = middle + 1
    return begin


@kernel()
def _paint(
    owner: np.ndarray, low: int, starts: np.ndarray, ends: np.ndarray, offsets: np.ndarray, order: np.ndarray
) -> None:  # pragma: no cover
    high = low + len(owner)
    for index in order:
        run = _first_run(ends, offsets[index], offsets[index + 1], low)
        while run < offsets[index + 1] and starts[run] < high:
            owner[max(starts[run], low) - low : min(ends[run], high) - low] = index
            run += 1


@kernel()
def _unreached(
    owner: np.ndarray,
    low: int,
    height: int,
    starts: np.ndarray,
    ends: np.ndarray,
    offsets: np.ndarray,
    enter: np.ndarray,
    leave: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """Mask, start and end of each run, inside a column, of pixels whose smallest mask does not have the mask in its
    chain."""
    high = low + len(owner)
    masks = [np.int64(0) for _ in range(0)]
    begins = [np.int64(0) for _ in range(0)]
    stops = [np.int64(0) for _ in range(0)]
    for index in range(len(offsets) - 1):
        run = _first_run(ends, offsets[index], offsets[index + 1], low)
        while run < offsets[index + 1] and starts[run] < high:
            position, stop = max(starts[run], low), min(ends[run], high)
            while position < stop:
                place = enter[owner[position - low]]
                if enter[index] <= place < leave[index]:
                    position += 1
                    continue
                begin = position
                column_end = min(stop, (position // height + 1) * height)
                while position < column_end:
                    place = enter[owner[position - low]]
                    if enter[index] <= place < leave[index]:
                        break
                    position += 1
                masks.append(np.int64(index))
                begins.append(np.int64(begin))
                stops.append(np.int64(position))
            run += 1
    return np.array(masks), np.array(begins), np.array(stops)
