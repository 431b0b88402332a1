"""Costs of query and mask, and the cheapest assignment, by trying all."""

from __future__ import annotations

import itertools
import math

import numpy as np


def pair_cost(entity, logits, target, weights) -> float:
    """Of one query, ``entity`` its two logits, and one mask at the same points."""
    p = [1 / (1 + math.exp(-x)) for x in logits]
    bce = -sum(t * math.log(a) + (1 - t) * math.log(1 - a) for a, t in zip(p, target, strict=True)) / len(p)
    dice = 1 - (2 * sum(a * t for a, t in zip(p, target, strict=True)) + 1) / (sum(p) + sum(target) + 1)
    is_entity = math.exp(entity[0]) / (math.exp(entity[0]) + math.exp(entity[1]))
    return weights[1] * bce + weights[2] * dice - weights[0] * is_entity


def least_cost(costs: np.ndarray) -> float:
    """Lowest sum over all ways to give each row, or each column if they are fewer, one of the others."""
    if costs.shape[0] < costs.shape[1]:
        costs = costs.T
    q, n = costs.shape
    return min(sum(costs[row, k] for k, row in enumerate(rows)) for rows in itertools.permutations(range(q), n))
