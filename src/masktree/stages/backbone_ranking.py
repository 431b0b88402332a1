"""Ranking of backbones on unlabelled photographs.

The features of a backbone are merged by the published rule (``cluster.merge_tree``), and the regions are compared

* ``views``: with the regions of another view of the photograph (a random crop, mirrored, with other colours);
* ``regions``: with those of ``build_dendrogram(image)``, the default method on hand-crafted boundary cues alone.

Two partitions are compared at equal numbers of regions by how well they cover each other, less the value for a
partition of *another* photograph: a fixed grid is perfectly stable but has no agreement above chance. The score is the
mean of both parts, 0 at chance level (our choice: equal weights, nothing is fitted).

``RANK_CORRELATIONS`` reports how well the score agrees with scores against human annotations, which were used for that
report only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from masktree.backbones.base import Backbone
from masktree.backbones.download import cached_weights
from masktree.backbones.weights import BUILT_IN, PUBLISHED_WEIGHTS
from masktree.cluster import merge_tree
from masktree.discover.masktree import build_dendrogram
from masktree.errors import ImageError, InputError
from masktree.io.contents import check_photo_folder
from masktree.io.images import read_image
from masktree.io.photos import find_photos
from masktree.io.resize import resize_image
from masktree.trees.dendrogram import PartitionTree
from masktree.types import RGB

MIN_PHOTOS = 8  # with fewer the confidence interval is too wide (our choice)
MAX_PHOTOS = 40  # (our choice: the confidence interval is then about +-.02)
IMAGE_SIDE = 320  # pixels of the resized images: two thirds of the published 480, less than half the time (our choice)
REGION_COUNTS = (3, 6, 12, 24)  # regions of the compared partitions: from whole objects to parts (our choice)
LATTICE_SIDE = 96  # points per side of the lattice on which partitions are compared (our choice)
VIEW_SCALES = (
    0.55,
    0.8,
)  # side of the crop of a view in units of the image (our choice: feature cells shift and change size)
NUM_CHANCE_PHOTOS = 2  # other photographs for the chance level (our choice)
BOOTSTRAP_SAMPLES = 1000

# Spearman's rank correlation of the score with scores against human annotations, over 21 extractors, and without the
# five worst; 50 photographs. benchmarks/ranking.py computes it and describes the extractors.
NUM_EXTRACTORS = 21
SEPARATED_PAIRS, CORRECT_PAIRS = (
    172,
    157,
)  # pairs that the score separates, and those of them in the order of covering ODS
RANK_CORRELATIONS = {
    "covering ODS": (0.88, 0.75),
    "covering OIS": (0.92, 0.82),
    "covering Best": (0.95, 0.88),
    "AR@1000 of all regions": (0.90, 0.81),
    "AR@1000 at fixed thresholds": (0.91, 0.82),
}


@dataclass(frozen=True, eq=False)
class RankingSample:
    """A photograph, another view of it, and reference regions.

    Attributes:
        image, view: (IMAGE_SIDE, IMAGE_SIDE, 3) uint8.
        rows, columns: (LATTICE_SIDE,) in [0, 1), the lattice points of the view in the coordinates of the photograph.
        regions: (len(REGION_COUNTS), LATTICE_SIDE, LATTICE_SIDE) int32, cuts of the photograph by boundary cues.
    """

    image: RGB
    view: RGB
    rows: np.ndarray
    columns: np.ndarray
    regions: np.ndarray


@dataclass(frozen=True)
class BackboneScore:
    """Score of a backbone.

    Attributes:
        name: of the backbone.
        score, low, high: mean over photographs and its 95 % bootstrap interval.
        views, regions: the two parts of the score.
        tied: whether the interval of the paired difference to the best backbone contains 0.
        seconds: median time of the features of one photograph.
    """

    name: str
    score: float
    low: float
    high: float
    views: float
    regions: float
    tied: bool
    seconds: float


def available_backbones() -> list[str]:
    """Names of the backbones that need no download: built in or cached."""
    return [*BUILT_IN, *(name for name, weights in PUBLISHED_WEIGHTS.items() if cached_weights(weights) is not None)]


def read_samples(folder: Path, *, seed: int = 0) -> tuple[list[RankingSample], list[str]]:
    """Samples of up to ``MAX_PHOTOS`` evenly spaced photographs of a folder, and a line for each unreadable file.

    Raises:
        InputError: no such folder, or fewer than ``MIN_PHOTOS`` readable photographs.
    """
    check_photo_folder(folder)
    photos, unreadable = find_photos([folder])
    failures = [f"{failure['path']}: {failure['error']}" for failure in unreadable]
    samples = []
    for index in np.unique(np.linspace(0, len(photos) - 1, min(MAX_PHOTOS, len(photos))).astype(int)).tolist():
        try:
            samples.append(make_sample(read_image(photos[index].path), np.random.default_rng([seed, index])))
        except ImageError as error:
            failures.append(f"{photos[index].path}: {error}")
    if len(samples) < MIN_PHOTOS:
        unread = f", {len(failures)} could not be read, the first: {failures[0]}" if failures else ""
        raise InputError(
            f"expected at least {MIN_PHOTOS} photographs in {str(folder)!r} to rank backbones on; got "
            f"{len(samples)}{unread}; add more"
        )
    return samples, failures


def make_sample(image: RGB, rng: np.random.Generator) -> RankingSample:
    """A photograph with a random view and its reference regions; about 0.2 s."""
    H, W, _ = image.shape
    scale = rng.uniform(*VIEW_SCALES)
    top, left = rng.uniform(0, 1 - scale), rng.uniform(0, 1 - scale)
    box = (left * W, top * H, (left + scale) * W, (top + scale) * H)
    crop = Image.fromarray(image).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BILINEAR, box=box)
    view = _jitter_colours(np.asarray(crop)[:, ::-1], rng)
    square = resize_image(image, (IMAGE_SIDE, IMAGE_SIDE))
    points = _lattice()
    regions = cut_at_points(build_dendrogram(square), points, points)
    return RankingSample(square, view, top + scale * points, left + scale * (1 - points), regions)


def score_backbone(backbone: Backbone, samples: Sequence[RankingSample]) -> tuple[np.ndarray, float]:
    """Parts of a backbone's score for each of n > NUM_CHANCE_PHOTOS samples; about 0.1 s each beside the features.

    Returns:
        (n, 2) float64, ``views`` and ``regions``; and the median seconds of the features of one photograph.

    Raises:
        InputError: features that are not finite.
    """
    seconds, cuts = [], []
    for sample in samples:
        start = time.perf_counter()
        grid = backbone(sample.image[None])[0]
        seconds.append(time.perf_counter() - start)
        cuts.append(cut_regions(merge_tree(grid), merge_tree(backbone(sample.view[None])[0]), sample))
    return above_chance(cuts, [sample.regions for sample in samples]), float(np.median(seconds))


def cut_regions(
    image_tree: PartitionTree, view_tree: PartitionTree, sample: RankingSample
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts of the tree of a photograph on its lattice and on the lattice of the view, and of the tree of the view."""
    points = _lattice()
    return (
        cut_at_points(image_tree, points, points),
        cut_at_points(image_tree, sample.rows, sample.columns),
        cut_at_points(view_tree, points, points),
    )


def above_chance(cuts: Sequence[tuple[np.ndarray, ...]], regions: Sequence[np.ndarray]) -> np.ndarray:
    """Covering above chance for n photographs: (n, 2), with their views and with their reference ``regions``.

    Chance is the mean covering with those of the next photographs. ``cuts`` are from :func:`cut_regions`.
    """
    n = len(cuts)
    result = np.empty((n, 2))
    for i, (whole, window, _) in enumerate(cuts):
        photos = [j % n for j in range(i, i + 1 + NUM_CHANCE_PHOTOS)]
        by_views = [mean_covering(window, cuts[j][2]) for j in photos]
        by_regions = [mean_covering(whole, regions[j]) for j in photos]
        result[i] = by_views[0] - np.mean(by_views[1:]), by_regions[0] - np.mean(by_regions[1:])
    return result


def cut_at_points(tree: PartitionTree, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cuts of a tree at the points ``rows`` x ``columns`` in [0, 1): (len(REGION_COUNTS), r, c) int32 without gaps.

    Each is the finest cut with at most that many regions at these points.
    """
    h, w = tree.size
    leaves = tree.leaves[(rows * h).astype(int)[:, None], (columns * w).astype(int)]
    present, index = np.unique(leaves, return_inverse=True)
    result = []
    for count in REGION_COUNTS:
        low, high = 0, tree.n_leaves - 1  # bisect the fewest merges with at most ``count`` regions
        while low < high:
            middle = (low + high) // 2
            if len(np.unique(tree.cut_nodes(middle)[present])) > count:
                low = middle + 1
            else:
                high = middle
        labels = np.unique(tree.cut_nodes(low)[present], return_inverse=True)[1]
        result.append(labels[index].reshape(leaves.shape))
    return np.array(result, np.int32)


def mean_covering(first: np.ndarray, second: np.ndarray) -> float:
    """Mean covering (Arbelaez et al. 2011, doi 10.1109/TPAMI.2010.161, section 2.3), in (0, 1], of two stacks of
    partitions of the same points, over the stack and both directions."""
    values = []
    for a, b in zip(first, second, strict=True):
        width = int(b.max()) + 1
        intersection = np.bincount(a.ravel() * width + b.ravel(), minlength=(int(a.max()) + 1) * width).reshape(
            -1, width
        )
        areas_a, areas_b = intersection.sum(1), intersection.sum(0)
        iou = intersection / (areas_a[:, None] + areas_b - intersection)
        values.append((areas_a @ iou.max(1) + areas_b @ iou.max(0)) / (2 * a.size))
    return float(np.mean(values))


def rank_scores(
    names: Sequence[str], results: Sequence[tuple[np.ndarray, float]], *, seed: int = 0
) -> list[BackboneScore]:
    """Scores from the results of ``score_backbone`` on the same samples, best first; at least one."""
    values = np.array([parts.mean(1) for parts, _ in results])  # (backbones, n)
    resampled = np.random.default_rng(seed).integers(values.shape[1], size=(BOOTSTRAP_SAMPLES, values.shape[1]))
    means = values[:, resampled].mean(2)
    best = int(values.mean(1).argmax())
    rows = []
    for i, (parts, seconds) in enumerate(results):
        low, high = np.percentile(means[i], (2.5, 97.5))
        tied = bool(np.percentile(means[best] - means[i], 2.5) <= 0)
        views, regions = parts.mean(0)
        rows.append(
            BackboneScore(
                name=names[i],
                score=float(values[i].mean()),
                low=float(low),
                high=float(high),
                views=float(views),
                regions=float(regions),
                tied=tied,
                seconds=seconds,
            )
        )
    return sorted(rows, key=lambda row: -row.score)


def _lattice() -> np.ndarray:
    return (np.arange(LATTICE_SIDE) + 0.5) / LATTICE_SIDE


def _jitter_colours(image: np.ndarray, rng: np.random.Generator) -> RGB:
    """Random saturation, contrast, exposure and colour cast (our choice of ranges)."""
    x = image.astype(np.float32) / 255
    grey = (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    x = grey + np.float32(rng.uniform(0.6, 1.3)) * (x - grey)
    x = (x - x.mean()) * np.float32(rng.uniform(0.7, 1.3)) + x.mean() * np.float32(rng.uniform(0.75, 1.25))
    jittered: np.ndarray = np.clip(x * rng.uniform(0.9, 1.1, 3) * 255, 0, 255).astype(np.uint8)
    return jittered
