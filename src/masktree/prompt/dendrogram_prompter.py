"""Prompts on a dendrogram: seeded minimum-cost cuts."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from masktree.kernels import kernel
from masktree.prompt.candidates import (
    IOU_EXPONENT,
    MIN_PROBABILITY,
    Candidates,
    ChosenRegions,
    click_costs,
    iou_with_mask,
    select_masks,
    select_regions,
)
from masktree.prompt.prompt import Prompt
from masktree.prompt.prompter import PromptResult
from masktree.trees.dendrogram import PartitionTree

MAX_AREA_FRACTION = 0.9  # of the image: larger nodes get the lowest score (as in ``MaskTree.from_dendrogram``)
MAX_CANDIDATES = 128  # nodes that are ranked; paths to the root are rarely as long (our choice)
_VIOLATION_COST = 1e6  # of a click on the wrong side: above any sum of node costs


class _Segments(NamedTuple):
    """The leaves of a dendrogram, where leaves with clicks of both labels are split into two halves.

    Attributes:
        labels: (H, W) int32: segment i < n is leaf i, the others are halves.
        areas: (s,) float64 pixels.
        click_nodes: of each click, its leaf or, from 2n - 1 on, its half.
        half_leaves: the leaf of each half.
    """

    labels: np.ndarray
    areas: np.ndarray
    click_nodes: list[int]
    half_leaves: list[int]


class DendrogramPrompter:
    """Clicks, boxes and masks on a ``PartitionTree``. Candidates are its nodes and their differences and unions.

    A cut labels each node as inside or outside; the parent of the root is outside, clicks fix the labels of their
    leaves. A node whose label differs from its parent's costs -log of its score: persistence times sqrt(area / image
    area), as in ``MaskTree.from_dendrogram``. The cut of least cost explains the clicks by the fewest and most stable
    nodes (our choice; a minimum cut on a tree, exact in two passes over the ancestors of the clicked leaves). For one
    click that is a node above it; with a click outside, a smaller node or the difference of two; with a second click
    inside, a common ancestor or the union of two.

    There is one candidate for each node above the first click inside: the cheapest cut with that node inside and its
    parent outside. Without a click inside, the same for the ``MAX_CANDIDATES`` nodes that match box and mask best.
    Leaves that lie mostly outside a box are removed. Candidates are ranked with ``click_costs``. The pixels of a leaf
    with clicks of both labels go to the nearest click. Altitudes are divided by the highest one if that is above 1.

    A prompt on n leaves takes O(pixels + depth (clicks depth + n)).
    """

    def __init__(self, tree: PartitionTree) -> None:
        self.tree = tree
        self.size = tree.size
        altitudes = tree.altitudes / max(1.0, float(tree.altitudes[-1]))
        persistence = altitudes[tree.parents] - altitudes
        persistence[-1] = 1 - altitudes[-1]
        area_fractions = tree.areas / tree.leaves.size
        scores = np.where(area_fractions <= MAX_AREA_FRACTION, persistence * np.sqrt(area_fractions), 0)
        self._node_costs = -np.log(np.maximum(scores, MIN_PROBABILITY))

    def predict(self, prompt: Prompt, num_masks: int) -> PromptResult:
        """See ``Prompter``; the masks are bool and agree with every click."""
        labels, candidates = self._candidates(prompt)
        return select_masks(candidates, lambda region: region[labels], self.size, num_masks, prompt.granularity)

    def regions(self, prompt: Prompt, num_masks: int) -> tuple[np.ndarray, ChosenRegions]:
        """As ``predict``, without looking at every pixel: the (H, W) int32 segments and the regions, unions of these.

        Segments are the leaves, ``tree.leaves`` itself, unless leaves with clicks of both labels had to be divided.
        """
        labels, candidates = self._candidates(prompt)
        return labels, select_regions(candidates, num_masks, prompt.granularity)

    def _candidates(self, prompt: Prompt) -> tuple[np.ndarray, Candidates]:
        """The segments and the regions to choose from."""
        segments = self._split_leaves(prompt)
        box_match = None if prompt.box is None else self._box_match(prompt)
        tops, costs, membership = self._cut(prompt, segments, self._top_nodes(prompt, segments, box_match))
        agreement = np.ones(len(tops))
        if box_match is not None:
            nodes = [top if top < len(box_match) else segments.half_leaves[top - len(box_match)] for top in tops]
            agreement *= box_match[nodes].clip(0, 1)
            areas_in_box = np.bincount(segments.labels[prompt.window].ravel(), minlength=len(segments.areas))
            outside = 2 * areas_in_box < segments.areas
            outside[[segments.labels[y, x] for x, y in prompt.pixels[prompt.positive]]] = False
            membership[:, outside] = False
        if prompt.inside is not None:
            mask_areas = np.bincount(segments.labels.ravel(), prompt.inside.ravel(), len(segments.areas))
            agreement *= iou_with_mask(membership, segments.areas, mask_areas, mask_areas.sum())
        areas = membership @ segments.areas
        valid = (costs < _VIOLATION_COST / 2) & (areas > 0)
        costs = costs - IOU_EXPONENT * np.log(np.maximum(agreement, MIN_PROBABILITY)) + click_costs(prompt, areas)
        return segments.labels, Candidates(membership[valid], segments.areas, costs[valid], agreement[valid])

    def _split_leaves(self, prompt: Prompt) -> _Segments:
        tree, pixels = self.tree, prompt.pixels
        clicked = tree.leaves[pixels[:, 1], pixels[:, 0]]
        ambiguous = sorted(set(clicked[prompt.positive].tolist()) & set(clicked[~prompt.positive].tolist()))
        labels, n_leaves = tree.leaves, tree.n_leaves
        if ambiguous:
            labels = labels.copy()
        half_leaves: list[int] = []
        for leaf in ambiguous:
            ys, xs = np.nonzero(tree.leaves == leaf)
            clicks = np.flatnonzero(clicked == leaf)
            distances = (ys[:, None] - pixels[clicks, 1]) ** 2 + (xs[:, None] - pixels[clicks, 0]) ** 2
            labels[ys, xs] = n_leaves + len(half_leaves) + 1 - prompt.labels[clicks[distances.argmin(1)]]
            half_leaves += [leaf, leaf]
        segments = labels[pixels[:, 1], pixels[:, 0]]
        first_half = len(tree.parents) - n_leaves  # node of a half minus its segment
        click_nodes = np.where(segments < n_leaves, segments, segments + first_half).tolist()
        if ambiguous:
            areas = np.bincount(labels.ravel(), minlength=n_leaves + len(half_leaves)).astype(np.float64)
        else:
            areas = tree.areas[:n_leaves].astype(np.float64)
        return _Segments(labels, areas, click_nodes, half_leaves)

    def _top_nodes(self, prompt: Prompt, segments: _Segments, box_match: np.ndarray | None) -> list[int]:
        """The nodes of which each is the top of a candidate: inside, with its parent outside."""
        if prompt.positive.any():
            return self._path_to_root(segments.click_nodes[int(prompt.positive.argmax())], segments)
        tree = self.tree
        costs = np.where(tree.areas > 0, self._node_costs, np.inf)
        if box_match is not None:
            costs = costs - IOU_EXPONENT * np.log(np.maximum(box_match, MIN_PROBABILITY))
        if prompt.inside is not None:
            intersections = self._sum_over_leaves(
                np.bincount(tree.leaves.ravel(), prompt.inside.ravel(), tree.n_leaves)
            )
            ious = intersections / np.maximum(tree.areas + intersections[-1] - intersections, 1)
            costs = costs - IOU_EXPONENT * np.log(np.maximum(ious, MIN_PROBABILITY))
        return np.argsort(costs, kind="stable")[:MAX_CANDIDATES].tolist()

    def _path_to_root(self, node: int, segments: _Segments) -> list[int]:
        """A node or half, and its ancestors."""
        parents, root = self.tree.parents, len(self.tree.parents) - 1
        path = [node]
        if node > root:
            path.append(segments.half_leaves[node - root - 1])
        while path[-1] != root:
            path.append(int(parents[path[-1]]))
        return path

    def _cut(self, prompt: Prompt, segments: _Segments, tops: list[int]) -> tuple[list[int], np.ndarray, np.ndarray]:
        """The ``MAX_CANDIDATES`` cheapest tops, the costs (k,) of their cuts and the (k, s) bool segments inside."""
        tree, n_nodes, half_leaves = self.tree, len(self.tree.parents), segments.half_leaves
        starts = {*segments.click_nodes, *tops, *half_leaves}
        active = {node for start in starts for node in self._path_to_root(start, segments)}
        order = np.array(sorted(active, key=lambda node: (node < n_nodes, node)), np.int64)  # children before parents
        index = np.full(n_nodes + len(half_leaves), -1, np.int64)
        index[order] = np.arange(len(order))
        parents = np.concatenate([tree.parents, np.array(half_leaves, np.int64)])
        node_costs = np.concatenate([self._node_costs, self._node_costs[half_leaves]])
        seeds = np.full(len(order), -1, np.int8)
        seeds[index[segments.click_nodes]] = prompt.labels
        costs, inside = minimum_cuts(index[parents[order]], node_costs[order], seeds, index[tops])
        best = np.sort(np.argsort(costs, kind="stable")[:MAX_CANDIDATES])
        leaf_index = _nearest_active(tree.parents, index[:n_nodes])[: tree.n_leaves]
        membership = inside[best][:, np.concatenate([leaf_index, index[n_nodes:]])]
        return [tops[i] for i in best], costs[best], membership

    def _sum_over_leaves(self, values: np.ndarray) -> np.ndarray:
        """(2n-1,) sum of (n,) values of leaves over the leaves of each node."""
        low, high = self.tree.intervals
        total = np.concatenate([[0], np.cumsum(values[self.tree.order])])
        return total[high] - total[low]

    def _box_match(self, prompt: Prompt) -> np.ndarray:
        """(2n-1,) in [0, 1]: IoU of the prompt's box with the bounding box of those leaves of a node that lie mostly
        in it, times the fraction of the node that lies in it."""
        tree = self.tree
        areas_in_box = np.bincount(tree.leaves[prompt.window].ravel(), minlength=tree.n_leaves)
        corners = np.full((len(tree.parents), 4), -np.inf)  # -left, -top, right, bottom, so that all are maxima
        mostly_in_box = 2 * areas_in_box >= np.maximum(tree.areas[: tree.n_leaves], 1)
        corners[: tree.n_leaves][mostly_in_box] = self._leaf_corners[mostly_in_box]
        corners = _max_over_descendants(tree.parents, corners) * (-1, -1, 1, 1)
        assert prompt.box is not None
        sides = np.minimum(corners[:, 2:], prompt.box[2:]) - np.maximum(corners[:, :2], prompt.box[:2])
        intersection = sides.clip(0).prod(1)
        with np.errstate(invalid="ignore"):
            area = np.where(np.isfinite(corners[:, 0]), (corners[:, 2:] - corners[:, :2]).clip(0).prod(1), 0)
        union = area + (prompt.box[2:] - prompt.box[:2]).prod() - intersection
        return intersection / union * self._sum_over_leaves(areas_in_box) / np.maximum(tree.areas, 1)

    @cached_property
    def _leaf_corners(self) -> np.ndarray:
        return _corners(self.tree.leaves, self.tree.n_leaves)


@kernel()
def minimum_cuts(
    parents: np.ndarray, costs: np.ndarray, seeds: np.ndarray, tops: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """Cheapest labellings (0 outside, 1 inside) of m nodes for each of k tops: inside, with the parent outside.

    Args:
        parents: (m,) int64; children come before their parents, the root is its own parent.
        costs: (m,) float64, paid by a node whose label differs from its parent's.
        seeds: (m,) int8 label that a node must have, -1 for none.
        tops: (k,) int64.

    Returns:
        (k,) costs and (k, m) bool labels. A violated seed costs ``_VIOLATION_COST``.
    """
    m, k = len(parents), len(tops)
    root = m - 1
    below = np.zeros((m, 2))  # least cost of the subtree below a node, by its label
    for i in range(m):
        if seeds[i] >= 0:
            below[i, 1 - seeds[i]] += _VIOLATION_COST
        if i != root:
            for label in range(2):
                below[parents[i], label] += min(below[i, label], below[i, 1 - label] + costs[i])
    above = np.zeros((m, 2))  # least cost of all but a node's subtree and its edge, by the label of its parent
    above[root, 1] = _VIOLATION_COST
    for i in range(m - 2, -1, -1):
        parent = parents[i]
        for label in range(2):
            subtree = min(below[i, label], below[i, 1 - label] + costs[i])
            above[i, label] = (
                below[parent, label] - subtree + min(above[parent, label], above[parent, 1 - label] + costs[parent])
            )
    cut_costs = np.empty(k)
    inside = np.zeros((k, m), np.bool_)
    labelled = np.empty(m, np.bool_)
    for t in range(k):
        top = tops[t]
        cut_costs[t] = above[top, 0] + costs[top] + below[top, 1]
        labelled[:] = False
        labelled[top] = True
        inside[t, top] = True
        i, label = top, 0
        while i != root:  # labels of ancestors follow from the cost of all that is not below them
            i = parents[i]
            labelled[i] = True
            inside[t, i] = label == 1
            if above[i, 1 - label] + costs[i] < above[i, label]:
                label = 1 - label
        for i in range(m - 2, -1, -1):
            if not labelled[i]:
                label = 1 if inside[t, parents[i]] else 0
                inside[t, i] = (label == 1) == (below[i, label] <= below[i, 1 - label] + costs[i])
    return cut_costs, inside


@kernel()
def _nearest_active(parents: np.ndarray, index: np.ndarray) -> np.ndarray:  # pragma: no cover
    """(n,) index of each node's nearest ancestor, itself included, whose index is not -1."""
    result = index.copy()
    for node in range(len(parents) - 2, -1, -1):
        if result[node] < 0:
            result[node] = result[parents[node]]
    return result


@kernel()
def _max_over_descendants(parents: np.ndarray, values: np.ndarray) -> np.ndarray:  # pragma: no cover
    """Raise the (n, c) values of each node in place to the maximum over its descendants."""
    for node in range(len(parents) - 1):
        for c in range(values.shape[1]):
            values[parents[node], c] = max(values[parents[node], c], values[node, c])
    return values


@kernel()
def _corners(leaves: np.ndarray, n: int) -> np.ndarray:  # pragma: no cover
    """(n, 4): -left, -top, right and bottom of each leaf."""
    out = np.full((n, 4), -np.inf)
    for y in range(leaves.shape[0]):
        for x in range(leaves.shape[1]):
            leaf = leaves[y, x]
            out[leaf, 0] = max(out[leaf, 0], -x)
            out[leaf, 1] = max(out[leaf, 1], -y)
            out[leaf, 2] = max(out[leaf, 2], x + 1)
            out[leaf, 3] = max(out[leaf, 3], y + 1)
    return out
