"""What a model detects, as trees of masks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from masktree.errors import InputError
from masktree.models.inputs import prepare, stack
from masktree.models.structures import Model, ModelDetections
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB

MIN_AREA = 32  # pixels of the original image, as for the masks of a dendrogram (our choice)
_DENSE = 64 * 2**20  # bytes of dense masks at a time (our choice); a mask that is larger goes alone


def tree_of(
    detections: ModelDetections,
    size: tuple[int, int],
    *,
    min_area: int = MIN_AREA,
    min_score: float = 0.0,
    stabilities: np.ndarray | None = None,
) -> MaskTree:
    """The detections of one image of (height, width) ``size`` as a tree, best score first.

    Masks below ``min_area`` pixels or ``min_score``, and exact copies of better ones, are left out. Parents: from the
    ancestor head where there is one (see ``masktree.models.mask2former.forest``), else by coverage. Levels: the most
    probable of the level head where there is one, else from the depth. Masks are dense a few at a time only.
    ``stabilities``: (n,) in [0, 1], of each detection; 1 if not given.

    Raises:
        InputError: ``min_area`` below 1 or ``min_score`` outside [0, 1]; scores that are not finite.
    """
    check_limits(min_area, min_score)
    scores = detections.scores.float().cpu().numpy()
    if not np.isfinite(scores).all():
        raise InputError("expected finite scores from the model; got NaN or infinity; its weights are damaged")
    rles = encode_masks(detections, int((scores >= min_score).sum()), size)
    areas = rle.areas(rles, size)
    first = {text: index for index, text in reversed(list(enumerate(rles)))}
    keep = np.array([i for i, text in enumerate(rles) if areas[i] >= min_area and first[text] == i], np.int64)
    kept = [rles[i] for i in keep]
    if detections.ancestors is None:
        parents = hierarchy.parents_by_coverage(kept, size)
    else:
        from masktree.models.mask2former.forest import parents_from_probabilities

        probabilities = detections.ancestors.float().cpu().numpy()[np.ix_(keep, keep)]
        parents = parents_from_probabilities(probabilities, areas[keep])
    levels = None
    if detections.levels is not None:
        levels = detections.levels.float().cpu().numpy()[keep].argmax(axis=1)
    stable = None if stabilities is None else stabilities[keep]
    return MaskTree.from_rles(kept, size, parents, scores=scores[keep].clip(0, 1), stabilities=stable, levels=levels)


def segment_images(
    model: Model,
    images: Sequence[RGB],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch: int = 4,
    min_area: int = MIN_AREA,
    min_score: float = 0.0,
) -> list[MaskTree]:
    """The trees of images of any sizes, in their order.

    Args:
        model: in evaluation mode, on ``device``.
        images: (H, W, 3) uint8 RGB each.
        dtype: float32, or bfloat16 for autocast.
        batch: most images in one forward pass; those of one padded size go together. Bounds memory. An image's tree
            does not depend on its companions, up to rounding.
        min_area, min_score: as in ``tree_of``.
    """
    inputs = [prepare(image, model.config.image_size, cues=model.wants_cues) for image in images]
    groups: dict[torch.Size, list[int]] = defaultdict(list)
    for index, item in enumerate(inputs):
        groups[item.pixels.shape].append(index)
    trees: dict[int, MaskTree] = {}
    kind = torch.device(device).type
    half = dtype == torch.bfloat16
    for members in groups.values():
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            with (
                torch.inference_mode(),
                torch.autocast(kind, dtype=torch.bfloat16, enabled=half),
                torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
            ):
                pixels, cues = stack([inputs[i] for i in part], device)
                found = model.detect(pixels, cues, [inputs[i].valid_size for i in part])
            for i, detections in zip(part, found, strict=True):
                trees[i] = tree_of(detections, inputs[i].size, min_area=min_area, min_score=min_score)
    return [trees[i] for i in range(len(images))]


def encode_masks(detections: ModelDetections, count: int, size: tuple[int, int]) -> list[bytes]:
    """Run-length strings of the first ``count`` masks at an image's (height, width). A few are dense at a time."""
    step = max(1, _DENSE // (size[0] * size[1]))
    rles: list[bytes] = []
    for start in range(0, count, step):
        masks = detections.render(start, min(start + step, count), size).cpu().numpy()
        rles += [_encode_inside(mask) for mask in masks]
    return rles


def check_limits(min_area: int, min_score: float) -> None:
    """Raise InputError unless ``min_area`` is a whole number of at least 1 and ``min_score`` is in [0, 1]."""
    if not isinstance(min_area, (int, np.integer)) or min_area < 1:
        raise InputError(f"expected min_area of at least 1 pixel; got {min_area!r}; give a whole number")
    if not 0 <= min_score <= 1:
        raise InputError(f"expected min_score in [0, 1]; got {min_score!r}")


def _encode_inside(mask: np.ndarray) -> bytes:
    """As ``rle.encode``, but looks closely at the mask's box alone."""
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return rle.encode(mask)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return rle.encode_at(np.ascontiguousarray(mask[top:bottom, left:right]), top, left, mask.shape)
