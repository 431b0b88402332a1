"""Prompts answered from a full dendrogram: the seeded cut of least cost."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numba import njit

from masktree.prompt.candidates import LEAST, SHARPNESS, Answer, Candidates, answer, click_costs, overlap
from masktree.prompt.prompt import Prompt
from masktree.trees.dendrogram import PartitionTree

MOST_AREA = 0.9  # of the image: what is larger is hardly ever meant (as in ``MaskTree.from_dendrogram``)
CANDIDATES = 128  # nodes that are looked at; paths are rarely as long (our choice)
_NEVER = 1e6  # cost of a click on the wrong side: above any sum of costs


class _Atoms(NamedTuple):
    """Leaves, and the two halves of each leaf that is clicked as both.

    ``labels`` (H, W) int32 and ``weights`` (a,) float64: atoms i < n are the leaves, the others halves. ``nodes``: of
    each click, a leaf or, from 2n - 1 on, a half. ``halves``: the leaf of each half.
    """

    labels: np.ndarray
    weights: np.ndarray
    nodes: list[int]
    halves: list[int]


class Dendrogram:
    """Clicks, boxes and masks on a ``PartitionTree``: every node is a candidate, and so are differences and unions.

    An answer puts each node in or out; what surrounds the image is out. Clicks say it of their leaves. A node that is
    not where its parent is costs -log of its score, which is as in ``MaskTree.from_dendrogram`` its persistence times
    sqrt(area / image area): the answer of least cost says in the fewest and most stable nodes what the clicks say (our
    choice; a minimum cut of a tree, exact in two passes over the ancestors of the clicked leaves). For one click that
    is a node above it; with a click outside, a smaller node or the difference of two; with a second click inside, a
    common ancestor or the union of two.

    Candidates: for each node above the first click inside, the answer of least cost with that node in and its parent
    out; without such a click the same for the ``CANDIDATES`` nodes that fit box and mask best. An answer to a box
    leaves out leaves that lie mostly outside it. Which candidate is meant is weighed by ``click_costs`` too. A
    leaf that is clicked as both is divided: each of its pixels goes to the nearest click. Altitudes are divided by the
    highest if that is above 1.

    Cost of an answer with n leaves: O(pixels + depth (clicks depth + n)).
    """

    def __init__(self, tree: PartitionTree) -> None:
        self.tree = tree
        self.size = tree.size
        altitudes = tree.altitudes / max(1.0, float(tree.altitudes[-1]))
        persistence = altitudes[tree.parents] - altitudes
        persistence[-1] = 1 - altitudes[-1]
        share = tree.areas / tree.leaves.size
        scores = np.where(share <= MOST_AREA, persistence * np.sqrt(share), 0)
        self._costs = -np.log(np.maximum(scores, LEAST))

    def answer(self, prompt: Prompt, count: int) -> Answer:
        """As ``answer.Source``; masks are bool. An empty mask where nothing obeys the clicks."""
        atoms = self._atoms(prompt)
        fit = None if prompt.box is None else self._box_fit(prompt)
        tops, energies, inside = self._cut(prompt, atoms, self._tops(prompt, atoms, fit))
        agreement = np.ones(len(tops))
        if prompt.box is not None and fit is not None:
            nodes = [top if top < len(fit) else atoms.halves[top - len(fit)] for top in tops]
            agreement *= fit[nodes].clip(0, 1)
            within = np.bincount(atoms.labels[prompt.window].ravel(), minlength=len(atoms.weights))
            outside = 2 * within < atoms.weights
            outside[[atoms.labels[y, x] for x, y in prompt.pixels[prompt.positive]]] = False
            inside[:, outside] = False
        if prompt.inside is not None:
            covered = np.bincount(atoms.labels.ravel(), prompt.inside.ravel(), len(atoms.weights))
            agreement *= overlap(inside, covered, atoms.weights, covered.sum())
        areas = inside @ atoms.weights
        possible = (energies < _NEVER / 2) & (areas > 0)
        costs = energies - SHARPNESS * np.log(np.maximum(agreement, LEAST)) + click_costs(prompt, areas)
        known = Candidates(inside[possible], atoms.weights, costs[possible], agreement[possible])
        return answer(known, lambda region: region[atoms.labels], self.size, count, prompt.granularity)

    def _atoms(self, prompt: Prompt) -> _Atoms:
        tree, pixels = self.tree, prompt.pixels
        clicked = tree.leaves[pixels[:, 1], pixels[:, 0]]
        both = sorted(set(clicked[prompt.positive].tolist()) & set(clicked[~prompt.positive].tolist()))
        labels, count = tree.leaves, tree.n_leaves
        if both:
            labels = labels.copy()
        halves: list[int] = []
        for leaf in both:
            ys, xs = np.nonzero(tree.leaves == leaf)
            here = np.flatnonzero(clicked == leaf)
            far = (ys[:, None] - pixels[here, 1]) ** 2 + (xs[:, None] - pixels[here, 0]) ** 2
            labels[ys, xs] = count + len(halves) + 1 - prompt.labels[here[far.argmin(1)]]
            halves += [leaf, leaf]
        first = count - 1  # from atom to node, of halves
        atoms = labels[pixels[:, 1], pixels[:, 0]]
        nodes = np.where(atoms < count, atoms, atoms + first).tolist()
        weights = np.bincount(labels.ravel(), minlength=count + len(halves)).astype(np.float64)
        return _Atoms(labels, weights, nodes, halves)

    def _tops(self, prompt: Prompt, atoms: _Atoms, fit: np.ndarray | None) -> list[int]:
        """The nodes that are tried in with their parents out."""
        if prompt.positive.any():
            return self._path(atoms.nodes[int(prompt.positive.argmax())], atoms)
        tree = self.tree
        costs = np.where(tree.areas > 0, self._costs, np.inf)
        if fit is not None:
            costs = costs - SHARPNESS * np.log(np.maximum(fit, LEAST))
        if prompt.inside is not None:
            shared = self._sums(np.bincount(tree.leaves.ravel(), prompt.inside.ravel(), tree.n_leaves))
            ious = shared / np.maximum(tree.areas + shared[-1] - shared, 1)
            costs = costs - SHARPNESS * np.log(np.maximum(ious, LEAST))
        return np.argsort(costs, kind="stable")[:CANDIDATES].tolist()

    def _path(self, node: int, atoms: _Atoms) -> list[int]:
        """A node or half and its ancestors."""
        parents, root = self.tree.parents, len(self.tree.parents) - 1
        path = [node]
        if node > root:
            path.append(atoms.halves[node - root - 1])
        while path[-1] != root:
            path.append(int(parents[path[-1]]))
        return path

    def _cut(self, prompt: Prompt, atoms: _Atoms, tops: list[int]) -> tuple[list[int], np.ndarray, np.ndarray]:
        """The ``CANDIDATES`` tops of least cost, their costs (k,), and what is then inside, (k, a) bool."""
        tree, count = self.tree, len(self.tree.parents)
        active = {node for start in {*atoms.nodes, *tops} for node in self._path(start, atoms)}
        active |= {node for leaf in atoms.halves for node in self._path(leaf, atoms)}
        order = np.array(sorted(active, key=lambda node: (node < count, node)), np.int64)  # parents after children
        place = np.full(count + len(atoms.halves), -1, np.int64)
        place[order] = np.arange(len(order))
        ups = np.concatenate([tree.parents, np.array(atoms.halves, np.int64)])
        costs = np.concatenate([self._costs, self._costs[atoms.halves]])
        sides = np.full(len(order), -1, np.int8)
        sides[place[atoms.nodes]] = prompt.labels
        energies, inside = least_cuts(place[ups[order]], costs[order], sides, place[tops])
        best = np.sort(np.argsort(energies, kind="stable")[:CANDIDATES])
        owner = _owners(tree.parents, place[:count])[: tree.n_leaves]
        inside = inside[best][:, np.concatenate([owner, place[count:]])]
        return [tops[index] for index in best], energies[best], inside

    def _sums(self, of_leaves: np.ndarray) -> np.ndarray:
        """(2n-1,) sum over the leaves of each node."""
        low, high = self.tree.intervals
        total = np.concatenate([[0], np.cumsum(of_leaves[self.tree.order])])
        return total[high] - total[low]

    def _box_fit(self, prompt: Prompt) -> np.ndarray:
        """(2n-1,) in [0, 1]: IoU of the prompt's box with that of the node's leaves that lie mostly in it, times the
        share of the node that lies in it."""
        tree = self.tree
        within = np.bincount(tree.leaves[prompt.window].ravel(), minlength=tree.n_leaves)
        corners = np.full((len(tree.parents), 4), -np.inf)  # -left, -top, right, bottom: all are maxima
        mostly = 2 * within >= np.maximum(tree.areas[: tree.n_leaves], 1)
        corners[: tree.n_leaves][mostly] = self._leaf_corners[mostly]
        corners = _highest(tree.parents, corners) * (-1, -1, 1, 1)
        assert prompt.box is not None
        shared = np.minimum(corners[:, 2:], prompt.box[2:]) - np.maximum(corners[:, :2], prompt.box[:2])
        both = shared.clip(0).prod(1)
        with np.errstate(invalid="ignore"):
            area = np.where(np.isfinite(corners[:, 0]), (corners[:, 2:] - corners[:, :2]).clip(0).prod(1), 0)
        union = area + (prompt.box[2:] - prompt.box[:2]).prod() - both
        return both / union * self._sums(within) / np.maximum(tree.areas, 1)

    @cached_property
    def _leaf_corners(self) -> np.ndarray:
        return _corners(self.tree.leaves, self.tree.n_leaves)


@njit(cache=True, nogil=True)
def least_cuts(parents, costs, sides, tops):  # pragma: no cover
    """Cheapest sides (0 out, 1 in) of m nodes, children before parents, for each of k tops: in, with the parent out.

    ``sides`` (m,) int8: the side that is asked for, -1 for none. Returns (k,) costs and (k, m) bool.
    """
    m, k = len(parents), len(tops)
    root = m - 1
    inner = np.zeros((m, 2))  # least cost below each node, by its side
    for i in range(m):
        if sides[i] >= 0:
            inner[i, 1 - sides[i]] += _NEVER
        if i != root:
            for side in range(2):
                inner[parents[i], side] += min(inner[i, side], inner[i, 1 - side] + costs[i])
    outer = np.zeros((m, 2))  # least cost of all but what is below a node and its link, by its parent's side
    outer[root, 1] = _NEVER
    for i in range(m - 2, -1, -1):
        up = parents[i]
        for side in range(2):
            own = min(inner[i, side], inner[i, 1 - side] + costs[i])
            outer[i, side] = inner[up, side] - own + min(outer[up, side], outer[up, 1 - side] + costs[up])
    energies = np.empty(k)
    inside = np.zeros((k, m), np.bool_)
    known = np.empty(m, np.bool_)
    for t in range(k):
        top = tops[t]
        energies[t] = outer[top, 0] + costs[top] + inner[top, 1]
        known[:] = False
        known[top] = True
        inside[t, top] = True
        i, above = top, 0
        while i != root:  # upwards the sides follow from what lies around
            i = parents[i]
            known[i] = True
            inside[t, i] = above == 1
            if outer[i, 1 - above] + costs[i] < outer[i, above]:
                above = 1 - above
        for i in range(m - 2, -1, -1):
            if not known[i]:
                above = 1 if inside[t, parents[i]] else 0
                inside[t, i] = (above == 1) == (inner[i, above] <= inner[i, 1 - above] + costs[i])
    return energies, inside


@njit(cache=True, nogil=True)
def _owners(parents, place):  # pragma: no cover
    """Place of the nearest ancestor that has one, the node itself included."""
    out = place.copy()
    for node in range(len(parents) - 2, -1, -1):
        if out[node] < 0:
            out[node] = out[parents[node]]
    return out


@njit(cache=True, nogil=True)
def _highest(parents, values):  # pragma: no cover
    for node in range(len(parents) - 1):
        for c in range(values.shape[1]):
            values[parents[node], c] = max(values[parents[node], c], values[node, c])
    return values


@njit(cache=True, nogil=True)
def _corners(leaves, n):  # pragma: no cover
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
