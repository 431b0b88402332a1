"""Where the pixels of a view come from: a photograph resized, mirrored or not, and cut, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from numba import njit
from PIL import Image

from masktree.errors import InputError
from masktree.trees import rle
from masktree.types import RGB, Masks, checked


@dataclass(frozen=True)
class Geometry:
    """A photograph is brought to another size, mirrored if ``mirrored``, then cut to a window.

    The centre of window pixel (y, x) is the centre of pixel (y + offset[0], x + offset[1]) of the resized, perhaps
    mirrored, photograph. What the window has beyond it, where an offset is negative or the photograph ends, is
    padding: 0 in images, no mask. Masks are sampled at pixel centres and images are averaged over pixels, so both
    lie on the same place to half a pixel.

    Attributes:
        size: (H, W) of the photograph.
        resized: (height, width) that it is brought to, each at least 1.
        offset: (top, left) of the window.
        window: (height, width) of the view.
        mirrored: left and right are exchanged.
    """

    size: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    window: tuple[int, int]
    mirrored: bool = False

    def __post_init__(self) -> None:
        if min(*self.size, *self.resized, *self.window) < 1:
            raise InputError(f"expected sizes of at least 1 x 1; got {self.size}, {self.resized}, {self.window}")

    @property
    def content(self) -> tuple[slice, slice]:
        """Rows and columns of the window that show the photograph; perhaps none."""
        ends = [min(self.window[d], self.resized[d] - self.offset[d]) for d in range(2)]
        starts = [min(max(0, -self.offset[d]), max(ends[d], 0)) for d in range(2)]
        return slice(starts[0], max(ends[0], starts[0])), slice(starts[1], max(ends[1], starts[1]))

    @checked
    def apply(self, image: RGB) -> UInt8[np.ndarray, "height width 3"]:
        """The view of the (H, W, 3) photograph: bilinear, averaged where it gets smaller.

        Raises:
            InputError: the image has another size.
        """
        if image.shape[:2] != self.size:
            raise InputError(f"expected an image of {self.size}; got {image.shape[:2]}")
        rows, columns = self.content
        view = np.zeros((*self.window, 3), np.uint8)
        if rows.start == rows.stop or columns.start == columns.stop:
            return view
        top, bottom = rows.start + self.offset[0], rows.stop + self.offset[0]
        left, right = columns.start + self.offset[1], columns.stop + self.offset[1]
        if self.mirrored:
            left, right = self.resized[1] - right, self.resized[1] - left
        y, x = self.size[0] / self.resized[0], self.size[1] / self.resized[1]
        part = Image.fromarray(image).resize(
            (right - left, bottom - top),
            Image.Resampling.BILINEAR,
            box=(left * x, top * y, min(right * x, self.size[1]), min(bottom * y, self.size[0])),
            reducing_gap=2.0,  # far smaller photographs are first averaged over whole pixels: several times faster
        )
        pixels = np.asarray(part)
        view[rows, columns] = pixels[:, ::-1] if self.mirrored else pixels
        return view

    def mask_areas(self, rles: Sequence[bytes]) -> np.ndarray:
        """(n,) int64 pixels that each mask of the photograph has in the view; none is made dense. O(runs).

        Raises:
            InputError: a string is damaged or belongs to another size.
        """
        return _areas(*rle.runs(rles, self.size), self.size[0], *self._firsts())

    @checked
    def apply_masks(self, rles: Sequence[bytes]) -> Masks:
        """(n, height, width) bool: the masks of the photograph as the view has them.

        Painted from run lengths: O(runs), and the bytes within the masks' boxes.

        Raises:
            InputError: a string is damaged or belongs to another size.
        """
        masks = np.zeros((len(rles), *self.window), np.uint8)
        _paint(masks, *rle.runs(rles, self.size), self.size[0], *self._firsts(), self._mirror())
        return masks.view(np.bool_)

    @checked
    def invert_masks(self, masks: Masks) -> list[bytes]:
        """Masks of the view on the pixels of the photograph, as run-length strings of its size; False where the view
        does not reach. Exactly undoes :meth:`apply_masks` on what the view shows if no side was made smaller.

        Raises:
            InputError: the masks have another size than the view.
        """
        if masks.shape[1:] != self.window:
            raise InputError(f"expected masks of {self.window}; got {masks.shape[1:]}")
        places = []
        for d in range(2):
            at = (2 * np.arange(self.size[d], dtype=np.int64) + 1) * self.resized[d] // (2 * self.size[d])
            if d == 1 and self.mirrored:
                at = self.resized[1] - 1 - at
            places.append(at - self.offset[d])
        rows, columns = places
        seen_rows = np.flatnonzero((rows >= 0) & (rows < self.window[0]))
        seen_columns = np.flatnonzero((columns >= 0) & (columns < self.window[1]))
        result = []
        for mask in masks:
            full = np.zeros(self.size, np.bool_)
            full[np.ix_(seen_rows, seen_columns)] = mask[np.ix_(rows[seen_rows], columns[seen_columns])]
            result.append(rle.encode(full))
        return result

    def through(self, whole: Geometry) -> Geometry:
        """This view as a view of another one, which shows all of the photograph: brings masks from there to here, which
        are sampled once. The result is that by way of the photograph, to a pixel at the masks' borders.

        Raises:
            InputError: of another photograph, or not all of it.
        """
        if whole.size != self.size or whole.window != whole.resized or whole.offset != (0, 0):
            raise InputError(f"expected a view of all of a photograph of {self.size}; got {whole}")
        return replace(self, size=whole.window, mirrored=self.mirrored != whole.mirrored)

    def _firsts(self) -> tuple[np.ndarray, np.ndarray]:
        """(H + 1,) and (W + 1,) int64: photograph rows a ... b - 1 are seen by window rows first[a] ... first[b] - 1;
        likewise columns, which run from the right if mirrored (see ``_mirror``)."""
        result = []
        for d, seen in enumerate(self.content):
            at = np.arange(seen.start, seen.stop, dtype=np.int64) + self.offset[d]
            if d == 1 and self.mirrored:
                at = self.resized[1] - 1 - at[::-1]
            source = (2 * at + 1) * self.size[d] // (2 * self.resized[d])
            result.append(seen.start + np.searchsorted(source, np.arange(self.size[d] + 1)))
        return result[0], result[1]

    def _mirror(self) -> int:
        """Window column c of ``_firsts`` is column mirror - c in truth; -1 for c itself."""
        return self.content[1].start + self.content[1].stop - 1 if self.mirrored else -1


@njit(cache=True, nogil=True)
def _areas(starts, ends, offsets, height, row_first, column_first):
    result = np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(result)):
        for run in range(offsets[i], offsets[i + 1]):
            at = starts[run]
            while at < ends[run]:
                column = at // height
                foot = column * height
                stop = min(ends[run], foot + height)
                rows = row_first[stop - foot] - row_first[at - foot]
                result[i] += rows * (column_first[column + 1] - column_first[column])
                at = stop
    return result


@njit(cache=True, nogil=True)
def _paint(masks, starts, ends, offsets, height, row_first, column_first, mirror):
    """Each piece of a run toggles its first row and the row after its last; an exclusive-or down the rows of the
    mask's box then fills it and takes the lower toggles away. Writing whole columns would touch a line of cache for
    every pixel."""
    rows, columns = masks.shape[1:]
    for i in range(len(masks)):
        top, bottom, left, right = rows, 0, columns, 0
        mask = masks[i]
        for run in range(offsets[i], offsets[i + 1]):
            at = starts[run]
            while at < ends[run]:
                column = at // height
                foot = column * height
                stop = min(ends[run], foot + height)
                first, last = row_first[at - foot], row_first[stop - foot]
                at = stop
                if first == last:
                    continue
                for c in range(column_first[column], column_first[column + 1]):
                    x = c if mirror < 0 else mirror - c
                    mask[first, x] ^= 1
                    if last < rows:
                        mask[last, x] ^= 1
                    left, right = min(left, x), max(right, x + 1)
                    top, bottom = min(top, first), max(bottom, last)
        for y in range(top + 1, min(bottom + 1, rows)):
            for x in range(left, right):
                mask[y, x] ^= mask[y - 1, x]
