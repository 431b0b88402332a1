"""What a training step costs: seconds and peak memory for each preset.

    python benchmarks/training.py --sizes tiny small --steps 3

Cost: 10 minutes on two cores. Expected: table "Training steps" in docs/benchmarks.md. Each preset runs in a process of
its own, through the loop of ``masktree train``, on random images of the preset's size and batch size with ``--masks``
random boxes each. Weights are random, so that no file is needed. One step more than ``--steps`` is taken and the first
one, which allocates memory, is dropped. Memory is the resident memory of the process; on CUDA, what torch has allocated
on the device. CPU seconds are those of all threads.
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

from arguments import make_parser
from masktree.backbones.texture import NUM_CUES
from masktree.models.build import build_model
from masktree.models.structures import Batch, Targets
from masktree.train.distributed import make_accelerator, resolve_process_device
from masktree.train.loop import TrainingState, fit, single_batch
from masktree.train.presets import PRESETS, Kind, Size, find_preset
from masktree.trees import hierarchy
from measurement import resident_megabytes
from table import Table

COLUMNS = {
    "kind": "",
    "size": "",
    "backbone": "",
    "M parameters": ".1f",
    "side": "d",
    "batch": "d",
    "s / step": ".2f",
    "CPU s": ".2f",
    "h / run": ".1f",
    "peak MB": ".0f",
}


def random_batch(count: int, side: int, masks: int, *, cues: bool, seed: int) -> Batch:
    """Noise with random boxes, of which a third each are wholes, parts and subparts."""
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


def measure(kind: Kind, size: Size, args: argparse.Namespace) -> list[object]:
    """A row of the table, in a child process."""
    preset = find_preset(kind, size, batch_size=args.batch_size, steps=args.steps + 1)
    device = resolve_process_device(args.device)
    accelerator = make_accelerator(device, args.precision)
    model = build_model(preset.model, weights=False)
    assert isinstance(model, torch.nn.Module)
    model.to(device)
    settings, side = preset.optimisation, preset.model.image_size
    batches = [
        random_batch(settings.batch_size, side, args.masks, cues=model.wants_cues, seed=step)
        for step in range(settings.steps)
    ]
    state = TrainingState.new(model, settings)
    wall, cpu = [], []
    start = time.process_time()
    for record in fit(state, batches, accelerator, settings, device=device, make_batches=single_batch):
        wall.append(record["seconds"])
        cpu.append(time.process_time() - start)
        start = time.process_time()
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resident_megabytes("VmHWM")
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    step = median(wall[1:])
    hours = find_preset(kind, size).optimisation.steps * step / 3600
    row = [parameters, side, settings.batch_size, step, median(cpu[1:]), hours, peak]
    return [kind, size, preset.model.backbone, *row]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--kinds", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--sizes", nargs="+", choices=get_args(Size), default=["tiny", "small"])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--masks", type=int, default=40, help="per image")
    parser.add_argument("--batch-size", type=int, help="images per step; default: the preset's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    table = Table(f"{args.device}, {torch.get_num_threads()} threads, {args.masks} masks per image", COLUMNS)
    for size in args.sizes:
        for kind in args.kinds:
            # one new process each: the peak of a process is over its whole life
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                table.add(*pool.submit(measure, kind, size, args).result())


if __name__ == "__main__":
    main()
