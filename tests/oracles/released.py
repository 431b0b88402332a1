"""Preprocessing and mask steps of the released codes of HASSOD, MaskCut and UnSAM, written out with Pillow and torch.

Features, partitions and the dense CRF are arguments: they have oracles of their own. All is dense, one mask at
a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import binary_fill_holes
from torch.nn.functional import interpolate

Features = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) image to (h, w, d)
Partition = Callable[[np.ndarray, float], np.ndarray]  # (h, w, d) features and a threshold to (h, w) labels
Crf = Callable[[np.ndarray, np.ndarray], np.ndarray]


def bilinear(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return interpolate(torch.tensor(planes, dtype=torch.float32)[None], size=size, mode="bilinear")[0].numpy()


def hassod_masks(
    image: np.ndarray, features: Features, partition: Partition, crf: Crf, thresholds: Iterable[float], side: int = 480
) -> list[np.ndarray]:
    """Masks of HASSOD's first stage at the size of the image, thresholds one after the other."""
    height, width = image.shape[:2]
    small = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))
    grid = features(small)
    found = []
    for theta in thresholds:
        labels = partition(grid, theta)
        one_hot = np.stack([labels == k for k in range(labels.max() + 1)]).astype(np.float32)
        before = bilinear(one_hot, (side, side))
        after = crf(small, before) if len(before) > 1 else before
        for k in range(len(one_hot)):
            first, second = before[k] >= 0.5, after[k] >= 0.5
            if (first | second).sum() == 0 or (first & second).sum() / (first | second).sum() < 0.5:
                continue
            mask = bilinear(after[k : k + 1], (height, width))[0] >= 0.5
            if mask.sum() < 100:
                continue
            if int(mask[0, 0]) + int(mask[0, -1]) + int(mask[-1, 0]) + int(mask[-1, -1]) >= 3:
                continue
            found.append(binary_fill_holes(mask))
    return found


def maskcut_masks(
    image: np.ndarray,
    features: Features,
    cut: Callable[[np.ndarray], list[np.ndarray]],
    crf: Crf,
    side: int = 480,
) -> list[np.ndarray]:
    """Masks of MaskCut at the size of the image; ``cut`` gives patch masks, ``crf`` takes and gives (2, H, W)."""
    height, width = image.shape[:2]
    small = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))
    found = []
    for patches in cut(features(small)):
        before = interpolate(torch.tensor(patches, dtype=torch.float32)[None, None], size=(side, side), mode="nearest")
        mask = before[0, 0].numpy() > 0
        logits = torch.tensor(np.stack([1.0 - mask, mask * 1.0]))
        after = crf(small, logits.softmax(0).numpy().astype(np.float32)).argmax(0)
        after = binary_fill_holes(after >= 0.5)
        if (mask & after).sum() / (mask | after).sum() < 0.5:
            continue
        grey = np.asarray(Image.fromarray(np.uint8(after * 255)).resize((width, height)))
        large = grey > grey.max() / 2.0
        if large.sum() >= 1:
            found.append(large)
    return found


def conquer_masks(
    image: np.ndarray,
    whole: np.ndarray,
    features: Features,
    partition: Partition,
    thresholds: Iterable[float],
    *,
    side: int = 256,
    min_cells: int = 4,
    min_inside: float = 0.9,
) -> list[np.ndarray]:
    """Masks of UnSAM's conquer step in one mask of the image.

    The released code ends the box a row and a column too early (not repeated here), and pastes into it.
    """
    ys, xs = np.nonzero(whole)
    top, bottom, left, right = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    box = whole[top:bottom, left:right]
    crop = np.asarray(Image.fromarray(image[top:bottom, left:right]).resize((side, side)))  # Pillow's default filter
    grid = features(crop)
    found = []
    for theta in thresholds:
        labels = partition(grid, theta)
        for k in range(labels.max() + 1):
            cells = labels == k
            if cells.sum() < min_cells:
                continue
            grey = np.asarray(Image.fromarray(np.uint8(cells * 255)).resize((right - left, bottom - top)))
            part = np.where(grey > grey.max() / 2.0, grey.max(), 0) > 0.5 * 255
            if part.sum() == 0 or (part & box).sum() / part.sum() <= min_inside:
                continue
            pasted = np.zeros_like(whole)
            pasted[top:bottom, left:right] = part
            found.append(pasted)
    return found


def dino_positions(stored: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(1, 1 + rows * columns, d) position embeddings as DINO's own code resizes its (1, 1 + n * n, d) ones.

    A tenth of a cell is added to the number of cells, so that the scale is a little too large (DINO's issue 8).
    """
    n = round((stored.shape[1] - 1) ** 0.5)
    grid = torch.tensor(stored[:, 1:]).reshape(1, n, n, -1).permute(0, 3, 1, 2)
    if (rows, columns) != (n, n):
        scale = ((rows + 0.1) / n, (columns + 0.1) / n)
        grid = interpolate(grid, scale_factor=scale, mode="bicubic")
    assert grid.shape[2:] == (rows, columns)
    cells = grid.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)
    return np.concatenate([stored[:, :1], cells.numpy()], axis=1)


def warmup_cosine(step: int, steps: int, warmup: int, start: float = 0.001) -> float:
    """Factor of Detectron2's WarmupCosineLR: half a cosine over all steps; the first go in a line from ``start`` to
    where the cosine is at the end of the warm-up."""

    def cosine(at: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * at / steps))

    if step < warmup:
        return start + (cosine(warmup) - start) * step / warmup
    return cosine(step)


def shortest_edge(size: tuple[int, int], short_side: int, max_side: int) -> tuple[int, int]:
    """Detectron2's ResizeShortestEdge."""
    height, width = size
    scale = short_side / min(height, width)
    new_height, new_width = float(short_side), scale * width
    if height >= width:
        new_height, new_width = scale * height, float(short_side)
    if max(new_height, new_width) > max_side:
        scale = max_side / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return int(new_height + 0.5), int(new_width + 0.5)


def copy_paste(
    image: np.ndarray, masks: np.ndarray, donor_image: np.ndarray, donor_masks: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Copy-paste of CutLER's code onto an image, of donor masks in a view of the same size; image and masks of the
    result, those of the image first."""
    kept = []
    for candidate in donor_masks:
        covered = [np.logical_and(candidate, mask).sum() / mask.sum() for mask in masks]
        if not covered or max(covered) < 0.5:
            kept.append(candidate)
    if not kept:
        return image, list(masks)
    alpha = np.sum(kept, axis=0) > 0
    rest = [mask & ~alpha for mask in masks]
    result = np.where(alpha[..., None], donor_image, image)
    return result, [mask for mask in rest if mask.sum() > 0] + kept


def mask_score(probability: float, logits: np.ndarray) -> float:
    """Mask2Former's score of an instance: class probability times the mean probability inside the mask."""
    inside = logits > 0
    if not inside.any():
        return 0.0
    return probability * float((1 / (1 + np.exp(-logits[inside]))).mean())


def generalised_iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Of two boxes (centre x, centre y, width, height): IoU minus the part of the hull that neither covers."""

    def corners(box: tuple[float, ...]) -> tuple[float, float, float, float]:
        x, y, width, height = box
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    (al, at, ar, ab), (bl, bt, br, bb) = corners(a), corners(b)
    shared = max(0.0, min(ar, br) - max(al, bl)) * max(0.0, min(ab, bb) - max(at, bt))
    union = (ar - al) * (ab - at) + (br - bl) * (bb - bt) - shared
    hull = (max(ar, br) - min(al, bl)) * (max(ab, bb) - min(at, bt))
    return shared / union - (hull - union) / hull


def box_cost(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Semantic-SAM's cost of a pair of boxes: 5 times the L1 distance, minus twice the generalised IoU."""
    return 5 * sum(abs(x - y) for x, y in zip(a, b, strict=True)) - 2 * generalised_iou(a, b)
