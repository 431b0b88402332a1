"""Segmentation with a trained model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from masktree.backbones.device import resolve_dtype
from masktree.discover.masktree import build_dendrogram
from masktree.discover.model_pool import pool_with_method
from masktree.errors import InputError
from masktree.io.images import ImageInput, as_rgb, list_images
from masktree.io.pixels import ImageFormat
from masktree.io.read_options import ReadOptions
from masktree.models.crops import segment_crops
from masktree.predict.blank import blank_tree, is_blank
from masktree.trees.masktree import MAX_MASKS, MaskTree
from masktree.trees.scores import ScoreCalibration, check_limits, limit_masks
from masktree.trees.snap import snap_to_regions
from masktree.types import RGB

if TYPE_CHECKING:
    import torch

    from masktree.backbones.base import Backbone
    from masktree.models.saved import Provenance
    from masktree.models.structures import Model


@dataclass(frozen=True)
class ModelSegmenter:
    """Callable from an image to its ``MaskTree``, by a model that ``masktree train`` has made.

    Attributes:
        model: in evaluation mode, on its device; from ``masktree.models.build.read_model``.
        provenance: origin of the model.
        dtype: "float32", or "bfloat16" or, on GPUs, "float16" for autocast.
        min_area: smallest mask in pixels of the input image; None takes that of the model's configuration.
        min_score, max_masks: see ``DiscoverySegmenter``.
        crops: segment crops of large masks as well, see ``masktree.models.crops``; several times slower.
        snap_backbone: backbone of the dendrogram to whose regions masks are snapped, see ``masktree.trees.snap``;
            None leaves the masks as predicted.
        pool: return the masks of the default method on ``snap_backbone`` as well, all in one order, see
            ``masktree.discover.model_pool``; the hierarchy and the cuts are those of its dendrogram.
        regroup: merge this dendrogram anew by the votes of the model's masks first, see ``masktree.cluster.votes``;
            images of small things, which are analysed at several sizes, keep theirs. Needs ``pool``.
        calibration: from the model's scores to the agreement to expect, see ``masktree.trees.scores``; None for a model
            that was not calibrated, whose scores stay as they are.

    Raises:
        InputError: ``dtype`` unknown or not of the device; ``min_area``, ``min_score`` or ``max_masks`` out of range.
    """

    model: Model
    provenance: Provenance
    dtype: str = "float32"
    min_area: int | None = None
    min_score: float = 0.0
    max_masks: int | None = MAX_MASKS
    crops: bool = False
    snap_backbone: Backbone | None = None
    calibration: ScoreCalibration | None = None
    pool: bool = False
    regroup: bool = False

    def __post_init__(self) -> None:
        resolve_dtype(self.dtype, self._torch_device)
        if self.min_area is not None and not (isinstance(self.min_area, (int, np.integer)) and self.min_area >= 1):
            raise InputError(f"expected min_area of at least 1 pixel; got {self.min_area!r}; give a whole number")
        if self.regroup and not self.pool:
            raise InputError("expected regroup together with pool, whose dendrogram it changes; got regroup alone")
        if self.pool and self.snap_backbone is None:
            raise InputError("expected pool with a snap_backbone, whose dendrogram has the other masks; got none")
        check_limits(self.min_score, self.max_masks)

    @classmethod
    def from_pretrained(cls, model: str | Path, **options: Any) -> ModelSegmenter:
        """The segmenter of a run's folder or of ``owner/name`` on the hub, as of ``masktree.load``.

        Args:
            model: folder or name; backbones are refused.
            options: see ``masktree.predict.load_model``.

        Raises:
            WeightsError, FormatError, InputError: as ``masktree.load``.
        """
        from masktree.predict.loading import load_model

        return load_model(model, **options)

    @property
    def device(self) -> str:
        """Kind of device it computes on: cpu, cuda or mps."""
        return self._torch_device.type

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
        return self.segment_batch([image], image_format=image_format, read_options=read_options)[0]

    def segment_batch(
        self,
        images: Iterable[ImageInput],
        *,
        image_format: ImageFormat = "RGB",
        batch_size: int = 4,
        read_options: ReadOptions | None = None,
    ) -> list[MaskTree]:
        """The trees of several images of any sizes, in order; at most ``batch_size`` of one shape in a forward pass.

        Raises:
            ImageError: a file cannot be read.
            InputError: as of a call, one image instead of several, or ``batch_size`` below 1.
        """
        from masktree.models.trees import segment_images

        def segment(pictures: Sequence[RGB]) -> list[MaskTree]:
            return segment_images(
                self.model,
                pictures,
                device=self._torch_device,
                dtype=resolve_dtype(self.dtype, self._torch_device),
                batch_size=batch_size,
                min_area=self._resolved_min_area,
            )

        pictures = [as_rgb(image, image_format, read_options) for image in list_images(images)]
        trees = {i: blank_tree(image, self._resolved_min_area) for i, image in enumerate(pictures) if is_blank(image)}
        others = [i for i in range(len(pictures)) if i not in trees]
        for i, tree in zip(others, segment([pictures[i] for i in others]), strict=True):
            if self.crops:
                tree = segment_crops(pictures[i], tree, segment)
            tree = tree if self.calibration is None else self.calibration(tree)
            tree = self._pool(pictures[i], tree) if self.pool else self._snap(pictures[i], tree)
            trees[i] = limit_masks(tree, min_score=self.min_score, max_masks=self.max_masks)
        return [trees[i] for i in range(len(pictures))]

    def _pool(self, image: RGB, tree: MaskTree) -> MaskTree:
        """The masks of the default method and of the model."""
        assert self.snap_backbone is not None
        return pool_with_method(image, tree, self.snap_backbone, min_area=self.min_area, regroup=self.regroup)

    def _snap(self, image: RGB, tree: MaskTree) -> MaskTree:
        """The tree snapped to the regions of the image's dendrogram if there is a ``snap_backbone``."""
        if self.snap_backbone is None or len(tree) == 0:
            return tree
        return snap_to_regions(tree, build_dendrogram(image, backbone=self.snap_backbone))

    @property
    def _resolved_min_area(self) -> int:
        return self.model.config.min_area if self.min_area is None else self.min_area

    @property
    def _torch_device(self) -> torch.device:
        from torch import nn

        assert isinstance(self.model, nn.Module)
        return next(self.model.parameters()).device
