"""Merging of masks as UnSAM+ and non-maximum suppression define it, on dense masks, pair by pair."""

from __future__ import annotations

import numpy as np


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two masks that are not both empty."""
    return float((a & b).sum()) / float((a | b).sum())


def union(masks: list[np.ndarray], ranks: list[tuple], bound: float) -> list[int]:
    """Indices that greedy suppression keeps, in order of rank."""
    kept: list[int] = []
    for i in sorted(range(len(masks)), key=lambda i: ranks[i]):
        if all(iou(masks[i], masks[j]) <= bound for j in kept):
            kept.append(i)
    return kept


def fill(trusted: list[np.ndarray], others: list[np.ndarray], bound: float, strict: bool) -> list[int]:
    """Indices of the others that overlap with no trusted mask by more than the bound, or by as much."""
    kept = []
    for i, mask in enumerate(others):
        values = [iou(mask, other) for other in trusted]
        if not any(value >= bound if strict else value > bound for value in values):
            kept.append(i)
    return kept
