"""Self-training in rounds (UnSAM): a model relabels its images, then a model is trained on the result.

Source: Wang et al. 2024, arXiv 2406.20081: predictions with a score above 0.7, and those earlier pseudo-labels whose
IoU with all of them is below 0.5. Layout::

    OUTPUT/plan.json                  settings
    OUTPUT/round-1/predictions/       label set: confident predictions
    OUTPUT/round-1/labels/            label set: those, and the earlier labels that they do not cover
    OUTPUT/round-1/run/               run trained on it, from which the next round starts
    OUTPUT/rounds.json                counts and hashes of all rounds, and the last model; written last
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from masktree.errors import FormatError, InputError, TrainingError
from masktree.io.files import lock_folder, read_json, refuse_inputs, sha256_of, write_json
from masktree.labels import LabelSet
from masktree.models.config import Mask2FormerConfig
from masktree.models.saved import read_config, weight_file
from masktree.predict import SegmenterConfig
from masktree.stages.calibration import calibrate_run
from masktree.stages.discover import discover
from masktree.stages.merge import merge
from masktree.stages.shards import Shard, take_thresholds
from masktree.train.distributed import Processes, connected_processes
from masktree.train.initialisation import Initialisation
from masktree.train.options import RunOptions
from masktree.train.self_training_settings import RoundsSettings
from masktree.train.train import train
from masktree.train.validation import Validation

PLAN, RECORD = "plan.json", "rounds.json"
_DONE = "shard.done"  # a share of the predictions is complete
_ROUND_KEYS = {"name", "predictions", "kept_labels", "replaced_labels", "images"}
_PLAN_KEYS: dict[str, type] = {"format": str, "settings": dict}


def run_rounds(
    earlier_run: str | Path,
    labels: Path,
    output: Path,
    settings: RoundsSettings | None = None,
    options: RunOptions | None = None,
    *,
    validation: Validation | None = None,
    show_progress: bool = False,
) -> int:
    """Relabel images with a run's model and train on the result, ``settings.rounds`` times; or resume.

    Under ``torchrun`` every process calls this. Each relabels a share of the images and trains on a share of each step;
    the main process merges and writes what they have in common.

    Args:
        earlier_run: folder of a training run, or owner/name on the hub.
        labels: folder of a finished label set, usually that of the run; all images of its collection are relabelled.
        output: folder of the rounds, see above; the last model is ``output/round-N/run``.
        settings: None for the defaults.
        options, validation, show_progress: as for ``masktree.train.train``; every round is measured by itself.

    Returns:
        The number of training steps taken by this call.

    Raises:
        InputError: ``earlier_run`` is no training run; ``output`` holds other rounds or other files.
        TrainingError: no prediction reaches the score threshold; and as ``train``.
        FormatError, WeightsError, KeyboardInterrupt: as ``train``.
    """
    settings, options = settings or RoundsSettings(), options or RunOptions()
    initialisation, label_set = Initialisation.open(earlier_run), LabelSet.open(labels, root=options.root)
    images = Path(label_set.index["root"])
    if not images.is_dir():
        raise InputError(f"expected the folder of the images; got {images}; give it with --root")
    preset = settings.preset(initialisation.preset())
    shards = [shard["sha256"] for shard in label_set.index["shards"]]
    plan = asdict(settings) | {"seed": options.seed, "earlier_run": initialisation.sha256, "labels": shards}
    if options.overwrite:
        refuse_inputs([output], [initialisation.folder, label_set.folder])
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(connected_processes(options.device))
        show = show_progress and processes.is_main
        if processes.is_main:
            stack.enter_context(lock_folder(output))
            _write_plan(output, plan, options.overwrite)
        processes.wait()
        relabel = partial(
            _relabel, images=images, settings=settings, options=options, processes=processes, show_progress=show
        )
        train_options = replace(options, overwrite=False)
        steps, model, latest, records = 0, initialisation.folder, labels, []
        for number in range(1, settings.rounds + 1):
            folder = output / f"round-{number}"
            if not (folder / "labels/index.json").exists():
                relabel(model, latest, folder)
            latest = folder / "labels"
            steps += train(
                latest,
                folder / "run",
                preset,
                train_options,
                init_from=None if settings.from_backbone else model,
                validation=validation,
                show_progress=show,
            )
            processes.wait()  # for the model
            model = folder / "run"
            records.append(_record(folder, output))
        if processes.is_main:
            calibrate_run(model, latest, root=options.root, device=options.device, show_progress=show)
            header = {"format": "masktree-rounds", "version": 1, "model": records[-1]["model"]}
            write_json(output / RECORD, header | {"settings": asdict(settings), "rounds": records}, indent=1)
    return steps


def summarise(output: Path) -> str:
    """A line per round with its numbers of labels, and the folder of the last model."""
    record = read_json(output / RECORD, {"model": str, "rounds": list})
    if not all(isinstance(item, dict) and item.keys() >= _ROUND_KEYS for item in record["rounds"]):
        raise FormatError(f"{output / RECORD}: expected a record of each round; got others; run the rounds again")
    lines = [
        f"{item['name']}: {item['predictions']} predictions, {item['kept_labels']} earlier labels kept, "
        f"{item['replaced_labels']} replaced, in {item['images']} images"
        for item in record["rounds"]
    ]
    return "\n".join([*lines, f"the model is in {output / record['model']}"])


def _write_plan(output: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Write the settings, or check those of the rounds that are there.

    Raises:
        InputError: rounds with other settings, or other files.
    """
    path = output / PLAN
    is_rounds = path.exists() and read_json(path, _PLAN_KEYS)["format"] == "masktree-rounds-plan"
    if not is_rounds:
        foreign = sorted(item.name for item in output.iterdir() if item.name.startswith("round") or item.name == PLAN)
        if foreign:
            raise InputError(
                f"expected no files of something else; got {output / foreign[0]}; choose another output folder"
            )
    elif overwrite:
        (output / RECORD).unlink(missing_ok=True)
        for folder in output.glob("round-*"):
            shutil.rmtree(folder)
    else:
        before = read_json(path, _PLAN_KEYS)["settings"]
        # More rounds continue the same ones.
        before = asdict(RoundsSettings()) | before  # what rounds of earlier versions do not name
        changed = [key for key, value in settings.items() if before.get(key) != value and key != "rounds"]
        if changed and any(output.glob("round-*")):
            raise InputError(
                f"expected the settings of the rounds already in {output}; got other values for "
                f"{', '.join(f'{k} ({before.get(k)!r:.40} there, {settings[k]!r:.40} now)' for k in changed)}; "
                "choose another output folder, or --overwrite"
            )
    write_json(path, {"format": "masktree-rounds-plan", "version": 1, "settings": dict(settings)}, indent=1)


def _relabel(
    model: Path,
    earlier_labels: Path,
    folder: Path,
    *,
    images: Path,
    settings: RoundsSettings,
    options: RunOptions,
    processes: Processes,
    show_progress: bool,
) -> None:
    """Write label sets of the model's predictions, and of these with the earlier labels that they do not cover."""
    predictions = folder / "predictions"
    above = float(np.nextafter(np.float32(settings.score_threshold), np.float32(1)))  # an exclusive threshold
    limits = {} if settings.average_predictions is not None else {"min_score": above}
    config = SegmenterConfig(
        model=str(model),
        device=options.device,
        seed=options.seed,
        # UnSAM's threshold is one of the model's own scores.
        options=limits
        | _score_option(model, settings)
        | {"calibrated": False}
        | {name: True for name in ("crops", "snap") if getattr(settings, name)},
    )
    shard_size = _shard_size(earlier_labels)
    predict = partial(
        discover,
        images,
        predictions,
        config,
        average_labels=settings.average_predictions,
        shard_size=shard_size,
        show_progress=show_progress,
    )
    if processes.count > 1:
        _predict_shares(predict, predictions, processes)
    if not processes.is_main:
        processes.wait_for([folder / "labels/index.json"])
        return
    predict()
    summary = LabelSet.open(predictions).index["summary"]
    if summary["masks"] == 0:
        shutil.rmtree(folder)  # so that the next command is free in its settings
        raise TrainingError(
            f"expected predictions with a score above {settings.score_threshold} in {summary['images']} images; got "
            "none; lower --score-threshold, give --average-predictions, or train the first run longer"
        )
    merge(
        [predictions, earlier_labels],
        folder / "labels",
        settings.rule(),
        images=images,
        shard_size=shard_size,
        show_progress=show_progress,
    )


def _shard_size(labels: Path) -> int | None:
    """Images in each COCO file of a label set of several files, so that processes share as many; None for one file."""
    shards = LabelSet.open(labels).index["shards"]
    return max(shard["images"] + len(shard["failures"]) for shard in shards) if len(shards) > 1 else None


def _predict_shares(predict: Callable[..., object], predictions: Path, processes: Processes) -> None:
    """Each process makes its share of the COCO files of predictions; the main one waits for the others."""
    shards = Shard(1, 1).split(processes.count)
    part = shards[processes.index].folder(predictions)
    predict(shard=shards[processes.index], workers=1)
    (part / _DONE).touch()
    if processes.is_main:
        processes.wait_for(shard.folder(predictions) / _DONE for shard in shards)
        take_thresholds(part, predictions)


def _score_option(model: Path, settings: RoundsSettings) -> dict[str, Any]:
    """The score that the threshold is one of, if it is not the model's own."""
    if settings.score is not None:
        return {"score": settings.score}
    config = read_config(model)
    return {"score": "object"} if isinstance(config, Mask2FormerConfig) and config.score == "published" else {}


def _record(folder: Path, output: Path) -> dict[str, Any]:
    index = LabelSet.open(folder / "labels").index
    predictions, earlier = index["sources"]
    return {
        "name": folder.name,
        "images": index["summary"]["images"],
        "predictions": predictions.get("kept", 0),
        "kept_labels": earlier.get("kept", 0),
        "replaced_labels": earlier.get("rejected", 0),
        "labels": index["weights"]["sha256"],
        "label_free": index["weights"]["label_free"],
        "model": (folder / "run").relative_to(output).as_posix(),
        "model_sha256": sha256_of(weight_file(folder / "run")),
    }
