"""Stored samples as channels: palettes, inverted grey, CMYK, YCbCr and Lab become grey or red, green and blue."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from masktree.errors import ImageError
from masktree.io.image_description import MODEL_SAMPLES, ImageDescription

_BLOCK_ROWS_PIXELS = 2**20  # converted at once where floats are needed (our choice)


def to_channels(samples: np.ndarray, description: ImageDescription, colormap: np.ndarray | None = None) -> np.ndarray:
    """(H, W, channels) of an (H, W, samples) block of an image.

    Colours of palettes, CMYK, YCbCr and Lab become 8 bits; if further channels, such as an opacity, have more, all
    channels become of their type, with the full scale. Other samples keep their type and values, except that those of
    "inverted" grey are subtracted from the highest value of their bits, or negated if they are signed or floats.

    Args:
        samples: all samples of the pixels, in stored order.
        description: of the image.
        colormap: (3, n) uint16 colours of a palette.

    Raises:
        ImageError: a palette without colours, or samples of a type that their model cannot have.
    """
    if description.model == "inverted":
        return _inverted(samples, description.bits)
    if description.model not in MODEL_SAMPLES:
        return samples
    count = MODEL_SAMPLES[description.model]
    colours, further = samples[..., :count], samples[..., count:]
    if description.model == "palette":
        rgb = _palette(colours[..., 0], colormap)
    else:
        convert = {"cmyk": _cmyk, "ycbcr": _ycbcr, "lab": _lab, "icclab": _icclab}[description.model]
        is_lab = description.model in ("lab", "icclab")
        rgb = _by_rows(convert, colours if is_lab else as_8_bits(colours, description.bits))
    if further.shape[2] == 0:
        return rgb
    return np.concatenate([rgb, as_8_bits(further, description.bits)], axis=2)


def as_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Values as bytes, by the full scale of their type: ``bits``, or 0 to 1 of floats."""
    if values.dtype == np.uint8 and bits == 8:
        return values
    if values.dtype.kind == "f":
        return np.rint(255 * np.clip(np.nan_to_num(values.astype(np.float32, copy=False)), 0, 1)).astype(np.uint8)
    if values.dtype.kind not in "bu":
        raise ImageError(f"expected unsigned values or floats for this kind of colour; got {values.dtype}")
    return np.rint(values * np.float32(255 / (2**bits - 1))).astype(np.uint8)


def _inverted(samples: np.ndarray, bits: int) -> np.ndarray:
    kind = samples.dtype.kind
    grey = samples[..., :1]
    if kind == "b":
        inverted = ~grey
    elif kind == "u":
        inverted = grey.dtype.type(2**bits - 1) - grey
    else:
        inverted = -1 - grey if kind == "i" else -grey
    return inverted if samples.shape[2] == 1 else np.concatenate([inverted, samples[..., 1:]], axis=2)


def _palette(indices: np.ndarray, colormap: np.ndarray | None) -> np.ndarray:
    if colormap is None or colormap.ndim != 2 or colormap.shape[0] != 3 or colormap.shape[1] == 0:
        raise ImageError("expected a palette with its colours; got none; convert the image to RGB")
    if indices.dtype.kind not in "bu":
        raise ImageError(f"expected unsigned indices into a palette; got {indices.dtype}; convert the image to RGB")
    # The standard has colours of 16 bits; some programs store 8 bits in them.
    colours = (colormap if colormap.max() < 256 else colormap >> 8).astype(np.uint8).T
    if int(indices.max()) >= len(colours):
        raise ImageError(
            f"expected indices below the {len(colours)} colours of the palette; got {int(indices.max())}; the file is "
            "damaged"
        )
    return np.take(colours, indices.view(np.uint8) if indices.dtype.kind == "b" else indices, axis=0)


def _by_rows(convert: Callable[[np.ndarray], np.ndarray], samples: np.ndarray) -> np.ndarray:
    rgb = np.empty((*samples.shape[:2], 3), np.uint8)
    step = max(1, _BLOCK_ROWS_PIXELS // samples.shape[1])
    for start in range(0, samples.shape[0], step):
        rgb[start : start + step] = convert(samples[start : start + step])
    return rgb


def _cmyk(samples: np.ndarray) -> np.ndarray:
    """As Pillow converts it, without a colour profile."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(samples), "CMYK").convert("RGB"))


def _ycbcr(samples: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(samples), "YCbCr").convert("RGB"))


def _lab(samples: np.ndarray) -> np.ndarray:
    """CIE Lab of TIFF 6: a and b are signed."""
    return _lab_to_rgb(samples, is_signed=True)


def _icclab(samples: np.ndarray) -> np.ndarray:
    """ICC Lab of TIFF technical note 4: a and b have an offset of half the scale."""
    return _lab_to_rgb(samples, is_signed=False)


def _lab_to_rgb(samples: np.ndarray, *, is_signed: bool) -> np.ndarray:
    from skimage.color import lab2rgb  # 0.3 s to import

    if samples.dtype not in (np.uint8, np.uint16, np.int8, np.int16):
        raise ImageError(f"expected Lab of 8 or 16 bits; got {samples.dtype}; convert the image to RGB")
    unsigned = samples.view(f"u{samples.dtype.itemsize}")
    scale = 256 if samples.dtype.itemsize == 2 else 1
    lightness = unsigned[..., :1] / (255.0 * scale if scale == 1 else 65535.0) * 100
    if is_signed:
        chroma = unsigned[..., 1:].view(f"i{samples.dtype.itemsize}") / scale
    else:
        chroma = unsigned[..., 1:] / scale - 128.0
    rgb = lab2rgb(np.concatenate([lightness, chroma], axis=2))
    return np.rint(255 * np.clip(rgb, 0, 1)).astype(np.uint8)
