"""Options of training that the command line shows as they are. Imports no torch, so that ``--help`` stays fast."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from masktree.errors import InputError

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out. Only ``seed`` and ``precision`` change its result beyond rounding.

    Attributes:
        device: Device: auto, cpu, cuda, cuda:N or mps.
        precision: Precision; auto is bfloat16 on GPUs that have it.
        workers: Other processes, which load data.
        seed: Seed of all random choices.
        root: Folder of the images, if they were moved.
        save_every: Seconds between checkpoints.
        sample_every: Steps between pictures; 0 makes none.
        skip_broken: Take other images for unreadable ones.
        overwrite: Start again, and replace the run that is there.

    Raises:
        InputError: a value out of range.
    """

    device: str = "auto"
    precision: Precision = "auto"
    workers: int = 0
    seed: int = 0
    root: Path | None = None
    save_every: float = 600.0
    sample_every: int = 500
    skip_broken: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("workers", "save_every", "sample_every"):
            if getattr(self, name) < 0:
                raise InputError(f"expected {name} of 0 or more; got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"expected a seed from 0 to {2**32 - 1}; got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class OptimisationOverrides:
    """Values of ``masktree.train.optimiser.Optimisation`` to replace; None keeps that of the preset or earlier run.

    Attributes:
        steps: Number of steps in total.
        batch_size: Number of images in a step, over all processes.
        accumulation_steps: Passes of a step, which save memory. Default: 1.
        lr: Learning rate after the warm-up.
        ema_decay: Decay of the averaged weights, which are the model.
    """

    steps: int | None = None
    batch_size: int | None = None
    accumulation_steps: int | None = None
    lr: float | None = None
    ema_decay: float | None = None

    def overrides(self) -> dict[str, Any]:
        """The values that are given, by name."""
        return {name: value for name in OVERRIDES if (value := getattr(self, name)) is not None}


OVERRIDES = tuple(item.name for item in fields(OptimisationOverrides))
