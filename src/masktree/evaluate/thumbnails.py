"""Small pictures for reports: a photograph with the annotations that were found and missed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from masktree.evaluate.detections import ImageDetections, box_iou
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, Mask

MAX_SIDE = 520  # longest side in pixels: 24 such pictures are about a megabyte (our choice)
FOUND_IOU = 0.5  # from which an annotation is drawn as found: the lowest threshold of average recall

FOUND_COLOUR = (46, 230, 200)
MISSED_COLOUR = (255, 66, 92)
BOUNDARY_COLOUR = (255, 214, 10)
_THICKNESS = 2  # pixels of a thumbnail


def draw_matches(
    image: RGB, ground_truth: ImageGroundTruth, detections: ImageDetections, *, boxes: bool = False
) -> tuple[RGB, int]:
    """The best detection of each annotation that was found, as an outline, and the missed annotations, filled.

    Args:
        image: (H, W, 3) uint8 RGB of the ground truth's size.
        ground_truth: crowds are left out.
        detections: of the same image size.
        boxes: compare and draw boxes.

    Returns:
        The thumbnail, and the number of missed annotations, with which no detection has an IoU of at least .5.
    """
    picture = shrink(image)
    size = ground_truth.size
    kept = np.flatnonzero(~ground_truth.crowd)
    annotated_boxes, annotated = ground_truth.boxes[kept], () if boxes else [ground_truth.masks()[i] for i in kept]
    predicted = detections.rles or ()
    overlaps = box_iou(annotated_boxes, detections.boxes) if boxes else rle.iou(annotated, predicted, size)
    missed = overlaps.max(1, initial=0.0) < FOUND_IOU
    areas = ground_truth.areas[kept]
    for index in sorted(np.flatnonzero(missed), key=lambda i: -areas[i]):  # small ones stay visible on top
        mask = _box_mask(annotated_boxes[index], size) if boxes else rle.decode(annotated[index], size)
        _paint(picture, mask, MISSED_COLOUR, fill=0.4)
    for number in sorted({int(overlaps[i].argmax()) for i in np.flatnonzero(~missed)}):
        mask = _box_mask(detections.boxes[number], size) if boxes else rle.decode(predicted[number], size)
        _paint(picture, mask, FOUND_COLOUR)
    return picture, int(missed.sum())


def draw_boundaries(image: RGB, contours: MaskTree | np.ndarray, level: float) -> RGB:
    """The photograph with the boundaries of a tree's cut, or of a doubled contour map, at one level."""
    if isinstance(contours, MaskTree):
        labels = contours.cut(level)
        lines = np.zeros(labels.shape, np.bool_)
        lines[:-1] |= labels[:-1] != labels[1:]
        lines[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    else:
        lines = contours[2::2, 2::2] > level
    picture = shrink(image)
    lines = _shrink_mask(lines, picture.shape[:2], any_pixel=True)
    picture[ndimage.binary_dilation(lines)] = BOUNDARY_COLOUR
    return picture


def draw_entities(image: RGB, tree: MaskTree) -> RGB:
    """The photograph under the tree's colours, as ``masktree segment`` draws it."""
    return shrink(tree.draw(image))


def shrink(image: RGB) -> RGB:
    """A copy whose longest side is ``MAX_SIDE`` at most."""
    scale = min(1.0, MAX_SIDE / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.array(
        Image.fromarray(image).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
    )


def data_uri(picture: RGB) -> str:
    """A picture as text for an HTML page."""
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


def _box_mask(box: np.ndarray, size: tuple[int, int]) -> Mask:
    mask = np.zeros(size, np.bool_)
    x0, y0 = np.floor(box[:2]).astype(int)
    x1, y1 = np.ceil(box[:2] + box[2:]).astype(int)
    mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return mask
