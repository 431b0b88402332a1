"""Objectives on points, one point at a time."""

from __future__ import annotations

import math

import numpy as np


def bilinear(grid: np.ndarray, x: float, y: float) -> float:
    """Value of a (h, w) map at fractions of its width and height; cells have their value at their centres."""
    h, w = grid.shape
    u, v = min(max(x * w - 0.5, 0), w - 1), min(max(y * h - 0.5, 0), h - 1)
    left, top = int(u), int(v)
    right, bottom = min(left + 1, w - 1), min(top + 1, h - 1)
    a, b = u - left, v - top
    above = (1 - a) * grid[top, left] + a * grid[top, right]
    below = (1 - a) * grid[bottom, left] + a * grid[bottom, right]
    return (1 - b) * above + b * below


def mask_loss(logits, target) -> float:
    p = [1 / (1 + math.exp(-x)) for x in logits]
    return -sum(math.log(a) if t else math.log(1 - a) for a, t in zip(p, target, strict=True)) / len(p)


def dice_loss(logits, target) -> float:
    p = [1 / (1 + math.exp(-x)) for x in logits]
    both = sum(a * t for a, t in zip(p, target, strict=True))
    return 1 - (2 * both + 1) / (sum(p) + sum(target) + 1)


def class_loss(logits, matched, none_weight) -> float:
    total = 0.0
    for i, (entity, none) in enumerate(logits):
        whole = math.log(math.exp(entity) + math.exp(none))
        total += whole - entity if i in matched else none_weight * (whole - none)
    return total
