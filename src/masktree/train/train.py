"""The stage: a label set in, a run's folder out."""

from __future__ import annotations

from pathlib import Path

from masktree.train.initialisation import Initialisation
from masktree.train.loop import whole
from masktree.train.presets import Preset
from masktree.train.training_run import RunOptions, open_training_run

__all__ = ["RunOptions", "train"]


def train(
    labels: Path,
    output: Path,
    preset: Preset,
    *,
    start: Path | None = None,
    seed: int = 0,
    root: Path | None = None,
    overwrite: bool = False,
    options: RunOptions | None = None,
) -> int:
    """Train a model on a label set, from its beginning or from the last checkpoint in ``output`` on.

    Under ``torchrun`` every process calls this; they share the images of each step, and the same folders.

    Args:
        labels: folder of a finished label set, from ``masktree discover``.
        output: the run's folder; see ``masktree.train.run_folder``.
        preset: from ``masktree.train.presets``.
        start: folder of an earlier run (or a model's name on the hub) whose averaged weights this one begins with: all
            of them if the models have one architecture; else those tensors that fit, if all of the feature pyramid's
            do. None for the backbone's weights alone.
        seed: of the new weights and of every random choice.
        root: where the photographs are now, if they were moved.
        overwrite: begin anew where another run is.

    Returns:
        The number of steps that were done now.

    Raises:
        FormatError: no label set, an unfinished or damaged one; a damaged run.
        InputError: too few images; a run with other settings; a value out of range.
        WeightsError: the backbone cannot be had, there is no such device, or nothing of ``start`` fits.
        TrainingError: losses that are not finite, no memory, no room on the disk.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with a checkpoint of the last whole step written.
    """
    first = None if start is None else Initialisation.open(start)
    with open_training_run(
        labels, output, preset, seed=seed, root=root, overwrite=overwrite, options=options, start=first
    ) as stage:
        stage.begin()
        return stage.take(stage.batches, whole)
