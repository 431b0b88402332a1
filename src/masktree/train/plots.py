"""Pictures of a run: curves of its losses, and what its model finds beside what it is taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from masktree.trees.draw import colour_labels, overlay
from masktree.trees.masktree import MaskTree
from masktree.types import RGB

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _EDGE = 900, 480, 64, 160, 28  # of the curves' picture, in pixels
_POINTS = 600  # most points of a curve; each is the mean of the steps around it
_OTHERS = ("step", "lr", "norm", "masks", "seconds")  # what a record has besides losses
_TEACHER = (
    "threshold_",
    "kept_",
    "weight_",
    "blind",
)  # and what it has of the teacher of self-training begins with these
_GAP = 6  # pixels between the pictures of a sheet


def draw_losses(records: Sequence[Mapping[str, Any]]) -> RGB:
    """Curves of every loss over the steps, on a logarithmic scale, as an (H, W, 3) uint8 array.

    A point is the mean of the steps around it; what is 0 or less is not drawn.
    """
    names = records[-1] if records else {}
    return _draw_curves(records, [n for n in names if n not in _OTHERS and not n.startswith(_TEACHER)], "losses")


def draw_thresholds(records: Sequence[Mapping[str, Any]]) -> RGB:
    """The same of the teacher's thresholds, and of the masks per image that it teaches."""
    names = records[-1] if records else {}
    return _draw_curves(records, [n for n in names if n.startswith(_TEACHER[:2])], "thresholds")


def _draw_curves(records: Sequence[Mapping[str, Any]], names: Sequence[str], kind: str) -> RGB:
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    curves = {name: _curve(records, name) for name in names}
    curves = {name: curve for name, curve in curves.items() if len(curve)}
    if not curves:
        draw.text((_LEFT, _HEIGHT // 2), f"no {kind} yet", fill="black")
        return np.asarray(image)
    values = np.log10(np.concatenate([curve[:, 1] for curve in curves.values()]))
    low, high = float(values.min()) - 0.05, float(values.max()) + 0.05
    last = max(curve[-1, 0] for curve in curves.values())
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _EDGE

    def place(step: float, value: float) -> tuple[float, float]:
        x = _LEFT + (right - _LEFT) * step / max(last, 1)
        return x, bottom - (bottom - _EDGE) * (value - low) / (high - low)

    for mark in _marks(low, high):
        y = place(0, np.log10(mark))[1]
        draw.line([(_LEFT, y), (right, y)], fill=(225, 225, 225))
        draw.text((8, y - 6), f"{mark:g}", fill="black")
    draw.text((_LEFT, bottom + 8), "0", fill="black")
    draw.text((right - 40, bottom + 8), f"step {last:g}", fill="black")
    colours = colour_labels(np.arange(len(curves), dtype=np.int32)[None])[0]
    for row, (name, curve) in enumerate(curves.items()):
        colour = (0, 0, 0) if name == "loss" else tuple(int(c) for c in colours[row])
        draw.line([place(step, np.log10(value)) for step, value in curve], fill=colour, width=2)
        draw.text((right + 10, _EDGE + 18 * row), f"{name} {curve[-1, 1]:.3g}", fill=colour)
    return np.asarray(image)


def draw_samples(rows: Sequence[tuple[RGB, MaskTree, MaskTree]], *, width: int = 384) -> RGB:
    """A sheet with a row for each photograph: it, its pseudo-labels, what the model finds; (H, W, 3) uint8.

    Args:
        rows: at least one image with two trees of its size.
        width: of each picture, in pixels.
    """
    strips = []
    for image, taught, found in rows:
        height = max(1, round(width * image.shape[0] / image.shape[1]))
        cells = [image, overlay(image, taught), overlay(image, found)]
        small = [np.asarray(Image.fromarray(cell).resize((width, height))) for cell in cells]
        gap = np.full((height, _GAP, 3), 255, np.uint8)
        strips.append(np.concatenate([small[0], gap, small[1], gap, small[2]], axis=1))
        strips.append(np.full((_GAP, strips[0].shape[1], 3), 255, np.uint8))
    return np.concatenate(strips[:-1])


def _curve(records: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """(k, 2): step and mean, at most ``_POINTS`` of them."""
    pairs = np.array([(r["step"], r[name]) for r in records if name in r], float).reshape(-1, 2)
    parts = np.array_split(pairs, min(len(pairs), _POINTS) or 1)
    means = np.array([part.mean(axis=0) for part in parts if len(part)]).reshape(-1, 2)
    return means[means[:, 1] > 0]


def _marks(low: float, high: float) -> list[float]:
    """Round numbers between 10^low and 10^high."""
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= np.log10(m) + p <= high]
