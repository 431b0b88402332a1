"""Oriented gradients of window statistics: the difference between the two sides of each pixel.

Own kernels: half-discs of histograms and vectors have no counterpart in scipy or scikit-image.
"""

from __future__ import annotations

import math

import numpy as np

from masktree.kernels import kernel

_ORIENTATIONS = 8


def window_histograms(words: np.ndarray, count: int, sigma: float) -> np.ndarray:
    """Gaussian-window histogram of (h, w) int32 words around each pixel: (h, w, count) float32, each summing to 1."""
    histograms: np.ndarray = _blur_rows(_blur_words(words, count, gaussian_taps(sigma)), gaussian_taps(sigma))
    return histograms


def window_means(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian-window mean of (h, w, d) float32 values."""
    means: np.ndarray = _blur_rows(_blur_columns(values, gaussian_taps(sigma)), gaussian_taps(sigma))
    return means


def chi_distance(histograms: np.ndarray, distance: float) -> np.ndarray:
    """Distance of the window histograms ``distance`` pixels to either side of each pixel: (h, w) float32 in [0, 1].

    Square root of the chi-square distance, mean over orientations: the root is a metric and keeps a single strong
    orientation from dominating; the mean is less noisy than the maximum.
    """
    distances: np.ndarray = _chi_distance(histograms, offsets(distance))
    return distances


def euclidean_distance(values: np.ndarray, distance: float) -> np.ndarray:
    """As ``chi_distance`` for (h, w, d) values: square root of the Euclidean distance, mean over orientations."""
    distances: np.ndarray = _euclidean_distance(values, offsets(distance))
    return distances


def gaussian_taps(sigma: float) -> np.ndarray:
    """(2 r + 1,) float32 weights of a Gaussian window, which add up to 1."""
    radius = max(1, math.ceil(2.5 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    normalised: np.ndarray = (taps / taps.sum()).astype(np.float32)
    return normalised


def offsets(distance: float) -> np.ndarray:
    """(orientations, 2) int64 steps in y and x to one side of a pixel; the other side is opposite."""
    angles = np.pi * np.arange(_ORIENTATIONS) / _ORIENTATIONS
    return np.rint(distance * np.stack([np.sin(angles), np.cos(angles)], 1)).astype(np.int64)


@kernel(fastmath=True)
def _blur_words(words: np.ndarray, count: int, taps: np.ndarray) -> np.ndarray:
    h, w = words.shape
    radius = taps.shape[0] // 2
    out = np.zeros((h, w, count), np.float32)
    for i in range(h):
        for j in range(w):
            for t in range(-radius, radius + 1):
                out[i, j, words[i, min(max(j + t, 0), w - 1)]] += taps[t + radius]
    return out


@kernel(fastmath=True)
def _blur_columns(values: np.ndarray, taps: np.ndarray) -> np.ndarray:
    h, w, d = values.shape
    radius = taps.shape[0] // 2
    out = np.zeros((h, w, d), np.float32)
    for i in range(h):
        for j in range(w):
            row = out[i, j]
            for t in range(-radius, radius + 1):
                source = values[i, min(max(j + t, 0), w - 1)]
                tap = taps[t + radius]
                for k in range(d):
                    row[k] += tap * source[k]
    return out


@kernel(fastmath=True)
def _blur_rows(values: np.ndarray, taps: np.ndarray) -> np.ndarray:
    h, w, d = values.shape
    radius = taps.shape[0] // 2
    flat = values.reshape(h, w * d)
    out = np.zeros((h, w * d), np.float32)
    for i in range(h):
        row = out[i]
        for t in range(-radius, radius + 1):
            source = flat[min(max(i + t, 0), h - 1)]
            tap = taps[t + radius]
            for k in range(w * d):
                row[k] += tap * source[k]
    return out.reshape(h, w, d)


@kernel(fastmath=True, error_model="numpy")
def _chi_distance(histograms: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    h, w, d = histograms.shape
    count = offsets.shape[0]
    out = np.zeros((h, w), np.float32)
    for o in range(count):
        dy, dx = offsets[o]
        for i in range(h):
            upper, lower = min(max(i - dy, 0), h - 1), min(max(i + dy, 0), h - 1)
            for j in range(w):
                a = histograms[upper, min(max(j - dx, 0), w - 1)]
                b = histograms[lower, min(max(j + dx, 0), w - 1)]
                total = np.float32(0)
                for k in range(d):
                    step = a[k] - b[k]
                    total += step * step / (a[k] + b[k] + np.float32(1e-9))
                out[i, j] += np.sqrt(np.float32(0.5) * total)
    return out / np.float32(count)


@kernel(fastmath=True)
def _euclidean_distance(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    h, w, d = values.shape
    count = offsets.shape[0]
    out = np.zeros((h, w), np.float32)
    for o in range(count):
        dy, dx = offsets[o]
        for i in range(h):
            upper, lower = min(max(i - dy, 0), h - 1), min(max(i + dy, 0), h - 1)
            for j in range(w):
                a = values[upper, min(max(j - dx, 0), w - 1)]
                b = values[lower, min(max(j + dx, 0), w - 1)]
                total = np.float32(0)
                for k in range(d):
                    step = a[k] - b[k]
                    total += step * step
                out[i, j] += np.sqrt(np.sqrt(total))
    return out / np.float32(count)


@kernel(fastmath=True)
def upsample(values: np.ndarray, H: int, W: int) -> np.ndarray:
    """Bilinear upsampling of an (h, w) float32 map of 2 x 2 means to (H, W), h = ceil(H/2), w = ceil(W/2)."""
    h, w = values.shape
    out = np.empty((H, W), np.float32)
    for i in range(H):
        y = min(max(np.float32(0.5) * i - np.float32(0.25), np.float32(0)), np.float32(h - 1))
        i0 = int(y)
        i1, v = min(i0 + 1, h - 1), y - i0
        for j in range(W):
            x = min(max(np.float32(0.5) * j - np.float32(0.25), np.float32(0)), np.float32(w - 1))
            j0 = int(x)
            j1, u = min(j0 + 1, w - 1), x - j0
            top = (1 - u) * values[i0, j0] + u * values[i0, j1]
            bottom = (1 - u) * values[i1, j0] + u * values[i1, j1]
            out[i, j] = (1 - v) * top + v * bottom
    return out
