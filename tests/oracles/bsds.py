"""The region benchmark of Arbelaez et al. 2011 written out region by region and pixel pair by pixel pair."""

from __future__ import annotations

from itertools import combinations
from math import log2

import numpy as np


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def best_overlaps(segmentation: np.ndarray, ground_truth: np.ndarray) -> list[tuple[int, float]]:
    """(|R|, max over R' of O(R, R')) for each region R of the ground truth."""
    out = []
    for r in np.unique(ground_truth):
        region = ground_truth == r
        out.append((int(region.sum()), max(overlap(region, segmentation == s) for s in np.unique(segmentation))))
    return out


def covering_sums(segmentation: np.ndarray, ground_truths: list[np.ndarray]) -> tuple[float, int]:
    pairs = [pair for ground_truth in ground_truths for pair in best_overlaps(segmentation, ground_truth)]
    return sum(area * value for area, value in pairs), sum(area for area, _ in pairs)


def best_sum(segmentations: list[np.ndarray], ground_truths: list[np.ndarray]) -> float:
    """Each ground truth region with its best overlap over all segmentations."""
    total = 0.0
    for ground_truth in ground_truths:
        each = [best_overlaps(segmentation, ground_truth) for segmentation in segmentations]
        total += sum(column[0][0] * max(value for _, value in column) for column in zip(*each, strict=True))
    return total


def rand_index(a: np.ndarray, b: np.ndarray) -> float:
    """Share of pixel pairs on which both agree: together in both or apart in both."""
    pairs = list(combinations(range(a.size), 2))
    a, b = a.ravel(), b.ravel()
    return sum((a[i] == a[j]) == (b[i] == b[j]) for i, j in pairs) / len(pairs)


def variation_of_information(a: np.ndarray, b: np.ndarray) -> float:
    """H(A) + H(B) - 2 I(A, B) in bits."""

    def entropy(*labels: np.ndarray) -> float:
        joint = list(zip(*(x.ravel().tolist() for x in labels), strict=True))
        return -sum(joint.count(v) / len(joint) * log2(joint.count(v) / len(joint)) for v in set(joint))

    mutual = entropy(a) + entropy(b) - entropy(a, b)
    return entropy(a) + entropy(b) - 2 * mutual
