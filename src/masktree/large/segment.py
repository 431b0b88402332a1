"""Images of any size, by any segmenter: one dendrogram where the default method makes it, else masks of windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from masktree.errors import InputError
from masktree.io.files import check_writable
from masktree.io.read_options import DEFAULT_OPTIONS, ReadOptions
from masktree.large.block import BLOCK
from masktree.large.dendrogram import segment_dendrogram
from masktree.large.masks import segment_masks
from masktree.predict.config import SegmenterConfig
from masktree.trees.tiled import TiledTree
from masktree.trees.tiled_masks import TiledMasks

BUILT_IN = ("embedded", "texture")  # backbones whose evidence in a window does not depend on the rest of the image
DEFAULT_CONFIG = SegmenterConfig()


def segment_large(
    image: str | Path | np.ndarray,
    path: str | Path,
    config: SegmenterConfig = DEFAULT_CONFIG,
    *,
    tile: int | None = None,
    workers: int = 1,
    block: int = BLOCK,
    read_options: ReadOptions = DEFAULT_OPTIONS,
    show_progress: bool = False,
) -> TiledTree | TiledMasks:
    """The tree of an image that may be larger than memory, written to a file.

    The method ``masktree`` at quality ``fast`` with the backbone ``embedded`` or ``texture`` makes one dendrogram of
    the whole image, see ``masktree.large.dendrogram``. Every other segmenter, such as a trained model, makes masks in
    overlapping windows, which are joined, see ``masktree.large.masks``.

    A run that was stopped goes on from what is finished, which lies in the folder ``path`` + ``.work`` until the end.

    Args:
        image: a file, or an array (H, W) or (H, W, C) of any real type, see ``masktree.io.windows.open_windows``.
        path: of the file, see ``TiledTree`` and ``TiledMasks``.
        config: of the segmenter.
        tile: of a dendrogram: side in pixels of what is read at once, a multiple of ``block``, on which the tree does
            not depend; None: two blocks. Else: side of the windows; None: that of the images that the segmenter works
            on, such as 480 of the published methods.
        workers: processes; 0 is one per core. An array is analysed in one.
        block: of a dendrogram: side of the blocks of its grid, a multiple of 32; another side is another tree.
        read_options: which page and channels are read, and how values become bytes.
        show_progress: whether to show a progress bar on standard error.

    Raises:
        ImageError: the image cannot be read.
        InputError: an option out of range.
        WeightsError: the backbone or model cannot be loaded.
    """
    path = Path(path)
    check_writable(path)
    source = image if isinstance(image, np.ndarray) else Path(image)
    if makes_dendrogram(config):
        return segment_dendrogram(
            source,
            path,
            config,
            tile=tile,
            workers=workers,
            block=block,
            read_options=read_options,
            show_progress=show_progress,
        )
    if block != BLOCK:
        raise InputError(f"expected block for a dendrogram only; got {block}; give the side of the windows as tile")
    return segment_masks(
        source, path, config, side=tile, workers=workers, read_options=read_options, show_progress=show_progress
    )


def makes_dendrogram(config: SegmenterConfig) -> bool:
    """Whether a segmenter makes one dendrogram of a large image."""
    return config.method == "masktree" and config.quality == "fast" and config.backbone in BUILT_IN
