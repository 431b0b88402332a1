"""Supervised training: a label set in, a run folder out."""

from __future__ import annotations

from pathlib import Path

from masktree.models.build import build_model as default_build_model
from masktree.train.initialisation import Initialisation
from masktree.train.loop import single_batch
from masktree.train.options import RunOptions
from masktree.train.presets import Preset
from masktree.train.training_run import ModelBuilder, open_training_run
from masktree.train.validation import Validation


def train(
    labels: Path,
    output: Path,
    preset: Preset,
    options: RunOptions | None = None,
    *,
    init_from: str | Path | None = None,
    validation: Validation | None = None,
    build_model: ModelBuilder = default_build_model,
    show_progress: bool = False,
) -> int:
    """Train a model on a label set, or resume its training from the last checkpoint.

    Under ``torchrun`` every process calls this; they share the images of each step, and the same folders.

    Args:
        labels: folder of a finished label set, from ``masktree discover``.
        output: run folder; see ``masktree.train.run_folder``.
        preset: from ``masktree.train.presets``.
        options: how the run is carried out; None for the defaults.
        init_from: folder of an earlier run, or owner/name on the hub, whose averaged weights are the first weights: all
            of them for the same architecture, else those that fit, if the whole feature pyramid does. None for the
            backbone's weights alone.
        validation: measure the model on images that it does not learn from; RUN/best keeps the best weights.
        build_model: makes the model of a configuration.
        show_progress: show progress bars.

    Returns:
        The number of steps taken by this call.

    Raises:
        FormatError: no label set, an unfinished or damaged one; a damaged run.
        InputError: too few images; a run with other settings; a value out of range.
        WeightsError: no weights of the backbone, no such device, or nothing of ``init_from`` fits.
        TrainingError: losses that are not finite, no memory, no space on the disk.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with a checkpoint of the last complete step written.
    """
    with open_training_run(
        labels,
        output,
        preset,
        options or RunOptions(),
        initialisation=None if init_from is None else Initialisation.open(init_from),
        validation=validation,
        build_model=build_model,
        show_progress=show_progress,
    ) as run:
        run.restore()
        return run.run_steps(run.labelled_batches, single_batch)
