"""Verbs that train: train, self-train."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from masktree.cli.options import Output, print_error


@dataclass(frozen=True)
class _Running:
    """How a run is carried out.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps; with several processes a kind.
        precision: auto: bfloat16 on GPUs that have it, else float32. float16 on GPUs only.
        workers: Processes that load and augment photographs, for each process that trains; 0 does it in between.
        seed: Of new weights and of every random choice; makes a run repeatable.
        root: Folder of the photographs, if they were moved since the labels were made.
        save_every: Seconds between checkpoints.
        sample_every: Steps between pictures of what is found; 0 for none.
        skip_broken: Replace photographs that cannot be read by others, instead of ending.
        overwrite: Begin anew where another run is.
    """

    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    workers: int = 0
    seed: int = 0
    root: Path | None = None
    save_every: float = 600.0
    sample_every: int = 500
    skip_broken: bool = False
    overwrite: bool = False

    def arguments(self) -> dict[str, Any]:
        """As the stages of training take them."""
        from masktree.train.training_run import RunOptions

        names = ("device", "precision", "workers", "save_every", "sample_every", "skip_broken")
        options = RunOptions(**{name: getattr(self, name) for name in names}, show_progress=True)
        return {"seed": self.seed, "root": self.root, "overwrite": self.overwrite, "options": options}


Running = Annotated[_Running, tyro.conf.arg(name="")]


def train(
    labels: tyro.conf.Positional[Path],
    /,
    output: Output,
    preset: Literal["sohes", "unsam", "hassod", "promptable"] = "sohes",
    size: Literal["tiny", "small", "base"] = "small",
    backbone: str | None = None,
    image_size: int | None = None,
    queries: int | None = None,
    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    steps: int | None = None,
    batch_size: int | None = None,
    accumulation_steps: int | None = None,
    lr: float | None = None,
    backbone_lr_factor: float | None = None,
    schedule: Literal["constant", "cosine", "step"] | None = None,
    running: Running = _Running(),
) -> int:
    """Train a segmenter on a label set. Stopped at any moment, the same command goes on from the last checkpoint.

    On many GPUs, or many processes: torchrun --nproc-per-node N -m masktree train ...; they share each step's images.

    Args:
        labels: Folder of a finished label set, from `masktree discover`.
        output: Folder of the run, which `masktree segment --model` takes.
        preset: sohes: Mask2Former with an ancestor head. unsam: without it. hassod: Cascade Mask R-CNN with levels.
            promptable: answers clicks, boxes and granularities.
        size: base: as published, for several large GPUs. small: for one GPU. tiny: for a try on a CPU.
        backbone: The preset's if not given; `masktree info backbone` lists them.
        image_size: Pixels of the longer side, a multiple of 32.
        queries: Masks that can be found in an image (sohes, unsam).
        from_: Earlier run (its folder, or owner/name on the hub) whose weights this one begins with: all of the same
            architecture, else those that fit, if the whole feature pyramid does.
        steps: Of the optimiser, in all. Warm-up stays as it is.
        batch_size: Images of one step, over all processes together. Rate and steps stay as they are.
        accumulation_steps: Passes of each process per step, to save memory; the result is the same.
        lr: Learning rate after the warm-up.
        backbone_lr_factor: Factor on the rate for what begins pretrained; 0 keeps it as it is, which takes less time.
        schedule: What the rate does after the warm-up. constant; cosine: falls to 0; step: falls twice near the end.
    """
    from masktree.train.presets import find_preset
    from masktree.train.train import train as run

    chosen = find_preset(
        preset,
        size,
        backbone=backbone,
        image_size=image_size,
        queries=queries,
        steps=steps,
        batch_size=batch_size,
        accumulation_steps=accumulation_steps,
        lr=lr,
        backbone_lr_factor=backbone_lr_factor,
        schedule=schedule,
    )
    start = None if from_ is None else Path(from_)
    done = run(labels, output, chosen, start=start, **running.arguments())
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{done} steps done, {chosen.optimisation.steps} in all; the run is in {output}", flush=True)
    return 0


def self_train(
    run: tyro.conf.Positional[str],
    labels: tyro.conf.Positional[Path],
    /,
    output: Output,
    method: Literal["sohes", "hassod", "rounds"] | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    accumulation_steps: int | None = None,
    lr: float | None = None,
    ema_decay: float | None = None,
    burn_in: int | None = None,
    label_weight: tuple[float, float] | None = None,
    teacher_weight: tuple[float, float] | None = None,
    teacher_score: float | None = None,
    no_teacher_mask_loss: bool = False,
    rounds: int | None = None,
    predictions_per_image: float | None = None,
    iou: float | None = None,
    crops: bool = False,
    snap: bool = False,
    fresh: bool = False,
    running: Running = _Running(),
) -> int:
    """Let a trained segmenter correct its own labels: a teacher, the average of what is trained, labels photographs
    anew at every step. Stopped at any moment, the same command goes on from the last checkpoint.

    On many GPUs, or many processes: as masktree train. What is not given is the run's own, or the method's.

    Args:
        run: Folder of masktree train, or owner/name on the hub: the model to go on from.
        labels: Folder of the label set that it was trained on, or of another finished one.
        output: Folder of the new run, which `masktree segment --model` takes.
        method: sohes: thresholds that keep small, medium and large masks in the labels' proportion. hassod: score above
            0.7, labels fade out. That of the run's model if not given. rounds: no teacher at every step; photographs
            are labelled anew, then the model is trained on that (UnSAM); OUTPUT/round-1/run is the new run.
        steps: Of the optimiser, in all; a quarter of the run's (rounds: the run's, in each) if not given.
        batch_size: Labelled images of one step, and as many for the teacher. Default: the run's; hassod half of it.
        accumulation_steps: Passes of each process per step, to save memory; the result is the same.
        lr: Learning rate after the warm-up, which falls to 0 (rounds: as in the run). A tenth of the run's (hassod,
            rounds: the run's) if not given.
        ema_decay: Decay of the average that is the teacher.
        burn_in: Steps in which only the labels are learned.
        label_weight: Of the labels' losses, at the first step and at the last. sohes: 1 1, hassod: 1 0.
        teacher_weight: Of the losses of the teacher's masks, likewise. sohes: 1 1, hassod: 2 3.
        teacher_score: Least score of a mask that is taught, the same for all sizes; the method's rule if not given.
        no_teacher_mask_loss: Learn no shapes from the teacher's masks, as the released code of HASSOD.
        rounds: With --method rounds: how many; 1 if not given.
        predictions_per_image: With --method rounds: choose the least score so that about this many masks are taught.
        iou: With --method rounds: old labels stay if their IoU with all predictions is below; 0.5 if not given.
        crops: With --method rounds: look at large masks a second time, closer.
        snap: With --method rounds: draw what the model finds along the regions of the method masktree.
        fresh: With --method rounds: begin training with the backbone's weights instead of the last model's.
    """
    alien: dict[str, object]
    if method == "rounds":
        alien = {
            "--burn-in": burn_in,
            "--label-weight": label_weight,
            "--teacher-weight": teacher_weight,
            "--no-teacher-mask-loss": no_teacher_mask_loss or None,
        }
    else:
        alien = {
            "--rounds": rounds,
            "--predictions-per-image": predictions_per_image,
            "--iou": iou,
            "--crops": crops or None,
            "--snap": snap or None,
            "--fresh": fresh or None,
        }
    unfit = [name for name, value in alien.items() if value is not None]
    if unfit:
        return print_error(f"expected options of the method {method or 'sohes or hassod'}; got {', '.join(unfit)}")
    if method == "rounds":
        from masktree.stages.rounds import RoundsSettings, describe, run_rounds

        given = {
            "rounds": rounds,
            "min_score": teacher_score,
            "predictions_per_image": predictions_per_image,
            "iou": iou,
            "steps": steps,
            "batch_size": batch_size,
            "lr": lr,
            "ema_decay": ema_decay,
            "accumulation_steps": accumulation_steps,
        }
        wanted = RoundsSettings(
            crops=crops,
            snap=snap,
            fresh=fresh,
            **{k: v for k, v in given.items() if v is not None},  # type: ignore[arg-type]
        )
        done = run_rounds(Path(run), labels, output, wanted, **running.arguments())
        print(f"{describe(output)}\n{done} steps done", flush=True)
        return 0
    from masktree.models.saved import find_model, read_config
    from masktree.train.self_train import find_method
    from masktree.train.self_train import self_train as correct

    settings = find_method(
        method,
        read_config(find_model(run)).kind,
        steps=steps,
        batch_size=batch_size,
        accumulation_steps=accumulation_steps,
        lr=lr,
        ema_decay=ema_decay,
        burn_in=burn_in,
        label_weight=label_weight,
        teacher_weight=teacher_weight,
        score=teacher_score,
        mask_loss=False if no_teacher_mask_loss else None,
    )
    done = correct(Path(run), labels, output, settings, **running.arguments())
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{done} steps done; the run is in {output}", flush=True)
    return 0
