"""MaskCut: whole objects of a feature grid by repeated normalised cuts.

Sources: CutLER (Wang et al. 2023, arXiv 2301.11320, section 3.2 and released code) for MaskCut, TokenCut (Wang et
al. 2022, arXiv 2202.11539) for the graph, Shi and Malik (2000, doi 10.1109/34.868688) for normalised cuts.

The graph of n patches is complete, with weight 1 between patches whose cosine is above tau and 1e-5 between all
others: A = 1e-5 + (1 - 1e-5) B, B 0/1. Only B is stored, one bit a pair, and the eigenvector comes from Lanczos
iteration on D^-1/2 A D^-1/2: n^2 / 8 bytes and about twenty passes over them instead of the dense eigendecomposition of
the authors' code (several arrays of n^2 doubles, n^3 operations).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.sparse.linalg import LinearOperator, eigsh

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.types import Features, Masks, checked

Vector = NDArray[np.float64]

_WEAK_WEIGHT = 1e-5  # between dissimilar patches (CutLER's code)
_COSINE_BLOCK = 1024  # patches whose cosines are dense at a time: 4 MB per block of pairs; a multiple of 8
_KRYLOV_DIM = 32  # of the Lanczos iteration; fewer are faster on easy graphs, up to 60 on weakly connected ones
_RESIDUAL_TOLERANCE = 1e-12  # eigenvalue gaps go down to 1e-5, where parts of the graph are unconnected
_MAX_REFLECTORS = 100  # of the reduction that finds LAPACK's sign; 3 to 28 were needed on graphs of all kinds
_MIN_EIGENVALUE = 1e-6  # smaller second eigenvalues are rounding: no structure to cut (our choice)
_TIE_TOLERANCE = 1e-6  # relative difference of eigenvector entries due to rounding (our choice)


@checked
def maskcut(
    features: Features, tau: float = 0.15, max_masks: int = 3, *, sign: Literal["lapack", "seed"] = "lapack"
) -> Masks:
    """Up to ``max_masks`` disjoint object masks of a feature grid, in order of discovery.

    Each cut computes y, the second-smallest generalised eigenvector of (D - A) y = lambda D y, splits the patches at
    the mean of y, chooses a side, and keeps the 4-connected component of that side's extreme patch. These patches are
    then removed from the graph (as if their features were zero) for the later cuts.

    The seed is the patch of the largest absolute entry. The object is the side above the mean, unless that side
    contains three or more corners of the grid or does not contain the seed; then it is the other side, with the
    smallest entry as seed. Where the seed's side contains three or more corners, this depends on the sign of y, which
    is arbitrary for an eigenvector; ``sign`` chooses it.

    From the second cut on, a cut of at most 1 % of the patches, or with an IoU above 0.5 with the previous cut, is
    rejected. As in the authors' code the previous cut is empty after a rejection, so that a cut which overlaps an
    earlier object is rejected once, and then yields its remaining patches. Empty remainders are dropped. A graph
    without structure (one patch, all pairs similar, or no pair similar) has no masks.

    Memory: n_patches^2 / 8 bytes (1.6 MB at 60 x 60, 34 MB at 128 x 128), a float32 copy of the features and
    20 vectors. Time: the n_patches^2 cosines once, then about twenty passes over the bits per cut.

    Args:
        features: (h, w, d) patch features of any length (cosines are taken); MaskCut uses the keys of the last
            attention block. A zero vector is similar to none.
        tau: similarity threshold, 0 <= tau < 1 (0.15 in CutLER, 0.2 in TokenCut).
        max_masks: at least 1.
        sign: "lapack" gives y the sign of the dense LAPACK solver in the authors' code, and so the same masks; "seed"
            makes the seed positive, so that no mask is the side with the corners (our choice).

    Returns:
        (k, h, w) masks, 0 <= k <= max_masks.

    Raises:
        InputError: no patches, features not finite, ``tau``, ``max_masks`` or ``sign`` out of range.
    """
    height, width, _ = features.shape
    if features.size == 0 or not np.isfinite(features).all():
        raise InputError(
            f"expected a grid of finite features; got shape {features.shape}, "
            f"{int((~np.isfinite(features)).sum())} values not finite; check the image and the backbone's precision"
        )
    if not 0 <= tau < 1 or max_masks < 1:
        raise InputError(
            f"expected 0 <= tau < 1 and max_masks >= 1; got tau {tau}, max_masks {max_masks}; MaskCut uses 0.15 and 3"
        )
    if sign not in ("lapack", "seed"):
        raise InputError(f"expected the sign 'lapack' or 'seed'; got {sign!r}; 'lapack' is as published")
    graph = _similarity_bits(features.reshape(height * width, -1), tau)
    covered = np.zeros((height, width), np.bool_)
    previous = np.zeros_like(covered)
    masks: list[np.ndarray] = []
    cut: np.ndarray | None = None
    for i in range(max_masks):
        if i == 0 or previous.any():  # otherwise the graph has not changed since the last cut
            cut = _cut_object(graph, (height, width), sign)
        if cut is None:
            break
        if i > 0 and (_iou(previous, cut) > 0.5 or cut.mean() <= 0.01):
            previous = np.zeros_like(covered)
            continue
        previous = cut
        if (cut & ~covered).any():
            masks.append(cut & ~covered)
        covered |= cut
        _remove_patches(graph, covered.ravel())
    return np.array(masks, np.bool_).reshape(-1, height, width)


def _similarity_bits(features: np.ndarray, tau: float) -> np.ndarray:
    """B as bits: bit r of entry (g, j) is set if patches 8 g + r and j are similar. Exactly symmetric."""
    n = len(features)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.float32(1e-12))
    bits = np.zeros((4 * -(-n // 32), n), np.uint8)
    for a in range(0, n, _COSINE_BLOCK):
        for b in range(a, n, _COSINE_BLOCK):
            similar = unit[a : a + _COSINE_BLOCK] @ unit[b : b + _COSINE_BLOCK].T > tau
            for first, second, block in ((a, b, similar), (b, a, similar.T)):
                rows = np.packbits(block, axis=0, bitorder="little")
                bits[first // 8 : first // 8 + len(rows), second : second + block.shape[1]] = rows
    return bits


def _remove_patches(bits: np.ndarray, patches: np.ndarray) -> None:
    """Clear the rows and columns of the given patches, as for zero features (their cosines are 0 <= tau)."""
    keep = np.packbits(~patches, bitorder="little")
    bits[: len(keep)] &= keep[:, None]
    bits[:, patches] = 0


def _cut_object(bits: np.ndarray, shape: tuple[int, int], sign: str) -> np.ndarray | None:
    """Mask of one object, or None if the graph has no structure."""
    vector = _second_eigenvector(bits, sign)
    if vector is None:
        return None
    side = vector > vector.sum() / len(vector)
    corners = side.reshape(shape)[[0, 0, -1, -1], [0, -1, 0, -1]]
    if corners.sum() >= 3 or not side[_first_maximum(np.abs(vector))]:
        side, vector = ~side, -vector
    components, _ = label(side.reshape(shape))
    mask: np.ndarray = components == components.ravel()[_first_maximum(vector)]
    return mask


def _first_maximum(values: np.ndarray) -> int:
    """First index of the largest value up to rounding, so that equal patches give the same seed on any machine."""
    return int(np.argmax(values >= values.max() - _TIE_TOLERANCE * np.abs(values).max()))


def _second_eigenvector(bits: np.ndarray, sign: str) -> Vector | None:
    """Second generalised eigenvector of (D - A, D); None if it is not determined.

    The largest eigenvalue of M = D^-1/2 A D^-1/2 is 1 with the vector D^1/2 1. It is deflated, so that the second one
    becomes the largest; y = D^-1/2 v. Adding the identity makes the relative tolerance an absolute one, and lets the
    iteration converge where the other eigenvalues of M are 0.
    """
    n = bits.shape[1]
    similar: Vector = _product(bits, np.ones(n))
    if n == 1 or similar.max() <= 1:  # no patch is similar to another
        return None
    degree: Vector = _WEAK_WEIGHT * n + (1 - _WEAK_WEIGHT) * similar
    scale: Vector = 1 / np.sqrt(degree)
    first: Vector = np.sqrt(degree / degree.sum())

    def apply(vector: Vector) -> Vector:
        scaled = scale * vector
        product: Vector = _product(bits, scaled)
        result: Vector = scale * (_WEAK_WEIGHT * scaled.sum() + (1 - _WEAK_WEIGHT) * product)
        return result

    def deflated(vector: Vector) -> Vector:  # M + I with its largest eigenvalue moved from 2 to 0
        vector = vector.ravel()
        return apply(vector) + vector - first * (2 * (first @ vector))

    random = np.random.default_rng(0).standard_normal(n)
    start = random - first * (first @ random)
    values, vectors = eigsh(
        LinearOperator((n, n), matvec=deflated, dtype=np.float64),
        k=1,
        which="LA",
        v0=start,
        ncv=min(n, _KRYLOV_DIM),
        tol=_RESIDUAL_TOLERANCE,
    )
    if values[0] - 1 < _MIN_EIGENVALUE:
        return None
    vector: Vector = vectors[:, 0]
    entry = _lapack_entry(apply, vector) if sign == "lapack" else vector[_first_maximum(np.abs(scale * vector))]
    oriented: Vector = scale * vector * np.sign(entry)
    return oriented


def _lapack_entry(apply: Callable[[Vector], Vector], vector: Vector) -> float:
    """The entry of an eigenvector v of I - M that LAPACK's sygvx makes positive.

    It reduces I - M = Q T Q' to a tridiagonal T column by column with Householder reflectors (sytrd), and the inverse
    iteration (stein) makes the largest absolute entry of z = Q' v positive. Entry i of z needs only the first i
    reflectors, each one product with M, and the first entries of Q' v are the largest, as in every Krylov basis: about
    ten columns suffice.
    """
    n = len(vector)
    reflectors: list[Vector] = []  # unit vectors u of H = I - 2 u u', zero in their first entries
    rest = vector.copy()
    for i in range(min(n - 2, _MAX_REFLECTORS)):
        if np.sum(rest[i + 1 :] ** 2) <= np.max(rest[: i + 1] ** 2):  # entries 0 ... i are final
            break
        column = np.zeros(n)
        column[i] = 1
        for u in reversed(reflectors):
            column -= 2 * u * (u @ column)
        column = -apply(column)
        for u in reflectors:
            column -= 2 * u * (u @ column)
        column[: i + 1] = 0
        length = np.linalg.norm(column)
        if np.linalg.norm(column[i + 2 :]) > 0:
            column[i + 1] += np.copysign(length, column[i + 1])
            column /= np.linalg.norm(column)
            reflectors.append(column)
            rest -= 2 * column * (column @ rest)
    return float(rest[np.argmax(np.abs(rest))])


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@kernel()
def _product(bits: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """B @ vector in float64 by the method of the four Russians.

    For every eight columns the sums of all 256 subsets are tabulated, so that a byte of a row is one look-up: n^2 / 8
    additions that read n^2 / 8 bytes in order, instead of 4 n^2 bytes of a float32 matrix. Four tables at a time (8 KB)
    halve the passes over the result.
    """
    groups, n = bits.shape
    result = np.zeros(n, np.float64)
    table = np.zeros((4, 256), np.float64)
    for g in range(0, groups, 4):
        for t in range(4):
            for k in range(8):
                j = 8 * (g + t) + k
                value = vector[j] if j < n else 0.0
                for subset in range(1 << k):
                    table[t, (1 << k) + subset] = table[t, subset] + value
        a, b, c, d = bits[g], bits[g + 1], bits[g + 2], bits[g + 3]
        for i in range(n):
            result[i] += (table[0, a[i]] + table[1, b[i]]) + (table[2, c[i]] + table[3, d[i]])
    return result
