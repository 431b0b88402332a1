"""The merge kernel: seconds, growth with the number of patches, peak memory, ratio to the rule in plain Python.

    python benchmarks/merge.py [--largest 180]

Cost: 5 minutes. Expected: at most 0.03 s at 60 x 60 x 768 and 0.2 s at 128 x 128 x 768, growth n^1.1. Features are
smooth random fields (all similarities near 1, regions grow evenly) and planted regions with noise (a few regions
absorb single patches, long edge lists). The plain version keeps regions and similarities in dictionaries, as published
code does, and is run up to 60 x 60.
"""

from __future__ import annotations

import os
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.ndimage import gaussian_filter

from arguments import make_parser
from masktree.cluster import merge_tree
from measurement import growth_exponent, measure_seconds, peak_megabytes
from table import Table

DIM = 768
SIDES = (28, 60, 90, 128, 180)
LARGEST_PLAIN = 60
COLUMNS = {
    "side": "d",
    "CPU s": ".4f",
    "wall s": ".4f",
    "peak MB": ".1f",
    "features MB": ".1f",
    "plain s": ".2f",
    "ratio": ".0f",
}


def smooth_fields(rng: np.random.Generator, side: int) -> np.ndarray:
    """Random fields with a correlation length of a few patches."""
    noise = rng.standard_normal((side, side, DIM), np.float32)
    return gaussian_filter(noise, (3, 3, 0), mode="reflect")


def planted_regions(rng: np.random.Generator, side: int) -> np.ndarray:
    """Two dozen regions of one vector each, with noise as long as the vectors."""
    points = rng.random((24, 2)) * side
    y, x = np.mgrid[:side, :side]
    nearest = ((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).argmin(axis=-1)
    centres = rng.standard_normal((24, DIM), np.float32)
    return centres[nearest] + rng.standard_normal((side, side, DIM), np.float32)


def merge_plain(features: np.ndarray) -> list[float]:
    """The published rule with dictionaries and NumPy vectors: the similarity of every merge, in order."""
    h, w, _ = features.shape
    sums = dict(enumerate(features.reshape(h * w, -1)))
    norms = {i: float(np.linalg.norm(v)) for i, v in sums.items()}
    neighbours: dict[int, list[int]] = {i: [] for i in sums}
    pairs: dict[tuple[int, int], float] = {}

    def connect(a: int, b: int) -> None:
        neighbours[a].append(b)
        neighbours[b].append(a)
        pairs[a, b] = float(sums[a] @ sums[b]) / (norms[a] * norms[b])

    for i in range(h * w):
        if i % w < w - 1:
            connect(i, i + 1)
        if i < (h - 1) * w:
            connect(i, i + w)
    similarities = []
    new = h * w
    while pairs:
        a, b = max(pairs, key=pairs.__getitem__)
        similarities.append(pairs[a, b])
        sums[new], neighbours[new] = sums.pop(a) + sums.pop(b), []
        norms[new] = float(np.linalg.norm(sums[new]))
        adjacent = [x for x in dict.fromkeys(neighbours.pop(a) + neighbours.pop(b)) if x not in (a, b)]
        for x in (a, b, *adjacent):
            for y in (a, b):
                pairs.pop((x, y), None)
                pairs.pop((y, x), None)
        for x in adjacent:
            neighbours[x] = [y for y in neighbours[x] if y not in (a, b)]
            connect(x, new)
        new += 1
    return similarities


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--largest", type=int, default=SIDES[-1], help="patches along a side")
    sides = [side for side in SIDES if side <= parser.parse_args().largest]
    merge_tree(np.ones((3, 3, DIM), np.float32))  # compiles
    for name, make in (("smooth random fields", smooth_fields), ("planted regions with noise", planted_regions)):
        table = Table(f"{name}, d = {DIM}", COLUMNS)
        cpu_seconds = []
        for side in sides:
            features = make(np.random.default_rng(side), side)
            cpu, wall = measure_seconds(partial(merge_tree, features), max(3, 20_000 // side**2))
            cpu_seconds.append(cpu)
            peak = peak_megabytes(partial(merge_tree, features))
            plain = measure_seconds(partial(merge_plain, features)).cpu if side <= LARGEST_PLAIN else None
            table.add(side, cpu, wall, peak, features.nbytes / 2**20, plain, plain and plain / cpu)
        print(f"\ngrowth: n^{growth_exponent([s * s for s in sides], cpu_seconds):.2f}, n = number of patches")


if __name__ == "__main__":
    main()
