"""One label per object: instances of a tree against its best single cut and all its masks, on annotated images.

    python benchmarks/instances.py TASKS/nuclei_fluo TASKS/tem_particles

Cost: four minutes for 30 images of small things. Expected: table "One label per object" in docs/benchmarks.md. Each
folder has annotations.json, a COCO file, and images/. AP50 is COCO's. F is the number of instances that match an
annotation with an IoU above .5, divided by that number plus the unmatched instances and the unmatched annotations
(Kaggle's Data Science Bowl 2018 calls it precision), over all images. The best cut is chosen with the annotations, for
each metric.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import masktree
from arguments import make_parser
from masktree.evaluate import recall
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.trees import rle
from masktree.trees.instances import select_instances
from masktree.trees.masktree import MaskTree
from table import Table
from tasks import read_images

GRANULARITIES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7)
MIN_AREA = 32  # of the regions of a cut, as of masks


class Counts(NamedTuple):
    """Of one image: matched instances, all instances, annotations."""

    matched: int
    found: int
    annotated: int


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("tasks", type=Path, nargs="+")
    parser.add_argument("--min-scores", type=float, nargs="+", default=[0.8, 0.85, 0.9])
    options = parser.parse_args()
    segment = masktree.load("embedded", max_masks=None)
    columns = {"images": "", "way": "", "AP50": ".3f", "F": ".3f", "instances per image": ".0f"}
    table = Table("One label per object", columns)
    for task in options.tasks:
        photos = read_images(task)
        images, trees = [image for _, image in photos], [segment(path) for path, _ in photos]
        ways = {"all masks": [ImageDetections.from_tree(tree) for tree in trees]}
        for score in options.min_scores:
            ways[f"instances, minimum {score:g}"] = [instances_of(tree, score) for tree in trees]
        cuts = {g: [regions_of(tree, g) for tree in trees] for g in GRANULARITIES}
        best = max(cuts, key=lambda g: f_score(images, cuts[g]))
        ways[f"cut at {best:g}, the best for F"] = cuts[best]
        best = max(cuts, key=lambda g: ap50(images, cuts[g]))
        ways[f"cut at {best:g}, the best for AP50"] = cuts[best]
        for way, found in ways.items():
            per_image = np.mean([len(detections) for detections in found])
            table.add(task.name, way, ap50(images, found), f_score(images, found), per_image)


def instances_of(tree: MaskTree, min_score: float) -> ImageDetections:
    keep = np.zeros(len(tree), np.bool_)
    keep[select_instances(tree, min_score=min_score)[1]] = True
    return ImageDetections.from_tree(tree[keep])


def regions_of(tree: MaskTree, granularity: float) -> ImageDetections:
    """The regions of a cut, with the scores of the most similar masks of the tree."""
    labels = tree.cut(granularity)
    values = np.flatnonzero(np.bincount(labels.ravel()) >= MIN_AREA)
    regions = rle.encode_intervals(labels, values, values + 1)
    similar = rle.iou(regions, tree.rles, tree.size)
    scores = tree.scores[similar.argmax(axis=1)] * similar.max(axis=1)
    return ImageDetections(tree.size, tuple(regions), rle.boxes(regions, tree.size), scores)


def ap50(images: Sequence[ImageGroundTruth], found: Sequence[ImageDetections]) -> float:
    stats = [recall.score_image(image, detections) for image, detections in zip(images, found, strict=True)]
    return float(recall.summarise(stats)["ap50"] or 0.0)


def f_score(images: Sequence[ImageGroundTruth], found: Sequence[ImageDetections]) -> float:
    counts = [count_matches(image, detections) for image, detections in zip(images, found, strict=True)]
    matched, instances, annotated = np.sum(counts, axis=0)
    return float(matched / (instances + annotated - matched))


def count_matches(image: ImageGroundTruth, detections: ImageDetections) -> Counts:
    """Greedy, best score first; of disjoint instances at most one has an IoU above .5 with an annotation."""
    overlap = rle.iou(detections.rles or (), image.masks(), image.size)
    free = np.ones(len(image.boxes), np.bool_)
    for index in np.argsort(-detections.scores, kind="stable"):
        candidates = np.flatnonzero(free & (overlap[index] > 0.5))
        if len(candidates):
            free[candidates[overlap[index, candidates].argmax()]] = False
    return Counts(int((~free).sum()), len(detections), len(free))


if __name__ == "__main__":
    main()
