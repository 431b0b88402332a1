"""The verb train."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import tyro

from masktree.cli.options import Output
from masktree.train.options import OptimisationOverrides, RunOptions

Optimisation = Annotated[OptimisationOverrides, tyro.conf.arg(name="")]
Run = Annotated[RunOptions, tyro.conf.arg(name="")]
NO_OVERRIDES, DEFAULT_RUN = OptimisationOverrides(), RunOptions()


def train(
    labels: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LABELS")],
    /,
    output: Output,
    preset: Literal["sohes", "unsam", "hassod", "promptable"] = "sohes",
    size: Literal["tiny", "small", "base"] = "small",
    backbone: str | None = None,
    image_size: int | None = None,
    num_queries: int | None = None,
    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    backbone_lr_factor: float | None = None,
    schedule: Literal["constant", "cosine", "step"] | None = None,
    optimisation: Optimisation = NO_OVERRIDES,
    run: Run = DEFAULT_RUN,
) -> int:
    """Train a segmentation model on a label set. The same command resumes a stopped run from its last checkpoint.

    Options that are not given keep the preset's values. For several GPUs or processes: torchrun --nproc-per-node N -m
    masktree train ...

    Args:
        labels: Folder of a finished label set, from `masktree discover`.
        output: Folder of the run, which `masktree segment --model` takes.
        preset: sohes: Mask2Former with an ancestor head. unsam: Mask2Former. hassod: Cascade Mask R-CNN with a level
            head. promptable: answers clicks, boxes and granularities.
        size: base: as published, for several large GPUs. small: for one GPU. tiny: for a trial on a CPU.
        backbone: See `masktree info backbone`.
        image_size: Longer side of input images in pixels, a multiple of 32.
        num_queries: Maximum number of masks per image (sohes, unsam).
        from_: Run folder, or owner/name on the hub, whose weights initialise the model: all of them for the same
            architecture, else those that fit, if the whole feature pyramid does.
        backbone_lr_factor: Multiplies the learning rate of pretrained weights; 0 freezes them, which is faster.
        schedule: Learning rate after the warm-up. cosine: falls to 0. step: falls twice near the end.
    """
    from masktree.train.presets import find_preset
    from masktree.train.train import train as train_stage

    settings = find_preset(
        preset,
        size,
        backbone=backbone,
        image_size=image_size,
        num_queries=num_queries,
        backbone_lr_factor=backbone_lr_factor,
        schedule=schedule,
        **optimisation.overrides(),
    )
    steps = train_stage(labels, output, settings, run, init_from=from_, show_progress=True)
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{steps} steps done, {settings.optimisation.steps} in total; the run is in {output}", flush=True)
    return 0
