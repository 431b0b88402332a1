"""The job of one tile: a group of blocks, whose pixels are read at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from masktree.backbones import Backbone, load_backbone
from masktree.discover.masktree import SceneStatistics
from masktree.io.block_grid import BlockGrid
from masktree.io.read_options import ReadOptions
from masktree.io.windows import ImageWindows, Window, open_windows
from masktree.large.block import HALO, analyse_block
from masktree.large.overview import overview_factor, reduce_block
from masktree.large.scene import load_scene
from masktree.large.work_folder import WorkFolder
from masktree.predict.config import SegmenterConfig


@dataclass
class TileJob:
    """Analyses the blocks of a tile that have no result yet. Each process opens image and backbone once.

    Attributes:
        image: a file, or an array, which is sent to no other process.
        config: names the backbone, its device and its precision.
        grid: the blocks.
        work: where their results go.
        min_leaf_area: smallest leaf in pixels.
        read_options: how the image is read.
    """

    image: Path | np.ndarray
    config: SegmenterConfig
    grid: BlockGrid
    work: WorkFolder
    min_leaf_area: int
    read_options: ReadOptions

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name in self.__dataclass_fields__}

    @cached_property
    def windows(self) -> ImageWindows:
        return open_windows(self.image, self.work.path, self.read_options)

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
