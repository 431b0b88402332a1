"""Antialiasing of flat graphics: pixels whose colours are mixtures of those of the shapes around them, and strokes,
whose colours are not."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from masktree.kernels import kernel

_REACH = 2  # pixels around a component, in which its antialiased border lies (our choice)
_MIN_CONTRAST = np.float32(24)  # grey levels, Euclidean, of a stroke on its ground (our choice)


@kernel()
def explain(image: np.ndarray, components: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The component nearest in colour within reach of each pixel asked for, and how well components explain its colour.

    A pixel's own component does not count.

    Returns:
        nearest: (H, W) int32; -1 where no component is within reach.
        contrast: (H, W) float32, Euclidean distance of the colour from those of the components within reach and from
            the mixtures of any two of them, as antialiasing makes them; infinite where there are none.
    """
    H, W = components.shape
    nearest = components.copy()
    contrast = np.zeros((H, W), np.float32)
    window = (2 * _REACH + 1) ** 2
    found = np.empty(window, np.int32)
    offsets = np.empty((window, 3), np.float32)  # colours of the components found, as seen from that of the pixel
    for i in range(H):
        for j in range(W):
            if not asked[i, j]:
                continue
            count = 0
            lowest = best = np.float32(np.inf)
            for y in range(max(i - _REACH, 0), min(i + _REACH + 1, H)):
                for x in range(max(j - _REACH, 0), min(j + _REACH + 1, W)):
                    k = 0
                    while k < count and found[k] != components[y, x]:
                        k += 1
                    if components[y, x] < 0 or components[y, x] == components[i, j] or k < count:
                        continue
                    found[k] = components[y, x]
                    for c in range(3):
                        offsets[k, c] = np.float32(image[y, x, c]) - np.float32(image[i, j, c])
                    count += 1
                    distance = _norm_from_origin(offsets[k], offsets[k])
                    if distance < best:
                        best = distance
                        nearest[i, j] = found[k]
                    for other in range(count):
                        lowest = min(lowest, _norm_from_origin(offsets[k], offsets[other]))
            contrast[i, j] = lowest
    return nearest, contrast


@kernel()
def _norm_from_origin(a: np.ndarray, b: np.ndarray) -> np.float32:
    """Distance of the origin from the segment between two points."""
    dot = length = np.float32(0)
    for c in range(3):
        dot -= a[c] * (b[c] - a[c])
        length += (b[c] - a[c]) ** 2
    share = min(max(dot / length, np.float32(0)), np.float32(1)) if length > 0 else np.float32(0)
    total = np.float32(0)
    for c in range(3):
        total += (a[c] + share * (b[c] - a[c])) ** 2
    return np.sqrt(total)


def find_strokes(nearest: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels beyond the reach of components, and those of at least half the contrast around them."""
    within = np.where(nearest < 0, np.float32(0), contrast)
    highest = ndimage.maximum_filter(within, 2 * _REACH + 1)
    return (nearest < 0) | ((within > _MIN_CONTRAST) & (within >= highest / 2))
