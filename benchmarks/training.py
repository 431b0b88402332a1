"""What a step of training costs: seconds, and the peak memory of the process, for each preset.

    python benchmarks/training.py --sizes tiny small --steps 3

Each preset runs in a process of its own, on random images of the preset's size and batch with ``--masks`` random boxes
each, through the loop that ``masktree train`` runs. Weights are random, so that no file is needed; examples are made
beforehand. One step more than ``--steps`` is taken; the first, in which memory is asked for, is left out. Memory is
resident memory, that of torch, Python and these examples included; on CUDA what torch has allocated on the device. CPU
seconds are those of all threads: with one thread they tell what a step takes on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from typing import get_args

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

import numpy as np
import torch
from measurement import resident_megabytes

from masktree.backbones.texture import NUM_CUES
from masktree.models.build import build_model
from masktree.models.structures import Batch, Targets
from masktree.train.loop import TrainingState, fit, make_accelerator, resolve_process_device, whole
from masktree.train.presets import PRESETS, Size, find_preset
from masktree.trees import hierarchy


def synthetic(count: int, side: int, masks: int, *, cues: bool, seed: int) -> Batch:
    """Noise with random boxes, a third of them each wholes, parts and subparts."""
    rng = np.random.default_rng(seed)
    parents = np.arange(masks, dtype=np.int32) - max(1, -(-masks // 3))
    parents[parents < 0] = -1
    targets = []
    for _ in range(count):
        boxes = np.zeros((masks, side, side), bool)
        for box in boxes:
            (top, bottom), (left, right) = (np.sort(rng.choice(side + 1, 2, replace=False)) for _ in range(2))
            box[top:bottom, left:right] = True
        levels = torch.from_numpy(hierarchy.levels(parents).astype(np.int64))
        targets.append(Targets(torch.from_numpy(boxes), torch.from_numpy(parents.astype(np.int64)), levels))
    return Batch(
        images=torch.from_numpy(rng.random((count, 3, side, side), np.float32)),
        cues=torch.from_numpy(rng.random((count, NUM_CUES, side // 2, side // 2), np.float32)) if cues else None,
        targets=targets,
        seeds=torch.arange(count),
        names=[str(i) for i in range(count)],
    )


def measure(kind: str, size: str, options: argparse.Namespace) -> str:
    """A line of the table."""
    preset = find_preset(kind, size, batch_size=options.batch_size, steps=options.steps + 1)
    device = resolve_process_device(options.device)
    accelerator = make_accelerator(device, options.precision)
    model = build_model(preset.model, weights=False).to(device)
    settings, side = preset.optimisation, preset.model.image_size
    batches = [
        synthetic(settings.batch_size, side, options.masks, cues=model.wants_cues, seed=step)
        for step in range(settings.steps)
    ]
    state = TrainingState.begin(model, settings)
    seconds, processor = [], []
    began = time.process_time()
    for record in fit(state, batches, accelerator, settings, device=device, make_batches=whole):
        seconds.append(record["seconds"])
        processor.append(time.process_time() - began)
        began = time.process_time()
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resident_megabytes("VmHWM")
    weights = sum(p.numel() for p in model.parameters()) / 1e6
    step, busy = median(seconds[1:]), median(processor[1:])
    hours = find_preset(kind, size).optimisation.steps * step / 3600
    values = f"{weights:9.1f} {side:6d} {settings.batch_size:6d} {step:8.2f} {busy:8.2f} {hours:7.1f} {peak:8.0f}"
    return f"{kind:7s} {size:6s} {preset.model.backbone:14s} {values}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--sizes", nargs="+", choices=get_args(Size), default=["tiny", "small"])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--masks", type=int, default=40, help="of each image")
    parser.add_argument("--batch-size", type=int, help="images of a step, in place of the preset's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    print(f"{options.device}, {torch.get_num_threads()} threads, {options.masks} masks per image")
    print("kind    size   backbone       M weights   side  batch   s/step    CPU s   h/run       MB")
    for size in options.sizes:
        for kind in options.kinds:
            # spawned and used once: the peak of a process is of all that it has ever done
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                print(pool.submit(measure, kind, size, options).result(), flush=True)


if __name__ == "__main__":
    main()
