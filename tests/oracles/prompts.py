"""Answers to prompts written out from their definitions."""

from __future__ import annotations

from itertools import product

import numpy as np


def least_cut(parents: np.ndarray, costs: np.ndarray, seeds: dict[int, int], top: int) -> float:
    """Least sum of the costs of nodes that lie on another side than their parents, over all ways to give each node a
    side that obey the seeds and have ``top`` in and its parent out; what is above the root is out."""
    m, best = len(parents), np.inf
    for sides in product((0, 1), repeat=m):
        above = [0 if i == m - 1 else sides[parents[i]] for i in range(m)]
        if sides[top] == 1 and above[top] == 0 and all(sides[i] == side for i, side in seeds.items()):
            best = min(best, sum(costs[i] for i in range(m) if sides[i] != above[i]))
    return best


def expected_ious(regions: list[np.ndarray], costs: np.ndarray) -> np.ndarray:
    """Mean IoU of each region with all of them, weighted by exp(-cost)."""
    chances = [np.exp(-cost) for cost in costs]
    return np.array(
        [sum(p * (a & b).sum() / (a | b).sum() for p, b in zip(chances, regions, strict=True)) for a in regions]
    ) / sum(chances)


def best_set(regions: list[np.ndarray], costs: np.ndarray, count: int) -> list[int]:
    """Regions taken one by one, each the one that raises the expected IoU of the best of them most."""
    chances = np.exp(-costs) / np.exp(-costs).sum()

    def value(chosen: list[int]) -> float:
        return sum(
            p * max((regions[c] & b).sum() / (regions[c] | b).sum() for c in chosen)
            for p, b in zip(chances, regions, strict=True)
        )

    chosen: list[int] = []
    for _ in range(count):
        left = [i for i in range(len(regions)) if i not in chosen]
        chosen.append(max(left, key=lambda i: value([*chosen, i])))
    return chosen
