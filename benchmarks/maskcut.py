"""MaskCut with three cuts: seconds, growth with the number of patches, memory, ratio to a dense eigen-solver.

    python benchmarks/maskcut.py [--largest 128]

Cost: 3 minutes. Expected: under 1 s at 60 x 60, masks equal to the dense solver's. Features are smooth random regions
at two levels with noise, 768-d. The dense column is the published procedure with scipy.linalg.eigh
(tests/oracles/ncut.py) on the same features, up to 40 x 40.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from arguments import make_parser
from masktree.cluster.ncut import maskcut
from measurement import growth_exponent, measure_seconds, peak_megabytes
from table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.oracles import ncut as oracle

SIDES = (20, 28, 40, 60, 90, 128)
LARGEST_DENSE = 40


def region_features(side: int, seed: int = 0, dim: int = 768) -> np.ndarray:
    rng = np.random.default_rng(seed)
    result = rng.standard_normal((side, side, dim)).astype(np.float32)
    result += 0.3 * rng.standard_normal(dim).astype(np.float32)
    for count, width, weight in [(5, 0.12, 1.0), (12, 0.06, 0.7)]:
        fields = [gaussian_filter(rng.standard_normal((side, side)), width * side) for _ in range(count)]
        result += weight * rng.standard_normal((count, dim)).astype(np.float32)[np.argmax(fields, 0)]
    return result


def cosine_products(features: np.ndarray) -> None:
    """All products of patches, which no eigen-solver can avoid."""
    flat = features.reshape(-1, features.shape[-1])
    for i in range(0, len(flat), 1024):
        flat[i : i + 1024] @ flat.T


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--largest", type=int, default=SIDES[-1], help="patches along a side")
    sides = [side for side in SIDES if side <= parser.parse_args().largest]
    maskcut(region_features(8))  # loads and compiles
    formats = {"side": "d", "masks": "d", "s": ".3f", "products s": ".3f", "peak MB": ".0f", "dense s": ".2f"}
    table = Table("MaskCut, 3 cuts, d = 768, wall seconds", {**formats, "ratio": ".0f", "same masks": ""})
    seconds = []
    for side in sides:
        features = region_features(side)
        masks = maskcut(features)
        seconds.append(measure_seconds(partial(maskcut, features), 3).wall)
        products = measure_seconds(partial(cosine_products, features)).wall
        peak = peak_megabytes(partial(maskcut, features))
        dense, same = None, None
        if side <= LARGEST_DENSE:
            dense = measure_seconds(partial(oracle.maskcut, features, 0.15, 3, "lapack")).wall
            expected = oracle.maskcut(features, 0.15, 3, "lapack")
            equal = len(masks) == len(expected) and all((a == b).all() for a, b in zip(masks, expected, strict=True))
            same = "yes" if equal else "no"
        table.add(side, len(masks), seconds[-1], products, peak, dense, dense and dense / seconds[-1], same)
    print(f"\ngrowth: n^{growth_exponent([s * s for s in sides], seconds):.2f}, n = number of patches")


if __name__ == "__main__":
    main()
