"""Ancestor head and forest, written out pair by pair."""

from __future__ import annotations

import math

import numpy as np


def logits(queries, u, v, bias) -> np.ndarray:
    n, d = queries.shape
    return np.array([[(u @ queries[i]) @ (v @ queries[j]) / math.sqrt(d) + bias for j in range(n)] for i in range(n)])


def loss(values, is_ancestor, positive) -> float:
    """Mean cross-entropy over ordered pairs of different masks, ancestors counting ``positive`` times."""
    total = weight = 0.0
    for i in range(len(values)):
        for j in range(len(values)):
            if i != j:
                p = 1 / (1 + math.exp(-values[i][j]))
                w = positive if is_ancestor[i][j] else 1
                total -= w * math.log(p if is_ancestor[i][j] else 1 - p)
                weight += w
    return total / weight


def parents(probabilities, areas, threshold=0.5) -> list[int]:
    """Every mask's smallest predicted ancestor; while there is a cycle, forbid its weakest link and start again."""
    n = len(areas)
    above = [[j != i and probabilities[i][j] > threshold and areas[j] >= areas[i] for j in range(n)] for i in range(n)]
    many = [sum(row) for row in above]
    while True:
        result = []
        for i in range(n):
            allowed = [j for j in range(n) if above[i][j]]
            result.append(min(allowed, key=lambda j: (areas[j], -many[j], j), default=-1))
        cycle = _cycle(result)
        if not cycle:
            return result
        weakest = min(cycle, key=lambda i: (probabilities[i][result[i]], i))
        above[weakest][result[weakest]] = False


def _cycle(result) -> list[int]:
    for start in range(len(result)):
        seen = []
        node = start
        while node >= 0 and node not in seen:
            seen.append(node)
            node = result[node]
        if node >= 0:
            return seen[seen.index(node) :]
    return []
