"""``PartitionTree``: a hierarchy of nested partitions, from leaves to the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.trees import rle
from masktree.types import Labels, Mask, checked


@dataclass(frozen=True, eq=False)
class PartitionTree:
    """Binary partition tree over n leaf regions: 2n - 1 nodes, leaves first, then merges in order.

    Every cut is a partition of the image and coarser cuts are unions of finer ones, by construction. Memory is
    O(pixels + n). Trees are compared and hashed by identity; arrays are read-only views of the arguments.

    Attributes:
        leaves: (H, W) int32 leaf label map, 0..n-1 without gaps.
        parents: (2n-1,) int32; node i's parent is always greater than i; the root, 2n-2, is its own parent.
        altitudes: (2n-1,) float64; 0 for leaves, and for node n+i the running maximum of the dissimilarity
            along the merge sequence up to merge i. Only edges at the region just merged ever change, so a
            merge that is cheaper than an earlier one contains it: this running maximum along the sequence
            equals the one along each leaf-to-root path, and altitudes never fall towards the root.

    Under the published cosine rule the dissimilarity is 1 - similarity; ``cut(theta)`` takes the similarity.
    """

    leaves: np.ndarray
    parents: np.ndarray
    altitudes: np.ndarray

    def __post_init__(self) -> None:
        for name in ("leaves", "parents", "altitudes"):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray):
                raise InputError(f"expected {name} as a NumPy array; got {type(array).__name__}; use numpy.asarray")
            view = array.view()  # no copy, as a leaf map may be large; the caller's array stays writable
            view.setflags(write=False)
            object.__setattr__(self, name, view)
        leaves, parents, altitudes = self.leaves, self.parents, self.altitudes
        count = len(parents)
        if leaves.ndim != 2 or leaves.dtype != np.int32 or leaves.size == 0:
            raise InputError(f"expected leaves of shape (H, W), int32, not empty; got {leaves.shape} {leaves.dtype}")
        if count % 2 == 0 or altitudes.shape != (count,) or parents.shape != (count,):
            raise InputError(
                f"expected parents and altitudes of one odd length 2n-1; got {parents.shape}, {altitudes.shape}"
            )
        n = (count + 1) // 2
        index = np.arange(count - 1)
        if np.any(parents[:-1] <= index) or np.any(parents[:-1] < n) or parents[-1] != count - 1:
            raise InputError("expected each parent to be a later merge node and the last node to be the root")
        if np.any(np.bincount(parents[:-1], minlength=count)[n:] != 2):
            raise InputError("expected exactly two children per merge node")
        if not np.all(np.isfinite(altitudes)) or np.any(altitudes[parents] < altitudes):
            raise InputError("expected finite altitudes that never fall from a node to its parent")
        if int(leaves.min()) < 0 or int(leaves.max()) >= n:
            raise InputError(f"expected leaf labels in 0..{n - 1}; got {leaves.min()}..{leaves.max()}")

    @classmethod
    def from_merges(cls, leaves: Labels, merges: np.ndarray, dissimilarities: np.ndarray) -> PartitionTree:
        """Build from a merge sequence: (n-1, 2) pairs of node numbers and (n-1,) dissimilarities."""
        n = len(merges) + 1
        parents = np.arange(2 * n - 1, dtype=np.int32)
        if n > 1:
            parents[merges[:, 0]] = parents[merges[:, 1]] = np.arange(n, 2 * n - 1)
        altitudes = np.zeros(2 * n - 1)
        # Leaves have altitude 0, so a dissimilarity below 0 (a cosine rounded above 1) is clipped to 0.
        altitudes[n:] = np.maximum.accumulate(np.maximum(dissimilarities, 0.0))
        return cls(leaves, parents, altitudes)

    # --- structure ----------------------------------------------------------------------------------------------

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the leaf map."""
        return self.leaves.shape[0], self.leaves.shape[1]

    @property
    def n_leaves(self) -> int:
        return (len(self.parents) + 1) // 2

    @cached_property
    def children(self) -> np.ndarray:
        """(n-1, 2) int32: the two children of merge node n+i, in ascending order."""
        n = self.n_leaves
        order = np.argsort(self.parents[:-1], kind="stable").astype(np.int32)
        return order.reshape(n - 1, 2)

    @cached_property
    def intervals(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), each (2n-1,) int32: node i contains the leaves at positions low[i]..high[i]-1 of ``order``."""
        return _intervals(self.parents, self.children)

    @cached_property
    def order(self) -> np.ndarray:
        """(n,) int32: leaf labels in depth-first order, so that every node is one interval."""
        order = np.empty(self.n_leaves, np.int32)
        order[self.intervals[0][: self.n_leaves]] = np.arange(self.n_leaves, dtype=np.int32)
        return order

    @cached_property
    def areas(self) -> np.ndarray:
        """(2n-1,) int64 areas of all nodes in pixels."""
        low, high = self.intervals
        leaf_areas = np.bincount(self.leaves.ravel(), minlength=self.n_leaves)
        total = np.concatenate([[0], np.cumsum(leaf_areas[self.order])])
        return total[high] - total[low]

    @cached_property
    def borders(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of leaves that touch (4-neighbours), (m, 2) int32 with the lower one first and in ascending order, and
        the number of pixels along the border of each, (m,) int64."""
        keys = []
        for first, second in ((self.leaves[:, :-1], self.leaves[:, 1:]), (self.leaves[:-1], self.leaves[1:])):
            differs = first != second
            one, two = first[differs].astype(np.int64), second[differs]
            keys.append(np.minimum(one, two) * self.n_leaves + np.maximum(one, two))
        pairs, lengths = np.unique(np.concatenate(keys), return_counts=True)
        return np.stack(np.divmod(pairs, self.n_leaves), axis=1).astype(np.int32), lengths

    @cached_property
    def border_heights(self) -> np.ndarray:
        """(m,) float32: the altitude at which the two leaves of each pair of ``borders`` merge."""
        edges = self.borders[0]
        heights: np.ndarray = _saddles(edges[None, :, 0], edges[None, :, 1], self.parents, self.altitudes)[0]
        return heights

    def mask(self, node: int) -> Mask:
        """(H, W) bool mask of one node."""
        if not 0 <= node < len(self.parents):
            raise InputError(f"expected a node in 0..{len(self.parents) - 1}; got {node}")
        low, high = self.intervals
        inside = (low[: self.n_leaves] >= low[node]) & (low[: self.n_leaves] < high[node])
        return inside[self.leaves]

    def rles(self, nodes: np.ndarray) -> list[bytes]:
        """Compressed COCO RLE of each node, from the runs of the leaf map, without dense masks."""
        low, high = self.intervals
        positions = low[: self.n_leaves].astype(np.int32)[self.leaves]
        return rle.encode_intervals(positions, low[nodes], high[nodes])

    # --- cuts ---------------------------------------------------------------------------------------------------

    def cut(self, theta: float) -> Labels:
        """Partition at similarity threshold theta: all merges before the first one with similarity < theta.

        Returns an (H, W) int32 label map, numbered by first appearance in row-major order. Higher theta is finer.
        """
        if np.isnan(theta):
            raise InputError("expected a similarity threshold; got NaN")
        return self.cut_at(1.0 - theta)

    def cut_at(self, altitude: float) -> Labels:
        """Partition after all merges up to and including this altitude; equals ``cut(1 - altitude)``.

        A node is a region of the cuts from its own altitude to just below its parent's. Labels as in ``cut``.
        """
        if np.isnan(altitude):
            raise InputError("expected an altitude; got NaN")
        return self._cut_merges(self.merges_at(altitude))

    def merges_at(self, altitude: float) -> int:
        """Number of merges up to and including this altitude."""
        return int(np.searchsorted(self.altitudes[self.n_leaves :], float(altitude), side="right"))

    def cut_count(self, k: int) -> Labels:
        """Partition into exactly k regions, 1 <= k <= number of leaves: (H, W) int32 labels."""
        if not 1 <= k <= self.n_leaves:
            raise InputError(f"expected 1 <= k <= {self.n_leaves} (the number of leaves); got {k}")
        return self._cut_merges(self.n_leaves - k)

    def _cut_merges(self, merges: int) -> Labels:
        """Partition after the first ``merges`` merges."""
        return renumber(self.cut_nodes(merges)[self.leaves])

    def cut_nodes(self, merges: int) -> np.ndarray:
        """(n,) int32: for each leaf its node after the first ``merges`` merges."""
        return _highest_ancestors(self.parents, self.n_leaves, self.n_leaves + merges)

    def with_altitudes(self, altitudes: np.ndarray) -> PartitionTree:
        """The same hierarchy with other altitudes (a monotone recalibration)."""
        return PartitionTree(self.leaves, self.parents, np.asarray(altitudes, np.float64))

    def with_leaves(self, leaves: Labels) -> PartitionTree:
        """The same hierarchy on another leaf map (another resolution); missing leaves have area 0."""
        return PartitionTree(leaves, self.parents, self.altitudes)

    # --- contours -----------------------------------------------------------------------------------------------

    def ucm(self, *, doubled: bool = False) -> np.ndarray:
        """Ultrametric contour map: the altitude at which the two sides of each border merge.

        Args:
            doubled: False gives (H, W): each pixel has the highest altitude of the borders to its right, lower
                and lower-right neighbours (0 inside regions). True gives (2H+1, 2W+1), the layout of the
                BSDS500 benchmark (Arbelaez et al. 2011, 10.1109/TPAMI.2010.161): pixel (y, x) sits at
                (2y+1, 2x+1), borders between pixels in the cells between.

        Returns:
            float32 map. Thresholding the doubled map at t gives the 4-connected components of the regions of the cut at
            altitude t; a contour cannot represent a connection through a corner.
        """
        right = _saddles(self.leaves[:, :-1], self.leaves[:, 1:], self.parents, self.altitudes)
        down = _saddles(self.leaves[:-1], self.leaves[1:], self.parents, self.altitudes)
        h, w = self.size
        if doubled:
            full = np.zeros((2 * h + 1, 2 * w + 1), np.float32)
            full[1::2, 2:-1:2] = right
            full[2:-1:2, 1::2] = down
            # A crossing takes the highest of its four borders, so that contours stay closed.
            full[2:-1:2, 2:-1:2] = np.max([right[:-1], right[1:], down[:, :-1], down[:, 1:]], axis=0)
            full[0], full[-1] = full[1], full[-2]
            full[:, 0], full[:, -1] = full[:, 1], full[:, -2]
            return full
        contours = np.zeros((h, w), np.float32)
        contours[:, :-1] = right
        contours[:-1] = np.maximum(contours[:-1], down)
        return contours


@checked
def renumber(labels: Labels) -> Labels:
    """Renumber a label map by first appearance in row-major order, 0..k-1 without gaps."""
    return _renumber(labels.ravel(), int(labels.max()) + 1).reshape(labels.shape)


@kernel()
def _renumber(labels: np.ndarray, limit: int) -> np.ndarray:  # pragma: no cover
    new_labels = np.full(limit, -1, np.int32)
    out = np.empty_like(labels)
    count = 0
    for i in range(labels.shape[0]):
        label = labels[i]
        if new_labels[label] < 0:
            new_labels[label] = count
            count += 1
        out[i] = new_labels[label]
    return out


@kernel()
def _highest_ancestors(parents: np.ndarray, n: int, limit: int) -> np.ndarray:  # pragma: no cover
    """Highest ancestor below node number ``limit`` of each leaf; parents are numbered upwards."""
    top = np.arange(limit).astype(np.int32)
    for node in range(limit - 1, -1, -1):
        if parents[node] < limit:
            top[node] = top[parents[node]]
    return top[:n]


@kernel()
def _intervals(parents: np.ndarray, children: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    count = parents.shape[0]
    n = (count + 1) // 2
    leaves = np.ones(count, np.int32)
    for node in range(n, count):
        leaves[node] = leaves[children[node - n, 0]] + leaves[children[node - n, 1]]
    low = np.zeros(count, np.int32)
    for node in range(count - 1, n - 1, -1):
        first, second = children[node - n]
        low[first] = low[node]
        low[second] = low[node] + leaves[first]
    return low, low + leaves


@kernel()
def _saddles(
    first: np.ndarray, second: np.ndarray, parents: np.ndarray, altitudes: np.ndarray
) -> np.ndarray:  # pragma: no cover
    """(h, w) float32 altitude of the lowest common ancestor of each pair of leaves; 0 where they are the same."""
    out = np.zeros(first.shape, np.float32)
    for y in range(first.shape[0]):
        last_a, last_b, last = -1, -1, np.float32(0)
        for x in range(first.shape[1]):
            a, b = first[y, x], second[y, x]
            if a == b:
                continue
            if a != last_a or b != last_b:  # the same pair repeats along a border: reuse its altitude
                last_a, last_b = a, b
                while a != b:
                    if a < b:
                        a = parents[a]
                    else:
                        b = parents[b]
                last = np.float32(altitudes[a])
            out[y, x] = last
    return out


@kernel()
def lowest_common_ancestors(parents: np.ndarray, nodes: np.ndarray) -> np.ndarray:  # pragma: no cover
    """(k,) int64 lowest node that contains all of each row of (k, m) nodes; -1 after the first column is none."""
    ancestors = np.empty(len(nodes), np.int64)
    for i in range(len(nodes)):
        top = nodes[i, 0]
        for node in nodes[i]:
            while node >= 0 and node != top:  # parents are numbered upwards: the lower one is not the ancestor
                if node < top:
                    node = parents[node]
                else:
                    top = parents[top]
        ancestors[i] = top
    return ancestors
