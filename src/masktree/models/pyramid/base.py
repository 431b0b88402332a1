"""The interface of feature pyramids: images in, maps at strides 4, 8, 16 and 32 out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from masktree.errors import InputError

STRIDES = (4, 8, 16, 32)
SIZE_DIVISOR = 32  # height and width of the input are multiples of it


@runtime_checkable
class Pyramid(Protocol):
    """A backbone that returns four maps of an image; implementations are ``torch.nn.Module``s.

    Attributes:
        channels: of the maps at strides 4, 8, 16 and 32.
        wants_cues: whether boundary cues are an input beside the image.
    """

    channels: tuple[int, int, int, int]
    wants_cues: bool

    def __call__(self, images: Tensor, cues: Tensor | None = None) -> list[Tensor]:
        """Maps (b, channels[i], H/s, W/s) at s = 4, 8, 16, 32.

        Args:
            images: (b, 3, H, W) RGB in [0, 1]; the pyramid normalises them.
            cues: (b, NUM_CUES, H/2, W/2) if ``wants_cues``, else ignored.

        Raises:
            InputError: H or W is not a multiple of ``SIZE_DIVISOR``, or cues are missing.
        """
        ...

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """Trainable parameters with pretrained weights, which get the backbone's lower learning rate."""
        ...


def check_image_size(images: Tensor) -> None:
    """Raise InputError unless ``images`` is (b, 3, H, W) with H and W multiples of ``SIZE_DIVISOR``."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % SIZE_DIVISOR or images.shape[3] % SIZE_DIVISOR:
        raise InputError(
            f"expected images (b, 3, H, W), H and W multiples of {SIZE_DIVISOR}; got {tuple(images.shape)}; "
            "pad them with zeros"
        )
