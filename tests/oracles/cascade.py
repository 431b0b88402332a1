"""Parts of a Cascade Mask R-CNN written out with loops over plain numbers, from their published definitions.

Faster R-CNN (Ren et al. 2015, arXiv 1506.01497) for anchors and deltas, Mask R-CNN (He et al. 2017, 1703.06870) for
RoIAlign, the focal loss (Lin et al. 2017, 1708.02002), DropLoss (Wang et al. 2023, 2301.11320).
"""

from __future__ import annotations

import math

import numpy as np

Box = tuple[float, float, float, float]


def box_of(mask: np.ndarray) -> Box:
    """Left, top, right, bottom edges of the pixels of a mask."""
    places = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    xs, ys = [x for x, _ in places], [y for _, y in places]
    return min(xs), min(ys), max(xs) + 1, max(ys) + 1


def iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def encode(box: Box, anchor: Box, weights: Box) -> Box:
    """t_x = (x - x_a) / w_a, t_w = log(w / w_a) and the same for y and h, on centres, times the weights."""
    w, h, anchor_w, anchor_h = box[2] - box[0], box[3] - box[1], anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    anchor_x, anchor_y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
    return (
        weights[0] * (x - anchor_x) / anchor_w,
        weights[1] * (y - anchor_y) / anchor_h,
        weights[2] * math.log(w / anchor_w),
        weights[3] * math.log(h / anchor_h),
    )


def anchor(row: int, column: int, stride: int, side: int, aspect: float) -> Box:
    """Of area side^2 and height / width = aspect, to whole pixels, around a place of a map."""
    width, height = side / math.sqrt(aspect), side * math.sqrt(aspect)
    half = round(width / 2), round(height / 2)
    x, y = column * stride, row * stride
    return x - half[0], y - half[1], x + half[0], y + half[1]


def focal(logit: float, wanted: int, alpha: float = 0.25, gamma: float = 2.0) -> float:
    """-alpha_t (1 - p_t)^gamma log p_t"""
    p = 1 / (1 + math.exp(-logit))
    p_t, alpha_t = (p, alpha) if wanted else (1 - p, 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * math.log(p_t)


def drop_loss(logits: tuple[float, float], positive: bool, box: Box, targets: list[Box], least: float = 0.01) -> float:
    """Cross-entropy, or 0 where no target overlaps the box by more than ``least``."""
    if max((iou(box, target) for target in targets), default=0.0) <= least:
        return 0.0
    total = math.exp(logits[0]) + math.exp(logits[1])
    return -math.log(math.exp(logits[1] if positive else logits[0]) / total)


def bilinear(values: np.ndarray, y: float, x: float) -> float:
    """Between the centres of cells, which are at whole numbers; 0 outside."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < values.shape[0] and 0 <= column < values.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * values[row, column]
    return total


def roi_align(values: np.ndarray, box: Box, scale: float, side: int, samples: int) -> np.ndarray:
    """(side, side) means over samples x samples points of each cell of a box, on a map of 1 / scale pixels; for 0 over
    as many as it has cells of the map along each side, rounded up (Detectron2)."""
    left, top, right, bottom = (edge * scale - 0.5 for edge in box)
    width, height = (right - left) / side, (bottom - top) / side
    down, across = (samples or math.ceil(height)), (samples or math.ceil(width))
    cells = np.zeros((side, side))
    for i in range(side):
        for j in range(side):
            for k in range(down):
                for m in range(across):
                    y = top + (i + (k + 0.5) / down) * height
                    x = left + (j + (m + 0.5) / across) * width
                    cells[i, j] += bilinear(values, y, x) / (down * across)
    return cells


def pyramid_level(box: Box) -> int:
    """Of the maps at strides 4, 8, 16, 32: floor(k0 + log2(sqrt(w h) / 224)), k0 = 4 for stride 16."""
    level = math.floor(4 + math.log2(math.sqrt((box[2] - box[0]) * (box[3] - box[1])) / 224))
    return min(max(level, 2), 5) - 2


def paste(mask: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """(H, W) probabilities at the centres of all pixels of an image: the mask stretched over its box."""
    left, top, right, bottom = box
    image = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            y = (row + 0.5 - top) / (bottom - top) * mask.shape[0] - 0.5
            x = (column + 0.5 - left) / (right - left) * mask.shape[1] - 0.5
            image[row, column] = bilinear(mask, y, x)
    return image
