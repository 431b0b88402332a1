"""Dynamic thresholds from a list of all that was ever seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from masktree.train.pseudo_label_thresholds import INITIAL_THRESHOLD, MAX_THRESHOLD, MEMORY_IMAGES, MIN_THRESHOLD

Seen = Sequence[tuple[float, float]]  # score and area of each mask of an image


def dynamic_thresholds(steps: Sequence[Sequence[Seen]], wanted: Sequence[float]) -> list[float]:
    """The highest multiple of 0.001 that leaves enough masks of each size per image, over images that fade away.

    An image counts for (1 - 1 / MEMORY_IMAGES) to the number of images of all later steps.
    """
    limits = ((0, 32**2), (32**2, 96**2), (96**2, math.inf))
    if not steps:
        return [INITIAL_THRESHOLD] * 3
    found = []
    for (low, high), least in zip(limits, wanted, strict=True):
        images, masks = 0.0, []
        for index, step in enumerate(steps):
            later = sum(len(own) for own in steps[index + 1 :])
            weight = (1 - 1 / MEMORY_IMAGES) ** later
            images += weight * len(step)
            masks += [(score, weight) for image in step for score, area in image if low <= area < high]
        threshold = 0
        for candidate in range(999, -1, -1):
            kept = math.fsum(weight for score, weight in masks if math.floor(score * 1000) >= candidate)
            if kept >= least * images * (1 - 1e-9):
                threshold = candidate
                break
        found.append(min(max(threshold / 1000, MIN_THRESHOLD), MAX_THRESHOLD))
    return found
