"""MaskCut: seconds for three cuts, growth with the number of patches, memory, ratio to the dense eigen-solver.

    python benchmarks/maskcut.py [largest side, default 128]

Features are smooth random regions at two levels with noise, 768-d. The dense column is the published procedure with
scipy.linalg.eigh (tests/oracles/ncut.py) on the same features, up to 40 x 40; both give the same masks.
Peak memory is that of NumPy's arrays during the call (tracemalloc), the features excluded.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from masktree.cluster.ncut import maskcut

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.oracles import ncut as oracle


def regions(side: int, seed: int = 0, d: int = 768) -> np.ndarray:
    rng = np.random.default_rng(seed)
    result = rng.standard_normal((side, side, d)).astype(np.float32)
    result += 0.3 * rng.standard_normal(d).astype(np.float32)
    for k, width, weight in [(5, 0.12, 1.0), (12, 0.06, 0.7)]:
        fields = [gaussian_filter(rng.standard_normal((side, side)), width * side) for _ in range(k)]
        result += weight * rng.standard_normal((k, d)).astype(np.float32)[np.argmax(fields, 0)]
    return result


def main() -> None:
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    maskcut(regions(8))
    print("patches    masks  seconds  cosines only  growth   peak MB  dense    ratio  same masks")
    before: tuple[int, float] | None = None
    for side in (20, 28, 40, 60, 90, 128):
        if side > largest:
            break
        features = regions(side)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            masks = maskcut(features)
            times.append(time.perf_counter() - start)
        flat = features.reshape(-1, features.shape[-1])
        start = time.perf_counter()
        for i in range(0, len(flat), 1024):  # the part that no eigen-solver can avoid, both triangles
            flat[i : i + 1024] @ flat.T
        cosines = time.perf_counter() - start
        tracemalloc.start()
        maskcut(features)
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        growth = "" if before is None else f"n^{np.log(min(times) / before[1]) / np.log(side**2 / before[0]):.2f}"
        line = f"{side:3}x{side:<3}  {len(masks):6}  {min(times):7.3f}  {cosines:12.3f}  {growth:>6}  {peak:8.1f}"
        if side <= 40:
            start = time.perf_counter()
            expected = oracle.maskcut(features, 0.15, 3, "lapack")
            dense = time.perf_counter() - start
            same = len(masks) == len(expected) and all((a == b).all() for a, b in zip(masks, expected, strict=True))
            line += f"  {dense:6.2f}s  {dense / min(times):4.0f}x  {same}"
        print(line, flush=True)
        before = (side**2, min(times))


if __name__ == "__main__":
    main()
