"""Scores of masks as their definitions say, one mask and one pair after the other."""

from __future__ import annotations


def expected_iou(probabilities) -> float:
    inside = [p for p in probabilities if p > 0.5]
    outside = [p for p in probabilities if p <= 0.5]
    return sum(inside) / max(1, len(inside) + sum(outside))


def iou(first: set, second: set) -> float:
    return len(first & second) / len(first | second) if first | second else 0.0


def scores(entity, masks, copy) -> list[float]:
    """``masks``: probabilities of each mask's cells."""
    own = [e**0.5 * expected_iou(mask) for e, mask in zip(entity, masks, strict=True)]
    cells = [{k for k, p in enumerate(mask) if p > 0.5} for mask in masks]
    result = []
    for i, score in enumerate(own):
        better = [j for j, other in enumerate(own) if (other, -j) > (score, -i)]
        most = max((iou(cells[i], cells[j]) for j in better), default=0.0)
        result.append(score * (1 - most) if most > copy else score)
    return result
