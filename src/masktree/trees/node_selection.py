"""Which nodes of a dendrogram become masks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.trees.dendrogram import PartitionTree

# An image whose parts all merge up to here is uniform (our choice): networks predict boundaries of up to .002 in images
# of one colour, and of .67 for a disc that differs from its ground by one grey level.
UNIFORM_ALTITUDE = 0.005


class SelectedNodes(NamedTuple):
    """k nodes of a dendrogram.

    Attributes:
        nodes: (k,) ascending node numbers.
        parents: (k,) index of the nearest selected ancestor, -1 for roots.
        scores: (k,) stability * sqrt(area / image area), times the node's weight if there is one.
        stabilities: (k,) altitude of the parent minus that of the node, in [0, 1].
        omitted: number of further nodes, of lower scores, beyond the maximum.
    """

    nodes: Int64[np.ndarray, " k"]
    parents: Int32[np.ndarray, " k"]
    scores: Float64[np.ndarray, " k"]
    stabilities: Float64[np.ndarray, " k"]
    omitted: int


def select_nodes(
    tree: PartitionTree,
    *,
    min_area: int,
    max_area: float,
    max_masks: int | None,
    duplicate_iou: float,
    areas: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> SelectedNodes:
    """The stable nodes of a dendrogram with altitudes in [0, 1]; see ``MaskTree.from_dendrogram``.

    ``areas``: (2n-1,) of the nodes in pixels, where the leaf map of ``tree`` is not the image's; None takes the tree's.
    ``weights``: (2n-1,) of the scores of the nodes, at least 0.

    Raises:
        InputError: altitudes or an option out of range.
    """
    for name, count in (("min_area", min_area), ("max_masks", max_masks)):
        if (count is not None or name == "min_area") and (not isinstance(count, (int, np.integer)) or count < 1):
            raise InputError(f"expected {name} as a whole number of at least 1; got {count!r}")
    for name, fraction in (("max_area", max_area), ("duplicate_iou", duplicate_iou)):
        if not 0 <= fraction <= 1 or (name == "max_area" and fraction == 0):
            raise InputError(f"expected {name} in {'(0' if name == 'max_area' else '[0'}, 1]; got {fraction!r}")
    altitudes, areas = tree.altitudes, tree.areas if areas is None else areas
    num_pixels = int(areas[-1])
    if altitudes[-1] > 1.0 or altitudes[0] < 0.0:
        raise InputError(f"expected altitudes calibrated to [0, 1]; got {altitudes.min():.3g}..{altitudes[-1]:.3g}")
    stabilities = altitudes[tree.parents] - altitudes
    stabilities[-1] = 1.0 - altitudes[-1]
    scores = stabilities * np.sqrt(areas / num_pixels)
    if weights is not None:
        scores *= weights
    eligible = (areas >= min_area) & (areas <= max_area * num_pixels) & (stabilities > 0)
    if altitudes[-1] <= UNIFORM_ALTITUDE:
        eligible[:] = False
        eligible[-1] = num_pixels >= min_area
    nodes = _suppress_duplicates(tree, areas, eligible, scores, duplicate_iou)
    best = np.sort(nodes[:max_masks])
    omitted = len(nodes) - len(best)
    return SelectedNodes(best, selected_parents(tree, best), scores[best], stabilities[best], omitted)


def _suppress_duplicates(
    tree: PartitionTree, areas: np.ndarray, eligible: Bool[np.ndarray, " n"], scores: np.ndarray, duplicate_iou: float
) -> Int64[np.ndarray, " k"]:
    """Greedy NMS: the nodes that remain, best score first.

    The IoU of nested nodes is the ratio of their areas and that of others is 0, so each node is compared with its
    ancestors up to that ratio only, and ``mask_nms`` on the runs of all nodes is not needed.
    """
    candidates = np.flatnonzero(eligible)
    ranked = candidates[np.argsort(-scores[candidates], kind="stable")]
    kept: np.ndarray = ranked[_is_kept(ranked, tree.parents, areas, duplicate_iou)]
    return kept


@kernel()
def _is_kept(ranked: np.ndarray, parents: np.ndarray, areas: np.ndarray, duplicate_iou: float) -> np.ndarray:
    """(k,) bool: whether each of k nodes, best first, is no duplicate of a better one that is kept."""
    root = len(parents) - 1
    suppressed = np.zeros(root + 1, np.bool_)
    is_selected = np.zeros(root + 1, np.bool_)
    kept = np.zeros(len(ranked), np.bool_)
    for rank in range(len(ranked)):
        node = ranked[rank]
        has_better = suppressed[node]
        ancestor = node
        while ancestor != root and areas[node] > duplicate_iou * areas[parents[ancestor]]:
            ancestor = parents[ancestor]
            has_better |= is_selected[ancestor]
        if has_better:
            continue
        ancestor = node
        while ancestor != root and areas[node] > duplicate_iou * areas[parents[ancestor]]:
            ancestor = parents[ancestor]
            suppressed[ancestor] = True
        is_selected[node] = kept[rank] = True
    return kept


def selected_parents(tree: PartitionTree, nodes: Int64[np.ndarray, " k"]) -> Int32[np.ndarray, " k"]:
    """Index of the nearest selected ancestor of each selected node, -1 for roots."""
    parents = nearest_selected(tree, nodes, tree.parents[nodes].astype(np.int64))
    return np.where(parents == np.arange(len(nodes)), -1, parents).astype(np.int32)  # the root is its own parent


def nearest_selected(
    tree: PartitionTree, nodes: Int64[np.ndarray, " k"], starts: Int64[np.ndarray, " m"]
) -> Int32[np.ndarray, " m"]:
    """Index of the first of k selected nodes on the way from each of m nodes to the root, -1 where there is none."""
    index_of = np.full(len(tree.parents), -1, np.int32)
    index_of[nodes] = np.arange(len(nodes))
    return _first_index(tree.parents, index_of, starts)


@kernel()
def _first_index(parents: np.ndarray, index_of: np.ndarray, starts: np.ndarray) -> np.ndarray:  # pragma: no cover
    root = len(parents) - 1
    found = np.empty(len(starts), np.int32)
    for i in range(len(starts)):
        node = starts[i]
        while node != root and index_of[node] < 0:
            node = parents[node]
        found[i] = index_of[node]
    return found
