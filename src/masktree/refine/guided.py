"""Colour guided filter: in each window a probability is replaced by its best linear fit in colour.

He, Sun & Tang, "Guided Image Filtering", TPAMI 2013, doi:10.1109/TPAMI.2012.213; coefficients on a reduced grid as in
He & Sun, "Fast Guided Filter", 2015, arXiv 1505.00996, here from the exact moments of whole blocks instead of
sampled pixels. The filter is linear in the probabilities, so it preserves sums over labels.

5 to 8 times as fast as the dense CRF. It agrees with the CRF in 0.961 of the pixels of upsampled 60 x 60 label grids on
unlabelled photographs; without refinement 0.932.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.refine.refiner import check_problem
from masktree.types import RGB, Probabilities, checked


@kernel()
def _block_sums(colour: np.ndarray, channel: np.ndarray, step: int, sums: np.ndarray) -> None:
    """Sums of p and of p times each colour over blocks of ``step`` pixels, into (4, blocks down, blocks across)."""
    sums[:] = 0
    height, width = channel.shape
    for y in range(height):
        row = y // step
        for x in range(width):
            p = channel[y, x]
            if p != 0:  # one-hot labels are mostly 0
                column = x // step
                sums[3, row, column] += p
                for c in range(3):
                    sums[c, row, column] += p * colour[y, x, c]


@kernel(fastmath=True)
def _apply(colour: np.ndarray, coefficients: np.ndarray, step: int, refined: np.ndarray) -> None:
    """Interpolate (4, blocks, blocks) coefficients bilinearly to the pixels and evaluate them on the colours."""
    _, rows, columns = coefficients.shape
    height, width = refined.shape
    line = np.empty((columns, 4), np.float32)
    for y in range(height):
        down = min(max((y + 0.5) / step - 0.5, 0.0), rows - 1.0)
        top = int(down)
        bottom = min(top + 1, rows - 1)
        part = np.float32(down - top)
        for column in range(columns):
            for c in range(4):
                upper = coefficients[c, top, column]
                line[column, c] = upper + part * (coefficients[c, bottom, column] - upper)
        for x in range(width):
            across = min(max((x + 0.5) / step - 0.5, 0.0), columns - 1.0)
            left = int(across)
            right = min(left + 1, columns - 1)
            part = np.float32(across - left)
            value = line[left, 3] + part * (line[right, 3] - line[left, 3])
            for c in range(3):
                value += colour[y, x, c] * (line[left, c] + part * (line[right, c] - line[left, c]))
            refined[y, x] = min(max(value, np.float32(0)), np.float32(1))


def _window_sums(planes: np.ndarray, radius: int) -> np.ndarray:
    """Sums over (2 radius + 1)^2 blocks of (c, h, w) planes, up to a common factor; zero outside the image."""
    return uniform_filter(planes, (0, 2 * radius + 1, 2 * radius + 1), mode="constant")


@checked
def guided(
    image: RGB,
    probabilities: Probabilities,
    *,
    independent: bool = False,
    radius: int = 16,
    epsilon: float = 1e-4,
    step: int = 4,
) -> Probabilities:
    """Refine label probabilities with the colour guided filter.

    Args:
        image: (H, W, 3) uint8 RGB.
        probabilities: (k, H, W) float32.
        independent: channels are foregrounds of separate problems, see ``Refiner``.
        radius: half the side of the window in pixels, rounded to whole blocks, at least one.
        epsilon: regularisation, in squared units of colour in [0, 1]; larger values smooth across stronger edges.
        step: side of a block in pixels; 1 gives the filter of 2013.

    ``radius``, ``epsilon`` and ``step`` are our choice: the best agreement with the dense CRF on unlabelled
    photographs. Memory beside the two (k, H, W) arrays: 12 bytes a pixel.

    Returns:
        (k, H, W) float32, clipped to [0, 1]; mutually exclusive labels are normalised to sum 1.

    Raises:
        InputError: the arguments do not fit each other, or a parameter is not positive.
    """
    check_problem(image, probabilities, independent)
    if not (radius >= 1 and step >= 1 and np.isfinite(epsilon) and epsilon > 0):
        raise InputError(f"expected radius and step of at least 1 and epsilon above 0; got {radius}, {step}, {epsilon}")
    blocks = max(1, round(radius / step))
    height, width = image.shape[:2]
    colour = image.astype(np.float32) / 255
    grid = (4, -(-height // step), -(-width // step))
    sums = np.empty(grid)
    planes = np.ones((height, width), np.float32)
    _block_sums(colour, planes, step, sums)
    count, mean = (total := _window_sums(sums, blocks))[3], total[:3] / total[3]
    covariance = np.empty((*grid[1:], 3, 3))
    for c in range(3):
        np.copyto(planes, colour[..., c])
        _block_sums(colour, planes, step, sums)
        products = _window_sums(sums[:3], blocks) / count
        covariance[..., c] = np.moveaxis(products - mean[c] * mean, 0, -1)
    inverse = np.linalg.inv(covariance + epsilon * np.eye(3))
    refined = np.empty_like(probabilities)
    coefficients = np.empty(grid, np.float32)
    for source, target in zip(probabilities, refined, strict=True):
        _block_sums(colour, source, step, sums)
        total = _window_sums(sums, blocks) / count
        cross = np.moveaxis(total[:3] - mean * total[3], 0, -1)
        slopes = np.moveaxis((inverse @ cross[..., None])[..., 0], -1, 0)
        local = np.concatenate([slopes, (total[3] - (slopes * mean).sum(axis=0))[None]])
        coefficients[...] = _window_sums(local, blocks) / _window_sums(np.ones((1, *grid[1:])), blocks)
        _apply(colour, coefficients, step, target)
    if not independent:
        refined /= refined.sum(axis=0)
    return refined
