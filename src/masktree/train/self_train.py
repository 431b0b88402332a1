"""The stage of self-correction: a trained run and its label set in, a better run out.

A teacher, the moving average of the student, outlines photographs; the student learns its masks in a harder view of
them, and the labels beside. Sources: SOHES (Cao et al. 2024, arXiv 2404.12386) and HASSOD (Cao et al. 2023, arXiv
2402.03311, and its code).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from torch import Tensor

from masktree.errors import InputError
from masktree.jobs.progress import Progress
from masktree.models.structures import Batch
from masktree.train.initialisation import Initialisation
from masktree.train.loop import WeightedBatch
from masktree.train.optimiser import Optimisation
from masktree.train.presets import Preset
from masktree.train.pseudo_label_thresholds import FIXED, CollapseMonitor, Thresholds, labels_per_image
from masktree.train.teacher import COVER, Teacher
from masktree.train.teacher_views import TwoViewDataset, ViewBatch
from masktree.train.training_run import RunOptions, TrainingRun, open_training_run

Method = Literal["sohes", "hassod"]
MASK_LOSSES = frozenset({"mask", "dice", "mask_aux", "dice_aux"})  # of every kind of model


@dataclass(frozen=True, kw_only=True)
class TeacherStudentSettings:
    """How a run is corrected. Both methods take a model of any kind: the teacher's masks bring parents and levels.

    Attributes:
        method: sohes recomputes ancestors of the teacher's masks, hassod their levels at a looser coverage.
        score: least score of a mask that is taught; None for thresholds that follow the labels' sizes (SOHES).
        label_weight, teacher_weight: of the two branches' losses, at the first step and at the last; in between they
            follow half a cosine.
        mask_loss: whether the student learns the shapes of the teacher's masks; else only what and where things are.
        burn_in: steps in which it learns from the labels alone.
        paste: whether objects are pasted into labelled photographs, if they were when the run was trained.
        steps, batch, rate: of the optimiser, images of labels (and as many for the teacher), and learning rate;
            None for ``shares`` of the run's own.
        shares: of the run's steps, batch and rate.
        average: decay of the average that is the teacher; None for the run's.
        parts: as in ``Optimisation``.

    Raises:
        InputError: a value out of range.
    """

    method: Method
    score: float | None = None
    label_weight: tuple[float, float] = (1.0, 1.0)
    teacher_weight: tuple[float, float] = (1.0, 1.0)
    mask_loss: bool = True
    burn_in: int = 0
    paste: bool = True
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    shares: tuple[float, float, float] = (0.25, 1.0, 0.1)
    ema_decay: float | None = None
    accumulation_steps: int = 1

    def __post_init__(self) -> None:
        if self.score is not None and not 0 <= self.score < 1:
            raise InputError(f"expected a least score of the teacher's masks in [0, 1); got {self.score}")
        weights = (*self.label_weight, *self.teacher_weight)
        if not all(0 <= weight < math.inf for weight in weights):
            raise InputError(f"expected weights of 0 or more for both branches; got {weights}")
        if max(self.teacher_weight) == 0:
            raise InputError("expected a teacher that is listened to; got weight 0; use masktree train --from")
        if self.burn_in < 0:
            raise InputError(f"expected a burn-in of 0 steps or more; got {self.burn_in}")

    def optimisation(self, before: Optimisation) -> Optimisation:
        """That of a run before, made to end at rate 0 after a cosine (HASSOD; for SOHES our choice), with a warm-up as
        before but of at most a tenth of the steps (our choice).

        Raises:
            InputError: a value out of range, or a burn-in as long as the run.
        """
        steps, batch = (
            max(1, round(s * v)) for s, v in zip(self.shares, (before.steps, before.batch_size), strict=False)
        )
        steps = steps if self.steps is None else self.steps
        if self.burn_in >= steps:
            raise InputError(f"expected a burn-in shorter than the run; got {self.burn_in} of {steps} steps")
        return replace(
            before,
            steps=steps,
            batch_size=batch if self.batch_size is None else self.batch_size,
            lr=self.shares[2] * before.lr if self.lr is None else self.lr,
            ema_decay=before.ema_decay if self.ema_decay is None else self.ema_decay,
            warmup_steps=min(before.warmup_steps, steps // 10),
            schedule="cosine",
            milestones=(),
            accumulation_steps=self.accumulation_steps,
        )

    def weights(self, step: int, steps: int) -> tuple[float, float]:
        """Of the labels' losses and the teacher's in step ``step``, counted from 0, of ``steps``."""
        if step < self.burn_in:
            return self.label_weight[0], 0.0
        part = 0.5 - 0.5 * math.cos(math.pi * (step - self.burn_in) / (steps - self.burn_in))
        label, teacher = (a + part * (b - a) for a, b in (self.label_weight, self.teacher_weight))
        return label, teacher


# What sources do not say is our choice: that weights of SOHES are equal and constant, that its rate is a tenth of the
# run's (a short fine-tuning), that steps are a quarter of the run's. HASSOD: weights 1 to 0 and 2 to 3, the run's rate,
# 8 images of each branch where the run had 16, no pasted objects, no burn-in (code), score above 0.7. Its code leaves
# the teacher's masks out of the loss, its paper does not. Both averages are the run's: 0.9996 (HASSOD) in those of size
# base.
METHODS: Mapping[Method, TeacherStudentSettings] = {
    "sohes": TeacherStudentSettings(method="sohes"),
    "hassod": TeacherStudentSettings(
        method="hassod",
        score=FIXED,
        label_weight=(1.0, 0.0),
        teacher_weight=(2.0, 3.0),
        paste=False,
        shares=(0.25, 0.5, 1.0),
    ),
}


def find_method(method: str | None, kind: str = "sohes", **values: object) -> TeacherStudentSettings:
    """The settings of a method with some values replaced; None keeps.

    Args:
        method: None for hassod if the model's ``kind`` is that, else sohes.

    Raises:
        InputError: an unknown method, or a value out of range.
    """
    if method is None:
        method = "hassod" if kind == "hassod" else "sohes"
    if method not in get_args(Method):
        raise InputError(f"expected a method {', '.join(get_args(Method))}; got {method!r}")
    given: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    return replace(METHODS[cast("Method", method)], **given)


def self_train(
    run: Path,
    labels: Path,
    output: Path,
    settings: TeacherStudentSettings | None = None,
    *,
    seed: int = 0,
    root: Path | None = None,
    overwrite: bool = False,
    options: RunOptions | None = None,
) -> int:
    """Go on training a run's model with a teacher beside the labels, from its beginning or the last checkpoint on.

    The result is a run's folder like any other; its model is the teacher.

    Args:
        run: folder of an earlier run (or its name on the hub): its averaged weights are the first of teacher and
            student, its configuration and augmentation are kept.
        labels: folder of a finished label set, as a rule that of the run.
        output: folder of the new run.
        settings: from ``find_method``; None for that of the model's kind.
        seed, root, overwrite, options: as in ``train``.

    Returns:
        The number of steps that were done now.

    Raises:
        InputError: ``run`` is no training run, or is ``output``; and as ``train``.
        TrainingError: the teacher finds nothing any more, or one mask per image; and as ``train``. The last checkpoint
            stays.
        FormatError, WeightsError, KeyboardInterrupt: as ``train``.
    """
    start = Initialisation.open(run)
    if output.resolve() == start.folder.resolve():
        raise InputError(f"expected another folder than that of the run to begin with; got {output}")
    before = start.preset()
    settings = settings or find_method(None, before.model.kind)
    preset = _preset(before, settings)
    with open_training_run(
        labels,
        output,
        preset,
        seed=seed,
        root=root,
        overwrite=overwrite,
        options=options,
        start=start,
        further={"self_training": _decisive(settings)},
    ) as stage:
        warning = start.unfinished()
        stage.messages += [warning] if warning else []
        lessons = TeacherStudentStep.of(stage, settings, start)
        stage.begin(lessons.teacher)
        return stage.take(lessons.items, lessons.parts, name="self-train", note=lessons.note, rising=False)


@dataclass
class TeacherStudentStep:
    """What each step is made of: a batch of labels, and what the teacher makes of another."""

    stage: TrainingRun
    settings: TeacherStudentSettings
    teacher: Teacher
    views: TwoViewDataset
    report: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, stage: TrainingRun, settings: TeacherStudentSettings, start: Initialisation) -> TeacherStudentStep:
        augmentation = stage.augmentation
        if settings.score is None:
            thresholds = Thresholds(labels_per_image(stage.store))
        else:
            thresholds = Thresholds(fixed=settings.score)
        limits, watch = (augmentation.max_masks, augmentation.min_area), CollapseMonitor(origin=str(start.folder))
        teacher = Teacher(settings.method, thresholds, COVER[settings.method], *limits, watch)
        views = TwoViewDataset(stage.store, stage.root, augmentation, stage.seed, skip_broken=stage.options.skip_broken)
        return cls(stage, settings, teacher, views)

    def items(self, bar: Progress) -> Generator[tuple[Batch, ViewBatch], None, None]:
        with (
            contextlib.closing(self.stage.batches(bar)) as labelled,
            contextlib.closing(self.stage.read(self.views, bar)) as seen,
        ):
            yield from zip(labelled, seen, strict=True)

    def parts(self, item: tuple[Batch, ViewBatch]) -> list[WeightedBatch]:
        """The batches of a step. An image in which the teacher is sure of nothing teaches nothing: that nothing were in
        it is what a blind teacher would say of every image."""
        batch, views = item
        step, steps = self.stage.state.step, self.stage.preset.optimisation.steps
        label, weight = self.settings.weights(step, steps)
        self.report = {"weight_labels": label, "weight_teacher": weight}
        parts = [WeightedBatch(batch, label)]
        if step >= self.settings.burn_in:
            taught, report = self.teacher.teach(
                self.stage.state.averaged,
                views,
                self.stage.device,
                autocast=self.stage.accelerator.autocast,
                reduce=self._sum if self.stage.accelerator.num_processes > 1 else None,
            )
            self.report |= report
            without = frozenset() if self.settings.mask_loss else MASK_LOSSES
            parts.append(WeightedBatch(replace(taught, learn_from_empty=False), weight, "teacher_", without))
        return parts

    def note(self, bar: Progress) -> dict[str, float]:
        """What the record of the step says besides losses."""
        news = self.teacher.watch.news()
        if news is not None:
            bar.print(news)
        return self.report

    def _sum(self, values: Tensor) -> Tensor:
        accelerator, device = self.stage.accelerator, self.stage.device
        return accelerator.reduce(values.to(device), "sum").to(values.device)


def _preset(before: Preset, settings: TeacherStudentSettings) -> Preset:
    augmentation = before.augmentation if settings.paste else replace(before.augmentation, paste=0.0)
    return Preset(before.model, settings.optimisation(before.optimisation), augmentation)


def _decisive(settings: TeacherStudentSettings) -> dict[str, Any]:
    """What decides the result and does not stand among the values of optimisation and augmentation."""
    elsewhere = ("steps", "batch_size", "lr", "shares", "ema_decay", "accumulation_steps", "paste")
    return {name: value for name, value in asdict(settings).items() if name not in elsewhere}
