"""Backbones with random weights: seconds per image and peak memory, float32 against bfloat16.

    OMP_WAIT_POLICY=passive python benchmarks/backbones.py [name ...]

Two threads; each row is a process of its own, so peaks do not mix. Columns: seconds for one 480 x 480 image (best of 3
after one warm-up) and the peak resident memory up to there; ``tokens`` / ``keys``, best of 3 each, taken in turn, which
is what leaving out the rest of the last block saves; milliseconds per 256 x 256 crop in a batch of 8.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

THREADS = 2
NAMES = [
    "dino-vits16",
    "dino-vits8",
    "dino-vitb16",
    "dino-vitb8",
    "dino-resnet50",
    "dinov2-vits14-reg",
    "dinov3-vits16",
    "dinov3-vitb16",
]


def measure(name: str, dtype: str) -> dict[str, float]:
    import timm
    import torch

    from masktree.backbones.timm_backbone import TimmBackbone
    from masktree.backbones.weights import PUBLISHED_WEIGHTS

    torch.set_num_threads(THREADS)
    weights = PUBLISHED_WEIGHTS[name]
    resnet = weights.architecture.startswith("resnet")
    network = timm.create_model(weights.architecture, num_classes=0, **({} if resnet else {"dynamic_img_size": True}))
    keys = TimmBackbone(network, weights, dtype=dtype)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 480, 480, 3), dtype=np.uint8)
    seconds(keys, image)
    best = min(seconds(keys, image) for _ in range(3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tokens = TimmBackbone(network, weights, features="tokens", dtype=dtype)
    pairs = [(seconds(tokens, image), seconds(keys, image)) for _ in range(3)]
    ratio = min(pair[0] for pair in pairs) / min(pair[1] for pair in pairs)
    crops = rng.integers(0, 256, (8, 256, 256, 3), dtype=np.uint8)
    return {"s": best, "ratio": ratio, "crop": seconds(keys, crops) / 8 * 1000, "peak": peak}


def seconds(backbone: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> float:
    start = time.perf_counter()
    backbone(images)
    return time.perf_counter() - start


def main(names: list[str]) -> None:
    print(f"{'backbone':18} {'dtype':9} {'s/480x480':>9} {'peak MiB':>8} {'tokens/keys':>11} {'ms/crop':>8}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    for name in names:
        for dtype in ("float32", "bfloat16"):
            command = [sys.executable, __file__, "--one", name, dtype]
            out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            row = json.loads(out.splitlines()[-1])
            numbers = f"{row['s']:9.2f} {row['peak']:8.0f} {row['ratio']:11.2f} {row['crop']:8.0f}"
            print(f"{name:18} {dtype:9} {numbers}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(*sys.argv[2:4])))
    else:
        main(sys.argv[1:] or NAMES)
