"""Fully connected conditional random field by mean-field inference on permutohedral lattices.

Kraehenbuehl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NeurIPS 2011,
arXiv 1210.5644. One mean-field step reads the blurred lattices at a pixel (slice), normalises the sums to
probabilities and adds these to the lattices of the next step (splat), all in one pass over the pixels, so that label
probabilities exist for one pixel at a time. Labels are the last axis and padded to whole vector registers.

Own implementation: pydensecrf, which the published methods use, must be compiled from source. Measured on one core at
480 x 480 pixels: 2 labels 0.16 s, 15 labels 0.4 s, 37 labels 0.7 s, of which 0.09 s to build the lattices; separate
masks 25 ms each in batches of 32 (benchmarks/crf.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.refine.lattice import Lattice, blur, build_lattice
from masktree.refine.refiner import check_problem
from masktree.types import RGB, Probabilities, checked

_LANES = 4  # float32 values in one 128-bit register
_MIN_PROBABILITY = np.float32(1e-5)  # of the unary term (HASSOD's code)
_PADDING_LOGIT = np.float32(-1e4)  # of the padding labels
_MAX_CACHED_PIXELS = 1 << 20  # of an image whose lattices are cached for the next call (our choice)
_TRANSPOSE_BLOCK = 64  # pixels transposed at a time: 64 rows of labels fit in the first-level cache


@kernel(fastmath=True)
def _exp(x: np.float32) -> np.float32:
    """Exponential for x <= 0 that the compiler can vectorise; relative error below 3e-7.

    2^n by exponent bits times the polynomial of Cephes' expf. Arguments are clipped at -60: probabilities below 1e-26
    have no effect, and denormal numbers would make the lattice passes five times slower.
    """
    x = max(x, np.float32(-60.0))
    n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return p * np.int32((np.int32(n) + 127) << 23).view(np.float32)


@kernel(fastmath=True)
def _slice(total: np.ndarray, pixel: int, offsets: np.ndarray, weights: np.ndarray, values: np.ndarray) -> None:
    for v in range(offsets.shape[1]):
        vertex = offsets[pixel, v]
        weight = weights[pixel, v]
        for c in range(len(total)):
            total[c] += weight * values[vertex, c]


@kernel(fastmath=True)
def _splat(total: np.ndarray, pixel: int, offsets: np.ndarray, weights: np.ndarray, values: np.ndarray) -> None:
    for v in range(offsets.shape[1]):
        vertex = offsets[pixel, v]
        weight = weights[pixel, v]
        for c in range(len(total)):
            values[vertex, c] += weight * total[c]


@kernel(fastmath=True)
def _multilabel_step(
    logits: np.ndarray,
    smoothness: tuple[np.ndarray, np.ndarray],
    smoothness_values: tuple[np.ndarray, np.ndarray],
    appearance: tuple[np.ndarray, np.ndarray],
    appearance_values: tuple[np.ndarray, np.ndarray],
    first: bool,
    last: bool,
) -> None:
    """Slice, softmax over the labels, splat; the last step writes the probabilities to ``logits``."""
    n, k = logits.shape
    q = np.empty(k, np.float32)
    for i in range(n):
        for c in range(k):
            q[c] = logits[i, c]
        if not first:
            _slice(q, i, smoothness[0], smoothness[1], smoothness_values[0])
            _slice(q, i, appearance[0], appearance[1], appearance_values[0])
        top = q[0]
        for c in range(k):
            top = max(top, q[c])
        total = np.float32(0)
        for c in range(k):
            q[c] = _exp(q[c] - top)
            total += q[c]
        share = np.float32(1) / total
        for c in range(k):
            q[c] *= share
        if last:
            for c in range(k):
                logits[i, c] = q[c]
        else:
            _splat(q, i, smoothness[0], smoothness[1], smoothness_values[1])
            _splat(q, i, appearance[0], appearance[1], appearance_values[1])


@kernel(fastmath=True)
def _contrast(odds: np.float32) -> np.float32:
    """P(foreground) - P(background) for given log odds. Exactly odd: swapping the labels swaps the result."""
    e = _exp(-abs(odds))
    contrast = (np.float32(1) - e) / (np.float32(1) + e)
    return contrast if odds >= 0 else -contrast


@kernel(fastmath=True)
def _binary_step(
    logits: np.ndarray,
    smoothness: tuple[np.ndarray, np.ndarray],
    smoothness_values: tuple[np.ndarray, np.ndarray],
    appearance: tuple[np.ndarray, np.ndarray],
    appearance_values: tuple[np.ndarray, np.ndarray],
    first: bool,
    last: bool,
) -> None:
    """Slice, logistic function, splat of foreground log odds, one two-label problem per channel.

    The odds change by the difference of the two labels' messages, which is the filtered contrast: one channel replaces
    two, and the message of undecided pixels is exactly 0.
    """
    n, k = logits.shape
    q = np.empty(k, np.float32)
    for i in range(n):
        for c in range(k):
            q[c] = logits[i, c]
        if not first:
            _slice(q, i, smoothness[0], smoothness[1], smoothness_values[0])
            _slice(q, i, appearance[0], appearance[1], appearance_values[0])
        for c in range(k):
            q[c] = _contrast(q[c])
        if last:
            for c in range(k):
                logits[i, c] = np.float32(0.5) + np.float32(0.5) * q[c]
        else:
            _splat(q, i, smoothness[0], smoothness[1], smoothness_values[1])
            _splat(q, i, appearance[0], appearance[1], appearance_values[1])


@kernel(fastmath=True)
def _single_binary_step(
    logits: np.ndarray,
    smoothness: tuple[np.ndarray, np.ndarray],
    smoothness_values: tuple[np.ndarray, np.ndarray],
    appearance: tuple[np.ndarray, np.ndarray],
    appearance_values: tuple[np.ndarray, np.ndarray],
    first: bool,
    last: bool,
) -> None:
    """``_binary_step`` for one channel, in scalars: half the time."""
    smoothness_offsets, smoothness_weights = smoothness
    appearance_offsets, appearance_weights = appearance
    for i in range(len(logits)):
        q = logits[i, 0]
        if not first:
            for v in range(3):
                q += smoothness_weights[i, v] * smoothness_values[0][smoothness_offsets[i, v], 0]
            for v in range(6):
                q += appearance_weights[i, v] * appearance_values[0][appearance_offsets[i, v], 0]
        q = _contrast(q)
        if last:
            logits[i, 0] = np.float32(0.5) + np.float32(0.5) * q
        else:
            for v in range(3):
                smoothness_values[1][smoothness_offsets[i, v], 0] += smoothness_weights[i, v] * q
            for v in range(6):
                appearance_values[1][appearance_offsets[i, v], 0] += appearance_weights[i, v] * q


@kernel()
def _log_probabilities(probabilities: np.ndarray, logits: np.ndarray) -> None:
    """(k, N) probabilities to (N, >= k) clipped logarithms; most are 0 or 1, which need no logarithm."""
    k, n = probabilities.shape
    floor = np.float32(np.log(_MIN_PROBABILITY))
    for start in range(0, n, _TRANSPOSE_BLOCK):
        for c in range(k):
            for i in range(start, min(start + _TRANSPOSE_BLOCK, n)):
                p = probabilities[c, i]
                if p <= _MIN_PROBABILITY:
                    logits[i, c] = floor
                elif p >= 1:
                    logits[i, c] = 0
                else:
                    logits[i, c] = np.log(p)


@kernel()
def _log_odds(probabilities: np.ndarray, logits: np.ndarray) -> None:
    """(k, N) foreground probabilities to (N, >= k) clipped log odds."""
    k, n = probabilities.shape
    last = np.float32(0.5)
    odds = np.float32(0)
    for start in range(0, n, _TRANSPOSE_BLOCK):
        for c in range(k):
            for i in range(start, min(start + _TRANSPOSE_BLOCK, n)):
                p = probabilities[c, i]
                if p != last:  # masks have long runs of one value
                    last = p
                    odds = np.log(max(p, _MIN_PROBABILITY)) - np.log(max(np.float32(1) - p, _MIN_PROBABILITY))
                logits[i, c] = odds


@kernel()
def _transpose(pixels: np.ndarray, channels: np.ndarray) -> None:
    k, n = channels.shape
    for start in range(0, n, _TRANSPOSE_BLOCK):
        for c in range(k):
            for i in range(start, min(start + _TRANSPOSE_BLOCK, n)):
                channels[c, i] = pixels[i, c]


@kernel(fastmath=True)
def _slice_constant(lattice: tuple[np.ndarray, np.ndarray], values: np.ndarray) -> np.ndarray:
    """Filtered constant at every pixel, from blurred vertex values."""
    offsets, weights = lattice
    total = np.zeros(len(offsets), np.float32)
    for i in range(len(offsets)):
        for v in range(offsets.shape[1]):
            total[i] += weights[i, v] * values[offsets[i, v], 0]
    return total


@kernel(fastmath=True)
def _splat_constant(lattice: tuple[np.ndarray, np.ndarray], values: np.ndarray) -> None:
    offsets, weights = lattice
    for i in range(len(offsets)):
        for v in range(offsets.shape[1]):
            values[offsets[i, v], 0] += weights[i, v]


class _Kernel:
    """One Gaussian kernel with its weight and normalisation, and the vertex values of the labels.

    The filter is n K n with n = 1 / sqrt(K 1) (NORMALIZE_SYMMETRIC in the authors' code); n is multiplied into the
    barycentric weights.
    """

    def __init__(self, lattice: Lattice, weight: float) -> None:
        self.points = (lattice.offsets, lattice.weights)
        self._neighbours = lattice.neighbours
        self._gain = lattice.gain
        self.reset(1)
        _splat_constant(self.points, self.values[1])
        self.advance()
        norm = _slice_constant(self.points, self.values[0])
        lattice.weights[...] *= (1 / np.sqrt(norm + np.float32(1e-20)))[:, None]
        self._gain *= weight

    def reset(self, channels: int) -> None:
        """Zero the values: those that are sliced, and those that are splatted for the next step."""
        shape = (self._neighbours.shape[1] + 1, channels)
        self.values = (np.zeros(shape, np.float32), np.zeros(shape, np.float32))

    def advance(self) -> None:
        """Blur the splatted values, which are sliced next, and zero the other array for the next splat."""
        sliced, splatted = self.values
        blurred, spare = blur(splatted, sliced, self._neighbours, self._gain)
        spare[...] = 0
        self.values = (blurred, spare)


def _build_kernels(
    image: RGB,
    smoothness_sxy: float,
    smoothness_weight: float,
    appearance_sxy: float,
    appearance_srgb: float,
    appearance_weight: float,
) -> tuple[_Kernel, _Kernel]:
    height, width = image.shape[:2]
    positions = np.empty((height, width, 5), np.float32)
    positions[..., 0] = np.arange(width)
    positions[..., 1] = np.arange(height)[:, None]
    smoothness = build_lattice((positions[..., :2] / smoothness_sxy).reshape(-1, 2))
    positions[..., :2] /= appearance_sxy
    positions[..., 2:] = image
    positions[..., 2:] /= appearance_srgb
    return _Kernel(smoothness, smoothness_weight), _Kernel(build_lattice(positions.reshape(-1, 5)), appearance_weight)


_cached: dict[tuple[object, ...], tuple[_Kernel, _Kernel]] = {}  # of the last image; see _cached_kernels


@contextmanager
def _cached_kernels(image: RGB, parameters: tuple[float, ...]) -> Iterator[tuple[_Kernel, _Kernel]]:
    """Kernels of an image. Those of the last image are cached (72 bytes a pixel), because a method refines the same
    image several times and building them costs as much as refining a few labels; those of large images are not.

    Kernels in use are not in the cache, so threads never share them.
    """
    key = (image.shape, hashlib.sha256(image.tobytes()).digest(), parameters)
    kernels = _cached.pop(key, None) or _build_kernels(image, *parameters)
    yield kernels
    _cached.clear()
    if image[..., 0].size <= _MAX_CACHED_PIXELS:
        for gaussian in kernels:
            gaussian.reset(1)  # frees the values of the labels
        _cached[key] = kernels


def _infer(kernels: tuple[_Kernel, _Kernel], logits: np.ndarray, iterations: int, independent: bool) -> None:
    """Mean-field inference; overwrites ``logits`` (N, k) with the probabilities."""
    smoothness, appearance = kernels
    step = _multilabel_step
    if independent:
        step = _single_binary_step if logits.shape[1] == 1 else _binary_step
    for gaussian in kernels:
        gaussian.reset(logits.shape[1])
    for iteration in range(iterations + 1):
        last = iteration == iterations
        step(logits, smoothness.points, smoothness.values, appearance.points, appearance.values, iteration == 0, last)
        if not last:
            smoothness.advance()
            appearance.advance()


@checked
def dense_crf(
    image: RGB,
    probabilities: Probabilities,
    *,
    independent: bool = False,
    iterations: int = 10,
    gaussian_sxy: float = 3.0,
    gaussian_weight: float = 7.0,
    bilateral_sxy: float = 50.0,
    bilateral_srgb: float = 5.0,
    bilateral_weight: float = 10.0,
) -> Probabilities:
    """Refine label probabilities with a fully connected CRF (Potts model, two Gaussian kernels).

    Args:
        image: (H, W, 3) uint8 RGB.
        probabilities: (k, H, W) float32, the unary term is -log(max(p, 1e-5)).
        independent: each channel is the foreground of a separate two-label problem, see ``Refiner``. A batch of masks
            costs a fraction of as many single calls, because the lattices are shared.
        iterations: mean-field steps; 0 returns the softmax of the unary term.
        gaussian_sxy: standard deviation of the smoothness kernel in pixels; its weight is ``gaussian_weight``.
        bilateral_sxy: standard deviation of the appearance kernel in pixels; ``bilateral_srgb`` in grey levels per
            colour channel; its weight is ``bilateral_weight``.

    The defaults are those of the released code of HASSOD and of CutLER. Memory beside the two (k, H, W) arrays:
    72 bytes a pixel and 4 bytes a pixel and label, plus 8 bytes a lattice vertex and label. Natural images of 480 x 480
    have about 0.3 vertices a pixel; pure noise has almost 6.

    Returns:
        (k, H, W) float32 probabilities.

    Raises:
        InputError: the arguments do not match, a parameter is not positive, or a standard deviation is so small that
            the lattice cannot be addressed.
    """
    check_problem(image, probabilities, independent)
    for name, value in (
        ("gaussian_sxy", gaussian_sxy),
        ("bilateral_sxy", bilateral_sxy),
        ("bilateral_srgb", bilateral_srgb),
    ):
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"expected {name} above 0; got {value}; use the default")
    for name, value in (
        ("iterations", iterations),
        ("gaussian_weight", gaussian_weight),
        ("bilateral_weight", bilateral_weight),
    ):
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f"expected {name} of at least 0; got {value}; use the default")
    k = len(probabilities)
    two_labels = k == 2 and not independent
    flat = np.ascontiguousarray(probabilities[1:] if two_labels else probabilities).reshape(-1, image[..., 0].size)
    channels = len(flat) if len(flat) == 1 else -(-len(flat) // _LANES) * _LANES
    logits = np.full((flat.shape[1], channels), _PADDING_LOGIT, np.float32)
    (_log_odds if independent or two_labels else _log_probabilities)(flat, logits)
    parameters = (gaussian_sxy, gaussian_weight, bilateral_sxy, bilateral_srgb, bilateral_weight)
    with _cached_kernels(image, parameters) as kernels:
        _infer(kernels, logits, iterations, independent or two_labels)
    refined = np.empty_like(probabilities)
    _transpose(logits, refined.reshape(k, -1)[int(two_labels) :])
    if two_labels:
        np.subtract(1, refined[1], out=refined[0])
    return refined
