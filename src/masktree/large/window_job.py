"""The job of one window: its masks, by any segmenter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from masktree.io.files import write_atomically
from masktree.large.image_job import ImageJob
from masktree.large.pyramid import open_level
from masktree.large.window_grid import WindowGrid
from masktree.predict.discovery import DiscoverySegmenter
from masktree.predict.model import ModelSegmenter
from masktree.trees.masktree import MaskTree
from masktree.trees.scaled_masks import ScaledMasks


class WindowMasks(NamedTuple):
    """The n masks that were found in a window.

    Attributes:
        masks: in pixels of the window.
        scores, stabilities: (n,) float32.
    """

    masks: ScaledMasks
    scores: np.ndarray
    stabilities: np.ndarray


@dataclass
class WindowJob(ImageJob):
    """Segments one window of one level, given as (factor, index).

    Attributes:
        grids: the windows of each level, by its factor.
    """

    grids: dict[int, WindowGrid]

    @cached_property
    def segmenter(self) -> DiscoverySegmenter | ModelSegmenter:
        return self.config.load()

    def file(self, item: tuple[int, int]) -> Path:
        """File of the masks of a window."""
        return self.work.path / f"window_{item[0]}_{item[1]}.npz"

    def __call__(self, item: tuple[int, int]) -> None:
        """Write the masks of a window."""
        factor, index = item
        level = open_level(self.windows, self.work.path, factor)
        self.config.seed_generators()
        tree = self.segmenter(np.ascontiguousarray(level.read(self.grids[factor].window(index))))
        write_atomically(self.file(item), lambda handle: _save(handle, tree))

    def load_window(self, factor: int, index: int) -> WindowMasks:
        """The masks of a finished window."""
        with np.load(self.file((factor, index)), allow_pickle=False) as archive:
            text, ends = archive["text"].tobytes(), np.cumsum(archive["lengths"]).tolist()
            rles = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
            masks = ScaledMasks.from_rles(rles, self.grids[factor].window(index).size)
            return WindowMasks(masks, archive["scores"], archive["stabilities"])


def _save(handle: IO[bytes], tree: MaskTree) -> None:
    seen = np.flatnonzero(tree.areas > 0)
    rles = [tree.rles[index] for index in seen]
    np.savez(
        handle,
        text=np.frombuffer(b"".join(rles), np.uint8),
        lengths=np.array([len(text) for text in rles], np.int64),
        scores=tree.scores[seen],
        stabilities=tree.stabilities[seen],
    )
