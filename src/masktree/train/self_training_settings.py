"""Settings of both ways of self-training: a teacher beside the student at every step, and rounds of relabelling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast, get_args

from masktree.errors import InputError
from masktree.labels.merge import MergeRule
from masktree.models.config import CascadeConfig, MaskScore
from masktree.train.optimiser import Optimisation
from masktree.train.options import OVERRIDES, OptimisationOverrides
from masktree.train.presets import Preset
from masktree.train.pseudo_label_thresholds import FIXED_THRESHOLD
from masktree.train.teacher import Method


@dataclass(frozen=True, kw_only=True)
class TeacherStudentSettings(OptimisationOverrides):
    """Self-training with an EMA teacher. Both methods accept a model of any kind.

    Attributes:
        method: sohes computes parents of the teacher's masks, hassod with a looser coverage.
        score_threshold: of the teacher's masks; None for thresholds that follow the labels' sizes (SOHES).
        label_weight, teacher_weight: of the losses of labels and teacher's masks, at the first and the last step, with
            half a cosine between.
        mask_loss: whether the student learns the shapes of the teacher's masks; else only classes and boxes.
        burn_in: steps without teacher.
        paste: keep copy-paste augmentation if the earlier run had it.
        steps_factor, batch_size_factor, lr_factor: multiply those of the earlier run where no override is given.
        views: of a labelled image that the student learns in a step: ``plain``, or ``weak_and_strong``, both the plain
            one and that with strong colours and erasing.
        drop_loss: keep DropLoss if the earlier run had it.
        whole_cosine: schedule and warm-up of the released code, see ``Optimisation``; else a cosine to 0 after a
            warm-up of at most a tenth of the steps.
        keep_student: the result is the student, not the teacher.

    Raises:
        InputError: a value out of range.
    """

    method: Method
    score_threshold: float | None = None
    label_weight: tuple[float, float] = (1.0, 1.0)
    teacher_weight: tuple[float, float] = (1.0, 1.0)
    mask_loss: bool = True
    burn_in: int = 0
    paste: bool = True
    steps_factor: float = 0.25
    batch_size_factor: float = 1.0
    lr_factor: float = 0.1
    views: Literal["plain", "weak_and_strong"] = "plain"
    drop_loss: bool = True
    whole_cosine: bool = False
    keep_student: bool = False

    def __post_init__(self) -> None:
        if self.score_threshold is not None and not 0 <= self.score_threshold < 1:
            raise InputError(f"expected a score threshold in [0, 1); got {self.score_threshold}")
        weights = (*self.label_weight, *self.teacher_weight)
        if not all(0 <= weight < math.inf for weight in weights):
            raise InputError(f"expected loss weights of 0 or more; got {weights}")
        if max(self.teacher_weight) == 0:
            raise InputError("expected a teacher weight above 0; got 0; to train on, use masktree train --from")
        if self.burn_in < 0:
            raise InputError(f"expected a burn-in of 0 steps or more; got {self.burn_in}")

    def optimisation(self, earlier: Optimisation) -> Optimisation:
        """That of the earlier run with a cosine to 0 (HASSOD; for SOHES our choice) and a warm-up of at most a tenth of
        the steps (our choice).

        Raises:
            InputError: a value out of range, or a burn-in as long as the run.
        """
        values = {
            "steps": max(1, round(self.steps_factor * earlier.steps)),
            "batch_size": max(1, round(self.batch_size_factor * earlier.batch_size)),
            "lr": self.lr_factor * earlier.lr,
        } | self.overrides()
        steps = values["steps"]
        if self.burn_in >= steps:
            raise InputError(f"expected a burn-in shorter than the run; got {self.burn_in} of {steps} steps")
        shape: dict[str, Any] = {"schedule": "cosine", "warmup_steps": min(earlier.warmup_steps, steps // 10)}
        if self.whole_cosine:
            shape = {"schedule": "whole_cosine", "warmup_steps": min(earlier.warmup_steps, steps // 2)}
        result: Literal["average", "last"] = "last" if self.keep_student else "average"
        return replace(earlier, **values, **shape, milestones=(), result=result)

    def preset(self, earlier: Preset) -> Preset:
        """The earlier run's with this optimisation."""
        augmentation = earlier.augmentation if self.paste else replace(earlier.augmentation, paste_prob=0.0)
        model = earlier.model
        if isinstance(model, CascadeConfig) and not self.drop_loss:
            model = replace(model, drop_loss=False)
        return Preset(model, self.optimisation(earlier.optimisation), augmentation)

    def weights(self, step: int, steps: int) -> tuple[float, float]:
        """Loss weights of labels and teacher's masks in step ``step``, counted from 0, of ``steps``."""
        if step < self.burn_in:
            return self.label_weight[0], 0.0
        progress = 0.5 - 0.5 * math.cos(math.pi * (step - self.burn_in) / (steps - self.burn_in))
        label, teacher = (a + progress * (b - a) for a, b in (self.label_weight, self.teacher_weight))
        return label, teacher

    def to_json(self) -> dict[str, Any]:
        """What decides the result and is not recorded among optimisation and augmentation."""
        recorded_elsewhere = (
            *(*OVERRIDES, "steps_factor", "batch_size_factor", "lr_factor", "paste"),
            *("drop_loss", "whole_cosine", "keep_student"),
        )
        return {name: value for name, value in asdict(self).items() if name not in recorded_elsewhere}


Setting = Literal["paper", "released"]
# HASSOD's released Mean Teacher (its code): 2,000 steps (a twentieth of 40,000) of 8 labelled images in both views and
# 8 of the teacher, a cosine whose warm-up of 1,000 steps leaves it a peak of half the rate, no DropLoss, no mask loss
# of the teacher's masks; the student is what it releases.
RELEASED: Mapping[str, Any] = {
    "steps_factor": 0.05,
    "views": "weak_and_strong",
    "drop_loss": False,
    "mask_loss": False,
    "whole_cosine": True,
    "keep_student": True,
}
# What the sources do not state is our choice: SOHES's equal, constant weights and its tenth of the learning rate (a
# short fine-tuning), a quarter of the steps. HASSOD: weights 1 to 0 and 2 to 3, full learning rate, 8 images of each
# branch where the run had 16, no copy-paste, no burn-in (code), score above 0.7. Its code ignores the mask losses of
# the teacher's masks, its paper does not. The EMA decay is the run's: 0.9996 (HASSOD) at size base.
METHODS: Mapping[Method, TeacherStudentSettings] = {
    "sohes": TeacherStudentSettings(method="sohes"),
    "hassod": TeacherStudentSettings(
        method="hassod",
        score_threshold=FIXED_THRESHOLD,
        label_weight=(1.0, 0.0),
        teacher_weight=(2.0, 3.0),
        paste=False,
        batch_size_factor=0.5,
        lr_factor=1.0,
    ),
}


def find_method(
    method: str | None, kind: str = "sohes", setting: Setting = "paper", **values: object
) -> TeacherStudentSettings:
    """Settings of a method with some values replaced; None keeps a value.

    Args:
        method: None for hassod if the model's ``kind`` is that, else sohes.
        setting: of hassod: as in the paper, or as in the code that the authors released.

    Raises:
        InputError: an unknown method or setting, or a value out of range.
    """
    if method is None:
        method = "hassod" if kind == "hassod" else "sohes"
    if method not in get_args(Method):
        raise InputError(f"expected a method {', '.join(get_args(Method))}; got {method!r}")
    if setting not in get_args(Setting) or (setting == "released" and method != "hassod"):
        raise InputError(
            f"expected the setting {' or '.join(get_args(Setting))}, the latter of the method hassod; got {setting!r} "
            f"of {method}"
        )
    given: dict[str, Any] = {**RELEASED} if setting == "released" else {}
    given |= {name: value for name, value in values.items() if value is not None}
    return replace(METHODS[cast("Method", method)], **given)


@dataclass(frozen=True, kw_only=True)
class RoundsSettings(OptimisationOverrides):
    """Rounds of relabelling and training (UnSAM, arXiv 2406.20081).

    Attributes:
        rounds: number of rounds.
        score_threshold: predictions with a higher score become labels (UnSAM: 0.7).
        score: which score, see ``Mask2FormerConfig``; None for the object probability, as in UnSAM's code, where scores
            of the model are as published, else for the scores of the model.
        average_predictions: choose the threshold so that about this many do instead; see
            ``masktree.stages.target_count``.
        iou: earlier labels are kept if their IoU with every prediction is lower (UnSAM: 0.5).
        crops: predict again on crops around large masks; see ``masktree.models.crops``.
        snap: snap predictions to the regions of the default method; see ``masktree.trees.snap``.
        cutler: steps, rate and losses of CutLER's rounds, see ``cutler_rounds``.
        from_backbone: start each training from the backbone's weights instead of the model that made the predictions
            (our choice: the paper does not say).

    Raises:
        InputError: a value out of range.
    """

    rounds: int = 1
    score_threshold: float = 0.7
    score: MaskScore | None = None
    average_predictions: float | None = None
    iou: float = 0.5
    crops: bool = False
    snap: bool = False
    cutler: bool = False
    from_backbone: bool = False

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"expected at least one round; got {self.rounds}")
        if not 0 <= self.score_threshold < 1:
            raise InputError(f"expected a score threshold in [0, 1); got {self.score_threshold}")
        self.rule()

    def rule(self) -> MergeRule:
        """How predictions and earlier labels are merged."""
        return MergeRule("fill", self.iou, strict=True)

    def preset(self, earlier: Preset) -> Preset:
        """The earlier run's with the overrides."""
        if not self.cutler:
            return replace(earlier, optimisation=replace(earlier.optimisation, **self.overrides()))
        if not isinstance(earlier.model, CascadeConfig):
            raise InputError(f"expected rounds of CutLER with a run of cutler or hassod; got {earlier.model.kind}")
        values: dict[str, Any] = {
            "steps": max(1, earlier.optimisation.steps // 2),
            "lr": earlier.optimisation.lr / 2,
            "schedule": "constant",
            "milestones": (),
            "weight_decay": 1e-4,
        } | self.overrides()
        augmentation = replace(earlier.augmentation, paste_scale=(0.5, 1.0))
        model = replace(earlier.model, drop_loss=False)
        return Preset(model, replace(earlier.optimisation, **values), augmentation)


def cutler_rounds(**values: Any) -> RoundsSettings:
    """Rounds of CutLER (arXiv 2301.11320, section 3.4, and its code) with some values replaced: three, each of half of
    the steps (80,000) at half the rate, weight decay 1e-4, without DropLoss, of objects pasted at .5 to 1 of their
    size."""
    return RoundsSettings(**({"rounds": 3, "cutler": True} | values))
