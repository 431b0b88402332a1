"""What discovery does with other weights of the embedded network: BSDS500, by the parts of the default method.

    python benchmarks/encoders.py /data/BSDS500 A.safetensors B.safetensors --workers 2 --images 50

Weights come from ``recipes/embedded_backbone.py export``. Scores are taken at 199 thresholds of the uncalibrated cost,
so that weights of any calibration compare. Covering ODS/OIS/Best and VI of

* cosine: the published rule on the embeddings, 4-pixel cells of a 480 x 480 image;
* embeddings: hand-made borders, and the embeddings at a weight of .5 in the merging;
* borders: the learned borders alone;
* both: the learned borders beside the hand-made ones;
* default: these and the embeddings, as the default method has them.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from masktree.backbones.embedded import EmbeddedBackbone
from masktree.cluster.merge import merge_tree
from masktree.discover import masktree as method
from masktree.evaluate.bsds import Stats, read_segmentations, score_tree, summarise
from masktree.io.images import read_image, resize_image
from masktree.trees.dendrogram import PartitionTree

COSTS = np.arange(1, 200) / 80


@cache
def loaded(weights: Path) -> EmbeddedBackbone:
    return EmbeddedBackbone(path=weights)


def cosine(image: np.ndarray, backbone: EmbeddedBackbone) -> PartitionTree:
    tree = merge_tree(backbone.predict_boundaries(resize_image(image, (480, 480))).embeddings)
    H, W, _ = image.shape
    return tree.with_leaves(tree.leaves[(np.arange(H) * 120 // H)[:, None], np.arange(W) * 120 // W])


def embeddings(image: np.ndarray, backbone: EmbeddedBackbone) -> PartitionTree:
    seen = backbone.predict_boundaries(image)
    leaves = method.watershed_leaves(seen.cues.boundary)
    return method.merge_leaves(leaves, seen.cues.boundary, [seen.cues], seen.embeddings, method.FEATURE_WEIGHT)


def merged(share: float, weight: float, image: np.ndarray, backbone: EmbeddedBackbone) -> PartitionTree:
    shares = patch.object(method, "LEARNED_SHARE", np.float32(share))
    with shares, patch.object(method, "EMBEDDING_WEIGHT", weight):
        return method.build_cost_dendrogram(image, backbone=backbone)


PARTS = {
    "cosine": cosine,
    "embeddings": embeddings,
    "borders": partial(merged, 1.0, 0.0),
    "both": partial(merged, method.LEARNED_SHARE, 0.0),
    "default": partial(merged, method.LEARNED_SHARE, method.EMBEDDING_WEIGHT),
}


def score(weights: Path, folder: Path, split: str, parts: list[str], name: str) -> list[Stats]:
    image = read_image(folder / "images" / split / f"{name}.jpg")
    truths = read_segmentations(folder / "groundTruth" / split / f"{name}.mat")
    return [score_tree(PARTS[part](image, loaded(weights)), truths, COSTS) for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--split", default="val")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--images", type=int, help="every so many that this number is left")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    names = sorted(path.stem for path in (options.folder / "groundTruth" / options.split).glob("*.mat"))
    names = names[:: max(1, len(names) // (options.images or len(names)))]
    print(f"{len(names)} images of {options.split}: covering ODS OIS Best, VI")
    with ProcessPoolExecutor(options.workers) as pool:
        for weights in options.weights:
            job = partial(score, weights, options.folder, options.split, options.parts)
            for part, stats in zip(options.parts, zip(*pool.map(job, names, chunksize=4), strict=True), strict=True):
                found = summarise(stats)
                covering = " ".join(f"{found[f'covering_{kind}']:.3f}" for kind in ("ods", "ois", "best"))
                print(f"{weights.stem:20s} {part:10s} {covering}  {found['vi_ods']:.3f}", flush=True)


if __name__ == "__main__":
    main()
