"""Images a second of the base presets on a device, without weights and without reading images.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --presets hassod --size tiny --seconds 2

Training is forward and backward pass of the crop size with 20 masks an image; inference is ``detect`` at the size at
test. Images are noise, of which a detector keeps as many boxes as it can.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from masktree.models.build import build_model
from masktree.models.structures import Batch, Targets
from masktree.train.presets import PRESETS, find_preset

NUM_MASKS = 20


def batch_of(side: int, count: int, device: torch.device, *, cues: bool) -> Batch:
    """Images of noise with random rectangles."""
    from masktree.backbones.texture import NUM_CUES

    masks = torch.zeros(NUM_MASKS, side, side, dtype=torch.bool)
    for number, (top, left) in enumerate(torch.randint(0, side // 2, (NUM_MASKS, 2)).tolist()):
        masks[number, top : top + side // 4, left : left + side // 4] = True
    targets = Targets(masks, torch.full((NUM_MASKS,), -1), torch.zeros(NUM_MASKS, dtype=torch.int64))
    images, maps = torch.rand(count, 3, side, side), torch.rand(count, NUM_CUES, side // 2, side // 2)
    names = [str(number) for number in range(count)]
    return Batch(images, maps if cues else None, [targets] * count, torch.arange(count), names).to(device)


def rate(call: Callable[[], object], images: int, device: torch.device, seconds: float) -> float:
    """Images a second, after a first call that is not counted."""
    call()
    start, calls = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        call()
        calls += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
    return calls * images / (time.monotonic() - start)


def measure(kind: Any, options: argparse.Namespace) -> tuple[float, float]:
    """Images a second in training and in inference."""
    preset, device = find_preset(kind, options.size), torch.device(options.device)
    model: Any = build_model(preset.model, weights=False).to(device)
    batch = batch_of(preset.augmentation.crop_size, options.batch, device, cues=model.wants_cues)
    side = tuple(batch.images.shape[-2:])

    def train() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            losses = model.losses(batch)
        torch.stack([value.float() for value in losses.values()]).sum().backward()
        model.zero_grad(set_to_none=True)

    def infer() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            model.detect(batch.images, batch.cues, [side] * options.batch)

    model.train()
    training = rate(train, options.batch, device, options.seconds)
    model.eval()
    return training, rate(infer, options.batch, device, options.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="*", default=list(PRESETS))
    parser.add_argument("--size", default="base", choices=("tiny", "small", "base"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    print("| preset | training, images/s | inference, images/s |\n|---|---|---|")
    for kind in options.presets:
        training, inference = measure(kind, options)
        print(f"| {kind} {options.size} | {training:.2f} | {inference:.2f} |", flush=True)


if __name__ == "__main__":
    main()
