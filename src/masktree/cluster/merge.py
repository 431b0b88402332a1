"""Greedy merging of adjacent regions, recorded as one full merge sequence.

The three published methods share one rule (HASSOD, arXiv 2402.03311, section 3.1; SOHES, arXiv 2404.12386,
section 3.1; UnSAM, arXiv 2406.20081, section 3.2): a region is represented by the sum of its patch features, the
adjacent pair with the highest cosine similarity is merged first, and the partition at a threshold is that before the
first merge below it. One merge sequence down to a single region therefore contains the partitions of all thresholds.

``merge_tree`` applies that rule to a patch grid. ``merge_regions`` runs the same kernel on any region adjacency graph
with boundary strengths, histograms and embeddings.
"""

from __future__ import annotations

import numpy as np

from masktree.cluster.agglomeration import agglomerate
from masktree.errors import InputError
from masktree.trees.dendrogram import PartitionTree
from masktree.types import Features, Labels, checked


@checked
def merge_tree(features: Features) -> PartitionTree:
    """Full merge tree of a patch grid under the published cosine rule.

    Args:
        features: (h, w, d) float32, raw (not normalised) patch features; any h, w, d >= 1, finite.

    Returns:
        ``PartitionTree`` whose leaves are the h*w patches in row-major order and whose altitudes are
        1 - (running minimum of the similarity along the merge sequence), in [0, 2]. ``tree.cut(theta)`` is the
        partition that the authors' code records at similarity threshold theta.

    Raises:
        InputError: features of another shape or type, empty or not finite.

    Ties are broken as in the authors' code: the edge that was inserted first wins; the initial order is right, down for
    each patch in row-major order, and the edges of a new region are appended in the order of the edges they replace. An
    all-zero feature has similarity 0 to everything.

    The result does not depend on the scale of the features: they are divided by a power of two near their largest
    value, which is exact.

    Cost: O(n log n + (sum of merged regions' degrees) * d) time, n = h*w; memory is one copy of the features.
    """
    if not isinstance(features, np.ndarray) or features.ndim != 3 or features.dtype != np.float32:
        got = f"{features.dtype} {features.shape}" if isinstance(features, np.ndarray) else type(features).__name__
        raise InputError(f"expected features (h, w, d) as float32; got {got}; convert with .astype(numpy.float32)")
    h, w, d = features.shape
    if features.size == 0:
        raise InputError(f"expected features of shape (h, w, d) with all sides >= 1; got {features.shape}")
    flat = _normalise_scale(features.reshape(h * w, d), "features")
    edges = grid_edges(h, w)
    no_histograms = np.zeros((h * w, 0), np.float32)
    ones = np.ones(len(edges))
    merges, costs = agglomerate(
        edges, np.ones(h * w), flat, no_histograms, ones, ones, 0.0, 0.0, 1.0, 0.0, float(h * w), True
    )
    leaves = np.arange(h * w, dtype=np.int32).reshape(h, w)
    return PartitionTree.from_merges(leaves, merges, 1.0 + costs)


@checked
def merge_regions(
    leaves: Labels,
    edges: np.ndarray,
    areas: np.ndarray,
    *,
    embeddings: np.ndarray | None = None,
    histograms: np.ndarray | None = None,
    boundary: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    boundary_weight: float = 1.0,
    histogram_weight: float = 0.3,
    embedding_weight: float = 0.0,
    size_power: float = 0.1,
) -> PartitionTree:
    """Full merge tree of any region adjacency graph.

    The pair with the smallest cost is merged first, where cost(u, v) =
    (boundary_weight * mean boundary strength + histogram_weight * chi-square(histograms)
    + embedding_weight * (1 - cosine of embedding sums)) * (harmonic mean of the areas / image area)^size_power.
    The weights are our choice; with the size factor small regions merge first.

    Args:
        leaves: (H, W) int32 label map of n regions, 0..n-1 without gaps.
        edges: (m, 2) integer, pairs of adjacent regions, each pair once.
        areas: (n,) region sizes in pixels, > 0.
        embeddings: (n, d) float32 sums of embeddings over each region, or None.
        histograms: (n, k) float32 counts over each region (sums, not normalised), or None.
        boundary: (m,) mean boundary strength along each common border, or None.
        lengths: (m,) border lengths in pixels, > 0; 1 each if None.

    Returns:
        ``PartitionTree`` on ``leaves``; altitudes are the running maximum of the cost along the merge sequence.

    Raises:
        InputError: shapes differ, values are not finite, an area is not above 0, an edge is duplicated or a self-loop,
            or the graph is not connected.
    """
    n = len(areas)
    if n == 0 or int(leaves.max(initial=-1)) + 1 != n:
        raise InputError(f"expected one area per region of the label map ({leaves.max(initial=-1) + 1}); got {n}")
    merges, costs = merge_graph(
        edges,
        areas,
        image_area=leaves.size,
        embeddings=embeddings,
        histograms=histograms,
        boundary=boundary,
        lengths=lengths,
        boundary_weight=boundary_weight,
        histogram_weight=histogram_weight,
        embedding_weight=embedding_weight,
        size_power=size_power,
    )
    return PartitionTree.from_merges(leaves, merges, costs)


def merge_graph(
    edges: np.ndarray,
    areas: np.ndarray,
    *,
    image_area: int,
    embeddings: np.ndarray | None = None,
    histograms: np.ndarray | None = None,
    boundary: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    boundary_weight: float = 1.0,
    histogram_weight: float = 0.3,
    embedding_weight: float = 0.0,
    size_power: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:
    """``merge_regions`` without a label map, which may be too large for memory.

    Args:
        image_area: pixels of the image, to which the areas of the regions are compared.
        edges, areas, embeddings, histograms, boundary, lengths: see ``merge_regions``, as the weights.

    Returns:
        merges (n-1, 2) int64 and costs (n-1,) float64, for ``PartitionTree.from_merges``.

    Raises:
        InputError: as ``merge_regions``.
    """
    n, m = len(areas), len(edges)
    edges = np.ascontiguousarray(edges, np.int64) if m else np.zeros((0, 2), np.int64)
    if edges.shape != (m, 2):
        raise InputError(f"expected edges of shape (m, 2); got {edges.shape}")
    if m and (edges.min() < 0 or edges.max() >= n):
        raise InputError(f"expected region numbers in 0..{n - 1} in edges; got {edges.min()}..{edges.max()}")
    low, high = np.sort(edges, axis=1).T
    if np.any(low == high) or len(np.unique(low * n + high)) < m:
        raise InputError("expected edges between different regions, each pair once; got one to itself or one twice")
    if not np.all(areas > 0):
        raise InputError("expected areas above 0; got others; leave empty regions out")
    expected_shapes = {
        "embeddings": (embeddings, (n, 0 if embeddings is None else embeddings.shape[-1])),
        "histograms": (histograms, (n, 0 if histograms is None else histograms.shape[-1])),
        "boundary": (boundary, (m,)),
        "lengths": (lengths, (m,)),
    }
    for name, (array, shape) in expected_shapes.items():
        if array is not None and array.shape != shape:
            raise InputError(f"expected {name} of shape {shape}; got {array.shape}")
        if array is not None:
            _require_finite(array, name)
    length = np.ones(m) if lengths is None else lengths.astype(np.float64)
    strength = np.zeros(m) if boundary is None else boundary.astype(np.float64) * length
    empty = np.zeros((n, 0), np.float32)
    merges, costs = agglomerate(
        edges,
        np.asarray(areas, np.float64).copy(),
        empty if embeddings is None else _normalise_scale(embeddings, "embeddings"),
        empty if histograms is None else histograms.astype(np.float32),
        strength,
        length,
        boundary_weight,
        histogram_weight,
        embedding_weight,
        size_power,
        float(image_area),
        False,
    )
    if len(merges) != n - 1:
        raise InputError(f"expected a connected adjacency graph; got {n - len(merges)} separate pieces")
    return merges, costs


def grid_edges(h: int, w: int) -> np.ndarray:
    """(m, 2) int64 edges of the 4-neighbour grid: for each patch in row-major order right, then down."""
    index = np.arange(h * w).reshape(h, w)
    pairs = np.full((h, w, 2, 2), -1, np.int64)
    pairs[:, :-1, 0] = np.stack([index[:, :-1], index[:, 1:]], -1)
    pairs[:-1, :, 1] = np.stack([index[:-1], index[1:]], -1)
    flat = pairs.reshape(-1, 2)
    return flat[flat[:, 0] >= 0]


def _normalise_scale(vectors: np.ndarray, name: str) -> np.ndarray:
    """A C-contiguous float32 copy divided by a power of two near the largest value, so that products of two values
    neither overflow nor underflow. Raises InputError where a value is not finite."""
    peak = _require_finite(vectors, name)
    # The bounds keep the factor a normal float32.
    exponent = min(max(int(np.frexp(peak)[1]), -126), 126)
    scaled: np.ndarray = np.multiply(vectors, np.ldexp(np.float32(1), -exponent), order="C").astype(
        np.float32, copy=False
    )
    return scaled


def _require_finite(array: np.ndarray, name: str) -> float:
    """The largest absolute value, in two passes without a temporary array; InputError if it is not finite."""
    low, high = float(array.min(initial=0)), float(array.max(initial=0))  # NaN if any entry is
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int((~np.isfinite(array)).sum())
        raise InputError(f"expected finite {name}; got {count} NaN or infinite values; check the backbone's output")
    return max(high, -low)
