"""The kernel of the merging: the most similar pair of neighbours first, until one region is left.

A region is stored in the slot of its first member; a merge adds slot v to slot u. Edges keep their numbers: when u
and v merge, every edge of either gets a new sequence number and key, and of two edges to the same neighbour the
earlier one is kept. Every edge has one entry in a binary heap, ordered by key, then by sequence number; ``position``
is its index there. Half-edge 2e+s is in the doubly linked list of its endpoint.

Under the published rule each merge of a large region changes all its similarities slightly. Each costs a dot product
of d terms; an upper bound costs O(1): <u + v, x> = <u, x> + <v, x>, where an unknown term is at most |v| |x|. So keys
are bounds until they reach the top of the heap, and only there the similarity is computed. Merges, order and ties
are those of exact keys, because an exact key is merged only when no bound is above it.
"""

from __future__ import annotations

import numpy as np

from masktree.kernels import kernel

_BOUND_MARGIN = 2e-5  # above the rounding error of a float32 dot product of some thousand terms


@kernel(fastmath=True)
def _dot(a: np.ndarray, b: np.ndarray) -> np.float32:  # pragma: no cover
    total = np.float32(0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@kernel(fastmath=True)
def _chi_square(
    a: np.ndarray, b: np.ndarray, scale_a: np.float32, scale_b: np.float32
) -> np.float32:  # pragma: no cover
    """Half the chi-square distance of two normalised histograms, in [0, 1]."""
    total = np.float32(0)
    for i in range(a.shape[0]):
        p = a[i] * scale_a
        q = b[i] * scale_b
        difference = p - q
        total += difference * difference / (p + q + np.float32(1e-12))
    return np.float32(0.5) * total


@kernel()
def _cost(
    u: int, v: int, area: np.ndarray, sums: np.ndarray, square: np.ndarray, histograms: np.ndarray, mass: np.ndarray,
    strength: float, length: float, boundary_weight: float, histogram_weight: float, embedding_weight: float,
    size_power: float, image_area: float, cosine_only: bool,
) -> float | np.floating:  # fmt: skip  # pragma: no cover
    cosine = 0.0
    if sums.shape[1] > 0 and embedding_weight != 0.0:
        norm = square[u] * square[v]  # exact for small integers, so true ties stay ties
        if norm > 0.0:
            cosine = _dot(sums[u], sums[v]) / np.sqrt(norm)
    if cosine_only:
        return -cosine
    cost: float | np.floating = boundary_weight * strength / length + embedding_weight * (1.0 - cosine)
    if histograms.shape[1] > 0 and histogram_weight != 0.0:
        scale_u = np.float32(1.0 / max(mass[u], 1e-12))
        scale_v = np.float32(1.0 / max(mass[v], 1e-12))
        cost += histogram_weight * _chi_square(histograms[u], histograms[v], scale_u, scale_v)
    if size_power != 0.0:
        mean_area = 2.0 * area[u] * area[v] / (area[u] + area[v])
        cost *= (mean_area / image_area) ** size_power
    return cost


@kernel()
def _sift(
    keys: np.ndarray, order: np.ndarray, edge: np.ndarray, position: np.ndarray, i: int, size: int
) -> None:  # pragma: no cover
    """Restore the heap order after the key at index ``i`` has changed."""
    key, seq, e = keys[i], order[i], edge[i]
    down = True
    while i > 0:
        parent = (i - 1) >> 1
        if keys[parent] < key or (keys[parent] == key and order[parent] < seq):
            break
        keys[i], order[i], edge[i] = keys[parent], order[parent], edge[parent]
        position[edge[i]] = i
        i = parent
        down = False
    while down:
        child = 2 * i + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (keys[right] < keys[child] or (keys[right] == keys[child] and order[right] < order[child])):
            child = right
        if key < keys[child] or (key == keys[child] and seq < order[child]):
            break
        keys[i], order[i], edge[i] = keys[child], order[child], edge[child]
        position[edge[i]] = i
        i = child
    keys[i], order[i], edge[i] = key, seq, e
    position[e] = i


@kernel()
def _remove(
    keys: np.ndarray, order: np.ndarray, edge: np.ndarray, position: np.ndarray, i: int, size: int
) -> None:  # pragma: no cover
    """Remove the entry at index ``i`` from a heap of ``size`` entries."""
    position[edge[i]] = -1
    last = size - 1
    if i < last:
        keys[i], order[i], edge[i] = keys[last], order[last], edge[last]
        position[edge[i]] = i
        _sift(keys, order, edge, position, i, last)


@kernel()
def _reverse(items: np.ndarray, keys: np.ndarray, start: int, stop: int) -> None:  # pragma: no cover
    while start < stop - 1:
        stop -= 1
        items[start], items[stop] = items[stop], items[start]
        keys[start], keys[stop] = keys[stop], keys[start]
        start += 1


@kernel()
def _sort(items: np.ndarray, keys: np.ndarray, total: int) -> None:  # pragma: no cover
    """Sort the first ``total`` items by key: insertion sort, as they are nearly sorted; argsort if they are not."""
    budget = 16 * total
    for i in range(1, total):
        item, key = items[i], keys[i]
        k = i
        while k > 0 and keys[k - 1] > key:
            items[k], keys[k] = items[k - 1], keys[k - 1]
            k -= 1
        items[k], keys[k] = item, key
        budget -= i - k
        if budget < 0:
            ranked = np.argsort(keys[:total])
            items[:total] = items[:total][ranked]
            return


@kernel()
def _prepend(half: int, u: int, head: np.ndarray, after: np.ndarray, before: np.ndarray) -> None:  # pragma: no cover
    """Insert a half-edge at the start of the list of region u."""
    before[half] = -1
    after[half] = head[u]
    if head[u] >= 0:
        before[head[u]] = half
    head[u] = half


@kernel()
def _unlink(half: int, u: int, head: np.ndarray, after: np.ndarray, before: np.ndarray) -> None:  # pragma: no cover
    """Remove a half-edge from the list of region u."""
    if before[half] >= 0:
        after[before[half]] = after[half]
    else:
        head[u] = after[half]
    if after[half] >= 0:
        before[after[half]] = before[half]


@kernel()
def _collect_edges(
    head_u: int,
    head_v: int,
    e: int,
    after: np.ndarray,
    order: np.ndarray,
    position: np.ndarray,
    half_edges: np.ndarray,
    half_edge_order: np.ndarray,
    from_v: np.ndarray,
) -> int:  # pragma: no cover
    """Half-edges of two lists but for edge e, by sequence number, and whether they are of the second; their number."""
    total = 0
    for side in range(2):
        half = head_u if side == 0 else head_v
        start = total
        while half >= 0:
            if half >> 1 != e:
                from_v[half >> 1] = side == 1
                half_edges[total] = half
                half_edge_order[total] = order[position[half >> 1]]
                total += 1
            half = after[half]
        _reverse(half_edges, half_edge_order, start, total)  # lists start with the latest edge
    _sort(half_edges, half_edge_order, total)
    return total


@kernel()
def agglomerate(
    edges: np.ndarray, area: np.ndarray, sums: np.ndarray, histograms: np.ndarray, strength: np.ndarray,
    length: np.ndarray, boundary_weight: float, histogram_weight: float, embedding_weight: float, size_power: float,
    image_area: float, cosine_only: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip  # pragma: no cover
    n, m = area.shape[0], edges.shape[0]
    ends = edges.astype(np.int32).reshape(2 * m)
    square = np.zeros(n)
    mass = np.zeros(n)
    for u in range(n):
        square[u] = _dot(sums[u], sums[u])
        for i in range(histograms.shape[1]):
            mass[u] += histograms[u, i]

    head = np.full(n, -1, np.int32)  # first half-edge of each slot
    after = np.full(2 * m, -1, np.int32)
    before = np.full(2 * m, -1, np.int32)
    for half in range(2 * m):
        _prepend(half, ends[half], head, after, before)

    keys = np.empty(m)
    order = np.empty(m, np.int64)
    edge = np.empty(m, np.int32)
    position = np.empty(m, np.int32)
    exact = np.ones(m, np.bool_)
    for e in range(m):
        keys[e] = _cost(
            ends[2 * e], ends[2 * e + 1], area, sums, square, histograms, mass, strength[e], length[e],
            boundary_weight, histogram_weight, embedding_weight, size_power, image_area, cosine_only,
        )  # fmt: skip
        order[e] = e
        edge[e] = e
        _sift(keys, order, edge, position, e, e + 1)
    size = m

    sequence = m
    node = np.arange(n)
    merges = np.empty((max(n - 1, 0), 2), np.int64)
    costs = np.empty(max(n - 1, 0))
    count = 0
    edge_to = np.full(n, -1, np.int32)  # edge from the new region to this neighbour, if stamp == count
    stamp = np.full(n, -1, np.int32)
    half_edges = np.empty(m, np.int32)
    from_v = np.zeros(m, np.bool_)
    bounds = np.zeros(m)
    new_sequence = np.zeros(m, np.int64)
    half_edge_order = np.empty(m, np.int64)

    while size > 0 and count < n - 1:
        key, e = keys[0], edge[0]
        u, v = ends[2 * e], ends[2 * e + 1]
        if not exact[e]:
            keys[0] = _cost(
                u, v, area, sums, square, histograms, mass, strength[e], length[e],
                boundary_weight, histogram_weight, embedding_weight, size_power, image_area, cosine_only,
            )  # fmt: skip
            exact[e] = True
            _sift(keys, order, edge, position, 0, size)
            continue
        _remove(keys, order, edge, position, 0, size)
        size -= 1
        merges[count, 0], merges[count, 1] = node[u], node[v]
        costs[count] = key
        node[u] = n + count
        norm_u, norm_v = np.sqrt(square[u]), np.sqrt(square[v])
        area[u] += area[v]
        sums[u] += sums[v]
        square[u] = _dot(sums[u], sums[u])
        histograms[u] += histograms[v]
        mass[u] += mass[v]
        norm = np.sqrt(square[u])
        cancelled = norm <= 0.1 * (norm_u + norm_v)  # the rounding error would be too large for a bound

        total = _collect_edges(head[u], head[v], e, after, order, position, half_edges, half_edge_order, from_v)
        head[u] = -1
        head[v] = -1
        for rank in range(total):
            half = half_edges[rank]
            other = half ^ 1
            f = half >> 1
            x = ends[other]
            if stamp[x] == count:  # a second edge to the same neighbour is added to the first one
                g = edge_to[x]
                strength[g] += strength[f]
                length[g] += length[f]
                # Its similarity is known too, and replaces the largest possible one in the bound of the first edge.
                known_norm = norm_v if from_v[f] else norm_u
                bounds[g] -= known_norm * (1.0 + keys[position[f]])
                _remove(keys, order, edge, position, position[f], size)
                size -= 1
                _unlink(other, x, head, after, before)
                continue
            stamp[x] = count
            edge_to[x] = f
            known_norm, other_norm = (norm_v, norm_u) if from_v[f] else (norm_u, norm_v)
            bounds[f] = other_norm - known_norm * keys[position[f]]
            ends[half] = u
            _prepend(half, u, head, after, before)
            new_sequence[f] = sequence
            sequence += 1

        half = head[u]
        while half >= 0:
            f = half >> 1
            i = position[f]
            order[i] = new_sequence[f]
            if cosine_only:
                keys[i] = -_BOUND_MARGIN - (1.0 if cancelled else min(max(bounds[f] / norm, -1.0), 1.0))
                exact[f] = False
            else:
                exact[f] = True
                keys[i] = _cost(
                    u, ends[half ^ 1], area, sums, square, histograms, mass, strength[f], length[f],
                    boundary_weight, histogram_weight, embedding_weight, size_power, image_area, cosine_only,
                )  # fmt: skip
            _sift(keys, order, edge, position, i, size)
            half = after[half]
        count += 1
    return merges[:count], costs[:count]
