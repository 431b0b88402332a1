"""What decides whether a refined mask is kept: agreement with the mask before, image corners; and the filling of holes.

The order and the thresholds belong to the methods (``masktree.discover``).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from masktree.errors import InputError
from masktree.types import Mask, Masks, checked


@checked
def iou_pairwise(before: Masks, after: Masks) -> NDArray[np.float64]:
    """Intersection over union of mask i before with mask i after.

    Args:
        before, after: (n, H, W) bool.

    Returns:
        (n,) float64 in 0..1; 0 where both masks are empty, so that a vanished mask never passes a threshold.

    Raises:
        InputError: the shapes differ.
    """
    if before.shape != after.shape:
        raise InputError(f"expected two stacks of one shape; got {before.shape} and {after.shape}")
    both = np.count_nonzero(before & after, axis=(1, 2))
    either = np.count_nonzero(before | after, axis=(1, 2))
    return both / np.maximum(either, 1)


@checked
def corners_covered(masks: Masks) -> NDArray[np.int64]:
    """Number of image corners inside each mask, 0 to 4; a background mask holds three or more.

    Args:
        masks: (n, H, W) bool, H and W at least 1. In an image one pixel wide, corners coincide and count twice.

    Returns:
        (n,) int64.

    Raises:
        InputError: masks without pixels.
    """
    if 0 in masks.shape[1:]:
        raise InputError(f"expected masks of at least one pixel; got {masks.shape}")
    return masks[:, [0, 0, -1, -1], [0, -1, 0, -1]].sum(axis=1)


@njit(cache=True, nogil=True)
def _fill(mask, outside, stack):
    """Flood the background 4-connectedly from the border; what is not reached is mask or hole."""
    height, width = mask.shape
    count = 0
    for start in range(2 * (height + width)):
        if start < 2 * width:
            y, x = (0 if start < width else height - 1), start % width
        else:
            y, x = (start - 2 * width) % height, (0 if start < 2 * width + height else width - 1)
        if not mask[y, x] and not outside[y, x]:
            outside[y, x] = True
            stack[count] = y * width + x
            count += 1
        while count > 0:
            count -= 1
            y, x = divmod(stack[count], width)
            for side in range(4):
                v = y + (side == 0) - (side == 1)
                u = x + (side == 2) - (side == 3)
                if 0 <= v < height and 0 <= u < width and not mask[v, u] and not outside[v, u]:
                    outside[v, u] = True
                    stack[count] = v * width + u
                    count += 1


@checked
def fill_holes(masks: Masks) -> Masks:
    """Add to each mask the background that is not 4-connected to the image border.

    Args:
        masks: (n, H, W) bool.

    Returns:
        (n, H, W) bool, as ``scipy.ndimage.binary_fill_holes`` on each mask. O(pixels) a mask, 8 bytes a pixel.
    """
    filled = np.empty_like(masks)
    stack = np.empty(masks[0].size if len(masks) else 0, np.int64)
    outside: Mask = np.empty(masks.shape[1:], np.bool_)
    if outside.size == 0:
        return filled
    for mask, target in zip(masks, filled, strict=True):
        outside[...] = False
        _fill(mask, outside, stack)
        np.logical_not(outside, out=target)
    return filled
