"""Hub backbones with random weights: seconds per image and peak memory, float32 and bfloat16.

    python benchmarks/backbones.py [NAME ...]

Cost: 5 minutes for all. Two threads; each row is a process of its own, so that peaks do not mix. Columns: wall seconds
for one 480 x 480 image (best of 3 after a warm-up) and the peak resident memory up to there; the ratio of tokens to
keys, that is, what skipping the rest of the last block saves; milliseconds per 256 x 256 crop in batches of 8.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np

from arguments import make_parser
from masktree.backbones.timm_backbone import TimmBackbone
from masktree.backbones.weights import PUBLISHED_WEIGHTS
from measurement import measure_seconds, resident_megabytes
from table import Table

THREADS = 2
NAMES = (
    "dino-vits16",
    "dino-vits8",
    "dino-vitb16",
    "dino-vitb8",
    "dino-resnet50",
    "dinov2-vits14-reg",
    "dinov3-vits16",
    "dinov3-vitb16",
)
COLUMNS = {
    "backbone": "",
    "dtype": "",
    "s per image": ".2f",
    "peak MB": ".0f",
    "tokens / keys": ".2f",
    "ms per crop": ".0f",
}


def measure(name: str, dtype: str) -> list[float]:
    """The numbers of a row, in a child process."""
    import timm
    import torch

    torch.set_num_threads(THREADS)
    weights = PUBLISHED_WEIGHTS[name]
    resnet = weights.architecture.startswith("resnet")
    network = timm.create_model(weights.architecture, num_classes=0, **({} if resnet else {"dynamic_img_size": True}))
    keys = TimmBackbone(network, weights, dtype=dtype)
    tokens = TimmBackbone(network, weights, features="tokens", dtype=dtype)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 480, 480, 3), dtype=np.uint8)
    keys(image)
    seconds = measure_seconds(lambda: keys(image), 3).wall
    peak = resident_megabytes("VmHWM")
    pairs = [(measure_seconds(lambda: tokens(image)).wall, measure_seconds(lambda: keys(image)).wall) for _ in range(3)]
    ratio = min(pair[0] for pair in pairs) / min(pair[1] for pair in pairs)
    crops = rng.integers(0, 256, (8, 256, 256, 3), dtype=np.uint8)
    return [seconds, peak, ratio, 1000 * measure_seconds(lambda: keys(crops)).wall / len(crops)]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; default: all")
    table = Table(f"Hub backbones, {THREADS} threads", COLUMNS)
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "passive"}
    for name in parser.parse_args().names or NAMES:
        for dtype in ("float32", "bfloat16"):
            command = [sys.executable, __file__, "--child", name, dtype]
            output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            table.add(name, dtype, *json.loads(output.splitlines()[-1]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measure(*sys.argv[2:4])))
    else:
        main()
