"""From the channels of an image, of any number and type, to the picture that is segmented."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from masktree.errors import ImageError
from masktree.io.channels import choose_channels, composite, unseen_channels
from masktree.io.colour_model import as_8_bits
from masktree.io.image_description import ImageDescription, upright
from masktree.io.read_options import ReadOptions
from masktree.io.value_range import find_value_ranges
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
    notes = dict(description.notes)
    values = _take(channels, choice.channels)
    alpha = None if choice.alpha is None else channels[..., choice.alpha]
    if alpha is not None and not description.is_premultiplied and is_no_opacity(alpha, description):
        alpha = None
        notes["opacity"] = (
            f"channel {choice.alpha}, marked as opacity, is opaque nowhere and was not looked at, as infrared is often "
            "marked so; --channels chooses"
        )
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
        valid = _valid_pixels(values, found.void_values, valid)
    rgb = composite(values, found.ranges, None if is_8_bit and options.nodata is None else valid)
    if alpha is not None:
        opacity = as_8_bits(alpha, 8 if description.is_converted else description.bits)
        rgb = _over_white(rgb, opacity, is_premultiplied=description.is_premultiplied and is_8_bit)
    return DecodedImage(
        np.ascontiguousarray(upright(rgb, description.orientation)),
        tuple(description.channel_name(channel) for channel in choice.channels),
        () if is_8_bit else tuple((r.low, r.high) for r in found.ranges),
        notes,
    )


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
        differs = np.any(values != stored, axis=2)
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
