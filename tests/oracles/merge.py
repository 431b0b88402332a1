"""The published merge rule, written out on sets of patches: slow, literal, without heap or sums of edges."""

from __future__ import annotations

import numpy as np


def merge_sequence(features: np.ndarray) -> list[tuple[frozenset[int], frozenset[int], float]]:
    """(first region, second region, similarity) of every merge, in order, first maximal edge winning."""
    h, w, _ = features.shape
    flat = features.reshape(h * w, -1).astype(np.float64)

    def similarity(a: frozenset[int], b: frozenset[int]) -> float:
        x, y = flat[sorted(a)].sum(axis=0), flat[sorted(b)].sum(axis=0)
        norm = np.sqrt((x @ x) * (y @ y))
        return float(x @ y / norm) if norm > 0 else 0.0

    edges: dict[tuple[frozenset[int], frozenset[int]], float] = {}
    for i in range(h * w):
        if i % w < w - 1:
            edges[frozenset([i]), frozenset([i + 1])] = similarity(frozenset([i]), frozenset([i + 1]))
        if i // w < h - 1:
            edges[frozenset([i]), frozenset([i + w])] = similarity(frozenset([i]), frozenset([i + w]))
    sequence = []
    while edges:
        (a, b), best = max(edges.items(), key=lambda item: item[1])  # max() returns the first maximum
        sequence.append((a, b, best))
        new = a | b
        touched = [pair for pair in edges if a in pair or b in pair]
        neighbours: list[frozenset[int]] = []
        for pair in touched:
            del edges[pair]
            for other in pair:
                if other not in (a, b) and other not in neighbours:
                    neighbours.append(other)
        for other in neighbours:
            edges[new, other] = similarity(new, other)
    return sequence


def partition_at(features: np.ndarray, theta: float) -> np.ndarray:
    """(h, w) labels after all merges before the first one whose similarity is below theta."""
    h, w, _ = features.shape
    labels = np.arange(h * w)
    for step, (a, b, similarity) in enumerate(merge_sequence(features)):
        if similarity < theta:
            break
        labels[sorted(a | b)] = h * w + step
    return np.unique(labels, return_inverse=True)[1].reshape(h, w)
