"""Refinement of hard results: masks one by one, or all regions of a label grid together."""

from __future__ import annotations

from math import exp

import numpy as np
from jaxtyping import Int32
from numba import njit

from masktree.errors import InputError
from masktree.refine.crf import dense_crf
from masktree.refine.refiner import Refiner
from masktree.types import RGB, Labels, Masks, Probabilities, checked

FOREGROUND = 1 / (1 + exp(-1))  # 0.731: softmax of the logits {0, 1} [code of CutLER]
Grid = Int32[np.ndarray, "h w"]  # labels of patches
_AT_ONCE = 1 << 23  # probabilities of one batch (our choice: 100 MB in the dense CRF)
_MASKS_AT_ONCE = 32  # more do not lower the cost of a mask any further


@njit(cache=True, nogil=True)
def _taps(size, source):
    """Lower neighbour, upper neighbour and weight of the upper one for each target position."""
    lower = np.empty(size, np.int64)
    upper = np.empty(size, np.int64)
    part = np.empty(size, np.float32)
    for i in range(size):
        place = max((i + 0.5) * source / size - 0.5, 0.0)
        lower[i] = min(int(place), source - 1)
        upper[i] = min(lower[i] + 1, source - 1)
        part[i] = place - lower[i]
    return lower, upper, part


@njit(cache=True, nogil=True)
def _spread(labels, probabilities):
    _, height, width = probabilities.shape
    top, bottom, down = _taps(height, labels.shape[0])
    left, right, across = _taps(width, labels.shape[1])
    one = np.float32(1)
    for y in range(height):
        for x in range(width):
            probabilities[labels[top[y], left[x]], y, x] += (one - down[y]) * (one - across[x])
            probabilities[labels[top[y], right[x]], y, x] += (one - down[y]) * across[x]
            probabilities[labels[bottom[y], left[x]], y, x] += down[y] * (one - across[x])
            probabilities[labels[bottom[y], right[x]], y, x] += down[y] * across[x]


@checked
def upsample_labels(labels: Grid, height: int, width: int) -> Probabilities:
    """One-hot label map, resized bilinearly: pixel centres aligned, no antialiasing (torch's align_corners=False).

    Args:
        labels: (h, w) int32, from 0.
        height, width: size of the result in pixels.

    Returns:
        (k, height, width) float32 with k = max(labels) + 1; sums to 1 over k.

    Raises:
        InputError: no labels, negative labels, or an empty target.
    """
    if labels.size == 0 or labels.min() < 0 or height < 1 or width < 1:
        raise InputError(
            f"expected a label grid with values >= 0 and a target of at least one pixel; got grid {labels.shape} and "
            f"target {(height, width)}"
        )
    probabilities = np.zeros((int(labels.max()) + 1, height, width), np.float32)
    _spread(labels, probabilities)
    return probabilities


@checked
def refine_labels(image: RGB, labels: Grid, refiner: Refiner = dense_crf) -> Labels:
    """Refine all regions of a label grid together (HASSOD's joint multi-label problem).

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (h, w) int32 regions of a patch grid that covers the image.
        refiner: any refiner.

    Returns:
        (H, W) int32. Label numbers keep their meaning, so a region may be missing: it lost all its pixels.

    Raises:
        InputError: negative labels, or an image without pixels.
    """
    probabilities = upsample_labels(labels, *image.shape[:2])
    if len(probabilities) == 1:
        return np.zeros(image.shape[:2], np.int32)
    return refiner(image, probabilities).argmax(axis=0).astype(np.int32)


@checked
def refine_masks(
    image: RGB,
    masks: Masks,
    refiner: Refiner = dense_crf,
    *,
    foreground: float = FOREGROUND,
) -> Masks:
    """Refine each mask as a two-label problem of its own (CutLER, UnSAM).

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: (n, H, W) bool, may overlap.
        refiner: any refiner.
        foreground: probability of a mask's pixels to be foreground before refinement, of the others to be background.

    Masks go through the whole image in batches that share what depends on the image only. Refining a small mask in
    a crop around it is no substitute: the CRF's normalisation and distant background of the same colour are lost.
    Measured at 480 x 480, masks whose crop is under a tenth of the image: IoU with the full result 0.91 on average
    with 50 pixels of padding (one bilateral standard deviation), 0.70 with 25, for a fifth to two fifths less time.

    Returns:
        (n, H, W) bool, in the order of the arguments. An empty mask stays empty, others may become empty.

    Raises:
        InputError: masks and image differ in size, or ``foreground`` is not above 0.5 and below 1.
    """
    if masks.shape[1:] != image.shape[:2]:
        raise InputError(f"expected masks of the image's size {image.shape[:2]}; got {masks.shape[1:]}")
    if not 0.5 < foreground < 1:
        raise InputError(f"expected foreground above 0.5 and below 1; got {foreground}")
    refined = np.zeros_like(masks)
    present = np.flatnonzero(masks.any(axis=(1, 2)))
    size = min(_MASKS_AT_ONCE, max(1, _AT_ONCE // max(1, image[..., 0].size)))
    for start in range(0, len(present), size):
        part = present[start : start + size]
        probabilities = np.where(masks[part], np.float32(foreground), np.float32(1 - foreground))
        refined[part] = refiner(image, probabilities, independent=True) > 0.5
    return refined
