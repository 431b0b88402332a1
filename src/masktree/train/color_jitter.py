"""Colour changes of an image, drawn first and applied later."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional

from masktree.types import RGB


@dataclass(frozen=True)
class ColorJitter:
    """Colours, grayscale and blur of a view, applied in the order of the fields; masks are unaffected.

    torchvision's functions, on Pillow images. Not its blur: that needs a kernel smaller than the image, and views may
    be one pixel wide.

    Attributes:
        brightness, contrast, saturation: factors; 1 changes nothing.
        hue: shift in turns of the colour circle, in [-0.5, 0.5].
        grayscale: remove colours.
        blur_sigma: of a Gaussian blur, in pixels; 0 for none.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    grayscale: bool = False
    blur_sigma: float = 0.0

    def apply(self, image: RGB) -> RGB:
        """The changed (H, W, 3) image."""
        if self == ColorJitter() or image.size == 0:
            return image
        result = Image.fromarray(image)
        if self.brightness != 1:
            result = functional.adjust_brightness(result, self.brightness)
        if self.contrast != 1:
            result = functional.adjust_contrast(result, self.contrast)
        if self.saturation != 1:
            result = functional.adjust_saturation(result, self.saturation)
        if self.hue:
            result = functional.adjust_hue(result, self.hue)
        if self.grayscale:
            result = functional.rgb_to_grayscale(result, num_output_channels=3)
        if self.blur_sigma:
            result = result.filter(ImageFilter.GaussianBlur(self.blur_sigma))
        return np.asarray(result)
