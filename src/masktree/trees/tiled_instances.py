"""Objects that do not overlap, of an image of any size: their label map, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from masktree.io.block_grid import BlockGrid
from masktree.io.windows import Window
from masktree.trees.instances import MIN_SCORE, MIN_VISIBLE, choose_instances
from masktree.trees.masktree import MaskTree
from masktree.trees.scaled_masks import ScaledMasks
from masktree.types import Labels


@dataclass(frozen=True)
class TiledInstances:
    """The label map of ``masktree.trees.instances.select_instances``, of which one block is in memory at a time.

    Attributes:
        grid: the blocks.
        masks: of the k instances, largest score first; they have the labels 1 to k.
        indices: (k,) int64 of their masks in the tree.
    """

    grid: BlockGrid
    masks: ScaledMasks
    indices: np.ndarray

    @classmethod
    def select(
        cls,
        tree: MaskTree,
        grid: BlockGrid,
        *,
        min_score: float = MIN_SCORE,
        min_area: float = 0,
        max_area: float = 1,
    ) -> TiledInstances:
        """The instances of a tree of the whole image; arguments as of ``select_instances``.

        Raises:
            InputError: a value out of range.
        """
        chosen = choose_instances(tree, min_score=min_score, min_area=min_area, max_area=max_area)
        masks = ScaledMasks.from_rles([tree.rles[index] for index in chosen], tree.size)
        candidates = cls(grid, masks, chosen)
        visible = np.zeros(len(chosen) + 1, np.int64)
        for labels in candidates.blocks():
            visible += np.bincount(labels.ravel(), minlength=len(visible))
        kept = np.flatnonzero(visible[1:] >= MIN_VISIBLE * masks.areas)
        return cls(grid, masks[kept], chosen[kept])

    def __len__(self) -> int:
        return len(self.indices)

    def blocks(self) -> Iterator[Labels]:
        """(h, w) int32 labels of each block in turn: 0 for background, 1 to k for the instances."""
        for index in range(len(self.grid)):
            yield self._labels(self.masks, self.grid.window(index))

    def sampled(self, size: tuple[int, ...]) -> Labels:
        """(h, w) int32 labels in the middles of the pixels of a small copy of the image."""
        height, width = size
        step = -(-max(self.grid.size) // max(height, width))
        return self._labels(self.masks.sampled(step, (height, width)), Window(0, 0, height, width))

    def _labels(self, masks: ScaledMasks, window: Window) -> Labels:
        out = np.zeros(window.size, np.int32)
        near = masks.touching(window)[::-1]  # those of higher scores are painted last
        masks[near].paint(out, near + 1, window.top, window.left)
        return out
