"""The folder of a training run.

Layout of a run::

    RUN/config.json         model, settings, label set, versions, hashes
    RUN/model.safetensors   averaged or last weights: the folder is a trained model from the first checkpoint on
    RUN/checkpoint.pt       full training state
    RUN/metrics.jsonl       one line per step
    RUN/losses.png          loss curves
    RUN/thresholds.png      self-training: score thresholds and pseudo-labels per image
    RUN/best/               config.json and model.safetensors of the weights that were best where the run was measured
    RUN/samples/            step-000500.png ...: images, pseudo-labels, predictions
    RUN/tensorboard/        if TensorBoard is installed
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from masktree.errors import FormatError, InputError, TrainingError
from masktree.io.contents import name_contents
from masktree.io.files import check_locked, is_whole, parse_json, write_atomically, write_json
from masktree.jobs.record import package_versions
from masktree.models.build import save_pretrained
from masktree.models.config import LATER_VALUES, ModelConfig, to_json
from masktree.models.saved import CALIBRATION, CONFIG, FORMAT, VERSION, WEIGHTS, is_model, read_header
from masktree.models.structures import Model
from masktree.train.loop import TrainingState
from masktree.train.plots import draw_losses, draw_thresholds
from masktree.types import RGB

CHECKPOINT, METRICS, LOSSES, THRESHOLDS = "checkpoint.pt", "metrics.jsonl", "losses.png", "thresholds.png"
SAMPLES, TENSORBOARD, BEST = "samples", "tensorboard", "best"
VALIDATION = "validation"  # key of config.json of the best weights
_FORMAT = "masktree-checkpoint"
_STEPS = "optimisation.steps"  # among the settings
# Settings that earlier versions did not record, at the values that their runs had.
LATER_SETTINGS: Mapping[str, Any] = {
    **{f"model.{name}": value for name, value in LATER_VALUES.items()},
    "optimisation.decay_biases": False,
    "optimisation.result": "average",
    "augmentation.padding": "crop",
    "augmentation.short_sides": [],
    "augmentation.max_side": 0,
    "augmentation.paste_rule": "objects",
    "self_training.views": "plain",
}
_PACKAGES = ("accelerate", "transformers", "torchvision", "safetensors")


@dataclass
class RunFolder:
    """The files of a run; a single process writes them.

    Attributes:
        folder: of the run.
        header: content of config.json.
        step: of the checkpoint; 0 without one.
    """

    folder: Path
    header: dict[str, Any]
    step: int = 0
    _checkpoint: dict[str, Any] | None = None
    _tensorboard: Any = None

    @classmethod
    def open(
        cls, folder: Path, config: ModelConfig, training: dict[str, Any], record: dict[str, Any], *, overwrite: bool
    ) -> RunFolder:
        """A new run in ``folder``, or the one that is there. Nothing is written before ``prepare``.

        A finished run goes on to a larger number of steps, by the schedule of that number; ``extended_at`` in its
        record lists where it did. A run that has saved nothing yet may be given other settings.

        Args:
            training: plain values that decide the result, beside the model's configuration; a run resumes only with the
                same ones.
            record: further values, which may change when a run resumes, as the device.
            overwrite: start again; ``prepare`` removes an earlier run's files.

        Raises:
            InputError: the folder holds a run with other settings, or files that are not a run's.
            FormatError: config.json or the checkpoint is damaged.
        """
        values = json.loads(json.dumps({"model": to_json(config), "training": training, "record": record}))
        header, record = {"format": FORMAT, "version": VERSION, **values}, values["record"]
        _refuse_foreign(folder)
        if overwrite or not (folder / CONFIG).exists():
            return cls(folder, header)
        before = read_header(folder)
        changed = _changes(before, header)
        if not (folder / CHECKPOINT).exists():
            if (folder / WEIGHTS).exists():
                raise InputError(
                    f"expected the checkpoint of the run in {folder}, {CHECKPOINT}; got its model alone, from which no "
                    "run goes on; choose another output folder (--from starts with these weights), or --overwrite"
                )
            return cls(folder, header)
        if changed.keys() == {_STEPS} and _is_extension(before, header):
            earlier = before.get("record", {}).get("extended_at")
            record["extended_at"] = [*(earlier if isinstance(earlier, list) else []), before["step"]]
            before, changed = before | {"training": header["training"]}, {}
        if changed:
            finish = "finish that run before it takes more steps, " if changed.keys() == {_STEPS} else ""
            raise InputError(
                f"expected the settings of the run already in {folder}; got other values for "
                f"{', '.join(changed.values())}; {finish}choose another output folder, or --overwrite"
            )
        checkpoint = _read_checkpoint(folder / CHECKPOINT, header)
        return cls(folder, before | {"record": before.get("record", {}) | record}, checkpoint["step"], checkpoint)

    def prepare(self) -> None:
        """Write config.json, and remove what is newer than the checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.step == 0:
            best = (f"{BEST}/{CONFIG}", f"{BEST}/{WEIGHTS}")
            for name in (CONFIG, CHECKPOINT, WEIGHTS, METRICS, LOSSES, THRESHOLDS, *best):
                (self.folder / name).unlink(missing_ok=True)
            for path in (self.folder / TENSORBOARD).glob("events.out.tfevents.*"):
                path.unlink()
        self.header["record"]["versions"] = package_versions(_PACKAGES)
        write_json(self.folder / CONFIG, self.header, indent=1)
        for path in self._samples():
            if int(path.stem.removeprefix("step-")) > self.step:
                path.unlink()
        metrics = [line for line in read_metrics(self.folder) if line["step"] <= self.step]
        text = "".join(json.dumps(line) + "\n" for line in metrics)
        write_atomically(self.folder / METRICS, lambda handle: handle.write(text.encode()))
        self._tensorboard = _open_tensorboard(self.folder / TENSORBOARD, self.step)

    def restore(self, state: TrainingState) -> None:
        """Load the checkpoint into a new state, if there is one.

        Raises:
            FormatError: the checkpoint is of another model.
        """
        if self._checkpoint is None:
            return
        try:
            state.load_state_dict(self._checkpoint)
        except (RuntimeError, KeyError, ValueError) as error:
            raise FormatError(
                f"{self.folder / CHECKPOINT}: expected the state of this run's model; got another "
                f"({' '.join(str(error).split())[:300]}); restore the file, or use --overwrite"
            ) from error
        self._checkpoint = None  # free its memory

    def log(self, metrics: dict[str, float]) -> None:
        """Append a step's metrics. A gradient norm that is not finite, as in float16, is written as null.

        Raises:
            InputError: the folder was removed meanwhile.
        """
        check_locked(self.folder)
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with (self.folder / METRICS).open("a") as handle:
            handle.write(json.dumps(finite) + "\n")
        if self._tensorboard is not None:
            for name, value in finite.items():
                if name != "step" and value is not None:
                    self._tensorboard.add_scalar(name, value, metrics["step"])

    def save(self, state: TrainingState) -> None:
        """Write checkpoint, averaged weights and curves, each atomically.

        Raises:
            TrainingError: the disk is full, or the folder cannot be written to; existing files are kept.
        """
        content = {"format": _FORMAT, "run": _identity(self.header), **state.state_dict()}
        try:
            write_atomically(self.folder / CHECKPOINT, lambda handle: _torch_save(content, handle))
            self._save_model(state)
        except OSError as error:
            kept = f"that of step {self.step} is kept" if self.step else "there is none yet"
            raise TrainingError(
                f"expected to write the checkpoint of step {state.step} into {self.folder}; got {error}; {kept}: free "
                "some space and run the same command again"
            ) from error
        self.step = state.step

    def keep_best(self, state: TrainingState, measure: str, value: float, images: int) -> bool:
        """Write the model's weights to RUN/best unless those there have at least this value of a measure; whether they
        were written.

        Raises:
            TrainingError: the disk is full, or the folder cannot be written to.
        """
        check_locked(self.folder)
        folder = self.folder / BEST
        found = {"step": state.step, "measure": measure, "value": value, "images": images}
        before = read_header(folder).get(VALIDATION, {}) if is_model(folder) else {}
        is_best = not before.get("value", -math.inf) >= value
        if is_best:
            try:
                folder.mkdir(exist_ok=True)
                save_pretrained(state.result_model, folder)  # type: ignore[arg-type]  # a Model, which nn.Module hides
                header = {name: content for name, content in self.header.items() if name != CALIBRATION}
                write_json(folder / CONFIG, header | {"step": state.step, VALIDATION: found}, indent=1)
            except OSError as error:
                raise TrainingError(
                    f"expected to write the best weights into {folder}; got {error}; free some space and run the same "
                    "command again"
                ) from error
        self.header["record"]["best"] = found if is_best else before
        return is_best

    def complete_save(self, state: TrainingState) -> None:
        """Write the model of the checkpoint if the last ``save`` was interrupted between the two."""
        if self.step and (self.header.get("step") != self.step or not (self.folder / WEIGHTS).exists()):
            self._save_model(state)

    def _save_model(self, state: TrainingState) -> None:
        """The run's weights and curves; config.json has the step and comes last, as the mark of a complete save."""
        model: Model = state.result_model  # type: ignore[assignment]  # which nn.Module hides
        save_pretrained(model, self.folder)
        metrics = list(read_metrics(self.folder))
        self.save_picture(LOSSES, lambda: draw_losses(metrics))
        if state.teacher is not None:
            self.save_picture(THRESHOLDS, lambda: draw_thresholds(metrics))
        self.header["step"] = state.step
        self.header.pop(CALIBRATION, None)  # that of earlier weights
        write_json(self.folder / CONFIG, self.header, indent=1)

    def save_picture(self, name: str, draw: Callable[[], RGB]) -> None:
        """Write an (H, W, 3) uint8 array as PNG."""
        from PIL import Image

        image = Image.fromarray(draw())
        write_atomically(self.folder / name, lambda handle: image.save(handle, format="PNG"))

    def close(self) -> None:
        """Close TensorBoard's writer."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _samples(self) -> list[Path]:
        return [p for p in (self.folder / SAMPLES).glob("step-*.png") if p.stem.removeprefix("step-").isdecimal()]


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """Metrics of each step of a run; an incomplete last line, left by a kill, is ignored.

    Raises:
        FormatError: another line is damaged.
    """
    path = folder / METRICS
    if not path.exists():
        return
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                metrics = parse_json(line, path)
            except FormatError:
                if not line.endswith(b"\n"):
                    return
                raise FormatError(
                    f"{path}: expected JSON in line {number}; got something else; delete the line"
                ) from None
            if not isinstance(metrics, dict) or not is_whole(metrics.get("step")):
                raise FormatError(f"{path}: expected metrics of a step in line {number}; got others; delete the line")
            yield metrics


def _refuse_foreign(folder: Path) -> None:
    """Raise InputError if the folder holds files of something else under a run's names."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder for the run; got the file {folder}; choose another name")
    has_model = is_model(folder)
    if has_model and "training" not in read_header(folder):
        raise InputError(
            f"expected a new folder, or that of a run; got {folder} of a model without training; choose another"
        )
    names = (CONFIG, CHECKPOINT, WEIGHTS, METRICS, LOSSES, THRESHOLDS, SAMPLES, TENSORBOARD, BEST)
    foreign = [] if has_model else [name for name in names if (folder / name).exists()]
    if foreign:
        raise InputError(
            f"expected no file {foreign[0]} of something else; got {folder / foreign[0]}; choose another output folder"
        )
    if not has_model and (others := name_contents(folder)) is not None:
        raise InputError(
            f"expected a new folder, or that of a run; got {others} in {folder}; choose another output folder"
        )


def _changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Descriptions of changed settings, by name."""
    new = _flatten(now)
    old = _completed(_flatten(before), new)
    return {
        key: f"{key} ({old.get(key)!r} there, {new.get(key)!r} now)"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }


def _is_extension(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a run has taken all its steps and is now to take more."""
    steps, done = _flatten(before).get(_STEPS), before.get("step")
    return isinstance(steps, int) and isinstance(done, int) and steps <= done < _flatten(now)[_STEPS]


def _flatten(header: dict[str, Any]) -> dict[str, Any]:
    """``model`` and ``training`` by dotted name, the latter without prefix."""
    result: dict[str, Any] = {}
    pending: list[tuple[str, Any]] = [(key, header.get(key)) for key in ("model", "training")]
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{name}.{key}", inner) for key, inner in value.items()]
        else:
            result[name.removeprefix("training.")] = value
    return result


def _identity(header: dict[str, Any]) -> str:
    """What a checkpoint and its run have in common: the settings but for the number of steps, which may grow."""
    return json.dumps({key: value for key, value in _flatten(header).items() if key != _STEPS}, sort_keys=True)


def _is_same_run(run: object, header: dict[str, Any]) -> bool:
    """Whether a checkpoint's ``run`` is the identity of the run with this header."""
    now: dict[str, Any] = json.loads(_identity(header))
    try:
        before = json.loads(str(run))
    except ValueError:
        return False
    return isinstance(before, dict) and _completed(before, now) == now


def _completed(flat: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run of an earlier version, by name, with those among ``now`` that it did not know."""
    return {name: value for name, value in LATER_SETTINGS.items() if name in now} | flat


def _torch_save(content: dict[str, Any], handle: IO[bytes]) -> None:
    try:
        torch.save(content, handle)
    except RuntimeError as error:  # of torch's archive writer, for a failed write
        raise (error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error))) from error


def _read_checkpoint(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise FormatError(
            f"{path}: expected a checkpoint; got a damaged file ({(str(error).splitlines() or [''])[0]}); "
            "restore it, or start again with --overwrite"
        ) from error
    if (
        not isinstance(content, dict)
        or content.get("format") != _FORMAT
        or not _is_same_run(content.get("run"), header)
        or content["step"] > _flatten(header).get(_STEPS, math.inf)
    ):
        raise FormatError(f"{path}: expected the checkpoint of this run; got another; restore it, or use --overwrite")
    return content


def _open_tensorboard(folder: Path, step: int) -> Any:
    """TensorBoard's writer if it is installed, else None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
