"""Weights of the embedded network compared on BSDS500, by the parts of the default method that use them.

    python benchmarks/encoders.py BSDS500 A.safetensors B.safetensors --workers 2 --images 50

Cost: 2 s per image and file of weights. Expected: table "Weights" in docs/benchmarks.md. Weights come from
``recipes/embedded_backbone.py export``. Scores are taken at 199 thresholds of the uncalibrated merge cost, so that
weights of any calibration compare. The parts:

* cosine: the published rule on the embeddings, 4-pixel cells of a 480 x 480 image;
* embeddings: hand-made boundaries, and the embeddings with a weight of .5 in merging;
* boundaries: the learned boundaries alone;
* both: the learned and the hand-made boundaries;
* default: both and the embeddings, as in the default method.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from arguments import make_parser
from bsds import upscale_leaves
from masktree.backbones.embedded import EmbeddedBackbone
from masktree.cluster.merge import merge_tree
from masktree.discover import masktree as method
from masktree.evaluate.bsds import read_human_segmentations, score_tree, summarise
from masktree.evaluate.image_stats import ImageStats
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.trees.dendrogram import PartitionTree
from table import Table
from tasks import bsds_names

COSTS = np.arange(1, 200) / 80
METRICS = ("covering_ods", "covering_ois", "covering_best", "vi_ods")


@cache
def cached_backbone(weights: Path) -> EmbeddedBackbone:
    return EmbeddedBackbone(path=weights)


def merge_by_cosine(image: np.ndarray, backbone: EmbeddedBackbone) -> PartitionTree:
    tree = merge_tree(backbone.predict_boundaries(resize_image(image, (480, 480))).embeddings)
    return upscale_leaves(tree, *image.shape[:2])


def merge_by_embeddings(image: np.ndarray, backbone: EmbeddedBackbone) -> PartitionTree:
    predictions = backbone.predict_boundaries(image)
    cues = predictions.cues
    leaves = method.watershed_leaves(cues.boundary)
    return method.analyse_leaves(leaves, cues.boundary, [cues], predictions.embeddings, method.FEATURE_WEIGHT).tree


def merge_with_weights(
    learned_share: float, embedding_weight: float, image: np.ndarray, backbone: EmbeddedBackbone
) -> PartitionTree:
    with (
        patch.object(method, "LEARNED_SHARE", np.float32(learned_share)),
        patch.object(method, "EMBEDDING_WEIGHT", embedding_weight),
    ):
        return method.build_cost_dendrogram(image, backbone=backbone)


PARTS: dict[str, Callable[[np.ndarray, EmbeddedBackbone], PartitionTree]] = {
    "cosine": merge_by_cosine,
    "embeddings": merge_by_embeddings,
    "boundaries": partial(merge_with_weights, 1.0, 0.0),
    "both": partial(merge_with_weights, float(method.LEARNED_SHARE), 0.0),
    "default": partial(merge_with_weights, float(method.LEARNED_SHARE), method.EMBEDDING_WEIGHT),
}


def score(weights: Path, folder: Path, split: str, parts: list[str], name: str) -> list[ImageStats]:
    image = read_image(folder / "images" / split / f"{name}.jpg")
    humans = read_human_segmentations(folder / "groundTruth" / split / f"{name}.mat")
    ground_truth = [human.labels for human in humans]
    return [score_tree(PARTS[part](image, cached_backbone(weights)), ground_truth, COSTS) for part in parts]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--split", default="val")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--images", type=int, help="so many, evenly spaced")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    names = bsds_names(args.folder, args.split, args.images)
    title = f"{len(names)} images of BSDS500 {args.split}"
    table = Table(title, {"weights": "", "part": "", **dict.fromkeys(METRICS, ".3f")})
    with ProcessPoolExecutor(args.workers) as pool:
        for weights in args.weights:
            job = partial(score, weights, args.folder, args.split, args.parts)
            for part, stats in zip(args.parts, zip(*pool.map(job, names, chunksize=4), strict=True), strict=True):
                metrics = summarise(stats)
                table.add(weights.stem, part, *(metrics[key] for key in METRICS))


if __name__ == "__main__":
    main()
