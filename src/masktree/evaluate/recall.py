"""Class-agnostic average recall and precision of masks or boxes, as the COCO benchmark defines them.

One category, IoU thresholds .50:.05:.95, the 10, 100 or 1000 best detections of each image, sizes split at 32^2 and
96^2 pixels (Lin et al., "Microsoft COCO", ECCV 2014, doi 10.1007/978-3-319-10602-1_48, and its detection evaluation
page). Average precision, and all numbers by size, are taken at 1000 detections, whereas the stock summary prints
them at 100. Equal to pycocotools, which the tests compare.

Two choices of the official matching that are not obvious: within one threshold the detections choose in order of
score, each the free ground truth of highest IoU, of equal ones the last; and a detection that matches only a ground
truth out of the
size range or a crowd, or matches nothing and is itself out of the range, counts neither for nor against.

The matching is written out here although faster-coco-eval has one: what its evaluation of an image yields cannot be
read, stored or weighted, and precision over a data set needs the fate of each detection.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit

from masktree.errors import FormatError, InputError, MasktreeError
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.trees import rle

Stats = dict[str, Any]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the IoU, in the official spacing: 0.05 * i differs in the last digit
AREA_RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))  # of areas: all, small, medium, large
MAX_DETECTIONS = 1000  # detections of an image
RECALL_NAMES = ("ar10", "ar100", "ar1000", "ar_s", "ar_m", "ar_l")
METRIC_NAMES = (*RECALL_NAMES, "ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l")

_T, _A = len(IOU_THRESHOLDS), len(AREA_RANGES)
_RECALL_POINTS = np.linspace(0.0, 1.0, 101)
_BEST = (
    10,
    100,
    MAX_DETECTIONS,
    MAX_DETECTIONS,
    MAX_DETECTIONS,
    MAX_DETECTIONS,
)  # detections that each of RECALLS looks at
_RANGE = (0, 0, 0, 1, 2, 3)  # and its size range
# what is packed of a detection: score, ranges, hits, excused
_PACKED: tuple[np.dtype[Any], ...] = tuple(map(np.dtype, ("<f8", "u1", "<u8", "<u8")))
_BYTES = sum(dtype.itemsize for dtype in _PACKED)


def score_image(
    ground_truth: ImageGroundTruth, found: ImageDetections, *, kind: Literal["masks", "boxes"] = "masks"
) -> Stats:
    """What one image adds to the benchmark; plain data for JSON.

    The 1000 best detections count; of equal scores, the first. An image without detections, or without ground truths,
    is
    valid. Time for n detections and g ground truths is that of :func:`masktree.trees.rle.cross_intersections` plus
    O(n g);
    memory 8 n g bytes a few times over and that of the runs.

    Returns:
        ``image``: id. ``ground_truths``: non-crowd ground truths. ``detections``: those that count, at most 1000.
        ``found``, ``sought``: for each of ``RECALLS`` the sum over the ten thresholds of the ground truths found, and
        of
        the ground truths there are; over images both add up, and the recall is their quotient.
        ``best_iou``: for each non-crowd ground truth, in order, the IoU of the best detection, three digits.
        ``empty_truths``, ``empty_detections``: masks without a pixel (boxes without an area) among them. As in the
        official tool they count, though nothing can match them; a report should say how many there are.
        ``matches``: scores and fates of the detections for :func:`collect`, as text.

    Raises:
        InputError: the detections are of another image size or of the other kind, a run-length string is damaged, a
            box has a negative side. The message names the image.
    """
    if found.size != ground_truth.size:
        raise InputError(
            f"{ground_truth.name}: expected predictions of {_by(ground_truth.size)} pixels (height x width); got "
            f"{_by(found.size)}; "
            "scale them to the annotated image"
        )
    order = np.argsort(-found.scores, kind="stable")[:MAX_DETECTIONS]
    if kind == "masks":
        overlaps, areas, empty = _mask_overlaps(ground_truth, found, order)
    elif kind == "boxes":
        overlaps, areas, empty = _box_overlaps(ground_truth, found, order)
    else:
        raise InputError(f"expected masks or boxes; got {kind!r}")

    ignored = ground_truth.crowd | ~_within(ground_truth.areas)  # (a, g)
    near = overlaps >= IOU_THRESHOLDS[0]
    first = np.concatenate([[0], np.cumsum(near.sum(1))])
    within = _within(areas)
    hits, excused = _match(
        first, np.nonzero(near)[1], overlaps[near], within, ignored, ground_truth.crowd, IOU_THRESHOLDS
    )
    hit = (hits[:, None] >> np.arange(_A * _T, dtype=np.uint64) & np.uint64(1)).astype(np.int64).reshape(-1, _A, _T)
    best = overlaps[:, ~ground_truth.crowd].max(0, initial=0.0)
    return {
        "image": int(ground_truth.id),
        "ground_truths": len(best),
        "detections": len(order),
        "found": [int(hit[:most, a].sum()) for most, a in zip(_BEST, _RANGE, strict=True)],
        "sought": [_T * int((~ignored[a]).sum()) for a in _RANGE],
        "best_iou": [round(value, 3) for value in best.tolist()],
        "empty_ground_truths": int((empty & ~ground_truth.crowd).sum()),
        "empty_detections": int((areas == 0).sum()),
        "matches": _packed(found.scores[order], _bits(within), hits, excused),
    }


def summarise(stats: Sequence[Stats]) -> dict[str, float | None]:
    """The numbers of ``METRICS``, in [0, 1], over a data set; None where it has no ground truth of the size.

    The order of the images does not matter; one may stand several times. For many weightings of the same images, as in
    a bootstrap, :func:`collect` once.

    Raises:
        InputError: no images. FormatError: ``matches`` that are damaged.
    """
    return collect(stats).summary()


@dataclass(frozen=True, eq=False)
class Collected:
    """The stats of n images, their d detections sorted by score over all images.

    ``found``, ``sought`` (n, 6) int64 as in the stats. ``image`` (d,) int32 index of the image. ``ranges`` (d,) uint8:
    bit a is set if the detection's area is in range a. ``hits``, ``excused`` (d,) uint64: bit 10 a + t is set if at
    threshold t the detection matches a ground truth that is sought in range a, or is itself in range a, but matches
    one that
    is not sought. It counts as false where its area is in the range and neither bit is set.
    """

    found: np.ndarray
    sought: np.ndarray
    image: np.ndarray
    ranges: np.ndarray
    hits: np.ndarray
    excused: np.ndarray

    def summary(self, weights: np.ndarray | None = None) -> dict[str, float | None]:
        """As :func:`summarise`, with image i counted ``weights[i]`` times, whole numbers from 0; by default once.

        O(d), about 25 ns a detection. A bootstrap draws ``np.bincount(rng.integers(n, size=n), minlength=n)``.

        Raises:
            InputError: weights of another number or kind.
        """
        n = len(self.found)
        weights = np.ones(n, np.int64) if weights is None else np.asarray(weights)
        if weights.shape != (n,) or weights.dtype.kind not in "iu" or (weights < 0).any():
            got = f"{weights.dtype} of shape {weights.shape}"
            raise InputError(f"expected whole weights from 0, one for each of {n} images; got {got}; count the draws")
        weights = weights.astype(np.int64)
        found, sought = weights @ self.found, weights @ self.sought
        values = [float(f / s) if s else None for f, s in zip(found, sought, strict=True)]
        ground_truths = sought[2:] // _T  # per range
        columns = (self.image, self.ranges, self.hits, self.excused)
        precision = _precision(*columns, weights, ground_truths, _RECALL_POINTS)
        whole, small, medium, large = (
            float(row.mean()) if count else None for row, count in zip(precision, ground_truths, strict=True)
        )
        at50, at75 = (float(precision[0, t]) if ground_truths[0] else None for t in (0, 5))
        return dict(zip(METRIC_NAMES, (*values, whole, at50, at75, small, medium, large), strict=True))


def collect(stats: Sequence[Stats]) -> Collected:
    """Stats of one or more images, ready to be summarised; 21 bytes a detection. Image i is ``stats[i]``.

    Of equal scores in different images the one of the lower image id stands first, as in the official tool.

    Raises:
        InputError: no images. FormatError: ``matches`` that are damaged.
    """
    if not stats:
        raise InputError("expected the stats of at least one image; got none")
    by_id = np.argsort([one["image"] for one in stats], kind="stable")
    packed = [_unpacked(stats[i]) for i in by_id]
    scores, ranges, hits, excused = (np.concatenate(column) for column in zip(*packed, strict=True))
    order = np.argsort(-scores, kind="stable")
    return Collected(
        found=np.array([one["found"] for one in stats], np.int64),
        sought=np.array([one["sought"] for one in stats], np.int64),
        image=np.repeat(by_id.astype(np.int32), [len(columns[0]) for columns in packed])[order],
        ranges=ranges[order],
        hits=hits[order],
        excused=excused[order],
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _within(areas: np.ndarray) -> np.ndarray:
    """(a, n) bool: which ranges an area is in; both ends belong to a range, so that 1024 is small and medium."""
    return np.array([(low <= areas) & (areas <= high) for low, high in AREA_RANGES])


def _bits(rows: np.ndarray) -> np.ndarray:
    """(n,) uint8 with row a of (a, n) in bit a."""
    return np.packbits(rows, axis=0, bitorder="little")[0]


def _mask_overlaps(
    ground_truth: ImageGroundTruth, found: ImageDetections, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, g) IoU of masks, (n,) areas of the detections in ``order``, (g,) ground truths that are empty."""
    theirs = ground_truth.masks()
    if found.rles is None:
        raise InputError(f"{ground_truth.name}: expected predicted masks; got boxes only; score them with kind='boxes'")
    try:
        gt_areas = rle.areas(theirs, ground_truth.size)
    except MasktreeError as error:
        raise InputError(f"{ground_truth.name}: ground truth: {error}") from error
    try:
        areas = rle.areas(found.rles, ground_truth.size)[order]
    except MasktreeError as error:
        raise InputError(f"{ground_truth.name}: predictions: {error}") from error
    ours = [found.rles[i] for i in order]
    shared = rle.cross_intersections(ours, theirs, ground_truth.size).astype(np.float64)
    return _quotients(shared, areas, gt_areas, ground_truth.crowd), areas, gt_areas == 0


def _box_overlaps(
    ground_truth: ImageGroundTruth, found: ImageDetections, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As ``_mask_overlaps``, of boxes."""
    ours, theirs = found.boxes[order], ground_truth.boxes
    for what, boxes, rows in (("predictions", ours, order), ("ground_truth", theirs, np.arange(len(theirs)))):
        wrong = np.flatnonzero((boxes[:, 2:] < 0).any(1))
        if len(wrong):
            raise InputError(
                f"{ground_truth.name}: {what}: expected boxes as x, y, width, height with sides from 0; "
                f"got {boxes[wrong[0]].tolist()} in box {rows[wrong[0]]}; corners are not the COCO form"
            )
    low = np.maximum(ours[:, None, :2], theirs[:, :2])
    high = np.minimum(ours[:, None, :2] + ours[:, None, 2:], theirs[:, :2] + theirs[:, 2:])
    shared = np.maximum(high - low, 0).prod(2)
    areas, gt_areas = ours[:, 2:].prod(1), theirs[:, 2:].prod(1)
    return _quotients(shared, areas, gt_areas, ground_truth.crowd), areas, gt_areas == 0


def _quotients(shared: np.ndarray, areas: np.ndarray, gt_areas: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Intersection over union; over the detection's own area for a crowd. 0 where nothing is shared."""
    whole = areas[:, None] + gt_areas - shared
    whole[:, crowd] = areas[:, None]
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)


@njit(cache=True, nogil=True)
def _match(first, column, overlap, within, ignored, crowd, thresholds):
    """``hits`` and ``excused`` of each detection, as in ``Collected``.

    The pairs of detection d that can match at all are first[d] ... first[d + 1] - 1; detections in order of score.
    """
    n = len(first) - 1
    hits = np.zeros(n, np.uint64)
    excused = np.zeros(n, np.uint64)
    for a in range(len(ignored)):
        for t in range(len(thresholds)):
            bit = np.uint64(1) << np.uint64(a * len(thresholds) + t)
            taken = np.zeros(len(crowd), np.bool_)
            for d in range(n):
                best = -1
                for aside in (False, True):  # an ignored ground truth only if no other one matches
                    least = thresholds[t]
                    for k in range(first[d], first[d + 1]):
                        g = column[k]
                        if ignored[a, g] == aside and overlap[k] >= least and (crowd[g] or not taken[g]):
                            least = overlap[k]
                            best = g
                    if best >= 0:
                        taken[best] = True
                        if not aside:
                            hits[d] |= bit
                        elif within[a, d]:
                            excused[d] |= bit
                        break
    return hits, excused


def _packed(*columns: np.ndarray) -> str:
    """Byte planes one after the other, which compress well: scores share their high bytes, most bits are 0."""
    planes = [
        column.astype(dtype).view(np.uint8).reshape(-1, dtype.itemsize).T.tobytes()
        for column, dtype in zip(columns, _PACKED, strict=True)
    ]
    return base64.b64encode(zlib.compress(b"".join(planes))).decode("ascii")


def _unpacked(stats: Stats) -> list[np.ndarray]:
    n = stats["detections"]
    try:
        content = zlib.decompress(base64.b64decode(stats["matches"], validate=True), bufsize=max(1, _BYTES * n))
        planes = np.frombuffer(content, np.uint8).reshape(_BYTES, n)
    except (binascii.Error, zlib.error, ValueError, TypeError) as error:
        raise FormatError(
            f"image {stats['image']}: expected the matches of {n} detections; got damaged text ({error}); "
            "score the image again"
        ) from error
    columns, at = [], 0
    for dtype in _PACKED:
        columns.append(np.ascontiguousarray(planes[at : at + dtype.itemsize].T).view(dtype)[:, 0])
        at += dtype.itemsize
    return columns


@njit(cache=True, nogil=True)
def _precision(image, ranges, hits, excused, weights, ground_truths, points):
    """Interpolated precision, averaged over the recall points, of each range and threshold: (a, t).

    The precision at a recall is the highest at this or any higher recall. So the detections are walked from the worst
    to the best, keeping the highest precision so far: no curve is ever stored. Detections that count are counted once
    per range, with a correction at the few thresholds where one matches (``extra``).
    """
    n_ranges = len(ground_truths)
    right = np.zeros((n_ranges, _T), np.int64)
    extra = np.zeros((n_ranges, _T), np.int64)
    inside = np.zeros(n_ranges, np.int64)
    highest, total = np.zeros((n_ranges, _T)), np.zeros((n_ranges, _T))
    point = np.zeros((n_ranges, _T), np.int64)
    for backwards in (False, True):
        if backwards:  # all is counted; points above the recall reached are left out: their precision is 0
            for a in range(n_ranges):
                point[a] = np.searchsorted(points, right[a] / max(ground_truths[a], 1), side="right") - 1
        for i in range(len(image)):
            d = len(image) - 1 - i if backwards else i
            weight = weights[image[d]]
            step = -weight if backwards else weight
            matched = hits[d] | excused[d] if weight else np.uint64(0)
            for a in range(n_ranges):
                counts = np.int64(ranges[d] >> a & 1)
                if matched >> np.uint64(a * _T) & np.uint64(2**_T - 1):
                    for t in range(_T):
                        bit = np.uint64(1) << np.uint64(a * _T + t)
                        if hits[d] & bit:
                            if backwards:
                                highest[a, t] = max(highest[a, t], right[a, t] / (inside[a] + extra[a, t]))
                                before = (right[a, t] - weight) / ground_truths[a]
                                while point[a, t] > 0 and points[point[a, t]] > before:
                                    total[a, t] += highest[a, t]
                                    point[a, t] -= 1
                            right[a, t] += step
                            extra[a, t] += step * (1 - counts)
                        elif excused[d] & bit:
                            extra[a, t] -= step
                inside[a] += step * counts
    return (total + highest) / len(points)  # at recall 0 the highest precision of all
