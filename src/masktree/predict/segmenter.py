"""The interface of segmenters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from masktree.io.images import ImageInput
from masktree.io.pixels import ImageFormat
from masktree.io.read_options import ReadOptions
from masktree.trees.masktree import MaskTree

if TYPE_CHECKING:
    from masktree.backbones.weights import Weights
    from masktree.models.saved import Provenance


class Segmenter(Protocol):
    """Callable from an image (path, array, Pillow image; see ``masktree.io.images.as_rgb``) to its ``MaskTree``."""

    @property
    def device(self) -> str:
        """Kind of device it computes on: cpu, cuda or mps."""
        ...

    @property
    def provenance(self) -> Weights | Provenance:
        """Origin of its weights, with ``name`` and ``sha256``."""
        ...

    def __call__(
        self, image: ImageInput, image_format: ImageFormat = "RGB", *, read_options: ReadOptions | None = None
    ) -> MaskTree:
        """The tree of one image; ``image_format`` is the order of the channels of an array, ``read_options`` says
        which page and channels are read."""
        ...

    def segment_batch(
        self,
        images: Iterable[ImageInput],
        *,
        image_format: ImageFormat = "RGB",
        batch_size: int = 1,
        read_options: ReadOptions | None = None,
    ) -> list[MaskTree]:
        """The trees of several images of any sizes, in order; up to ``batch_size`` go through the network together."""
        ...
