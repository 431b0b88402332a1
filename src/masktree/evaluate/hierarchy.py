"""Hierarchy protocol: does the tree of masks agree with the annotated hierarchy, and what is found at which level?

Parent-child recall. Annotations and predictions are matched one to one, the highest IoU first, at IoU >= .5. An
annotated parent-child pair is found if both masks are matched and the prediction of the parent is an ancestor of that
of the child: further predicted levels in between are allowed. Nodes are matched; combinations of them and pooled masks
of a model stand beside the hierarchy.

Parent-child precision. Of all pairs of an ancestor and a descendant among the matched predictions, the share whose
annotations are ancestor and descendant too. Unmatched predictions are left out, because no data set annotates every
entity and part: a pair with an unannotated mask is not known to be wrong. All pairs of ancestors count, not parents
only, so that what recall counts as found is a true positive here as well.

Average recall by level and size. An annotation is found at a threshold if its best IoU over the best 1000 predictions
reaches it; thresholds .50:.05:.95 as in COCO. Where the annotations of a level do not overlap, a prediction has an IoU
above one half with at most one of them, and this is COCO's one-to-one matching; where they do, it is an upper bound.

Best cut. ``MaskTree.cut`` gives a partition at each of 21 granularities; its regions cover the annotations as in the
BSDS500 benchmark (Arbelaez et al. 2011, section 2.3, doi 10.1109/TPAMI.2010.161): the sum of |R| times the best IoU
over the regions, by the sum of |R|. ``best_granularity`` takes one granularity for the whole set, ``best_cut`` the
best one of each image. Both choose by the ground truth, so they bound what a choice can reach; their difference is the
gain of choosing image by image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from scipy import ndimage

from masktree.errors import InputError, MasktreeError
from masktree.evaluate import structure
from masktree.evaluate.case import EvaluationCase
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.evaluate.image_stats import ImageStats, Metrics, column_arrays, ratio
from masktree.evaluate.protocol import EvaluationProtocol, ScoringContext
from masktree.evaluate.recall import IOU_THRESHOLDS, MAX_DETECTIONS, count_thresholds
from masktree.kernels import kernel
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import LEVELS, MaskTree

MATCH_IOU = 0.5  # of annotations and predictions, for the parent-child pairs
GRANULARITIES = np.arange(21) / 20  # of the cuts (our choice)
SIZE_LIMITS = (0.0, 0.1, 0.2, 0.4, 1.0)  # of sqrt(area / image area): 1, 4 and 16 % of the image (our choice)
SIZE_RANGE_NAMES = tuple(f"g_{100 * low:02.0f}_{100 * high:02.0f}" for low, high in pairwise(SIZE_LIMITS))


def score_image(ground_truth: ImageGroundTruth, tree: MaskTree) -> ImageStats:
    """What one image adds. Crowds are left out; their children go to the nearest remaining ancestor.

    Args:
        ground_truth: n annotations with masks.
        tree: of the same image size.

    Returns:
        The counts of :func:`masktree.evaluate.structure.score_image`, and
        gt_pairs, gt_pairs_found: annotated parent-child pairs, and how many are found.
        predicted_pairs, predicted_pairs_tp: pairs of ancestor and descendant among the matched predictions, and how
        many are so in the ground truth.
        level_num_gt, level_tp: by depth in the annotated hierarchy (0, 1, deeper) the number of annotations, and the
        sum over them of the number of thresholds at which each is found; size_num_gt, size_tp: the same by
        sqrt(area / image area) in [0, .1), [.1, .2), [.2, .4), [.4, 1].
        cut_pixels: sum of |R| of the annotations in pixels; cut_covered: 21 sums of |R| times the best IoU.

    Raises:
        InputError: the tree is of another image size, the ground truth has boxes only, a mask's string is damaged.
    """
    if tree.size != ground_truth.size:
        raise InputError(
            f"{ground_truth.name}: expected masks of {ground_truth.size[0]} x {ground_truth.size[1]} pixels as the "
            f"ground truth's; got {tree.size[0]} x {tree.size[1]}; predict on the data set's own images"
        )
    kept = ~ground_truth.crowd
    rles = [mask for mask, keep in zip(ground_truth.masks(), kept, strict=True) if keep]
    parents = hierarchy.reparent(ground_truth.parents, kept)
    is_node = tree.kinds == 0
    try:
        overlaps = rle.iou(rles, tree.rles, tree.size)
        return {
            **structure.score_image(tree),
            **_count_pairs(overlaps[:, is_node], parents, hierarchy.reparent(tree.parents, is_node)),
            **_count_recalled(overlaps, parents, ground_truth.areas[kept] / (tree.size[0] * tree.size[1]), tree.scores),
            **_cover(rles, tree),
        }
    except MasktreeError as error:
        raise InputError(f"{ground_truth.name}: {error}") from error


def summarise(stats: Sequence[ImageStats]) -> Metrics:
    """Metrics of a set of images, from sums over all of them.

    Returns:
        parent_child_precision, parent_child_recall, parent_child_f1: None for a ground truth without any parent;
        precision is None where no two matched predictions are ancestor and descendant, and F1 is 0 then.
        best_cut, best_granularity: covering in [0, 1]; best_granularity_at: that granularity. None without
        annotations.
        ar_whole, ar_part, ar_subpart, ar_g_00_10 ... ar_g_40_100: None without such annotations.
        And the metrics of :func:`masktree.evaluate.structure.summarise`.

    Raises:
        InputError: no image.
    """
    names = ("gt_pairs", "gt_pairs_found", "predicted_pairs", "predicted_pairs_tp", "cut_pixels")
    gt_pairs, gt_pairs_found, predicted_pairs, predicted_pairs_tp, cut_pixels = column_arrays(stats, names).sum(0)
    precision = ratio(predicted_pairs_tp, predicted_pairs) if gt_pairs else None
    recall = ratio(gt_pairs_found, gt_pairs)
    f1 = None if recall is None else 0.0 if not precision or not recall else 2 / (1 / precision + 1 / recall)
    covered = np.array([one["cut_covered"] for one in stats], np.float64)
    covered_by_granularity = covered.sum(0)
    return {
        "parent_child_precision": precision,
        "parent_child_recall": recall,
        "parent_child_f1": f1,
        "best_cut": ratio(covered.max(1).sum(), cut_pixels),
        "best_granularity": ratio(covered_by_granularity.max(), cut_pixels),
        "best_granularity_at": float(GRANULARITIES[covered_by_granularity.argmax()]) if cut_pixels else None,
        **_average_recalls(stats, "level", LEVELS),
        **_average_recalls(stats, "size", SIZE_RANGE_NAMES),
        **structure.summarise(stats),
    }


def _score_case(case: EvaluationCase, context: ScoringContext) -> ImageStats:
    return score_image(case.annotated(), case.prediction.tree(case.size))


PROTOCOL = EvaluationProtocol(
    title="Hierarchy",
    main_metric="parent_child_f1",
    headline_metrics=(
        "parent_child_f1",
        "parent_child_recall",
        "parent_child_precision",
        "nesting",
        "coverage",
        "best_cut",
    ),
    score=_score_case,
    summarise=summarise,
)


def _average_recalls(stats: Sequence[ImageStats], by: str, names: Sequence[str]) -> Metrics:
    tp = np.array([one[f"{by}_tp"] for one in stats], np.float64).sum(0)
    num_gt = np.array([one[f"{by}_num_gt"] for one in stats], np.float64).sum(0)
    return {f"ar_{name}": ratio(a, b) for name, a, b in zip(names, tp, len(IOU_THRESHOLDS) * num_gt, strict=True)}


def _count_pairs(overlaps: np.ndarray, gt_parents: np.ndarray, parents: np.ndarray) -> ImageStats:
    """Annotated pairs and how many are found; pairs of matched predictions and how many are annotated."""
    matches = _match(overlaps)
    matched = matches >= 0
    # Both forests restricted to the matched masks, the predictions in the order of their annotations.
    is_matched = np.zeros(len(parents), np.bool_)
    is_matched[matches[matched]] = True
    above = hierarchy.ancestors(hierarchy.reparent(parents, is_matched))  # rows and columns in the tree's order
    order = (np.cumsum(is_matched) - 1)[matches[matched]]
    above = above[np.ix_(order, order)]
    gt_above = hierarchy.ancestors(hierarchy.reparent(gt_parents, matched))
    child = np.flatnonzero(matched & (gt_parents >= 0))
    child = child[matched[gt_parents[child]]]
    row = np.cumsum(matched) - 1
    return {
        "gt_pairs": int((gt_parents >= 0).sum()),
        "gt_pairs_found": int(above[row[child], row[gt_parents[child]]].sum()),
        "predicted_pairs": int(above.sum()),
        "predicted_pairs_tp": int((above & gt_above).sum()),
    }


def _match(overlaps: np.ndarray) -> np.ndarray:
    """(n,) index of each annotation's prediction, -1 for none: greedy by IoU, of equal ones the first annotation."""
    result = np.full(len(overlaps), -1, np.int64)
    free = np.ones(overlaps.shape[1], np.bool_)
    gt_indices, predictions = np.nonzero(overlaps >= MATCH_IOU)
    for i in np.argsort(-overlaps[gt_indices, predictions], kind="stable"):
        if result[gt_indices[i]] < 0 and free[predictions[i]]:
            result[gt_indices[i]] = predictions[i]
            free[predictions[i]] = False
    return result


def _count_recalled(
    overlaps: np.ndarray, parents: np.ndarray, relative_areas: np.ndarray, scores: np.ndarray
) -> ImageStats:
    best = np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]
    found = count_thresholds(overlaps[:, best].max(1, initial=0.0))
    level = hierarchy.levels(parents)
    size = np.digitize(np.sqrt(relative_areas), SIZE_LIMITS[1:-1])
    return {
        "level_num_gt": np.bincount(level, minlength=len(LEVELS)).tolist(),
        "level_tp": [int(found[level == i].sum()) for i in range(len(LEVELS))],
        "size_num_gt": np.bincount(size, minlength=len(SIZE_RANGE_NAMES)).tolist(),
        "size_tp": [int(found[size == i].sum()) for i in range(len(SIZE_RANGE_NAMES))],
    }


def _cover(rles: Sequence[bytes], tree: MaskTree) -> ImageStats:
    """Sums of |R| x best IoU of the annotations R over the regions of each cut, one label map in memory at a time."""
    areas = rle.areas(rles, tree.size)
    runs = rle.runs(rles, tree.size)
    covered = [float(areas @ _best_regions(labels, int(labels.max()) + 1, *runs)) for labels in _cuts(tree)]
    return {"cut_pixels": int(areas.sum()), "cut_covered": covered}


def _cuts(tree: MaskTree) -> Iterator[np.ndarray]:
    """The regions of ``tree.cut`` at each granularity: (W H,) int32, column-major, numbers with gaps.

    What no mask covers is the same in all cuts of overlapping masks, so its connected components are found once.
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


@kernel()
def _best_regions(
    labels: np.ndarray, n_labels: int, starts: np.ndarray, ends: np.ndarray, offsets: np.ndarray
) -> np.ndarray:  # pragma: no cover
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
