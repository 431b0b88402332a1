"""The interface of segmenters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from masktree.trees.masktree import MaskTree
from masktree.types import RGB

if TYPE_CHECKING:
    from PIL.Image import Image

    from masktree.backbones.weights import Weights
    from masktree.models.saved import Provenance


class Segmenter(Protocol):
    """Callable from an image (path, (H, W, 3) uint8 RGB array, Pillow image) to its ``MaskTree``; see ``load``."""

    @property
    def device(self) -> str:
        """Kind of device it computes on: cpu, cuda or mps."""
        ...

    @property
    def provenance(self) -> Weights | Provenance:
        """Origin of its weights, with ``name`` and ``sha256``."""
        ...

    def __call__(self, image: str | Path | RGB | Image) -> MaskTree: ...
