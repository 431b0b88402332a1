"""A second look at large masks: each is cut out and seen by the model at its full size, so that small parts show."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from masktree.trees import hierarchy, rle
from masktree.trees.masktree import MaskTree
from masktree.trees.nms import mask_nms
from masktree.types import RGB

# All our choice.
MIN_AREA_FRACTION = 0.05  # share of the image that a mask has at least
MIN_MAGNIFICATION = 1.5  # times that its crop is enlarged at least: below, the model sees what it has seen
CROP_MARGIN = 0.1  # of the box's sides, on each side: a mask that reaches the edge of its crop may be cut off
MAX_CROPS = 16  # crops of an image, by descending score
MIN_COVERAGE = (
    0.9  # share of a found mask that lies in the mask it was looked for in (UnSAM's conquer, arXiv 2406.20081)
)
DUPLICATE_IOU = 0.9  # IoU with a mask that is there, from which on a mask is a copy

Box = tuple[int, int, int, int]  # top, left, bottom, right


def segment_crops(image: RGB, tree: MaskTree, segment: Callable[[Sequence[RGB]], Sequence[MaskTree]]) -> MaskTree:
    """The tree of an (H, W, 3) image with what ``segment`` finds inside its large masks added behind its own masks.

    The tree's own masks stay as they are, with their parents. The parent of a new one is the smallest mask that covers
    it; its level follows from its depth. Of copies among the new ones the higher score stays. Time is that of at
    most ``MAX_CROPS`` images.
    """
    outer = [index for index in np.argsort(-tree.scores, kind="stable") if _is_worth_it(tree, index)][:MAX_CROPS]
    boxes = [_around(tree.boxes[index], tree.size) for index in outer]
    found = segment([np.ascontiguousarray(image[top:bottom, left:right]) for top, left, bottom, right in boxes])
    rles: list[bytes] = []
    scores: list[float] = []
    for index, box, inner in zip(outer, boxes, found, strict=True):
        placed = [rle.encode_at(inner.mask(k), box[0], box[1], tree.size) for k in range(len(inner))]
        shared = rle.cross_intersections(placed, [tree.rles[index]], tree.size)[:, 0]
        within = np.flatnonzero((shared > 0) & (shared >= MIN_COVERAGE * rle.areas(placed, tree.size)))
        rles += [placed[k] for k in within]
        scores += inner.scores[within].tolist()
    return _joined(tree, rles, np.array(scores, np.float32))


def _is_worth_it(tree: MaskTree, index: int) -> bool:
    top, left, bottom, right = _around(tree.boxes[index], tree.size)
    closer = max(tree.size) / max(bottom - top, right - left)
    return bool(tree.areas[index] >= MIN_AREA_FRACTION * tree.size[0] * tree.size[1]) and closer >= MIN_MAGNIFICATION


def _around(box: np.ndarray, size: tuple[int, int]) -> Box:
    """An XYWH box with its margin, cut at the image's borders."""
    x, y, width, height = (int(v) for v in box)
    dx, dy = round(CROP_MARGIN * width), round(CROP_MARGIN * height)
    return max(0, y - dy), max(0, x - dx), min(size[0], y + height + dy), min(size[1], x + width + dx)


def _joined(tree: MaskTree, rles: list[bytes], scores: np.ndarray) -> MaskTree:
    """A tree with the masks added that are new to it and to each other."""
    size, own = tree.size, len(tree)
    shared = rle.cross_intersections(rles, tree.rles, size)
    areas = rle.areas(rles, size)
    new = np.flatnonzero((shared / (areas[:, None] + tree.areas - shared) < DUPLICATE_IOU).all(axis=1))
    new = new[mask_nms([rles[k] for k in new], size, scores[new], iou_threshold=DUPLICATE_IOU)]
    if len(new) == 0:
        return tree
    together = (*tree.rles, *(rles[k] for k in new))
    parents = hierarchy.parents_by_coverage(together, size)
    parents[:own] = tree.parents  # which leaves a forest: the others' parents are larger than they, or the tree's
    levels = hierarchy.levels(parents)
    levels[:own] = tree.levels
    return MaskTree.from_rles(
        together,
        size,
        parents,
        scores=np.concatenate([tree.scores, scores[new]]),
        stabilities=np.concatenate([tree.stabilities, np.ones(len(new), np.float32)]),
        levels=levels,
    )
