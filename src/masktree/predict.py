"""From a photograph to its tree: ``load`` a ``Segmenter``, call it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from masktree.errors import InputError
from masktree.masks import MaskTree
from masktree.types import RGB

if TYPE_CHECKING:
    from PIL.Image import Image

    from masktree.backbones.base import Backbone

Method = Literal["masktree", "hassod", "sohes", "unsam"]
Quality = Literal["fast", "best"]


@dataclass(frozen=True)
class Segmenter:
    """Callable from an image to its ``MaskTree``.

    Attributes:
        backbone: dense feature extractor, from ``load_backbone``.
        method: masktree (the full dendrogram; its cuts cover every pixel), hassod, sohes or unsam.
        quality: fast, or best: slower and finer. For sohes and unsam best refines with the dense CRF.
        min_area: smallest mask in pixels of the original image; None takes the method's own default.
        options: further keyword arguments of the method: of ``masktree.discover.hassod``, ``sohes`` or ``unsam``; for
            masktree, of ``MaskTree.from_partition``.

    Raises:
        InputError: unknown method, quality or option, or a ``min_area`` that is no whole number of at least 1.
    """

    backbone: Backbone
    method: Method = "masktree"
    quality: Quality = "fast"
    min_area: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("method", self.method, get_args(Method)),
            ("quality", self.quality, get_args(Quality)),
        ):
            if value not in choices:
                raise InputError(f"expected {name} to be one of {', '.join(choices)}; got {value!r}")
        for least in (self.min_area, self.options.get("min_area")):
            if least is not None and not (isinstance(least, (int, np.integer)) and least >= 1):
                raise InputError(f"expected min_area of at least 1 pixel; got {least!r}; give a whole number")
        known = method_options(self.method) if self.options else {}
        unknown = [name for name in self.options if name not in known]
        if unknown:
            raise InputError(
                f"expected options of the method {self.method}: {', '.join(known)}; got {', '.join(unknown)}"
            )

    def __call__(self, image: str | Path | RGB | Image) -> MaskTree:
        """The tree of one image: a path, an (H, W, 3) uint8 RGB array, or a Pillow image.

        Raises:
            ImageError: the file cannot be read.
            InputError: an array of another shape or type.
        """
        rgb = as_rgb(image)
        # Imported here: the method's rooms compile or load what they need on first use only.
        from masktree import discover, refine

        options = dict(self.options) if self.min_area is None else {"min_area": self.min_area} | self.options
        if self.method == "masktree":
            tree = discover.partition(rgb, backbone=self.backbone, quality=self.quality)
            return MaskTree.from_partition(tree, **options)
        if self.method == "hassod":
            return discover.hassod(rgb, self.backbone, **options)
        if self.quality == "fast":
            options.setdefault("refiner", refine.guided)
        find = discover.sohes if self.method == "sohes" else discover.unsam
        return find(rgb, self.backbone, **options)


def load(
    model: str = "embedded",
    *,
    device: str = "auto",
    dtype: str = "float32",
    method: Method = "masktree",
    quality: Quality = "fast",
    min_area: int | None = None,
    **options: Any,
) -> Segmenter:
    """A segmenter by backbone name.

    Args:
        model: ``embedded`` (works offline), ``texture``, a published backbone such as ``dino-vitb8``, or a local
            file or folder; see ``masktree info``.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: float32 or bfloat16, of the backbone.
        method, quality, min_area, options: see ``Segmenter``.

    Raises:
        WeightsError: unknown name, or weights that cannot be had; never replaced by something else.
        InputError: unknown method, quality or option, or a value out of range.
    """
    from masktree.backbones import load_backbone

    if not isinstance(model, str):
        raise InputError(
            f"expected the name of a backbone, a file or a folder as text; got {model!r}; see masktree info"
        )
    return Segmenter(load_backbone(model, device, dtype), method, quality, min_area, options)


class AutomaticMaskGenerator:
    """Drop-in for segment-anything's class of that name: ``generate(image)`` returns its list of dicts.

    Args:
        segmenter: from ``masktree.load``.
        pred_iou_thresh: keep masks with at least this score (0 keeps all).
        stability_score_thresh: keep masks with at least this stability (0 keeps all).
        min_mask_region_area: keep masks of at least this many pixels.
        output_mode: ``binary_mask``, ``uncompressed_rle`` or ``coco_rle``.

    Each dict has segmentation, area, bbox (XYWH), predicted_iou, point_coords, stability_score, crop_box and, beyond
    segment-anything, id, parent_id, level, depth and granularity.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        pred_iou_thresh: float = 0.0,
        stability_score_thresh: float = 0.0,
        min_mask_region_area: int = 0,
        output_mode: Literal["binary_mask", "uncompressed_rle", "coco_rle"] = "binary_mask",
    ) -> None:
        if output_mode not in ("binary_mask", "uncompressed_rle", "coco_rle"):
            raise InputError(f"expected output_mode binary_mask, uncompressed_rle or coco_rle; got {output_mode!r}")
        self.segmenter = segmenter
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode

    def generate(self, image: RGB) -> list[dict[str, Any]]:
        """Masks of an (H, W, 3) uint8 RGB image, largest first."""
        tree = self.segmenter(image)
        keep = (
            (tree.scores >= self.pred_iou_thresh)
            & (tree.stabilities >= self.stability_score_thresh)
            & (tree.areas >= self.min_mask_region_area)
        )
        return tree[keep].masks(output_mode=self.output_mode)


def method_options(method: Method) -> dict[str, Any]:
    """Keyword arguments that a method takes beside the image and the backbone, with their defaults."""
    import inspect

    from masktree import discover

    function = MaskTree.from_partition if method == "masktree" else getattr(discover, method)
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.kind == p.KEYWORD_ONLY}


def as_rgb(image: str | Path | RGB | Image) -> RGB:
    """(H, W, 3) uint8 RGB from a path, an array or a Pillow image."""
    import PIL.Image

    from masktree.images import pillow_to_rgb, read_image

    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, PIL.Image.Image):
        return pillow_to_rgb(image)
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        got = f"{image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"expected a path, a Pillow image or an (H, W, 3) uint8 RGB array; got {got}")
    if image.size == 0:
        raise InputError(f"expected at least one pixel; got an array of shape {image.shape}")
    return np.ascontiguousarray(image)
