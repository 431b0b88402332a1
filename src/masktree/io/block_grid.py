"""The fixed grid of blocks that a large image is analysed in."""

from __future__ import annotations

from dataclasses import dataclass

from masktree.errors import InputError
from masktree.io.windows import Window


@dataclass(frozen=True)
class BlockGrid:
    """Square blocks that cover an image, row by row; those at the right and at the bottom may be smaller.

    Attributes:
        size: (height, width) of the image.
        block: side of a block in pixels.
    """

    size: tuple[int, int]
    block: int

    @property
    def rows(self) -> int:
        return -(-self.size[0] // self.block)

    @property
    def columns(self) -> int:
        return -(-self.size[1] // self.block)

    def __len__(self) -> int:
        return self.rows * self.columns

    def window(self, index: int, halo: int = 0) -> Window:
        """The pixels of a block, with ``halo`` pixels on each side where the image has them."""
        row, column = divmod(index, self.columns)
        (height, width), side = self.size, self.block
        return Window(
            max(row * side - halo, 0),
            max(column * side - halo, 0),
            min((row + 1) * side + halo, height),
            min((column + 1) * side + halo, width),
        )

    def inside(self, window: Window) -> list[int]:
        """The blocks that share pixels with a window."""
        rows = range(window.top // self.block, -(-window.bottom // self.block))
        columns = range(window.left // self.block, -(-window.right // self.block))
        return [row * self.columns + column for row in rows for column in columns]

    def tiles(self, side: int) -> list[list[int]]:
        """Groups of blocks, each a square of ``side`` pixels, row by row.

        Raises:
            InputError: ``side`` is no multiple of the block.
        """
        if side < self.block or side % self.block:
            raise InputError(f"expected tiles of a multiple of {self.block} pixels; got {side}")
        tiles = BlockGrid(self.size, side)
        return [self.inside(tiles.window(index)) for index in range(len(tiles))]

    def seams(self) -> list[tuple[int, int, bool]]:
        """Pairs of neighbouring blocks: the upper or left one, the other, and whether they lie side by side."""
        pairs = []
        for index in range(len(self)):
            row, column = divmod(index, self.columns)
            if column + 1 < self.columns:
                pairs.append((index, index + 1, True))
            if row + 1 < self.rows:
                pairs.append((index, index + self.columns, False))
        return pairs
