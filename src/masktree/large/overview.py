"""The overview of a large image: a small picture, made block by block."""

from __future__ import annotations

import numpy as np
from PIL import Image

from masktree.io.block_grid import BlockGrid
from masktree.io.windows import Window
from masktree.types import RGB

OVERVIEW_SIDE = 2048  # pixels of the longer side, at most (our choice)


def overview_factor(size: tuple[int, int]) -> int:
    """Pixels of the image along a side of a pixel of its overview."""
    return -(-max(size) // OVERVIEW_SIDE)


def overview_window(block: Window, factor: int) -> Window:
    """The pixels of the overview whose upper left corner lies in a block."""
    return Window(*(-(-side // factor) for side in block))


def reduce_block(image: RGB, window: Window, block: Window, factor: int) -> RGB:
    """The block's part of the overview: means of ``factor`` x ``factor`` pixels of a window around the block."""
    part = overview_window(block, factor)
    if 0 in part.size:  # a strip at the edge of the image, narrower than a pixel of the overview
        return np.zeros((*part.size, 3), np.uint8)
    top, left = part.top * factor - window.top, part.left * factor - window.left
    height, width = part.size[0] * factor, part.size[1] * factor
    return np.asarray(Image.fromarray(image[top : top + height, left : left + width]).reduce(factor))


def overview_pixels(grid: BlockGrid, index: int, factor: int) -> tuple[Window, tuple[np.ndarray, np.ndarray]]:
    """The window of a block in the overview, and the row and column in the block that each of its pixels stands for."""
    block = grid.window(index)
    part = overview_window(block, factor)
    rows = np.minimum(np.arange(part.top, part.bottom) * factor + factor // 2, block.bottom - 1) - block.top
    columns = np.minimum(np.arange(part.left, part.right) * factor + factor // 2, block.right - 1) - block.left
    return part, (rows[:, None], columns)
