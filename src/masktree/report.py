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


def describe(topic: Literal["all", "backbone", "labels"], name: str | None) -> str:
    """What is installed; the backbones, or one of them; a label set."""
    if topic == "labels":
        if name is None:
            raise InputError("expected the folder of a label set: masktree info labels FOLDER")
        return _labels(Path(name))
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


def _lines(values: dict[str, Any]) -> str:
    width = max(len(key) for key in values)
    return "\n".join(f"{key.ljust(width)}  {value}" for key, value in values.items())
