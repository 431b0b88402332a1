"""Region benchmark on BSDS500: covering ODS/OIS/Best, PRI, VI and seconds per image of label-free methods.

    python benchmarks/bsds.py BSDS500 --split val --workers 2

Cost: 10 minutes for the 100 images of val with two workers. Expected: table "BSDS500" in docs/benchmarks.md. The folder
has the official layout: images/SPLIT/*.jpg and groundTruth/SPLIT/*.mat. Seconds are the median on one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from arguments import make_parser
from masktree.backbones import Backbone, load_backbone
from masktree.backbones.embedded import EmbeddedBackbone
from masktree.cluster.merge import merge_tree
from masktree.discover.masktree import build_dendrogram
from masktree.discover.methods import Quality
from masktree.evaluate.bsds import read_human_segmentations, score_image, score_tree, summarise
from masktree.evaluate.image_stats import ImageStats
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.trees.dendrogram import PartitionTree
from table import Table
from tasks import bsds_names

COSINE_LEVELS = np.linspace(0.02, 1.98, 99)  # altitudes of the cosine rule are 1 - similarity, in [0, 2]
FELZENSZWALB_SCALES = (30, 60, 100, 200, 300, 500, 800, 1200)
METRICS = ("covering_ods", "covering_ois", "covering_best", "pri_ods", "pri_ois", "vi_ods", "vi_ois")

Scored = tuple[ImageStats, float]  # of one image, and the seconds to segment it


def one_region(image: np.ndarray, ground_truth: list[np.ndarray]) -> Scored:
    """The whole image as one region, the trivial baseline."""
    return score_image([np.zeros(image.shape[:2], np.int32)], ground_truth), 0.0


def felzenszwalb(image: np.ndarray, ground_truth: list[np.ndarray]) -> Scored:
    """Graph-based segmentation of scikit-image at eight scales."""
    from skimage.segmentation import felzenszwalb as segment

    start = time.perf_counter()
    cuts = [segment(image, scale=s, sigma=0.8, min_size=50).astype(np.int32) for s in FELZENSZWALB_SCALES]
    return score_image(cuts, ground_truth), time.perf_counter() - start


@cache
def cached_backbone(name: str) -> Backbone:
    return load_backbone(name, "cpu")


def upscale_leaves(tree: PartitionTree, H: int, W: int) -> PartitionTree:
    """The tree with its (h, w) leaf map at H x W pixels, by nearest neighbours."""
    h, w = tree.size
    return tree.with_leaves(tree.leaves[(np.arange(H) * h // H)[:, None], np.arange(W) * w // W])


def cosine_rule(image: np.ndarray, ground_truth: list[np.ndarray], backbone: str, cell: int) -> Scored:
    """The published merge rule, on a grid of 480 / cell cells a side."""
    start = time.perf_counter()
    network = cached_backbone(backbone)
    square = resize_image(image, (480, 480))
    if cell == network.stride:
        grid = network(square[None])[0]
    else:
        assert isinstance(network, EmbeddedBackbone)
        grid = network.predict_boundaries(square).embeddings
    tree = merge_tree(grid)
    seconds = time.perf_counter() - start
    return score_tree(upscale_leaves(tree, *image.shape[:2]), ground_truth, COSINE_LEVELS), seconds


def default_method(image: np.ndarray, ground_truth: list[np.ndarray], backbone: str, quality: Quality) -> Scored:
    """The method masktree."""
    start = time.perf_counter()
    tree = build_dendrogram(image, backbone=cached_backbone(backbone), quality=quality)
    seconds = time.perf_counter() - start
    return score_tree(tree, ground_truth), seconds


METHODS: dict[str, Callable[..., Scored]] = {
    "one region": one_region,
    "Felzenszwalb, 8 scales": felzenszwalb,
    "cosine rule, texture": partial(cosine_rule, backbone="texture", cell=8),
    "cosine rule, embedded": partial(cosine_rule, backbone="embedded", cell=8),
    "cosine rule, embedded, fine": partial(cosine_rule, backbone="embedded", cell=4),
    "masktree, texture": partial(default_method, backbone="texture", quality="fast"),
    "masktree, texture, best": partial(default_method, backbone="texture", quality="best"),
    "masktree": partial(default_method, backbone="embedded", quality="fast"),
    "masktree, best": partial(default_method, backbone="embedded", quality="best"),
}


def score(method: str, folder: Path, split: str, name: str) -> Scored:
    image = read_image(folder / "images" / split / f"{name}.jpg")
    humans = read_human_segmentations(folder / "groundTruth" / split / f"{name}.mat")
    return METHODS[method](image, [human.labels for human in humans])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--images", type=int, help="so many, evenly spaced")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    names = bsds_names(args.folder, args.split, args.images)
    title = f"{len(names)} images of BSDS500 {args.split}"
    table = Table(title, {"method": "", **dict.fromkeys(METRICS, ".4f"), "s per image": ".2f"})
    with ProcessPoolExecutor(args.workers) as pool:
        for method in args.methods:
            job = partial(score, method, args.folder, args.split)
            list(pool.map(job, names[: args.workers]))  # compiles before seconds are measured
            stats, seconds = zip(*pool.map(job, names, chunksize=4), strict=True)
            metrics = summarise(stats)
            table.add(method, *(metrics[key] for key in METRICS), float(np.median(seconds)))


if __name__ == "__main__":
    main()
