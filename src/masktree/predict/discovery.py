"""Segmentation by clustering backbone features, without a trained model."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from masktree.backbones.pooled import PooledBackbone
from masktree.backbones.weights import BUILT_IN
from masktree.discover.detail import check_detail
from masktree.discover.methods import METHODS, QUALITIES, Quality
from masktree.errors import InputError
from masktree.io.images import ImageInput, as_rgb, list_images
from masktree.io.pixels import ImageFormat
from masktree.io.read_options import ReadOptions
from masktree.predict.blank import blank_tree, is_blank
from masktree.trees.candidates import check_mask_set
from masktree.trees.masktree import MAX_MASKS, MaskTree
from masktree.trees.scores import check_limits, limit_masks

if TYPE_CHECKING:
    from masktree.backbones.base import Backbone
    from masktree.backbones.weights import Weights


@dataclass(frozen=True)
class DiscoverySegmenter:
    """Callable from an image to its ``MaskTree``, by clustering the features of a backbone.

    Attributes:
        backbone: dense feature extractor, from ``load_backbone``.
        method: a name in ``masktree.discover.methods.METHODS``.
        quality: fast, or best: slower and finer, see ``masktree.discover.methods.Method``.
        min_area: smallest mask in pixels of the input image; None takes the method's default.
        min_score: lowest score of a mask, in [0, 1], see ``masktree.trees.scores``; 0 keeps all.
        max_masks: maximum number of masks, those of highest score; None keeps all that the method finds.
        options: further keyword arguments of the method.

    Raises:
        InputError: unknown method, quality or option, or a ``min_area`` that is not a whole number of at least 1.
    """

    backbone: Backbone
    method: str = "masktree"
    quality: Quality = "fast"
    min_area: int | None = None
    min_score: float = 0.0
    max_masks: int | None = MAX_MASKS
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, choices in (("method", self.method, METHODS), ("quality", self.quality, QUALITIES)):
            if value not in choices:
                raise InputError(f"expected {name} to be one of {', '.join(choices)}; got {value!r}")
        for min_area in (self.min_area, self.options.get("min_area")):
            if min_area is not None and not (isinstance(min_area, (int, np.integer)) and min_area >= 1):
                raise InputError(f"expected min_area of at least 1 pixel; got {min_area!r}; give a whole number")
        if "detail" in self.options:
            check_detail(self.options["detail"])
        if "masks" in self.options:
            check_mask_set(self.options["masks"])
        check_limits(self.min_score, self.max_masks)
        known = METHODS[self.method].options() if self.options else {}
        unknown = [name for name in self.options if name not in known]
        if unknown:
            raise InputError(
                f"expected options of the method {self.method}: {', '.join(known)}; got {', '.join(unknown)}"
            )

    @property
    def device(self) -> str:
        """Kind of device it computes on: cpu, cuda or mps."""
        return self.backbone.device

    @property
    def provenance(self) -> Weights:
        """Origin of the backbone's weights."""
        return self.backbone.provenance

    def __call__(
        self, image: ImageInput, image_format: ImageFormat = "RGB", *, read_options: ReadOptions | None = None
    ) -> MaskTree:
        """The tree of one image; that of a blank one (``masktree.predict.blank.is_blank``) is one mask.

        Args:
            image: a path, an array or a Pillow image, see ``masktree.io.images.as_rgb``.
            image_format: order of the channels of an array.
            read_options: which page and channels are read, see ``masktree.io.images.as_rgb``.

        Raises:
            ImageError: the file cannot be read.
            InputError: an array whose meaning is ambiguous, or another ``image_format``.
        """
        rgb, method = as_rgb(image, image_format, read_options), METHODS[self.method]
        defaults = method.options()
        options = self.options if self.min_area is None else {"min_area": self.min_area} | self.options
        if is_blank(rgb):
            return blank_tree(rgb, (defaults | options).get("min_area", 1))
        if "max_masks" in defaults:  # so that masks beyond it are not encoded
            options = {"max_masks": self.max_masks} | options
        tree = method.calibration(method(rgb, self.backbone, quality=self.quality, **options))
        return limit_masks(tree, min_score=self.min_score, max_masks=self.max_masks)

    def segment_batch(
        self,
        images: Iterable[ImageInput],
        *,
        image_format: ImageFormat = "RGB",
        batch_size: int = 1,
        read_options: ReadOptions | None = None,
    ) -> list[MaskTree]:
        """The trees of several images of any sizes, in order.

        Args:
            images, image_format, read_options: as of a call.
            batch_size: images that are segmented at a time, in as many threads, which share the passes of a published
                backbone. One after the other with a built-in backbone, which takes one image at a time, or a detector.

        Raises:
            ImageError: a file cannot be read.
            InputError: as of a call, one image instead of several, or a ``batch_size`` below 1.
        """
        if batch_size < 1:
            raise InputError(f"expected a batch_size of at least 1 image; got {batch_size}")
        # A detector would run beside the backbone, and both change settings of torch for their passes.
        if batch_size == 1 or self.backbone.name in BUILT_IN or "detector" in self.options:
            return [self(image, image_format, read_options=read_options) for image in list_images(images)]
        pooled = replace(self, backbone=PooledBackbone(self.backbone, batch_size))
        with ThreadPoolExecutor(batch_size) as threads:
            call = partial(pooled, image_format=image_format, read_options=read_options)
            return list(threads.map(call, list_images(images)))
