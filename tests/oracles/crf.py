"""Fully connected CRF written out: every pair of pixels, no lattice. O(N^2), for tiny images only."""

from __future__ import annotations

import numpy as np


def _normalised_kernel(points: np.ndarray) -> np.ndarray:
    """Gaussian kernel between all pairs of (N, d) points, symmetrically normalised; each point sees itself too."""
    distance = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    kernel = np.exp(-distance / 2)
    norm = 1 / np.sqrt(kernel.sum(axis=1))
    return norm[:, None] * kernel * norm[None]


def dense_crf(
    image: np.ndarray,
    probabilities: np.ndarray,
    iterations: int = 10,
    gaussian_sxy: float = 3,
    gaussian_weight: float = 7,
    bilateral_sxy: float = 50,
    bilateral_srgb: float = 5,
    bilateral_weight: float = 10,
) -> np.ndarray:
    """Mean field of Kraehenbuehl & Koltun 2011, algorithm 1, Potts compatibility, float64."""
    k, height, width = probabilities.shape
    y, x = np.mgrid[:height, :width]
    place = np.stack([x, y], axis=-1).reshape(-1, 2).astype(float)
    colour = image.reshape(-1, 3).astype(float)
    near = _normalised_kernel(place / gaussian_sxy)
    far = _normalised_kernel(np.hstack([place / bilateral_sxy, colour / bilateral_srgb]))
    unary = -np.log(np.clip(probabilities.reshape(k, -1).astype(float), 1e-5, 1))
    energy = unary
    for iteration in range(iterations + 1):
        q = np.exp(energy.min(axis=0) - energy)
        q /= q.sum(axis=0)
        if iteration < iterations:
            energy = unary - gaussian_weight * q @ near - bilateral_weight * q @ far
    return q.reshape(k, height, width)
