"""``AutomaticMaskGenerator``: the interface of segment-anything's ``SamAutomaticMaskGenerator``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import ndimage

from masktree.arguments import check_number
from masktree.errors import InputError, MasktreeWarning
from masktree.io.images import ImageInput, as_rgb
from masktree.io.pixels import ImageFormat
from masktree.models.config import PromptableConfig
from masktree.predict.blank import is_blank
from masktree.prompt.crops import add_crop_masks, crops_of_layers
from masktree.prompt.predictor import is_promptable
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, Mask, checked

if TYPE_CHECKING:
    from masktree.predict import Segmenter

MAX_CROP_LAYERS = 4  # 16 x 16 crops in the last one (our choice)
_FOREIGN_STABILITY = 0.85  # thresholds from here on are meant for segment-anything's stability (our choice)
_MIN_STABLE = 0.1  # fraction of the masks that such a threshold must leave not to be warned of (our choice)
_OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
_EIGHT_NEIGHBOURS = np.ones((3, 3), np.int8)


class AutomaticMaskGenerator:
    """Drop-in for segment-anything's ``SamAutomaticMaskGenerator``: ``generate(image)`` returns its list of dicts.

    Arguments have the same names and order, but filters are off by default. Scores are on a scale like
    segment-anything's: a pred_iou_thresh of 0.86 or 0.88 keeps 20 to 60 masks of a photograph of objects, and few or
    none where it is all texture. Stabilities are not, except of a prompted model: leave their threshold out, or set
    about 0.2.

    Args:
        model: a segmenter from ``masktree.load``, or any callable from an image to its ``MaskTree``. A model of kind
            promptable is prompted at every point of the grid; any other one finds its masks without prompts.
        points_per_side: grid points along each side; None: as the model is configured. Of a model that is not
            prompted: masks that contain no grid point are dropped; None: no grid.
        points_per_batch: grid points per forward pass; more take more memory. Does not change the masks; ignored by
            models that are not prompted.
        pred_iou_thresh: lowest score of a mask, 0 (all) to 1. Segment-anything's default is 0.88.
        stability_score_thresh: lowest stability of a mask, 0 (all) to 1. Segment-anything's default is 0.95. The
            stability of a prompted model's mask is segment-anything's: IoU of its logits cut at plus and minus the
            offset. Of other models it is that of ``MaskTree``.
        stability_score_offset: in logits, above 0; None: 1. Only for models that are prompted.
        box_nms_thresh: box IoU for non-maximum suppression, 0 to 1; None: off, since a part may have the box of its
            whole. Segment-anything's default is 0.7.
        crop_n_layers: layers of crops whose masks are added: 2 x 2 crops in the first, 4 x 4 in the second ... (at most
            ``MAX_CROP_LAYERS``). Takes the time of as many images; finds smaller masks. Trees then have no dendrogram.
        crop_nms_thresh: mask IoU from which a crop's mask is a duplicate, 0 to 1. (Segment-anything compares boxes, and
            keeps the mask of the smaller crop where here that of the whole image stays.)
        crop_overlap_ratio: overlap of the crops as a fraction of the shorter side, at least 0 and below 1.
        crop_n_points_downscale_factor: the grid of layer n has that factor to the n-th fewer points along each side.
        point_grids: instead of ``points_per_side``: (N, 2) arrays of points, x and y in [0, 1], one for the image and
            one for each layer of crops.
        min_mask_region_area: holes of fewer pixels are filled and components of fewer removed; masks with no larger
            component are dropped (segment-anything keeps their largest component).
        output_mode: ``binary_mask``, ``uncompressed_rle`` or ``coco_rle``.

    Each dict has segmentation, area, bbox (XYWH), predicted_iou, point_coords, stability_score, crop_box (always the
    whole image) and, beyond segment-anything, id, parent_id, level, depth and granularity. point_coords is a point deep
    inside the mask.

    Raises:
        InputError: an argument out of range, or one that the model does not support.

    Warns:
        MasktreeWarning: an image had masks, and the thresholds leave none, or next to none because
            stability_score_thresh is segment-anything's; says what to set.
    """

    def __init__(
        self,
        model: Segmenter,
        points_per_side: int | None = None,
        points_per_batch: int | None = None,
        pred_iou_thresh: float = 0.0,
        stability_score_thresh: float = 0.0,
        stability_score_offset: float | None = None,
        box_nms_thresh: float | None = None,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: Literal["binary_mask", "uncompressed_rle", "coco_rle"] = "binary_mask",
    ) -> None:
        if not callable(model):
            raise InputError(f"expected a segmenter; got {type(model).__name__}; use masktree.load")
        if output_mode not in _OUTPUT_MODES:
            raise InputError(f"expected output_mode binary_mask, uncompressed_rle or coco_rle; got {output_mode!r}")
        for name, threshold in (
            ("pred_iou_thresh", pred_iou_thresh),
            ("stability_score_thresh", stability_score_thresh),
            ("crop_nms_thresh", crop_nms_thresh),
        ):
            check_number(threshold, name, 0, 1)
        if box_nms_thresh is not None:
            check_number(box_nms_thresh, "box_nms_thresh", 0, 1)
        check_number(crop_overlap_ratio, "crop_overlap_ratio", 0, 0.99)
        for name, count, low in (
            ("points_per_side", points_per_side, 1),
            ("points_per_batch", points_per_batch, 1),
            ("crop_n_layers", crop_n_layers, 0),
            ("crop_n_points_downscale_factor", crop_n_points_downscale_factor, 1),
        ):
            if count is not None and not (isinstance(count, (int, np.integer)) and count >= low):
                raise InputError(f"expected {name} as a whole number of at least {low}; got {count!r}")
        if min_mask_region_area < 0:
            raise InputError(f"expected min_mask_region_area of at least 0 pixels; got {min_mask_region_area!r}")
        if crop_n_layers > MAX_CROP_LAYERS:
            raise InputError(f"expected crop_n_layers of at most {MAX_CROP_LAYERS}; got {crop_n_layers!r}")
        if points_per_side is not None and point_grids is not None:
            raise InputError("expected points_per_side or point_grids; got both; leave one out")
        if stability_score_offset is not None and not (is_promptable(model) and stability_score_offset > 0):
            raise InputError(
                f"expected stability_score_offset, above 0, for a promptable model only; got "
                f"{stability_score_offset!r}; leave it out"
            )
        self.segmenter = model
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = 1.0 if stability_score_offset is None else stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = int(crop_n_layers)
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        if points_per_side is None and is_promptable(model) and crop_n_points_downscale_factor > 1:
            assert isinstance(model.model.config, PromptableConfig)
            points_per_side = model.model.config.points_per_side
        self.point_grids: list[np.ndarray | None] = [None] * (self.crop_n_layers + 1)
        if point_grids is not None:
            self.point_grids = _read_point_grids(point_grids, self.crop_n_layers + 1)
        elif points_per_side is not None:
            counts = [points_per_side // crop_n_points_downscale_factor**k for k in range(self.crop_n_layers + 1)]
            self.point_grids = [build_point_grid(max(count, 1)) for count in counts]

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
        tree = self._segment(rgb, 0)
        if self.crop_n_layers > 0:
            crops = crops_of_layers(tree.size, self.crop_n_layers, self.crop_overlap_ratio)
            tree = add_crop_masks(rgb, tree, crops, self._segment, self.crop_nms_thresh)
        if self.box_nms_thresh is not None:
            tree = tree[_box_nms(tree, self.box_nms_thresh)]
        return tree if self.min_mask_region_area <= 1 else _postprocess_small_regions(tree, self.min_mask_region_area)

    def _segment(self, image: RGB, layer: int) -> MaskTree:
        """The masks of an image, or of a crop in a layer above 0, that reach the thresholds and hold a grid point."""
        point_grid = self.point_grids[layer]
        if is_promptable(self.segmenter) and not is_blank(image):
            return self._prompt_grid(image, point_grid, layer)
        tree = self.segmenter(image)
        keep = (tree.scores >= self.pred_iou_thresh) & (tree.stabilities >= self.stability_score_thresh)
        if layer == 0:
            self._check_thresholds(tree, "the range of granularities over which a mask is a region of the cut")
        if point_grid is not None:
            keep &= _contain_grid_point(tree, point_grid)
        return tree if keep.all() else tree[keep]

    def _prompt_grid(self, image: RGB, point_grid: np.ndarray | None, layer: int) -> MaskTree:
        from masktree.prompt.model_prompter import ModelPrompter  # torch takes seconds to import; trees do without

        assert is_promptable(self.segmenter)
        prompter = ModelPrompter(self.segmenter, image)

        def generate(min_score: float, min_stability: float) -> MaskTree:
            return prompter.generate_tree(
                point_grid,
                points_per_batch=self.points_per_batch,
                min_score=min_score,
                min_stability=min_stability,
                stability_offset=self.stability_score_offset,
            )

        tree = generate(self.pred_iou_thresh, self.stability_score_thresh)
        if len(tree) == 0 and layer == 0 and max(self.pred_iou_thresh, self.stability_score_thresh) > 0:
            self._check_thresholds(generate(0, 0), "the IoU of its logits cut at plus and minus the offset")
        return tree

    def _check_thresholds(self, tree: MaskTree, stability: str) -> None:
        """Warn if the thresholds leave nothing of an image's masks, or next to nothing because a stability is meant
        that is on segment-anything's scale; ``stability`` says in words what it is here."""
        likely = tree.scores >= self.pred_iou_thresh
        stable = likely & (tree.stabilities >= self.stability_score_thresh)
        is_foreign = self.stability_score_thresh >= _FOREIGN_STABILITY and stable.sum() < _MIN_STABLE * likely.sum()
        if len(tree) == 0 or (stable.any() and not is_foreign):
            return
        if not likely.any():
            message = (
                f"none of {len(tree)} masks reaches pred_iou_thresh {self.pred_iou_thresh:g}: their scores go up to "
                f"{tree.scores.max():.3g}; set {np.quantile(tree.scores, 0.9):.2g} to keep the best tenth"
            )
        else:
            stabilities = tree.stabilities[likely]
            message = (
                f"{stable.sum() or 'none'} of the {likely.sum()} masks that reach pred_iou_thresh "
                f"{self.pred_iou_thresh:g} reaches stability_score_thresh {self.stability_score_thresh:g}: stability "
                f"is {stability}, here {np.median(stabilities):.2g} in the median and at most {stabilities.max():.3g}; "
                "leave stability_score_thresh out to keep them all"
            )
        warnings.warn(message, MasktreeWarning, stacklevel=5)


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
        kinds=kept.kinds,
    )


def _read_point_grids(point_grids: Sequence[np.ndarray], count: int) -> list[np.ndarray | None]:
    grids = [np.asarray(grid, np.float64) for grid in point_grids]
    are_points = [grid.ndim == 2 and grid.shape[1] == 2 and len(grid) > 0 for grid in grids]
    if len(grids) != count or not all(are_points) or not all(((grid >= 0) & (grid <= 1)).all() for grid in grids):
        raise InputError(
            f"expected point_grids as a list of {count} (N, 2) arrays in [0, 1], one for the image and one for each "
            f"layer of crops; got {len(grids)}, of shapes {', '.join(str(grid.shape) for grid in grids)}"
        )
    return [*grids]


def _contain_grid_point(tree: MaskTree, point_grid: np.ndarray) -> np.ndarray:
    """(N,) bool: which masks contain a point of the grid."""
    height, width = tree.size
    contain = np.zeros(len(tree), np.bool_)
    pixels = np.minimum(point_grid * (width, height), (width - 1, height - 1)).astype(np.int64)
    for x, y in np.unique(pixels, axis=0).tolist():
        contain[tree.at(x, y, masks="all")] = True
    return contain


def _box_nms(tree: MaskTree, threshold: float) -> np.ndarray:
    """(N,) bool: greedy non-maximum suppression of the bounding boxes."""
    import torch  # takes seconds to import; generators of trees without box NMS do without
    from torchvision.ops import nms

    left, top, width, height = tree.boxes.T
    corners = np.stack([left, top, left + width, top + height], 1).astype(np.float64)
    kept = nms(torch.from_numpy(corners), torch.from_numpy(tree.scores.astype(np.float64)), threshold)
    result = np.zeros(len(tree), np.bool_)
    result[kept.numpy()] = True
    return result
