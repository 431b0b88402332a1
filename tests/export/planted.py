"""A tiny tree with a hole, two pieces, pixels that touch at corners, nesting and a mask that fills the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from masktree.export.image import LabelledImage
from masktree.trees import rle
from masktree.trees.masktree import MaskTree

SIZE = (30, 44)


def planted_masks() -> np.ndarray:
    masks = np.zeros((6, *SIZE), bool)
    masks[0] = True
    masks[1, 3:25, 2:22] = True  # a ring ...
    masks[1, 9:15, 8:15] = False
    masks[1, 15, 15] = False  # ... whose hole touches another at a corner
    masks[2, 4:8, 3:9] = masks[2, 18:24, 4:12] = True  # two pieces in it
    masks[3, 20:22, 5:7] = True  # a part of one of them
    masks[4, 2:28:2, 26:42:2] = masks[4, 3:28:2, 27:42:2] = True  # a chessboard
    masks[5, 29, 43] = True  # a corner of the image
    return masks


def planted_tree() -> MaskTree:
    """With the parents -1, 0, 1, 2, 0, 0."""
    scores = np.array([1, 0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    rles = [rle.encode(mask) for mask in planted_masks()]
    return MaskTree.from_rles(rles, SIZE, np.array([-1, 0, 1, 2, 0, 0], np.int32), scores=scores)


def planted_photo() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)


def planted_image(folder: Path, **more: object) -> LabelledImage:
    """The tree with its photograph in a folder."""
    photo = folder / "photos" / "sub" / "a.png"
    photo.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(planted_photo()).save(photo)
    return LabelledImage("sub/a", "sub/a.png", photo, 1, planted_tree(), **more)


def fill(rings: list[np.ndarray], size: tuple[int, int] = SIZE) -> np.ndarray:
    """The pixels whose centres lie inside an odd number of rings: crossings of their edges with the ray to the left."""
    crossings = np.zeros(size, int)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, 0), strict=True):
            between = (y1 <= y) != (y2 <= y)
            with np.errstate(divide="ignore", invalid="ignore"):
                at = x1 + (y - y1) / (y2 - y1) * (x2 - x1)
            crossings += between & (at < x)
    return crossings % 2 == 1
