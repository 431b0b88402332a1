"""Boundary benchmark of BSDS500: precision and recall of contour pixels, matched one to one within a tolerance.

Definitions as in Martin, Fowlkes and Malik, "Learning to Detect Natural Image Boundaries", TPAMI 2004, section 4
(doi 10.1109/TPAMI.2004.1273918), and Arbelaez et al., TPAMI 2011, section 2.1 (doi 10.1109/TPAMI.2010.161), counted
as in the benchmark's code. At each threshold the contour map is thinned and matched with each annotator's boundaries.
Recall: matched ground truth pixels over all ground truth pixels, summed over annotators. Precision: predicted pixels
matched with at least one annotator over all predicted pixels.

The benchmark solves an assignment problem in which an unmatched pixel costs 100 tolerances: its solution is a maximum
matching of minimum total distance. Here it is found in two steps: a maximum matching, then, where predicted pixels
compete for fewer ground truth pixels, the cheapest choice among them. (The benchmark's graph has only six random
edges per pixel for staying unmatched, so its counts vary a little and miss a few pairs.)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

import numpy as np

from masktree.errors import InputError
from masktree.evaluate.image_stats import ImageStats, Metrics
from masktree.kernels import kernel
from masktree.types import Mask, checked

TOLERANCE = 0.0075  # of the image diagonal: the benchmark's value, 4.3 pixels for its 481 x 321 images


@checked
def thin(mask: Mask) -> Mask:
    """Thin a mask to lines one pixel wide; pixels outside the image count as background.

    Guo and Hall, "Parallel thinning with two-subiteration algorithms", CACM 1989 (doi 10.1145/62065.62074), algorithm
    A1, which is MATLAB's ``bwmorph(mask, 'thin', Inf)``.
    """
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.uint8)
    padded[1:-1, 1:-1] = mask
    flat = padded.ravel()
    _thin(flat, np.flatnonzero(flat), padded.shape[1], _REMOVABLE)
    return padded[1:-1, 1:-1].astype(np.bool_)


def match(first: Mask, second: Mask, max_distance: float) -> tuple[Mask, Mask]:
    """Match pixels at most ``max_distance`` pixels apart, one to one, and return the matched pixels of each map.

    The matching is maximum and, among these, of minimum total distance (in hundredths of a pixel, rounded, as in the
    benchmark). Which pixels of ``second`` are matched is not optimised: only their number is used.

    Raises:
        InputError: maps of different shape, or a distance that is negative or not finite.
    """
    if first.shape != second.shape:
        raise InputError(f"expected maps of one shape; got {first.shape} and {second.shape}; resize one of them")
    if not 0 <= max_distance < np.inf:
        raise InputError(f"expected a distance of at least 0 pixels; got {max_distance}")
    points = np.argwhere(first).astype(np.int32)
    others = np.argwhere(second).astype(np.int32)
    index_map = np.full(first.shape, -1, np.int32)
    index_map[second] = np.arange(len(others), dtype=np.int32)
    offsets, costs = _offsets(max_distance)
    partner, owner, scarce = _maximum_matching(points, len(others), index_map, offsets)
    matched = partner >= 0
    competes = ~matched  # for the scarce pixels of ``second``
    competes[owner[scarce]] = True
    rivals = np.flatnonzero(competes)
    if scarce.any():
        index_map.fill(-1)
        index_map[tuple(points[rivals].T)] = np.arange(len(rivals), dtype=np.int32)
        matched[rivals] = _min_cost_matching(others[scarce], len(rivals), index_map, offsets, costs)
    matched_first, matched_second = np.zeros_like(first), np.zeros_like(second)
    matched_first[tuple(points[matched].T)] = True
    matched_second[tuple(others[owner >= 0].T)] = True
    return matched_first, matched_second


def score_contours(
    maps: Iterable[Mask], boundaries: Sequence[np.ndarray], *, tolerance: float = TOLERANCE
) -> ImageStats:
    """Count matched contour pixels of one image at each threshold.

    Args:
        maps: a bool (H, W) contour map per threshold; they are thinned here.
        boundaries: (H, W) boundary map of each annotator, non-zero on the boundary.
        tolerance: largest distance of matched pixels, as a share of the image diagonal.

    Returns:
        ``cnt_r`` (t): matched ground truth pixels, summed over annotators; ``sum_r``: all ground truth pixels;
        ``cnt_p`` (t): predicted pixels matched with any annotator; ``sum_p`` (t): predicted pixels after thinning.

    Raises:
        InputError: no annotator, no map, or shapes differ.
    """
    if len(boundaries) == 0 or len({boundary.shape for boundary in boundaries}) != 1:
        raise InputError("expected boundary maps of one or more annotators, of one shape; got none or several shapes")
    ground_truths = [np.asarray(boundary) != 0 for boundary in boundaries]
    shape = ground_truths[0].shape
    radius = tolerance * float(np.hypot(*shape))
    if not 0 <= radius < np.inf:
        raise InputError(f"expected a tolerance of at least 0; got {tolerance}; the benchmark's is {TOLERANCE}")
    stats: ImageStats = {
        "cnt_r": [],
        "sum_r": sum(int(ground_truth.sum()) for ground_truth in ground_truths),
        "cnt_p": [],
        "sum_p": [],
    }
    previous: np.ndarray | None = None
    for contours in maps:
        if contours.shape != shape:
            raise InputError(
                f"expected contours of shape {shape} like the ground truth; got {contours.shape}; resize them"
            )
        if previous is None or not np.array_equal(contours, previous):  # adjacent thresholds often give the same map
            counts = _counts(thin(contours), ground_truths, radius)
            previous = contours
        for name, count in zip(("cnt_r", "cnt_p", "sum_p"), counts, strict=True):
            stats[name].append(count)
    if previous is None:
        raise InputError("expected contours at one or more thresholds; got none")
    return stats


def summarise(stats: Sequence[ImageStats]) -> Metrics:
    """Boundary F with one threshold for all images (ODS) and the best per image (OIS), and average precision.

    As in the benchmark: ``f_ods`` is the maximum over the precision-recall curve, interpolated linearly in 100 steps
    between two thresholds; ``f_ois`` sums the counts of each image at its best threshold, without interpolation;
    ``f_ap`` is 0.01 times the sum of the precisions interpolated at the 101 recalls 0, 0.01 ... 1, which are 0 outside
    the range of recalls reached. All are None if no image has a ground truth boundary.

    Raises:
        InputError: no image, or different numbers of thresholds.
    """
    if not stats or len({len(image["cnt_r"]) for image in stats}) != 1:
        raise InputError("expected counts of at least one image, all at equally many thresholds; got none or several")
    cnt_r, cnt_p, sum_p = (np.array([image[name] for image in stats], float) for name in ("cnt_r", "cnt_p", "sum_p"))
    sum_r = np.array([image["sum_r"] for image in stats], float)[:, None]
    if not sum_r.any():
        return {"f_ods": None, "f_ois": None, "f_ap": None}

    recall, precision = _ratio(cnt_r.sum(0), sum_r.sum(0)), _ratio(cnt_p.sum(0), sum_p.sum(0))
    step = np.linspace(0, 1, 100)
    interpolated = [points[:-1, None] * (1 - step) + points[1:, None] * step for points in (recall, precision)]
    ods = max(float(_f(recall, precision).max()), float(_f(*interpolated).max(initial=0)))

    rows = np.arange(len(cnt_r))
    best = _f(_ratio(cnt_r, sum_r), _ratio(cnt_p, sum_p)).argmax(1)
    ois_point = _ratio(cnt_r[rows, best].sum(), sum_r.sum()), _ratio(cnt_p[rows, best].sum(), sum_p[rows, best].sum())

    recalls, first = np.unique(recall, return_index=True)
    area = 0.0
    if len(recalls) > 1:
        area = 0.01 * float(np.interp(np.arange(101) / 100, recalls, precision[first], left=0, right=0).sum())
    return {"f_ods": ods, "f_ois": float(_f(*ois_point)), "f_ap": area}


def _ratio(count: np.ndarray, total: np.ndarray) -> np.ndarray:
    """count / total, 0 where total is 0, as in the benchmark."""
    return count / np.where(total == 0, 1, total)


def _f(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    return 2 * _ratio(precision * recall, precision + recall)


def _counts(contours: np.ndarray, ground_truths: list[np.ndarray], radius: float) -> tuple[int, int, int]:
    """``cnt_r``, ``cnt_p`` and ``sum_p`` of thinned contours."""
    matched_by_any = np.zeros_like(contours)
    cnt_r = 0
    for ground_truth in ground_truths:
        matched, matched_truth = match(contours, ground_truth, radius)
        matched_by_any |= matched
        cnt_r += int(matched_truth.sum())
    return cnt_r, int(matched_by_any.sum()), int(contours.sum())


def _offsets(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """(k, 2) int32 offsets (rows, columns) of at most ``radius`` pixels, shortest first, and (k,) int64 costs."""
    axis = np.arange(-int(radius), int(radius) + 1, dtype=np.int32)
    offsets = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    squares = (offsets.astype(np.int64) ** 2).sum(1)
    within = squares <= radius * radius
    order = np.argsort(squares[within], kind="stable")
    return offsets[within][order], np.rint(100 * np.sqrt(squares[within][order])).astype(np.int64)


def _removable() -> np.ndarray:
    """(2, 256) bool: whether a pixel is removed, by pass and neighbourhood. Bit k is neighbour k + 1, counted
    counterclockwise from the east. Conditions G1 to G3 of Guo and Hall."""
    table = np.zeros((2, 256), np.bool_)
    for code in range(256):
        x = [bool(code >> k & 1) for k in range(8)]
        crossings = sum(not x[k] and (x[k + 1] or x[(k + 2) % 8]) for k in (0, 2, 4, 6))
        n1 = sum(x[k] or x[k + 1] for k in (0, 2, 4, 6))
        n2 = sum(x[k + 1] or x[(k + 2) % 8] for k in (0, 2, 4, 6))
        if crossings == 1 and 2 <= min(n1, n2) <= 3:
            table[0, code] = not ((x[1] or x[2] or not x[7]) and x[0])
            table[1, code] = not ((x[5] or x[6] or not x[3]) and x[4])
    return table


_REMOVABLE = _removable()


@kernel()
def _thin(flat: np.ndarray, points: np.ndarray, width: int, table: np.ndarray) -> None:  # pragma: no cover
    """Thin in place; ``points``: indices of the foreground in the padded, flattened map."""
    steps = np.array([1, 1 - width, -width, -width - 1, -1, width - 1, width, width + 1])
    to_remove = np.empty(len(points), np.int64)
    count, n_removed = len(points), 1
    while n_removed:
        n_removed = 0
        for subiteration in range(2):
            n_kept, n_marked = 0, 0
            for i in range(count):
                point = points[i]
                code = np.int64(0)
                for k in range(8):
                    code |= np.int64(flat[point + steps[k]]) << k
                if table[subiteration, code]:
                    to_remove[n_marked] = point
                    n_marked += 1
                else:
                    points[n_kept] = point
                    n_kept += 1
            for i in range(n_marked):  # only now: every pixel of a subiteration is judged by the same map
                flat[to_remove[i]] = 0
            count = n_kept
            n_removed += n_marked


@kernel()
def _maximum_matching(
    points: np.ndarray, n_others: int, index_map: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """Maximum matching: greedy over the nearest pairs, then augmenting paths.

    Returns:
        Partner of each point and owner of each pixel that ``index_map`` numbers, -1 for none; and which of these
        pixels are scarce: reachable by an alternating path from an unmatched point.
    """
    n = len(points)
    height, width = index_map.shape
    partner = np.full(n, -1, np.int32)
    owner = np.full(n_others, -1, np.int32)
    for k in range(len(offsets)):
        for i in range(n):
            if partner[i] >= 0:
                continue
            y, x = points[i, 0] + offsets[k, 0], points[i, 1] + offsets[k, 1]
            if 0 <= y < height and 0 <= x < width:
                j = index_map[y, x]
                if j >= 0 and owner[j] < 0:
                    partner[i] = j
                    owner[j] = i

    # A failed search leaves its pixels marked: no later augmenting path visits them (Kuhn 1955, Berge 1957).
    seen = np.zeros(n_others, np.bool_)
    came_from = np.empty(n_others, np.int32)
    queue = np.empty(n, np.int32)
    touched = np.empty(n_others, np.int32)
    for start in range(n):
        if partner[start] >= 0:
            continue
        queue[0] = start
        head, tail, n_touched, end = 0, 1, 0, -1
        while head < tail and end < 0:
            i = queue[head]
            head += 1
            for k in range(len(offsets)):
                y, x = points[i, 0] + offsets[k, 0], points[i, 1] + offsets[k, 1]
                if not (0 <= y < height and 0 <= x < width):
                    continue
                j = index_map[y, x]
                if j < 0 or seen[j]:
                    continue
                seen[j] = True
                touched[n_touched] = j
                n_touched += 1
                came_from[j] = i
                if owner[j] < 0:
                    end = j
                    break
                queue[tail] = owner[j]
                tail += 1
        if end < 0:
            continue
        while True:
            i = came_from[end]
            previous = partner[i]
            partner[i] = end
            owner[end] = i
            end = previous
            if i == start:
                break
        for m in range(n_touched):
            seen[touched[m]] = False
    return partner, owner, seen


@kernel()
def _min_cost_matching(
    others: np.ndarray, n_rivals: int, index_map: np.ndarray, offsets: np.ndarray, costs: np.ndarray
) -> np.ndarray:  # pragma: no cover
    """Rivals, numbered by ``index_map``, that are matched when all ``others`` are, at minimum total cost.

    Shortest augmenting paths with potentials (Edmonds and Karp 1972, Tomizawa 1971). There are more rivals than
    others, so a free one is near and searches stay short.
    """
    height, width = index_map.shape
    n = len(others)
    price = np.zeros(n_rivals, np.int64)
    other_price = np.zeros(n, np.int64)
    owner = np.full(n_rivals, -1, np.int32)
    best = np.empty(n_rivals, np.int64)
    came_from = np.empty(n_rivals, np.int32)
    stamp = np.full(n_rivals, -1, np.int32)
    final = np.full(n_rivals, -1, np.int32)
    partner = np.full(n, -1, np.int32)
    for start in range(n):
        heap = [np.int64(0) for _ in range(0)]
        settled = [np.int32(0) for _ in range(0)]
        j, path_cost, end = start, np.int64(0), -1
        while end < 0:
            for k in range(len(offsets)):
                y, x = others[j, 0] + offsets[k, 0], others[j, 1] + offsets[k, 1]
                if not (0 <= y < height and 0 <= x < width):
                    continue
                i = index_map[y, x]
                if i < 0 or final[i] == start:
                    continue
                length = path_cost + costs[k] - other_price[j] - price[i]
                if stamp[i] != start or length < best[i]:
                    stamp[i] = start
                    best[i] = length
                    came_from[i] = j
                    heapq.heappush(heap, length * n_rivals + i)
            while True:
                key = heapq.heappop(heap)
                i = key % n_rivals
                if final[i] != start:
                    break
            final[i] = start
            path_cost = key // n_rivals
            if owner[i] < 0:
                end = int(i)
            else:
                settled.append(np.int32(i))
                j = owner[i]
        other_price[start] += path_cost
        for i in settled:
            price[i] -= path_cost - best[i]
            other_price[owner[i]] += path_cost - best[i]
        while True:
            j = came_from[end]
            previous = partner[j]
            partner[j] = end
            owner[end] = j
            end = previous
            if j == start:
                break
    return owner >= 0
