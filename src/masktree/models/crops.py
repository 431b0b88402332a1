"""Crops of large masks, segmented at the model's full input size: their small parts become detectable."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from masktree.trees import hierarchy, rle
from masktree.trees.masktree import MaskTree
from masktree.trees.nms import mask_nms
from masktree.types import RGB

# All our choice.
MIN_AREA_FRACTION = 0.05  # of the image: smallest mask that is cropped
MIN_MAGNIFICATION = 1.5  # of a crop: below it the model would see little more than before
CROP_MARGIN = 0.1  # of the box's sides, on each side: a mask that reaches the edge of its crop may be cut off
MAX_CROPS = 16  # per image, by descending score
MIN_COVERAGE = 0.9  # of a new mask by the cropped mask (as UnSAM's conquer step, arXiv 2406.20081)
DUPLICATE_IOU = 0.9  # a new mask with that IoU with another one is a duplicate

CropBox = tuple[int, int, int, int]  # top, left, bottom, right


def segment_crops(image: RGB, tree: MaskTree, segment: Callable[[Sequence[RGB]], Sequence[MaskTree]]) -> MaskTree:
    """A tree with the masks added that ``segment`` finds in crops of its large masks.

    The tree's own masks stay first, with their parents and levels. The parent of a new one is the smallest mask that
    covers it, and its level follows from its depth. Takes the time of at most ``MAX_CROPS`` images.

    Args:
        image: (H, W, 3).
        tree: of the image.
        segment: from images to their trees.
    """
    by_score = np.argsort(-tree.scores, kind="stable")
    cropped = [int(index) for index in by_score if _is_worth_cropping(tree, index)][:MAX_CROPS]
    boxes = [_crop_box(tree.boxes[index], tree.size) for index in cropped]
    crop_trees = segment([np.ascontiguousarray(image[top:bottom, left:right]) for top, left, bottom, right in boxes])
    rles: list[bytes] = []
    scores: list[float] = []
    for index, (top, left, _, _), crop_tree in zip(cropped, boxes, crop_trees, strict=True):
        new = [rle.encode_at(crop_tree.mask(k), top, left, tree.size) for k in range(len(crop_tree))]
        covered = rle.cross_intersections(new, [tree.rles[index]], tree.size)[:, 0]
        inside = np.flatnonzero((covered > 0) & (covered >= MIN_COVERAGE * rle.areas(new, tree.size)))
        rles += [new[k] for k in inside]
        scores += crop_tree.scores[inside].tolist()
    return add_masks(tree, rles, np.array(scores, np.float32))


def _is_worth_cropping(tree: MaskTree, index: int) -> bool:
    top, left, bottom, right = _crop_box(tree.boxes[index], tree.size)
    magnification = max(tree.size) / max(bottom - top, right - left)
    is_large = tree.areas[index] >= MIN_AREA_FRACTION * tree.size[0] * tree.size[1]
    return bool(is_large and magnification >= MIN_MAGNIFICATION)


def _crop_box(box: np.ndarray, size: tuple[int, int]) -> CropBox:
    """An XYWH box with its margin, clipped to the image."""
    x, y, width, height = (int(v) for v in box)
    dx, dy = round(CROP_MARGIN * width), round(CROP_MARGIN * height)
    return max(0, y - dy), max(0, x - dx), min(size[0], y + height + dy), min(size[1], x + width + dx)


def add_masks(
    tree: MaskTree,
    rles: list[bytes],
    scores: np.ndarray,
    stabilities: np.ndarray | None = None,
    *,
    duplicate_iou: float = DUPLICATE_IOU,
) -> MaskTree:
    """The tree with the masks added that duplicate neither its own nor each other.

    The tree's own masks stay first, with their parents and levels; without a new mask the tree is returned as it is.

    Args:
        tree: of one image.
        rles: n further masks of that image as run-length strings.
        scores, stabilities: (n,) float32 of these; stabilities of None are 1.
        duplicate_iou: IoU from which a mask is a duplicate.
    """
    new = np.flatnonzero((rle.iou(rles, tree.rles, tree.size) < duplicate_iou).all(axis=1))
    new = new[mask_nms([rles[k] for k in new], tree.size, scores[new], iou_threshold=duplicate_iou)]
    if len(new) == 0:
        return tree
    all_rles = (*tree.rles, *(rles[k] for k in new))
    parents = hierarchy.parents_by_coverage(all_rles, tree.size)
    parents[: len(tree)] = tree.parents  # still a forest: parents of new masks are larger, or masks of the tree
    levels = hierarchy.levels(parents)
    levels[: len(tree)] = tree.levels
    new_stabilities = np.ones(len(new), np.float32) if stabilities is None else stabilities[new]
    return MaskTree.from_rles(
        all_rles,
        tree.size,
        parents,
        scores=np.concatenate([tree.scores, scores[new]]),
        stabilities=np.concatenate([tree.stabilities, new_stabilities]),
        levels=levels,
    )
