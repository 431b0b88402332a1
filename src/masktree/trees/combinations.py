"""Unions of two or three neighbouring nodes of a dendrogram.

A thing whose halves differ more from each other than from their surroundings is no node: each half joins the ground
first. It nearly always is a union of a few nodes, though. Such unions are enumerated and ranked without any label, as
combinatorial grouping does with labels (Pont-Tuset et al. 2017, "Multiscale Combinatorial Grouping",
10.1109/TPAMI.2016.2537320, section 5).

The height of the border between two neighbouring leaves is the altitude at which they merge. A union is worth as much
as the worse of its members, times the root of the share of the shorter outer border that the two have in common, times
the square of the mean height of the border around it over that of the border inside, at most 1 (our choices; motion
in unlabelled videos and annotated sets were in view, see the log).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64

from masktree.kernels import kernel
from masktree.trees import rle
from masktree.trees.dendrogram import PartitionTree, lowest_common_ancestors
from masktree.trees.node_selection import SelectedNodes, nearest_selected, selected_parents

NUM_NODES = 200  # the best nodes are combined (our choice: with 300, a third more time, nothing more is found)
NUM_PAIRS = 1000  # the best pairs get a third node (our choice: of 200, those that move are fewer; see the log)
WEIGHT = 0.8  # of a combination beside a node, which the hierarchy vouches for (our choice)


class Combinations(NamedTuple):
    """k unions of nodes, best first.

    Attributes:
        members: (k, 3) their nodes, disjoint and descending; the third is -1 in a pair.
        parents: (k,) index of the smallest selected node that contains the union, -1 where there is none.
        scores: (k,) in [0, 1].
    """

    members: Int64[np.ndarray, "k 3"]
    parents: Int32[np.ndarray, " k"]
    scores: Float64[np.ndarray, " k"]


NO_COMBINATIONS = Combinations(np.zeros((0, 3), np.int64), np.zeros(0, np.int32), np.zeros(0))


@dataclass(frozen=True)
class Unions:
    """k unions of members of a list of nodes, with their borders.

    Attributes:
        members: (k, 3) ascending positions in the list; the third is -1 in a pair.
        scores: (k,) in [0, 1].
        borders: (k, 2) number of pixels around each, and the sum of the heights there.
    """

    members: Int64[np.ndarray, "k 3"]
    scores: Float64[np.ndarray, " k"]
    borders: Float64[np.ndarray, "k 2"]

    def select(self, indices: np.ndarray) -> Unions:
        """Some of them, in the given order, or of a boolean array."""
        return Unions(self.members[indices], self.scores[indices], self.borders[indices])


def combine_nodes(
    tree: PartitionTree, selected: SelectedNodes, *, max_area: float, max_masks: int | None, duplicate_iou: float
) -> tuple[SelectedNodes, Combinations]:
    """The best nodes and combinations of nodes together.

    Pairs of the ``NUM_NODES`` best nodes that touch, and the ``NUM_PAIRS`` best pairs with a third node that touches
    them. Without siblings, which are their parent, all of these sets of leaves are different, and none is a node.
    About 20 ms at 640 pixels, whatever the image; memory O(pixels + nodes).

    Args:
        tree, selected: a dendrogram and its selected nodes.
        max_area: of a combination, as a fraction of the image.
        max_masks: maximum number of nodes and combinations in all, best score first; None for all.
        duplicate_iou: combinations with a larger IoU with a selected node or a better combination are dropped.

    Returns:
        the selected nodes that remain, with those that gave way counted as omitted; and the combinations.
    """
    best = np.argsort(-selected.scores, kind="stable")[:NUM_NODES]
    unions = enumerate_unions(tree, selected.nodes[best], selected.scores[best], max_area=max_area)
    members = -np.sort(-np.where(unions.members >= 0, selected.nodes[best[unions.members]], -1), axis=1)
    if max_masks is not None and len(selected.nodes) >= max_masks:  # what scores less would not be among them
        is_better = unions.scores > np.sort(selected.scores)[-max_masks]
        members, unions = members[is_better], unions.select(is_better)
    kept = _suppress_duplicates(tree, selected.nodes, members, duplicate_iou, max_masks)
    members, scores = members[kept], unions.scores[kept]
    if max_masks is not None and len(selected.nodes) + len(members) > max_masks:
        order = np.argsort(-np.concatenate([selected.scores, scores]), kind="stable")[:max_masks]
        nodes = np.sort(order[order < len(selected.nodes)])
        members, scores = members[: max_masks - len(nodes)], scores[: max_masks - len(nodes)]
        selected = SelectedNodes(
            selected.nodes[nodes],
            selected_parents(tree, selected.nodes[nodes]),
            selected.scores[nodes],
            selected.stabilities[nodes],
            selected.omitted + len(selected.nodes) - len(nodes),
        )
    tops = lowest_common_ancestors(tree.parents, members)
    return selected, Combinations(members, nearest_selected(tree, selected.nodes, tops), scores)


def unite_nodes(tree: PartitionTree, members: np.ndarray) -> list[bytes]:
    """Run-length string of the union of each row of nodes; -1 after the first column is none."""
    filled = np.where(members >= 0, members, members[:, :1])
    nodes, positions = np.unique(filled, return_inverse=True)
    rles = tree.rles(nodes)
    return [rle.union([rles[i] for i in row], tree.size) for row in positions.reshape(members.shape)]


def enumerate_unions(
    tree: PartitionTree, nodes: Int64[np.ndarray, " n"], scores: Float64[np.ndarray, " n"], *, max_area: float
) -> Unions:
    """All pairs of n nodes that touch, and the best of them with a third one, best score first."""
    low, high = (ends[nodes] for ends in tree.intervals)
    parents, areas = tree.parents[nodes], tree.areas[nodes]
    compatible = (low[:, None] >= high) | (high[:, None] <= low)  # disjoint
    compatible &= parents[:, None] != parents
    shared, outer = _borders(tree, nodes)
    compatible &= shared[..., 0] > 0
    limit = max_area * tree.areas[-1]

    first, second = np.nonzero(np.triu(compatible & (areas[:, None] + areas <= limit)))
    singles = Unions(np.arange(len(nodes))[:, None], scores, outer)
    pairs = _join(singles, singles, first, second, shared[first, second])
    pairs = pairs.select(np.argsort(-pairs.scores, kind="stable"))

    best = pairs.select(np.arange(min(NUM_PAIRS, len(pairs.scores))))
    one, two = best.members[:, 0], best.members[:, 1]
    apart = (low[:, None] >= high) | (high[:, None] <= low)
    fits = apart[one] & apart[two] & (parents[one][:, None] != parents) & (parents[two][:, None] != parents)
    fits &= (shared[one, :, 0] + shared[two, :, 0] > 0) & ((areas[one] + areas[two])[:, None] + areas <= limit)
    pair, third = np.nonzero(fits)
    triplets = _join(best, singles, pair, third, shared[one[pair], third] + shared[two[pair], third])
    order = np.lexsort((-triplets.scores, *triplets.members.T[::-1]))
    repeated = (np.diff(triplets.members[order], axis=0, prepend=-2) == 0).all(axis=1)
    triplets = triplets.select(order[~repeated])  # of the orders in which three nodes are joined the best
    unions = Unions(
        np.concatenate([pairs.members, triplets.members]),
        np.concatenate([pairs.scores, triplets.scores]),
        np.concatenate([pairs.borders, triplets.borders]),
    )
    return unions.select(np.argsort(-unions.scores, kind="stable"))


def _join(first: Unions, second: Unions, i: np.ndarray, j: np.ndarray, shared: np.ndarray) -> Unions:
    """The unions of members i of ``first`` and j of ``second``, whose common borders are ``shared`` (k, 2)."""
    borders = first.borders[i] + second.borders[j] - 2 * shared
    share = shared[:, 0] / np.minimum(first.borders[i, 0], second.borders[j, 0])
    inside = shared[:, 1] / shared[:, 0]
    around = borders[:, 1] / np.maximum(borders[:, 0], 1)  # 0 where the union is the whole image
    contrast = np.minimum(around / np.maximum(inside, 1e-9), 1)
    scores = np.minimum(first.scores[i], second.scores[j]) * np.sqrt(share) * contrast**2
    is_pair = first.members.shape[1] == 1
    found = np.concatenate([first.members[i, : 1 if is_pair else 2], second.members[j, :1]], axis=1)
    members = np.sort(found, axis=1)
    if is_pair:
        members = np.concatenate([members, np.full((len(members), 1), -1)], axis=1)
    return Unions(members, scores * (WEIGHT if is_pair else 1), borders)


def _borders(tree: PartitionTree, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, n, 2) common borders of disjoint nodes and (n, 2) borders around them: pixels, and sums of heights."""
    edges, lengths = tree.borders
    heights = tree.border_heights.astype(np.float64)
    index_of = np.full(len(tree.parents), -1, np.int32)
    index_of[nodes] = np.arange(len(nodes))
    return _sum_borders(
        edges, np.stack([lengths, lengths * heights], axis=1), *_chains(tree.parents, index_of), len(nodes)
    )


@kernel()
def _chains(parents: np.ndarray, index_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """The nodes with an index that contain leaf i: ``chains[first[i] : first[i + 1]]``."""
    root = len(parents) - 1
    n = root // 2 + 1
    first = np.zeros(n + 1, np.int64)
    for leaf in range(n):
        count, node = 0, leaf
        while True:
            count += index_of[node] >= 0
            if node == root:
                break
            node = parents[node]
        first[leaf + 1] = first[leaf] + count
    chains = np.empty(first[n], np.int32)
    for leaf in range(n):
        k, node = first[leaf], leaf
        while k < first[leaf + 1]:
            if index_of[node] >= 0:
                chains[k] = index_of[node]
                k += 1
            node = parents[node]
    return first, chains


@kernel()
def _sum_borders(
    edges: np.ndarray, values: np.ndarray, first: np.ndarray, chains: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """Sums of the (m, c) values of edges between each two of n disjoint nodes, and around each of them."""
    c = values.shape[1]
    shared, outer = np.zeros((n, n, c)), np.zeros((n, c))
    sides = np.zeros(n, np.int8)  # of the edge that a node contains: 1 the first leaf, 2 the second, 3 both
    for edge in range(len(edges)):
        a, b = edges[edge]
        for p in chains[first[a] : first[a + 1]]:
            sides[p] = 1
        for q in chains[first[b] : first[b + 1]]:
            sides[q] += 2
        for p in chains[first[a] : first[a + 1]]:
            if sides[p] == 1:
                outer[p] += values[edge]
                for q in chains[first[b] : first[b + 1]]:
                    if sides[q] == 2:
                        shared[p, q] += values[edge]
                        shared[q, p] += values[edge]
        for q in chains[first[b] : first[b + 1]]:
            if sides[q] == 2:
                outer[q] += values[edge]
            sides[q] = 0
        for p in chains[first[a] : first[a + 1]]:
            sides[p] = 0
    return shared, outer


def _suppress_duplicates(
    tree: PartitionTree, nodes: np.ndarray, members: np.ndarray, duplicate_iou: float, limit: int | None
) -> np.ndarray:
    """Greedy NMS of combinations, best first, among themselves and with nodes: the indices of those that remain.

    Nodes are nested or disjoint, so the pixels that two unions share are sums of areas.
    """
    areas = np.where(members >= 0, tree.areas[members], 0).sum(axis=1)
    is_selected = np.zeros(len(tree.parents), np.bool_)
    is_selected[nodes] = True
    limit = len(members) if limit is None else min(limit, len(members))
    # Areas of duplicates differ by a factor of 1 / duplicate_iou at most, so they are in bands beside each other.
    width = np.clip(-np.log(max(duplicate_iou, 1e-9)), 0.01, 20)
    bands = 1 + (np.log(np.maximum(areas, 1)) / width).astype(np.int64)
    return _keep(members, areas, bands, duplicate_iou, limit, is_selected, tree.parents, tree.areas, *tree.intervals)


@kernel()
def _keep(
    members: np.ndarray,
    areas: np.ndarray,
    bands: np.ndarray,
    duplicate_iou: float,
    limit: int,
    is_selected: np.ndarray,
    parents: np.ndarray,
    node_areas: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray:  # pragma: no cover
    kept = np.empty(limit, np.int64)
    count = 0
    # The kept ones of each band, last first: their positions in ``kept``, -1 at the end.
    newest, previous = np.full(bands.max() + 2 if len(bands) else 0, -1), np.empty(limit, np.int64)
    root = len(parents) - 1
    for a in range(len(members)):
        if count == limit:
            break
        is_new = True
        # Of the nodes that overlap with it, those inside a member have a lower IoU than that member.
        for node in members[a]:
            while is_new and node >= 0 and areas[a] > duplicate_iou * node_areas[node]:
                if is_selected[node]:
                    shared = 0
                    for x in members[a]:
                        if x >= 0 and low[node] <= low[x] and high[x] <= high[node]:
                            shared += node_areas[x]
                    is_new = shared <= duplicate_iou * (areas[a] + node_areas[node] - shared)
                node = parents[node] if node != root else -1
        for band in range(bands[a] - 1, bands[a] + 2):
            k = newest[band]
            while is_new and k >= 0:
                b = kept[k]
                k = previous[k]
                if min(areas[a], areas[b]) <= duplicate_iou * max(areas[a], areas[b]):
                    continue
                shared = _shared_pixels(members[a], members[b], node_areas, low, high)
                is_new = shared <= duplicate_iou * (areas[a] + areas[b] - shared)
        if is_new:
            kept[count] = a
            previous[count], newest[bands[a]] = newest[bands[a]], count
            count += 1
    return kept[:count]


@kernel()
def _shared_pixels(
    one: np.ndarray, two: np.ndarray, areas: np.ndarray, low: np.ndarray, high: np.ndarray
) -> int:  # pragma: no cover
    """Pixels that two unions of nodes share: of a member of each, one contains the other, or they are disjoint."""
    shared = 0
    for x in one:
        for y in two:
            if x >= 0 and y >= 0:
                if low[y] <= low[x] and high[x] <= high[y]:
                    shared += areas[x]
                elif low[x] <= low[y] and high[y] <= high[x]:
                    shared += areas[y]
    return shared
