"""Upsampling of label maps along the edges of the full-size image.

Own kernel: joint bilateral filters of the libraries filter values, not labels, and need one map per label.
"""

from __future__ import annotations

import numpy as np

from masktree.kernels import kernel

_COLOUR_WEIGHT = np.float32(1 / (2 * 15.0**2))  # Gaussian of sigma 15 grey levels (our choice)


def upsample_leaves(leaves: np.ndarray, small: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Upsample an (h, w) int32 leaf map of the (h, w, 3) uint8 image ``small`` to the size of the (H, W, 3) ``image``.

    A full-size pixel near a boundary gets the leaf whose pixels of the small image, among the 3 x 3 nearest, are
    closest in position and colour (joint bilateral upsampling of labels, Kopf et al. 2007, doi
    10.1145/1276377.1276497). No leaf is lost. Memory: one int32 map of the image's size.
    """
    H, W, _ = image.shape
    out: np.ndarray = _upsample(leaves, small, image)
    present = np.zeros(int(leaves.max()) + 1, bool)
    present[out] = True
    if not present.all():  # leaves one pixel wide can lose all pixels: restore them by nearest-neighbour upsampling
        h, w = leaves.shape
        nearest = leaves[(np.arange(H) * h // H)[:, None], np.arange(W) * w // W]
        lost = ~present[nearest]
        out[lost] = nearest[lost]
    return out


@kernel()
def _near_boundary(leaves: np.ndarray) -> np.ndarray:
    """(h, w) bool: whether a pixel has another label among its 8 neighbours."""
    h, w = leaves.shape
    out = np.zeros((h, w), np.bool_)
    for y in range(h):
        for x in range(w):
            for v in range(max(y - 1, 0), min(y + 2, h)):
                for u in range(max(x - 1, 0), min(x + 2, w)):
                    out[y, x] |= leaves[v, u] != leaves[y, x]
    return out


@kernel(fastmath=True, error_model="numpy")
def _upsample(leaves: np.ndarray, small: np.ndarray, image: np.ndarray) -> np.ndarray:
    h, w = leaves.shape
    H, W, _ = image.shape
    near_boundary = _near_boundary(leaves)
    out = np.empty((H, W), np.int32)
    candidates = np.empty(9, np.int32)
    votes = np.empty(9, np.float32)
    for i in range(H):
        y = (i + np.float32(0.5)) * np.float32(h) / np.float32(H) - np.float32(0.5)
        cy = min(max(int(np.rint(y)), 0), h - 1)
        for j in range(W):
            x = (j + np.float32(0.5)) * np.float32(w) / np.float32(W) - np.float32(0.5)
            cx = min(max(int(np.rint(x)), 0), w - 1)
            out[i, j] = leaves[cy, cx]
            if not near_boundary[cy, cx]:
                continue
            count = 0
            for v in range(max(cy - 1, 0), min(cy + 2, h)):
                for u in range(max(cx - 1, 0), min(cx + 2, w)):
                    colour = np.float32(0)
                    for c in range(3):
                        step = np.float32(image[i, j, c]) - np.float32(small[v, u, c])
                        colour += step * step
                    distance = (v - y) * (v - y) + (u - x) * (u - x)
                    # The second term, of position alone, decides where no colour is close.
                    vote = np.exp(-distance - colour * _COLOUR_WEIGHT) + np.float32(1e-6) / (1 + distance)
                    k = 0
                    while k < count and candidates[k] != leaves[v, u]:
                        k += 1
                    if k == count:
                        candidates[k], votes[k] = leaves[v, u], 0
                        count += 1
                    votes[k] += vote
            out[i, j] = candidates[np.argmax(votes[:count])]
    return out
