"""Region benchmark of BSDS500: segmentation covering, probabilistic Rand index, variation of information.

Definitions as in Arbelaez, Maire, Fowlkes and Malik, "Contour Detection and Hierarchical Image Segmentation",
TPAMI 2011, section 2.3 (doi 10.1109/TPAMI.2010.161), aggregated over images as the benchmark's own code does: the
covering of a threshold is (sum over images and truth regions of |R| x best overlap) / (sum of |R|), so that an
image with more annotators weighs more, whereas PRI and VI are plain means over images.

Everything follows from one contingency table per partition: rows are the regions of the partition, columns the
regions of all human segmentations side by side. For a tree the table of the leaves is counted once and its rows
are added up along the merges, so that 99 thresholds cost little more than one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from masktree.errors import InputError
from masktree.tree import PartitionTree
from masktree.types import Labels

THRESHOLDS = np.arange(1, 100) / 100  # the benchmark's 99 levels of an ultrametric contour map in [0, 1]


@dataclass(frozen=True)
class ImageScores:
    """What one image adds to the benchmark; ``t`` partitions, fine to coarse or in any order.

    ``covered`` (t,): sum over the truth regions of |R| times its best overlap (pixels). ``best``: the same with the
    best overlap over all partitions. ``pixels``: sum of |R|, that is image area times the number of annotators.
    ``rand`` (t,): probabilistic Rand index in [0, 1]. ``vi`` (t,): variation of information in bits.
    """

    covered: np.ndarray
    best: float
    pixels: float
    rand: np.ndarray
    vi: np.ndarray


@dataclass(frozen=True)
class RegionScores:
    """The numbers with one threshold for the whole set (ODS), the best one per image (OIS), per truth region (Best)."""

    covering_ods: float
    covering_ois: float
    covering_best: float
    rand_ods: float
    rand_ois: float
    vi_ods: float
    vi_ois: float
    threshold: int  # index of the partition with the best covering over the set

    def row(self) -> str:
        """The numbers in one line: covering ODS/OIS/Best, PRI ODS/OIS, VI ODS/OIS."""
        covering = f"{self.covering_ods:.4f} {self.covering_ois:.4f} {self.covering_best:.4f}"
        return f"{covering}  {self.rand_ods:.3f} {self.rand_ois:.3f}  {self.vi_ods:.3f} {self.vi_ois:.3f}"


def read_ground_truth(path: str | Path) -> list[np.ndarray]:
    """Human segmentations of one image from a BSDS500 ``.mat`` file: a list of (H, W) int32 label maps.

    Raises ``InputError`` if the file holds no ``groundTruth``.
    """
    from scipy.io import loadmat

    content = loadmat(str(path))
    if "groundTruth" not in content:
        raise InputError(f"expected a BSDS500 file with 'groundTruth'; got {path} without it; check the folder")
    return [
        _renumbered(annotator["Segmentation"][0, 0]).astype(np.int32) for annotator in content["groundTruth"].ravel()
    ]


def score_image(partitions: Iterable[Labels], truths: Sequence[Labels]) -> ImageScores:
    """Score partitions of one image, given as label maps of the truths' shape, against its human segmentations.

    Raises ``InputError`` if shapes differ or either side is empty.
    """
    columns, starts = _columns(truths)
    flat = (_flat(partition, truths[0].shape) for partition in partitions)
    return _scores((_contingency(labels, columns, int(labels.max()) + 1) for labels in flat), starts)


def score_tree(tree: PartitionTree, truths: Sequence[Labels], thresholds: np.ndarray = THRESHOLDS) -> ImageScores:
    """Score the cuts of a tree at ascending ``thresholds``; equals ``score_image`` of those cuts, many times faster.

    The cut at ``t`` applies every merge whose altitude is at most ``t``.

    Raises ``InputError`` if the thresholds descend or the shapes differ.
    """
    if np.any(np.diff(thresholds) < 0):
        raise InputError("expected ascending thresholds; got descending ones; sort them")
    columns, starts = _columns(truths)
    leaves = _contingency(_flat(tree.leaves, truths[0].shape), columns, tree.n_leaves)
    return _scores(_cut_tables(leaves, tree, thresholds), starts)


def summarise(images: Sequence[ImageScores]) -> RegionScores:
    """Aggregate over images, partition i of each image standing for the same threshold.

    Raises ``InputError`` if there are no images or their numbers of partitions differ.
    """
    if not images or len({len(image.covered) for image in images}) != 1:
        raise InputError("expected scores of at least one image, all with equally many partitions; got others")
    covered = np.stack([image.covered for image in images])
    pixels = sum(image.pixels for image in images)
    rand = np.stack([image.rand for image in images])
    vi = np.stack([image.vi for image in images])
    total = covered.sum(0)
    return RegionScores(
        covering_ods=float(total.max() / pixels),
        covering_ois=float(covered.max(1).sum() / pixels),
        covering_best=float(sum(image.best for image in images) / pixels),
        rand_ods=float(rand.mean(0).max()),
        rand_ois=float(rand.max(1).mean()),
        vi_ods=float(vi.mean(0).min()),
        vi_ois=float(vi.min(1).mean()),
        threshold=int(total.argmax()),
    )


def _renumbered(labels: np.ndarray) -> np.ndarray:
    """0..k-1 without gaps, in the order of the labels; a count is ten times faster than np.unique's sort."""
    offsets = labels.astype(np.int64) - int(labels.min())
    if int(offsets.max()) > 100 * labels.size:
        return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    present = np.bincount(offsets.ravel()) > 0
    return (np.cumsum(present) - 1)[offsets]


def _flat(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if labels.shape != shape:
        raise InputError(f"expected a partition of shape {shape} like the truth; got {labels.shape}; resize it first")
    return labels.ravel()


def _columns(truths: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Per truth the column of each pixel in the common table, and the first column of each truth plus the end."""
    if len(truths) == 0 or len({truth.shape for truth in truths}) != 1 or truths[0].size == 0:
        raise InputError("expected one or more human segmentations of one non-empty image; got none or several shapes")
    columns, starts = [], [0]
    for truth in truths:
        numbers = _renumbered(truth).ravel()
        columns.append(numbers + starts[-1])
        starts.append(starts[-1] + int(numbers.max()) + 1)
    return columns, np.array(starts)


def _contingency(labels: np.ndarray, columns: list[np.ndarray], regions: int) -> np.ndarray:
    width = int(columns[-1].max()) + 1
    offsets = labels.astype(np.int64) * width
    counts = [np.bincount(offsets + column, minlength=regions * width) for column in columns]
    return np.sum(counts, axis=0, dtype=np.float64).reshape(regions, width)


def _cut_tables(table: np.ndarray, tree: PartitionTree, thresholds: np.ndarray) -> Iterator[np.ndarray]:
    """Contingency tables of the cuts, each summed from the one before (a coarser cut unites regions of a finer one)."""
    representative = np.arange(tree.n_leaves)  # a leaf of the region that each row of the table stands for
    for threshold in thresholds:
        nodes, rows = np.unique(tree.cut_nodes(tree.merges_at(threshold))[representative], return_inverse=True)
        if len(nodes) < len(table):
            order = np.argsort(rows, kind="stable")
            first = np.searchsorted(rows[order], np.arange(len(nodes)))
            table = np.add.reduceat(table[order], first, axis=0)
            representative = representative[order[first]]
        yield table


def _scores(tables: Iterable[np.ndarray], starts: np.ndarray) -> ImageScores:
    covered, rand, vi = [], [], []
    best: np.ndarray | None = None
    truth_areas = np.zeros(0)
    last: np.ndarray | None = None
    for table in tables:
        if table is not last:  # neighbouring thresholds often give the same cut
            truth_areas = table.sum(0)
            overlap, rand_now, vi_now = _agreement(table, truth_areas, starts)
            last = table
            best = overlap if best is None else np.maximum(best, overlap)
        covered.append(truth_areas @ overlap)
        rand.append(rand_now)
        vi.append(vi_now)
    if best is None:
        raise InputError("expected at least one partition; got none")
    pixels = float(truth_areas.sum())
    return ImageScores(np.array(covered), float(truth_areas @ best), pixels, np.array(rand), np.array(vi))


def _agreement(table: np.ndarray, truth_areas: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Best overlap of each truth region, and PRI and VI as means over the truths."""
    areas = table[:, : starts[1]].sum(1)
    total = areas.sum()
    overlap = (table / (areas[:, None] + truth_areas - table)).max(0)  # truth areas > 0: never 0 / 0

    first = starts[:-1]
    pairs = max(total * (total - 1) / 2, 1.0)
    truth_squares = np.add.reduceat(truth_areas**2, first)
    both_squares = np.add.reduceat(np.einsum("ij,ij->j", table, table), first)
    disagreeing = (np.sum(areas**2) + truth_squares) / 2 - both_squares
    rand = 1 - disagreeing / pairs

    truth_logs = np.add.reduceat(_n_log_n(truth_areas), first)
    both_logs = np.add.reduceat(_n_log_n(table).sum(0), first)
    vi = (_n_log_n(areas).sum() + truth_logs - 2 * both_logs) / total
    return overlap, float(rand.mean()), float(vi.mean())


def _n_log_n(counts: np.ndarray) -> np.ndarray:
    return counts * np.log2(np.maximum(counts, 1.0))
