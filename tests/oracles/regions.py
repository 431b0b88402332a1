"""The best labelling of a dendrogram's nodes by trying all of them."""

from __future__ import annotations

from itertools import product


def least_cost(shared, sizes, parents, cost) -> tuple[float, list[tuple[int, ...]]]:
    """The least cost, and what is inside, leaf by leaf, in all labellings that have it."""
    leaves, nodes, change = len(sizes), len(parents), cost * sum(shared)
    found: dict[tuple[int, ...], float] = {}
    for labels in product((0, 1), repeat=nodes):
        total = sum(size - pixels if label else pixels for label, size, pixels in zip(labels, sizes, shared))  # noqa: B905
        total += change * sum(labels[node] != labels[parents[node]] for node in range(nodes))
        inside = labels[:leaves]
        found[inside] = min(total, found.get(inside, total))
    least = min(found.values())
    return least, [inside for inside, total in found.items() if total <= least + 1e-9]
