"""Folders of trained models: ``config.json`` and ``model.safetensors``, as the Hugging Face hub expects.

Nothing here imports torch; ``build`` reads and writes the tensors.
"""

from __future__ import annotations

import math
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktree.errors import FormatError, InputError, WeightsError
from masktree.io.contents import describe_contents
from masktree.io.download import DownloadError, from_cache_or_network
from masktree.io.files import is_number, is_whole, parse_json, read_json, sha256_of
from masktree.models.config import ModelConfig, from_json
from masktree.trees.scores import ScoreCalibration

FORMAT = "masktree-model"
VERSION = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CALIBRATION = "score_calibration"  # key of config.json
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Origin of a trained model.

    Attributes:
        name: of its folder or on the hub.
        source: as given by the user.
        kind, backbone: of its configuration.
        sha256: of the weight file, lower-case hexadecimal.
        label_free: False if some of its training labels may be human, None if unknown.
    """

    name: str
    source: str
    kind: str
    backbone: str
    sha256: str
    label_free: bool | None = None


def is_model(path: Path) -> bool:
    """Whether ``path`` is a folder with the ``config.json`` of a model of masktree."""
    try:
        header = parse_json((path / CONFIG).read_bytes(), path)
    except (OSError, ValueError):
        return False
    return isinstance(header, dict) and header.get("format") == FORMAT


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ``owner/name`` and is not an existing path."""
    return is_hub_name(name) and not Path(name).exists()


def is_hub_name(name: str) -> bool:
    """Whether a name has the form ``owner/name``."""
    return _HUB_ID.fullmatch(name) is not None


def read_header(folder: Path) -> dict[str, Any]:
    """Content of ``config.json``: ``format``, ``version``, ``model``, and keys that the training run added.

    Raises:
        WeightsError: no such folder or file.
        FormatError: damaged, of something else, or of another version.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise WeightsError(
            f"expected the folder of a trained model, with {CONFIG}; got {describe_contents(folder)}; give the output "
            "folder of masktree train"
        )
    try:
        header = read_json(path, {"format": str, "version": int, "model": dict})
    except FormatError as error:
        raise FormatError(f"{error}; a trained model's folder is written by masktree train") from error
    if header["format"] != FORMAT or header["version"] != VERSION:
        raise FormatError(
            f"{path}: expected the format {FORMAT} in version {VERSION}; got {reprlib.repr(header['format'])} in "
            f"version {reprlib.repr(header['version'])}; use the masktree that wrote it, or train again"
        )
    damaged = [key for key in ("training", "record") if not isinstance(header.get(key, {}), dict)]
    if damaged or not is_whole(header.get("step", 0)):
        raise FormatError(
            f"{path}: expected {(*damaged, 'step')[0]} as the training run writes it; got "
            f"{reprlib.repr(header.get((*damaged, 'step')[0]))}; restore the file"
        )
    return header


def read_config(folder: Path) -> ModelConfig:
    """The configuration of the model in a folder.

    Raises:
        WeightsError, FormatError: as ``read_header``; also for invalid values.
    """
    header = read_header(folder)
    try:
        return from_json(header["model"])
    except FormatError as error:
        raise FormatError(f"{folder / CONFIG}: {error}; restore the file, or train again") from error


def read_calibration(folder: Path) -> ScoreCalibration | None:
    """The calibration of the model's scores, see ``masktree.stages.calibration``; None if there is none.

    Raises:
        WeightsError, FormatError: as ``read_header``; also for invalid values.
    """
    stored = read_header(folder).get(CALIBRATION)
    if stored is None:
        return None
    knots: list[Any] = [stored.get(key) for key in ("raw", "agreement")] if isinstance(stored, dict) else []
    if not knots or not all(isinstance(k, list) and all(is_number(value, 0, 1) for value in k) for k in knots):
        raise FormatError(f"{folder / CONFIG}: expected {CALIBRATION} with numbers; got others; restore the file")
    try:
        return ScoreCalibration(tuple(knots[0]), tuple(knots[1]))
    except InputError as error:
        raise FormatError(f"{folder / CONFIG}: {CALIBRATION}: {error}; restore the file") from error


def weight_file(folder: Path) -> Path:
    """Path of the weights of the model in a folder.

    Raises:
        WeightsError: there are none.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise WeightsError(
            f"expected the weights {str(path)!r} beside {CONFIG}; got no such file; let the training run get to its "
            "first checkpoint, or copy the whole folder"
        )
    return path


def provenance(folder: Path, source: str) -> Provenance:
    """The provenance of the model in ``folder``, given as ``source``; reads the weight file to hash it."""
    config = read_config(folder)
    return Provenance(
        name=source if is_hub_id(source) else folder.resolve().name,
        source=source,
        kind=config.kind,
        backbone=config.backbone,
        sha256=sha256_of(weight_file(folder)),
        label_free=is_label_free(read_header(folder)),
    )


def is_label_free(header: dict[str, Any]) -> bool | None:
    """Whether no human label was used for the training labels, by the ``config.json`` of a run; None if unknown."""
    record = header.get("record")
    weights = record.get("label_weights") if isinstance(record, dict) else None
    label_free = weights.get("label_free") if isinstance(weights, dict) else None
    return label_free if isinstance(label_free, bool) else None


def count_parameters(folder: Path) -> int:
    """Number of parameters and buffers in the weight file, from its header.

    Raises:
        WeightsError: missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = weight_file(folder)
    try:
        with safe_open(path, "np") as tensors:
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"expected tensors in {str(path)!r}; got a damaged file ({error}); copy it again") from error


def find_model(name: str | Path) -> Path:
    """Folder of a trained model: a local folder, or ``owner/name`` on the hub, which is downloaded once.

    Raises:
        WeightsError: neither, or neither cached nor downloadable.
    """
    name = str(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if is_hub_id(name):
        return _download(name)
    raise WeightsError(
        f"expected the folder of a trained model, or owner/name on the hub; got {name!r}; give the output folder of "
        "masktree train (backbones are given by --backbone)"
    )


def _download(name: str) -> Path:
    import huggingface_hub
    from huggingface_hub import constants

    def snapshot(local_files_only: bool) -> Path:
        files = [CONFIG, WEIGHTS]
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=files, local_files_only=local_files_only))

    def cached() -> Path | None:
        try:
            return snapshot(True)
        except (OSError, ValueError):  # LocalEntryNotFoundError is both
            return None

    try:
        return from_cache_or_network(cached, lambda: snapshot(False), constants.ENDPOINT, f"the model {name}")
    except DownloadError as error:
        raise WeightsError(
            f"expected a local folder {name!r}, or a model of that name in the hub's cache or on the network; got "
            f"{error}; check the spelling, connect once (it stays cached), or give the output folder of masktree train"
        ) from error
