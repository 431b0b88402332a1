"""Floating-point operations of a forward pass of the base presets, of one image at the size at test, without weights.

    python benchmarks/flops.py

PyTorch's counter: matrix products, convolutions and attention, a multiplication with its addition as two; sampling in
deformable attention and RoIAlign is not counted. hassod computes; of the others only shapes are followed, which takes
seconds. The recipes estimate GPU-hours from it.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from masktree.models.build import build_model
from masktree.models.config import CascadeConfig
from masktree.train.presets import PRESETS


def forward_tflops(kind: Any) -> float:
    """10^12 operations for a landscape image of 3:2: of ``detect``, or of all masks of a model of queries."""
    config = PRESETS[kind].model
    longer = min(config.image_size, round(1.5 * (getattr(config, "short_side", 0) or config.image_size)))
    height, width = (-(-side // 32) * 32 for side in (longer / 1.5, longer))
    model: Any = build_model(config, weights=False).requires_grad_(False)  # which the counter would follow
    size = int(height), int(width)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if isinstance(config, CascadeConfig):
            model.eval().detect(torch.rand(1, 3, *size), None, [size])
        else:
            with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH):  # fused kernels do not count
                model.eval()(torch.rand(1, 3, *size))
    return float(counter.get_total_flops() / 1e12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="*", default=["hassod", "unsam", "sohes"])
    for kind in parser.parse_args().presets:
        print(f"{kind}: {forward_tflops(kind):.2f} TFLOPs", flush=True)


if __name__ == "__main__":
    main()
