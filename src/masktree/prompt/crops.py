"""Masks of overlapping crops of an image, added to those of the whole image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from masktree.models.crops import add_masks
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB


class Crop(NamedTuple):
    """Pixels ``left`` <= x < ``right`` and ``top`` <= y < ``bottom`` of an image; ``layer`` 1 has the largest crops."""

    left: int
    top: int
    right: int
    bottom: int
    layer: int


def crops_of_layers(size: tuple[int, int], num_layers: int, overlap_ratio: float) -> list[Crop]:
    """The crops of layers 1 to ``num_layers``: 2^layer x 2^layer overlapping ones, as in segment-anything.

    Args:
        size: (height, width) of the image.
        num_layers: number of layers.
        overlap_ratio: pixels that neighbours of the first layer share, as a fraction of the shorter side; half as many
            in each further layer.
    """
    crops = []
    for layer in range(1, num_layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(size) * 2 / count)
        height, width = (math.ceil((overlap * (count - 1) + length) / count) for length in size)
        for row in range(count):
            for column in range(count):
                left, top = (width - overlap) * column, (height - overlap) * row
                right, bottom = min(left + width, size[1]), min(top + height, size[0])
                if left < right and top < bottom:  # images of a few pixels have fewer crops
                    crops.append(Crop(left, top, right, bottom, layer))
    return crops


def add_crop_masks(
    image: RGB, tree: MaskTree, crops: list[Crop], segment: Callable[[RGB, int], MaskTree], duplicate_iou: float
) -> MaskTree:
    """The tree with the masks added that ``segment`` finds in the crops. Only their best-scored duplicates are kept;
    masks that touch a border of their crop, where they may be cut off, are left out.

    Args:
        image: (H, W, 3).
        tree: of the image.
        crops: parts of the image.
        segment: from a crop of the image and its layer to its masks.
        duplicate_iou: IoU from which a mask is a duplicate of another one; those of ``tree`` stay.
    """
    rles: list[bytes] = []
    scores, stabilities = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for crop in crops:
        pixels = np.ascontiguousarray(image[crop.top : crop.bottom, crop.left : crop.right])
        found = segment(pixels, crop.layer)
        inner = np.flatnonzero(~_touches_inner_border(found.boxes, crop, tree.size))
        rles += [rle.encode_at(found.mask(int(index)), crop.top, crop.left, tree.size) for index in inner]
        scores.append(found.scores[inner])
        stabilities.append(found.stabilities[inner])
    return add_masks(tree, rles, np.concatenate(scores), np.concatenate(stabilities), duplicate_iou=duplicate_iou)


def _touches_inner_border(boxes: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """(n,) bool: whether an XYWH box in a crop touches a border of it that is none of the image."""
    left, top, width, height = boxes.T
    return (
        ((left <= 0) & (crop.left > 0))
        | ((top <= 0) & (crop.top > 0))
        | ((left + width >= crop.right - crop.left) & (crop.right < size[1]))
        | ((top + height >= crop.bottom - crop.top) & (crop.bottom < size[0]))
    )
