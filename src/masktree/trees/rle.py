"""Masks as run lengths: COCO's compressed strings, and set arithmetic on runs instead of pixels.

A mask of size (h, w) is a ``bytes`` string. Pixels are numbered down the columns (pixel y + h * x); the mask
is the list of lengths of its alternating background and foreground runs, background first (0 if pixel 0 is
foreground); from the fourth length on, the difference to the length two positions before is stored; each number
is written in groups of five bits, lowest first, one printable character (48-111) per group. This is the
``counts`` entry of COCO annotation files and of pycocotools (``common/maskApi.c``), equal byte by byte.

Only :func:`decode` makes a dense mask. Time and memory are proportional to the number of runs, typically
n * sqrt(P) for n masks of an image with P pixels, not n * P. (pycocotools computes IoUs and boxes of run lengths too,
but not masks of label intervals, and its runs are not accessible from Python.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int32, Int64

from masktree.arguments import check_rles, check_size
from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.types import Labels, Mask, checked

_MAX_PIXELS = 2**31  # of an image: positions fit into 32 bits
_STRIP_PIXELS = 2**20  # transposed at a time
_MAX_CHARACTERS = 7  # of one number: 7 * 5 bits hold any difference of two 32-bit lengths
_DAMAGED, _CUT_OFF, _NEGATIVE = -1, -2, -3  # error codes in place of the pixel count
_ERRORS = {
    _DAMAGED: "a character or number that the format does not have",
    _CUT_OFF: "a string that ends inside a number",
    _NEGATIVE: "a negative run length",
}


class Runs(NamedTuple):
    """Foreground runs of n masks; those of mask i have the indices offsets[i] ... offsets[i + 1] - 1.

    Half-open pixel intervals [start, end) in column-major order; within a mask ascending, disjoint and never
    adjacent. ``offsets`` has n + 1 entries.
    """

    starts: Int64[np.ndarray, " r"]
    ends: Int64[np.ndarray, " r"]
    offsets: Int64[np.ndarray, " m"]


@checked
def encode(mask: Mask) -> bytes:
    """Compressed run-length string of a (H, W) mask. O(H W).

    Raises:
        InputError: 2^31 pixels or more.
    """
    if _pixels(mask.shape) == 0:
        return b"0"
    counts = np.diff(_edges(mask))
    if mask[0, 0]:
        counts = np.concatenate([[0], counts])
    return _compress(counts).tobytes()


@checked
def decode(rle: bytes, size: tuple[int, int]) -> Mask:
    """The (H, W) mask of a compressed run-length string, C-contiguous.

    Raises:
        InputError: the string is damaged or belongs to another image size.
    """
    return next(decode_runs(runs([rle], size), size))


def decode_runs(runs: Runs, size: tuple[int, int]) -> Iterator[Mask]:
    """The (H, W) mask of each of n sets of runs, C-contiguous, one after the other.

    O(foreground pixels): the system gives memory of zeros and only rows with foreground are touched. 1000 masks on
    1920 x 1080 pixels take 0.3 s.
    """
    for first, last in pairwise(runs.offsets):
        mask = np.zeros(size, np.bool_)
        _fill(mask, runs.starts[first:last], runs.ends[first:last])
        yield mask


def inner_points(runs: Runs, size: tuple[int, int]) -> Int64[np.ndarray, "n 2"]:
    """(x, y) of a pixel well inside each mask: of the column that halves its area, the middle of the longest run.

    A few microseconds per mask, whereas the pixel farthest from the border takes a distance transform. (-1, -1) for an
    empty mask.
    """
    return _inner_points(*runs, size[0])


@checked
def encode_intervals(labels: Labels, low: Int[np.ndarray, " k"], high: Int[np.ndarray, " m"]) -> list[bytes]:
    """The k masks ``low[i] <= labels < high[i]``, without making any of them dense.

    The label map is converted once to R column-major runs (12 bytes each, with their order by label). An interval
    then costs the minimum of sorting its m runs, m log m, and one pass over all R runs. With leaves numbered in
    depth-first order of a dendrogram, every node is such an interval.

    Args:
        labels: region of each pixel, 0 <= label < H * W.
        low, high: first label of each mask, and one past its last; an interval may be empty or exceed the labels.

    Raises:
        InputError: 2^31 pixels or more, a label out of range, ``low`` and ``high`` of different length.
    """
    pixels = _pixels(labels.shape)
    if len(low) != len(high):
        raise InputError(f"expected as many low as high ends; got {len(low)} and {len(high)}; pass pairs")
    if pixels == 0:
        return [b"0"] * len(low)
    starts, run_labels = label_runs(labels)
    first, last = int(run_labels.min()), int(run_labels.max())
    if first < 0 or last >= pixels:
        raise InputError(f"expected labels 0 ... {pixels - 1}; got {first} ... {last}; renumber the regions")
    order, offsets = _by_label(run_labels, last + 1)
    lows = np.clip(low, 0, last + 1).astype(np.int64)
    highs = np.clip(high, 0, last + 1).astype(np.int64)
    return [
        _compress(_interval_counts(starts, run_labels, order, offsets, a, max(a, b))).tobytes()
        for a, b in zip(lows, highs, strict=True)
    ]


@checked
def label_runs(labels: Labels) -> tuple[Int32[np.ndarray, " m"], Int32[np.ndarray, " r"]]:
    """The r column-major runs of equal labels of a map that is not empty: the position at which each starts, then the
    number of pixels (m = r + 1), and the label of each."""
    starts = _edges(labels).astype(np.int32)
    return starts, labels[starts[:-1] % labels.shape[0], starts[:-1] // labels.shape[0]]


@checked
def encode_runs(starts: Int[np.ndarray, " r"], ends: Int[np.ndarray, " s"], size: tuple[int, int]) -> bytes:
    """Run-length string of a mask with the given foreground intervals (column-major); adjacent ones are joined.

    Raises:
        InputError: the intervals are not ascending, disjoint, non-empty and inside the image.
    """
    pixels = _pixels(size)
    starts, ends = starts.astype(np.int64), ends.astype(np.int64)
    if len(starts) != len(ends):
        raise InputError(f"expected as many starts as ends; got {len(starts)} and {len(ends)}; pass pairs")
    if len(starts) and (starts[0] < 0 or ends[-1] > pixels or (starts >= ends).any() or (ends[:-1] > starts[1:]).any()):
        raise InputError(
            f"expected ascending, disjoint, non-empty pixel intervals inside 0 ... {pixels}; got others; "
            "sort and merge them first"
        )
    return _compress(_run_counts(starts, ends, pixels)).tobytes()


@checked
def encode_at(mask: Mask, top: int, left: int, size: tuple[int, int]) -> bytes:
    """Run-length string of a mask of (height, width) ``size`` that contains ``mask`` with its upper-left corner at row
    ``top``, column ``left``, and is empty elsewhere. Reads ``mask`` only: ten times faster for an object on 24
    megapixels.

    Raises:
        InputError: the mask does not fit.
    """
    height, width = mask.shape
    if min(top, left) < 0 or top + height > size[0] or left + width > size[1]:
        raise InputError(f"expected a mask inside {size}; got one of {mask.shape} at row {top}, column {left}")
    # Columns padded with an empty pixel above and below, so that every run starts and ends within its column.
    columns = np.pad(mask.T, ((0, 0), (1, 1)))
    x, y = np.divmod(np.flatnonzero(columns[:, 1:] != columns[:, :-1]), height + 1)
    positions = (x + left) * size[0] + y + top
    return encode_runs(positions[::2], positions[1::2], size)


@checked
def runs(rles: Sequence[bytes], size: tuple[int, int]) -> Runs:
    """Foreground runs of all masks, 16 bytes per run.

    Raises:
        InputError: a string is damaged or belongs to another image size (its index is named).
    """
    check_rles(rles)
    pixels = _pixels(size)
    text = np.frombuffer(b"".join(rles), np.uint8)
    bounds = np.zeros(len(rles) + 1, np.int64)
    np.cumsum([len(rle) for rle in rles], out=bounds[1:])
    starts, ends, offsets, totals = _parse(text, bounds)
    wrong = np.flatnonzero(totals != pixels)
    if len(wrong):
        i = int(wrong[0])
        got = _ERRORS.get(int(totals[i]), f"{totals[i]} pixels")
        raise InputError(
            f"expected run lengths of {size[0]} x {size[1]} = {pixels} pixels in mask {i}; got {got}; "
            "check the image size (height, width) and the file that the mask came from"
        )
    return Runs(starts, ends, offsets)


@checked
def counts(rle: bytes, size: tuple[int, int]) -> list[int]:
    """Uncompressed COCO counts: lengths of alternating background and foreground runs, background first."""
    starts, ends, _ = runs([rle], size)
    borders = np.concatenate([[0], np.stack([starts, ends], 1).ravel(), [size[0] * size[1]]])
    lengths = np.diff(borders)
    return lengths.tolist() if lengths[-1] or len(lengths) == 1 else lengths[:-1].tolist()


def areas(rles: Sequence[bytes], size: tuple[int, int]) -> Int64[np.ndarray, " n"]:
    """Foreground pixels of each mask."""
    return _areas(*runs(rles, size))


@checked
def boxes(rles: Sequence[bytes], size: tuple[int, int]) -> Float64[np.ndarray, "n 4"]:
    """Tight XYWH boxes in pixels as COCO computes them; the box of an empty mask is all zeros."""
    return _boxes(*runs(rles, size), size[0])


@checked
def intersections(rles: Sequence[bytes], size: tuple[int, int]) -> Int64[np.ndarray, "n n"]:
    """Area of the intersection of each pair of masks; the diagonal holds the areas.

    One sweep over all R runs in order of their start, which visits each pair of overlapping runs once:
    O(R log n + overlapping run pairs) time, 8 n^2 + 24 R bytes.
    """
    starts, ends, offsets = runs(rles, size)
    return _sweep(starts, ends, _owners(offsets), np.argsort(starts, kind="stable"), len(rles))


@checked
def cross_intersections(a: Sequence[bytes], b: Sequence[bytes], size: tuple[int, int]) -> Int64[np.ndarray, "na nb"]:
    """Area of the intersection of each mask of ``a`` with each of ``b``, by the sweep of :func:`intersections`."""
    starts, ends, offsets = runs([*a, *b], size)
    return _sweep_across(starts, ends, _owners(offsets), np.argsort(starts, kind="stable"), len(a), len(b))


@checked
def iou(a: Sequence[bytes], b: Sequence[bytes], size: tuple[int, int]) -> Float64[np.ndarray, "na nb"]:
    """IoU of each mask of ``a`` with each of ``b``, 0 where both are empty. O(R log n) for R runs, 24 bytes per pair.

    Raises:
        InputError: a string is damaged or belongs to another image size.
    """
    shared = cross_intersections(a, b, size)
    either = areas(a, size)[:, None] + areas(b, size)[None] - shared
    return shared / np.maximum(either, 1)


@checked
def union(rles: Sequence[bytes], size: tuple[int, int]) -> bytes:
    """Union of the masks; empty for no masks. O(R log n) for R runs."""
    starts, ends, _ = runs(rles, size)
    order = np.argsort(starts, kind="stable")
    return _compress(_run_counts(starts[order], ends[order], _pixels(size))).tobytes()


def _pixels(size: tuple[int, ...]) -> int:
    check_size(size)
    height, width = size
    if height < 0 or width < 0 or height * width >= _MAX_PIXELS:
        raise InputError(
            f"expected an image of fewer than 2^31 pixels; got {height} x {width}; cut it or scale it down"
        )
    return height * width


def _edges(array: np.ndarray) -> np.ndarray:
    """0, every column-major position whose value differs from the previous one, and the number of pixels.

    Strips of about a megapixel are transposed and compared as vectors: ten times faster than a loop over columns,
    whose memory accesses are one image row apart, with little additional memory.
    """
    height, width = array.shape
    strip = max(1, _STRIP_PIXELS // height)
    edges = [np.zeros(1, np.int64)]
    for x in range(0, width, strip):
        flat = np.ascontiguousarray(array[:, x : x + strip].T).ravel()
        if x and array[-1, x - 1] != flat[0]:
            edges.append(np.array([x * height]))
        edges.append(np.flatnonzero(flat[1:] != flat[:-1]) + (x * height + 1))
    edges.append(np.array([height * width]))
    return np.concatenate(edges)


def _owners(offsets: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))


@kernel()
def _fill(mask: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
    height = mask.shape[0]
    for i in range(len(starts)):
        x, y = starts[i] // height, starts[i] % height
        for _ in range(ends[i] - starts[i]):
            mask[y, x] = True
            y += 1
            if y == height:
                x, y = x + 1, 0


@kernel()
def _inner_points(starts: np.ndarray, ends: np.ndarray, offsets: np.ndarray, height: int) -> np.ndarray:
    points = np.full((len(offsets) - 1, 2), -1, np.int64)
    for i in range(len(points)):
        half = np.int64(0)
        for k in range(offsets[i], offsets[i + 1]):
            half += ends[k] - starts[k]
        half = (half + 1) // 2
        x = np.int64(-1)
        for k in range(offsets[i], offsets[i + 1]):  # to the column of the middle pixel
            if half <= ends[k] - starts[k]:
                x = (starts[k] + half - 1) // height
                break
            half -= ends[k] - starts[k]
        longest = np.int64(0)
        for k in range(offsets[i], offsets[i + 1]):
            top, bottom = max(starts[k], x * height), min(ends[k], (x + 1) * height)
            if bottom - top > longest:
                longest = bottom - top
                points[i, 0], points[i, 1] = x, (top + bottom - 1) // 2 - x * height
    return points


@kernel()
def _by_label(values: np.ndarray, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs in order of label, then position (counting sort), and where each label begins in that order."""
    offsets = np.zeros(n_labels + 1, np.int64)
    for value in values:
        offsets[value + 1] += 1
    for i in range(n_labels):
        offsets[i + 1] += offsets[i]
    order = np.empty(len(values), np.int32)
    position = offsets[:-1].copy()
    for i in range(len(values)):
        order[position[values[i]]] = i
        position[values[i]] += 1
    return order, offsets


@kernel()
def _interval_counts(
    starts: np.ndarray, values: np.ndarray, order: np.ndarray, offsets: np.ndarray, low: int, high: int
) -> np.ndarray:
    """Run lengths of the union of the label runs with low <= label < high."""
    begin, end = offsets[low], offsets[high]
    n_inside = end - begin
    total = len(values)
    counts = np.empty(2 * min(n_inside, total - n_inside + 1) + 2, np.int64)
    n, position, previous = 0, np.int64(0), -2
    if n_inside * (4 + np.log2(n_inside + 1.0)) * 4 < total:  # a comparison of the sort costs about 4 steps of the pass
        for i in np.sort(order[begin:end]):
            if i != previous + 1:
                if previous >= 0:
                    counts[n] = starts[previous + 1] - position
                    position = starts[previous + 1]
                    n += 1
                counts[n] = starts[i] - position
                position = starts[i]
                n += 1
            previous = i
    else:
        inside = False
        for i in range(total):
            if (low <= values[i] < high) != inside:
                counts[n] = starts[i] - position
                position = starts[i]
                n += 1
                inside = not inside
        previous = total - 1 if inside else -2
    pixels = starts[total]
    if previous >= 0:
        counts[n] = starts[previous + 1] - position
        position = starts[previous + 1]
        n += 1
    if position < pixels or n == 0:
        counts[n] = pixels - position
        n += 1
    return counts[:n]


@kernel()
def _run_counts(starts: np.ndarray, ends: np.ndarray, pixels: int) -> np.ndarray:
    """Run lengths of the union of intervals sorted by start; they may touch and overlap."""
    counts = np.empty(2 * len(starts) + 1, np.int64)
    n, position = 0, np.int64(0)
    i = 0
    while i < len(starts):
        begin, end = starts[i], ends[i]
        i += 1
        while i < len(starts) and starts[i] <= end:
            end = max(end, ends[i])
            i += 1
        counts[n] = begin - position
        counts[n + 1] = end - begin
        n += 2
        position = end
    if position < pixels or n == 0:
        counts[n] = pixels - position
        n += 1
    return counts[:n]


@kernel()
def _compress(counts: np.ndarray) -> np.ndarray:
    text = np.empty(_MAX_CHARACTERS * len(counts), np.uint8)
    n = 0
    for i in range(len(counts)):
        number = counts[i] - counts[i - 2] if i > 2 else counts[i]
        more = True
        while more:
            group = number & 0x1F
            number >>= 5
            more = number != -1 if group & 0x10 else number != 0
            text[n] = 48 + (group | 0x20 if more else group)
            n += 1
    return text[:n]


@kernel()
def _parse(text: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Foreground runs of all strings, and for each string its number of pixels or an error code."""
    n = len(bounds) - 1
    numbers = 0
    for i in range(len(text)):
        numbers += ((text[i] - 48) & 0x20) == 0
    starts = np.empty(numbers // 2 + n, np.int64)
    ends = np.empty(numbers // 2 + n, np.int64)
    offsets = np.zeros(n + 1, np.int64)
    totals = np.zeros(n, np.int64)
    at = 0
    for i in range(n):
        position, k = np.int64(0), 0  # k: index of the run length; odd ones are foreground
        before, last = np.int64(0), np.int64(0)
        number, shift = np.int64(0), 0
        for j in range(bounds[i], bounds[i + 1]):
            group = np.int64(text[j]) - 48
            if group < 0 or group > 63 or shift == 5 * _MAX_CHARACTERS:
                position = np.int64(_DAMAGED)
                break
            number |= (group & 0x1F) << shift
            shift += 5
            if group & 0x20:
                continue
            if group & 0x10:
                number |= np.int64(-1) << shift
            if k > 2:
                number += before
            if number < 0:
                position = np.int64(_NEGATIVE)
                break
            if k % 2 and number > 0:
                if at > offsets[i] and ends[at - 1] == position:  # a background run of length 0 was between
                    ends[at - 1] = position + number
                else:
                    starts[at] = position
                    ends[at] = position + number
                    at += 1
            position += number
            if position > _MAX_PIXELS:  # sums of more would run over
                break
            before, last = last, number
            number, shift = np.int64(0), 0
            k += 1
        if 0 <= position <= _MAX_PIXELS and shift > 0:
            position = np.int64(_CUT_OFF)
        totals[i] = position
        offsets[i + 1] = at
    return starts[:at].copy(), ends[:at].copy(), offsets, totals


@kernel()
def _areas(starts: np.ndarray, ends: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    result = np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(result)):
        for j in range(offsets[i], offsets[i + 1]):
            result[i] += ends[j] - starts[j]
    return result


@kernel()
def _boxes(starts: np.ndarray, ends: np.ndarray, offsets: np.ndarray, height: int) -> np.ndarray:
    result = np.zeros((len(offsets) - 1, 4), np.float64)
    for i in range(len(result)):
        first, last = offsets[i], offsets[i + 1]
        if first == last:
            continue
        top, bottom = height, 0
        for j in range(first, last):
            begin, end = starts[j], ends[j] - 1
            if begin // height == end // height:
                top = min(top, begin % height)
                bottom = max(bottom, end % height)
            else:  # a run that continues in the next column contains the first and the last row
                top, bottom = 0, height - 1
        left, right = starts[first] // height, (ends[last - 1] - 1) // height
        result[i, 0], result[i, 1] = left, top
        result[i, 2], result[i, 3] = right - left + 1, bottom - top + 1
    return result


@kernel()
def _sweep(starts: np.ndarray, ends: np.ndarray, owners: np.ndarray, order: np.ndarray, n: int) -> np.ndarray:
    """Sum of overlap lengths of the runs of each pair; ``open_``: runs that may extend beyond the current start."""
    result = np.zeros((n, n), np.int64)
    open_ = np.empty(n, np.int64)  # at most one run of each mask
    n_open = 0
    for i in order:
        start, end, owner = starts[i], ends[i], owners[i]
        kept = 0
        for k in range(n_open):
            other = open_[k]
            if ends[other] > start:
                open_[kept] = other
                kept += 1
                result[owner, owners[other]] += min(end, ends[other]) - start
        open_[kept] = i
        n_open = kept + 1
        result[owner, owner] += end - start
    for i in range(n):
        for j in range(i):
            shared = result[i, j] + result[j, i]
            result[i, j] = shared
            result[j, i] = shared
    return result


@kernel()
def _sweep_across(
    starts: np.ndarray, ends: np.ndarray, owners: np.ndarray, order: np.ndarray, n_a: int, n_b: int
) -> np.ndarray:
    """As ``_sweep``, with one list of open runs per set; masks from n_a on belong to the second set."""
    result = np.zeros((n_a, n_b), np.int64)
    open_ = np.empty((2, max(n_a, n_b)), np.int64)
    n_open = np.zeros(2, np.int64)
    for i in order:
        start, end, owner = starts[i], ends[i], owners[i]
        side = 0 if owner < n_a else 1
        for s in range(2):
            kept = 0
            for k in range(n_open[s]):
                other = open_[s, k]
                if ends[other] > start:
                    open_[s, kept] = other
                    kept += 1
                    if s != side:
                        a, b = (owner, owners[other]) if side == 0 else (owners[other], owner)
                        result[a, b - n_a] += min(end, ends[other]) - start
            n_open[s] = kept
        open_[side, n_open[side]] = i
        n_open[side] += 1
    return result
