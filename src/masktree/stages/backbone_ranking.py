"""Which backbone suits these photographs? A score of a feature extractor that needs no label.

Its features are merged by the published rule (``cluster.merge_tree``), and the regions are compared twice:

* ``views``: with the regions found in another view of the photograph (a crop somewhere, mirrored, in other light);
* ``regions``: with those of ``build_dendrogram(image)``, the default method on hand-crafted boundary cues alone.

Two partitions are compared at equal numbers of regions, by how well each covers the other, and what a partition of
*another* photograph would get is taken off: a fixed grid is perfectly stable, and agrees with nothing. The score is the
mean of the two parts, 0 at chance level (our choice: equal weights, so that nothing is fitted).

``TRACKED`` says how well that goes with scores against a truth, which was used for that report alone.
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
from masktree.io.images import find_photos, read_image, resize_image
from masktree.trees.dendrogram import PartitionTree
from masktree.types import RGB

LEAST = 8  # photographs; with fewer the interval says nothing (our choice)
MOST = 40  # photographs that are looked at (our choice: the interval is then about .02 to either side)
SIDE = 320  # pixels at which features are taken: two thirds of the published 480, less than half the time (our choice)
COUNTS = (3, 6, 12, 24)  # regions at which partitions are compared: whole things to parts (our choice)
POINTS = 96  # lattice points a side on which they are compared (our choice)
ZOOM = (0.55, 0.8)  # of a side that a view shows: its cells fall elsewhere and have another size (our choice)
OTHERS = 2  # other photographs that give the chance level (our choice)
RESAMPLES = 1000  # of the bootstrap

# Spearman's rank correlation of the score with scores against a truth, over 21 extractors, and without the five worst:
# python benchmarks/ranking.py, which says what they are; 50 photographs.
EXTRACTORS = 21
APART, RIGHT = 172, 157  # pairs of them that the score told apart, and of these in the same order by covering ODS
TRACKED = {
    "covering ODS": (0.88, 0.75),
    "covering OIS": (0.92, 0.82),
    "covering Best": (0.95, 0.88),
    "AR@1000 of all regions": (0.90, 0.81),
    "AR@1000 at fixed thresholds": (0.91, 0.82),
}


@dataclass(frozen=True, eq=False)
class Sample:
    """A photograph ``image`` and its other ``view``, both (SIDE, SIDE, 3) uint8.

    ``rows`` and ``columns`` (POINTS,) in [0, 1): lattice points of the view as places in the photograph.
    ``regions`` (len(COUNTS), POINTS, POINTS) int32: cuts of the photograph by hand-crafted boundary cues.
    """

    image: RGB
    view: RGB
    rows: np.ndarray
    columns: np.ndarray
    regions: np.ndarray


@dataclass(frozen=True)
class Ranked:
    """A backbone's ``score``, its mean over photographs, with a 95 % bootstrap interval ``low`` to ``high``.

    ``views`` and ``regions``: its two parts. ``tied``: whether the interval of the paired difference to the first of
    the ranking reaches 0. ``seconds``: of the features of one photograph.
    """

    name: str
    score: float
    low: float
    high: float
    views: float
    regions: float
    tied: bool
    seconds: float


def available() -> list[str]:
    """Names of the backbones that need no download: built in, or in the cache."""
    return [*BUILT_IN, *(name for name, weights in PUBLISHED_WEIGHTS.items() if cached_weights(weights) is not None)]


def read_samples(folder: Path, *, seed: int = 0) -> tuple[list[Sample], list[str]]:
    """Samples of up to ``MOST`` photographs, spread evenly over a folder, and a line for each that cannot be read.

    Raises:
        InputError: no such folder, or fewer than ``LEAST`` photographs that can be read.
    """
    if not folder.is_dir():
        raise InputError(f"expected a folder of photographs to rank backbones on; got {str(folder)!r}")
    photos, unread = find_photos([folder])
    failures = [f"{failure['path']}: {failure['error']}" for failure in unread]
    samples = []
    for index in np.unique(np.linspace(0, len(photos) - 1, min(MOST, len(photos))).astype(int)).tolist():
        try:
            samples.append(sample(read_image(photos[index].path), np.random.default_rng([seed, index])))
        except ImageError as error:
            failures.append(f"{photos[index].path}: {error}")
    if len(samples) < LEAST:
        bad = f", {len(failures)} could not be read, the first: {failures[0]}" if failures else ""
        raise InputError(
            f"expected at least {LEAST} photographs in {str(folder)!r} to rank backbones on; got {len(samples)}{bad}; "
            "add more"
        )
    return samples, failures


def sample(image: RGB, rng: np.random.Generator) -> Sample:
    """Another view of a photograph, and its regions by hand-crafted boundary cues; about 0.2 s."""
    H, W, _ = image.shape
    share = rng.uniform(*ZOOM)
    top, left = rng.uniform(0, 1 - share), rng.uniform(0, 1 - share)
    box = (left * W, top * H, (left + share) * W, (top + share) * H)
    crop = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
    view = _relight(np.asarray(crop)[:, ::-1], rng)
    square = resize_image(image, (SIDE, SIDE))
    places = _lattice()
    regions = cuts(build_dendrogram(square), places, places)
    return Sample(square, view, top + share * places, left + share * (1 - places), regions)


def parts(backbone: Backbone, samples: Sequence[Sample]) -> tuple[np.ndarray, float]:
    """Parts of a backbone's score in each of n > OTHERS samples, (n, 2) float64: ``views`` and ``regions``; and the
    median seconds of its features for one photograph. Beyond those, about 0.1 s per photograph.

    Raises:
        InputError: features that are not finite.
    """
    seconds, found = [], []
    for one in samples:
        start = time.perf_counter()
        grid = backbone(one.image[None])[0]
        seconds.append(time.perf_counter() - start)
        found.append(found_regions(merge_tree(grid), merge_tree(backbone(one.view[None])[0]), one))
    return above_chance(found, [one.regions for one in samples]), float(np.median(seconds))


def found_regions(tree: PartitionTree, other: PartitionTree, one: Sample) -> tuple[np.ndarray, ...]:
    """Cuts of a photograph's tree all over it and where the view lies, and of the view's tree."""
    places = _lattice()
    return cuts(tree, places, places), cuts(tree, one.rows, one.columns), cuts(other, places, places)


def above_chance(found: Sequence[tuple[np.ndarray, ...]], regions: Sequence[np.ndarray]) -> np.ndarray:
    """(n, 2) agreement of the ``found_regions`` of n photographs with their views and with their ``regions``, less the
    mean agreement with those of the next photographs."""
    n = len(found)
    result = np.empty((n, 2))
    for i, (whole, window, _) in enumerate(found):
        near = [j % n for j in range(i, i + 1 + OTHERS)]
        views = [agreement(window, found[j][2]) for j in near]
        made = [agreement(whole, regions[j]) for j in near]
        result[i] = views[0] - np.mean(views[1:]), made[0] - np.mean(made[1:])
    return result


def cuts(tree: PartitionTree, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(len(COUNTS), r, c) int32 labels, without gaps, of the places ``rows`` x ``columns`` in [0, 1): the finest cuts
    that show at most COUNTS regions there."""
    h, w = tree.size
    leaves = tree.leaves[(rows * h).astype(int)[:, None], (columns * w).astype(int)]
    seen, index = np.unique(leaves, return_inverse=True)
    result = []
    for count in COUNTS:
        low, high = 0, tree.n_leaves - 1  # the fewest merges that leave at most ``count`` of the regions seen
        while low < high:
            middle = (low + high) // 2
            if len(np.unique(tree.cut_nodes(middle)[seen])) > count:
                low = middle + 1
            else:
                high = middle
        labels = np.unique(tree.cut_nodes(low)[seen], return_inverse=True)[1]
        result.append(labels[index].reshape(leaves.shape))
    return np.array(result, np.int32)


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """How well two stacks of partitions of the same places cover each other, in (0, 1]: the mean, over the stack and
    both directions, of the covering of Arbelaez et al. 2011 (doi 10.1109/TPAMI.2010.161, section 2.3)."""
    values = []
    for a, b in zip(first, second, strict=True):
        width = int(b.max()) + 1
        both = np.bincount(a.ravel() * width + b.ravel(), minlength=(int(a.max()) + 1) * width).reshape(-1, width)
        in_a, in_b = both.sum(1), both.sum(0)
        overlap = both / (in_a[:, None] + in_b - both)
        values.append((in_a @ overlap.max(1) + in_b @ overlap.max(0)) / (2 * a.size))
    return float(np.mean(values))


def ranking(names: Sequence[str], results: Sequence[tuple[np.ndarray, float]], *, seed: int = 0) -> list[Ranked]:
    """The results of ``parts``, all on the same samples, from the best score to the worst; at least one."""
    values = np.array([part.mean(1) for part, _ in results])  # (backbones, n)
    drawn = np.random.default_rng(seed).integers(values.shape[1], size=(RESAMPLES, values.shape[1]))
    means = values[:, drawn].mean(2)
    first = int(values.mean(1).argmax())
    rows = []
    for i, (part, seconds) in enumerate(results):
        low, high = np.percentile(means[i], (2.5, 97.5))
        tied = bool(np.percentile(means[first] - means[i], 2.5) <= 0)
        views, regions = part.mean(0)
        row = Ranked(
            name=names[i],
            score=float(values[i].mean()),
            low=float(low),
            high=float(high),
            views=float(views),
            regions=float(regions),
            tied=tied,
            seconds=seconds,
        )
        rows.append(row)
    return sorted(rows, key=lambda row: -row.score)


def _lattice() -> np.ndarray:
    return (np.arange(POINTS) + 0.5) / POINTS


def _relight(image: np.ndarray, rng: np.random.Generator) -> RGB:
    """Other saturation, contrast, exposure and cast (our choice of ranges)."""
    x = image.astype(np.float32) / 255
    grey = (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    x = grey + np.float32(rng.uniform(0.6, 1.3)) * (x - grey)
    x = (x - x.mean()) * np.float32(rng.uniform(0.7, 1.3)) + x.mean() * np.float32(rng.uniform(0.75, 1.25))
    return np.clip(x * rng.uniform(0.9, 1.1, 3) * 255, 0, 255).astype(np.uint8)
