"""From a photograph to its tree: ``load`` a segmenter, call it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from masktree.discover.methods import METHODS
from masktree.errors import InputError
from masktree.trees.masktree import MaskTree
from masktree.types import RGB

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from masktree.backbones.base import Backbone
    from masktree.backbones.weights import Weights
    from masktree.models.saved import Provenance
    from masktree.models.structures import Model

Method = Literal["masktree", "hassod", "sohes", "unsam"]
Quality = Literal["fast", "best"]


class Segmenter(Protocol):
    """What ``load`` gives: a callable from an image (path, (H, W, 3) uint8 RGB array, Pillow image) to its tree."""

    @property
    def device(self) -> str:
        """Kind of device it computes on: cpu, cuda or mps."""
        ...

    @property
    def provenance(self) -> Weights | Provenance:
        """Where its weights come from; ``name`` and ``sha256`` among it."""
        ...

    def __call__(self, image: str | Path | RGB | Image) -> MaskTree: ...


@dataclass(frozen=True)
class DiscoverySegmenter:
    """Callable from an image to its ``MaskTree``, by clustering the features of a backbone.

    Attributes:
        backbone: dense feature extractor, from ``load_backbone``.
        method: masktree (the full dendrogram; its cuts cover every pixel), hassod, sohes or unsam.
        quality: fast, or best: slower and finer. For sohes and unsam best refines with the dense CRF.
        min_area: smallest mask in pixels of the original image; None takes the method's own default.
        options: further keyword arguments of the method: of ``masktree.discover.hassod``, ``sohes`` or ``unsam``; for
            masktree, of ``MaskTree.from_dendrogram``.

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

    @property
    def device(self) -> str:
        return self.backbone.device

    @property
    def provenance(self) -> Weights:
        return self.backbone.provenance

    def __call__(self, image: str | Path | RGB | Image) -> MaskTree:
        """The tree of one image: a path, an (H, W, 3) uint8 RGB array, or a Pillow image.

        Raises:
            ImageError: the file cannot be read.
            InputError: an array of another shape or type.
        """
        rgb = as_rgb(image)
        options = self.options if self.min_area is None else {"min_area": self.min_area} | self.options
        return METHODS[self.method](rgb, self.backbone, quality=self.quality, **options)


@dataclass(frozen=True)
class ModelSegmenter:
    """Callable from an image to its ``MaskTree``, by a model that ``masktree train`` has made.

    Attributes:
        model: in evaluation mode, on its device; from ``masktree.models.build.read_model``.
        provenance: where the model comes from.
        dtype: float32, or bfloat16 for autocast.
        min_area: smallest mask in pixels of the original image; None takes ``masktree.models.trees.MIN_AREA``.
        min_score: least score of a mask, 0 to 1.
        crops: look at large masks a second time, closer; see ``masktree.models.crops``. Several times slower.
        snap_backbone: backbone of the dendrogram along whose regions masks are drawn anew, see ``masktree.trees.snap``;
            None leaves them as the model draws them.

    Raises:
        InputError: ``dtype``, ``min_area`` or ``min_score`` out of range.
    """

    model: Model
    provenance: Provenance
    dtype: str = "float32"
    min_area: int | None = None
    min_score: float = 0.0
    crops: bool = False
    snap_backbone: Backbone | None = None

    def __post_init__(self) -> None:
        from masktree.models.trees import check_limits

        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(f"expected dtype 'float32' or 'bfloat16'; got {self.dtype!r}; give one of these")
        check_limits(self._least_area, self.min_score)

    @property
    def device(self) -> str:
        return self._place.type

    def __call__(self, image: str | Path | RGB | Image) -> MaskTree:
        """The tree of one image; as ``DiscoverySegmenter``."""
        return self.segment_batch([image])[0]

    def segment_batch(self, images: Sequence[str | Path | RGB | Image], *, batch: int = 4) -> list[MaskTree]:
        """The trees of several images, in their order; at most ``batch`` of one shape pass the network at once.

        Raises:
            ImageError: a file cannot be read.
            InputError: an array of another shape or type; ``batch`` below 1.
        """
        import torch

        from masktree.models.crops import segment_crops
        from masktree.models.trees import segment_images

        def segment(shown: Sequence[RGB]) -> list[MaskTree]:
            return segment_images(
                self.model,
                shown,
                device=self._place,
                dtype=getattr(torch, self.dtype),
                batch=batch,
                min_area=self._least_area,
                min_score=self.min_score,
            )

        pictures = [as_rgb(image) for image in images]
        trees = segment(pictures)
        if self.crops:
            trees = [segment_crops(image, tree, segment) for image, tree in zip(pictures, trees, strict=True)]
        return [self._snapped(image, tree) for image, tree in zip(pictures, trees, strict=True)]

    def _snapped(self, image: RGB, tree: MaskTree) -> MaskTree:
        """A tree of the image along the regions of its dendrogram, where there are ``snap_backbone``; else as it is."""
        if self.snap_backbone is None or len(tree) == 0:
            return tree
        from masktree.discover.masktree import build_dendrogram
        from masktree.trees.snap import snap_to_regions

        return snap_to_regions(tree, build_dendrogram(image, backbone=self.snap_backbone))

    @property
    def _least_area(self) -> int:
        from masktree.models.trees import MIN_AREA

        return MIN_AREA if self.min_area is None else self.min_area

    @property
    def _place(self) -> torch.device:
        from torch import nn

        assert isinstance(self.model, nn.Module)
        return next(self.model.parameters()).device


def load(
    model: str | Path = "embedded",
    *,
    device: str = "auto",
    dtype: str = "float32",
    method: Method | None = None,
    quality: Quality | None = None,
    min_area: int | None = None,
    **options: Any,
) -> DiscoverySegmenter | ModelSegmenter:
    """A segmenter by the name of a backbone, or a trained model.

    Args:
        model: a backbone: ``embedded`` (works offline), ``texture``, a published one such as ``dino-vitb8``, or a local
            file or folder; see ``masktree info``. Or a trained model: the folder of a run of ``masktree train``, or
            ``owner/name`` on the Hugging Face hub. ``config.json`` says which of both a folder holds.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: float32 or bfloat16, of the network.
        method, quality: see ``DiscoverySegmenter``; masktree and fast if not given. A trained model takes neither.
        min_area, options: see ``DiscoverySegmenter``; of a trained model ``min_score`` and ``crops``, see
            ``ModelSegmenter``, and ``snap``: True draws its masks along the regions of the default method.

    Raises:
        WeightsError: unknown name, or weights that cannot be had; never replaced by something else.
        FormatError: a damaged or foreign folder of a trained model.
        InputError: unknown method, quality or option, or a value out of range.
    """
    from masktree.backbones import load_backbone
    from masktree.models.saved import is_hub_id, is_model

    if not isinstance(model, (str, Path)):
        raise InputError(
            f"expected the name of a backbone, a file or a folder as text; got {model!r}; see masktree info"
        )
    model = str(model)
    if is_model(Path(model).expanduser()) or is_hub_id(model):
        given = {"method": method, "quality": quality}
        unfit = [name for name, value in given.items() if value is not None]
        if unfit:
            raise InputError(
                f"expected a trained model without {' and '.join(unfit)}; got {model!r} with "
                f"{', '.join(repr(given[name]) for name in unfit)}; leave these out, or give a backbone"
            )
        return load_model(model, device=device, dtype=dtype, min_area=min_area, **options)
    return DiscoverySegmenter(
        load_backbone(model, device, dtype), method or "masktree", quality or "fast", min_area, options
    )


def load_model(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "float32",
    min_area: int | None = None,
    snap: bool = False,
    **options: Any,
) -> ModelSegmenter:
    """A trained model: the folder of a run, or ``owner/name`` on the hub; arguments as of ``load``.

    Raises:
        WeightsError: nothing of that name, or damaged or foreign weights.
        FormatError: a damaged or foreign ``config.json``.
        InputError: unknown option, or a value out of range.
    """
    from masktree.backbones import load_backbone
    from masktree.backbones.device import resolve_device
    from masktree.models import saved
    from masktree.models.build import read_model

    unknown = [name for name in options if name not in ("min_score", "crops")]
    if unknown:
        raise InputError(
            f"expected options of a trained model: min_area, min_score, crops, snap; got {', '.join(unknown)}"
        )
    target = resolve_device(device)  # before the weights: a wrong device should not cost a download
    folder = saved.find_model(model)
    snap_backbone = load_backbone("embedded", str(target)) if snap else None
    network, origin = read_model(folder, target), saved.provenance(folder, str(model))
    return ModelSegmenter(network, origin, dtype, min_area, snap_backbone=snap_backbone, **options)


def method_options(method: Method) -> dict[str, Any]:
    """Keyword arguments that a method takes beside the image and the backbone, with their defaults."""
    return METHODS[method].options()


def as_rgb(image: str | Path | RGB | Image) -> RGB:
    """(H, W, 3) uint8 RGB from a path, an array or a Pillow image."""
    import PIL.Image

    from masktree.io.images import pillow_to_rgb, read_image

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
