"""Resizing of RGB images by the filters of Pillow."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from PIL import Image

from masktree.errors import InputError
from masktree.types import RGB

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]


def resize_image(image: RGB, size: tuple[int, int], resample: Resample = "bilinear") -> RGB:
    """Resize of an RGB image to (height, width) by a filter of Pillow, antialiased unless ``nearest``.

    Raises:
        InputError: unknown filter.
    """
    pillow_filter = find_filter(resample)
    if image.shape[:2] == size:
        return image
    resized = Image.fromarray(image).resize((size[1], size[0]), pillow_filter)
    return np.ascontiguousarray(np.asarray(resized))


def find_filter(resample: Resample) -> Image.Resampling:
    """Pillow's filter of that name.

    Raises:
        InputError: unknown filter.
    """
    if resample not in get_args(Resample):
        raise InputError(f"expected a filter {', '.join(get_args(Resample))}; got {resample!r}")
    return Image.Resampling[resample.upper()]
