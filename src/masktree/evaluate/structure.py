"""Statistics of a mask tree without image or ground truth: coverage, nesting, redundancy, masks by level.

They describe a tree but do not measure its quality: a single mask of the whole image has perfect coverage and nesting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from masktree.evaluate.image_stats import ImageStats, Metrics, column_arrays, ratio
from masktree.trees import rle
from masktree.trees.masktree import LEVELS, MaskTree
from masktree.trees.nms import mask_nms

MIN_NESTED_SHARE = 0.95  # of a child inside its parent (our choice: refined borders may cross by a pixel)
DUPLICATE_IOU = 0.8  # (our choice: below the .9 of the methods' NMS, so that it discriminates between them)


def score_image(tree: MaskTree) -> ImageStats:
    """Count the statistics of one tree.

    Returns:
        masks: number of masks. levels: [whole, part, subpart] counts. pixels: of the image; covered: of the union of
        the masks; stacked: sum of the areas of all masks. links: parent-child pairs with a non-empty child; nested:
        links with |child and parent| / |child| >= .95; inside: sum of that ratio over the links. duplicates: masks
        that NMS at IoU .8 would suppress.

    Raises:
        InputError: a mask's RLE string is damaged.
    """
    covered = rle.areas([rle.union(tree.rles, tree.size)], tree.size)[0]
    inside = _inside_parent(tree)
    kept = mask_nms(tree.rles, tree.size, tree.scores, iou_threshold=DUPLICATE_IOU)
    return {
        "masks": len(tree),
        "levels": np.bincount(tree.levels, minlength=len(LEVELS)).tolist(),
        "pixels": tree.size[0] * tree.size[1],
        "covered": int(covered),
        "stacked": int(tree.areas.sum()),
        "links": len(inside),
        "nested": int((inside >= MIN_NESTED_SHARE).sum()),
        "inside": float(inside.sum()),
        "duplicates": len(tree) - len(kept),
    }


def summarise(stats: Sequence[ImageStats]) -> Metrics:
    """Aggregate the statistics over images.

    Returns:
        coverage: share of an image's pixels covered by masks, mean over images, in [0, 1].
        masks_per_pixel: mean number of masks covering a pixel, mean over images.
        nesting: share of all links whose child lies at least 95 % inside its parent; inside_parent: mean share of a
        child inside its parent; both None without links.
        redundancy: share of all masks that duplicate a better one (IoU above .8); None without masks.
        masks_per_image, whole_per_image, part_per_image, subpart_per_image: means over images.

    Raises:
        InputError: no image.
    """
    names = ("masks", "pixels", "covered", "stacked", "links", "nested", "inside", "duplicates")
    columns = column_arrays(stats, names)
    masks, pixels, covered, stacked, links, nested, inside, duplicates = columns.T
    levels = np.array([s["levels"] for s in stats], np.float64).mean(0)
    return {
        "coverage": float((covered / pixels).mean()),
        "masks_per_pixel": float((stacked / pixels).mean()),
        "nesting": ratio(nested.sum(), links.sum()),
        "inside_parent": ratio(inside.sum(), links.sum()),
        "redundancy": ratio(duplicates.sum(), masks.sum()),
        "masks_per_image": float(masks.mean()),
        **{f"{name}_per_image": float(value) for name, value in zip(LEVELS, levels, strict=True)},
    }


def _inside_parent(tree: MaskTree) -> np.ndarray:
    """(links,) float64: share of each non-empty child inside its parent, with one RLE sweep per parent."""
    intersections = np.zeros(len(tree), np.int64)
    for parent in np.unique(tree.parents[tree.parents >= 0]):
        children = np.flatnonzero(tree.parents == parent)
        rles = [tree.rles[child] for child in children]
        intersections[children] = rle.cross_intersections([tree.rles[parent]], rles, tree.size)[0]
    links = (tree.parents >= 0) & (tree.areas > 0)
    share: np.ndarray = intersections[links] / tree.areas[links]
    return share
