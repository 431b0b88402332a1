"""Hierarchy protocol: is the tree of masks the ground truth's tree, and what is found at which of its levels?

Parent-child recall. The ground truths and the predictions are matched one to one, the highest IoU first, at IoU >=
.5. A
parent-child pair of the ground truth is found if both its masks are matched and the prediction of the parent is an
ancestor
of that of the child: further predicted levels in between do no harm.

Parent-child precision. Of all pairs of an ancestor and a descendant among the matched predictions, the share whose
ground truths are ancestor and descendant too. Predictions without a match stay out, because the ground truth of no
data set has
every entity and part: a pair with an unlabelled mask is not known to be wrong. All pairs of ancestors count, not
parents alone, so that what recall counts as found is always right here as well.

Average recall by level and size. A ground truth is found at a threshold if its best IoU over the best 1000 predictions
reaches it; thresholds .50:.05:.95 as in COCO. Where the ground truths of a level do not overlap a prediction has an
IoU above
one half with one of them at most, and this is COCO's one-to-one matching; where they do, it is an upper bound.

Best cut. ``MaskTree.cut`` gives a partition at each of 21 granularities; the ground truths are covered by its regions
as in
the BSDS500 benchmark (Arbelaez et al. 2011, section 2.3, doi 10.1109/TPAMI.2010.161): the sum of |R| times the best IoU
over the regions, by the sum of |R|. ``best_granularity`` takes one granularity for the whole set, ``best_cut`` the
best one of each image. Both look at the ground truth to choose, so they bound what a choice can reach; their
difference is
what choosing image by image is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numba import njit
from scipy import ndimage

from masktree.errors import InputError, MasktreeError
from masktree.evaluate import structure
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.evaluate.overlap import times_found
from masktree.evaluate.recall import IOU_THRESHOLDS, MAX_DETECTIONS
from masktree.evaluate.structure import Stats, column_arrays, ratio
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import LEVELS, MaskTree

MATCH_IOU = 0.5  # of the parent-child pairs
GRANULARITIES = np.arange(21) / 20  # of the cuts (our choice)
SIZES = (0.0, 0.1, 0.2, 0.4, 1.0)  # limits of sqrt(area / image area): 1, 4 and 16 % of the image (our choice)
SIZE_NAMES = tuple(f"g_{100 * low:02.0f}_{100 * high:02.0f}" for low, high in pairwise(SIZES))


def score_image(ground_truth: ImageGroundTruth, tree: MaskTree) -> Stats:
    """What one image adds; crowd regions of the ground truth are left out, their children go to the nearest kept
    ancestor.

    Returns:
        The counts of :func:`masktree.evaluate.structure.score_image`, and
        true_pairs: parent-child pairs of the ground truth; found_pairs: those found. matched_pairs: pairs of ancestor
        and
        descendant among the matched predictions; right_pairs: those that are so in the ground truth.
        level_truths, level_found: by depth in the ground truth's forest (0, 1, deeper), ground truths, and the sum
        over them of
        the thresholds of ten at which each is found; size_truths, size_found: the same by sqrt(area / image area) in
        [0, .1), [.1, .2), [.2, .4), [.4, 1].
        cut_pixels: sum of |R| of the ground truths in pixels; cut_covered: 21 sums of |R| times the best IoU.

    Raises:
        InputError: the tree is of another image size, the ground truth has boxes only, a mask's string is damaged.
    """
    if tree.size != ground_truth.size:
        raise InputError(
            f"{ground_truth.name}: expected masks of {ground_truth.size[0]} x {ground_truth.size[1]} pixels as the "
            f"ground truth's; got "
            f"{tree.size[0]} x {tree.size[1]}; predict on the data set's own images"
        )
    kept = ~ground_truth.crowd
    rles = [mask for mask, keep in zip(ground_truth.masks(), kept, strict=True) if keep]
    parents = hierarchy.reparent(ground_truth.parents, kept)
    try:
        overlaps = rle.iou(rles, tree.rles, tree.size)
        return {
            **structure.score_image(tree),
            **_pairs(overlaps, parents, tree.parents),
            **_recalls(overlaps, parents, ground_truth.areas[kept] / (tree.size[0] * tree.size[1]), tree.scores),
            **_covering(rles, tree),
        }
    except MasktreeError as error:
        raise InputError(f"{ground_truth.name}: {error}") from error


def summarise(stats: Sequence[Stats]) -> dict[str, float | None]:
    """Metrics of a set of images, from sums over all of them.

    Returns:
        parent_child_precision, parent_child_recall, parent_child_f1: None for a ground truth without any parent;
        precision
        is None where no two matched predictions are ancestor and descendant, and F1 is 0 then.
        best_cut, best_granularity: covering in [0, 1]; best_granularity_at: that granularity. None without ground
        truths.
        ar_whole, ar_part, ar_subpart, ar_g_00_10 ... ar_g_40_100: None without such ground truths.
        And the metrics of :func:`masktree.evaluate.structure.summarise`.

    Raises:
        InputError: no image.
    """
    names = ("gt_pairs", "found_pairs", "matched_pairs", "right_pairs", "cut_pixels")
    true_pairs, found, matched, right, cut_pixels = column_arrays(stats, names).sum(0)
    precision = ratio(right, matched) if true_pairs else None
    recall = ratio(found, true_pairs)
    f1 = None if recall is None else 0.0 if not precision or not recall else 2 / (1 / precision + 1 / recall)
    covered = np.array([s["cut_covered"] for s in stats], np.float64)
    at_once = covered.sum(0)
    return {
        "parent_child_precision": precision,
        "parent_child_recall": recall,
        "parent_child_f1": f1,
        "best_cut": ratio(covered.max(1).sum(), cut_pixels),
        "best_granularity": ratio(at_once.max(), cut_pixels),
        "best_granularity_at": float(GRANULARITIES[at_once.argmax()]) if cut_pixels else None,
        **_average_recalls(stats, "level", LEVELS),
        **_average_recalls(stats, "size", SIZE_NAMES),
        **structure.summarise(stats),
    }


def _average_recalls(stats: Sequence[Stats], by: str, names: Sequence[str]) -> dict[str, float | None]:
    found = np.array([s[f"{by}_found"] for s in stats], np.float64).sum(0)
    ground_truths = np.array([s[f"{by}_ground_truths"] for s in stats], np.float64).sum(0)
    most = len(IOU_THRESHOLDS) * ground_truths
    return {f"ar_{name}": ratio(a, b) for name, a, b in zip(names, found, most, strict=True)}


def _pairs(overlaps: np.ndarray, gt_parents: np.ndarray, parents: np.ndarray) -> Stats:
    """Parent-child pairs of the ground truth and how many are found; pairs of matched predictions and how many are
    right."""
    matches = _match(overlaps)
    matched = matches >= 0
    # Both forests of the matched masks alone, the predictions in the order of their ground truths.
    chosen = np.zeros(len(parents), np.bool_)
    chosen[matches[matched]] = True
    above = hierarchy.ancestors(hierarchy.reparent(parents, chosen))  # rows and columns in the tree's order
    place = (np.cumsum(chosen) - 1)[matches[matched]]
    above = above[np.ix_(place, place)]
    gt_above = hierarchy.ancestors(hierarchy.reparent(gt_parents, matched))
    child = np.flatnonzero(matched & (gt_parents >= 0))
    child = child[matched[gt_parents[child]]]
    row = np.cumsum(matched) - 1
    return {
        "gt_pairs": int((gt_parents >= 0).sum()),
        "found_pairs": int(above[row[child], row[gt_parents[child]]].sum()),
        "matched_pairs": int(above.sum()),
        "right_pairs": int((above & gt_above).sum()),
    }


def _match(overlaps: np.ndarray) -> np.ndarray:
    """(ground truths,) index of each ground truth's prediction, -1 for none: greedy by IoU, of equal ones the
    first ground truth."""
    result = np.full(len(overlaps), -1, np.int64)
    free = np.ones(overlaps.shape[1], np.bool_)
    ground_truths, predictions = np.nonzero(overlaps >= MATCH_IOU)
    for i in np.argsort(-overlaps[ground_truths, predictions], kind="stable"):
        if result[ground_truths[i]] < 0 and free[predictions[i]]:
            result[ground_truths[i]] = predictions[i]
            free[predictions[i]] = False
    return result


def _recalls(overlaps: np.ndarray, parents: np.ndarray, shares: np.ndarray, scores: np.ndarray) -> Stats:
    best = np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]
    found = times_found(overlaps[:, best].max(1, initial=0.0))
    level = hierarchy.levels(parents)
    size = np.digitize(np.sqrt(shares), SIZES[1:-1])
    return {
        "level_ground_truths": np.bincount(level, minlength=len(LEVELS)).tolist(),
        "level_found": [int(found[level == i].sum()) for i in range(len(LEVELS))],
        "size_ground_truths": np.bincount(size, minlength=len(SIZE_NAMES)).tolist(),
        "size_found": [int(found[size == i].sum()) for i in range(len(SIZE_NAMES))],
    }


def _covering(rles: Sequence[bytes], tree: MaskTree) -> Stats:
    """Sums of |R| x best IoU of the ground truths R over the regions of each cut. One label map in memory at a time."""
    areas = rle.areas(rles, tree.size)
    runs = rle.runs(rles, tree.size)
    covered = [float(areas @ _best_regions(labels, int(labels.max()) + 1, *runs)) for labels in _cuts(tree)]
    return {"cut_pixels": int(areas.sum()), "cut_covered": covered}


def _cuts(tree: MaskTree) -> Iterator[np.ndarray]:
    """The regions of ``tree.cut`` at each granularity: (W H,) int32, column-major, numbers with gaps.

    What no mask covers is the same in all cuts of overlapping masks, so that its pieces are found once only.
    """
    if tree.dendrogram is not None:
        for granularity in GRANULARITIES:
            yield tree.cut(float(granularity)).T.ravel()
        return
    pieces, _ = ndimage.label(tree.owners(1.0).T < 0)
    remainder = (pieces + (len(tree) - 1)).astype(np.int32).ravel()
    for granularity in GRANULARITIES:
        owners = tree.owners(float(granularity)).T.ravel()
        yield np.where(owners >= 0, owners, remainder)


@njit(cache=True, nogil=True)
def _best_regions(labels, n_labels, starts, ends, offsets):  # pragma: no cover
    """Best IoU of each mask over the regions of a column-major label map."""
    sizes = np.zeros(n_labels, np.int64)
    for label in labels:
        sizes[label] += 1
    result = np.zeros(len(offsets) - 1)
    shared = np.zeros(n_labels, np.int64)
    touched = np.empty(n_labels, np.int64)
    for i in range(len(result)):
        n_touched, area = 0, 0
        for run in range(offsets[i], offsets[i + 1]):
            area += ends[run] - starts[run]
            for pixel in range(starts[run], ends[run]):
                label = labels[pixel]
                if shared[label] == 0:
                    touched[n_touched] = label
                    n_touched += 1
                shared[label] += 1
        for k in range(n_touched):
            label = touched[k]
            result[i] = max(result[i], shared[label] / (area + sizes[label] - shared[label]))
            shared[label] = 0
    return result
