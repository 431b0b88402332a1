"""Small pictures for reports: a photograph with what was found in it and what was missed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, Mask

SIDE = 520  # longest side in pixels: 24 such pictures are about a megabyte (our choice)
FOUND_IOU = 0.5  # from here on a ground truth is drawn as found: the lowest of the thresholds of average recall

FOUND = (46, 230, 200)
MISSED = (255, 66, 92)
BORDER = (255, 214, 10)
_THICKNESS = 2  # pixels of a thumbnail


def found_and_missed(
    image: RGB, ground_truth: ImageGroundTruth, found: ImageDetections, *, boxes: bool = False
) -> tuple[RGB, int]:
    """The best prediction of each ground truth that was found, as an outline, and the ground truths that were missed,
    filled.

    Args:
        image: (H, W, 3) uint8 RGB of the ground truth's size.
        boxes: compare and draw boxes.

    Returns:
        The thumbnail, and how many ground truths were missed: no prediction reaches IoU .5.
    """
    picture = shrink(image)
    kept = np.flatnonzero(~ground_truth.crowd)
    overlaps = _box_ious(ground_truth.boxes[kept], found.boxes) if boxes else _mask_ious(ground_truth, kept, found)
    best = overlaps.max(1, initial=0.0)
    missed = best < FOUND_IOU
    areas = ground_truth.areas[kept]
    for index in sorted(np.flatnonzero(missed), key=lambda i: -areas[i]):  # small ones stay visible on top
        shape = (
            _box_mask(ground_truth.boxes[kept[index]], ground_truth.size)
            if boxes
            else rle.decode(_rle(ground_truth, kept[index]), ground_truth.size)
        )
        _paint(picture, shape, MISSED, fill=0.4)
    for number in sorted({int(overlaps[index].argmax()) for index in np.flatnonzero(~missed)}):
        assert boxes or found.rles is not None
        shape = (
            _box_mask(found.boxes[number], found.size) if boxes else rle.decode((found.rles or ())[number], found.size)
        )
        _paint(picture, shape, FOUND)
    return picture, int(missed.sum())


def borders(image: RGB, contours: MaskTree | np.ndarray, level: float) -> RGB:
    """The photograph with the borders of a tree's cut, or those of a doubled contour map, at one level."""
    if isinstance(contours, MaskTree):
        labels = contours.cut(level)
        lines = np.zeros(labels.shape, np.bool_)
        lines[:-1] |= labels[:-1] != labels[1:]
        lines[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    else:
        lines = contours[2::2, 2::2] > level
    picture = shrink(image)
    lines = _shrink_mask(lines, picture.shape[:2], any_pixel=True)
    picture[ndimage.binary_dilation(lines)] = BORDER
    return picture


def entities(image: RGB, tree: MaskTree) -> RGB:
    """The photograph under the tree's colours, as ``masktree segment`` draws it."""
    return shrink(tree.draw(image))


def shrink(image: RGB) -> RGB:
    """A copy whose longest side is ``SIDE`` at most."""
    scale = min(1.0, SIDE / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.array(
        Image.fromarray(image).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
    )


def data_uri(picture: RGB) -> str:
    """A picture as text that stands in a page."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _paint(picture: np.ndarray, mask: Mask, colour: Sequence[int], *, fill: float = 0.0) -> None:
    """Outline a mask of the original image on its thumbnail, and tint its inside."""
    small = _shrink_mask(mask, picture.shape[:2])
    outline = small & ~ndimage.binary_erosion(small, iterations=_THICKNESS)
    if fill:
        picture[small] = np.rint((1 - fill) * picture[small] + fill * np.array(colour))
    halo = ndimage.binary_dilation(outline) & ~outline & ~small
    picture[halo] = picture[halo] // 2  # a dark rim: the outline shows on bright ground too
    picture[outline] = colour


def _shrink_mask(mask: Mask, shape: tuple[int, ...], *, any_pixel: bool = False) -> Mask:
    """A mask at thumbnail size: pixels that are half covered, or at all where that leaves nothing."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    share = np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BOX))
    return share > 0 if any_pixel or share.max() < 128 else share >= 128


def _mask_ious(ground_truth: ImageGroundTruth, kept: np.ndarray, found: ImageDetections) -> np.ndarray:
    theirs = [_rle(ground_truth, index) for index in kept]
    ours = found.rles or ()
    shared = rle.cross_intersections(theirs, ours, ground_truth.size).astype(np.float64)
    union = rle.areas(theirs, ground_truth.size)[:, None] + rle.areas(ours, ground_truth.size) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _box_ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low = np.maximum(a[:, None, :2], b[:, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[:, :2] + b[:, 2:])
    shared = np.maximum(high - low, 0).prod(2)
    union = a[:, None, 2:].prod(2) + b[:, 2:].prod(1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _rle(ground_truth: ImageGroundTruth, index: int) -> bytes:
    return ground_truth.masks()[index]


def _box_mask(box: np.ndarray, size: tuple[int, int]) -> Mask:
    mask = np.zeros(size, np.bool_)
    x0, y0 = np.floor(box[:2]).astype(int)
    x1, y1 = np.ceil(box[:2] + box[2:]).astype(int)
    mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return mask
