"""MaskCut: whole objects of a feature grid by repeated normalised cuts.

Sources: CutLER (Wang et al. 2023, arXiv 2301.11320, section 3.2 and released code) for MaskCut, TokenCut (Wang et
al. 2022, arXiv 2202.11539) for the graph, Shi and Malik (2000, doi 10.1109/34.868688) for normalised cuts.

The graph of n patches is complete, with weight 1 between patches whose cosine is above tau and 1e-5 between all
others: A = 1e-5 + (1 - 1e-5) B, B 0/1. Only B is stored, one bit a pair, and the eigenvector comes from Lanczos
iteration on D^-1/2 A D^-1/2, so that n^2 / 8 bytes and some twenty passes over them take the place of the dense
eigen-decomposition (n^2 doubles several times over, n^3 operations).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numba import njit
from scipy.ndimage import label
from scipy.sparse.linalg import LinearOperator, eigsh

from masktree.errors import InputError
from masktree.types import Features, Masks, checked

_WEAK = 1e-5  # weight between dissimilar patches (CutLER's code)
_BLOCK = 1024  # patches whose cosines are dense at a time: 4 MB a block of pairs; a multiple of 8
_KRYLOV = 32  # basis of the Lanczos iteration; fewer cost less on easy graphs, up to 60 help on loose ones
_TOLERANCE = 1e-12  # residual; gaps between eigenvalues go down to 1e-5, where parts of the graph are unconnected
_COLUMNS = 100  # of the reduction that finds LAPACK's sign; 3 to 28 were needed on graphs of all kinds
_FLAT = 1e-6  # second eigenvalues below this are rounding: the graph has no structure to cut (our choice)
_TIE = 1e-6  # relative difference of eigenvector entries that rounding can make (our choice)


@checked
def maskcut(features: Features, tau: float = 0.15, n: int = 3, *, sign: Literal["lapack", "seed"] = "lapack") -> Masks:
    """Up to n disjoint object masks of a feature grid, in the order in which they are found.

    Each cut takes y, the second-smallest generalised eigenvector of (D - A) y = lambda D y, splits the patches at
    the mean of y, chooses a side, and keeps the 4-connected component of that side's extreme patch. The patches
    found are then cut off from the graph (their features count as zero) for the later cuts.

    The seed is the patch of the largest absolute entry. The object is the side above the mean, unless that side
    holds three or more corners of the grid or does not hold the seed; then it is the other side, with the
    smallest entry as seed. This depends on the sign of y where the seed's side holds three or more corners,
    and an eigenvector has no sign of its own; ``sign`` says how to choose it.

    From the second cut on, a cut of at most 1 % of the patches, or with an IoU above 0.5 with the cut before, is
    rejected. As in the authors' code the "cut before" is empty after a rejection, so that a cut which overlaps a
    found object is rejected once, and gives its remaining patches if a round is left. Empty remainders are
    dropped. There are no masks of a graph without structure: one patch, all pairs alike, or no pair similar.

    Memory: n_patches^2 / 8 bytes (1.6 MB at 60 x 60, 34 MB at 128 x 128), a float32 copy of the features and
    20 vectors. Time: the n_patches^2 cosines, once, then some twenty passes over the bits a cut.

    Args:
        features: (h, w, d) patch features of any length (cosines are taken); MaskCut uses the keys of the last
            attention block. A zero vector is similar to nothing.
        tau: similarity threshold, 0 <= tau < 1 (0.15 in CutLER, 0.2 in TokenCut).
        n: largest number of masks, at least 1.
        sign: "lapack" gives y the sign that the dense LAPACK solver of the authors' code returns, and so the
            same masks; "seed" makes the seed positive, so that no mask is the side with the corners (our choice).

    Returns:
        (k, h, w) masks, 0 <= k <= n.

    Raises:
        InputError: no patches, features not finite, ``tau``, ``n`` or ``sign`` out of range.
    """
    height, width, _ = features.shape
    if features.size == 0 or not np.isfinite(features).all():
        raise InputError(
            f"expected a grid of finite features; got shape {features.shape}, "
            f"{int((~np.isfinite(features)).sum())} values not finite; check the image and the backbone's precision"
        )
    if not 0 <= tau < 1 or n < 1:
        raise InputError(f"expected 0 <= tau < 1 and n >= 1; got tau {tau}, n {n}; MaskCut uses 0.15 and 3")
    if sign not in ("lapack", "seed"):
        raise InputError(f"expected the sign 'lapack' or 'seed'; got {sign!r}; 'lapack' is as published")
    graph = _similar(features.reshape(height * width, -1), tau)
    found = np.zeros((height, width), np.bool_)
    previous = np.zeros_like(found)
    masks: list[np.ndarray] = []
    cut: np.ndarray | None = None
    for i in range(n):
        if i == 0 or previous.any():  # otherwise the graph has not changed since the last cut
            cut = _cut(graph, (height, width), sign)
        if cut is None:
            break
        if i > 0 and (_iou(previous, cut) > 0.5 or cut.mean() <= 0.01):
            previous = np.zeros_like(found)
            continue
        previous = cut
        if (cut & ~found).any():
            masks.append(cut & ~found)
        found |= cut
        _isolate(graph, found.ravel())
    return np.array(masks, np.bool_).reshape(-1, height, width)


def _similar(features: np.ndarray, tau: float) -> np.ndarray:
    """B as bits: bit r of entry (g, j) says that patches 8 g + r and j are similar. Symmetric to the last bit."""
    n = len(features)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.float32(1e-12))
    bits = np.zeros((4 * -(-n // 32), n), np.uint8)
    for a in range(0, n, _BLOCK):
        for b in range(a, n, _BLOCK):
            near = unit[a : a + _BLOCK] @ unit[b : b + _BLOCK].T > tau
            for first, second, block in ((a, b, near), (b, a, near.T)):
                rows = np.packbits(block, axis=0, bitorder="little")
                bits[first // 8 : first // 8 + len(rows), second : second + block.shape[1]] = rows
    return bits


def _isolate(bits: np.ndarray, patches: np.ndarray) -> None:
    """Zero the rows and columns of the given patches, as zero features would (their cosines are 0 <= tau)."""
    keep = np.packbits(~patches, bitorder="little")
    bits[: len(keep)] &= keep[:, None]
    bits[:, patches] = 0


def _cut(bits: np.ndarray, shape: tuple[int, int], sign: str) -> np.ndarray | None:
    """One object as a mask of the grid, or None where the graph has no structure."""
    vector = _second_eigenvector(bits, sign)
    if vector is None:
        return None
    side = vector > vector.sum() / len(vector)
    corners = side.reshape(shape)[[0, 0, -1, -1], [0, -1, 0, -1]]
    if corners.sum() >= 3 or not side[_peak(np.abs(vector))]:
        side, vector = ~side, -vector
    components, _ = label(side.reshape(shape))
    return components == components.ravel()[_peak(vector)]


def _peak(values: np.ndarray) -> int:
    """First index of the largest value up to rounding, so that equal patches give the same seed everywhere."""
    return int(np.argmax(values >= values.max() - _TIE * np.abs(values).max()))


def _second_eigenvector(bits: np.ndarray, sign: str) -> np.ndarray | None:
    """Second generalised eigenvector of (D - A, D); None if every vector is as good as another.

    The largest eigenvalue of M = D^-1/2 A D^-1/2 is 1 with the vector D^1/2 1. It is taken out of the operator,
    so that the one wanted is the largest of what is left; y = D^-1/2 v. The rest is raised by 1, which makes the
    relative tolerance an absolute one and keeps the iteration alive where M has nothing else to offer.
    """
    n = bits.shape[1]
    similar = _product(bits, np.ones(n))
    if n == 1 or similar.max() <= 1:  # no patch is similar to another
        return None
    degree = _WEAK * n + (1 - _WEAK) * similar
    scale = 1 / np.sqrt(degree)
    first = np.sqrt(degree / degree.sum())

    def apply(vector: np.ndarray) -> np.ndarray:
        scaled = scale * vector
        return scale * (_WEAK * scaled.sum() + (1 - _WEAK) * _product(bits, scaled))

    def deflated(vector: np.ndarray) -> np.ndarray:  # M + 1 with the known eigenvalue moved from 2 to 0
        vector = vector.ravel()
        return apply(vector) + vector - first * (2 * (first @ vector))

    start = np.random.default_rng(0).standard_normal(n)
    start -= first * (first @ start)
    values, vectors = eigsh(
        LinearOperator((n, n), matvec=deflated, dtype=np.float64),
        k=1,
        which="LA",
        v0=start,
        ncv=min(n, _KRYLOV),
        tol=_TOLERANCE,
    )
    if values[0] - 1 < _FLAT:
        return None
    vector = vectors[:, 0]
    entry = _lapack_entry(apply, vector) if sign == "lapack" else vector[_peak(np.abs(scale * vector))]
    return scale * vector * np.sign(entry)


def _lapack_entry(apply: Callable[[np.ndarray], np.ndarray], vector: np.ndarray) -> float:
    """The entry of an eigenvector v of I - M that LAPACK's sygvx makes positive.

    It reduces I - M = Q T Q' to a tridiagonal T column by column with Householder reflectors (sytrd), and the
    inverse iteration (stein) turns the largest absolute entry of z = Q' v positive. Entry i of z needs the first i
    reflectors only, each one product with M, and Q' v has its weight in front, as every Krylov basis has:
    some ten columns are enough to know the largest.
    """
    n = len(vector)
    reflectors: list[np.ndarray] = []  # unit vectors u of H = I - 2 u u', zero in their first entries
    rest = vector.copy()
    for i in range(min(n - 2, _COLUMNS)):
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


@njit(cache=True, nogil=True)
def _product(bits, vector):
    """B @ vector in float64 by the method of four Russians.

    For each eight columns the sums of all 256 subsets are tabled, so that a byte of a row is one look-up: n^2 / 8
    additions that read n^2 / 8 bytes in order, against 4 n^2 bytes for a float32 matrix. Four tables at a
    time (8 KB) halve the passes over the result.
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
