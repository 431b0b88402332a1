"""Trees with known regions."""

from __future__ import annotations

import numpy as np

from masktree import MaskTree, PartitionTree

SIZE = (40, 60)


def box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, np.bool_)
    mask[top:bottom, left:right] = True
    return mask


# Four strips 0 1 2 3; 0 and 1 are joined to node 4, 2 and 3 to node 5, all to node 6.
STRIPS = [box(0, 15 * i, 40, 15 * i + 15) for i in range(4)]


def strips(altitudes: tuple[float, float, float] = (0.2, 0.3, 0.9)) -> PartitionTree:
    leaves = np.repeat(np.arange(4, dtype=np.int32), 15)[None].repeat(40, axis=0)
    merges = np.array([[0, 1], [2, 3], [4, 5]])
    return PartitionTree.from_merges(leaves, merges, np.array(altitudes))


def random_tree(rng: np.random.Generator, n: int, size: tuple[int, int] = (12, 16)) -> PartitionTree:
    """Any tree on n leaves that lie anywhere."""
    leaves = rng.integers(0, n, size).astype(np.int32)
    leaves.ravel()[:n] = np.arange(n)
    left, merges = list(range(n)), []
    for node in range(n, 2 * n - 1):
        a, b = (left.pop(int(rng.integers(len(left)))) for _ in range(2))
        merges.append((min(a, b), max(a, b)))
        left.append(node)
    return PartitionTree.from_merges(leaves, np.array(merges).reshape(-1, 2), np.sort(rng.random(n - 1)))


WHOLE, PART, SUB, OTHER = box(2, 2, 38, 30), box(4, 4, 20, 28), box(6, 6, 12, 14), box(5, 35, 25, 58)


def nested() -> MaskTree:
    """WHOLE > PART > SUB, and OTHER beside them."""
    return MaskTree.from_masks(np.stack([WHOLE, PART, SUB, OTHER]), scores=np.array([0.6, 0.8, 0.5, 0.7]))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())
