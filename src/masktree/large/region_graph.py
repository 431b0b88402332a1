"""The graph over the leaves of all blocks, with the edges across the seams between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from masktree.io.block_grid import BlockGrid
from masktree.large.basins import continued_leaves
from masktree.large.block import BlockGraph
from masktree.large.overview import overview_factor, overview_pixels
from masktree.types import RGB, Labels


@dataclass(frozen=True)
class RegionGraph:
    """Leaves of an image, numbered block by block.

    Attributes:
        first_leaves: (blocks + 1,) int64, number of the first leaf of each block; the last one is n.
        areas: (n,) int64.
        histograms, embeddings: (n, k) and (n, d) float32.
        edges, strengths, lengths: of all neighbours, also across seams.
        continued: (k, 2) int64 pairs of leaves that are parts of one basin, see ``masktree.large.basins``.
        overview, overview_leaves: the small picture, and the leaf at each of its pixels.
        is_blank: whether every block is.
    """

    first_leaves: np.ndarray
    areas: np.ndarray
    histograms: np.ndarray
    embeddings: np.ndarray
    edges: np.ndarray
    strengths: np.ndarray
    lengths: np.ndarray
    continued: np.ndarray
    overview: RGB
    overview_leaves: Labels
    is_blank: bool


@dataclass(frozen=True)
class _Sides:
    """Leaf, boundary and the lowest boundary of that leaf, along each side of a block."""

    leaves: dict[str, np.ndarray]
    boundary: dict[str, np.ndarray]
    lowest: dict[str, np.ndarray]

    @classmethod
    def of(cls, block: BlockGraph, first: int) -> _Sides:
        leaves = block.leaves.astype(np.int64)
        sides = {"top": leaves[0], "bottom": leaves[-1], "left": leaves[:, 0], "right": leaves[:, -1]}
        return cls(
            {side: labels + first for side, labels in sides.items()},
            {"top": block.top, "bottom": block.bottom, "left": block.left, "right": block.right},
            {side: block.lowest[labels] for side, labels in sides.items()},
        )

    def continued(self, side: str, other: _Sides, facing: str, *, ties: bool) -> np.ndarray:
        """Pairs of leaves of this block and of the other one that they continue in."""
        return continued_leaves(
            self.leaves[side],
            self.boundary[side],
            self.lowest[side],
            other.leaves[facing],
            other.boundary[facing],
            ties=ties,
        )


def collect_blocks(grid: BlockGrid, load: Callable[[int], BlockGraph]) -> RegionGraph:
    """The graph of all blocks; ``load`` reads one, each once, so that one leaf map is in memory at a time."""
    factor = overview_factor(grid.size)
    size = tuple(-(-side // factor) for side in grid.size)
    overview, overview_leaves = np.empty((*size, 3), np.uint8), np.empty(size, np.int32)
    first_leaves = np.zeros(len(grid) + 1, np.int64)
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("areas", "histograms", "embeddings", "edges", "strengths", "lengths")
    }
    sides, is_blank = [], True
    continued = [np.zeros((0, 2), np.int64)]
    for index in range(len(grid)):
        block = load(index)
        first = int(first_leaves[index])
        first_leaves[index + 1] = first + len(block.areas)
        for name, arrays in parts.items():
            arrays.append(getattr(block, name))
        parts["edges"][-1] = block.edges.astype(np.int64) + first
        sides.append(_Sides.of(block, first))
        window, pixels = overview_pixels(grid, index, factor)
        overview[window.slices()] = block.overview
        overview_leaves[window.slices()] = block.leaves[pixels].astype(np.int64) + first
        is_blank = is_blank and bool(block.blank)
    for one, other, side_by_side in grid.seams():
        names = ("right", "left") if side_by_side else ("bottom", "top")
        edges, strengths, lengths = _seam_edges(sides[one], sides[other], *names)
        parts["edges"].append(edges)
        parts["strengths"].append(strengths)
        parts["lengths"].append(lengths)
        continued.append(sides[one].continued(names[0], sides[other], names[1], ties=False))
        continued.append(sides[other].continued(names[1], sides[one], names[0], ties=True))
    joined = {name: np.concatenate(parts.pop(name)) for name in list(parts)}  # one at a time: they are large
    return RegionGraph(
        first_leaves=first_leaves,
        continued=np.concatenate(continued),
        overview=overview,
        overview_leaves=overview_leaves,
        is_blank=is_blank,
        **joined,
    )


def _seam_edges(one: _Sides, other: _Sides, side: str, facing: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges, strengths and lengths across the seam between two blocks, as ``adjacency`` has them within a block."""
    pairs = np.stack([one.leaves[side], other.leaves[facing]], axis=1)  # the first block has the lower numbers
    heights = np.maximum(one.boundary[side], other.boundary[facing]).astype(np.float64)
    edges, edge_of, lengths = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    strengths = np.bincount(edge_of.ravel(), heights, minlength=len(edges)) / lengths
    return edges, strengths, lengths.astype(np.float64)
