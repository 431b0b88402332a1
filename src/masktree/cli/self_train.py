"""The verb self-train."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from masktree.cli.options import Output, print_error
from masktree.cli.train import (
    DEFAULT_RUN,
    NO_OVERRIDES,
    Optimisation,
    Run,
    calibrate_run_and_best,
    parse_validation,
)


@dataclass(frozen=True, kw_only=True)
class _TeacherOptions:
    """Options of the methods sohes and hassod.

    Attributes:
        setting: Method hassod as in the paper, or as in the released code.
        burn_in: Number of steps without the teacher. Default: 0.
        label_weight: First and last weight. Default: 1 1 (hassod: 1 0).
        teacher_weight: First and last weight. Default: 1 1 (hassod: 2 3).
        no_teacher_mask_loss: Learn no shapes from the teacher, as HASSOD's code.
    """

    setting: Literal["paper", "released"] = "paper"
    burn_in: int | None = None
    label_weight: tuple[float, float] | None = None
    teacher_weight: tuple[float, float] | None = None
    no_teacher_mask_loss: bool = False


@dataclass(frozen=True, kw_only=True)
class _RoundsOptions:
    """Options of the method rounds.

    Attributes:
        rounds: Number of rounds. Default: 1.
        score: The score that is compared (sohes, unsam). Default: object, where that of the model is published.
        average_predictions: Choose --score-threshold for this many on average.
        cutler: Values of CutLER: 3 rounds of half of the steps and rate, no DropLoss.
        iou: Keep labels that overlap less (IoU). Default: 0.5.
        crops: Predict again on crops around large masks.
        snap: Replace predictions by regions of the method masktree.
        from_backbone: Start from the backbone, not from the latest model.
    """

    rounds: int | None = None
    score: Literal["published", "object", "expected_iou"] | None = None
    average_predictions: float | None = None
    cutler: bool = False
    iou: float | None = None
    crops: bool = False
    snap: bool = False
    from_backbone: bool = False


def self_train(
    earlier_run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")],
    labels: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LABELS")],
    /,
    output: Output,
    method: Literal["sohes", "hassod", "rounds"] | None = None,
    score_threshold: float | None = None,
    optimisation: Optimisation = NO_OVERRIDES,
    teacher: Annotated[_TeacherOptions, tyro.conf.arg(name="")] = _TeacherOptions(),
    rounds: Annotated[_RoundsOptions, tyro.conf.arg(name="")] = _RoundsOptions(),
    val: Annotated[str | None, tyro.conf.arg(metavar="LABELS|SHARE")] = None,
    val_every: int | None = None,
    run: Run = DEFAULT_RUN,
) -> int:
    """Let a trained model correct its own labels. The same command resumes a stopped run from its last checkpoint.

    With sohes and hassod it learns the masks of a teacher beside the labels, in a quarter of the earlier run's steps;
    sohes takes a tenth of its learning rate, hassod half of its batch size. With rounds the model relabels all images,
    then it is trained on the result (UnSAM). Other settings are those of the earlier run.

    Args:
        earlier_run: Run to improve: its folder, or owner/name on the hub.
        labels: Label set that it was trained on, or another one.
        output: Folder of the new run; of rounds it is round-N/run.
        method: How labels are corrected. Default: hassod for a model of that kind, else sohes.
        score_threshold: Score above which predictions become labels. Default: 0.7 (sohes: one per size, which keeps
            as many masks as the labels have).
        val: Label set, or share of the images to hold out, on which recall of the labels is measured, as in train.
        val_every: Steps between. Default: a twentieth of all.
    """
    unsuitable = _given(teacher) if method == "rounds" else _given(rounds)
    if unsuitable:
        flags = ", ".join("--" + name.replace("_", "-") for name in unsuitable)
        return print_error(f"expected options of the method {method or 'sohes or hassod'}; got {flags}; omit them")
    validation, is_main = parse_validation(val, val_every), int(os.environ.get("RANK", 0)) == 0
    common = optimisation.overrides() | ({} if score_threshold is None else {"score_threshold": score_threshold})
    if method == "rounds":
        from masktree.stages.rounds import run_rounds, summarise
        from masktree.train.self_training_settings import RoundsSettings, cutler_rounds

        settings = (cutler_rounds if rounds.cutler else RoundsSettings)(**_given(rounds), **common)
        steps = run_rounds(earlier_run, labels, output, settings, run, validation=validation, show_progress=True)
        if is_main:
            print(f"{summarise(output)}\n{steps} steps done", flush=True)
        return 0
    from masktree.models.saved import find_model, read_config
    from masktree.train.self_train import self_train as self_train_stage
    from masktree.train.self_training_settings import find_method

    values = _given(teacher)
    if values.pop("no_teacher_mask_loss", False):
        values["mask_loss"] = False
    teacher_settings = find_method(method, read_config(find_model(earlier_run)).kind, **values, **common)
    steps = self_train_stage(
        earlier_run, labels, output, teacher_settings, run, validation=validation, show_progress=True
    )
    if is_main:
        calibrate_run_and_best(output, labels, run)
        print(f"{steps} steps done; the run is in {output}", flush=True)
    return 0


def _given(options: _TeacherOptions | _RoundsOptions) -> dict[str, Any]:
    """Options that differ from their defaults."""
    unset = (None, False, "paper")
    return {name: value for name, value in asdict(options).items() if value not in unset}
