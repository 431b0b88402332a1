"""UnSAM's self-training in whole rounds: a model labels its photographs anew, and is trained again on the result.

Source: Wang et al. 2024, arXiv 2406.20081: predictions with a score above 0.7, and those old pseudo-labels whose IoU
with all of them is below 0.5. Layout::

    OUTPUT/plan.json                  what is being done
    OUTPUT/round-1/predictions/       label set: what the model is sure of
    OUTPUT/round-1/labels/            label set: the same and the old labels that it does not have
    OUTPUT/round-1/run/               the model trained on it, which the next round begins with
    OUTPUT/rounds.json                counts and hashes of all rounds, and which model is the last; written last
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from masktree.errors import InputError, TrainingError
from masktree.io.files import lock_folder, read_json, sha256_of, write_json
from masktree.labels import LabelSet
from masktree.labels.merge import MergeRule
from masktree.models.saved import weight_file
from masktree.predict import SegmenterConfig
from masktree.stages.discover import discover
from masktree.stages.merge import merge
from masktree.train.initialisation import Initialisation
from masktree.train.presets import Preset
from masktree.train.train import train
from masktree.train.training_run import RunOptions

PLAN, RECORD = "plan.json", "rounds.json"
_SHAPE: dict[str, type] = {"format": str, "settings": dict}


@dataclass(frozen=True, kw_only=True)
class RoundsSettings:
    """How a model's labels are corrected.

    Attributes:
        rounds: how often.
        min_score: predictions above this score are kept (UnSAM: 0.7).
        predictions_per_image: choose the least score so that about this many are kept instead; see
            ``masktree.stages.target_count``.
        iou: old labels are kept whose IoU with all predictions is below this (UnSAM: 0.5).
        crops: look closer at large masks; see ``masktree.models.crops``.
        snap: draw predictions along the regions of the default method; see ``masktree.trees.snap``.
        fresh: train from the backbone's weights; otherwise from those of the model that made the predictions (our
            choice: the paper trains again without saying from what).
        steps, batch, rate, average, parts: of the optimiser; None for the run's own.

    Raises:
        InputError: a value out of range.
    """

    rounds: int = 1
    min_score: float = 0.7
    predictions_per_image: float | None = None
    iou: float = 0.5
    crops: bool = False
    snap: bool = False
    fresh: bool = False
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    ema_decay: float | None = None
    accumulation_steps: int | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"expected at least one round; got {self.rounds}")
        if not 0 <= self.min_score < 1:
            raise InputError(f"expected a least score of predictions in [0, 1); got {self.min_score}")
        MergeRule("fill", self.iou)

    def preset(self, before: Preset) -> Preset:
        """What each round trains with: what the first run was trained with, but for the values given."""
        names = ("steps", "batch_size", "lr", "ema_decay", "accumulation_steps")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(before, optimisation=replace(before.optimisation, **given))


def run_rounds(
    run: Path,
    labels: Path,
    output: Path,
    settings: RoundsSettings | None = None,
    *,
    seed: int = 0,
    root: Path | None = None,
    overwrite: bool = False,
    options: RunOptions | None = None,
) -> int:
    """Label photographs anew with a run's model, train on the result, and so on. Stopped at any moment, the same call
    goes on.

    Args:
        run: folder of a training run, or its name on the hub.
        labels: folder of a finished label set, as a rule that of the run; all photographs of its folder are labelled.
        output: folder of the rounds; see above. The last model is ``output/round-N/run``.
        seed, root, overwrite, options: as for ``masktree.train.train``.

    Returns:
        The number of training steps that were done now.

    Raises:
        InputError: ``run`` is no training run; ``output`` holds other rounds or other files; several processes.
        TrainingError: no prediction has the score; and as ``train``.
        FormatError, WeightsError, KeyboardInterrupt: as ``train``.
    """
    settings, options = settings or RoundsSettings(), options or RunOptions()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "expected one process for whole rounds; got several; or take the steps one by one: masktree discover "
            "--model RUN, masktree merge --rule fill --iou 0.5, and masktree train --from RUN under torchrun"
        )
    start, label_set = Initialisation.open(run), LabelSet.open(labels, root=root)
    photographs = Path(label_set.index["root"])
    if not photographs.is_dir():
        raise InputError(f"expected the folder of the photographs; got {photographs}; say where they are (--root)")
    preset = settings.preset(start.preset())
    shards = [shard["sha256"] for shard in label_set.index["shards"]]
    with lock_folder(output):
        _plan(output, asdict(settings) | {"seed": seed, "run": start.sha256, "labels": shards}, overwrite)
        done, model, latest, record = 0, start.folder, labels, []
        for number in range(1, settings.rounds + 1):
            folder = output / f"round-{number}"
            if not (folder / "labels/index.json").exists():
                _relabel(model, latest, folder, photographs, settings, seed, options)
            latest = folder / "labels"
            begin = None if settings.fresh else model
            done += train(latest, folder / "run", preset, start=begin, seed=seed, root=root, options=options)
            model = folder / "run"
            record.append(_record(folder, output))
        last = {"format": "masktree-rounds", "version": 1, "model": record[-1]["model"]}
        write_json(output / RECORD, last | {"settings": asdict(settings), "rounds": record}, indent=1)
    return done


def describe(output: Path) -> str:
    """What the rounds in a folder kept, a line for each, and where the last model is."""
    record = read_json(output / RECORD, {"model": str, "rounds": list})
    lines = [
        f"{item['name']}: {item['predictions']} predictions, {item['old_kept']} old labels kept, "
        f"{item['old_replaced']} replaced, in {item['images']} images"
        for item in record["rounds"]
    ]
    return "\n".join([*lines, f"the model is in {output / record['model']}"])


def _plan(output: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Write down what is being done, or find it there.

    Raises:
        InputError: something else is there.
    """
    path = output / PLAN
    ours = path.exists() and read_json(path, _SHAPE)["format"] == "masktree-rounds-plan"
    foreign = sorted(item.name for item in output.iterdir() if item.name.startswith("round")) if not ours else []
    if foreign or (path.exists() and not ours):
        raise InputError(
            f"expected no foreign files where rounds go; got {output / (foreign or [PLAN])[0]}; choose another output"
        )
    if ours and not overwrite:
        before = read_json(path, _SHAPE)["settings"]
        # More rounds are the same ones and then some.
        changed = [key for key, value in settings.items() if before.get(key) != value and key != "rounds"]
        if changed:
            raise InputError(
                f"expected the settings of the rounds already in {output}; got other values for "
                f"{', '.join(f'{k} ({before.get(k)!r:.40} there, {settings[k]!r:.40} now)' for k in changed)}; "
                "choose another output folder, or --overwrite"
            )
    if ours and overwrite:
        (output / RECORD).unlink(missing_ok=True)
        for folder in output.glob("round-*"):
            shutil.rmtree(folder)
    write_json(path, {"format": "masktree-rounds-plan", "version": 1, "settings": dict(settings)}, indent=1)


def _relabel(
    model: Path, old: Path, folder: Path, photographs: Path, settings: RoundsSettings, seed: int, options: RunOptions
) -> None:
    """A new label set: what the model is sure of, and the old labels beside it."""
    least = float(np.nextafter(np.float32(settings.min_score), np.float32(1)))  # scores above it, not at it
    limit = {} if settings.predictions_per_image is not None else {"min_score": least}
    config = SegmenterConfig(
        model=str(model),
        device=options.device,
        seed=seed,
        options=limit | {name: True for name in ("crops", "snap") if getattr(settings, name)},
    )
    predictions, show = folder / "predictions", options.show_progress
    wanted = settings.predictions_per_image
    discover(photographs, predictions, config, labels_per_image=wanted, show_progress=show)
    found = LabelSet.open(predictions).index["summary"]
    if found["masks"] == 0:
        raise TrainingError(
            f"expected predictions with a score above {settings.min_score} in {found['images']} images; got none; "
            "lower --teacher-score, say how many you want with --predictions-per-image, or train the first run longer"
        )
    rule = MergeRule("fill", settings.iou, strict=True)
    merge([predictions, old], folder / "labels", rule, images=photographs, show_progress=show)


def _record(folder: Path, output: Path) -> dict[str, Any]:
    index = LabelSet.open(folder / "labels").index
    new, old = index["sources"]
    return {
        "name": folder.name,
        "images": index["summary"]["images"],
        "predictions": new.get("kept", 0),
        "old_kept": old.get("kept", 0),
        "old_replaced": old.get("rejected", 0),
        "labels": index["weights"]["sha256"],
        "label_free": index["weights"]["label_free"],
        "model": (folder / "run").relative_to(output).as_posix(),
        "model_sha256": sha256_of(weight_file(folder / "run")),
    }
