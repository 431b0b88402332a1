"""Visual words: colour words and textons, each quantised by k-means on pixels of the same image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from masktree.kernels import kernel

NUM_WORDS = 32  # size of each vocabulary; histograms of 32 floats fill vector registers (our choice)
KMEANS_SAMPLES = 5000  # pixels that k-means is fitted to, on a regular grid
KMEANS_ITERATIONS = 8  # (our choice)
_FILTER_SIZE = 13  # pixels of the full image
_FILTER_SIGMAS = (0.9, 1.6)  # Gaussian sigma across the filters, pixels of the full image
_FILTER_ORIENTATIONS = 6
CONTRAST_SIGMA = 8.0  # of the window of local contrast, in pixels; wider than any texture element that the filters see
CONTRAST_TRUNCATE = 2.0  # the window ends at so many sigma
CONTRAST_NOISE = np.float32(4.0)  # added to the variance: 2 units of lightness, so that noise is not amplified


def lab(image: np.ndarray) -> np.ndarray:
    """CIE Lab (D65) of an (H, W, 3) uint8 sRGB image as (H, W, 3) float32, L in [0, 100].

    Own kernel: ``skimage.color.rgb2lab`` takes six times as long (125 against 20 ms for 480 x 480 on one core).
    """
    lab: np.ndarray = _lab(image, LINEAR)
    return lab


def texture_responses(lightness: np.ndarray) -> np.ndarray:
    """Filter responses at every second pixel of (H, W) float32 lightness: (ceil(H/2), ceil(W/2), 26) float32.

    Local mean and contrast are normalised first, so that shading does not define textons.
    """
    responses: np.ndarray = _filter_half(_normalise_contrast(lightness), FILTERS)
    return responses


def fit_words(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Centres of ``NUM_WORDS`` clusters, (NUM_WORDS, d) float32, of the pixels of one or more (h, w, d) float32 maps.

    About ``KMEANS_SAMPLES`` pixels of each map on a regular grid are clustered. Own k-means: its result depends on no
    library version, so trees are reproducible.
    """
    centres: np.ndarray = _kmeans(
        np.concatenate([_sample(one) for one in maps]), NUM_WORDS, KMEANS_ITERATIONS, KMEANS_DRAWS
    )
    return centres


def assign_words(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Nearest centre of each pixel, (h, w) int32 below ``NUM_WORDS``, of (h, w, d) float32 features."""
    h, w, d = features.shape
    words: np.ndarray = _nearest(np.ascontiguousarray(features.reshape(-1, d)), centres).reshape(h, w)
    return words


def _sample(features: np.ndarray) -> np.ndarray:
    """(n, d) features of pixels on a regular grid."""
    h, w, d = features.shape
    step = max(1, math.isqrt(max(1, h * w // KMEANS_SAMPLES)))
    sample = features[step // 2 :: step, step // 2 :: step].reshape(-1, d)
    return np.ascontiguousarray(sample if len(sample) else features.reshape(-1, d))


def _linearisation() -> np.ndarray:
    value = np.arange(256) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _filter_bank() -> np.ndarray:
    """26 filters: odd and even at 6 orientations and 2 scales (2.5 times longer than wide), and a spot per scale."""
    radius = _FILTER_SIZE // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    bank = []
    for sigma in _FILTER_SIGMAS:
        for k in range(_FILTER_ORIENTATIONS):
            angle = math.pi * k / _FILTER_ORIENTATIONS
            across = x * math.cos(angle) + y * math.sin(angle)
            along = -x * math.sin(angle) + y * math.cos(angle)
            envelope = np.exp(-0.5 * ((across / sigma) ** 2 + (along / (2.5 * sigma)) ** 2))
            bank.append(-across * envelope)
            bank.append(((across / sigma) ** 2 - 1) * envelope)
        squared = (x**2 + y**2) / sigma**2
        bank.append((squared - 2) * np.exp(-0.5 * squared))
    centred = [f - f.mean() for f in bank]
    stack = np.stack([f / np.abs(f).sum() for f in centred], axis=-1)
    return np.ascontiguousarray(stack, np.float32)


KMEANS_DRAWS = np.random.default_rng(0).random(NUM_WORDS)  # of k-means++, in [0, 1): the same for every image
LINEAR = _linearisation()
FILTERS = _filter_bank()


def _normalise_contrast(lightness: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    mean = gaussian_filter(lightness, CONTRAST_SIGMA, mode="nearest", truncate=CONTRAST_TRUNCATE)
    centred = lightness - mean
    variance = gaussian_filter(centred * centred, CONTRAST_SIGMA, mode="nearest", truncate=CONTRAST_TRUNCATE)
    return centred / np.sqrt(variance + CONTRAST_NOISE)


@kernel(fastmath=True)
def _cube_root(value: np.float32) -> np.float32:
    if value > 0.008856452:
        return value ** np.float32(1 / 3)
    return np.float32(7.787037) * value + np.float32(0.13793103)


@kernel(fastmath=True)
def _lab(image: np.ndarray, linear: np.ndarray) -> np.ndarray:
    H, W, _ = image.shape
    out = np.empty((H, W, 3), np.float32)
    for i in range(H):
        for j in range(W):
            r = linear[image[i, j, 0]]
            g = linear[image[i, j, 1]]
            b = linear[image[i, j, 2]]
            x = _cube_root(
                (np.float32(0.412453) * r + np.float32(0.357580) * g + np.float32(0.180423) * b) / np.float32(0.95047)
            )
            y = _cube_root(np.float32(0.212671) * r + np.float32(0.715160) * g + np.float32(0.072169) * b)
            z = _cube_root(
                (np.float32(0.019334) * r + np.float32(0.119193) * g + np.float32(0.950227) * b) / np.float32(1.08883)
            )
            out[i, j, 0] = np.float32(116) * y - np.float32(16)
            out[i, j, 1] = np.float32(500) * (x - y)
            out[i, j, 2] = np.float32(200) * (y - z)
    return out


@kernel(fastmath=True)
def halve(values: np.ndarray) -> np.ndarray:
    """Mean of 2 x 2 blocks of (H, W, k) float32; an odd last row or column is repeated."""
    H, W, d = values.shape
    h, w = (H + 1) // 2, (W + 1) // 2
    out = np.empty((h, w, d), np.float32)
    for i in range(h):
        i1 = min(2 * i + 1, H - 1)
        for j in range(w):
            j1 = min(2 * j + 1, W - 1)
            for k in range(d):
                out[i, j, k] = np.float32(0.25) * (
                    values[2 * i, 2 * j, k] + values[2 * i, j1, k] + values[i1, 2 * j, k] + values[i1, j1, k]
                )
    return out


@kernel(fastmath=True)
def _filter_half(plane: np.ndarray, filters: np.ndarray) -> np.ndarray:
    H, W = plane.shape
    size, _, count = filters.shape
    radius = size // 2
    h, w = (H + 1) // 2, (W + 1) // 2
    padded = np.empty((2 * h + 2 * radius, 2 * w + 2 * radius), np.float32)
    for i in range(padded.shape[0]):
        for j in range(padded.shape[1]):
            padded[i, j] = plane[min(max(i - radius, 0), H - 1), min(max(j - radius, 0), W - 1)]
    out = np.zeros((h, w, count), np.float32)
    for i in range(h):
        for u in range(size):
            for j in range(w):
                row = out[i, j]
                for v in range(size):
                    value = padded[2 * i + u, 2 * j + v]
                    taps = filters[u, v]
                    for k in range(count):
                        row[k] += value * taps[k]
    return out


@kernel(fastmath=True)
def _nearest_centre(point: np.ndarray, centres: np.ndarray) -> int:
    best, best_centre = np.float32(np.inf), 0
    for c in range(centres.shape[0]):
        distance = np.float32(0)
        for k in range(point.shape[0]):
            step = point[k] - centres[c, k]
            distance += step * step
        if distance < best:
            best, best_centre = distance, c
    return best_centre


@kernel(fastmath=True)
def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    out = np.empty(points.shape[0], np.int32)
    for i in range(points.shape[0]):
        out[i] = _nearest_centre(points[i], centres)
    return out


@kernel(fastmath=True)
def _kmeans(points: np.ndarray, count: int, iterations: int, draws: np.ndarray) -> np.ndarray:
    """Centres by k-means++ from the given uniform draws, then Lloyd iterations; an empty cluster keeps its centre."""
    n, d = points.shape
    centres = np.empty((count, d), np.float32)
    nearest = np.full(n, np.float32(1e30))
    pick = n // 2
    for c in range(count):
        centres[c] = points[pick]
        total = 0.0
        for i in range(n):
            distance = np.float32(0)
            for k in range(d):
                step = points[i, k] - centres[c, k]
                distance += step * step
            nearest[i] = min(nearest[i], distance)
            total += nearest[i]
        goal = draws[c] * total
        pick = n - 1
        running = 0.0
        for i in range(n):
            running += nearest[i]
            if running >= goal:
                pick = i
                break
    for _ in range(iterations):
        sums = np.zeros((count, d), np.float64)
        sizes = np.zeros(count, np.int64)
        for i in range(n):
            c = _nearest_centre(points[i], centres)
            sizes[c] += 1
            for k in range(d):
                sums[c, k] += points[i, k]
        for c in range(count):
            if sizes[c] > 0:
                for k in range(d):
                    centres[c, k] = sums[c, k] / sizes[c]
    return centres
