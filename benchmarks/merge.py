"""The merge kernel: seconds, growth with the number of patches, peak memory, ratio to the rule in plain Python.

    python benchmarks/merge.py [largest side]

Features are smooth random fields (no regions: similarities near 1 everywhere, so that regions grow evenly) and planted
regions with noise (a few regions soon swallow single patches: long edge lists). The plain version keeps regions and
similarities in dictionaries, as published code does, and is timed at 28 and 60 only. Seconds are CPU seconds of this
process, best of several; wall seconds, which other work on the machine prolongs, stand beside them. Peak memory is
what the process takes above its features during the call (Linux).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402
from scipy.ndimage import gaussian_filter  # noqa: E402

from masktree.cluster import merge, merge_tree  # noqa: E402
from memory import peak_megabytes  # noqa: E402

DIM = 768
SIDES = (28, 60, 90, 128, 180)
GOALS = {60: "<= 0.03 s", 128: "<= 0.2 s, <= 300 MB"}


def smooth(rng: np.random.Generator, side: int) -> np.ndarray:
    """Random fields with a correlation length of a few patches."""
    noise = rng.standard_normal((side, side, DIM), np.float32)
    return gaussian_filter(noise, (3, 3, 0), mode="reflect")


def planted(rng: np.random.Generator, side: int) -> np.ndarray:
    """Two dozen regions of one vector each, with noise as long as the vectors."""
    points = rng.random((24, 2)) * side
    y, x = np.mgrid[:side, :side]
    nearest = ((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).argmin(axis=-1)
    centres = rng.standard_normal((24, DIM), np.float32)
    return centres[nearest] + rng.standard_normal((side, side, DIM), np.float32)


def plain(features: np.ndarray) -> list[float]:
    """The published rule with dictionaries and NumPy vectors: similarity of every merge, in order."""
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
        around = [x for x in dict.fromkeys(neighbours.pop(a) + neighbours.pop(b)) if x not in (a, b)]
        for x in (a, b, *around):
            for y in (a, b):
                pairs.pop((x, y), None)
                pairs.pop((y, x), None)
        for x in around:
            neighbours[x] = [y for y in neighbours[x] if y not in (a, b)]
            connect(x, new)
        new += 1
    return similarities


def seconds(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Best CPU and best wall seconds."""
    cpu, wall = [], []
    for _ in range(repeats):
        start, start_wall = time.process_time(), time.perf_counter()
        work()
        cpu.append(time.process_time() - start)
        wall.append(time.perf_counter() - start_wall)
    return min(cpu), min(wall)


def stages(features: np.ndarray, repeats: int) -> dict[str, float]:
    """CPU milliseconds of the steps of ``merge_tree``, each alone."""
    flat = features.reshape(-1, DIM)
    return {
        "copy": 1000 * seconds(flat.copy, repeats)[0],
        "finite": 1000 * seconds(lambda: merge._require_finite(flat, "features"), repeats)[0],
        "edges": 1000 * seconds(lambda: merge.grid_edges(*features.shape[:2]), repeats)[0],
    }


def main() -> None:
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else SIDES[-1]
    merge_tree(np.ones((3, 3, DIM), np.float32))
    for name, make in (("smooth random fields", smooth), ("planted regions with noise", planted)):
        print(f"{name}, d = {DIM}\n side   CPU s  wall s  peak MB  features MB   plain s  ratio  goal")
        times = {}
        for side in (s for s in SIDES if s <= largest):
            features = make(np.random.default_rng(side), side)
            times[side], wall = seconds(lambda f=features: merge_tree(f), max(3, 20_000 // side**2))
            memory = peak_megabytes(lambda f=features: merge_tree(f))
            line = f"{side:5}{times[side]:8.4f}{wall:8.4f}{memory:9.1f}{features.nbytes / 2**20:13.1f}"
            if side <= 60:
                slow = seconds(lambda f=features: plain(f), 1)[0]
                line += f"{slow:10.2f}{slow / times[side]:6.0f}x"
            else:
                line += " " * 17
            print(f"{line}  {GOALS.get(side, '')}", flush=True)
            if side in (60, 128):
                parts = stages(features, 5)
                print("      of which ms: " + ", ".join(f"{k} {v:.1f}" for k, v in parts.items()))
        slope = np.polyfit(np.log([s * s for s in times]), np.log(list(times.values())), 1)[0]
        print(f"growth: n^{slope:.2f}, n = number of patches (goal n^1.1)\n")


if __name__ == "__main__":
    main()
