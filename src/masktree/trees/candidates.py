"""Nodes of a dendrogram and combinations of them, before those that become masks are encoded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int32, Int64

from masktree.errors import InputError
from masktree.kernels import kernel
from masktree.trees import hierarchy
from masktree.trees.combinations import NO_COMBINATIONS, combine_nodes, unite_nodes
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.node_selection import select_nodes

MaskSet: TypeAlias = Literal["nodes", "all"]  # the nodes of the hierarchy, or combinations of them as well


@dataclass(frozen=True, eq=False)
class MaskCandidates:
    """n regions of a dendrogram: nodes, and after them unions of two or three nodes.

    Attributes:
        dendrogram: altitudes in [0, 1].
        members: (n, 3) the disjoint nodes of each; -1 where there are fewer.
        parents: (n,) index of the smallest node among them that contains it, -1 where there is none.
        scores: (n,) in [0, 1].
        stabilities: (n,) range of granularities over which it is a region of the cut; 0 of a combination.
        omitted: number of further nodes, which have been left out.
    """

    dendrogram: PartitionTree
    members: Int64[np.ndarray, "n 3"]
    parents: Int32[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]
    stabilities: Float64[np.ndarray, " n"]
    omitted: int = 0

    def __len__(self) -> int:
        return len(self.members)

    def select(self, keep: Bool[np.ndarray, " n"]) -> MaskCandidates:
        """Some of them; a parent that is left out is replaced by its nearest ancestor that is not."""
        return MaskCandidates(
            self.dendrogram,
            self.members[keep],
            hierarchy.reparent(self.parents, keep),
            self.scores[keep],
            self.stabilities[keep],
            self.omitted + int((~keep & (self.kinds == 0)).sum()),
        )

    @property
    def kinds(self) -> Int8[np.ndarray, " n"]:
        """0 node, 1 combination."""
        return (self.members[:, 1] >= 0).astype(np.int8)

    @property
    def areas(self) -> Int64[np.ndarray, " n"]:
        """In pixels."""
        areas: np.ndarray = np.where(self.members >= 0, self.dendrogram.areas[self.members], 0).sum(axis=1)
        return areas

    @property
    def granularities(self) -> Float64[np.ndarray, " n"]:
        """Altitude of the coarsest member."""
        altitudes: np.ndarray = np.where(self.members >= 0, self.dendrogram.altitudes[self.members], 0).max(axis=1)
        return altitudes

    @cached_property
    def leaves_inside(self) -> Bool[np.ndarray, "n leaves"]:
        """Whether each has each leaf."""
        return _leaves_inside(self.members, *self.dendrogram.intervals, self.dendrogram.order)

    def encode(self) -> list[bytes]:
        """Run-length strings."""
        is_node = self.kinds == 0
        nodes = self.dendrogram.rles(self.members[is_node, 0])
        return [*nodes, *unite_nodes(self.dendrogram, self.members[~is_node])]


def find_candidates(
    tree: PartitionTree,
    *,
    max_masks: int | None,
    min_area: int = 32,
    max_area: float = 0.9,
    duplicate_iou: float = 0.9,
    masks: MaskSet = "all",
) -> MaskCandidates:
    """The best nodes and combinations of a dendrogram; see ``MaskTree.from_dendrogram``.

    Raises:
        InputError: altitudes or an option out of range.
    """
    check_mask_set(masks)
    selected = select_nodes(
        tree, min_area=min_area, max_area=max_area, max_masks=max_masks, duplicate_iou=duplicate_iou
    )
    combined = NO_COMBINATIONS
    if masks == "all":
        selected, combined = combine_nodes(
            tree, selected, max_area=max_area, max_masks=max_masks, duplicate_iou=duplicate_iou
        )
    nodes = np.full((len(selected.nodes), 3), -1, np.int64)
    nodes[:, 0] = selected.nodes
    return MaskCandidates(
        tree,
        members=np.concatenate([nodes, combined.members]),
        parents=np.concatenate([selected.parents, combined.parents]),
        scores=np.concatenate([selected.scores, combined.scores]),
        stabilities=np.concatenate([selected.stabilities, np.zeros(len(combined.scores))]),
        omitted=selected.omitted,
    )


def check_mask_set(masks: object) -> None:
    """Raise InputError unless this is a ``MaskSet``."""
    if masks not in get_args(MaskSet):
        raise InputError(f"expected masks as {' or '.join(get_args(MaskSet))}; got {masks!r}")


@kernel()
def _leaves_inside(
    members: np.ndarray, low: np.ndarray, high: np.ndarray, order: np.ndarray
) -> np.ndarray:  # pragma: no cover
    inside = np.zeros((len(members), len(order)), np.bool_)
    for i in range(len(members)):
        for node in members[i]:
            if node >= 0:
                for position in range(low[node], high[node]):
                    inside[i, order[position]] = True
    return inside
