"""What a tree of masks says about itself: coverage, nesting, redundancy, masks by level.

No ground truth and no image is needed. The numbers describe a tree; alone they do not say that it is right: one mask
over
the whole image covers everything and nests perfectly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from masktree.evaluate.image_stats import ImageStats, Metrics, column_arrays, ratio
from masktree.trees import rle
from masktree.trees.masktree import LEVELS, MaskTree
from masktree.trees.nms import mask_nms

NESTED = 0.95  # share of a child that must lie inside its parent (our choice: a refined border may cross by a pixel)
DUPLICATE_IOU = 0.8  # (our choice: below the .9 at which the methods suppress copies, so that it tells them apart)


def score_image(tree: MaskTree) -> ImageStats:
    """What one tree adds.

    Returns:
        masks: number of masks. levels: [whole, part, subpart] counts. pixels: of the image; covered: those under at
        least one mask; stacked: sum of the areas of all masks. links: child and parent pairs with a non-empty child;
        nested: those with |child and parent| / |child| >= .95; inside: sum of that quotient over the links.
        duplicates: masks that suppression at IoU .8, best score first, would drop.

    Raises:
        InputError: a mask's string is damaged.
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
        "nested": int((inside >= NESTED).sum()),
        "inside": float(inside.sum()),
        "duplicates": len(tree) - len(kept),
    }


def summarise(stats: Sequence[ImageStats]) -> Metrics:
    """Metrics of a set of images.

    Returns:
        coverage: share of an image's pixels under at least one mask, mean over images, in [0, 1].
        masks_per_pixel: mean number of masks on a pixel, mean over images.
        nesting: share of the links of all images whose child lies inside its parent to 95 %; inside_parent: mean
        share of a child inside its parent; both None without links.
        redundancy: share of all masks that copy a better one (IoU above .8); None without masks.
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
    """(links,) float64: share of each non-empty child that lies inside its parent, by one sweep for each parent."""
    shared = np.zeros(len(tree), np.int64)
    for parent in np.unique(tree.parents[tree.parents >= 0]):
        children = np.flatnonzero(tree.parents == parent)
        rles = [tree.rles[child] for child in children]
        shared[children] = rle.cross_intersections([tree.rles[parent]], rles, tree.size)[0]
    links = (tree.parents >= 0) & (tree.areas > 0)
    share: np.ndarray = shared[links] / tree.areas[links]
    return share
