"""Shapes of flat graphics: which components of one colour are drawn, and whether an image is made of them."""

from __future__ import annotations

import numpy as np

from masktree.cluster.antialiasing import explain
from masktree.cluster.leaves import MIN_LEAF_AREA
from masktree.cluster.one_colour import components_of_one_colour, step_between
from masktree.kernels import kernel
from masktree.types import RGB, Labels, checked

FLAT_SHARE = 0.1  # of the blocks with more than one colour: the least of flat graphics (our choice, see the log)
_COMMON_AREA = 64  # pixels of a crisp component, from which others of its colour are crisp too (our choice)
_EQUAL_SHARE = 0.4  # of neighbours with one colour, below which an image is not looked at further (our choice)
_BLOCK = 64  # side of a block in pixels (our choice)
_BLOCK_SHARE = 0.95  # of a flat block is within reach of components of ``MIN_LEAF_AREA`` (our choice)
_MIXTURE_ERROR = 8  # grey levels, Euclidean, of the colour of an antialiased border (our choice)


@checked
def flat_shapes(image: RGB) -> Labels | None:
    """Shapes of a flat image: its components of one colour whose borders are steps, without those of antialiasing.

    Cheap for most photographs; 0.1 s for 1920 x 1080 pixels of flat graphics.

    Returns:
        (H, W) int32 numbers of the shapes, -1 where there are none; None if too little is flat, as in photographs.
    """
    if not _has_equal_neighbours(image):
        return None
    everything, areas, is_crisp, colours = components_of_one_colour(image)
    crisp = _without_antialiasing(_select(everything, is_crisp, np.int32(-1)), image)
    if _flat_share(image, crisp) < FLAT_SHARE:
        return None
    # The ground inside an antialiased letter has no steps around it, but the colour of the ground around the letter.
    codes = colours.astype(np.int64) @ (65536, 256, 1)
    is_ground = ~is_crisp & np.isin(codes, codes[is_crisp & (areas >= _COMMON_AREA)])
    return _select(everything, is_ground, crisp)


def _has_equal_neighbours(image: np.ndarray) -> bool:
    """Whether neighbours have one colour as often as in flat images, from some 64 rows: below 2 ms for any image."""
    rows = image[:: max(1, len(image) // 64)]
    equal = (rows[:, 1:] == rows[:, :-1]).all(axis=2)
    return equal.size > 0 and bool(equal.mean() > _EQUAL_SHARE)


def _flat_share(image: np.ndarray, components: np.ndarray) -> float:
    """Share of the blocks with several large components and little beyond them, of all blocks with several colours."""
    is_large = np.bincount(components[components >= 0], minlength=int(components.max()) + 1) >= MIN_LEAF_AREA
    large = _select(components, is_large, np.int32(-1))
    if np.count_nonzero(large >= 0) < FLAT_SHARE * large.size:  # most photographs; saves the time of the rest
        return 0.0
    nearest, _ = explain(image, large, large < 0)
    return float(_share_of_blocks(image, large, nearest))


def _select(components: np.ndarray, selected: np.ndarray, others: np.ndarray | np.int32) -> np.ndarray:
    """The components selected by (n,) bool, and ``others`` where there is none."""
    return np.where(np.append(selected, False)[components], components, others)  # the last one stands for -1


def _without_antialiasing(components: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The components but for lines one pixel wide whose colour is a mixture of others, as along straight borders."""
    count = int(components.max()) + 1
    one = components[1:, 1:]
    solid = (one == components[:-1, :-1]) & (one == components[:-1, 1:]) & (one == components[1:, :-1]) & (one >= 0)
    is_line = np.append(np.bincount(one[solid], minlength=count) == 0, False)  # the last one stands for -1
    lines = is_line[components]
    _, contrast = explain(image, components, lines)
    sums = np.bincount(components[lines], contrast[lines], minlength=count)
    is_mixture = is_line[:-1] & (sums <= _MIXTURE_ERROR * np.bincount(components[lines], minlength=count))
    return _select(components, ~is_mixture, np.int32(-1))


@kernel()
def _share_of_blocks(image: np.ndarray, components: np.ndarray, nearest: np.ndarray) -> float:
    """Share of flat blocks of the area of blocks with several colours; see ``_flat_share``."""
    H, W = components.shape
    flat = total = 0
    for top in range(0, H, _BLOCK):
        for left in range(0, W, _BLOCK):
            bottom, right = min(top + _BLOCK, H), min(left + _BLOCK, W)
            within = 0
            first = -1
            one_colour = True
            several = False
            for i in range(top, bottom):
                for j in range(left, right):
                    one_colour &= step_between(image, i, j, top, left) == 0
                    within += nearest[i, j] >= 0
                    if components[i, j] >= 0:
                        several |= first >= 0 and components[i, j] != first
                        first = components[i, j]
            area = (bottom - top) * (right - left)
            if not one_colour:
                total += area
                if several and within > _BLOCK_SHARE * area:
                    flat += area
    return flat / max(total, 1)
