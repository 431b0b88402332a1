"""Snapping: the image is cut into small regions of even colour, and each region gets one probability per label.

Regions are a watershed of the colour gradient, flooded from one marker in each cell of a regular grid, which is the
darkest gradient pixel of the cell: Machairas et al., "Waterpixels", TIP 2015, doi:10.1109/TIP.2015.2451011, without
their spatial regularisation. The flood uses one queue per gradient level (Meyer 1991).

The fastest refiner and the weakest: borders become crisp and follow edges closer than half a cell, but on upsampled
60 x 60 label grids its labels agree with the dense CRF's no better than plain bilinear upsampling does (0.928 of the
pixels against 0.932, guided filter 0.961). Its regions are worth more where crisp, shared borders are wanted.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.ndimage import gaussian_filter1d

from masktree.errors import InputError
from masktree.refine.refiner import check_problem
from masktree.types import RGB, Labels, Probabilities, checked

_LEVELS = 1024  # queues of the flood
_LEVELS_PER_UNIT = 8.0  # gradient levels per unit of CIE Lab and pixel (our choice)


@njit(cache=True, nogil=True)
def _lab(image, linear, lab):
    """CIE Lab (D65) of sRGB pixels; ``linear`` is the table of the 256 linear intensities."""
    height, width, _ = image.shape
    for y in range(height):
        for x in range(width):
            r, g, b = linear[image[y, x, 0]], linear[image[y, x, 1]], linear[image[y, x, 2]]
            xyz = (
                (0.412453 * r + 0.357580 * g + 0.180423 * b) / 0.95047,
                0.212671 * r + 0.715160 * g + 0.072169 * b,
                (0.019334 * r + 0.119193 * g + 0.950227 * b) / 1.08883,
            )
            fx, fy, fz = (
                np.cbrt(xyz[0]) if xyz[0] > 0.008856 else 7.787 * xyz[0] + 16 / 116,
                np.cbrt(xyz[1]) if xyz[1] > 0.008856 else 7.787 * xyz[1] + 16 / 116,
                np.cbrt(xyz[2]) if xyz[2] > 0.008856 else 7.787 * xyz[2] + 16 / 116,
            )
            lab[0, y, x] = 116 * fy - 16
            lab[1, y, x] = 500 * (fx - fy)
            lab[2, y, x] = 200 * (fy - fz)


@njit(cache=True, nogil=True)
def _levels(lab):
    """Quantised length of the central difference of three channels, in queue levels."""
    _, height, width = lab.shape
    levels = np.empty((height, width), np.int32)
    for y in range(height):
        up, down = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            total = np.float32(0)
            for c in range(3):
                total += (lab[c, down, x] - lab[c, up, x]) ** 2 + (lab[c, y, right] - lab[c, y, left]) ** 2
            levels[y, x] = min(np.int32(0.5 * np.sqrt(total) * _LEVELS_PER_UNIT), _LEVELS - 1)
    return levels


@njit(cache=True, nogil=True)
def _flood(levels, cell):
    """Watershed of the levels from the lowest pixel of each cell; first come, first served within a level."""
    height, width = levels.shape
    labels = np.full(height * width, -1, np.int32)
    following = np.full(height * width, -1, np.int32)
    head = np.full(_LEVELS, -1, np.int32)
    tail = np.full(_LEVELS, -1, np.int32)
    flat = levels.ravel()
    count = 0
    level = _LEVELS
    for top in range(0, height, cell):
        for left in range(0, width, cell):
            best = top * width + left
            for y in range(top, min(top + cell, height)):
                for x in range(left, min(left + cell, width)):
                    if flat[y * width + x] < flat[best]:
                        best = y * width + x
            labels[best] = count
            count += 1
            own = flat[best]
            if head[own] < 0:
                head[own] = best
            else:
                following[tail[own]] = best
            tail[own] = best
            level = min(level, own)
    while level < _LEVELS:
        pixel = head[level]
        if pixel < 0:
            level += 1
            continue
        head[level] = following[pixel]
        x = pixel % width
        for side in range(4):
            if side == 0 and x > 0:
                other = pixel - 1
            elif side == 1 and x < width - 1:
                other = pixel + 1
            elif side == 2 and pixel >= width:
                other = pixel - width
            elif side == 3 and pixel < (height - 1) * width:
                other = pixel + width
            else:
                continue
            if labels[other] >= 0:
                continue
            labels[other] = labels[pixel]
            own = max(flat[other], level)  # the water never falls
            following[other] = -1
            if head[own] < 0:
                head[own] = other
            else:
                following[tail[own]] = other
            tail[own] = other
    return labels.reshape(height, width)


@checked
def watershed_regions(image: RGB, *, cell: int = 4, smoothing: float = 1.0) -> Labels:
    """Cut an image into about H W / cell^2 small connected regions of even colour.

    Args:
        image: (H, W, 3) uint8 RGB.
        cell: side in pixels of the grid cells that hold one marker each (our choice: of 3 to 12 the best agreement of
            ``snap`` with the dense CRF on unlabelled photographs).
        smoothing: standard deviation in pixels of the Gaussian on the Lab image (our choice).

    Returns:
        (H, W) int32 region of each pixel, numbered without gaps.

    Raises:
        InputError: an image without pixels, or a parameter that is not positive.
    """
    if image.size == 0 or cell < 1 or not smoothing >= 0:
        raise InputError(f"expected pixels, cell >= 1, smoothing >= 0; got {image.shape}, {cell}, {smoothing}")
    value = np.arange(256) / 255
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    lab = np.empty((3, *image.shape[:2]), np.float32)
    _lab(image, linear, lab)
    if smoothing > 0:
        lab = gaussian_filter1d(gaussian_filter1d(lab, smoothing, axis=1), smoothing, axis=2)
    return _flood(_levels(lab), cell)


@njit(cache=True, nogil=True)
def _average(channel, regions, sizes, sums, refined):
    sums[:] = 0
    for i in range(len(channel)):
        sums[regions[i]] += channel[i]
    for r in range(len(sums)):
        sums[r] /= max(sizes[r], 1)
    for i in range(len(channel)):
        refined[i] = sums[regions[i]]


@checked
def snap(
    image: RGB,
    probabilities: Probabilities,
    *,
    independent: bool = False,
    regions: Labels | None = None,
    cell: int = 4,
    smoothing: float = 1.0,
) -> Probabilities:
    """Average the probabilities inside each small region of even colour.

    Args:
        image: (H, W, 3) uint8 RGB; not looked at when ``regions`` are given.
        probabilities: (k, H, W) float32.
        independent: channels are foregrounds of unrelated problems, see ``Refiner``.
        regions: (H, W) int32 regions to use again; None makes them with the two options below.
        cell: see ``watershed_regions``.
        smoothing: see ``watershed_regions``.

    Memory beside the two (k, H, W) arrays: 28 bytes a pixel while the regions are made, 4 with given ones.

    Returns:
        (k, H, W) float32, constant in each region.

    Raises:
        InputError: the arguments do not fit each other.
    """
    check_problem(image, probabilities, independent)
    if regions is None:
        regions = watershed_regions(image, cell=cell, smoothing=smoothing)
    elif regions.shape != image.shape[:2] or regions.min() < 0:
        raise InputError(f"expected regions >= 0 of the image's size {image.shape[:2]}; got {regions.shape}")
    flat = np.ascontiguousarray(regions).ravel()
    sizes = np.bincount(flat)
    sums = np.empty(len(sizes))
    refined = np.empty(probabilities.shape, np.float32)
    for source, target in zip(probabilities, refined, strict=True):
        _average(source.reshape(-1), flat, sizes, sums, target.reshape(-1))
    return refined
