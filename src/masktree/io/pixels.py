"""Pixel values of any kind as 8-bit RGB: arrays and Pillow images. What is ambiguous is refused."""

from __future__ import annotations

from typing import Literal, NoReturn, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from masktree.errors import InputError
from masktree.io.image_description import ImageDescription
from masktree.io.raster import DecodedImage, over_white, render
from masktree.io.read_options import ReadOptions
from masktree.io.value_range import find_value_ranges, to_bytes
from masktree.types import RGB

ImageFormat = Literal["RGB", "BGR"]  # order of the channels in an array, as in segment-anything; OpenCV's is BGR
_FLOAT_TOLERANCE = 1e-3  # outside [0, 1], from rounding: a quarter of a grey level (our choice)
_EXPECTED = "expected an image: an (H, W, 3) RGB array, (H, W) grey or (H, W, 4) RGBA, a path or a Pillow image"


def array_to_rgb(array: np.ndarray, image_format: ImageFormat = "RGB") -> RGB:
    """(H, W, 3) uint8 RGB of an array: (H, W) or (H, W, 1) grey, (H, W, 3) colour, (H, W, 4) colour with opacity.

    Grey of 8 bits and truth values keep their scale; all other grey is scaled by ``scale_grey``, as in a file. Colour:
    whole numbers from 0 to 255 of any type, 16 bits that use the upper half of their range (their high byte is taken,
    as Pillow does with files), or floats in [0, 1]. Transparent pixels are composited over white.

    Args:
        array: the pixels.
        image_format: order of the channels; BGR with opacity is BGRA.

    Raises:
        InputError: what the values mean is ambiguous, or the array is no image. The message names the conversion.
    """
    _check_shape(array)
    if np.ma.isMaskedArray(array) and np.ma.is_masked(array):
        _refuse(array, "masked pixels", "write image.filled(0)")
    array = np.asarray(array)
    if array.dtype.kind not in "buif":
        _refuse(array, f"{array.dtype} values", "write image.astype(np.uint8) for values from 0 to 255")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        _refuse(array, "NaN or infinity", "replace these, with np.nan_to_num(image) for instance")
    if array.ndim == 2 or array.shape[2] == 1:
        grey = _grey_to_bytes(array.reshape(array.shape[:2]))
        return np.repeat(grey[..., None], 3, axis=2)
    colours = _colours_to_bytes(array)
    if image_format == "BGR":
        colours = colours[..., [2, 1, 0, 3][: colours.shape[2]]]
    if colours.shape[2] == 4:
        return over_white(Image.fromarray(np.ascontiguousarray(colours)))
    return np.ascontiguousarray(colours)


def render_array(array: np.ndarray, image_format: ImageFormat, options: ReadOptions) -> DecodedImage:
    """The picture of an (H, W) or (H, W, C) array of any real type, as that of a file with these values.

    Three channels are colours, four colours with opacity, other numbers channels of their own.

    Raises:
        InputError: no image.
        ImageError: no such channel or page, or no pixel with data.
    """
    values, description, valid = describe_array(array, options)
    if image_format == "BGR" and description.is_coloured:
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return render(values, description, options, valid)


def describe_array(array: np.ndarray, options: ReadOptions) -> tuple[np.ndarray, ImageDescription, np.ndarray | None]:
    """(H, W, C) values of an array, what they are, and (H, W) which pixels count; see ``render_array``.

    Raises:
        InputError: no image, or a page is asked for.
    """
    if array.ndim not in (2, 3) or array.size == 0 or array.dtype.kind not in "buif":
        _refuse(array, "something else", "write image.reshape(height, width, channels)")
    if options.page:
        raise InputError(f"expected no page with an array; got page {options.page}; index the array")
    valid = None
    if np.ma.isMaskedArray(array):
        valid = np.logical_not(np.ma.getmaskarray(array).reshape(*array.shape[:2], -1).any(axis=2))
    values = np.asarray(array).reshape(*array.shape[:2], -1)
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    elif not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    count = values.shape[2]
    description = ImageDescription(
        (values.shape[0], values.shape[1]),
        values.dtype,
        1 if array.dtype.kind == "b" else values.dtype.itemsize * 8,
        "rgb" if count in (3, 4) else "grey",
        count,
        alpha=3 if count == 4 else None,
    )
    return values, description, valid


def check_image_format(image_format: object) -> None:
    """Raise InputError unless it is one of ``ImageFormat``."""
    if not isinstance(image_format, str) or image_format not in get_args(ImageFormat):
        raise InputError(f"expected image_format 'RGB' or 'BGR'; got {image_format!r}")


def pillow_to_rgb(image: Image.Image) -> RGB:
    """(H, W, 3) uint8 RGB of a Pillow image of any mode; see ``masktree.io.images.read_image``.

    Raises:
        ImageError: no finite pixel.
    """
    if image.mode.startswith(("I", "F")):
        return np.repeat(scale_grey(np.asarray(image))[..., None], 3, axis=2)
    if "A" in image.getbands() or "transparency" in image.info:
        return over_white(image)
    return np.ascontiguousarray(np.asarray(image.convert("RGB")))


def scale_grey(values: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    """(H, W) grey values of any type as bytes, by ``masktree.io.value_range.find_value_ranges``.

    Raises:
        ImageError: no finite value.
    """
    found = find_value_ranges(values[..., None])
    valid = None
    for value in found.void_values:
        valid = values != value if valid is None else valid & (values != value)
    return to_bytes(values[..., None], found.ranges, valid)[..., 0]


def _grey_to_bytes(grey: np.ndarray) -> np.ndarray:
    if grey.dtype == np.uint8:
        return grey
    return grey * np.uint8(255) if grey.dtype == np.bool_ else scale_grey(grey)


def _colours_to_bytes(array: np.ndarray) -> np.ndarray:
    """(H, W, 3 or 4) uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    low, high = array.min(), array.max()
    if array.dtype.kind == "f":
        if low < -_FLOAT_TOLERANCE or high > 1 + _FLOAT_TOLERANCE:
            remedy = "write np.clip(image, 0, 1)" if high <= 2 else "write np.clip(image, 0, 255).astype(np.uint8)"
            _refuse(array, f"floats from {low:g} to {high:g}, not in [0, 1]", remedy)
        return np.rint(255 * np.clip(array.astype(np.float32), 0, 1)).astype(np.uint8)
    if low >= 0 and high <= 255:
        return array.astype(np.uint8)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        bits = int(array[..., :3].max()).bit_length()
        if bits == 16:
            return (array >> 8).astype(np.uint8)
        _refuse(
            array,
            f"values of {bits} bits in 16",
            f"write (image >> {max(bits - 8, 0)}).astype(np.uint8), or image >> 8 if it is a dark image of 16 bits",
        )
    return _refuse(array, f"values from {low} to {high}", "scale them to 0..255 and write image.astype(np.uint8)")


def _check_shape(array: np.ndarray) -> None:
    shape = array.shape
    if array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4)):
        if array.size == 0:
            raise InputError(f"expected at least one pixel; got an array of shape {shape}")
        return
    if array.ndim == 4:
        got = "several images at once"
        remedy = "write image[0]" if shape[0] == 1 else "write segmenter.segment_batch(list(images)), or take one"
    elif array.ndim == 3 and shape[0] == 1:
        got, remedy = "a leading axis", "write image[0]"
    elif array.ndim == 3 and shape[0] in (3, 4):
        got, remedy = "the channels first", "write np.moveaxis(image, 0, -1)"
    elif array.ndim == 3:
        got, remedy = f"{shape[2]} channels", "choose one, image[..., 0], or three, image[..., [0, 1, 2]]"
    else:
        got, remedy = f"{array.ndim} axes", "write image.reshape(height, width)"
    _refuse(array, got, remedy)


def _refuse(array: np.ndarray, got: str, remedy: str) -> NoReturn:
    raise InputError(f"{_EXPECTED}; got {got} in a {array.dtype} array of shape {array.shape}; {remedy}")


def refuse_object(image: object) -> NoReturn:
    """Raise InputError for what is neither a path nor an array nor a Pillow image.

    Raises:
        InputError: always; it names the conversion of tensors and of encoded bytes.
    """
    kind = type(image)
    got, remedy = kind.__name__, "write np.asarray(image)"
    if kind.__module__.partition(".")[0] == "torch":
        shape = tuple(getattr(image, "shape", ()))
        got = f"a torch tensor of shape {shape}"
        remedy = "write image.cpu().numpy()"
        if len(shape) == 3 and shape[0] in (1, 3, 4):
            remedy = "write image.permute(1, 2, 0).cpu().numpy()"
        elif len(shape) == 4:
            remedy = "write segmenter.segment_batch([image.permute(1, 2, 0).cpu().numpy() for image in images])"
    elif isinstance(image, (bytes, bytearray)):
        remedy = "write PIL.Image.open(io.BytesIO(image))"
    raise InputError(f"{_EXPECTED}; got {got}; {remedy}")
