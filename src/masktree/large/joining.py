"""The masks of overlapping windows as masks of the image: what a border has cut is joined, seen whole, or left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from masktree.io.windows import Window
from masktree.large.window_grid import WindowGrid
from masktree.large.window_job import WindowMasks
from masktree.trees.scaled_masks import ScaledMasks

# IoU, inside what two windows share, from which two masks are one object (our choice: of disjoint masks at most one can
# agree with another by more).
MIN_AGREEMENT = 0.5
# Pixels from the border of a window within which a mask is taken to be cut by it: networks of a stride of 8 or 16 often
# end a mask a pixel short of it (our choice).
_MARGIN = 2


class JoinedMasks(NamedTuple):
    """The n masks of one level.

    Attributes:
        masks: in pixels of the level.
        scores, stabilities: (n,) float32.
        num_cut: masks that were left out, as a border cuts them and the other side has no part that agrees.
    """

    masks: ScaledMasks
    scores: np.ndarray
    stabilities: np.ndarray
    num_cut: int


def join_windows(grid: WindowGrid, load: Callable[[int], WindowMasks]) -> JoinedMasks:
    """The masks of all windows of a level.

    Masks of neighbouring windows that agree in what these share are one object, the pairs of the highest IoU first and,
    of equal ones, the largest. Of an object that a window sees whole, the mask of the window in which it is
    farthest from the border is taken. Any other is the union of its masks, if each of them goes on beyond every border
    that cuts it; else it is left out. The score of a union is the mean by area.

    Args:
        grid: the windows.
        load: reads the masks of one.
    """
    parts = [load(index) for index in range(len(grid))]
    windows = [grid.window(index) for index in range(len(grid))]
    moved = [part.masks.moved(w.top, w.left, grid.size) for part, w in zip(parts, windows, strict=True)]
    masks = ScaledMasks.concatenate(moved, grid.size)
    window_of = np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    stabilities = np.concatenate([part.stabilities for part in parts])
    cuts = _Cuts.of(masks, grid, window_of)
    kept: list[ScaledMasks] = []
    means: list[tuple[float, float]] = []
    num_cut = 0
    singles = []
    for members in _objects(masks, grid, window_of):
        whole = [member for member in members if not cuts.is_cut[member].any()]
        if whole:
            singles.append(max(whole, key=lambda member: (cuts.distances[member], -member)))
        elif cuts.go_on(members, windows, window_of):
            weights = masks.areas[members]
            kept.append(masks[np.array(members)].union())
            means.append(
                (np.average(scores[members], weights=weights), np.average(stabilities[members], weights=weights))
            )
        else:
            num_cut += len(members)
    chosen = np.array(sorted(singles), np.int64)
    averages = np.array(means, np.float32).reshape(-1, 2)
    return JoinedMasks(
        ScaledMasks.concatenate([masks[chosen], *kept], grid.size),
        np.concatenate([scores[chosen], averages[:, 0]]),
        np.concatenate([stabilities[chosen], averages[:, 1]]),
        num_cut,
    )


def _objects(masks: ScaledMasks, grid: WindowGrid, window_of: np.ndarray) -> list[list[int]]:
    """Groups of masks that are one object, at most one mask of each window."""
    first = np.searchsorted(window_of, np.arange(len(grid) + 1))
    found = [(np.zeros((0, 2), np.int64), np.zeros(0))]
    for one, other, shared in grid.pairs():
        near = [
            first[index] + masks[np.arange(first[index], first[index + 1])].touching(shared) for index in (one, other)
        ]
        if len(near[0]) and len(near[1]):
            found.append(masks.agreements(near[0], near[1], shared, MIN_AGREEMENT))
    pairs, agreement = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    order = np.lexsort((-masks.areas[pairs].sum(axis=1), -np.round(agreement, 2)))
    groups = [[mask] for mask in range(len(masks))]
    group_of = np.arange(len(masks))
    windows = [{window} for window in window_of.tolist()]
    for a, b in pairs[order].tolist():
        one, other = group_of[a], group_of[b]
        if one == other or windows[one] & windows[other]:
            continue
        if len(groups[one]) < len(groups[other]):
            one, other = other, one
        groups[one] += groups[other]
        windows[one] |= windows[other]
        group_of[groups[other]] = one
        groups[other] = []
    return [sorted(group) for group in groups if group]


class _Cuts(NamedTuple):
    """Where the borders of its window cut each of n masks; sides are in the order top, left, bottom, right.

    Attributes:
        is_cut: (n, 4) bool.
        low, high: (n, 4) first and last + 1 row or column of the mask along a side that cuts it.
        distances: (n,) pixels to the nearest border of the window that lies inside the image.
    """

    is_cut: np.ndarray
    low: np.ndarray
    high: np.ndarray
    distances: np.ndarray

    @classmethod
    def of(cls, masks: ScaledMasks, grid: WindowGrid, window_of: np.ndarray) -> _Cuts:
        windows = np.array([grid.window(index) for index in range(len(grid))], np.int64)[window_of]
        cutting = np.array([grid.cutting(index) for index in range(len(grid))])[window_of]
        distances = np.where(cutting, np.abs(masks.boxes - windows), np.iinfo(np.int64).max)
        is_cut = distances < _MARGIN
        low, high = np.full(is_cut.shape, np.iinfo(np.int64).max), np.zeros(is_cut.shape, np.int64)
        owners, columns, starts, ends = masks.owners, masks.columns, masks.starts, masks.ends
        top, left, bottom, right = windows[owners].T
        for side, near in enumerate(
            (starts < top + _MARGIN, columns < left + _MARGIN, ends > bottom - _MARGIN, columns >= right - _MARGIN)
        ):
            along = (starts, ends) if side % 2 else (columns, columns + 1)
            np.minimum.at(low[:, side], owners[near], along[0][near])
            np.maximum.at(high[:, side], owners[near], along[1][near])
        return cls(is_cut, low, high, distances.min(axis=1, initial=np.iinfo(np.int64).max))

    def go_on(self, members: list[int], windows: list[Window], window_of: np.ndarray) -> bool:
        """Whether windows of other members cover what lies beyond every border that cuts a member."""
        if len(members) == 1:
            return False
        for member in members:
            window = windows[window_of[member]]
            for side in np.flatnonzero(self.is_cut[member]).tolist():
                low, high = int(self.low[member, side]), int(self.high[member, side])
                is_covered = np.zeros(high - low, np.bool_)
                for other in (windows[window_of[index]] for index in members):
                    if _contains(other, side, window[side]):
                        start, end = (other.top, other.bottom) if side % 2 else (other.left, other.right)
                        is_covered[max(start - low, 0) : max(end - low, 0)] = True
                if not is_covered.all():
                    return False
        return True


def _contains(window: Window, side: int, border: int) -> bool:
    """Whether a window has pixels on both sides of a line, and beyond it more than the margin: below or right of the
    line for the sides 2 and 3, above or left of it for 0 and 1."""
    near, far = window[(side + 2) % 4], window[side]
    return far + _MARGIN <= border < near if side < 2 else near < border <= far - _MARGIN
