"""Text for ``masktree info``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from masktree.backbones.embedded import CARD
from masktree.backbones.embedded import WEIGHTS as EMBEDDED
from masktree.backbones.texture import TextureBackbone
from masktree.backbones.weights import BUILT_IN, WEIGHTS, Weights, find_weights
from masktree.errors import InputError
from masktree.runs import versions


def describe(topic: Literal["all", "backbone", "labels", "model"], name: str | None) -> str:
    """What is installed; the backbones, or one of them; a label set; a trained model."""
    if topic == "labels":
        if name is None:
            raise InputError("expected the folder of a label set: masktree info labels FOLDER")
        return _labels(Path(name))
    if topic == "model":
        if name is None:
            raise InputError("expected the folder of a trained model: masktree info model FOLDER")
        return _model(name)
    if topic == "backbone":
        return _backbones() if name is None else _backbone(name)
    return "\n\n".join([_lines(versions()), _devices(), _backbones()])


def _backbone(name: str) -> str:
    lines = _lines(asdict(_record(name)))
    return f"{lines}\n\n{CARD.read_text(encoding='utf-8').rstrip()}" if name == "embedded" else lines


def _record(name: str) -> Weights:
    return {"embedded": EMBEDDED, "texture": TextureBackbone.provenance}.get(name) or find_weights(name)


def _devices() -> str:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return f"devices: cpu, cuda ({names})"
    return "devices: cpu" + (", mps" if torch.backends.mps.is_available() else "")


def _backbones() -> str:
    rows = [("name", "patch", "dim", "licence", "source")]
    for name in [*BUILT_IN, *WEIGHTS]:
        weights = _record(name)
        licence = weights.licence.partition(" (")[0]
        rows.append((name, str(weights.patch), str(weights.dim), licence, weights.source))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    return "backbones (default: embedded)\n" + table


def _labels(folder: Path) -> str:
    from masktree.labels import LabelSet

    index = LabelSet.open(folder).index
    config = {key: value for key, value in index["config"].items() if value not in (None, {})}
    return "\n\n".join([_lines(index["summary"]), "configuration\n" + _lines(config)])


def _model(name: str) -> str:
    """What the folder says: who it is, what it was trained on, and how it is built."""
    from masktree.segmenter import saved

    folder = saved.find_model(name)
    header = saved.read_header(folder)
    origin = asdict(saved.provenance(folder, name))
    weights = {
        "parameters": f"{saved.count_parameters(folder):,}",
        "bytes": f"{saved.weight_file(folder).stat().st_size:,}",
    }
    training = {key: value for key, value in header.items() if key not in ("format", "version", "model")}
    parts = [_lines(origin | weights), "model\n" + _lines(header["model"])]
    return "\n\n".join([*parts, "training\n" + _lines(_flat(training))] if training else parts)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as dotted names; what has no value is left out."""
    lines: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            lines |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            lines[prefix + key] = value
    return lines


def _lines(values: dict[str, Any]) -> str:
    width = max(len(key) for key in values)
    return "\n".join(f"{key.ljust(width)}  {value}" for key, value in values.items())
