"""Image files and arrays as RGB: reading and conversion."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from masktree.arguments import check_path
from masktree.errors import ImageError, InputError, MasktreeError, MasktreeWarning
from masktree.io.colour_model import to_channels
from masktree.io.image_description import ImageDescription, upright
from masktree.io.pixels import ImageFormat, array_to_rgb, check_image_format, pillow_to_rgb, refuse_object, render_array
from masktree.io.raster import DecodedImage, is_no_opacity, render
from masktree.io.read_options import DEFAULT_OPTIONS, ReadOptions
from masktree.io.sidecars import read_sidecars
from masktree.io.tiff import is_tiff, open_tiff
from masktree.types import RGB

MAX_PIXELS = 150_000_000  # our choice: more than any camera has, and few enough for an int32 label map in memory
MAX_FILE_BYTES = 2**30  # of the formats that Pillow reads into memory whole before it looks at the size (our choice)
_MAX_NAME = 100  # characters of a channel's name (our choice)
DECODE_SECONDS = 120.0  # our choice: the largest image that is read takes about 10 seconds

# What a file may contain, whatever its suffix: the formats of ``photos.IMAGE_SUFFIXES``, all of which are pixels only.
# Pillow knows others, some of which start programs (PostScript runs in Ghostscript) or fetch further files.
FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF"),
    *("JPEG2000", "TGA", "PCX", "SGI", "SUN", "QOI", "PSD", "ICO", "DDS"),
)
_PLUGINS = (  # Pillow's modules of these formats
    *("Jpeg", "Mpo", "Png", "WebP", "Bmp", "Gif", "Ppm", "Avif", "Jpeg2K", "Tga", "Pcx", "Sgi", "Sun", "Qoi", "Psd"),
    *("Ico", "Dds"),
)
_READ_WHOLE = frozenset({"WEBP", "AVIF"})
_SUFFIXES_OF = {"TGA": (".tga", ".icb", ".vda", ".vst"), "PCX": (".pcx",)}  # other files look like these by chance
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF", "MPO")
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # of more than 8 bits

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


def as_rgb(image: ImageInput, image_format: ImageFormat = "RGB", read_options: ReadOptions | None = None) -> RGB:
    """(H, W, 3) uint8 RGB from a path, an array or a Pillow image.

    Args:
        image: a file, see ``read_image``; an array of one of the kinds in ``masktree.io.pixels.array_to_rgb``; a Pillow
            image of any mode.
        image_format: order of the channels of an array, as in segment-anything. Files and Pillow images know theirs.
        read_options: which page and channels, and how values become bytes. With them an array may have any number of
            channels and any real type, and is shown as a file of its values is; without them arrays whose meaning is
            ambiguous are refused.

    Raises:
        ImageError: the file or the Pillow image cannot be read.
        InputError: an array whose meaning is ambiguous, something else, or another ``image_format``.
    """
    check_image_format(image_format)
    if isinstance(image, (str, Path)):
        decoded = decode_image(image, DEFAULT_OPTIONS if read_options is None else read_options)
        warn_of(decoded)
        return decoded.rgb
    if isinstance(image, Image.Image):
        with _image_errors():
            image, image_format = pillow_to_rgb(image), "RGB"
    if not isinstance(image, np.ndarray):
        refuse_object(image)
    if read_options is not None:
        return render_array(image, image_format, read_options).rgb
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


def read_image(
    path: str | Path,
    *,
    channels: Sequence[int | str] | None = None,
    page: int = 0,
    nodata: float | None = None,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> RGB:
    """Read an image file of one of ``FORMATS`` as (H, W, 3) uint8 RGB, upright.

    Images of 8 bits stay as they are; deeper ones are scaled, see ``masktree.io.value_range.find_value_ranges``. The
    orientation of TIFF and EXIF is applied; EXIF that cannot be parsed is ignored, as viewers do. Grey, palette, CMYK,
    YCbCr and Lab images are converted. Transparency is composited over white. A ``MasktreeWarning`` says what is not
    looked at, such as further pages and channels.

    Args:
        path: the file.
        channels, page, nodata, value_range: see ``masktree.ReadOptions``.
        max_pixels: of the image.

    Raises:
        ImageError: missing, unreadable, empty, truncated, of another format, more than ``max_pixels`` pixels, without
            that page or channel, or decoding takes longer than ``DECODE_SECONDS``.
        InputError: an option out of range.
    """
    options = ReadOptions(channels, page, nodata, value_range)  # type: ignore[arg-type]  # checked and made a tuple
    image = decode_image(path, options, max_pixels=max_pixels)
    warn_of(image)
    return image.rgb


def decode_image(
    path: str | Path, options: ReadOptions = DEFAULT_OPTIONS, *, max_pixels: int = MAX_PIXELS
) -> DecodedImage:
    """As ``read_image``, with the range of values and what is not looked at beside the picture."""

    def decode_tiff() -> DecodedImage:
        pixels, description, valid = _read_tiff(Path(path), options.page, max_pixels)
        return render(pixels, description, options, valid)

    return _decode(
        path, lambda image: _decode_pillow(image, Path(path), options), max_pixels, decode_tiff, options.page
    )


class ImageChannels(NamedTuple):
    """The stored values of an image, for measurements.

    Attributes:
        values: (H, W, C), upright, of the file's own type.
        names: of the C channels as the file gives them; the numbers of those without a name of their own.
        valid: (H, W, C) bool, values that are data; None: all.
    """

    values: np.ndarray
    names: tuple[str, ...]
    valid: np.ndarray | None


def read_channels(path: str | Path, page: int = 0, *, max_pixels: int = MAX_PIXELS) -> ImageChannels:
    """All channels of a page with the values that the file stores, nothing scaled. An opacity is none of them;
    palettes, CMYK, YCbCr and Lab are red, green and blue, as in ``masktree.io.colour_model.to_channels``.

    Raises:
        ImageError: as ``read_image``.
    """

    def read_tiff() -> ImageChannels:
        return _channels_of(*_read_tiff(Path(path), page, max_pixels))

    def read_pillow(image: Image.Image) -> ImageChannels:
        description = _describe_pillow(image, Path(path))
        if is_deep_png(Path(path)):
            pixels = _deep_png(Path(path))
        elif image.mode in DEEP_MODES:
            pixels = np.asarray(image)
        else:
            pixels = np.asarray(image.convert({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[description.num_samples]))
        return _channels_of(pixels.reshape(*pixels.shape[:2], -1), description, None)

    return _decode(path, read_pillow, max_pixels, read_tiff, page)


def _channels_of(pixels: np.ndarray, description: ImageDescription, valid: np.ndarray | None) -> ImageChannels:
    channels = list(range(pixels.shape[2]))
    if description.alpha is not None and not is_no_opacity(pixels[..., description.alpha], description):
        channels.remove(description.alpha)
    values = pixels[..., channels]
    given = [(description.names[c] or "")[:_MAX_NAME] if c < len(description.names) else "" for c in channels]
    names = [name if name and given.count(name) == 1 else str(c) for c, name in zip(channels, given, strict=True)]
    is_data = np.isfinite(values) if values.dtype.kind in "fc" else None
    for nodata in description.nodata:
        differs = values != nodata
        is_data = differs if is_data is None else is_data & differs
    if valid is not None:
        is_data = np.broadcast_to(valid[..., None], values.shape) & (True if is_data is None else is_data)
    return ImageChannels(
        upright(values, description.orientation),
        tuple(names),
        None if is_data is None else upright(is_data, description.orientation),
    )


def describe_image(path: str | Path, page: int = 0) -> ImageDescription:
    """What a file says of one of its pages; no pixel is decoded.

    Raises:
        ImageError: as ``read_image``, as far as the header shows it.
    """

    def describe_tiff() -> ImageDescription:
        with open_tiff(Path(path), page) as opened:
            return opened.description

    return _decode(path, lambda image: _describe_pillow(image, Path(path)), 2**62, describe_tiff, page)


def warn_of(image: DecodedImage) -> None:
    """Warn of what was not looked at."""
    for text in image.notes.values():
        warnings.warn(text, MasktreeWarning, stacklevel=3)


def read_numbers(path: str | Path) -> RGB:
    """Read a file whose colours are numbers, such as a panoptic PNG: (H, W, 3) uint8, nothing converted or rotated.

    Raises:
        ImageError: as ``read_image``; or the mode is not RGB.
    """

    def convert(image: Image.Image) -> RGB:
        if image.mode != "RGB":
            raise ImageError(f"expected a picture of mode RGB; got {image.mode}")
        return np.ascontiguousarray(np.asarray(image))

    def convert_tiff() -> RGB:
        with open_tiff(Path(path)) as page:
            _check_pixels(page.description.size, MAX_PIXELS)
            samples = page.read_samples()
            if page.description.model != "rgb" or samples.dtype != np.uint8 or samples.shape[2] != 3:
                raise ImageError("expected a picture of 8-bit RGB; got another kind of TIFF")
            return np.ascontiguousarray(samples)

    return _decode(path, convert, MAX_PIXELS, convert_tiff)


def read_size(path: str | Path) -> tuple[int, int]:
    """(height, width) from the header of an image file, before any rotation.

    Raises:
        ImageError: as ``read_image``, as far as the header shows it.
    """

    def size_of_tiff() -> tuple[int, int]:
        with open_tiff(Path(path)) as page:
            return page.description.size

    return _decode(path, lambda image: (image.height, image.width), MAX_PIXELS, size_of_tiff)


def read_tiff_tags(path: str | Path, numbers: Iterable[int]) -> dict[int, Any]:
    """Those of the TIFF tags with these numbers that the first page of a file has; none of another format.

    Raises:
        ImageError: as ``read_image``, as far as the header shows it.
    """

    def tags_of_tiff() -> dict[int, Any]:
        with open_tiff(Path(path)) as page:
            tags = page.planes[0].tags
            return {number: tags[number].value for number in numbers if number in tags}

    return _decode(path, lambda image: {}, MAX_PIXELS, tags_of_tiff)


def _decode(
    path: str | Path, convert: Callable[[Image.Image], T], max_pixels: int, decode_tiff: Callable[[], T], page: int = 0
) -> T:
    """What ``convert`` returns for the file opened by Pillow, or ``decode_tiff`` if it is a TIFF. Every image file is
    opened here.

    Memory: Pillow holds at most 4 bytes a pixel, and ``max_pixels`` is checked before any pixel is decoded. Of a TIFF
    all samples of a page are held.
    """
    check_path(path)
    path = Path(path)

    def read() -> T:
        with path.open("rb") as handle:
            if is_tiff(handle.read(4)):
                return decode_tiff()
        with Image.open(path, formats=_formats(path)) as image:
            _check_pixels((image.height, image.width), max_pixels)
            if page:
                _check_page(image, page)
            image.seek(page)
            return convert(image)

    with _image_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bombs are refused above, odd metadata is harmless
        try:
            return _call_within_time(read)
        except Image.DecompressionBombError as error:
            raise ImageError(
                f"expected at most {max_pixels:,} pixels; {error}; scale the image down, or use masktree.segment_large"
            ) from error
        except UnidentifiedImageError as error:
            got = f"no image format of {', '.join(FORMATS)}, or a damaged header"
            if path.stat().st_size == 0:
                got = "an empty file"
            raise ImageError(f"expected an image file; got {got}") from error


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    height, width = size
    if width * height > max_pixels:
        raise ImageError(
            f"expected at most {max_pixels:,} pixels; got {width} x {height}; scale the image down, or use "
            "masktree.segment_large"
        )
    if width * height == 0:
        raise ImageError(f"expected at least one pixel; got {width} x {height}; the file is damaged")


def _check_page(image: Image.Image, page: int) -> None:
    count = getattr(image, "n_frames", 1)
    if page >= count:
        raise ImageError(f"expected the number of a page, 0 to {count - 1}; got {page}; choose another --page")


def with_page_note(description: ImageDescription, page: int) -> ImageDescription:
    """The description with a note on the pages that are not shown."""
    if description.num_pages == 1:
        return description
    what = f" ({description.pages_are})" if description.pages_are else ""
    note = f"page {page} of 0 to {description.num_pages - 1}{what} shown, the others not looked at; --page chooses"
    return replace(description, notes=(*description.notes, ("pages", note)))


def _read_tiff(path: Path, page: int, max_pixels: int) -> tuple[np.ndarray, ImageDescription, np.ndarray | None]:
    """The channels of a page as they lie in the file, what it and the files beside it say, and which values count."""
    with open_tiff(path, page) as opened:
        _check_pixels(opened.description.size, max_pixels)
        description, valid = with_page_note(opened.description, page), opened.read_mask()
        if page == 0:
            description, mask = read_sidecars(path, description)
            valid = mask if valid is None else valid
        return to_channels(opened.read_samples(), description, opened.colormap), description, valid


def _decode_pillow(image: Image.Image, path: Path, options: ReadOptions) -> DecodedImage:
    num_frames = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
    is_plain = image.mode not in DEEP_MODES and not is_deep_png(path)
    if is_plain and num_frames == 1 and options == DEFAULT_OPTIONS:
        return DecodedImage(pillow_to_rgb(_upright(image)))
    description = with_page_note(replace(_describe_pillow(image, path), num_pages=num_frames), options.page)
    if not is_plain:
        pixels = _deep_png(path) if is_deep_png(path) else np.asarray(image)
        return render(pixels.reshape(*pixels.shape[:2], -1), description, options)
    has_alpha = description.alpha is not None
    mode = ("LA" if has_alpha else "L") if description.model == "grey" else ("RGBA" if has_alpha else "RGB")
    if options.channels is None and options.value_range is None and options.nodata is None:
        rgb = pillow_to_rgb(image)
        return DecodedImage(np.ascontiguousarray(upright(rgb, description.orientation)), notes=dict(description.notes))
    pixels = np.asarray(image.convert(mode))
    return render(pixels.reshape(*pixels.shape[:2], -1), description, options)


def _describe_pillow(image: Image.Image, path: Path) -> ImageDescription:
    size, orientation = (image.height, image.width), orientation_of(image)
    if image.mode in DEEP_MODES:
        dtype = np.dtype({"F": np.float32, "I": np.int32}.get(image.mode, np.uint16))
        return ImageDescription(size, dtype, dtype.itemsize * 8, "grey", 1, orientation)
    has_alpha = "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info
    is_grey = image.mode in ("1", "L", "LA", "La")
    num_samples = (1 if is_grey else 3) + has_alpha
    dtype = np.dtype(np.uint16 if is_deep_png(path) else np.uint8)
    return ImageDescription(
        size,
        dtype,
        8 * dtype.itemsize,
        "grey" if is_grey else "rgb",
        num_samples,
        orientation,
        alpha=num_samples - 1 if has_alpha else None,
    )


def is_deep_png(path: Path) -> bool:
    """Whether a file is a PNG of 16 bits with colours or opacity, of which Pillow gives the high bytes only."""
    with path.open("rb") as handle:
        head = handle.read(26)
    return len(head) == 26 and head[:8] == b"\x89PNG\r\n\x1a\n" and head[24] == 16 and head[25] in (2, 4, 6)


def _deep_png(path: Path) -> np.ndarray:
    import imagecodecs

    pixels: np.ndarray = imagecodecs.png_decode(path.read_bytes())
    return pixels


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
    return tuple(name for name in FORMATS if name in Image.OPEN or name == "TIFF")


def _formats(path: Path) -> tuple[str, ...]:
    """Formats that a file may have. Some have no mark of their own: these count with their suffix only."""
    is_large, suffix = path.stat().st_size > MAX_FILE_BYTES, path.suffix.lower()
    return tuple(
        name
        for name in available_formats()
        if not (is_large and name in _READ_WHOLE) and suffix in _SUFFIXES_OF.get(name, (suffix,))
    )


def orientation_of(image: Image.Image) -> int:
    """Orientation of the EXIF, 1 to 8; 1 where it cannot be parsed."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as in _image_errors
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    """The image rotated as its EXIF says. ``ImageOps.exif_transpose`` would also write the EXIF anew, and fail if any
    part of it is damaged."""
    image.load()
    method = _ORIENTATIONS.get(orientation_of(image))
    return image if method is None else image.transpose(method)
