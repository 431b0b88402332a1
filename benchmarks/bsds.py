"""Region benchmark on BSDS500: covering ODS/OIS/Best, PRI, VI and seconds per image, label-free methods side by side.

    python benchmarks/bsds.py /data/BSDS500 --split val --workers 2

The folder has the official layout: images/SPLIT/*.jpg and groundTruth/SPLIT/*.mat.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: seconds per image are those of one core

import numpy as np

from masktree.backbones import Backbone, load_backbone
from masktree.evaluate.bsds import Stats, read_segmentations, score_image, score_tree, summarise
from masktree.io.images import read_image

COSINE_LEVELS = np.linspace(0.02, 1.98, 99)  # altitudes of the cosine rule are 1 - similarity, in [0, 2]
FELZENSZWALB_SCALES = (30, 60, 100, 200, 300, 500, 800, 1200)

Scored = tuple[Stats, float]


def one_region(image: np.ndarray, truths: list[np.ndarray]) -> Scored:
    """The whole image: what any method must beat."""
    return score_image([np.zeros(image.shape[:2], np.int32)], truths), 0.0


def felzenszwalb(image: np.ndarray, truths: list[np.ndarray]) -> Scored:
    """Graph-based segmentation of scikit-image at eight scales."""
    from skimage.segmentation import felzenszwalb as segment

    start = time.perf_counter()
    cuts = [segment(image, scale=s, sigma=0.8, min_size=50).astype(np.int32) for s in FELZENSZWALB_SCALES]
    return score_image(cuts, truths), time.perf_counter() - start


@cache
def loaded(backbone: str) -> Backbone:
    return load_backbone(backbone, "cpu")


def cosine_rule(image: np.ndarray, truths: list[np.ndarray], backbone: str, cell: int) -> Scored:
    """The published merge rule, on a grid of 480 / cell cells a side."""
    from PIL import Image

    from masktree.cluster.merge import merge_tree

    start = time.perf_counter()
    square = np.asarray(Image.fromarray(image).resize((480, 480), Image.Resampling.BILINEAR))
    network = loaded(backbone)
    grid = network(square[None])[0] if cell == network.stride else network.predict_boundaries(square).embeddings
    tree = merge_tree(grid)
    seconds = time.perf_counter() - start
    H, W, _ = image.shape
    side = 480 // cell
    leaves = tree.leaves[(np.arange(H) * side // H)[:, None], np.arange(W) * side // W]
    return score_tree(tree.with_leaves(leaves), truths, COSINE_LEVELS), seconds


def default(image: np.ndarray, truths: list[np.ndarray], backbone: str, quality: str) -> Scored:
    """The package's own method."""
    from masktree.discover.masktree import build_dendrogram

    start = time.perf_counter()
    tree = build_dendrogram(image, backbone=loaded(backbone), quality=quality)
    seconds = time.perf_counter() - start
    return score_tree(tree, truths), seconds


METHODS: dict[str, Callable[..., Scored]] = {
    "one region": one_region,
    "Felzenszwalb, 8 scales": felzenszwalb,
    "cosine rule, texture": partial(cosine_rule, backbone="texture", cell=8),
    "cosine rule, embedded": partial(cosine_rule, backbone="embedded", cell=8),
    "cosine rule, embedded, fine": partial(cosine_rule, backbone="embedded", cell=4),
    "masktree, texture": partial(default, backbone="texture", quality="fast"),
    "masktree, texture, best": partial(default, backbone="texture", quality="best"),
    "masktree": partial(default, backbone="embedded", quality="fast"),
    "masktree, best": partial(default, backbone="embedded", quality="best"),
}


def run(method: str, folder: Path, split: str, name: str) -> Scored:
    image = read_image(folder / "images" / split / f"{name}.jpg")
    return METHODS[method](image, read_segmentations(folder / "groundTruth" / split / f"{name}.mat"))


def row(metrics: dict[str, float | None]) -> str:
    """Covering ODS, OIS and Best, PRI ODS and OIS, VI ODS and OIS."""
    covering = " ".join(f"{metrics[f'covering_{name}']:.4f}" for name in ("ods", "ois", "best"))
    others = "  ".join(f"{metrics[f'{name}_ods']:.3f} {metrics[f'{name}_ois']:.3f}" for name in ("pri", "vi"))
    return f"{covering}  {others}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--images", type=int, help="only the first so many")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    names = sorted(path.stem for path in (options.folder / "groundTruth" / options.split).glob("*.mat"))
    names = names[: options.images]
    print(f"{len(names)} images of {options.split}")
    print(f"{'':28s} covering ODS OIS Best   PRI ODS OIS  VI ODS OIS   s/image")
    with ProcessPoolExecutor(options.workers) as pool:
        for method in options.methods:
            job = partial(run, method, options.folder, options.split)
            list(pool.map(job, names[: options.workers]))  # compiled code is loaded before the clock counts
            scores, seconds = zip(*pool.map(job, names, chunksize=4), strict=True)
            print(f"{method:28s} {row(summarise(scores))}   {np.median(seconds):.2f}", flush=True)


if __name__ == "__main__":
    main()
