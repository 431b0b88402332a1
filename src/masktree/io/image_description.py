"""What an image file says of its pixels before any of them is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

# grey: black is the lowest value; inverted: MinIsWhite; the others are colours in the first three or four samples
ColourModel = Literal["grey", "inverted", "rgb", "palette", "cmyk", "ycbcr", "lab", "icclab"]

_MODEL_CHANNELS: dict[str, tuple[str, ...]] = {
    "rgb": ("red", "green", "blue"),
    "palette": ("red", "green", "blue"),
    "cmyk": ("red", "green", "blue"),
    "ycbcr": ("red", "green", "blue"),
    "lab": ("red", "green", "blue"),
    "icclab": ("red", "green", "blue"),
}
MODEL_SAMPLES = {"palette": 1, "cmyk": 4, "ycbcr": 3, "lab": 3, "icclab": 3}  # stored samples that become three colours


@dataclass(frozen=True)
class ImageDescription:
    """One page of an image file.

    Channels are what ``ReadOptions.channels`` chooses from: the stored samples, except that those of a palette, CMYK,
    YCbCr or Lab count as red, green and blue.

    Attributes:
        size: (height, width) of the stored pixels; ``upright_size`` is that of the image as it is shown.
        dtype: NumPy type of a sample.
        bits: significant bits of a sample.
        model: what the samples mean.
        num_samples: stored samples of a pixel, over all planes.
        orientation: 1 to 8, as in TIFF and EXIF.
        names: of the channels, None where the file gives none.
        alpha: channel of the opacity, None if there is none.
        is_premultiplied: whether colours are multiplied by the opacity already (associated alpha).
        nodata: values that mean "no data".
        num_pages: number of images in the file that ``ReadOptions.page`` chooses from.
        pages_are: what these are, such as "2 time points x 5 z planes"; empty for plain pages.
        notes: what a reader should be told, by kind; see ``masktree.io.images.DecodedImage``.
    """

    size: tuple[int, int]
    dtype: np.dtype
    bits: int
    model: ColourModel
    num_samples: int
    orientation: int = 1
    names: tuple[str | None, ...] = ()
    alpha: int | None = None
    is_premultiplied: bool = False
    nodata: tuple[float, ...] = ()
    num_pages: int = 1
    pages_are: str = ""
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) of the image as it is shown."""
        return self.size if self.orientation < 5 else (self.size[1], self.size[0])

    @property
    def num_channels(self) -> int:
        """Number of channels, opacity included."""
        return len(_MODEL_CHANNELS.get(self.model, ())) + self.num_samples - self.num_colour_samples

    @property
    def num_colour_samples(self) -> int:
        """Stored samples that ``model`` describes; the others are further channels."""
        return MODEL_SAMPLES.get(self.model, 3 if self.model == "rgb" else 0)

    @property
    def is_coloured(self) -> bool:
        """Whether the first three channels are red, green and blue."""
        return self.model in _MODEL_CHANNELS

    @property
    def is_converted(self) -> bool:
        """Whether the colours are computed, as 8 bits, from the stored samples."""
        return self.model in MODEL_SAMPLES

    def channel_name(self, channel: int) -> str:
        """The name of a channel in messages: its own, that of its colour, or its number."""
        if channel < len(self.names) and self.names[channel]:
            return str(self.names[channel])
        if channel == self.alpha:
            return "opacity"
        colours = _MODEL_CHANNELS.get(self.model, ())
        return colours[channel] if channel < len(colours) else str(channel)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) pixels as they are shown, for an orientation of TIFF or EXIF; a view."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    # After the exchange of the axes, orientations 5 to 8 differ as 1, 2, 4 and 3 do.
    flip_rows, flip_columns = {
        2: (False, True),
        3: (True, True),
        4: (True, False),
        6: (False, True),
        7: (True, True),
        8: (True, False),
    }.get(orientation, (False, False))
    return pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
