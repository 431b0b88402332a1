"""Many small things: all masks and the best single cut of the default method on annotated images, and its time.

    python benchmarks/small_things.py TASKS/nuclei_fluo TASKS/tem_particles TASKS/flakes TASKS/buildings

Cost: 4 to 15 CPU seconds per image. Expected: table "Many small things" in docs/benchmarks.md. Each folder has
annotations.json, a COCO file, and images/. AR1000 and AP50 are those of ``masktree segment`` and ``masktree evaluate``.
F1 of a cut: 2 matches / (regions + annotations), where a match is an IoU above .5, as mean over images; the granularity
of the best cut is chosen with the annotations, once for all images of a set, or for each image.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import masktree
from arguments import make_parser
from masktree.evaluate import recall
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from measurement import measure_seconds
from table import Table
from tasks import read_images

GRANULARITIES = np.linspace(0, 1, 51)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("tasks", type=Path, nargs="+")
    parser.add_argument("--count", type=int, help="evenly spaced images of each folder; all by default")
    options = parser.parse_args()
    segment = masktree.load("embedded")
    segment(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))  # compiles the kernels
    columns = {"images": "", "count": ".0f", "AR1000": ".3f", "AP50": ".3f", "F1 of one cut": ".3f", "at": ".2f"}
    table = Table("Many small things", columns | {"F1 of own cuts": ".3f", "CPU s per image": ".1f"})
    for task in options.tasks:
        stats, scores, seconds = [], [], []
        for path, image in read_images(task, options.count):
            trees: list[MaskTree] = []
            seconds.append(measure_seconds(lambda path=path, trees=trees: trees.append(segment(path))).cpu)
            stats.append(recall.score_image(image, ImageDetections.from_tree(trees[0])))
            scores.append(f1_of_cuts(trees[0], image))
        means, summary = np.mean(scores, axis=0), recall.summarise(stats)
        best, own = GRANULARITIES[means.argmax()], np.max(scores, axis=1).mean()
        found = summary["ar1000"], summary["ap50"], means.max(), best, own
        table.add(task.name, len(stats), *found, np.mean(seconds))


def f1_of_cuts(tree: MaskTree, image: ImageGroundTruth) -> list[float]:
    """F1 of the cut of a tree at each of ``GRANULARITIES``."""
    dendrogram = tree.dendrogram
    if dendrogram is None:
        raise SystemExit(f"{image.name}: its tree has no dendrogram, and so no cuts")
    masks = image.masks()
    areas = rle.areas(masks, image.size)
    shape = (len(masks), dendrogram.n_leaves)
    shared = np.array(
        [np.bincount(dendrogram.leaves[rle.decode(mask, image.size)], minlength=shape[1]) for mask in masks]
    ).reshape(shape)
    leaf_areas = np.bincount(dendrogram.leaves.ravel(), minlength=shape[1])
    return [
        f1_of_regions(dendrogram.cut_nodes(dendrogram.merges_at(g)), leaf_areas, shared, areas) for g in GRANULARITIES
    ]


def f1_of_regions(region_of: np.ndarray, leaf_areas: np.ndarray, shared: np.ndarray, areas: np.ndarray) -> float:
    """F1 of unions of n leaves, ``region_of`` (n,), whose pixels in each annotation are ``shared`` (k, n)."""
    numbers = np.unique(region_of, return_inverse=True)[1]
    regions = np.bincount(numbers, leaf_areas)
    overlaps = np.array([np.bincount(numbers, row) for row in shared]).reshape(len(shared), len(regions))
    matches = 3 * overlaps > areas[:, None] + regions  # an IoU above .5
    matched = min(matches.any(axis=0).sum(), matches.any(axis=1).sum())
    return float(2 * matched / max((regions > 0).sum() + len(areas), 1))


if __name__ == "__main__":
    main()
