"""The backbone interface: a callable from RGB images to feature grids, with the origin of its weights."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from masktree.backbones.weights import Weights
from masktree.errors import InputError

Images = UInt8[np.ndarray, "b H W 3"]
Grids = Float32[np.ndarray, "b h w d"]


@runtime_checkable
class Backbone(Protocol):
    """Dense feature extractor.

    Attributes:
        name: stable short name, as given to ``load_backbone``.
        stride: image pixels per feature cell in each direction (the patch size of a ViT), >= 1.
        dim: number of features per cell.
        device: kind of device: ``cpu``, ``cuda``, ``mps``.
        provenance: origin and licence of the weights, and the hash of the file that was read.
    """

    name: str
    stride: int
    dim: int
    device: str
    provenance: Weights

    def input_size(self, H: int, W: int) -> tuple[int, int]:
        """Size in pixels at which an H x W image is processed; see :func:`nearest_multiple`."""
        ...

    def __call__(self, images: Images) -> Grids:
        """Feature grids of a stack of images of one size.

        Images whose sides are not multiples of the stride are first resized (bilinear, antialiased, aspect kept to
        within half a cell) to ``input_size(H, W)``, so cell (y, x) always covers the image rectangle [y/h, (y+1)/h] x
        [x/w, (x+1)/w] and nothing is cropped or padded.

        Args:
            images: (b, H, W, 3) uint8 RGB.

        Returns:
            (b, h, w, dim) float32, (h, w) = input_size(H, W) / stride; not normalised.

        Raises:
            InputError: not a (b, H, W, 3) uint8 array with H, W >= 1.
        """
        ...


def nearest_multiple(H: int, W: int, stride: int) -> tuple[int, int]:
    """Multiples of ``stride`` nearest to H and W; halves round up; at least one stride each.

    >>> nearest_multiple(480, 37, 8)
    (480, 40)

    Raises:
        InputError: H or W below 1.
    """
    if H < 1 or W < 1:
        raise InputError(f"expected an image of at least 1 x 1 pixels; got {H} x {W}; leave empty images out")
    return max((H + stride // 2) // stride, 1) * stride, max((W + stride // 2) // stride, 1) * stride


def check_images(images: object) -> None:
    """Raise :class:`InputError` unless ``images`` is a (b, H, W, 3) uint8 array with H, W >= 1."""
    if not isinstance(images, np.ndarray):
        got = type(images).__name__
    elif images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:3]:
        got = f"{images.dtype} {images.shape}"
    else:
        return
    raise InputError(
        f"expected RGB images as a uint8 array (b, H, W, 3) with H, W >= 1; got {got}; "
        "stack images of one size with numpy.stack, give one image as image[None]"
    )
