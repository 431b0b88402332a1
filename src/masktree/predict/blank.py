"""Images with nothing to outline: of one colour, or of white noise. Every segmenter gives one mask for them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, checked

_WORKING_SIDE = 1024  # larger images are reduced by the smallest whole factor to at most this side (our choice)
_LAGS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 2))  # rows and columns between the pixels that are compared
# Our choices: JPEG at quality 75 correlates neighbours in noise of 10 grey levels by .38, their means over 2 x 2 pixels
# by .1 and colours over 8 x 8 pixels by .28.
_MAX_PIXEL_CORRELATION = 0.5
_MAX_CORRELATION = 0.3
_STANDARD_ERRORS = 5.0  # of an autocorrelation of n independent pixels, 1 / sqrt(n), that noise may have (our choice)
_MIN_SIDE = 8  # of the smallest scale
_CHROMA_SCALE = 8  # the first one where colours count: JPEG stores them at half the size, in blocks of 8
_CELL_SCALE = 8  # the first one where single cells count: means of 64 pixels are about normally distributed
_MAX_DEVIATION = 6.0  # of a cell from the mean, in standard deviations; one of 5e8 normal values has more (our choice)


def blank_tree(image: RGB, min_area: int) -> MaskTree:
    """One mask, the whole image; none if it has fewer than ``min_area`` pixels."""
    leaves = np.zeros(image.shape[:2], np.int32)
    dendrogram = PartitionTree.from_merges(leaves, np.zeros((0, 2), np.int32), np.zeros(0))
    return MaskTree.from_dendrogram(dendrogram, min_area=min_area)


@checked
def is_blank(image: RGB) -> bool:
    """Whether an image has one colour, up to a grey level of rounding, or is white noise of any distribution.

    White noise has no structure at any scale. The lightness, its deviation from the mean (noise of two strengths side
    by side is structure) and, from an eighth of the size on, the colours are compared with themselves, shifted by one
    and two pixels, at the full size, at half of it and so on to 8 pixels. An autocorrelation above .3 (of single pixels
    .5, as JPEG correlates them) and above five times its standard error is structure; so is a cell of 8 x 8 pixels or
    more that deviates by more than six standard deviations, such as a small object under noise.

    Args:
        image: (H, W, 3) uint8 RGB. Photographs take one or two of the comparisons: 5 ms for a megapixel.
    """
    if np.ptp(np.array(Image.fromarray(image).getextrema()), axis=1).max() <= 1:
        return True
    factor = -(-max(image.shape[:2]) // _WORKING_SIDE)
    picture = Image.fromarray(image).reduce(factor)
    if min(picture.size) < _MIN_SIDE:
        return False  # too few pixels to tell
    luma = np.asarray(picture.convert("L"), np.float32)
    deviation = np.abs(luma - luma.mean())
    if _has_structure(luma, 1) or _has_structure(deviation, 1):
        return False
    red, green, blue = np.moveaxis(np.asarray(picture, np.float32), 2, 0)
    return not any(_has_structure(chroma, _CHROMA_SCALE) for chroma in (red - green, blue - green))


def _has_structure(values: np.ndarray, first_scale: int) -> bool:
    """Whether an (H, W) map differs from white noise at ``first_scale``, a power of two, or at a coarser scale."""
    for scale, cells in _pyramid(values):
        if scale < first_scale:
            continue
        centred = cells - cells.mean()
        variance = float((centred * centred).mean())
        if variance < 1e-6:  # equal up to rounding
            continue
        floor = _MAX_PIXEL_CORRELATION if scale == 1 else _MAX_CORRELATION
        limit = max(floor, _STANDARD_ERRORS / np.sqrt(cells.size))
        if any(abs(_autocovariance(centred, lag)) > limit * variance for lag in _LAGS):
            return True
        if scale >= _CELL_SCALE and np.abs(centred).max() > _MAX_DEVIATION * np.sqrt(variance):
            return True
    return False


def _pyramid(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(scale, means of cells of scale x scale pixels) of scales 1, 2, 4 ... down to ``_MIN_SIDE`` cells a side."""
    scale = 1
    while min(values.shape) >= _MIN_SIDE:
        yield scale, values
        rows, columns = values.shape[0] // 2, values.shape[1] // 2
        values = values[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean(axis=(1, 3))
        scale *= 2


def _autocovariance(centred: np.ndarray, lag: tuple[int, int]) -> float:
    rows, columns = lag
    height, width = centred.shape
    return float((centred[rows:, columns:] * centred[: height - rows, : width - columns]).mean())
