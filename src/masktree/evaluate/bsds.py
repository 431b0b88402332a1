"""Region and boundary benchmark of BSDS500: covering, probabilistic Rand index, variation of information, boundary F.

Definitions as in Arbelaez, Maire, Fowlkes and Malik, "Contour Detection and Hierarchical Image Segmentation",
TPAMI 2011, sections 2.1 and 2.3 (doi 10.1109/TPAMI.2010.161), aggregated over images as in the benchmark's code: the
covering at a threshold is (sum over images and ground truth regions of |R| x best overlap) / (sum of |R|), so images
with more annotators weigh more, whereas PRI and VI are plain means over images.

All region metrics follow from one contingency table per partition: rows are the regions of the partition, columns
the regions of all human segmentations. For a tree the table of the leaves is counted once and its rows are summed
along the merges, so 99 thresholds cost little more than one. Boundaries are compared in
``masktree.evaluate.boundaries``; they take most of the time.

``ImageStats`` of one image with t partitions, in any order:
    covered (t): sum over the ground truth regions of |R| times its best overlap (pixels).
    best: the same with the best overlap over all partitions.
    pixels: sum of |R|, that is image area times the number of annotators.
    rand (t): probabilistic Rand index in [0, 1].
    vi (t): variation of information in bits.
    cnt_r (t), sum_r, cnt_p (t), sum_p (t): see ``masktree.evaluate.boundaries``; absent without boundary scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from masktree.errors import FormatError, InputError
from masktree.evaluate import boundaries as boundary_benchmark
from masktree.evaluate.case import EvaluationCase
from masktree.evaluate.image_stats import ImageStats, Metrics
from masktree.evaluate.mat_file import load_mat
from masktree.evaluate.protocol import EvaluationProtocol, ScoringContext
from masktree.evaluate.ucm import ucm_tree
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree
from masktree.types import Labels

CONTOUR_THRESHOLDS = np.arange(1, 100) / 100  # the benchmark's 99 levels of an ultrametric contour map in [0, 1]


@dataclass(frozen=True, eq=False)
class HumanSegmentation:
    """One annotator's (H, W) int32 region ``labels`` and (H, W) bool ``boundaries``."""

    labels: np.ndarray
    boundaries: np.ndarray


def read_human_segmentations(path: str | Path) -> list[HumanSegmentation]:
    """Read the human segmentations of one image from a BSDS500 ``.mat`` file.

    Raises:
        FormatError: the file cannot be read, or has no ``groundTruth`` with segmentations and boundaries.
    """
    content = load_mat(path)
    if "groundTruth" not in content:
        raise FormatError(f"expected a BSDS500 file with 'groundTruth'; got {path} without it; check the folder")
    annotations = []
    for number, annotator in enumerate(content["groundTruth"].ravel()):
        try:
            labels, boundaries = annotator["Segmentation"][0, 0], annotator["Boundaries"][0, 0]
        except (IndexError, KeyError, ValueError, TypeError) as error:
            raise FormatError(
                f"{path}: expected 'Segmentation' and 'Boundaries' of annotator {number}; got others; check the file"
            ) from error
        if labels.ndim != 2 or labels.size == 0 or labels.shape != boundaries.shape or labels.dtype.kind not in "ui":
            raise FormatError(
                f"{path}: expected integer labels and boundaries of one (H, W) shape of annotator {number}; got "
                f"{labels.shape} {labels.dtype} and {boundaries.shape}; copy the file again"
            )
        annotations.append(HumanSegmentation(_renumbered(labels).astype(np.int32), boundaries != 0))
    return annotations


def score(
    prediction: PartitionTree | MaskTree | np.ndarray,
    ground_truths: Sequence[HumanSegmentation],
    *,
    thresholds: np.ndarray = CONTOUR_THRESHOLDS,
    boundaries: bool = True,
) -> ImageStats:
    """Score the hierarchical regions and the contours of one image against its human segmentations.

    Regions at threshold t are separated by contours above t; boundaries at t are the thinned contours of at least t.
    A region of a tree may be connected at a corner only, which its contour map cannot represent: scoring the map
    splits it in two (on a photograph up to 0.009 bits of VI and 0.0001 of covering at one threshold).

    Args:
        prediction: a tree; or a doubled contour map (2H + 1, 2W + 1) in [0, 1], as returned by ``read_ucm``. A
            ``MaskTree`` without dendrogram is scored by its cuts at the thresholds, which need not be nested.
        ground_truths: one per annotator.
        thresholds: ascending; fewer than the 99 are faster but lower OIS and Best.
        boundaries: whether to score boundary F, which takes most of the time.

    Raises:
        InputError: no annotator, shapes differ, descending thresholds, or the map is not a doubled contour map.
    """
    if not ground_truths:
        raise InputError("expected one or more human segmentations; got none; check the folder of the ground truth")
    _check_ascending(thresholds)
    labels = [ground_truth.labels for ground_truth in ground_truths]
    tree = prediction.dendrogram if isinstance(prediction, MaskTree) else prediction
    if tree is None:
        assert isinstance(prediction, MaskTree)
        cuts = [prediction.cut(float(t)) for t in thresholds]
        stats = score_image(cuts, labels)
        maps: Iterable[np.ndarray] = (_contours(cut) for cut in cuts)
    else:
        doubled = tree if isinstance(tree, np.ndarray) else tree.ucm(doubled=True)
        stats = score_tree(ucm_tree(tree) if isinstance(tree, np.ndarray) else tree, labels, thresholds)
        single = doubled[2::2, 2::2] / (255.0 if doubled.dtype == np.uint8 else 1.0)
        maps = (single >= t for t in thresholds)
    if boundaries:
        stats |= boundary_benchmark.score_contours(maps, [ground_truth.boundaries for ground_truth in ground_truths])
    return stats


def score_image(partitions: Iterable[Labels], ground_truths: Sequence[Labels]) -> ImageStats:
    """Score partitions of one image, (H, W) label maps, against its human segmentations.

    Raises:
        InputError: shapes differ, no partition, or no ground truth.
    """
    columns, starts = _columns(ground_truths)
    flat = (_flat(partition, ground_truths[0].shape) for partition in partitions)
    return _scores((_contingency(labels, columns, int(labels.max()) + 1) for labels in flat), starts)


def score_tree(
    tree: PartitionTree, ground_truths: Sequence[Labels], thresholds: np.ndarray = CONTOUR_THRESHOLDS
) -> ImageStats:
    """Score the cuts of a tree, which apply all merges of altitude at most t; same as ``score_image``, but faster.

    Raises:
        InputError: the thresholds descend or the shapes differ.
    """
    _check_ascending(thresholds)
    columns, starts = _columns(ground_truths)
    leaves = _contingency(_flat(tree.leaves, ground_truths[0].shape), columns, tree.n_leaves)
    return _scores(_cut_tables(leaves, tree, thresholds), starts)


def summarise(stats: Sequence[ImageStats]) -> Metrics:
    """Aggregate over images; partition i of every image belongs to the same threshold.

    Returns:
        ``covering_ods``, ``covering_ois``, ``covering_best``, ``pri_ods``, ``pri_ois`` in [0, 1]; ``vi_ods``,
        ``vi_ois`` in bits, lower is better; ``f_ods``, ``f_ois``, ``f_ap``, None if boundaries were not scored.
        ODS uses one threshold for the data set, OIS the best per image, Best the best per ground truth region.

    Raises:
        InputError: no images, different numbers of partitions, or boundaries scored in some images only.
    """
    if not stats or len({len(image["covered"]) for image in stats}) != 1:
        raise InputError("expected scores of at least one image, all with equally many partitions; got none or several")
    has_boundaries = ["cnt_r" in image for image in stats]
    if any(has_boundaries) != all(has_boundaries):
        raise InputError("expected boundary scores in all images or in none; got some; score all with the same options")
    covered, rand, vi = (np.array([image[name] for image in stats]) for name in ("covered", "rand", "vi"))
    pixels = sum(image["pixels"] for image in stats)
    undefined = {"f_ods": None, "f_ois": None, "f_ap": None}
    return {
        "covering_ods": float(covered.sum(0).max() / pixels),
        "covering_ois": float(covered.max(1).sum() / pixels),
        "covering_best": float(sum(image["best"] for image in stats) / pixels),
        "pri_ods": float(rand.mean(0).max()),
        "pri_ois": float(rand.max(1).mean()),
        "vi_ods": float(vi.mean(0).min()),
        "vi_ois": float(vi.min(1).mean()),
    } | (boundary_benchmark.summarise(stats) if all(has_boundaries) else undefined)


def _score_case(case: EvaluationCase, context: ScoringContext) -> ImageStats:
    if case.segmentations is None:
        raise InputError(f"{case.name}: expected the human segmentations of BSDS500; got none")
    annotators = read_human_segmentations(case.segmentations)
    return score(case.prediction.contours(case.size), annotators, boundaries=context.settings["boundaries"])


PROTOCOL = EvaluationProtocol(
    title="BSDS500 regions and boundaries",
    main_metric="covering_ois",
    headline_metrics=("covering_ods", "covering_ois", "covering_best", "pri_ods", "vi_ods", "f_ods"),
    score=_score_case,
    summarise=summarise,
)


def _check_ascending(thresholds: np.ndarray) -> None:
    if len(thresholds) == 0 or not np.all(np.diff(thresholds) >= 0):  # NaN is neither
        raise InputError("expected ascending thresholds; got none or descending ones; sort them")


def _contours(labels: np.ndarray) -> np.ndarray:
    """Pixels whose lower right corner touches two regions: the contours of ``ucm(doubled=True)[2::2, 2::2]``."""
    padded = np.pad(labels, ((0, 1), (0, 1)), mode="edge")
    right, down = padded[:, :-1] != padded[:, 1:], padded[:-1] != padded[1:]
    contours: np.ndarray = right[:-1] | right[1:] | down[:, :-1] | down[:, 1:]
    return contours


def _renumbered(labels: np.ndarray) -> np.ndarray:
    """Labels as 0..k-1 in the same order; counting is ten times faster than the sort of ``np.unique``."""
    offsets = labels.astype(np.int64) - int(labels.min())
    if int(offsets.max()) > 100 * labels.size:
        return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    present = np.bincount(offsets.ravel()) > 0
    return (np.cumsum(present) - 1)[offsets]


def _flat(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if labels.shape != shape:
        raise InputError(
            f"expected a partition of shape {shape} like the ground truth; got {labels.shape}; resize it first"
        )
    return labels.ravel()


def _columns(ground_truths: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Column of each pixel in the contingency table, per ground truth; and the first column of each, plus the end."""
    if len({truth.shape for truth in ground_truths}) != 1 or ground_truths[0].size == 0:
        raise InputError("expected one or more human segmentations of one non-empty image; got none or several shapes")
    columns, starts = [], [0]
    for ground_truth in ground_truths:
        labels = _renumbered(ground_truth).ravel()
        columns.append(labels + starts[-1])
        starts.append(starts[-1] + int(labels.max()) + 1)
    return columns, np.array(starts)


def _contingency(labels: np.ndarray, columns: list[np.ndarray], regions: int) -> np.ndarray:
    width = int(columns[-1].max()) + 1
    offsets = labels.astype(np.int64) * width
    counts = [np.bincount(offsets + column, minlength=regions * width) for column in columns]
    return np.sum(counts, axis=0, dtype=np.float64).reshape(regions, width)


def _cut_tables(table: np.ndarray, tree: PartitionTree, thresholds: np.ndarray) -> Iterator[np.ndarray]:
    """Contingency tables of the cuts, each summed from the previous one: coarser cuts merge regions of finer ones."""
    representative = np.arange(tree.n_leaves)  # a leaf of the region in each row of the table
    for threshold in thresholds:
        nodes, rows = np.unique(tree.cut_nodes(tree.merges_at(threshold))[representative], return_inverse=True)
        if len(nodes) < len(table):
            order = np.argsort(rows, kind="stable")
            first = np.searchsorted(rows[order], np.arange(len(nodes)))
            table = np.add.reduceat(table[order], first, axis=0)
            representative = representative[order[first]]
        yield table


def _scores(tables: Iterable[np.ndarray], starts: np.ndarray) -> ImageStats:
    covered, rand, vi = [], [], []
    best: np.ndarray | None = None
    gt_areas = np.zeros(0)
    previous: np.ndarray | None = None
    for table in tables:
        if table is not previous:  # adjacent thresholds often give the same cut
            gt_areas = table.sum(0)
            overlap, table_rand, table_vi = _agreement(table, gt_areas, starts)
            previous = table
            best = overlap if best is None else np.maximum(best, overlap)
        covered.append(float(gt_areas @ overlap))
        rand.append(table_rand)
        vi.append(table_vi)
    if best is None:
        raise InputError("expected at least one partition; got none")
    pixels = float(gt_areas.sum())
    return {"covered": covered, "best": float(gt_areas @ best), "pixels": pixels, "rand": rand, "vi": vi}


def _agreement(table: np.ndarray, gt_areas: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Best overlap of each ground truth region, and PRI and VI as means over the ground truths."""
    areas = table[:, : starts[1]].sum(1)
    total = areas.sum()
    overlap = (table / (areas[:, None] + gt_areas - table)).max(0)  # ground truth areas > 0: never 0 / 0

    first = starts[:-1]
    pairs = max(total * (total - 1) / 2, 1.0)
    gt_squares = np.add.reduceat(gt_areas**2, first)
    joint_squares = np.add.reduceat(np.einsum("ij,ij->j", table, table), first)
    disagreeing = (np.sum(areas**2) + gt_squares) / 2 - joint_squares
    rand = 1 - disagreeing / pairs

    gt_logs = np.add.reduceat(_n_log_n(gt_areas), first)
    joint_logs = np.add.reduceat(_n_log_n(table).sum(0), first)
    vi = (_n_log_n(areas).sum() + gt_logs - 2 * joint_logs) / total
    return overlap, float(rand.mean()), float(vi.mean())


def _n_log_n(counts: np.ndarray) -> np.ndarray:
    values: np.ndarray = counts * np.log2(np.maximum(counts, 1.0))
    return values
