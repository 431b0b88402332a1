"""Granularity, choice of masks and IoU of questions, written out from their definitions."""

from __future__ import annotations

import math


def granularity(areas, parents) -> list[float]:
    """0.1 + 0.9 (sqrt A - sqrt A_min) / (sqrt A_max - sqrt A_min) within each mask's tree."""

    def root(i):
        while parents[i] >= 0:
            i = parents[i]
        return i

    result = []
    for i, area in enumerate(areas):
        sides = [math.sqrt(a) for k, a in enumerate(areas) if root(k) == root(i)]
        spread = max(sides) - min(sides)
        result.append(1.0 if spread == 0 else 0.1 + 0.9 * (math.sqrt(area) - min(sides)) / spread)
    return result


def most_different(areas, most) -> list[int]:
    """The largest, the smallest, then again and again the one whose ratio to the nearest taken is largest."""
    everyone = list(range(len(areas)))
    if len(everyone) <= most:
        return everyone
    taken = [max(everyone, key=lambda i: areas[i]), min(everyone, key=lambda i: areas[i])]
    while len(taken) < most:
        rest = [i for i in everyone if i not in taken]
        taken.append(max(rest, key=lambda i: min(abs(math.log(areas[i] / areas[k])) for k in taken)))
    return sorted(taken)


def iou(a, b) -> float:
    both = sum(1 for x, y in zip(a, b, strict=True) if x and y)
    either = sum(1 for x, y in zip(a, b, strict=True) if x or y)
    return both / either if either else 0.0


def without_copies(masks, limit) -> list[int]:
    kept: list[int] = []
    for i, mask in enumerate(masks):
        if all(iou(mask, masks[k]) <= limit for k in kept):
            kept.append(i)
    return kept


def fourier(x, y, side, frequencies) -> list[float]:
    """Sines, then cosines, of 2 pi (f_x x + f_y y) / side."""
    turns = [2 * math.pi * (fx * x + fy * y) / side for fx, fy in zip(*frequencies, strict=True)]
    return [math.sin(t) for t in turns] + [math.cos(t) for t in turns]
