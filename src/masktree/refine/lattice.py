"""Permutohedral lattice: Gaussian filtering of many channels at scattered points of a low-dimensional space.

Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Computer Graphics Forum
2010, doi:10.1111/j.1467-8659.2009.01645.x. Values are spread from each point to the d + 1 vertices of the simplex
around it (splat), blurred along the d + 1 lattice axes with the kernel (1/2, 1, 1/2), and read back (slice).

Vertices are numbered in order of first use, so that neighbouring pixels share cache lines. A vertex is identified by
its first d coordinates packed into one 64-bit integer, so that a step along an axis is a single addition.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from masktree.errors import InputError
from masktree.kernels import kernel

_HASH = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: 2^64 divided by the golden ratio
_FIRST_TABLE_BITS = 14


class Lattice(NamedTuple):
    """Lattice of N points with M vertices in d dimensions.

    offsets: (N, d + 1) int32, the vertices around each point.
    weights: (N, d + 1) float32, the barycentric weights of each point; they sum to 1.
    neighbours: (d + 1, M, 2) int32, the two vertices next to each vertex along each axis; M means none.
    gain: factor of the sliced values in the published implementation, 1 / (1 + 2^-d).
    """

    offsets: np.ndarray
    weights: np.ndarray
    neighbours: np.ndarray
    gain: float


@kernel()
def _slot(table: np.ndarray, known: np.ndarray, shift: int, key: np.int64) -> np.int64:
    """Slot of the key in the open-addressing table, or the free slot for it."""
    mask = len(table) - 1
    slot = np.int64((np.uint64(key) * _HASH) >> np.uint64(shift))
    while table[slot] >= 0 and known[table[slot]] != key:
        slot = (slot + 1) & mask
    return slot


@kernel()
def _grown(known: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Hash table and key list with twice the capacity, for the first ``count`` keys."""
    bits = _FIRST_TABLE_BITS
    while (1 << bits) < 4 * count + 1:
        bits += 1
    table = np.full(1 << bits, -1, np.int32)
    keys = np.empty(1 << (bits - 1), np.int64)
    keys[:count] = known[:count]
    for i in range(count):
        table[_slot(table, keys, 64 - bits, keys[i])] = i
    return table, keys, 64 - bits


@kernel(error_model="numpy")
def _locate(
    point: np.ndarray,
    scale: tuple[float, ...],
    rest: np.ndarray,
    rank: np.ndarray,
    barycentric: np.ndarray,
) -> None:
    """Simplex around a point: its 0-coloured vertex (rest), the order of the residuals (rank), the weights."""
    d = len(scale)
    up = d + 1
    total = 0.0
    elevated = barycentric  # same array: the residuals replace the elevated point
    for j in range(d, 0, -1):
        value = point[j - 1] * scale[j - 1]
        elevated[j] = total - j * value
        total += value
    elevated[0] = total
    excess = 0
    for i in range(up):
        nearest = int(np.rint(elevated[i] / up))
        rest[i] = nearest * up
        excess += nearest
        elevated[i] -= rest[i]
        rank[i] = 0
    for i in range(d):
        for j in range(i + 1, up):
            if elevated[i] < elevated[j]:
                rank[i] += 1
            else:
                rank[j] += 1
    for i in range(up):  # project a point that was rounded off the plane of coordinate sum 0 back onto it
        rank[i] += excess
        if rank[i] < 0:
            rank[i] += up
            rest[i] += up
            elevated[i] -= up
        elif rank[i] > d:
            rank[i] -= up
            rest[i] -= up
            elevated[i] += up


@kernel(error_model="numpy")
def _embed(
    features: np.ndarray,
    scale: tuple[float, ...],
    bits: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Vertices and weights of every point, and the vertex keys, empty if one does not fit into its bits.

    ``scale`` is a tuple, so that the compiler knows the dimension and unrolls loops over it.
    """
    n = len(features)
    d = len(scale)
    up = d + 1
    limit = (1 << (bits - 1)) - 2 * up
    offsets = np.empty((n, up), np.int32)
    weights = np.empty((n, up), np.float32)
    rest = np.empty(up, np.int64)
    rank = np.empty(up, np.int64)
    residual = np.empty(up)
    sorted_residual = np.empty(up + 1)
    last_key = np.full(up, -1, np.int64)
    last_vertex = np.zeros(up, np.int32)
    count = 0
    table, known, shift = _grown(np.empty(0, np.int64), 0)
    for p in range(n):
        _locate(features[p], scale, rest, rank, residual)
        for i in range(up):
            sorted_residual[rank[i]] = residual[i]
        weights[p, 0] = 1.0 - (sorted_residual[0] - sorted_residual[d]) / up
        for r in range(1, up):
            weights[p, r] = (sorted_residual[d - r] - sorted_residual[d - r + 1]) / up
        for r in range(up):
            key = np.int64(0)
            for i in range(d):
                coordinate = rest[i] + (r if rank[i] <= d - r else r - up)
                if coordinate > limit or coordinate < -limit:
                    return offsets, weights, known[:0], table, shift
                key += coordinate << (bits * i)
            if key != last_key[r] or p == 0:
                slot = _slot(table, known, shift, key)
                if table[slot] < 0:
                    if 2 * count + 2 > len(table):
                        table, known, shift = _grown(known, count)
                        slot = _slot(table, known, shift, key)
                    known[count] = key
                    table[slot] = count
                    count += 1
                last_key[r] = key
                last_vertex[r] = table[slot]
            offsets[p, r] = last_vertex[r]
    return offsets, weights, known[:count], table, shift


@kernel()
def _connect(known: np.ndarray, table: np.ndarray, shift: int, d: int, bits: int) -> np.ndarray:
    """Neighbours of every vertex along every axis."""
    m = len(known)
    neighbours = np.full((d + 1, m, 2), m, np.int32)
    ones = 0
    for i in range(d):
        ones += 1 << (bits * i)
    for axis in range(d + 1):
        step = -ones
        if axis < d:
            step += (d + 1) << (bits * axis)
        for vertex in range(m):
            other = table[_slot(table, known, shift, known[vertex] + step)]
            if other >= 0:
                neighbours[axis, vertex, 0] = other
                neighbours[axis, other, 1] = vertex
    return neighbours


def build_lattice(features: np.ndarray) -> Lattice:
    """Lattice of points given in units of the Gaussian's standard deviation.

    Args:
        features: (N, d) float32 positions, each axis divided by its standard deviation.

    Raises:
        InputError: a position is too large for the vertex keys (thousands of standard deviations).
    """
    d = features.shape[1]
    bits = 62 // d
    scale = tuple(float(np.sqrt(2 / 3) * (d + 1) / np.sqrt((i + 1) * (i + 2))) for i in range(d))
    offsets, weights, known, table, shift = _embed(features, scale, bits)
    if len(known) == 0:
        raise InputError(
            f"expected positions within a few hundred standard deviations in {d} dimensions; got up to "
            f"{float(np.abs(features).max()):.0f}; use larger standard deviations or a smaller image"
        )
    return Lattice(offsets, weights, _connect(known, table, shift, d, bits), 1.0 / (1.0 + 2.0**-d))


@kernel(fastmath=True)
def blur(values: np.ndarray, spare: np.ndarray, neighbours: np.ndarray, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Blur (M + 1, k) vertex values along all axes; the last row stands for missing neighbours and stays 0.

    Returns the blurred values and the spare array; both arguments are overwritten.
    """
    axes, m, _ = neighbours.shape
    k = values.shape[1]
    for axis in range(axes):
        factor = np.float32(gain) if axis == axes - 1 else np.float32(1)
        half = np.float32(0.5) * factor
        for vertex in range(m):
            a = neighbours[axis, vertex, 0]
            b = neighbours[axis, vertex, 1]
            for c in range(k):
                spare[vertex, c] = factor * values[vertex, c] + half * (values[a, c] + values[b, c])
        values, spare = spare, values
    return values, spare
