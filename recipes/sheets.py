"""Contact sheets for the documentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

GAP = 6  # pixels


def beside(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Concatenate pictures along ``axis`` with white gaps; their other side must be equal."""
    height, width, _ = pictures[0].shape
    gap = np.full((GAP, width, 3) if axis == 0 else (height, GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis)


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a picture to (width, height)."""
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
