"""From the channels of an image, of any number and type, to the picture that is segmented."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from masktree.errors import ImageError
from masktree.io.channels import ChannelChoice, choose_channels, composite, unseen_channels
from masktree.io.colour_model import as_8_bits
from masktree.io.image_description import ImageDescription, upright
from masktree.io.read_options import ReadOptions
from masktree.io.value_range import ValueRange, find_value_ranges
from masktree.types import RGB


@dataclass(frozen=True)
class DecodedImage:
    """An image as RGB, and what became of its values.

    Attributes:
        rgb: (H, W, 3) uint8, upright.
        channels: names or numbers of the channels that are shown.
        value_ranges: (low, high) of each of them, the values shown black and white; empty where bytes are as stored.
        notes: what a reader should be told, by kind: "channels" and "pages" that are not looked at, a fourth channel
            that is no "opacity", "no data" that nothing declares, and "sidecars" that need rasterio.
    """

    rgb: RGB
    channels: tuple[str, ...] = ()
    value_ranges: tuple[tuple[float, float], ...] = ()
    notes: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        """Plain values for the record of an image; empty for ordinary 8-bit images."""
        if not self.value_ranges:
            return {}
        return {"channels": list(self.channels), "value_range": [list(ends) for ends in self.value_ranges]}


@dataclass(frozen=True)
class Rendering:
    """How the pixels of an image become a picture, which is decided by all of them: parts of it can follow one by one.

    Attributes:
        description: of the image.
        choice: the channels; the opacity only if it is looked at.
        nodata: values that mean "no data", in one of the channels.
        ranges: of each channel.
        is_8_bit: whether bytes are as stored.
        shows_nodata: whether pixels without data stay as they are instead of black.
        notes: see ``DecodedImage``.
    """

    description: ImageDescription
    choice: ChannelChoice
    nodata: tuple[float, ...]
    ranges: tuple[ValueRange, ...]
    is_8_bit: bool
    shows_nodata: bool
    notes: dict[str, str]

    def apply(self, values: np.ndarray, alpha: np.ndarray | None, valid: np.ndarray | None) -> RGB:
        """The picture of a part of the image as stored, not yet upright.

        Args:
            values: (h, w, C) of the chosen channels.
            alpha: (h, w) of the opacity, which is ignored unless it is looked at.
            valid: (h, w), pixels with data; None: all.
        """
        alpha = None if self.choice.alpha is None else alpha
        valid = _valid_pixels(values, self.nodata, valid)
        description = self.description
        if alpha is not None and not self.is_8_bit:
            valid = alpha > 0 if valid is None else valid & (alpha > 0)
            if description.is_premultiplied:
                values = _unmultiplied(values, alpha, description.bits)
        rgb = composite(values, self.ranges, None if self.shows_nodata else valid)
        if alpha is None:
            return rgb
        opacity = as_8_bits(alpha, 8 if description.is_converted else description.bits)
        return _over_white(rgb, opacity, is_premultiplied=description.is_premultiplied and self.is_8_bit)

    def decoded(self, rgb: RGB) -> DecodedImage:
        """The whole picture, upright, with what became of its values."""
        upright_rgb = np.ascontiguousarray(upright(rgb, self.description.orientation))
        return DecodedImage(upright_rgb, self.shown_channels, self.value_ranges, self.notes)

    @property
    def shown_channels(self) -> tuple[str, ...]:
        """Names or numbers of the channels."""
        return tuple(self.description.channel_name(channel) for channel in self.choice.channels)

    @property
    def value_ranges(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each channel; empty where bytes are as stored."""
        return () if self.is_8_bit else tuple((r.low, r.high) for r in self.ranges)


def render(
    channels: np.ndarray, description: ImageDescription, options: ReadOptions, valid: np.ndarray | None = None
) -> DecodedImage:
    """The picture of an image.

    Args:
        channels: (H, W, C) of ``masktree.io.colour_model.to_channels``.
        description: of the image.
        options: which channels, "no data" and range of values.
        valid: (H, W), pixels with data; None: all.

    Raises:
        ImageError: no such channel, no pixel with data, or a type that has no picture.
    """
    choice = choose_channels(description, options.channels)
    values, alpha = _take(channels, choice.channels), None if choice.alpha is None else channels[..., choice.alpha]
    rendering = find_rendering(values, alpha, choice, description, options, valid)
    return rendering.decoded(rendering.apply(values, alpha, valid))


def find_rendering(
    values: np.ndarray,
    alpha: np.ndarray | None,
    choice: ChannelChoice,
    description: ImageDescription,
    options: ReadOptions,
    valid: np.ndarray | None,
) -> Rendering:
    """How an image becomes a picture; errors as of ``render``.

    Arrays may be mapped from files: beside blocks of rows this takes a byte a pixel where some have no data.

    Args:
        values: (H, W, C) of the chosen channels.
        alpha: (H, W) of the opacity, None if ``choice`` has none.
        choice: of ``choose_channels``.
        description, options, valid: see ``render``.
    """
    notes = dict(description.notes)
    if alpha is not None and not description.is_premultiplied and is_no_opacity(alpha, description):
        notes["opacity"] = (
            f"channel {choice.alpha}, marked as opacity, is opaque nowhere and was not looked at, as infrared is often "
            "marked so; --channels chooses"
        )
        choice, alpha = replace(choice, alpha=None), None
    elif options.channels is None and (unseen := unseen_channels(description, choice)) is not None:
        notes["channels"] = unseen
    is_8_bit = values.dtype == np.uint8 and options.value_range is None
    nodata = (() if is_8_bit else description.nodata) + (() if options.nodata is None else (options.nodata,))
    valid = _valid_pixels(values, nodata, valid)
    if alpha is not None and not is_8_bit:
        valid = alpha > 0 if valid is None else valid & (alpha > 0)
        if description.is_premultiplied:
            values = _unmultiplied(values, alpha, description.bits)
    found = find_value_ranges(
        values,
        valid,
        bits=8 if description.is_converted else description.bits,
        is_colour=choice.is_colour,
        percentiles=options.value_range,
    )
    if found.void_values:
        shown = ", ".join(f"{value:g}" for value in found.void_values)
        notes["no data"] = f"{shown}, far from all other values, taken for no data; --nodata or --range decide"
    shows_nodata = is_8_bit and options.nodata is None
    return Rendering(description, choice, nodata + found.void_values, found.ranges, is_8_bit, shows_nodata, notes)


def _take(channels: np.ndarray, chosen: tuple[int, ...]) -> np.ndarray:
    """The chosen channels; a view where they are neighbours in order."""
    if chosen == tuple(range(chosen[0], chosen[0] + len(chosen))):
        return channels[..., chosen[0] : chosen[0] + len(chosen)]
    return channels[..., list(chosen)]


def is_no_opacity(alpha: np.ndarray, description: ImageDescription) -> bool:
    """Whether a channel that is marked as opacity has neither opaque nor transparent pixels.

    Aerial photographs of four bands have their infrared marked so. A picture that is opaque nowhere shows nothing.
    """
    low, high = alpha.min(), alpha.max()
    opaque = 1 if alpha.dtype.kind == "f" else 2 ** (8 if description.is_converted else description.bits) - 1
    return bool(low > 0 and high < opaque) or bool(alpha.dtype.kind == "f" and high > opaque * 1.001)


def _valid_pixels(values: np.ndarray, nodata: tuple[float, ...], valid: np.ndarray | None) -> np.ndarray | None:
    """Pixels of which a channel has data."""
    for value in nodata:
        if values.dtype.kind != "f" and not float(value).is_integer():
            continue
        with np.errstate(over="ignore"):
            stored = values.dtype.type(value) if values.dtype.kind == "f" else int(value)
        differs = values[..., 0] != stored
        for channel in range(1, values.shape[2]):
            differs |= values[..., channel] != stored
        valid = differs if valid is None else valid & differs
    return valid


def _unmultiplied(values: np.ndarray, alpha: np.ndarray, bits: int) -> np.ndarray:
    """Colours that are multiplied by the opacity, divided by it; of the same type."""
    if values.dtype.kind not in "uf":
        raise ImageError(f"expected unsigned values or floats with an opacity; got {values.dtype}; choose --channels")
    opaque = 1.0 if values.dtype.kind == "f" else float(2**bits - 1)
    with np.errstate(all="ignore"):
        factor = np.where(alpha > 0, opaque / np.maximum(alpha, np.finfo(np.float32).tiny), 0.0)[..., None]
        divided = np.nan_to_num(values * factor)
    if values.dtype.kind == "u":
        divided = np.rint(np.clip(divided, 0, opaque))
    return divided.astype(values.dtype)


def _over_white(rgb: RGB, opacity: np.ndarray, *, is_premultiplied: bool) -> RGB:
    if is_premultiplied:
        white = (255 - opacity.astype(np.uint16))[..., None]
        return np.minimum(rgb + white, 255).astype(np.uint8)
    return over_white(Image.fromarray(np.dstack([rgb, opacity])))


def over_white(image: Image.Image) -> RGB:
    """(H, W, 3) of an image of any mode, composited over white."""
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
