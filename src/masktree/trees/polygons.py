"""Masks as polygons along the edges of their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy import ndimage

from masktree.kernels import kernel
from masktree.trees.run_sets import RunSet, split_columns
from masktree.types import Mask, checked


class Polygon(NamedTuple):
    """A region without gaps and its holes.

    Attributes:
        exterior: (k, 2) float64 x and y of its corners in pixels, clockwise as seen on the image, the first one not
            repeated. Pixel (column, row) is the square from (column, row) to (column + 1, row + 1).
        holes: the same of each hole, anticlockwise.
    """

    exterior: Float64[np.ndarray, "k 2"]
    holes: tuple[Float64[np.ndarray, "m 2"], ...]


@checked
def mask_to_polygons(mask: Mask) -> list[Polygon]:
    """The polygons of a (H, W) mask, one for each 4-connected component, in the order of their topmost rows.

    Exact: filling them gives the mask again. No ring meets itself, though a hole may touch the exterior, or another
    hole, at a corner, which is valid by OGC's simple features. Time and memory are those of the box around the mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return []
    top, left = rows[0], columns[0]
    inside = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    components, count = ndimage.label(inside)
    corners, bounds, owners, is_hole = _trace(inside, components)
    rings = np.split(corners + np.array([left - 1.0, top - 1.0]), bounds[1:-1])
    exteriors: dict[int, np.ndarray] = {}
    holes: dict[int, list[np.ndarray]] = {component: [] for component in range(1, count + 1)}
    for ring, owner, hole in zip(rings, owners.tolist(), is_hole.tolist(), strict=True):
        if hole:
            holes[owner].append(ring)
        else:
            exteriors[owner] = ring
    return [Polygon(exteriors[component], tuple(holes[component])) for component in exteriors]


def run_rings(starts: np.ndarray, ends: np.ndarray, height: int) -> list[np.ndarray]:
    """The exteriors and holes of a mask as int64 rings (k, 2) of x and y, in no order, in time that grows with its
    runs: a tenth of that of :func:`mask_to_polygons`, which tells which hole is whose. Pixels that touch at a corner
    only may share a ring, which then meets itself there.

    Args:
        starts, ends: (r,) int64 half-open runs of the mask, column-major positions, as of ``RunSet``.
        height: of the image.
    """
    starts, ends = split_columns(RunSet(starts, ends), height)
    columns = starts // height
    # Ends of runs are corners, unless the run in the next column ends there too, on the same side. Keys: x, y, side.
    rows = np.concatenate([2 * (starts - columns * height), 2 * (ends - columns * height) + 1])
    sides = np.concatenate([columns, columns]) * 2 * (height + 1) + rows
    keys, counts = np.unique(np.concatenate([sides, sides + 2 * (height + 1)]), return_counts=True)
    x, y = np.divmod(keys[counts == 1] // 2, height + 1)
    # Down each line of the grid, and along each, edges begin and end in turn.
    along = np.lexsort((x, y))
    across = np.empty(len(x), np.int64)
    across[along[::2]], across[along[1::2]] = along[1::2], along[::2]
    order, bounds = _follow(across)
    return np.split(np.stack([x, y], 1)[order], bounds[1:-1]) if len(order) else []


def fill_rings(rings: Sequence[np.ndarray], size: tuple[int, int]) -> Mask:
    """The (H, W) mask of the pixels whose centres lie inside an odd number of rings: the inverse of
    :func:`mask_to_polygons` for the rings of all its polygons.

    Args:
        rings: (k, 2) x and y of the corners of each, the first one repeated or not; they may leave the image.
        size: (height, width).
    """
    crossings = np.zeros((size[0], size[1] + 1), np.bool_)
    for ring in rings:
        if len(ring):
            _cross(crossings, np.ascontiguousarray(ring, np.float64))
    return np.logical_xor.accumulate(crossings, axis=1)[:, :-1]


@kernel()
def _follow(across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """Corners (n,) in the order of their rings, and bounds (m + 1,) of the rings. Corners 2k and 2k + 1 are joined by a
    vertical edge, each corner and its ``across`` by a horizontal one."""
    n = len(across)
    order, bounds = np.empty(n, np.int64), [np.int64(0)]
    seen = np.zeros(n, np.bool_)
    count = 0
    for first in range(n):
        corner = first
        while not seen[corner]:
            for place in (corner, corner ^ 1):
                seen[place] = True
                order[count] = place
                count += 1
            corner = across[corner ^ 1]
        if count > bounds[-1]:
            bounds.append(np.int64(count))
    return order, np.array(bounds)


@kernel()
def _cross(crossings: np.ndarray, ring: np.ndarray) -> None:  # pragma: no cover
    """Toggle, in each row of pixel centres, the first centre to the right of every edge that the row crosses."""
    height, width = crossings.shape[0], crossings.shape[1] - 1
    for i in range(len(ring)):
        x1, y1 = ring[i]
        x2, y2 = ring[(i + 1) % len(ring)]
        if y1 > y2:
            x1, y1, x2, y2 = x2, y2, x1, y1
        for row in range(int(max(0.0, np.ceil(y1 - 0.5))), int(min(float(height), np.ceil(y2 - 0.5)))):
            x = x1 + (row + 0.5 - y1) / (y2 - y1) * (x2 - x1)
            column = int(min(max(np.ceil(x - 0.5), 0.0), float(width)))
            crossings[row, column] = not crossings[row, column]


@kernel()
def _trace(
    inside: np.ndarray, components: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """The closed paths around a padded mask, with the foreground on their right-hand side.

    Returns:
        corners (n, 2) int64 x and y of all paths; bounds (m + 1,) of the m paths in ``corners``; the component of each
        path; and whether it goes around a hole.
    """
    height, width = inside.shape
    total = 0  # an upper bound of the number of corners: one per pixel edge
    for y in range(1, height):
        for x in range(1, width):
            total += (inside[y, x] != inside[y - 1, x]) + (inside[y, x] != inside[y, x - 1])
    corners = np.empty((total, 2), np.int64)
    bounds = np.empty(total + 1, np.int64)
    owners, is_hole = np.empty(total, np.int64), np.empty(total, np.bool_)
    seen = np.zeros((height, width), np.bool_)  # upper edges that a path has run along; every path has one
    n_corners, n_paths = 0, 0
    bounds[0] = 0
    for start_y in range(1, height):
        for start_x in range(1, width):
            if not inside[start_y, start_x] or inside[start_y - 1, start_x] or seen[start_y, start_x]:
                continue
            x, y, direction = start_x, start_y, 0  # at the upper left corner of the pixel, eastwards
            twice_area = 0
            while True:
                if direction == 0:
                    seen[y, x] = True
                    x += 1
                elif direction == 1:
                    y += 1
                elif direction == 2:
                    x -= 1
                else:
                    y -= 1
                turn = _turn(components, x, y, direction)
                if turn != 0:
                    corners[n_corners, 0], corners[n_corners, 1] = x, y
                    n_corners += 1
                    direction = (direction + turn) % 4
                if x == start_x and y == start_y and direction == 0:
                    break
            first = bounds[n_paths]
            for k in range(first, n_corners):
                after = k + 1 if k + 1 < n_corners else first
                twice_area += corners[k, 0] * corners[after, 1] - corners[after, 0] * corners[k, 1]
            owners[n_paths] = components[start_y, start_x]
            is_hole[n_paths] = twice_area < 0
            n_paths += 1
            bounds[n_paths] = n_corners
    return corners[:n_corners], bounds[: n_paths + 1], owners[:n_paths], is_hole[:n_paths]


@kernel()
def _turn(components: np.ndarray, x: int, y: int, direction: int) -> int:  # pragma: no cover
    """Where a path that arrives at the corner (x, y) goes: 1 right, 0 straight on, -1 left.

    Where two foreground pixels touch at a corner only, left if they belong to one component and right if not. Either
    way no ring meets itself, as readers of polygons demand: the pixels of one component are joined elsewhere, so that
    the corner separates the outside from a hole, or two holes.
    """
    if direction == 0:
        ahead_right, ahead_left, behind_right = components[y, x], components[y - 1, x], components[y, x - 1]
    elif direction == 1:
        ahead_right, ahead_left, behind_right = components[y, x - 1], components[y, x], components[y - 1, x - 1]
    elif direction == 2:
        ahead_right, ahead_left, behind_right = components[y - 1, x - 1], components[y, x - 1], components[y - 1, x]
    else:
        ahead_right, ahead_left, behind_right = components[y - 1, x], components[y - 1, x - 1], components[y, x]
    if ahead_right:
        return -1 if ahead_left else 0
    return -1 if ahead_left == behind_right else 1
