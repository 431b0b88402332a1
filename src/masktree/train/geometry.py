"""Geometric transform from an image to a view of it: resize, horizontal flip, crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.trees import rle
from masktree.types import RGB, Masks, checked


@dataclass(frozen=True)
class Geometry:
    """Resize an image, flip it if ``flipped``, then crop a window.

    The centre of window pixel (y, x) is the centre of pixel (y + offset[0], x + offset[1]) of the resized and flipped
    image. Window pixels outside of it (a negative offset, or beyond its end) are padding: 0 in images, no mask. Masks
    are sampled at pixel centres and images are averaged over pixels, so both agree to half a pixel.

    Attributes:
        size: (height, width) of the image.
        resized: (height, width) after resizing, each at least 1.
        offset: (top, left) of the window in the resized image.
        window: (height, width) of the view.
        flipped: left and right are exchanged.
    """

    size: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    window: tuple[int, int]
    flipped: bool = False

    def __post_init__(self) -> None:
        if min(*self.size, *self.resized, *self.window) < 1:
            raise InputError(f"expected sizes of at least 1 x 1; got {self.size}, {self.resized}, {self.window}")

    @property
    def valid_region(self) -> tuple[slice, slice]:
        """Rows and columns of the window that show the image; may be empty."""
        ends = [min(self.window[d], self.resized[d] - self.offset[d]) for d in range(2)]
        starts = [min(max(0, -self.offset[d]), max(ends[d], 0)) for d in range(2)]
        return slice(starts[0], max(ends[0], starts[0])), slice(starts[1], max(ends[1], starts[1]))

    @checked
    def apply(self, image: RGB) -> UInt8[np.ndarray, "height width 3"]:
        """The view of an (H, W, 3) image: bilinear, antialiased when downscaled.

        Raises:
            InputError: the image size differs.
        """
        if image.shape[:2] != self.size:
            raise InputError(f"expected an image of {self.size}; got {image.shape[:2]}")
        rows, columns = self.valid_region
        view = np.zeros((*self.window, 3), np.uint8)
        if rows.start == rows.stop or columns.start == columns.stop:
            return view
        top, bottom = rows.start + self.offset[0], rows.stop + self.offset[0]
        left, right = columns.start + self.offset[1], columns.stop + self.offset[1]
        if self.flipped:
            left, right = self.resized[1] - right, self.resized[1] - left
        y, x = self.size[0] / self.resized[0], self.size[1] / self.resized[1]
        patch = Image.fromarray(image).resize(
            (right - left, bottom - top),
            Image.Resampling.BILINEAR,
            box=(left * x, top * y, min(right * x, self.size[1]), min(bottom * y, self.size[0])),
            reducing_gap=2.0,  # large reductions average whole blocks first: several times faster
        )
        pixels = np.asarray(patch)
        view[rows, columns] = pixels[:, ::-1] if self.flipped else pixels
        return view

    def mask_areas(self, rles: Sequence[bytes]) -> np.ndarray:
        """(n,) int64 area of each mask of the image in the view, from run lengths: O(runs).

        Raises:
            InputError: a damaged run-length string, or one of another size.
        """
        areas: np.ndarray = _areas(*rle.runs(rles, self.size), self.size[0], *self._window_indices())
        return areas

    @checked
    def apply_masks(self, rles: Sequence[bytes]) -> Masks:
        """(n, height, width) bool: masks of the image in the view.

        Drawn from run lengths: O(runs + area of the masks' boxes).

        Raises:
            InputError: a damaged run-length string, or one of another size.
        """
        masks = np.zeros((len(rles), *self.window), np.uint8)
        _paint(masks, *rle.runs(rles, self.size), self.size[0], *self._window_indices(), self._flip_sum())
        return masks.view(np.bool_)

    def relative_to(self, other: Geometry) -> Geometry:
        """This view as a view of another view, which shows the whole image.

        Maps masks from there to here with one sampling. The result is that of mapping by way of the image, up to a
        pixel at the masks' borders.

        Raises:
            InputError: ``other`` is of another image, or shows only a part of it.
        """
        if other.size != self.size or other.window != other.resized or other.offset != (0, 0):
            raise InputError(f"expected a view of the whole image of {self.size}; got {other}")
        return replace(self, size=other.window, flipped=self.flipped != other.flipped)

    def _window_indices(self) -> tuple[np.ndarray, np.ndarray]:
        """(H + 1,) and (W + 1,) int64: image rows a ... b - 1 fill window rows first[a] ... first[b] - 1; likewise
        columns, which count from the right if flipped (see ``_flip_sum``)."""
        result = []
        for d, valid in enumerate(self.valid_region):
            at = np.arange(valid.start, valid.stop, dtype=np.int64) + self.offset[d]
            if d == 1 and self.flipped:
                at = self.resized[1] - 1 - at[::-1]
            source = (2 * at + 1) * self.size[d] // (2 * self.resized[d])
            result.append(valid.start + np.searchsorted(source, np.arange(self.size[d] + 1)))
        return result[0], result[1]

    def _flip_sum(self) -> int:
        """Column c of ``_window_indices`` is window column sum - c; -1 if not flipped."""
        return self.valid_region[1].start + self.valid_region[1].stop - 1 if self.flipped else -1


@kernel()
def _areas(
    starts: np.ndarray,
    ends: np.ndarray,
    offsets: np.ndarray,
    height: int,
    row_first: np.ndarray,
    column_first: np.ndarray,
) -> np.ndarray:
    result = np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(result)):
        for run in range(offsets[i], offsets[i + 1]):
            at = starts[run]
            while at < ends[run]:  # column by column
                column = at // height
                column_start = column * height
                stop = min(ends[run], column_start + height)
                rows = row_first[stop - column_start] - row_first[at - column_start]
                result[i] += rows * (column_first[column + 1] - column_first[column])
                at = stop
    return result


@kernel()
def _paint(
    masks: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    offsets: np.ndarray,
    height: int,
    row_first: np.ndarray,
    column_first: np.ndarray,
    flip_sum: int,
) -> None:
    """Draw runs into zero masks, in place.

    Each piece of a run toggles its first row and the row after its last; an exclusive-or down the rows of the mask's
    box then fills it and removes the lower toggles. Writing whole columns would touch a cache line for every pixel.
    """
    rows, columns = masks.shape[1:]
    for i in range(len(masks)):
        top, bottom, left, right = rows, 0, columns, 0
        mask = masks[i]
        for run in range(offsets[i], offsets[i + 1]):
            at = starts[run]
            while at < ends[run]:
                column = at // height
                column_start = column * height
                stop = min(ends[run], column_start + height)
                first, last = row_first[at - column_start], row_first[stop - column_start]
                at = stop
                if first == last:
                    continue
                for c in range(column_first[column], column_first[column + 1]):
                    x = c if flip_sum < 0 else flip_sum - c
                    mask[first, x] ^= 1
                    if last < rows:
                        mask[last, x] ^= 1
                    left, right = min(left, x), max(right, x + 1)
                    top, bottom = min(top, first), max(bottom, last)
        for y in range(top + 1, min(bottom + 1, rows)):
            for x in range(left, right):
                mask[y, x] ^= mask[y - 1, x]
