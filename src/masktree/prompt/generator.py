"""``AutomaticMaskGenerator``: the interface of segment-anything's ``SamAutomaticMaskGenerator``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import ndimage

from masktree.errors import InputError
from masktree.io.images import ImageInput, as_rgb
from masktree.io.pixels import ImageFormat
from masktree.predict.blank import is_blank
from masktree.prompt.predictor import is_promptable
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, Mask, checked

if TYPE_CHECKING:
    from masktree.predict import Segmenter

_OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
_EIGHT_NEIGHBOURS = np.ones((3, 3), np.int8)


class AutomaticMaskGenerator:
    """Drop-in for segment-anything's ``SamAutomaticMaskGenerator``: ``generate(image)`` returns its list of dicts.

    Arguments have the same names and order, but filters are off by default: segment-anything's thresholds would drop
    nearly all masks here, since scores and stabilities are on other scales.

    Args:
        source: a segmenter from ``masktree.load``, or any callable from an image to its ``MaskTree``. A model of kind
            promptable is prompted at every point of the grid; any other source finds its masks without prompts.
        points_per_side: grid points along each side; None: as the model is configured. Of a source that is not
            prompted: masks that contain no grid point are dropped; None: no grid.
        points_per_batch: grid points per forward pass; more take more memory. Does not change the masks; ignored by
            sources that are not prompted.
        pred_iou_thresh: lowest score of a mask, 0 (all) to 1. Segment-anything's default is 0.88.
        stability_score_thresh: lowest stability of a mask, 0 (all) to 1. Segment-anything's default is 0.95. The
            stability of a prompted model's mask is segment-anything's: IoU of its logits cut at plus and minus the
            offset. Of other sources it is that of ``MaskTree``.
        stability_score_offset: in logits, above 0; None: 1. Only for models that are prompted.
        box_nms_thresh: box IoU for non-maximum suppression, 0 to 1; None: off, since a part may have the box of its
            whole. Segment-anything's default is 0.7.
        crop_n_layers: only 0: crops are not supported.
        point_grids: instead of ``points_per_side``: a list of one (N, 2) array of points, x and y in [0, 1].
        min_mask_region_area: holes of fewer pixels are filled and components of fewer removed; masks with no larger
            component are dropped (segment-anything keeps their largest component).
        output_mode: ``binary_mask``, ``uncompressed_rle`` or ``coco_rle``.

    Each dict has segmentation, area, bbox (XYWH), predicted_iou, point_coords, stability_score, crop_box and, beyond
    segment-anything, id, parent_id, level, depth and granularity. point_coords is a point deep inside the mask.

    Raises:
        InputError: an argument out of range, or one that the source does not support.
    """

    def __init__(
        self,
        source: Segmenter,
        points_per_side: int | None = None,
        points_per_batch: int | None = None,
        pred_iou_thresh: float = 0.0,
        stability_score_thresh: float = 0.0,
        stability_score_offset: float | None = None,
        box_nms_thresh: float | None = None,
        crop_n_layers: int = 0,
        *,
        point_grids: Sequence[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: Literal["binary_mask", "uncompressed_rle", "coco_rle"] = "binary_mask",
    ) -> None:
        if not callable(source):
            raise InputError(f"expected a segmenter; got {type(source).__name__}; use masktree.load")
        if output_mode not in _OUTPUT_MODES:
            raise InputError(f"expected output_mode binary_mask, uncompressed_rle or coco_rle; got {output_mode!r}")
        for name, threshold in (
            ("pred_iou_thresh", pred_iou_thresh),
            ("stability_score_thresh", stability_score_thresh),
            ("box_nms_thresh", box_nms_thresh),
        ):
            if threshold is not None and not 0 <= threshold <= 1:
                raise InputError(f"expected {name} in [0, 1]; got {threshold!r}")
        for name, count in (("points_per_side", points_per_side), ("points_per_batch", points_per_batch)):
            if count is not None and not (isinstance(count, (int, np.integer)) and count >= 1):
                raise InputError(f"expected {name} as a whole number of at least 1; got {count!r}")
        if min_mask_region_area < 0:
            raise InputError(f"expected min_mask_region_area of at least 0 pixels; got {min_mask_region_area!r}")
        if crop_n_layers != 0:
            raise InputError(f"expected crop_n_layers 0; got {crop_n_layers!r}; crop the image and generate from each")
        if points_per_side is not None and point_grids is not None:
            raise InputError("expected points_per_side or point_grids; got both; leave one out")
        if stability_score_offset is not None and not (is_promptable(source) and stability_score_offset > 0):
            raise InputError(
                f"expected stability_score_offset, above 0, for a promptable model only; got "
                f"{stability_score_offset!r}; leave it out"
            )
        self.segmenter = source
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = 1.0 if stability_score_offset is None else stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        self.point_grid = _read_point_grid(point_grids) if point_grids is not None else None
        if points_per_side is not None:
            self.point_grid = build_point_grid(points_per_side)

    def generate(self, image: ImageInput, image_format: ImageFormat = "RGB") -> list[dict[str, Any]]:
        """Masks of an image as dicts, largest first.

        Args:
            image: array, path or Pillow image, see ``masktree.io.images.as_rgb``.
            image_format: order of the channels of an array.
        """
        return self.tree(image, image_format).masks(output_mode=self.output_mode)

    def tree(self, image: ImageInput, image_format: ImageFormat = "RGB") -> MaskTree:
        """The same masks as a tree."""
        rgb = as_rgb(image, image_format)
        prompts_grid = is_promptable(self.segmenter) and not is_blank(rgb)
        tree = self._prompt_grid(rgb) if prompts_grid else self.segmenter(rgb)
        keep = (tree.scores >= self.pred_iou_thresh) & (tree.stabilities >= self.stability_score_thresh)
        if self.point_grid is not None and not is_promptable(self.segmenter):
            keep &= _contain_grid_point(tree, self.point_grid)
        if self.box_nms_thresh is not None:
            keep &= _box_nms(tree, keep, self.box_nms_thresh)
        tree = tree if keep.all() else tree[keep]
        return tree if self.min_mask_region_area <= 1 else _postprocess_small_regions(tree, self.min_mask_region_area)

    def _prompt_grid(self, image: RGB) -> MaskTree:
        from masktree.prompt.model_prompter import ModelPrompter  # torch takes seconds to import; trees do without

        assert is_promptable(self.segmenter)
        return ModelPrompter(self.segmenter, image).generate_tree(
            self.point_grid,
            points_per_batch=self.points_per_batch,
            min_score=self.pred_iou_thresh,
            min_stability=self.stability_score_thresh,
            stability_offset=self.stability_score_offset,
        )


def build_point_grid(points_per_side: int) -> np.ndarray:
    """(N, 2) x and y in [0, 1]: the centres of N = points_per_side^2 equal cells."""
    centres = (np.arange(points_per_side) + 0.5) / points_per_side
    return np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)


@checked
def remove_small_regions(mask: Mask, min_area: int) -> Mask:
    """The mask with holes of fewer than ``min_area`` pixels filled, then components of fewer removed. Holes and
    components are 8-connected, as in segment-anything."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return mask
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    cropped = mask[window]
    holes, count = ndimage.label(np.pad(~cropped, 1, constant_values=True), _EIGHT_NEIGHBOURS)
    small = np.bincount(holes.ravel(), minlength=count + 1) < min_area
    small[[0, holes[0, 0]]] = False  # the mask itself, and the surrounding background
    cropped = cropped | small[holes][1:-1, 1:-1]
    components, count = ndimage.label(cropped, _EIGHT_NEIGHBOURS)
    large = np.bincount(components.ravel(), minlength=count + 1) >= min_area
    large[0] = False
    result = np.zeros_like(mask)
    result[window] = large[components]
    return result


def _postprocess_small_regions(tree: MaskTree, min_area: int) -> MaskTree:
    """The tree with ``remove_small_regions`` applied to each mask; empty masks are dropped. Parents, scores and
    granularities are kept."""
    rles = [
        rle.encode(remove_small_regions(tree.mask(i), min_area)) if tree.areas[i] >= min_area else None
        for i in range(len(tree))
    ]
    keep = np.array([text is not None and rle.areas([text], tree.size)[0] > 0 for text in rles], np.bool_)
    kept = tree[keep]
    return MaskTree(
        size=kept.size,
        rles=tuple(text for text, k in zip(rles, keep, strict=True) if k and text is not None),
        parents=kept.parents,
        scores=kept.scores,
        granularities=kept.granularities,
        stabilities=kept.stabilities,
        levels=kept.levels,
    )


def _read_point_grid(point_grids: Sequence[np.ndarray]) -> np.ndarray:
    points = np.asarray(point_grids[0], np.float64) if len(point_grids) == 1 else np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0 or not ((points >= 0) & (points <= 1)).all():
        raise InputError(
            f"expected point_grids as a list of one (N, 2) array in [0, 1]; got {len(point_grids)}, the first of shape "
            f"{np.shape(point_grids[0]) if len(point_grids) else ()}"
        )
    return points


def _contain_grid_point(tree: MaskTree, point_grid: np.ndarray) -> np.ndarray:
    """(N,) bool: which masks contain a point of the grid."""
    height, width = tree.size
    contain = np.zeros(len(tree), np.bool_)
    pixels = np.minimum(point_grid * (width, height), (width - 1, height - 1)).astype(np.int64)
    for x, y in np.unique(pixels, axis=0).tolist():
        contain[tree.at(x, y)] = True
    return contain


def _box_nms(tree: MaskTree, candidates: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) bool: greedy non-maximum suppression of the bounding boxes of the ``candidates`` (N,) bool."""
    import torch  # takes seconds to import; generators of trees without box NMS do without
    from torchvision.ops import nms

    indices = np.flatnonzero(candidates)
    left, top, width, height = tree.boxes[indices].T
    corners = np.stack([left, top, left + width, top + height], 1).astype(np.float64)
    kept = nms(torch.from_numpy(corners), torch.from_numpy(tree.scores[indices].astype(np.float64)), threshold)
    result = np.zeros(len(tree), np.bool_)
    result[indices[kept.numpy()]] = True
    return result
