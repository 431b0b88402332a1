"""Many masks of one large image, found at several scales: their areas, overlaps and hierarchy in little memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from masktree.kernels import kernel
from masktree.trees import rle
from masktree.types import Labels

Rectangle = tuple[int, int, int, int]  # top, left, bottom, right in pixels; half-open


@dataclass(frozen=True, eq=False)
class ScaledMasks:
    """n non-empty masks, each on a grid of cells of ``factors[i]`` x ``factors[i]`` pixels, as runs down its columns.

    A mask that was found on a reduced image keeps its cells, so that it takes the memory of the reduced one.

    Attributes:
        size: (height, width) of the image in pixels, which cuts the cells at its lower and right edge.
        factors: (n,) int32 powers of two.
        offsets: (n + 1,) int64; the runs of mask i have the indices offsets[i] ... offsets[i + 1] - 1.
        columns, starts, ends: (r,) int32 column of cells, first row and the row after the last; within a mask in
            ascending order, disjoint.
    """

    size: tuple[int, int]
    factors: np.ndarray
    offsets: np.ndarray
    columns: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def from_rles(cls, rles: Sequence[bytes], size: tuple[int, int]) -> ScaledMasks:
        """From run-length strings of an image of ``size``, at full scale."""
        flat = rle.runs(rles, size)
        height = size[0]
        first, last = flat.starts // height, (flat.ends - 1) // height
        counts = last - first + 1  # a run that goes on at the top of the next column is two
        owners = np.repeat(np.repeat(np.arange(len(rles)), np.diff(flat.offsets)), counts)
        run = np.repeat(np.arange(len(counts)), counts)
        column = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.maximum(flat.starts[run] - column * height, 0)
        ends = np.minimum(flat.ends[run] - column * height, height)
        return cls(
            size,
            np.ones(len(rles), np.int32),
            np.searchsorted(owners, np.arange(len(rles) + 1)),
            column.astype(np.int32),
            starts.astype(np.int32),
            ends.astype(np.int32),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[ScaledMasks], size: tuple[int, int]) -> ScaledMasks:
        """The masks of all parts, in order, of an image of ``size``."""
        first = np.cumsum([0, *(len(part.columns) for part in parts)])
        offsets = [part.offsets[:-1] + start for part, start in zip(parts, first, strict=False)]
        none = np.zeros(0, np.int32)
        return cls(
            size,
            np.concatenate([none, *(part.factors for part in parts)]),
            np.concatenate([*offsets, first[-1:]]),
            np.concatenate([none, *(part.columns for part in parts)]),
            np.concatenate([none, *(part.starts for part in parts)]),
            np.concatenate([none, *(part.ends for part in parts)]),
        )

    def __len__(self) -> int:
        return len(self.factors)

    def __getitem__(self, indices: np.ndarray) -> ScaledMasks:
        """The masks at (k,) indices, in this order."""
        first, counts = self.offsets[indices], np.diff(self.offsets)[indices]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        runs = np.repeat(first - offsets[:-1], counts) + np.arange(offsets[-1])
        return ScaledMasks(
            self.size, self.factors[indices], offsets, self.columns[runs], self.starts[runs], self.ends[runs]
        )

    def moved(self, top: int, left: int, size: tuple[int, int]) -> ScaledMasks:
        """The masks, at full scale, as part of an image of ``size`` in which they begin at row ``top``, column
        ``left``."""
        return ScaledMasks(size, self.factors, self.offsets, self.columns + left, self.starts + top, self.ends + top)

    def scaled(self, factor: int, size: tuple[int, int]) -> ScaledMasks:
        """The masks, at full scale, on an image of ``size`` in which their pixels are cells of a side of ``factor``."""
        return ScaledMasks(size, self.factors * np.int32(factor), self.offsets, self.columns, self.starts, self.ends)

    def union(self) -> ScaledMasks:
        """One mask, the union of all, which are of one scale."""
        order = np.lexsort((self.starts, self.columns))
        columns, starts, ends = _merge(self.columns[order], self.starts[order], self.ends[order])
        return ScaledMasks(self.size, self.factors[:1], np.array([0, len(columns)]), columns, starts, ends)

    # --- measures -------------------------------------------------------------------------------------------------

    @cached_property
    def owners(self) -> np.ndarray:
        """(r,) int64: the mask of each run."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def boxes(self) -> np.ndarray:
        """(n, 4) int64 top, left, bottom, right in pixels."""
        if len(self) == 0:
            return np.zeros((0, 4), np.int64)
        first = self.offsets[:-1]
        cells = [
            np.minimum.reduceat(self.starts, first),
            self.columns[first],
            np.maximum.reduceat(self.ends, first),
            self.columns[self.offsets[1:] - 1] + 1,
        ]
        pixels = np.stack(cells, axis=1).astype(np.int64) * self.factors[:, None]
        return np.minimum(pixels, [*self.size, *self.size])

    @cached_property
    def areas(self) -> np.ndarray:
        """(n,) int64 pixels."""
        return self.areas_inside((0, 0, *self.size))

    def areas_inside(self, rectangle: Rectangle) -> np.ndarray:
        """(n,) int64 pixels of each mask inside a rectangle."""
        top, left, bottom, right = rectangle
        factor = self.factors[self.owners].astype(np.int64)
        height = np.minimum(self.ends * factor, bottom) - np.maximum(self.starts * factor, top)
        width = np.minimum((self.columns + 1) * factor, right) - np.maximum(self.columns * factor, left)
        pixels = np.maximum(height, 0) * np.maximum(width, 0)
        return np.bincount(self.owners, pixels, minlength=len(self)).astype(np.int64)

    def touching(self, rectangle: Rectangle) -> np.ndarray:
        """(k,) indices of the masks whose box shares pixels with a rectangle."""
        top, left, bottom, right = rectangle
        boxes = self.boxes
        inside = (boxes[:, 0] < bottom) & (boxes[:, 2] > top) & (boxes[:, 1] < right) & (boxes[:, 3] > left)
        return np.flatnonzero(inside)

    # --- overlaps -------------------------------------------------------------------------------------------------

    def agreements(
        self, one: np.ndarray, other: np.ndarray, rectangle: Rectangle, min_iou: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of a mask of ``one`` and a mask of ``other``, which are indices, whose IoU inside a rectangle is at
        least ``min_iou``: (k, 2) pairs and (k,) float64 IoU."""
        first, second = self[one], self[other]
        found, values = _agreements(
            *_arrays(first),
            first.areas_inside(rectangle),
            *_arrays(second),
            second.areas_inside(rectangle),
            np.array(rectangle, np.int64),
            min_iou,
        )
        return np.stack([one[found[:, 0]], other[found[:, 1]]], axis=1), values

    def duplicates(self, max_iou: float) -> np.ndarray:
        """(n,) bool: masks with an IoU of more than ``max_iou`` with one of a finer scale that is none of these."""
        order = np.argsort(self.factors, kind="stable")
        found = _duplicates(*_arrays(self), self.areas, self.boxes, *_index(self.boxes), order, self._bounds, max_iou)
        return np.asarray(found)

    def parents(self, min_coverage: float) -> np.ndarray:
        """(n,) int32 parents by coverage, as of ``masktree.trees.hierarchy.parents_by_coverage``, -1 for roots.

        Only masks whose boxes overlap are compared, found by their widths and left ends, and no n x n matrix is made.
        """
        return np.asarray(
            _parents(*_arrays(self), self.areas, self.boxes, *_index(self.boxes), self._bounds, min_coverage)
        )

    @property
    def _bounds(self) -> np.ndarray:
        return np.array([0, 0, *self.size], np.int64)

    # --- pixels ---------------------------------------------------------------------------------------------------

    def paint(self, out: Labels, values: np.ndarray, top: int, left: int) -> None:
        """Write ``values[i]``, (n,) int32, into the pixels of mask i, one mask after the other, in the window ``out``,
        (h, w) int32, of which the upper left pixel is (top, left) of the image."""
        _paint(out, values.astype(np.int32), *_arrays(self), top, left)

    def sampled(self, step: int, size: tuple[int, int]) -> ScaledMasks:
        """The masks, some of them perhaps empty, on a picture of ``size`` whose pixels show the middle of ``step`` x
        ``step`` pixels of the image; a step of 1 gives full scale."""
        x_first, x_end = self._samples(self.columns, self.columns + 1, step, self.size[1], size[1])
        y_first, y_end = self._samples(self.starts, self.ends, step, self.size[0], size[0])
        counts = np.where(y_end > y_first, np.maximum(x_end - x_first, 0), 0)
        run = np.repeat(np.arange(len(counts)), counts)
        columns = x_first[run] + np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)
        order = np.lexsort((y_first[run], columns, self.owners[run]))
        run = run[order]
        return ScaledMasks(
            size,
            np.ones(len(self), np.int32),
            np.searchsorted(self.owners[run], np.arange(len(self) + 1)),
            columns[order].astype(np.int32),
            y_first[run].astype(np.int32),
            y_end[run].astype(np.int32),
        )

    def _samples(
        self, first: np.ndarray, end: np.ndarray, step: int, length: int, samples: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The samples in the cells ``first`` to ``end`` - 1 of each run: the first, and the one after the last."""
        factor, half = self.factors[self.owners].astype(np.int64), step // 2
        pixels = end * factor
        low = -((half - first * factor) // step)
        high = np.where(pixels >= length, samples, -((half - pixels) // step))  # the last middle may lie outside
        return np.maximum(low, 0), np.minimum(high, samples)

    def rles(self) -> list[bytes]:
        """Run-length strings of the masks at full scale.

        Raises:
            InputError: 2^31 pixels or more.
        """
        return [_rle(self[np.array([index])].sampled(1, self.size)) for index in range(len(self))]


def _rle(mask: ScaledMasks) -> bytes:
    first = mask.columns.astype(np.int64) * mask.size[0]
    return rle.encode_runs(first + mask.starts, first + mask.ends, mask.size)


def _arrays(masks: ScaledMasks) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return masks.factors, masks.offsets, masks.columns, masks.starts, masks.ends


def _index(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks in the order of (class of widths, left end), the left ends in this order, and the first mask of each class
    k, of widths below 2^(k + 1)."""
    widths = boxes[:, 3] - boxes[:, 1]
    classes = np.log2(np.maximum(widths, 1)).astype(np.int64)
    order = np.lexsort((boxes[:, 1], classes))
    first = np.searchsorted(classes[order], np.arange(classes.max(initial=0) + 2))
    return order, boxes[order, 1], first


@kernel()
def _merge(columns: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The union of runs in ascending order."""
    out = np.empty((3, len(columns)), np.int32)
    n = 0
    for i in range(len(columns)):
        if n and out[0, n - 1] == columns[i] and starts[i] <= out[2, n - 1]:
            out[2, n - 1] = max(out[2, n - 1], ends[i])
        else:
            out[0, n], out[1, n], out[2, n] = columns[i], starts[i], ends[i]
            n += 1
    return out[0, :n].copy(), out[1, :n].copy(), out[2, :n].copy()


@kernel()
def _shared(
    a: int,
    b: int,
    factors_a: np.ndarray,
    offsets_a: np.ndarray,
    columns_a: np.ndarray,
    starts_a: np.ndarray,
    ends_a: np.ndarray,
    factors_b: np.ndarray,
    offsets_b: np.ndarray,
    columns_b: np.ndarray,
    starts_b: np.ndarray,
    ends_b: np.ndarray,
    bounds: np.ndarray,
) -> int:
    """Pixels inside ``bounds`` (top, left, bottom, right) in both mask a and mask b; a is not of the coarser scale."""
    fine, coarse = np.int64(factors_a[a]), np.int64(factors_b[b])
    top, left, bottom, right = bounds
    j, j_end = offsets_b[b], offsets_b[b + 1]
    total = 0
    for i in range(offsets_a[a], offsets_a[a + 1]):
        x = columns_a[i] * fine
        width = min(x + fine, right) - max(x, left)
        if width <= 0:
            continue
        column = x // coarse
        while j < j_end and columns_b[j] < column:
            j += 1
        start, end = max(starts_a[i] * fine, top), min(ends_a[i] * fine, bottom)
        k = j
        while k < j_end and columns_b[k] == column and starts_b[k] * coarse < end:
            height = min(end, ends_b[k] * coarse) - max(start, starts_b[k] * coarse)
            total += max(height, 0) * width
            k += 1
    return total


@kernel()
def _agreements(
    factors_a: np.ndarray,
    offsets_a: np.ndarray,
    columns_a: np.ndarray,
    starts_a: np.ndarray,
    ends_a: np.ndarray,
    areas_a: np.ndarray,
    factors_b: np.ndarray,
    offsets_b: np.ndarray,
    columns_b: np.ndarray,
    starts_b: np.ndarray,
    ends_b: np.ndarray,
    areas_b: np.ndarray,
    bounds: np.ndarray,
    min_iou: float,
) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.empty((len(factors_a) * len(factors_b), 2), np.int64)
    values = np.empty(len(pairs))
    n = 0
    for a in range(len(factors_a)):
        for b in range(len(factors_b)):
            smaller, larger = min(areas_a[a], areas_b[b]), max(areas_a[a], areas_b[b])
            if smaller == 0 or smaller < min_iou * larger:
                continue
            shared = _shared(
                a, b, factors_a, offsets_a, columns_a, starts_a, ends_a,
                factors_b, offsets_b, columns_b, starts_b, ends_b, bounds,
            )  # fmt: skip
            iou = shared / (smaller + larger - shared)
            if iou >= min_iou:
                pairs[n, 0], pairs[n, 1], values[n] = a, b, iou
                n += 1
    return pairs[:n].copy(), values[:n].copy()


@kernel()
def _overlapping(
    box: np.ndarray, boxes: np.ndarray, order: np.ndarray, lefts: np.ndarray, first: np.ndarray, out: np.ndarray
) -> int:
    """Writes the masks whose boxes overlap a box into ``out`` and returns their number."""
    n = 0
    for k in range(len(first) - 1):
        begin, end = first[k], first[k + 1]
        widest = np.int64(2) ** (k + 1)
        low = begin + np.searchsorted(lefts[begin:end], box[1] - widest)
        high = begin + np.searchsorted(lefts[begin:end], box[3])
        for position in range(low, high):
            other = order[position]
            if boxes[other, 3] > box[1] and boxes[other, 0] < box[2] and boxes[other, 2] > box[0]:
                out[n] = other
                n += 1
    return n


@kernel()
def _duplicates(
    factors: np.ndarray,
    offsets: np.ndarray,
    columns: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    areas: np.ndarray,
    boxes: np.ndarray,
    by_left: np.ndarray,
    lefts: np.ndarray,
    first: np.ndarray,
    by_factor: np.ndarray,
    bounds: np.ndarray,
    max_iou: float,
) -> np.ndarray:
    found = np.zeros(len(factors), np.bool_)
    near = np.empty(len(factors), np.int64)
    for b in by_factor:
        count = _overlapping(boxes[b], boxes, by_left, lefts, first, near)
        for a in near[:count]:
            smaller, larger = min(areas[a], areas[b]), max(areas[a], areas[b])
            if factors[a] >= factors[b] or found[a] or smaller <= max_iou * larger:
                continue
            shared = _shared(
                a, b, factors, offsets, columns, starts, ends, factors, offsets, columns, starts, ends, bounds
            )
            if shared > max_iou * (smaller + larger - shared):
                found[b] = True
                break
    return found


@kernel()
def _parents(
    factors: np.ndarray,
    offsets: np.ndarray,
    columns: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    areas: np.ndarray,
    boxes: np.ndarray,
    by_left: np.ndarray,
    lefts: np.ndarray,
    first: np.ndarray,
    bounds: np.ndarray,
    min_coverage: float,
) -> np.ndarray:
    parents = np.full(len(factors), -1, np.int32)
    near = np.empty(len(factors), np.int64)
    for a in range(len(factors)):
        count = _overlapping(boxes[a], boxes, by_left, lefts, first, near)
        for b in near[:count]:
            best = parents[a]
            if areas[b] <= areas[a] or (
                best >= 0 and (areas[b] > areas[best] or (areas[b] == areas[best] and b > best))
            ):
                continue
            height = min(boxes[a, 2], boxes[b, 2]) - max(boxes[a, 0], boxes[b, 0])
            width = min(boxes[a, 3], boxes[b, 3]) - max(boxes[a, 1], boxes[b, 1])
            if height * width < min_coverage * areas[a]:
                continue
            fine, coarse = (a, b) if factors[a] <= factors[b] else (b, a)
            shared = _shared(
                fine, coarse, factors, offsets, columns, starts, ends, factors, offsets, columns, starts, ends, bounds
            )
            if shared > 0 and shared / areas[a] >= min_coverage and shared / areas[b] < min_coverage:
                parents[a] = b
    return parents


@kernel()
def _paint(
    out: np.ndarray,
    values: np.ndarray,
    factors: np.ndarray,
    offsets: np.ndarray,
    columns: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    top: int,
    left: int,
) -> None:
    height, width = out.shape
    for mask in range(len(values)):
        factor = np.int64(factors[mask])
        for i in range(offsets[mask], offsets[mask + 1]):
            x = columns[i] * factor - left
            y, y_end = max(starts[i] * factor - top, 0), min(ends[i] * factor - top, height)
            if y < y_end:
                out[y:y_end, max(x, 0) : max(min(x + factor, width), 0)] = values[mask]
