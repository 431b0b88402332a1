"""The rules of hierarchy.py written out on dense masks, one pair at a time."""

from __future__ import annotations

import numpy as np


def parents_by_coverage(masks: np.ndarray, cover: float) -> list[int]:
    parents = []
    for i, a in enumerate(masks):
        best, best_area = -1, 0
        for j, b in enumerate(masks):
            if i == j or a.sum() == 0 or b.sum() == 0:
                continue
            shared = (a & b).sum()
            under = shared / a.sum() >= cover and shared / b.sum() < cover
            if under and (best == -1 or b.sum() < best_area):
                best, best_area = j, b.sum()
        parents.append(best)
    return parents


def chain(parents: list[int], i: int) -> list[int]:
    """Ancestors of i from its parent up."""
    result = []
    while parents[i] != -1:
        i = parents[i]
        result.append(i)
    return result


def reparent(parents: list[int], keep: list[bool]) -> list[int]:
    kept = [i for i in range(len(parents)) if keep[i]]
    result = []
    for i in kept:
        above = [j for j in chain(parents, i) if keep[j]]
        result.append(kept.index(above[0]) if above else -1)
    return result


def nms(masks: np.ndarray, scores: np.ndarray, iou: float) -> list[int]:
    order = sorted(range(len(masks)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    for i in order:
        drop = False
        for j in kept:
            union = (masks[i] | masks[j]).sum()
            drop = drop or (union > 0 and (masks[i] & masks[j]).sum() / union > iou)
        if not drop:
            kept.append(i)
    return kept
