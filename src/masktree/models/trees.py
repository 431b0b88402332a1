"""Mask trees from the detections of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from masktree.errors import InputError
from masktree.models.config import MIN_AREA
from masktree.models.inputs import collate_inputs, prepare_image
from masktree.models.mask2former.ancestors import parents_from_probabilities
from masktree.models.structures import Model, ModelDetections
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB

_BATCH_BYTES = 64 * 2**20  # dense masks at a time, at least one (our choice)


def tree_of(
    detections: ModelDetections,
    size: tuple[int, int],
    *,
    min_area: int = MIN_AREA,
    min_score: float = 0.0,
    stabilities: np.ndarray | None = None,
) -> MaskTree:
    """The tree of the detections in one image, highest score first.

    Parents are those of the ancestor head if the model has one (``parents_from_probabilities``), else by coverage.
    Levels are the most probable of the level head if the model has one, else by depth. Exact duplicates are dropped.
    Only a few masks are dense at a time.

    Args:
        detections: of a model.
        size: (height, width) of the original image.
        min_area: smallest mask in pixels.
        min_score: lowest score.
        stabilities: (n,) in [0, 1] of each detection; None for 1.

    Raises:
        InputError: ``min_area`` below 1, ``min_score`` outside [0, 1], or scores that are not finite.
    """
    check_limits(min_area, min_score)
    scores = detections.scores.float().cpu().numpy()
    if not np.isfinite(scores).all():
        raise InputError("expected finite scores from the model; got NaN or infinity; its weights are damaged")
    rles = encode_masks(detections, int((scores >= min_score).sum()), size)
    areas = rle.areas(rles, size)
    first_index = {text: index for index, text in reversed(list(enumerate(rles)))}
    keep = np.array([i for i, text in enumerate(rles) if areas[i] >= min_area and first_index[text] == i], np.int64)
    kept = [rles[i] for i in keep]
    if detections.ancestors is None:
        parents = hierarchy.parents_by_coverage(kept, size)
    else:
        probabilities = detections.ancestors.float().cpu().numpy()[np.ix_(keep, keep)]
        parents = parents_from_probabilities(probabilities, areas[keep])
    return MaskTree.from_rles(
        kept,
        size,
        parents,
        scores=scores[keep].clip(0, 1),
        stabilities=None if stabilities is None else stabilities[keep],
        levels=None if detections.levels is None else detections.levels.float().cpu().numpy()[keep].argmax(axis=1),
    )


def segment_images(
    model: Model,
    images: Sequence[RGB],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch_size: int = 4,
    min_area: int | None = None,
    min_score: float = 0.0,
) -> list[MaskTree]:
    """The trees of images of any sizes, in their order.

    Args:
        model: in evaluation mode, on ``device``.
        images: (H, W, 3) uint8 RGB each.
        device: of the model.
        dtype: float32, or bfloat16 or float16 for autocast.
        batch_size: most images of one padded size in a forward pass; bounds memory. Up to rounding, a tree does not
            depend on the other images of its batch.
        min_area, min_score: as in ``tree_of``; None takes the ``min_area`` of the model's configuration.
    """
    config = model.config
    min_area = config.min_area if min_area is None else min_area
    inputs = [prepare_image(image, config.image_size, config.short_side, cues=model.wants_cues) for image in images]
    indices_by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for index, item in enumerate(inputs):
        indices_by_shape[item.pixels.shape].append(index)
    trees: dict[int, MaskTree] = {}
    for indices in indices_by_shape.values():
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            with (
                torch.inference_mode(),
                torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32),
                torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
            ):
                pixels, cues = collate_inputs([inputs[i] for i in batch], device)
                detections = model.detect(pixels, cues, [inputs[i].valid_size for i in batch])
            for i, image_detections in zip(batch, detections, strict=True):
                trees[i] = tree_of(image_detections, inputs[i].size, min_area=min_area, min_score=min_score)
    return [trees[i] for i in range(len(images))]


def encode_masks(detections: ModelDetections, count: int, size: tuple[int, int]) -> list[bytes]:
    """Run-length strings of the first ``count`` masks at an image's (height, width); only a few are dense at a time."""
    batch_size = max(1, _BATCH_BYTES // (size[0] * size[1]))
    rles: list[bytes] = []
    for start in range(0, count, batch_size):
        masks = detections.render(start, min(start + batch_size, count), size).cpu().numpy()
        rles += [_encode_in_box(mask) for mask in masks]
    return rles


def check_limits(min_area: int, min_score: float) -> None:
    """Raise InputError unless ``min_area`` is an integer of at least 1 and ``min_score`` is in [0, 1]."""
    if not isinstance(min_area, (int, np.integer)) or min_area < 1:
        raise InputError(f"expected min_area of at least 1 pixel; got {min_area!r}; give a whole number")
    if not 0 <= min_score <= 1:
        raise InputError(f"expected min_score in [0, 1]; got {min_score!r}")


def _encode_in_box(mask: np.ndarray) -> bytes:
    """``rle.encode``, several times as fast for small masks: only their box is scanned for runs."""
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return rle.encode(mask)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return rle.encode_at(np.ascontiguousarray(mask[top:bottom, left:right]), top, left, (mask.shape[0], mask.shape[1]))
