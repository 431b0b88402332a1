"""What the jobs of tiles and of windows have in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from masktree.io.read_options import ReadOptions
from masktree.io.windows import ImageWindows, open_windows
from masktree.large.work_folder import WorkFolder
from masktree.predict.config import SegmenterConfig


@dataclass
class ImageJob:
    """Works on parts of one image. Each process opens the image, and what else a property loads, once.

    Attributes:
        image: a file, or an array, which is sent to no other process.
        config: of the segmenter.
        work: where the results go.
        read_options: how the image is read.
    """

    image: Path | np.ndarray
    config: SegmenterConfig
    work: WorkFolder
    read_options: ReadOptions

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name in self.__dataclass_fields__}

    @cached_property
    def windows(self) -> ImageWindows:
        return open_windows(self.image, self.work.path, self.read_options)
