"""Small masks with known nesting, and random rectangles with near-duplicates."""

from __future__ import annotations

import numpy as np

from masktree.trees import rle

SIZE = (30, 40)


def rectangles(rng: np.random.Generator, n: int) -> np.ndarray:
    """Nested, overlapping and repeated rectangles with a few ragged pixels, and one empty mask."""
    masks = np.zeros((n, *SIZE), bool)
    for i in range(n - 1):
        top, left = rng.integers(0, SIZE[0] - 1), rng.integers(0, SIZE[1] - 1)
        bottom, right = rng.integers(top + 1, SIZE[0] + 1), rng.integers(left + 1, SIZE[1] + 1)
        masks[i, top:bottom, left:right] = True
        if i % 3 == 2:
            masks[i] = masks[i - 1] ^ (rng.random(SIZE) < rng.choice([0.01, 0.05]))
        if i % 7 == 6:
            masks[i] = masks[i - 2]
    return masks


def strings(masks: np.ndarray) -> list[bytes]:
    return [rle.encode(mask) for mask in masks]


def planted() -> np.ndarray:
    """Body > head > eye, body > leg, and a ball apart."""
    masks = np.zeros((5, *SIZE), bool)
    masks[0, 12:14, 6:8] = True  # eye
    masks[1, 2:28, 2:20] = True  # body
    masks[2, 10:20, 4:14] = True  # head
    masks[3, 22:27, 4:9] = True  # leg
    masks[4, 5:15, 25:35] = True  # ball
    return masks
