"""Class-agnostic average recall and precision of masks or boxes, as the COCO benchmark defines them.

One category, IoU thresholds .50:.05:.95, the 10, 100 or 1000 best detections of each image, sizes split at 32^2 and
96^2 pixels (Lin et al., "Microsoft COCO", ECCV 2014, doi 10.1007/978-3-319-10602-1_48, and its detection evaluation
page). Average precision, and all metrics by size, are taken at 1000 detections, whereas the stock summary prints
them at 100. Equal to pycocotools, which the tests compare.

Two rules of the official matching: at each threshold the detections choose in order of score, each the free annotation
of highest IoU, of equal ones the last; and a detection that matches only an annotation out of the size range or a
crowd, or that matches nothing and is itself out of the range, is ignored.

The matching is written here although faster-coco-eval has one: what its evaluation of an image yields cannot be read,
stored or weighted, and precision over a data set needs the match of each detection.
"""

from __future__ import annotations

import base64
import binascii
import reprlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from masktree.coco.areas import MEDIUM_AREA, SMALL_AREA
from masktree.errors import FormatError, InputError, MasktreeError
from masktree.evaluate.case import EvaluationCase
from masktree.evaluate.detections import ImageDetections, box_intersections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.evaluate.image_stats import ImageStats, Metrics, ratio
from masktree.evaluate.options import IouType
from masktree.evaluate.protocol import EvaluationProtocol, ScoringContext
from masktree.kernels import kernel
from masktree.trees import rle
from masktree.types import checked

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # the official values: 0.05 * i differs in the last digit
# Of areas in pixels: all, small, medium, large
AREA_RANGES = ((0.0, 1e10), (0.0, SMALL_AREA), (SMALL_AREA, MEDIUM_AREA), (MEDIUM_AREA, 1e10))
MAX_DETECTIONS = 1000  # detections of an image
RECALL_NAMES = ("ar10", "ar100", "ar1000", "ar_s", "ar_m", "ar_l")
METRIC_NAMES = (*RECALL_NAMES, "ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l")

_T, _A = len(IOU_THRESHOLDS), len(AREA_RANGES)
_RECALL_POINTS = np.linspace(0.0, 1.0, 101)
# Of each of RECALL_NAMES: number of detections, and index of the area range
_DETECTION_LIMITS = (10, 100, MAX_DETECTIONS, MAX_DETECTIONS, MAX_DETECTIONS, MAX_DETECTIONS)
_RANGE_INDICES = (0, 0, 0, 1, 2, 3)
# The packed columns of a detection: score, ranges, tp, ignored
_PACKED: tuple[np.dtype[Any], ...] = tuple(map(np.dtype, ("<f8", "u1", "<u8", "<u8")))
_PACKED_BYTES = sum(dtype.itemsize for dtype in _PACKED)


def score_image(
    ground_truth: ImageGroundTruth, detections: ImageDetections, *, iou_type: IouType = "masks"
) -> ImageStats:
    """What one image adds to the benchmark.

    The 1000 detections with the highest scores count; of equal scores, the first. An image may lack detections,
    annotations or both. Time for n detections and g annotations is that of
    :func:`masktree.trees.rle.cross_intersections` plus O(n g); memory a few times 8 n g bytes and that of the runs.

    Args:
        ground_truth: the annotations.
        detections: of the same image size.
        iou_type: whether masks or boxes are compared.

    Returns:
        ``image_id``. ``annotations``: number of annotations that are no crowds. ``detections``: number of detections
        that count, at most 1000.
        ``tp``, ``num_gt``: for each of ``RECALL_NAMES`` the sums over the ten thresholds of the true positives and of
        the annotations; a recall is the quotient of their sums over images.
        ``best_iou``: for each annotation that is no crowd, in order, the IoU of the best detection, to three digits.
        ``empty_annotations``, ``empty_detections``: masks without a pixel (boxes without an area) among them. As in
        the official tool they count, although nothing can match them.
        ``matches``: scores and matches of the detections for :func:`collect`, as text.

    Raises:
        InputError: the detections are of another image size or have boxes only, a run-length string is damaged, a box
            has a negative side. The message names the image.
    """
    if detections.size != ground_truth.size:
        raise InputError(
            f"{ground_truth.name}: expected predictions of {_by(ground_truth.size)} pixels (height x width); got "
            f"{_by(detections.size)}; scale them to the annotated image"
        )
    order = np.argsort(-detections.scores, kind="stable")[:MAX_DETECTIONS]
    if iou_type == "masks":
        overlaps, areas, is_empty = _mask_overlaps(ground_truth, detections, order)
    elif iou_type == "boxes":
        overlaps, areas, is_empty = _box_overlaps(ground_truth, detections, order)
    else:
        raise InputError(f"expected masks or boxes; got {iou_type!r}")

    gt_ignored = ground_truth.crowd | ~_in_ranges(ground_truth.areas)  # (a, g)
    candidates = overlaps >= IOU_THRESHOLDS[0]
    first = np.concatenate([[0], np.cumsum(candidates.sum(1))])
    in_ranges = _in_ranges(areas)
    tp, ignored = _match(
        first,
        np.nonzero(candidates)[1],
        overlaps[candidates],
        in_ranges,
        gt_ignored,
        ground_truth.crowd,
        IOU_THRESHOLDS,
    )
    is_tp = (tp[:, None] >> np.arange(_A * _T, dtype=np.uint64) & np.uint64(1)).astype(np.int64).reshape(-1, _A, _T)
    best = overlaps[:, ~ground_truth.crowd].max(0, initial=0.0)
    return {
        "image_id": int(ground_truth.id),
        "annotations": len(best),
        "detections": len(order),
        "tp": [int(is_tp[:limit, a].sum()) for limit, a in zip(_DETECTION_LIMITS, _RANGE_INDICES, strict=True)],
        "num_gt": [_T * int((~gt_ignored[a]).sum()) for a in _RANGE_INDICES],
        "best_iou": [round(value, 3) for value in best.tolist()],
        "empty_annotations": int((is_empty & ~ground_truth.crowd).sum()),
        "empty_detections": int((areas == 0).sum()),
        "matches": _pack(detections.scores[order], _bits(in_ranges), tp, ignored),
    }


def summarise(stats: Sequence[ImageStats]) -> Metrics:
    """The metrics of ``METRIC_NAMES``, in [0, 1], of a data set; None where it has no annotation of the size.

    The order of the images does not matter, and one may occur several times. For many weightings of the same images,
    as in a bootstrap, call :func:`collect` once.

    Raises:
        InputError: no images. FormatError: ``matches`` that are damaged.
    """
    return collect(stats).summary()


@dataclass(frozen=True, eq=False)
class CollectedMatches:
    """The stats of n images, with their d detections sorted by score over all images.

    Attributes:
        tp, num_gt: (n, 6) int64 as in the stats.
        image: (d,) int32 index of the image.
        ranges: (d,) uint8: bit a is set if the detection's area is in range a.
        detection_tp: (d,) uint64: bit 10 a + t is set if at threshold t the detection matches an annotation of range a.
        ignored: (d,) uint64: bit 10 a + t is set if the detection is in range a but matches an annotation that is
            ignored there, a crowd or one out of the range. A detection is a false positive where its area is in the
            range and neither bit is set.
    """

    tp: np.ndarray
    num_gt: np.ndarray
    image: np.ndarray
    ranges: np.ndarray
    detection_tp: np.ndarray
    ignored: np.ndarray

    def summary(self, weights: np.ndarray | None = None) -> Metrics:
        """As :func:`summarise`, with image i counted ``weights[i]`` times.

        O(d), about 25 ns a detection.

        Args:
            weights: (n,) whole numbers from 0, such as ``np.bincount(rng.integers(n, size=n), minlength=n)``; ones if
                not given.

        Raises:
            InputError: weights of another shape or kind.
        """
        n = len(self.tp)
        weights = np.ones(n, np.int64) if weights is None else np.asarray(weights)
        if weights.shape != (n,) or weights.dtype.kind not in "iu" or (weights < 0).any():
            got = f"{weights.dtype} of shape {weights.shape}"
            raise InputError(f"expected whole weights from 0, one for each of {n} images; got {got}; count the draws")
        weights = weights.astype(np.int64)
        tp, num_gt = weights @ self.tp, weights @ self.num_gt
        recalls = [ratio(a, b) for a, b in zip(tp, num_gt, strict=True)]
        range_gt = num_gt[2:] // _T
        columns = (self.image, self.ranges, self.detection_tp, self.ignored)
        precision = _precision(*columns, weights, range_gt, _RECALL_POINTS)
        by_range = [float(row.mean()) if count else None for row, count in zip(precision, range_gt, strict=True)]
        at50, at75 = (float(precision[0, t]) if range_gt[0] else None for t in (0, 5))
        return dict(zip(METRIC_NAMES, (*recalls, by_range[0], at50, at75, *by_range[1:]), strict=True))


def collect(stats: Sequence[ImageStats]) -> CollectedMatches:
    """Stats of one or more images, ready to be summarised; 21 bytes a detection. Image i is ``stats[i]``.

    Of equal scores in different images the one of the lower image id comes first, as in the official tool.

    Raises:
        InputError: no images. FormatError: ``matches`` that are damaged.
    """
    if not stats:
        raise InputError("expected the stats of at least one image; got none")
    by_id = np.argsort([one["image_id"] for one in stats], kind="stable")
    unpacked = [_unpack(stats[i]) for i in by_id]
    scores, ranges, detection_tp, ignored = (np.concatenate(column) for column in zip(*unpacked, strict=True))
    order = np.argsort(-scores, kind="stable")
    return CollectedMatches(
        tp=np.array([one["tp"] for one in stats], np.int64),
        num_gt=np.array([one["num_gt"] for one in stats], np.int64),
        image=np.repeat(by_id.astype(np.int32), [len(columns[0]) for columns in unpacked])[order],
        ranges=ranges[order],
        detection_tp=detection_tp[order],
        ignored=ignored[order],
    )


@checked
def count_thresholds(best_iou: Float[np.ndarray, " n"]) -> np.ndarray:
    """(n,) int64 in 0..10: how many of the ten thresholds an IoU reaches."""
    return np.searchsorted(IOU_THRESHOLDS, best_iou, side="right")


def _score_case(case: EvaluationCase, context: ScoringContext) -> ImageStats:
    ground_truth = case.annotated()
    return score_image(ground_truth, case.prediction.detections(case.size), iou_type=context.settings["iou_type"])


PROTOCOL = EvaluationProtocol(
    title="Average recall and precision",
    main_metric="ar1000",
    headline_metrics=("ar1000", "ar100", "ar_s", "ar_m", "ar_l", "ap"),
    score=_score_case,
    summarise=summarise,
)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _in_ranges(areas: np.ndarray) -> np.ndarray:
    """(a, n) bool: which ranges an area is in; both ends belong to a range, so that 1024 is small and medium."""
    return np.array([(low <= areas) & (areas <= high) for low, high in AREA_RANGES])


def _bits(rows: np.ndarray) -> np.ndarray:
    """(n,) uint8 with row a of (a, n) in bit a."""
    bits: np.ndarray = np.packbits(rows, axis=0, bitorder="little")[0]
    return bits


def _mask_overlaps(
    ground_truth: ImageGroundTruth, detections: ImageDetections, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, g) IoU of masks, (n,) areas of the detections in ``order``, (g,) bool empty annotations."""
    theirs = ground_truth.masks()
    if detections.rles is None:
        raise InputError(
            f"{ground_truth.name}: expected predicted masks; got boxes only; score them with iou_type='boxes'"
        )
    try:
        gt_areas = rle.areas(theirs, ground_truth.size)
    except MasktreeError as error:
        raise InputError(f"{ground_truth.name}: ground truth: {error}") from error
    try:
        areas = rle.areas(detections.rles, ground_truth.size)[order]
    except MasktreeError as error:
        raise InputError(f"{ground_truth.name}: predictions: {error}") from error
    ours = [detections.rles[i] for i in order]
    shared = rle.cross_intersections(ours, theirs, ground_truth.size).astype(np.float64)
    return _quotients(shared, areas, gt_areas, ground_truth.crowd), areas, gt_areas == 0


def _box_overlaps(
    ground_truth: ImageGroundTruth, detections: ImageDetections, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As ``_mask_overlaps``, of boxes."""
    ours, theirs = detections.boxes[order], ground_truth.boxes
    for what, boxes, rows in (("predictions", ours, order), ("ground truth", theirs, np.arange(len(theirs)))):
        wrong = np.flatnonzero((boxes[:, 2:] < 0).any(1))
        if len(wrong):
            raise InputError(
                f"{ground_truth.name}: {what}: expected boxes as x, y, width, height with sides from 0; "
                f"got {boxes[wrong[0]].tolist()} in box {rows[wrong[0]]}; corners are not the COCO form"
            )
    shared = box_intersections(ours, theirs)
    areas, gt_areas = ours[:, 2:].prod(1), theirs[:, 2:].prod(1)
    return _quotients(shared, areas, gt_areas, ground_truth.crowd), areas, gt_areas == 0


def _quotients(shared: np.ndarray, areas: np.ndarray, gt_areas: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Intersection over union; over the detection's own area for a crowd. 0 where nothing is shared."""
    whole = areas[:, None] + gt_areas - shared
    whole[:, crowd] = areas[:, None]
    overlaps: np.ndarray = np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)
    return overlaps


@kernel()
def _match(
    first: np.ndarray,
    column: np.ndarray,
    overlap: np.ndarray,
    in_ranges: np.ndarray,
    gt_ignored: np.ndarray,
    crowd: np.ndarray,
    thresholds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """``detection_tp`` and ``ignored`` of each detection, as in ``CollectedMatches``.

    The pairs of detection d with an IoU from .5 are first[d] ... first[d + 1] - 1; detections in order of score.
    """
    n = len(first) - 1
    tp = np.zeros(n, np.uint64)
    ignored = np.zeros(n, np.uint64)
    for a in range(len(gt_ignored)):
        for t in range(len(thresholds)):
            bit = np.uint64(1) << np.uint64(a * len(thresholds) + t)
            matched = np.zeros(len(crowd), np.bool_)
            for d in range(n):
                best = -1
                for among_ignored in (False, True):  # an ignored annotation only if no other one matches
                    min_overlap = thresholds[t]
                    for k in range(first[d], first[d + 1]):
                        g = column[k]
                        is_free = crowd[g] or not matched[g]
                        if gt_ignored[a, g] == among_ignored and overlap[k] >= min_overlap and is_free:
                            min_overlap = overlap[k]
                            best = g
                    if best >= 0:
                        matched[best] = True
                        if not among_ignored:
                            tp[d] |= bit
                        elif in_ranges[a, d]:
                            ignored[d] |= bit
                        break
    return tp, ignored


def _pack(*columns: np.ndarray) -> str:
    """Byte planes one after the other, which compress well: scores share their high bytes, most bits are 0."""
    planes = [
        column.astype(dtype).view(np.uint8).reshape(-1, dtype.itemsize).T.tobytes()
        for column, dtype in zip(columns, _PACKED, strict=True)
    ]
    return base64.b64encode(zlib.compress(b"".join(planes))).decode("ascii")


def _unpack(stats: ImageStats) -> list[np.ndarray]:
    n = stats["detections"]
    try:
        # no more than n detections have: a hostile text of some kilobytes could hold gigabytes
        text = base64.b64decode(stats["matches"], validate=True)
        decoder = zlib.decompressobj()
        content = decoder.decompress(text, max_length=max(1, _PACKED_BYTES * n + 1))
        if not decoder.eof:
            raise ValueError("it is longer, or cut off")
        planes = np.frombuffer(content, np.uint8).reshape(_PACKED_BYTES, n)
    except (binascii.Error, zlib.error, ValueError, TypeError, OverflowError) as error:
        raise FormatError(
            f"image {stats['image_id']}: expected the matches of {reprlib.repr(n)} detections; got damaged text "
            f"({error}); score the image again"
        ) from error
    columns, at = [], 0
    for dtype in _PACKED:
        columns.append(np.ascontiguousarray(planes[at : at + dtype.itemsize].T).view(dtype)[:, 0])
        at += dtype.itemsize
    return columns


@kernel()
def _precision(
    image: np.ndarray,
    ranges: np.ndarray,
    detection_tp: np.ndarray,
    ignored: np.ndarray,
    weights: np.ndarray,
    num_gt: np.ndarray,
    points: np.ndarray,
) -> np.ndarray:  # pragma: no cover
    """Interpolated precision, averaged over the recall points, of each range and threshold: (a, t).

    The precision at a recall is the highest at this or any higher recall. So the detections are visited from the worst
    to the best, with the highest precision so far: no curve is ever stored. Detections are counted once per range,
    with a correction at the few thresholds where one matches (``extra``).
    """
    n_ranges = len(num_gt)
    tp = np.zeros((n_ranges, _T), np.int64)
    extra = np.zeros((n_ranges, _T), np.int64)
    inside = np.zeros(n_ranges, np.int64)
    highest, total = np.zeros((n_ranges, _T)), np.zeros((n_ranges, _T))
    point = np.zeros((n_ranges, _T), np.int64)
    for backwards in (False, True):
        if backwards:  # everything is counted; points above the recall reached are left out: their precision is 0
            for a in range(n_ranges):
                point[a] = np.searchsorted(points, tp[a] / max(num_gt[a], 1), side="right") - 1
        for i in range(len(image)):
            d = len(image) - 1 - i if backwards else i
            weight = weights[image[d]]
            step = -weight if backwards else weight
            matched = detection_tp[d] | ignored[d] if weight else np.uint64(0)
            for a in range(n_ranges):
                counts = np.int64(ranges[d] >> a & 1)
                if matched >> np.uint64(a * _T) & np.uint64(2**_T - 1):
                    for t in range(_T):
                        bit = np.uint64(1) << np.uint64(a * _T + t)
                        if detection_tp[d] & bit:
                            if backwards:
                                highest[a, t] = max(highest[a, t], tp[a, t] / (inside[a] + extra[a, t]))
                                recall_before = (tp[a, t] - weight) / num_gt[a]
                                while point[a, t] > 0 and points[point[a, t]] > recall_before:
                                    total[a, t] += highest[a, t]
                                    point[a, t] -= 1
                            tp[a, t] += step
                            extra[a, t] += step * (1 - counts)
                        elif ignored[d] & bit:
                            extra[a, t] -= step
                inside[a] += step * counts
    return (total + highest) / len(points)  # at recall 0 the highest precision of all
