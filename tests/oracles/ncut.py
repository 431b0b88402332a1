"""MaskCut written out with dense matrices and a dense eigen-solver, step by step, in float64.

Section 3.2 of arXiv 2301.11320 and its released code; the eigenvector's sign is the dense solver's own, or makes
the largest absolute entry positive. Isolated and equal patches have equal entries up to rounding, so that the seed
among them is the solver's accident; here as in the package it is the first of those within a millionth.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh
from scipy.ndimage import label


def first_peak(values: np.ndarray) -> int:
    close = np.abs(values).max() * 1e-6
    return next(i for i, value in enumerate(values) if value >= values.max() - close)


def eigenvector(features: np.ndarray, tau: float, sign: str) -> np.ndarray:
    x = features.reshape(-1, features.shape[-1]).astype(np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    affinity = np.where(x @ x.T > tau, 1.0, 1e-5)
    degree = np.diag(affinity.sum(1))
    _, vectors = eigh(degree - affinity, degree, subset_by_index=[1, 2])
    y = vectors[:, 0]
    return y * np.sign(y[first_peak(np.abs(y))]) if sign == "seed" else y


def maskcut(features: np.ndarray, tau: float, n: int, sign: str) -> list[np.ndarray]:
    h, w, _ = features.shape
    features = features.copy()
    previous = np.zeros((h, w), bool)
    found = np.zeros((h, w), bool)
    result = []
    for i in range(n):
        features[found] = 0
        y = eigenvector(features, tau, sign)
        foreground = (y > y.mean()).reshape(h, w)
        seed = first_peak(np.abs(y))
        corners = sum(int(foreground[r, c]) for r in (0, -1) for c in (0, -1))
        reverse = corners >= 3 or not foreground.ravel()[seed]
        if reverse:
            foreground = ~foreground
            seed = first_peak(-y)
        else:
            seed = first_peak(y)
        components, _ = label(foreground)
        mask = components == components.ravel()[seed]
        union = (mask | previous).sum()
        if i > 0 and ((mask & previous).sum() / union > 0.5 or mask.sum() / (h * w) <= 0.01):
            mask = np.zeros((h, w), bool)
        previous = mask
        if (mask & ~found).any():
            result.append(mask & ~found)
        found |= mask
    return result
