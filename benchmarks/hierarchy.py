"""Forest, levels and mask NMS: seconds, growth with the number of masks, memory, ratio to loops over dense masks.

    python benchmarks/hierarchy.py [--largest 3000]

Cost: 2 minutes. Expected: forest and levels of 218 masks of 480 x 640 pixels in at most 0.05 s. Masks are wavy discs of
four sizes, every fourth a shifted copy. The dense column is the rule on dense masks, one pair at a time
(tests/oracles/hierarchy.py), up to 218 masks.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np

from arguments import make_parser
from masktree.trees import hierarchy, rle
from masktree.trees.nms import mask_nms
from measurement import growth_exponent, measure_seconds, peak_megabytes
from table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.oracles import hierarchy as oracle

CASES = ((20, (480, 640)), (55, (480, 640)), (218, (480, 640)), (872, (480, 640)), (3000, (240, 320)))
LARGEST_DENSE = 218
COLUMNS = {
    "masks": "d",
    "size": "",
    "runs": "d",
    "intersections s": ".4f",
    "forest, levels s": ".4f",
    "nms s": ".4f",
    "peak MB": ".1f",
    "dense forest s": ".1f",
    "ratio": ".0f",
}


def wavy_discs(rng: np.random.Generator, n: int, size: tuple[int, int]) -> np.ndarray:
    """(n, H, W) bool; every fourth mask is a shifted copy, which NMS has to remove."""
    height, width = size
    masks = np.zeros((n, height, width), bool)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for i in range(n):
        if i % 4 == 3:
            masks[i] = np.roll(masks[i - 1], 1, axis=1)
            continue
        radius = min(size) * rng.choice([0.04, 0.08, 0.16, 0.32])
        dy, dx = y - rng.integers(height), x - rng.integers(width)
        edge = 1 + 0.2 * np.sin(5 * np.arctan2(dy, dx) + rng.random() * 6)
        masks[i] = dy**2 + dx**2 < (radius * edge) ** 2
    return masks


def forest_levels(rles: list[bytes], size: tuple[int, int]) -> np.ndarray:
    return hierarchy.levels(hierarchy.parents_by_coverage(rles, size))


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--largest", type=int, default=CASES[-1][0], help="number of masks")
    largest = parser.parse_args().largest
    rng = np.random.default_rng(0)
    table = Table("Forest, levels and NMS, wall seconds", COLUMNS)
    counts, forest_seconds = [], []
    for n, size in (case for case in CASES if case[0] <= largest):
        masks = wavy_discs(rng, n, size)
        rles = [rle.encode(mask) for mask in masks]
        scores = rng.random(n)

        forest, nms = partial(forest_levels, rles, size), partial(mask_nms, rles, size, scores)
        forest(), nms()  # compiles
        intersections = measure_seconds(partial(rle.intersections, rles, size), 3).wall
        seconds = measure_seconds(forest, 3).wall
        peak = max(peak_megabytes(forest), peak_megabytes(nms))
        dense = None
        if n <= LARGEST_DENSE:
            dense = measure_seconds(partial(oracle.parents_by_coverage, masks, 0.9)).wall
        runs = len(rle.runs(rles, size).starts)
        nms_seconds = measure_seconds(nms, 3).wall
        shape = f"{size[0]} x {size[1]}"
        table.add(n, shape, runs, intersections, seconds, nms_seconds, peak, dense, dense and dense / seconds)
        if size == CASES[0][1]:
            counts.append(n)
            forest_seconds.append(seconds)
    print(f"\ngrowth of forest and levels at 480 x 640: n^{growth_exponent(counts, forest_seconds):.2f}")


if __name__ == "__main__":
    main()
