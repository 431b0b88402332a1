"""The folder that a training run lives in, and goes on from.

Layout of a run::

    RUN/config.json         model, settings, label set, versions, hashes; beside it
    RUN/model.safetensors   the averaged weights: the folder is a trained model from the first checkpoint on
    RUN/checkpoint.pt       all that the run goes on from
    RUN/metrics.jsonl       one line per step
    RUN/losses.png          the same as curves
    RUN/thresholds.png      of self-training: what the teacher must be sure of, and how many masks it teaches
    RUN/samples/            step-000500.png ...: photographs, pseudo-labels, what the model finds
    RUN/tensorboard/        where TensorBoard is installed
"""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from masktree.errors import FormatError, InputError, TrainingError
from masktree.io.files import write_atomically, write_json
from masktree.jobs.record import package_versions
from masktree.models.build import save_pretrained
from masktree.models.config import ModelConfig, to_json
from masktree.models.saved import CONFIG, FORMAT, VERSION, WEIGHTS, is_model, read_header
from masktree.models.structures import Model
from masktree.train.loop import TrainingState
from masktree.train.plots import draw_losses, draw_thresholds

CHECKPOINT, METRICS, LOSSES, THRESHOLDS, SAMPLES, BOARD = (
    "checkpoint.pt",
    "metrics.jsonl",
    "losses.png",
    "thresholds.png",
    "samples",
    "tensorboard",
)
_FORMAT = "masktree-checkpoint"
_PACKAGES = ("accelerate", "transformers", "torchvision", "safetensors")


@dataclass
class RunFolder:
    """One run's files; a single process writes them.

    Attributes:
        folder: where they are.
        header: content of config.json.
        step: of the checkpoint in the folder; 0 where there is none yet.
    """

    folder: Path
    header: dict[str, Any]
    step: int = 0
    _content: dict[str, Any] | None = None
    _board: Any = None

    @classmethod
    def open(
        cls, folder: Path, config: ModelConfig, training: dict[str, Any], record: dict[str, Any], *, overwrite: bool
    ) -> RunFolder:
        """Begin a run in ``folder``, or find the one that is there. Nothing is written; ``begin`` does.

        Args:
            training: plain values that decide the result, beside the model's configuration. A run goes on with the
                same ones only.
            record: further values to note, such as the device, which may change from one start to the next.
            overwrite: begin anew; an earlier run's files are removed by ``begin``.

        Raises:
            InputError: the folder holds a run with other settings, or files that are not a run's.
            FormatError: config.json or the checkpoint is damaged.
        """
        values = json.loads(json.dumps({"model": to_json(config), "training": training, "record": record}))
        header = {"format": FORMAT, "version": VERSION, **values}
        _refuse_foreign(folder)
        if overwrite or not (folder / CONFIG).exists():
            return cls(folder, header)
        before = read_header(folder)
        changed = _changes(before, header)
        if changed:
            raise InputError(
                f"expected the settings of the run already in {folder}; got other values for {', '.join(changed)}; "
                "choose another output folder, or --overwrite"
            )
        run = cls(folder, before | {"record": before.get("record", {}) | header["record"]})
        if (folder / CHECKPOINT).exists():
            run._content = _read_checkpoint(folder / CHECKPOINT, header)
            run.step = run._content["step"]
        return run

    def begin(self) -> None:
        """Write config.json; bring everything else in the folder to the state of the checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.step == 0:
            for name in (CONFIG, CHECKPOINT, WEIGHTS, METRICS, LOSSES, THRESHOLDS):
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / BOARD, ignore_errors=True)
        self.header["record"]["versions"] = package_versions(_PACKAGES)
        write_json(self.folder / CONFIG, self.header, indent=1)
        for path in self._samples():
            if int(path.stem.removeprefix("step-")) > self.step:
                path.unlink()
        kept = [line for line in read_metrics(self.folder) if line["step"] <= self.step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self.folder / METRICS, lambda handle: handle.write(text.encode()))
        self._board = _open_board(self.folder / BOARD, self.step)

    def restore(self, state: TrainingState) -> None:
        """Bring a new state to that of the checkpoint, if there is one.

        Raises:
            FormatError: it is one of another model.
        """
        if self._content is None:
            return
        try:
            state.restore(self._content)
        except (RuntimeError, KeyError, ValueError) as error:
            raise FormatError(
                f"{self.folder / CHECKPOINT}: expected the state of this run's model; got another "
                f"({' '.join(str(error).split())[:300]}); restore the file, or --overwrite"
            ) from error
        self._content = None  # it has the size of the whole state

    def log(self, record: dict[str, Any]) -> None:
        """Add a step's record. A norm that is not finite, as lower precision has them, is noted as none."""
        record = {k: v if math.isfinite(v) else None for k, v in record.items()}
        with (self.folder / METRICS).open("a") as handle:
            handle.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in record.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, record["step"])

    def save(self, state: TrainingState) -> None:
        """Write checkpoint, averaged weights and curves, each whole or not at all.

        Raises:
            TrainingError: the disk is full, or the folder cannot be written to any more; what was there stays.
        """
        content = {"format": _FORMAT, "run": _identity(self.header), **state.content()}
        model: Model = state.averaged  # type: ignore[assignment]
        try:
            write_atomically(self.folder / CHECKPOINT, lambda handle: _save(content, handle))
            self.header["step"] = state.step
            write_json(self.folder / CONFIG, self.header, indent=1)
            save_pretrained(model, self.folder)
            records = list(read_metrics(self.folder))
            self.picture(LOSSES, lambda: draw_losses(records))
            if state.teacher is not None:
                self.picture(THRESHOLDS, lambda: draw_thresholds(records))
        except OSError as error:
            kept = f"the one of step {self.step} stays" if self.step else "there is none yet"
            raise TrainingError(
                f"expected to write the checkpoint of step {state.step} into {self.folder}; got {error}; {kept}: free "
                "some room and run the same command again"
            ) from error
        self.step = state.step

    def picture(self, name: str, draw: Callable[[], np.ndarray]) -> None:
        """Write an (H, W, 3) uint8 array as PNG."""
        from PIL import Image

        image = Image.fromarray(draw())
        write_atomically(self.folder / name, lambda handle: image.save(handle, format="PNG"))

    def close(self) -> None:
        if self._board is not None:
            self._board.close()

    def _samples(self) -> list[Path]:
        return [p for p in (self.folder / SAMPLES).glob("step-*.png") if p.stem.removeprefix("step-").isdecimal()]


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """Records of the steps of a run, one after the other; a last line that a kill tore is left out."""
    path = folder / METRICS
    if not path.exists():
        return
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                record = json.loads(line)
            except ValueError:
                if not line.endswith(b"\n"):
                    return
                raise FormatError(f"{path}: expected JSON in line {number}; got something else; delete it") from None
            yield record


def _refuse_foreign(folder: Path) -> None:
    """Raise InputError where files stand that are not a run's."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder for the run; got the file {folder}")
    own = is_model(folder)
    if own and "training" not in read_header(folder):
        raise InputError(f"expected a new folder, or that of a run; got {folder} of a model; choose another")
    names = (CONFIG, CHECKPOINT, WEIGHTS, METRICS, LOSSES, THRESHOLDS, SAMPLES, BOARD)
    foreign = [] if own else [name for name in names if (folder / name).exists()]
    if foreign:
        raise InputError(
            f"expected no foreign files where a run's go; got {folder / foreign[0]}; choose another output folder"
        )


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences of what decides the result, for people."""
    old, new = _flat(before), _flat(now)
    return [
        f"{key} ({old.get(key)!r} there, {new.get(key)!r} now)"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _flat(header: dict[str, Any]) -> dict[str, Any]:
    """``model`` and ``training`` by dotted name."""
    found: dict[str, Any] = {}
    pending: list[tuple[str, Any]] = [(part, header.get(part)) for part in ("model", "training")]
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{name}.{key}", inner) for key, inner in value.items()]
        else:
            found[name.removeprefix("training.")] = value
    return found


def _identity(header: dict[str, Any]) -> str:
    return json.dumps([header["model"], header["training"]], sort_keys=True)


def _save(content: dict[str, Any], handle: Any) -> None:
    try:
        torch.save(content, handle)
    except RuntimeError as error:  # how torch's archive writer tells of a failed write
        raise (error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error))) from error


def _read_checkpoint(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise FormatError(
            f"{path}: expected a checkpoint; got a damaged file ({(str(error).splitlines() or [''])[0]}); "
            "restore it, or --overwrite to begin anew"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("run") != _identity(header):
        raise FormatError(f"{path}: expected the checkpoint of this run; got another; restore it, or --overwrite")
    return content


def _open_board(folder: Path, step: int) -> Any:
    """TensorBoard's writer where it is installed, else None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
