"""``AutomaticMaskGenerator``: segment-anything's interface to all masks of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import ndimage

from masktree.errors import InputError
from masktree.prompt.predictor import is_promptable
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, Mask, checked

if TYPE_CHECKING:
    from masktree.predict import Segmenter

_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
_EIGHT = np.ones((3, 3), np.int8)


class AutomaticMaskGenerator:
    """Drop-in for segment-anything's ``SamAutomaticMaskGenerator``: ``generate(image)`` returns its list of dicts.

    Arguments have its names and order, but None as default: what a source does of itself. Its thresholds would empty
    our results, for scores and stabilities are measured otherwise.

    Args:
        source: from ``masktree.load``, or any callable from an image to its ``MaskTree``. A model of kind promptable is
            clicked at every point of the grid; any other source finds its masks without clicks.
        points_per_side: points of the grid along each side. Of a source that is not clicked, given: masks that hold no
            point of the grid are left out. None: as many as the model was configured for; no grid.
        points_per_batch: points that are clicked at a time: more take more memory. Without effect on what is found,
            and on a source that is not clicked.
        pred_iou_thresh: least score of a mask, 0 to 1 (0: all). Segment-anything's is 0.88.
        stability_score_thresh: least stability of a mask, 0 to 1 (0: all). Segment-anything's is 0.95. Of a model that
            is clicked stability is segment-anything's: IoU of the mask with its logits cut at plus and minus the
            offset. Of other sources it is that of ``MaskTree``.
        stability_score_offset: in logits. Of a source that is not clicked: may not be given.
        box_nms_thresh: of masks whose boxes have a higher IoU only that of the best score is kept, 0 to 1; None keeps
            them, since a part may have the box of its whole. Segment-anything's is 0.7.
        crop_n_layers: 0; crops are not looked at by themselves.
        point_grids: instead of ``points_per_side``: a list of one (N, 2) array of points, x and y in [0, 1].
        min_mask_region_area: pieces and holes of fewer pixels are removed and filled, and masks without a piece as
            large are left out (segment-anything keeps their largest piece).
        output_mode: ``binary_mask``, ``uncompressed_rle`` or ``coco_rle``.

    Each dict has segmentation, area, bbox (XYWH), predicted_iou, point_coords, stability_score, crop_box and, beyond
    segment-anything, id, parent_id, level, depth and granularity. point_coords is a point deep inside the mask.

    Raises:
        InputError: an argument out of range, or one that the source cannot obey.
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
        if output_mode not in _MODES:
            raise InputError(f"expected output_mode binary_mask, uncompressed_rle or coco_rle; got {output_mode!r}")
        for name, share in (
            ("pred_iou_thresh", pred_iou_thresh),
            ("stability_score_thresh", stability_score_thresh),
            ("box_nms_thresh", 0 if box_nms_thresh is None else box_nms_thresh),
        ):
            if not 0 <= share <= 1:
                raise InputError(f"expected {name} in [0, 1]; got {share!r}")
        for name, count in (("points_per_side", points_per_side), ("points_per_batch", points_per_batch)):
            if count is not None and not (isinstance(count, (int, np.integer)) and count >= 1):
                raise InputError(f"expected {name} as a whole number of at least 1; got {count!r}")
        if min_mask_region_area < 0:
            raise InputError(f"expected min_mask_region_area of at least 0 pixels; got {min_mask_region_area!r}")
        if crop_n_layers != 0:
            raise InputError(f"expected crop_n_layers 0; got {crop_n_layers!r}; crop the image and generate from each")
        if points_per_side is not None and point_grids is not None:
            raise InputError("expected points_per_side or point_grids; got both; leave one out")
        clicked = is_promptable(source)
        if stability_score_offset is not None and not (clicked and stability_score_offset > 0):
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
        self.grid = _grid(points_per_side, point_grids)
        self._clicked = clicked

    def generate(self, image: RGB) -> list[dict[str, Any]]:
        """Masks of an (H, W, 3) uint8 RGB image, largest first."""
        return self.tree(image).masks(output_mode=self.output_mode)

    def tree(self, image: RGB) -> MaskTree:
        """The same masks with their hierarchy."""
        found = self._click(image) if self._clicked else self.segmenter(image)
        keep = (found.scores >= self.pred_iou_thresh) & (found.stabilities >= self.stability_score_thresh)
        if self.grid is not None and not self._clicked:
            keep &= _held(found, self.grid)
        if self.box_nms_thresh is not None:
            keep &= _best_boxes(found, keep, self.box_nms_thresh)
        tree = found if keep.all() else found[keep]
        return tree if self.min_mask_region_area <= 1 else self._tidy(tree)

    def _click(self, image: RGB) -> MaskTree:
        from masktree.predict import as_rgb
        from masktree.prompt.grid import tree_of_clicks

        return tree_of_clicks(
            self.segmenter,
            as_rgb(image),
            self.grid,
            batch=self.points_per_batch,
            least=self.pred_iou_thresh,
            stable=self.stability_score_thresh,
            offset=self.stability_score_offset,
        )

    def _tidy(self, tree: MaskTree) -> MaskTree:
        """Without small pieces and holes. Masks that change keep their parents, scores and granularities."""
        rles, keep = [], np.ones(len(tree), np.bool_)
        for index, text in enumerate(tree.rles):
            if tree.areas[index] < self.min_mask_region_area:
                keep[index] = False
                rles.append(text)
                continue
            rles.append(rle.encode(without_small_regions(tree.mask(index), self.min_mask_region_area)))
        keep &= rle.areas(rles, tree.size) > 0
        rles = [text for text, kept in zip(rles, keep, strict=True) if kept]
        left = tree[keep]
        return MaskTree(
            size=left.size,
            rles=tuple(rles),
            parents=left.parents,
            scores=left.scores,
            granularities=left.granularities,
            stabilities=left.stabilities,
            levels=left.levels,
        )


@checked
def without_small_regions(mask: Mask, least: int) -> Mask:
    """A mask whose holes of fewer than ``least`` pixels are filled, and then its pieces of fewer are removed. Pieces
    and holes hang together by corners too, as in segment-anything."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return mask
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inner = mask[part]
    holes, count = ndimage.label(np.pad(~inner, 1, constant_values=True), _EIGHT)
    small = np.bincount(holes.ravel(), minlength=count + 1) < least
    small[[0, holes[0, 0]]] = False  # the mask, and what is outside it
    inner = inner | small[holes][1:-1, 1:-1]
    pieces, count = ndimage.label(inner, _EIGHT)
    large = np.bincount(pieces.ravel(), minlength=count + 1) >= least
    large[0] = False
    result = np.zeros_like(mask)
    result[part] = large[pieces]
    return result


def _grid(side: int | None, grids: Sequence[np.ndarray] | None) -> np.ndarray | None:
    """(N, 2) x and y in [0, 1]: the centres of side x side equal cells, or what was given."""
    if grids is not None:
        points = np.asarray(grids[0], np.float64) if len(grids) == 1 else np.zeros(0)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0 or not ((points >= 0) & (points <= 1)).all():
            raise InputError(
                f"expected point_grids as a list of one (N, 2) array in [0, 1]; got {len(grids)}, the first of shape "
                f"{np.shape(grids[0]) if len(grids) else ()}"
            )
        return points
    if side is None:
        return None
    places = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)


def _held(tree: MaskTree, grid: np.ndarray) -> np.ndarray:
    """(N,) bool: which masks hold a point of the grid."""
    height, width = tree.size
    held = np.zeros(len(tree), np.bool_)
    pixels = np.minimum(grid * (width, height), (width - 1, height - 1)).astype(np.int64)
    for x, y in np.unique(pixels, axis=0).tolist():
        held[tree.at(x, y)] = True
    return held


def _best_boxes(tree: MaskTree, keep: np.ndarray, most: float) -> np.ndarray:
    """(N,) bool: greedy suppression of boxes among the masks of ``keep``, best score first."""
    result = np.zeros(len(tree), np.bool_)
    boxes = tree.boxes
    corners, areas = boxes[:, :2] + boxes[:, 2:], boxes[:, 2] * boxes[:, 3]
    left = [index for index in np.argsort(-tree.scores, kind="stable") if keep[index]]
    order = np.array(left, np.int64)
    while len(order):
        best, order = order[0], order[1:]
        result[best] = True
        sides = np.minimum(corners[order], corners[best]) - np.maximum(boxes[order, :2], boxes[best, :2])
        shared = sides.clip(0).prod(1)
        order = order[shared <= most * np.maximum(areas[order] + areas[best] - shared, 1)]
    return result
