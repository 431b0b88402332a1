"""Boundary contrast: does the image change more across the border of a mask than inside it? No ground truth is needed.

Of a mask, ``across`` is the mean Euclidean distance in CIE L*a*b* of two pixels three apart, in a row or a column, with
the mask's border in the middle: the second pixel inside from the second pixel outside, so that the blur of the border
itself is stepped over. ``within`` is the same for two pixels three apart with all four pixels inside. The contrast is
across / (across + within) in [0, 1]: 1 where the mask is flat and its border is not, one half where the border is like
any line through the mask. It has no unit, and contrast or brightness of the whole image cancel (our definition).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, checked

_SAMPLE = 20_000  # pixels of a mask at most for ``within`` (our choice: the mean is exact to 1 %)
_STRIP = 2**20  # pixels converted at a time, in 64 bits by scikit-image, whose exact values the scores depend on


@checked
def boundary_contrasts(image: RGB, tree: MaskTree) -> Float64[np.ndarray, " n"]:
    """Contrast of each mask, in [0, 1]; NaN for a mask without a border in the image or too thin to have an inside.

    A mask that differs nowhere, across its border nor within, has one half. Time of the masks' pixels; 13 bytes for
    a pixel of the image.

    Raises:
        InputError: the tree is of another image size, a mask's string is damaged.
    """
    height, width = image.shape[:2]
    if tree.size != (height, width):
        raise InputError(f"expected masks of {height} x {width} pixels as the image's; got {tree.size}")
    starts, ends, offsets = rle.runs(tree.rles, tree.size)
    contrasts: np.ndarray = _contrasts(_lab_columns(image), starts, ends, offsets, tree.areas)
    return contrasts


def _lab_columns(image: RGB) -> np.ndarray:
    """(W, H, 3) float32 CIE L*a*b* (D65), columns first as in run lengths."""
    from skimage.color import rgb2lab

    height, width = image.shape[:2]
    lab = np.empty((width, height, 3), np.float32)
    step = max(1, _STRIP // height)
    for x in range(0, width, step):
        lab[x : x + step] = rgb2lab(image[:, x : x + step].transpose(1, 0, 2))
    return lab


@kernel()
def _distance(lab: np.ndarray, x: int, y: int, u: int, v: int) -> float:  # pragma: no cover
    total = np.float32(0)
    for c in range(3):
        total += (lab[x, y, c] - lab[u, v, c]) ** 2
    distance: float = np.sqrt(total)
    return distance


@kernel()
def _fill(
    inside: np.ndarray, starts: np.ndarray, ends: np.ndarray, first: int, last: int, value: int
) -> None:  # pragma: no cover
    height = inside.shape[1] - 4
    for run in range(first, last):
        for pixel in range(starts[run], ends[run]):
            inside[pixel // height + 2, pixel % height + 2] = value


@kernel()
def _means(
    lab: np.ndarray, inside: np.ndarray, starts: np.ndarray, ends: np.ndarray, step: int
) -> tuple[float, int, float, int]:  # pragma: no cover
    """Sums and counts of the distances across the border and within the mask that ``inside`` shows."""
    height = lab.shape[1]
    across, within, n_across, n_within, seen = 0.0, 0.0, 0, 0, 0
    for run in range(len(starts)):
        for pixel in range(starts[run], ends[run]):
            x, y = pixel // height, pixel % height
            seen += 1
            for side in range(4):
                dx, dy = np.int64(side == 0) - np.int64(side == 1), np.int64(side == 2) - np.int64(side == 3)
                near = inside[x + 2 + dx, y + 2 + dy]
                if near == 1 and (side % 2 == 1 or seen % step):
                    continue  # pairs within are seen from one end only
                if inside[x + 2 - dx, y + 2 - dy] != 1 or inside[x + 2 + 2 * dx, y + 2 + 2 * dy] != near:
                    continue
                if near == 1:
                    within += _distance(lab, x - dx, y - dy, x + 2 * dx, y + 2 * dy)
                    n_within += 1
                elif near == 0:
                    across += _distance(lab, x - dx, y - dy, x + 2 * dx, y + 2 * dy)
                    n_across += 1
    return across, n_across, within, n_within


@kernel()
def _contrasts(
    lab: np.ndarray, starts: np.ndarray, ends: np.ndarray, offsets: np.ndarray, areas: np.ndarray
) -> np.ndarray:  # pragma: no cover
    width, height = lab.shape[:2]
    inside = np.full((width + 4, height + 4), 2, np.uint8)  # 0 outside, 1 inside, 2 beyond the image
    inside[2:-2, 2:-2] = 0
    result = np.full(len(areas), np.nan)
    for i in range(len(areas)):
        first, last = offsets[i], offsets[i + 1]
        _fill(inside, starts, ends, first, last, 1)
        step = max(1, areas[i] // _SAMPLE)
        across, n_across, within, n_within = _means(lab, inside, starts[first:last], ends[first:last], step)
        _fill(inside, starts, ends, first, last, 0)
        if n_across > 0 and n_within > 0:
            across, within = across / n_across, within / n_within
            result[i] = across / (across + within) if across + within > 0 else 0.5
    return result
