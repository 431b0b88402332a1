"""Image files and arrays as RGB: reading, conversion, resizing."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from masktree.arguments import check_path
from masktree.errors import ImageError, InputError, MasktreeError
from masktree.io.pixels import ImageFormat, array_to_rgb, check_image_format, pillow_to_rgb, refuse_object
from masktree.types import RGB

MAX_PIXELS = 150_000_000  # our choice: more than any camera has, and few enough for an int32 label map in memory
MAX_FILE_BYTES = 2**30  # of the formats that Pillow reads into memory whole before it looks at the size (our choice)
DECODE_SECONDS = 120.0  # our choice: the largest image that is read takes about 10 seconds

# What a file may contain, whatever its suffix: the formats of ``photos.IMAGE_SUFFIXES``. Pillow knows forty more, some
# of which start other programs (PostScript runs in Ghostscript) or fetch further files.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF")
_PLUGINS = ("Jpeg", "Mpo", "Png", "WebP", "Bmp", "Gif", "Tiff", "Ppm", "Avif")  # Pillow's modules of these formats
_READ_WHOLE = frozenset({"WEBP", "AVIF"})

_ORIENTATIONS = {  # of EXIF: what shows the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

ImageInput: TypeAlias = str | Path | np.ndarray | Image.Image  # what ``as_rgb`` takes

T = TypeVar("T")


def as_rgb(image: ImageInput, image_format: ImageFormat = "RGB") -> RGB:
    """(H, W, 3) uint8 RGB from a path, an array or a Pillow image.

    Args:
        image: a file, see ``read_image``; an array of one of the kinds in ``masktree.io.pixels.array_to_rgb``; a Pillow
            image of any mode.
        image_format: order of the channels of an array, as in segment-anything. Files and Pillow images know theirs.

    Raises:
        ImageError: the file or the Pillow image cannot be read.
        InputError: an array whose meaning is ambiguous, something else, or another ``image_format``.
    """
    check_image_format(image_format)
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, Image.Image):
        with _image_errors():
            image, image_format = pillow_to_rgb(image), "RGB"
    if not isinstance(image, np.ndarray):
        refuse_object(image)
    return array_to_rgb(image, image_format)


def list_images(images: Iterable[ImageInput]) -> list[ImageInput]:
    """Several images as a list, none of them read.

    Raises:
        InputError: one image instead of several, whose rows would be taken for images.
    """
    is_one = isinstance(images, (str, Path, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim != 4)
    if is_one or not isinstance(images, Iterable):
        got = f"an array of shape {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise InputError(f"expected a list of images; got {got}; write [image] for one, list(images) for several")
    return list(images)


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> RGB:
    """Read an image file of one of ``FORMATS`` as (H, W, 3) uint8 RGB, upright.

    EXIF rotation is applied; EXIF that cannot be parsed is ignored, as viewers do. Grey, palette and CMYK images are
    converted; 16-bit and float grey is scaled by its own range. Of 16-bit colour, and of 16-bit grey with transparency,
    Pillow gives the high byte only, so data that use fewer than 16 bits come out dark. Transparency is composited over
    white; of an animation the first frame is read.

    Raises:
        ImageError: missing, unreadable, empty, truncated, of another format, more than ``max_pixels`` pixels, or
            decoding takes longer than ``DECODE_SECONDS``.
    """
    return _decode(path, lambda image: pillow_to_rgb(_upright(image)), max_pixels)


def read_numbers(path: str | Path) -> RGB:
    """Read a file whose colours are numbers, such as a panoptic PNG: (H, W, 3) uint8, nothing converted or rotated.

    Raises:
        ImageError: as ``read_image``; or the mode is not RGB.
    """

    def convert(image: Image.Image) -> RGB:
        if image.mode != "RGB":
            raise ImageError(f"expected a picture of mode RGB; got {image.mode}")
        return np.ascontiguousarray(np.asarray(image))

    return _decode(path, convert, MAX_PIXELS)


def read_size(path: str | Path) -> tuple[int, int]:
    """(height, width) from the header of an image file, before any rotation.

    Raises:
        ImageError: as ``read_image``, as far as the header shows it.
    """
    return _decode(path, lambda image: (image.height, image.width), MAX_PIXELS)


def _decode(path: str | Path, convert: Callable[[Image.Image], T], max_pixels: int) -> T:
    """What ``convert`` returns for the opened file. Every image file is opened here.

    Memory: Pillow holds at most 4 bytes a pixel, and ``max_pixels`` is checked before any pixel is decoded; converting
    32-bit grey to RGB takes up to 30 bytes a pixel for a moment.
    """
    check_path(path)
    path = Path(path)

    def read() -> T:
        with Image.open(path, formats=_formats(path.stat().st_size)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"expected at most {max_pixels:,} pixels; got {width} x {height}; scale the image down"
                )
            image.seek(0)
            return convert(image)

    with _image_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bombs are refused above, odd metadata is harmless
        try:
            return _call_within_time(read)
        except Image.DecompressionBombError as error:
            raise ImageError(f"expected at most {max_pixels:,} pixels; {error}; scale the image down") from error
        except UnidentifiedImageError as error:
            got = f"no image format of {', '.join(FORMATS)}, or a damaged header"
            if path.stat().st_size == 0:
                got = "an empty file"
            raise ImageError(f"expected an image file; got {got}") from error


def _call_within_time(read: Callable[[], T]) -> T:
    """The result of a function that may take ``DECODE_SECONDS``. Costs 0.1 ms a call.

    It runs in a thread, for a process would cost a copy of the pixels and a start of half a second. When the time is
    over the caller goes on, but the thread does too, with its memory, until it is done or the process ends (it keeps no
    process alive). Decoders that never let go of Python's lock cannot be left this way; those of ``FORMATS`` release it
    while they decode a block or a frame, and loop over blocks in Python.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(read())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="decode image", daemon=True).start()
    try:
        return future.result(timeout=DECODE_SECONDS)
    except TimeoutError:
        if future.done():  # raised by the file system
            raise
        raise ImageError(
            f"expected an image that decodes within {DECODE_SECONDS:g} seconds; got one that takes longer; leave it out"
        ) from None


@contextmanager
def _image_errors() -> Iterator[None]:
    """Whatever Pillow raises as an ``ImageError`` of one line."""
    try:
        yield
    except MasktreeError:
        raise
    except MemoryError as error:
        raise ImageError("expected an image that fits into memory; got too large a one; scale it down") from error
    except Exception as error:
        # Pillow's decoders document no exceptions: on damaged files they raise OSError, SyntaxError, ValueError,
        # EOFError, IndexError, TypeError, RuntimeError, struct.error and others.
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ImageError(f"cannot read the image: {text}") from error


@lru_cache(maxsize=1)
def available_formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow has; AVIF came with version 11.3."""
    for plugin in _PLUGINS:
        with suppress(ImportError):
            import_module(f"PIL.{plugin}ImagePlugin")
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _formats(file_bytes: int) -> tuple[str, ...]:
    """Formats that a file of this size may have."""
    return tuple(name for name in available_formats() if file_bytes <= MAX_FILE_BYTES or name not in _READ_WHOLE)


def _upright(image: Image.Image) -> Image.Image:
    """The image rotated as its EXIF says. ``ImageOps.exif_transpose`` would also write the EXIF anew, and fail if any
    part of it is damaged."""
    image.load()
    try:
        method = _ORIENTATIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as in _image_errors
        return image
    return image if method is None else image.transpose(method)


def resize_image(image: RGB, size: tuple[int, int]) -> RGB:
    """Bilinear (antialiased) resize of an RGB image to (height, width)."""
    if image.shape[:2] == size:
        return image
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized))
