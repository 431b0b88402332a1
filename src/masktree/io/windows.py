"""Images that are read by window, as they may be larger than memory."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from masktree.errors import ImageError, InputError
from masktree.io.channels import choose_channels, unseen_channels
from masktree.io.colour_model import to_channels
from masktree.io.files import sha256_of
from masktree.io.geotiff_tags import GeoTiffTags
from masktree.io.image_description import ImageDescription
from masktree.io.images import (
    DEEP_MODES,
    available_formats,
    decode_image,
    is_deep_png,
    orientation_of,
    with_page_note,
)
from masktree.io.pixels import describe_array, pillow_to_rgb
from masktree.io.read_options import DEFAULT_OPTIONS, ReadOptions
from masktree.io.rendered_copy import Reading, open_copy, write_copy, write_rendered_copy
from masktree.io.sidecars import read_sidecars
from masktree.io.tiff import TiffPage, is_tiff, open_tiff
from masktree.io.tiff_windows import TiffSamples, Window
from masktree.types import RGB

__all__ = ["ArrayWindows", "ImageWindows", "TiffWindows", "Window", "fingerprint", "open_windows", "read_dimensions"]

MAX_DECODED_PIXELS = 500_000_000  # of a file without tiles or strips, which Pillow decodes at 4 bytes a pixel: 2 GB
_STRIP_ROWS = 512  # hashed at once


class ImageWindows(Protocol):
    """An image that is read by window.

    Attributes:
        size: (height, width).
        geotiff_tags: of a GeoTIFF.
        reading: channels and ranges of values that are shown, and what is not looked at.
    """

    size: tuple[int, int]
    geotiff_tags: GeoTiffTags
    reading: Reading

    def read(self, window: Window) -> RGB:
        """The pixels of a window inside the image, (h, w, 3) uint8 RGB."""
        ...


class ArrayWindows:
    """A picture in memory, or mapped from a file: (H, W), (H, W, 1) or (H, W, 3) uint8."""

    def __init__(
        self, array: np.ndarray, geotiff_tags: GeoTiffTags | None = None, reading: Reading | None = None
    ) -> None:
        self._array = array
        self.size = array.shape[0], array.shape[1]
        self.geotiff_tags = geotiff_tags or GeoTiffTags({})
        self.reading = reading or Reading()

    def read(self, window: Window) -> RGB:
        return _to_rgb(np.asarray(self._array[window.slices()]))


class TiffWindows:
    """Grey or RGB of 8 bits in a TIFF file, of which only the tiles or strips of a window are decoded."""

    def __init__(self, samples: TiffSamples, geotiff_tags: GeoTiffTags, reading: Reading) -> None:
        self._samples = samples
        self.size, self.geotiff_tags, self.reading = samples.size, geotiff_tags, reading

    def read(self, window: Window) -> RGB:
        return _to_rgb(self._samples.read(window))


def open_windows(image: str | Path | np.ndarray, work: Path, options: ReadOptions = DEFAULT_OPTIONS) -> ImageWindows:
    """An image that is read by window; its pixels are those of ``masktree.io.images.read_image``.

    TIFF files of 8 bits a channel, grey or RGB, are read by tile or strip. Of everything else, such as 16 bits, other
    channels and other formats, a picture is made once, in the folder ``work``: with one range of values for all of it.

    Args:
        image: a file, or an array of any real type, (H, W) or (H, W, C), shown as a file of its values is.
        work: folder for that picture.
        options: which page and channels, and how values become bytes.

    Raises:
        ImageError: a file that cannot be read or is too large to be decoded whole, or no such page or channel.
        InputError: an array of something else.
    """
    if isinstance(image, np.ndarray):
        return _open_array(image, work, options)
    path = Path(image)
    if _is_tiff_file(path):
        with _tiff_errors(path), open_tiff(path, options.page) as page:
            return _open_tiff_windows(path, page, work, options)
    if open_copy(work) is None:
        _decode_with_pillow(path, work, options)
    return _opened_copy(work, GeoTiffTags({}))


def _open_array(array: np.ndarray, work: Path, options: ReadOptions) -> ImageWindows:
    values, description, valid = describe_array(array, options)
    if values.dtype == np.uint8 and array.dtype.kind != "b" and values.shape[2] in (1, 3) and _is_plain(options):
        return ArrayWindows(values)
    if open_copy(work) is None:
        write_rendered_copy(work, lambda top, bottom: values[top:bottom], description, options, valid)
    return _opened_copy(work, GeoTiffTags({}))


def _open_tiff_windows(path: Path, page: TiffPage, work: Path, options: ReadOptions) -> ImageWindows:
    tags = GeoTiffTags.from_page(page.planes[0])
    if open_copy(work) is not None:
        return _opened_copy(work, tags)
    description, valid = with_page_note(page.description, options.page), page.read_mask()
    if options.page == 0:
        description, mask = read_sidecars(path, description)
        valid = mask if valid is None else valid
    samples = TiffSamples(path, page)
    if _is_direct(description, options):
        choice = choose_channels(description, None)
        unseen = unseen_channels(description, choice)
        notes = dict(description.notes) | ({} if unseen is None else {"channels": unseen})
        return TiffWindows(samples, tags, Reading({}, notes))
    width = description.size[1]
    write_rendered_copy(
        work,
        lambda top, bottom: to_channels(samples.read(Window(top, 0, bottom, width)), description, page.colormap),
        description,
        options,
        valid,
    )
    return _opened_copy(work, tags)


def _is_plain(options: ReadOptions) -> bool:
    """Whether no option changes what bytes mean."""
    return options.channels is None and options.nodata is None and options.value_range is None


def _is_direct(description: ImageDescription, options: ReadOptions) -> bool:
    """Whether the samples of a window are its pixels."""
    is_8_bit = description.dtype == np.uint8 and description.bits == 8 and description.orientation == 1
    is_grey = description.model == "grey" and description.num_samples == 1
    return is_8_bit and _is_plain(options) and description.alpha is None and (is_grey or description.model == "rgb")


def _opened_copy(work: Path, tags: GeoTiffTags) -> ArrayWindows:
    copy = open_copy(work)
    assert copy is not None
    return ArrayWindows(copy[0], tags, copy[1])


def read_dimensions(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image file of any size as it is shown, from its header.

    Raises:
        ImageError: the file cannot be read.
    """
    path = Path(path)
    if _is_tiff_file(path):
        with _tiff_errors(path), open_tiff(path) as page:
            return page.description.upright_size
    with _open_with_pillow(path) as image:
        size = image.height, image.width
        return size if orientation_of(image) < 5 else size[::-1]


def fingerprint(image: str | Path | np.ndarray) -> str:
    """SHA-256 of the content of a file or an array."""
    if not isinstance(image, np.ndarray):
        return sha256_of(Path(image))
    digest = hashlib.sha256(f"{image.shape} {image.dtype}".encode())
    for top in range(0, image.shape[0], _STRIP_ROWS):
        digest.update(image[top : top + _STRIP_ROWS].tobytes())
    return digest.hexdigest()


def _is_tiff_file(path: Path) -> bool:
    with path.open("rb") as handle:
        return is_tiff(handle.read(4))


class _tiff_errors:  # noqa: N801  # a context manager, used as a function
    """Whatever tifffile raises as an ``ImageError`` of one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, (ImageError, InputError)) or not isinstance(error, Exception):
            return
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ImageError(f"cannot read the image {self.path}: {text}") from error


def _to_rgb(pixels: np.ndarray) -> RGB:
    """Grey repeated; further channels are left out."""
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def _open_with_pillow(path: Path) -> Image.Image:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(path, formats=available_formats())
    except Exception as error:  # as many kinds as Pillow has decoders
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ImageError(f"cannot read the image {path}: {text}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _decode_with_pillow(path: Path, work: Path, options: ReadOptions) -> None:
    """Write the picture of a file, by strips where that can be: a converted copy of all of it would double the memory.

    Raises:
        ImageError: the file cannot be read, or has too many pixels.
    """
    with _open_with_pillow(path) as image:
        num_pixels = image.width * image.height
        if num_pixels > MAX_DECODED_PIXELS:
            raise ImageError(
                f"expected at most {MAX_DECODED_PIXELS:,} pixels in a file that has to be decoded whole; got "
                f"{image.width} x {image.height}; save it as a tiled TIFF file"
            )
        is_plain = image.mode not in DEEP_MODES and not is_deep_png(path) and getattr(image, "n_frames", 1) == 1
        if is_plain and options == DEFAULT_OPTIONS:
            try:
                image.load()
            except Exception as error:
                raise ImageError(f"cannot read the image {path}: {type(error).__name__}: {error}") from error
            width = image.width
            write_copy(
                work,
                (image.height, width),
                lambda top, bottom: pillow_to_rgb(image.crop((0, top, width, bottom))),
                Reading(orientation=orientation_of(image)),
            )
            return
    decoded = decode_image(path, options)
    size = decoded.rgb.shape[0], decoded.rgb.shape[1]
    reading = Reading(decoded.record(), decoded.notes)
    write_copy(work, size, lambda top, bottom: decoded.rgb[top:bottom], reading)
