"""Calibrate the default method's table from merge cost to granularity on unlabelled photographs.

    python recipes/granularity.py PHOTOS --images 200 --workers 2

Cost: 5 minutes. Expected: the table of costs in ``masktree.discover.masktree``. Prints the merge costs at which the
geometric mean over the photographs of the number of remaining regions is N^(1 - g), for each granularity g of that
table, where N is the geometric mean of the numbers of leaves.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

COST_GRID = np.arange(0, 4, 0.0005)


def log_region_counts(path: Path, backbone: str, quality: str) -> np.ndarray:
    """Log of the number of regions of a photograph at each cost of ``COST_GRID``, followed by its highest cost."""
    from masktree.backbones import load_backbone
    from masktree.discover.masktree import SCALES, build_cost_dendrogram
    from masktree.io.images import read_image

    tree = build_cost_dendrogram(read_image(path), backbone=load_backbone(backbone), scales=SCALES[quality])
    costs = tree.altitudes[tree.n_leaves :]
    return np.append(np.log(tree.n_leaves - np.searchsorted(costs, COST_GRID, side="right")), tree.altitudes[-1])


def main() -> None:
    from masktree.discover.masktree import _GRANULARITIES
    from masktree.io.photos import find_photos

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--quality", default="fast")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    photos = [photo.path for photo in find_photos([options.photos])[0]]
    sample = [photos[i] for i in np.linspace(0, len(photos) - 1, min(options.images, len(photos))).astype(int)]
    job = partial(log_region_counts, backbone=options.backbone, quality=options.quality)
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"
    with get_context("spawn").Pool(options.workers) as pool:
        curves = np.stack(pool.map(job, sample, chunksize=4))
    log_counts, highest = curves[:, :-1].mean(0), curves[:, -1].max()
    targets = [(1 - level) * log_counts[0] for level in _GRANULARITIES[1:-1]]
    costs = [COST_GRID[np.argmax(log_counts <= logarithm)] for logarithm in targets]
    print(f"{len(sample)} photographs, {np.exp(log_counts[0]):.0f} leaves; highest cost {highest:.3f}")
    print("_COSTS = (0.0, " + ", ".join(f"{cost:.4f}" for cost in costs) + f", {1.15 * highest:.1f})")


if __name__ == "__main__":
    main()
