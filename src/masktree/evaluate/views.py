"""Transformed views of an image (flip, crop, noise) and the transformation of its masks into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64

from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB

CROP_SCALE = 0.8  # of each side (our choice: most masks stay whole, but a fixed working size changes their scale)
MIN_VISIBLE = 0.5  # share of a mask inside a view from which it is compared (our choice: the rest is cut too far)
NOISE_STD = 5.0  # of 255 (our choice: hardly visible)


@dataclass(frozen=True)
class View:
    """A view of an image.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        top, left: first row and column of the image that the view shows.
        mirrored: whether the view is flipped horizontally.
    """

    image: RGB
    top: int = 0
    left: int = 0
    mirrored: bool = False

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    def transform_masks(self, rles: Sequence[bytes], size: tuple[int, int]) -> list[bytes]:
        """Transform RLE masks of the (height, width) image to the view in O(runs); masks outside it become empty.

        Raises:
            InputError: a damaged string.
        """
        height, width = self.size
        if size == self.size and not self.mirrored:
            return list(rles)
        owner, column, first, end = _column_pieces(rle.runs(rles, size), size[0])
        column = column - self.left
        first, end = np.maximum(first - self.top, 0), np.minimum(end - self.top, height)
        if self.mirrored:
            column = width - 1 - column
        inside = np.flatnonzero((column >= 0) & (column < width) & (first < end))
        starts = column * height + first
        inside = inside[np.lexsort((starts[inside], owner[inside]))]
        bounds = np.searchsorted(owner[inside], np.arange(len(rles) + 1))
        starts, ends = starts[inside], (column * height + end)[inside]
        return [rle.encode_runs(starts[a:b], ends[a:b], self.size) for a, b in pairwise(bounds)]


def view_agreement(tree: MaskTree, view: View, found: MaskTree) -> Float64[np.ndarray, " n"]:
    """Best IoU of each of n masks of an image with a mask ``found`` in a view of it, in [0, 1].

    NaN for masks of which less than half is visible in the view.
    """
    masks = view.transform_masks(tree.rles, tree.size)
    areas = rle.areas(masks, view.size)
    best = rle.iou(masks, found.rles, view.size).max(1, initial=0.0)
    return np.where((areas > 0) & (areas >= MIN_VISIBLE * tree.areas), best, np.nan)


def flip(image: RGB, rng: np.random.Generator) -> View:
    """Flip horizontally."""
    return View(np.ascontiguousarray(image[:, ::-1]), mirrored=True)


def crop(image: RGB, rng: np.random.Generator) -> View:
    """Crop a random window of 0.8 of each side."""
    height, width = (max(1, round(CROP_SCALE * side)) for side in image.shape[:2])
    top = int(rng.integers(image.shape[0] - height + 1))
    left = int(rng.integers(image.shape[1] - width + 1))
    return View(np.ascontiguousarray(image[top : top + height, left : left + width]), top, left)


def noise(image: RGB, rng: np.random.Generator) -> View:
    """Add Gaussian noise of standard deviation 5 of 255, independent per pixel and channel."""
    noisy = np.empty_like(image)
    for row in range(len(image)):  # by row: no floating-point copy of a large image
        values = image[row] + np.float32(NOISE_STD) * rng.standard_normal(image[row].shape, np.float32)
        noisy[row] = np.clip(np.rint(values), 0, 255)
    return View(noisy)


VIEWS: dict[str, Callable[[RGB, np.random.Generator], View]] = {"flip": flip, "crop": crop, "noise": noise}


def _column_pieces(runs: rle.Runs, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Runs split at column ends: owner, column, first row, and row after the last, of each piece."""
    starts, ends, offsets = runs
    left, right = starts // height, (ends - 1) // height
    pieces = right - left + 1
    run = np.repeat(np.arange(len(starts)), pieces)
    column = left[run] + np.arange(len(run)) - (np.cumsum(pieces) - pieces)[run]
    first = np.where(column == left[run], starts[run] - column * height, 0)
    end = np.where(column == right[run], ends[run] - column * height, height)
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[run], column, first, end
