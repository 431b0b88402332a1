"""Backbones with random weights: seconds per image and peak memory, float32 against bfloat16.

    OMP_WAIT_POLICY=passive python benchmarks/backbones.py [name ...]

Two threads. Columns: seconds for one 480 x 480 image (best of 3 after one warm-up); milliseconds per 256 x 256 crop in
batches of 8; peak resident memory of a process that did the first alone. Each row is a process of its own, so peaks
do not mix. ``tokens`` computes the last block as well: its ratio to ``keys`` is what skipping the block saves.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

import numpy as np

THREADS = 2
NAMES = (
    "dino-vits16 dino-vits8 dino-vitb16 dino-vitb8 dino-resnet50 dinov2-vits14-reg dinov3-vits16 dinov3-vitb16"
).split()


def measure(name: str, dtype: str, features: str) -> dict[str, float]:
    import timm
    import torch

    from masktree.backbones.hub import HubBackbone
    from masktree.backbones.weights import WEIGHTS

    torch.set_num_threads(THREADS)
    weights = WEIGHTS[name]
    extra = {} if weights.architecture.startswith("resnet") else {"dynamic_img_size": True}
    network = timm.create_model(weights.architecture, num_classes=0, **extra)
    backbone = HubBackbone(network, weights, features=features, dtype=dtype)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 480, 480, 3), dtype=np.uint8)
    backbone(image)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        backbone(image)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    crops = rng.integers(0, 256, (8, 256, 256, 3), dtype=np.uint8)
    start = time.perf_counter()
    backbone(crops)
    return {"s": min(seconds), "crop": (time.perf_counter() - start) / 8 * 1000, "peak": peak}


def main(names: list[str]) -> None:
    print(f"{'backbone':18} {'features':8} {'dtype':9} {'s/480x480':>9} {'ms/crop':>8} {'peak MiB':>8}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    for name in names:
        for features, dtype in [("keys", "float32"), ("keys", "bfloat16"), ("tokens", "float32")]:
            if name == "dino-resnet50" and features == "tokens":
                continue
            command = [sys.executable, __file__, "--one", name, dtype, features]
            out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            row = json.loads(out.splitlines()[-1])
            print(f"{name:18} {features:8} {dtype:9} {row['s']:9.2f} {row['crop']:8.0f} {row['peak']:8.0f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(*sys.argv[2:5])))
    else:
        main(sys.argv[1:] or NAMES)
