"""Multi-scale deformable attention written out: Zhu et al. 2021, arXiv 2010.04159, equations 2 and 3, in float64.

Weights are dictionaries of arrays by the names ``offsets``, ``weights``, ``values`` and ``output``, each with
``.weight`` and ``.bias``.
"""

from __future__ import annotations

import math

import numpy as np


def bilinear(plane: np.ndarray, x: float, y: float) -> np.ndarray:
    """Value of an (h, w, d) map at pixel coordinates, centres of cells at whole numbers, 0 outside."""
    h, w, d = plane.shape
    total = np.zeros(d)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < h and 0 <= column < w:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row, column]
    return total


def sample(values: np.ndarray, shapes: list, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One image: values (n, heads, d), places (q, heads, levels, points, 2), weights (q, heads, levels, points)."""
    queries, heads, levels, points, _ = places.shape
    result = np.zeros((queries, heads, values.shape[2]))
    for query in range(queries):
        for head in range(heads):
            start = 0
            for level in range(levels):
                h, w = shapes[level]
                plane = values[start : start + h * w, head].reshape(h, w, -1)
                start += h * w
                for point in range(points):
                    x, y = places[query, head, level, point]
                    seen = bilinear(plane, x * w - 0.5, y * h - 0.5)
                    result[query, head] += weights[query, head, level, point] * seen
    return result.reshape(queries, -1)


def attention(
    state: dict, queries: np.ndarray, centres: np.ndarray, maps: np.ndarray, shapes: list, heads: int, points: int
) -> np.ndarray:
    """One image: queries (q, dim), centres (q, 2), maps (n, dim)."""

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    levels, count = len(shapes), len(queries)
    logits = linear("attention_weights", queries).reshape(count, heads, levels * points)
    shares = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    offsets = linear("sampling_offsets", queries).reshape(count, heads, levels, points, 2)
    places = np.empty(offsets.shape)
    for level, (h, w) in enumerate(shapes):
        places[:, :, level] = centres[:, None, None] + offsets[:, :, level] / np.array([w, h])
    values = linear("value_proj", maps).reshape(len(maps), heads, -1)
    return linear("output_proj", sample(values, shapes, places, shares.reshape(count, heads, levels, points)))
