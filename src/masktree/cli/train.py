"""The verb train."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from masktree.cli.options import Output
from masktree.errors import InputError
from masktree.train.options import OptimisationOverrides, RunOptions

if TYPE_CHECKING:
    from masktree.train.validation import Validation

Optimisation = Annotated[OptimisationOverrides, tyro.conf.arg(name="")]
Run = Annotated[RunOptions, tyro.conf.arg(name="")]
NO_OVERRIDES, DEFAULT_RUN = OptimisationOverrides(), RunOptions()


def train(
    labels: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LABELS")],
    /,
    output: Output,
    preset: Literal["sohes", "unsam", "hassod", "cutler", "promptable"] = "sohes",
    size: Literal["tiny", "small", "base"] = "small",
    backbone: str | None = None,
    image_size: int | None = None,
    num_queries: int | None = None,
    config: Path | None = None,
    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    val: Annotated[str | None, tyro.conf.arg(metavar="LABELS|SHARE")] = None,
    val_every: int | None = None,
    backbone_lr_factor: float | None = None,
    schedule: Literal["constant", "cosine", "step"] | None = None,
    optimisation: Optimisation = NO_OVERRIDES,
    run: Run = DEFAULT_RUN,
) -> int:
    """Train a segmentation model on a label set. The same command resumes a stopped run from its last checkpoint.

    Size tiny takes 1000 steps of 4 images, small 20,000 of 8, base as many as published. A finished run goes on if you
    give more. On several GPUs: torchrun --nproc-per-node N -m masktree train ...

    Args:
        labels: Folder of a finished label set of masktree discover.
        output: Folder of the run, for masktree segment --model.
        preset: What is trained. sohes: Mask2Former with an ancestor head. unsam: Mask2Former. hassod: Cascade Mask
            R-CNN with a level head. cutler: the same, for labels of maskcut. promptable: a model that answers clicks,
            boxes and granularities.
        size: tiny is for a CPU, small for one GPU, base for several large ones.
        backbone: See masktree info backbone. Default: embedded for tiny and small.
        image_size: Longer side of the input in pixels, a multiple of 32. Default: 192 for tiny (hassod, cutler: 256),
            512 for small; base has the published sides.
        num_queries: Largest number of masks of an image (sohes, unsam). Default: 200 for tiny, 300 for small.
        config: TOML file of settings instead of those of the preset, in tables model, optimisation and augmentation.
        from_: Start with the weights of this run, or of owner/name on the hub, as far as they fit.
        val: Label set, or share of the images to hold out, such as 0.05, on which recall of the labels is measured;
            the best weights go to best/ in the run.
        val_every: Steps between. Default: a twentieth of all.
        backbone_lr_factor: Factor on the rate of pretrained weights; 0 freezes them. Default: 0 for tiny, 0.1 to 0.3
            for the others (hassod, cutler: 1).
        schedule: Learning rate after the warm-up: cosine falls to 0, step falls twice near the end. Default: cosine
            for tiny, step for small and base (hassod: constant).
    """
    from masktree.train.presets import find_preset
    from masktree.train.settings_file import read_settings
    from masktree.train.train import train as train_stage

    settings = find_preset(
        preset,
        size,
        backbone=backbone,
        image_size=image_size,
        num_queries=num_queries,
        settings=None if config is None else read_settings(config),
        backbone_lr_factor=backbone_lr_factor,
        schedule=schedule,
        **optimisation.overrides(),
    )
    validation = parse_validation(val, val_every)
    steps = train_stage(labels, output, settings, run, init_from=from_, validation=validation, show_progress=True)
    if int(os.environ.get("RANK", 0)) == 0:
        calibrate_run_and_best(output, labels, run)
        print(f"{steps} steps done, {settings.optimisation.steps} in total; the run is in {output}", flush=True)
    return 0


def parse_validation(val: str | None, every: int | None) -> Validation | None:
    """What --val and --val-every describe.

    Raises:
        InputError: a number out of range, or --val-every alone.
    """
    from masktree.stages.validation import read_validation

    if val is None and every is not None:
        raise InputError("expected --val-every with --val; got no --val; add it")
    return None if val is None else read_validation(val, every or 0)


def calibrate_run_and_best(output: Path, labels: Path, run: RunOptions) -> None:
    """Calibrate the scores of a run, and of its best weights if it was measured."""
    from masktree.models.saved import is_model
    from masktree.stages.calibration import calibrate_run

    for folder in (output, output / "best"):
        if folder == output or is_model(folder):
            calibrate_run(folder, labels, root=run.root, device=run.device, show_progress=True)
