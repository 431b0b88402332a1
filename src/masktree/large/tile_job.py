"""The job of one tile: a group of blocks, whose pixels are read at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from masktree.backbones import Backbone, load_backbone
from masktree.discover.masktree import SceneStatistics
from masktree.io.block_grid import BlockGrid
from masktree.io.windows import Window
from masktree.large.block import HALO, analyse_block
from masktree.large.image_job import ImageJob
from masktree.large.overview import overview_factor, reduce_block
from masktree.large.scene import load_scene


@dataclass
class TileJob(ImageJob):
    """Analyses the blocks of a tile that have no result yet. Of ``config`` it takes backbone, device and precision.

    Attributes:
        grid: the blocks.
        min_leaf_area: smallest leaf in pixels.
    """

    grid: BlockGrid
    min_leaf_area: int

    @cached_property
    def backbone(self) -> Backbone:
        return load_backbone(self.config.backbone or "embedded", self.config.device, self.config.dtype)

    @cached_property
    def scene(self) -> SceneStatistics:
        return load_scene(self.work.scene)

    def is_finished(self, blocks: Sequence[int]) -> bool:
        """Whether there is a result of each block."""
        return all(self.work.block(index).exists() for index in blocks)

    def __call__(self, blocks: Sequence[int]) -> None:
        """Write the result of each block of a tile."""
        around = [self.grid.window(index, HALO) for index in blocks]
        tile = Window(
            min(w.top for w in around),
            min(w.left for w in around),
            max(w.bottom for w in around),
            max(w.right for w in around),
        )
        pixels = self.windows.read(tile)
        factor = overview_factor(self.grid.size)
        for index, window in zip(blocks, around, strict=True):
            if self.work.block(index).exists():
                continue
            core = self.grid.window(index)
            # A copy, so that the result does not depend on the tile: not even on how its pixels lie in memory.
            image = np.ascontiguousarray(pixels[window.slices_in(tile)])
            overview = reduce_block(image, window, core, factor)
            inside = core.slices_in(window)
            block = analyse_block(image, inside, overview, self.backbone, self.scene, min_leaf_area=self.min_leaf_area)
            block.save(self.work.block(index))
