"""Forest, levels and suppression of masks: seconds, growth with the number of masks, ratio to dense loops.

    python benchmarks/hierarchy.py

Masks are blobs at four scales, every fourth a shifted copy, 480 x 640 unless said otherwise. The oracle is the
rule on dense masks, one pair at a time (tests/oracles/hierarchy.py), up to 218 masks. Peak memory is that of
NumPy's arrays during the call (tracemalloc), the input strings excluded.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from masktree.trees import hierarchy, rle
from masktree.trees.nms import mask_nms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.oracles import hierarchy as oracle


def blobs(rng: np.random.Generator, n: int, size: tuple[int, int]) -> np.ndarray:
    """Wavy discs; every fourth mask is a shifted copy, so that suppression has work to do."""
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


def seconds(call: Callable[[], object], repeats: int = 3) -> float:
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def peak_megabytes(call: Callable[[], object]) -> float:
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main() -> None:
    rng = np.random.default_rng(0)
    print("masks  size        runs     intersections  forest+levels  nms      peak MB  dense forest  ratio")
    last: tuple[int, float] | None = None
    for n, size in [(20, (480, 640)), (55, (480, 640)), (218, (480, 640)), (872, (480, 640)), (3000, (240, 320))]:
        masks = blobs(rng, n, size)
        rles = [rle.encode(mask) for mask in masks]
        scores = rng.random(n)

        def forest(rles: list[bytes] = rles, size: tuple[int, int] = size) -> np.ndarray:
            return hierarchy.levels(hierarchy.parents_by_coverage(rles, size))

        def suppress(rles: list[bytes] = rles, size: tuple[int, int] = size, scores: np.ndarray = scores) -> np.ndarray:
            return mask_nms(rles, size, scores)

        forest(), suppress()
        n_runs = len(rle.runs(rles, size).starts)
        times = [seconds(lambda r=rles, s=size: rle.intersections(r, s)), seconds(forest), seconds(suppress)]
        memory = max(peak_megabytes(forest), peak_megabytes(suppress))
        line = f"{n:5}  {size[0]}x{size[1]}  {n_runs:8}  {times[0]:12.4f}s  {times[1]:12.4f}s  {times[2]:.4f}s"
        line += f"  {memory:7.1f}"
        if n <= 218:
            dense = seconds(lambda m=masks: oracle.parents_by_coverage(m, 0.9), repeats=1)
            line += f"  {dense:10.1f}s  {dense / times[1]:.0f}x"
        print(line)
        if last is not None and size == (480, 640):
            print(f"       growth of forest+levels: n^{np.log(times[1] / last[1]) / np.log(n / last[0]):.2f}")
        last = (n, times[1])


if __name__ == "__main__":
    main()
