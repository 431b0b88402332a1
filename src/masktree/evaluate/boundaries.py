"""Boundary benchmark of BSDS500: precision and recall of contour pixels, matched one to one within a tolerance.

Definitions as in Martin, Fowlkes and Malik, "Learning to Detect Natural Image Boundaries", TPAMI 2004, section 4
(doi 10.1109/TPAMI.2004.1273918), and Arbelaez et al., TPAMI 2011, section 2.1 (doi 10.1109/TPAMI.2010.161), counted
as the benchmark's own code does. At each threshold the contour map is thinned and matched with each annotator's
boundaries. Recall: matched ground truth pixels over all ground truth pixels, summed over annotators. Precision:
predicted pixels
that are matched with at least one annotator over all predicted pixels.

The benchmark solves an assignment in which a pixel without partner costs 100 tolerances: of the one-to-one matchings
with most pairs it is one of least total distance. So is this one, found in two steps: a largest matching, and then,
where there are more predicted than ground truth pixels to choose from, the cheapest choice. (The benchmark offers
each pixel
only six random ways to stay alone, so its own counts vary a little and miss a few pairs.)
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
    """Lines one pixel wide: pixels are taken away in two alternating passes until nothing changes.

    Guo and Hall, "Parallel thinning with two-subiteration algorithms", CACM 1989 (doi 10.1145/62065.62074), algorithm
    A1, which is ``bwmorph(mask, 'thin', Inf)``. What lies outside the image counts as background.
    """
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.uint8)
    padded[1:-1, 1:-1] = mask
    flat = padded.ravel()
    _thin(flat, np.flatnonzero(flat), padded.shape[1], _REMOVABLE)
    return padded[1:-1, 1:-1].astype(np.bool_)


def match(first: Mask, second: Mask, max_distance: float) -> tuple[Mask, Mask]:
    """Which pixels of two maps have a partner, in a one-to-one matching of pixels at most so far apart.

    Of the matchings with most pairs it is one with the least sum of distances (in hundredths of a pixel, rounded, as in
    the benchmark). Which pixels of ``second`` are matched is not optimised where some are left over: only their number
    is ever used, and it does not change which of ``first`` are.

    Raises:
        InputError: maps of different shape, or a distance that is negative or not finite.
    """
    if first.shape != second.shape:
        raise InputError(f"expected maps of one shape; got {first.shape} and {second.shape}; resize one of them")
    if not 0 <= max_distance < np.inf:
        raise InputError(f"expected a distance of at least 0 pixels; got {max_distance}")
    points = np.argwhere(first).astype(np.int32)
    others = np.argwhere(second).astype(np.int32)
    number = np.full(first.shape, -1, np.int32)
    number[second] = np.arange(len(others), dtype=np.int32)
    offsets, costs = _offsets(max_distance)
    partner, owner, scarce = _largest(points, len(others), number, offsets)
    has = partner >= 0
    is_rival = ~has  # pixels that compete for the scarce ones, of which there are too few
    is_rival[owner[scarce]] = True
    rivals = np.flatnonzero(is_rival)
    if scarce.any():
        number.fill(-1)
        number[tuple(points[rivals].T)] = np.arange(len(rivals), dtype=np.int32)
        has[rivals] = _cheapest(others[scarce], len(rivals), number, offsets, costs)
    out, back = np.zeros_like(first), np.zeros_like(second)
    out[tuple(points[has].T)] = True
    back[tuple(others[owner >= 0].T)] = True
    return out, back


def score_contours(
    maps: Iterable[Mask], boundaries: Sequence[np.ndarray], *, tolerance: float = TOLERANCE
) -> ImageStats:
    """Counts of one image at each threshold.

    Args:
        maps: a bool (H, W) contour map per threshold; they are thinned here.
        boundaries: (H, W) boundary map of each annotator, not 0 on the boundary.
        tolerance: how far apart two pixels may be, as a share of the image diagonal.

    Returns:
        ``cnt_r`` (t): matched ground truth pixels, summed over annotators; ``sum_r``: all ground truth pixels;
        ``cnt_p`` (t):
        predicted pixels with a partner at any annotator; ``sum_p`` (t): all predicted pixels after thinning.

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
    last: np.ndarray | None = None
    for current in maps:
        if current.shape != shape:
            raise InputError(
                f"expected contours of shape {shape} like the ground truth; got {current.shape}; resize them"
            )
        if last is None or not np.array_equal(current, last):  # neighbouring thresholds often give the same map
            counts = _counts(thin(current), ground_truths, radius)
            last = current
        for name, count in zip(("cnt_r", "cnt_p", "sum_p"), counts, strict=True):
            stats[name].append(count)
    if last is None:
        raise InputError("expected contours at one or more thresholds; got none")
    return stats


def summarise(stats: Sequence[ImageStats]) -> Metrics:
    """F with one threshold for all images, with the best per image, and the area under the precision-recall curve.

    As in the benchmark: ``f_ods`` takes the best point of the curve, which is linear between two thresholds in 100
    steps; ``f_ois`` adds up the counts of each image at its own best threshold, without interpolation; ``f_ap`` is
    the mean of the precision, interpolated at the recalls 0, 0.01 ... 1 and 0 outside the recalls that were reached,
    times 1.01, as the sum is multiplied by 0.01. All are None where no image has a ground truth boundary.

    Raises:
        InputError: no image, or different numbers of thresholds.
    """
    if not stats or len({len(image["cnt_r"]) for image in stats}) != 1:
        raise InputError("expected counts of at least one image, all at equally many thresholds; got others")
    cnt_r, cnt_p, sum_p = (np.array([image[name] for image in stats], float) for name in ("cnt_r", "cnt_p", "sum_p"))
    sum_r = np.array([image["sum_r"] for image in stats], float)[:, None]
    if not sum_r.any():
        return {"f_ods": None, "f_ois": None, "f_ap": None}

    recall, precision = _ratio(cnt_r.sum(0), sum_r.sum(0)), _ratio(cnt_p.sum(0), sum_p.sum(0))
    step = np.linspace(0, 1, 100)
    between = [points[:-1, None] * (1 - step) + points[1:, None] * step for points in (recall, precision)]
    ods = max(float(_f(recall, precision).max()), float(_f(*between).max(initial=0)))

    rows = np.arange(len(cnt_r))
    own = _f(_ratio(cnt_r, sum_r), _ratio(cnt_p, sum_p)).argmax(1)
    reached = _ratio(cnt_r[rows, own].sum(), sum_r.sum()), _ratio(cnt_p[rows, own].sum(), sum_p[rows, own].sum())

    recalls, first = np.unique(recall, return_index=True)
    area = 0.0
    if len(recalls) > 1:
        area = 0.01 * float(np.interp(np.arange(101) / 100, recalls, precision[first], left=0, right=0).sum())
    return {"f_ods": ods, "f_ois": float(_f(*reached)), "f_ap": area}


def _ratio(count: np.ndarray, total: np.ndarray) -> np.ndarray:
    """count / total, 0 where there is nothing, as in the benchmark."""
    return count / np.where(total == 0, 1, total)


def _f(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    return 2 * _ratio(precision * recall, precision + recall)


def _counts(contours: np.ndarray, ground_truths: list[np.ndarray], radius: float) -> tuple[int, int, int]:
    correct = np.zeros_like(contours)
    found = 0
    for ground_truth in ground_truths:
        matched, of_ground_truth = match(contours, ground_truth, radius)
        correct |= matched
        found += int(of_ground_truth.sum())
    return found, int(correct.sum()), int(contours.sum())


def _offsets(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """(k, 2) int32 steps (rows, columns) of at most ``radius`` pixels, shortest first, and (k,) int64 costs."""
    side = np.arange(-int(radius), int(radius) + 1, dtype=np.int32)
    steps = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    squares = (steps.astype(np.int64) ** 2).sum(1)
    near = squares <= radius * radius
    order = np.argsort(squares[near], kind="stable")
    return steps[near][order], np.rint(100 * np.sqrt(squares[near][order])).astype(np.int64)


def _removable() -> np.ndarray:
    """(2, 256) bool: whether a pixel goes, by pass and by its neighbours; bit k is neighbour k + 1, from the east
    against the clock. Conditions G1 to G3 of Guo and Hall."""
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
    """Thin in place; ``points``: foreground positions of the padded, flattened map."""
    steps = np.array([1, 1 - width, -width, -width - 1, -1, width - 1, width, width + 1])
    gone = np.empty(len(points), np.int64)
    count, removed = len(points), 1
    while removed:
        removed = 0
        for phase in range(2):
            kept, n_gone = 0, 0
            for i in range(count):
                at = points[i]
                code = np.int64(0)
                for k in range(8):
                    code |= np.int64(flat[at + steps[k]]) << k
                if table[phase, code]:
                    gone[n_gone] = at
                    n_gone += 1
                else:
                    points[kept] = at
                    kept += 1
            for i in range(n_gone):  # only now: all pixels of a pass are judged by the same map
                flat[gone[i]] = 0
            count = kept
            removed += n_gone


@kernel()
def _largest(
    points: np.ndarray, n_others: int, number: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover
    """A largest matching: the partner of each point and the owner of each pixel numbered in ``number``, -1 for none;
    and which of these pixels are scarce: on alternating paths from points that are left over.

    Nearest pairs are taken first; augmenting paths then add pairs.
    """
    n = len(points)
    height, width = number.shape
    partner = np.full(n, -1, np.int32)
    owner = np.full(n_others, -1, np.int32)
    for k in range(len(offsets)):
        for i in range(n):
            if partner[i] >= 0:
                continue
            y, x = points[i, 0] + offsets[k, 0], points[i, 1] + offsets[k, 1]
            if 0 <= y < height and 0 <= x < width:
                j = number[y, x]
                if j >= 0 and owner[j] < 0:
                    partner[i] = j
                    owner[j] = i

    # A search that fails leaves its pixels marked: no later path can run through them (Kuhn 1955, Berge 1957).
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
                j = number[y, x]
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
            before = partner[i]
            partner[i] = end
            owner[end] = i
            end = before
            if i == start:
                break
        for m in range(n_touched):
            seen[touched[m]] = False
    return partner, owner, seen


@kernel()
def _cheapest(
    others: np.ndarray, n_rivals: int, number: np.ndarray, offsets: np.ndarray, costs: np.ndarray
) -> np.ndarray:  # pragma: no cover
    """Which rivals, numbered in ``number``, are matched when all ``others`` are, at the least total cost.

    Shortest augmenting paths with potentials (Edmonds and Karp 1972, Tomizawa 1971). As there are more rivals than
    others a free one is near, and searches stay short.
    """
    height, width = number.shape
    n = len(others)
    price = np.zeros(n_rivals, np.int64)
    own_price = np.zeros(n, np.int64)
    owner = np.full(n_rivals, -1, np.int32)
    best = np.empty(n_rivals, np.int64)
    came_from = np.empty(n_rivals, np.int32)
    stamp = np.full(n_rivals, -1, np.int32)
    final = np.full(n_rivals, -1, np.int32)
    partner = np.full(n, -1, np.int32)
    for start in range(n):
        heap = [np.int64(0) for _ in range(0)]
        settled = [np.int32(0) for _ in range(0)]
        j, so_far, end = start, np.int64(0), -1
        while end < 0:
            for k in range(len(offsets)):
                y, x = others[j, 0] + offsets[k, 0], others[j, 1] + offsets[k, 1]
                if not (0 <= y < height and 0 <= x < width):
                    continue
                i = number[y, x]
                if i < 0 or final[i] == start:
                    continue
                length = so_far + costs[k] - own_price[j] - price[i]
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
            so_far = key // n_rivals
            if owner[i] < 0:
                end = int(i)
            else:
                settled.append(np.int32(i))
                j = owner[i]
        own_price[start] += so_far
        for i in settled:
            price[i] -= so_far - best[i]
            own_price[owner[i]] += so_far - best[i]
        while True:
            j = came_from[end]
            before = partner[j]
            partner[j] = end
            owner[end] = j
            end = before
            if j == start:
                break
    return owner >= 0
