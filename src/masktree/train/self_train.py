"""Self-training with a teacher: a trained run and its label set in, a better run out.

The teacher, an EMA of the student, predicts masks in a weak view of unlabelled images; the student learns them in a
strong view, beside the labels. Sources: SOHES (Cao et al. 2024, arXiv 2404.12386) and HASSOD (Cao et al. 2023, arXiv
2402.03311, and its code). The other way, rounds of relabelling, is ``masktree.stages.rounds``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from masktree.errors import InputError
from masktree.jobs.progress import Progress
from masktree.models.build import build_model as default_build_model
from masktree.models.structures import Batch, interleave
from masktree.train.collapse_monitor import CollapseMonitor
from masktree.train.initialisation import Initialisation
from masktree.train.loop import WeightedBatch
from masktree.train.options import RunOptions
from masktree.train.pseudo_label_thresholds import PseudoLabelThresholds, labels_per_image
from masktree.train.self_training_settings import TeacherStudentSettings, find_method
from masktree.train.teacher import MIN_COVERAGE, Teacher
from masktree.train.teacher_views import StrongLabelledDataset, TwoViewDataset, ViewBatch
from masktree.train.training_run import ModelBuilder, TrainingRun, open_training_run
from masktree.train.validation import Validation

MASK_LOSSES = frozenset({"mask", "dice", "mask_aux", "dice_aux"})  # of all kinds of models


def self_train(
    earlier_run: str | Path,
    labels: Path,
    output: Path,
    settings: TeacherStudentSettings | None = None,
    options: RunOptions | None = None,
    *,
    collapse_window: int = 100,
    validation: Validation | None = None,
    build_model: ModelBuilder = default_build_model,
    show_progress: bool = False,
) -> int:
    """Train a run's model further with a teacher beside the labels, or resume from the last checkpoint.

    The result is a run folder like any other; its model is the teacher.

    Args:
        earlier_run: folder of a run, or owner/name on the hub: its averaged weights initialise teacher and student, its
            configuration and augmentation are kept.
        labels: folder of a finished label set, usually that of the run.
        output: folder of the new run.
        settings: from ``find_method``; None for that of the model's kind.
        options, validation, build_model, show_progress: as in ``train``; the teacher does not see images held out.
        collapse_window: steps over which a collapsed teacher is detected.

    Returns:
        The number of steps taken by this call.

    Raises:
        InputError: ``earlier_run`` is no training run, or is ``output``; and as ``train``.
        TrainingError: the teacher has collapsed; and as ``train``. The last checkpoint is kept.
        FormatError, WeightsError, KeyboardInterrupt: as ``train``.
    """
    initialisation = Initialisation.open(earlier_run)
    if output.resolve() == initialisation.folder.resolve():
        raise InputError(f"expected another folder than that of the earlier run; got {output}")
    earlier = initialisation.preset()
    settings = settings or find_method(None, earlier.model.kind)
    with open_training_run(
        labels,
        output,
        settings.preset(earlier),
        options or RunOptions(),
        initialisation=initialisation,
        validation=validation,
        extra_settings={"self_training": settings.to_json()},
        build_model=build_model,
        show_progress=show_progress,
    ) as run:
        warning = initialisation.unfinished_warning()
        run.messages += [warning] if warning else []
        step = TeacherStudentStep.of(run, settings, CollapseMonitor(collapse_window, str(initialisation.folder)))
        run.restore(step.teacher)
        return run.run_steps(
            step.load_items, step.make_batches, title="self-train", extra_metrics=step.pop_metrics, ema_warmup=False
        )


@dataclass
class TeacherStudentStep:
    """The batches of a step: labelled images, and images with the teacher's masks.

    Attributes:
        run: the open run.
        settings: of self-training.
        teacher: makes the targets.
        views: weak and strong views of all images.
        strong: labelled images in the strong view, which are learned beside those in the plain one; None without.
        metrics: of the latest step.
    """

    run: TrainingRun
    settings: TeacherStudentSettings
    teacher: Teacher
    views: TwoViewDataset
    strong: StrongLabelledDataset | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, run: TrainingRun, settings: TeacherStudentSettings, monitor: CollapseMonitor) -> TeacherStudentStep:
        """Teacher and views for the label set of a run."""
        augmentation = run.data.settings
        if settings.score_threshold is None:
            thresholds = PseudoLabelThresholds(labels_per_image(run.store))
        else:
            thresholds = PseudoLabelThresholds(fixed=settings.score_threshold)
        coverage = MIN_COVERAGE[settings.method]
        teacher = Teacher(settings.method, thresholds, coverage, augmentation.max_masks, augmentation.min_area, monitor)
        options = run.options
        indices = run.without_held_out(np.arange(len(run.store)))
        views = TwoViewDataset(
            run.store, run.root, augmentation, options.seed, indices, skip_broken=options.skip_broken
        )
        strong = None
        if settings.views == "weak_and_strong":
            indices = run.without_held_out(run.store.images_with_masks())
            strong = StrongLabelledDataset(
                run.store, run.root, augmentation, options.seed, indices, skip_broken=options.skip_broken
            )
        return cls(run, settings, teacher, views, strong)

    def load_items(self, bar: Progress) -> Generator[tuple[Batch, ViewBatch], None, None]:
        """Labelled batch and views of each remaining step."""
        with (
            contextlib.closing(self._labelled_batches(bar)) as labelled,
            contextlib.closing(self.run.load(self.views, bar)) as views,
        ):
            yield from zip(labelled, views, strict=True)

    def _labelled_batches(self, bar: Progress) -> Generator[Batch, None, None]:
        if self.strong is None:
            yield from self.run.labelled_batches(bar)
            return
        with (
            contextlib.closing(self.run.labelled_batches(bar)) as plain,
            contextlib.closing(self.run.load(self.strong, bar)) as strong,
        ):
            yield from (interleave(*pair) for pair in zip(plain, strong, strict=True))

    def make_batches(self, item: tuple[Batch, ViewBatch]) -> list[WeightedBatch]:
        """The weighted batches of a step.

        An image without pseudo-labels has no loss: a collapsed teacher would teach that every image is empty.
        """
        labelled, views = item
        state, accelerator = self.run.state, self.run.accelerator
        label_weight, teacher_weight = self.settings.weights(state.step, self.run.preset.optimisation.steps)
        self.metrics = {"label_weight": label_weight, "teacher_weight": teacher_weight}
        batches = [WeightedBatch(labelled, label_weight)]
        if state.step >= self.settings.burn_in:
            pseudo_labels, metrics = self.teacher.make_targets(
                state.ema_model,
                views,
                self.run.device,
                autocast=accelerator.autocast,
                reduce=self._sum if accelerator.num_processes > 1 else None,
            )
            self.metrics |= metrics
            ignored_losses = frozenset() if self.settings.mask_loss else MASK_LOSSES
            pseudo_labels = replace(pseudo_labels, learn_from_empty=False)
            batches.append(WeightedBatch(pseudo_labels, teacher_weight, "teacher_", ignored_losses))
        return batches

    def pop_metrics(self, bar: Progress) -> dict[str, float]:
        """Metrics of the latest step besides its losses; shows a warning of the collapse monitor."""
        warning = self.teacher.monitor.pop_warning()
        if warning is not None:
            bar.print(warning)
        return self.metrics

    def _sum(self, values: Tensor) -> Tensor:
        total: Tensor = self.run.accelerator.reduce(values.to(self.run.device), "sum")
        return total.to(values.device)
