"""Images that are read by window, as they may be larger than memory."""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from PIL import ExifTags, Image

from masktree.errors import ImageError, InputError
from masktree.io.files import sha256_of, write_atomically
from masktree.io.geotiff_tags import GeoTiffTags
from masktree.io.images import available_formats
from masktree.io.pixels import pillow_to_rgb
from masktree.types import RGB

if TYPE_CHECKING:
    from tifffile import TiffPage

MAX_DECODED_PIXELS = 500_000_000  # of a file without tiles or strips, which Pillow decodes at 4 bytes a pixel: 2 GB
_TIFF_SUFFIXES = frozenset({".tif", ".tiff", ".btf", ".tf8"})
_CACHE_BYTES = 2**27  # of decoded segments: strips of an image 20,000 pixels wide, as tall as a window, take 77 MB
_MAX_SEGMENT_BYTES = 2**27  # a larger strip or tile is decoded once, into a file
_STRIP_ROWS = 512  # converted at once
_RGB_CODECS = (6, 7, 33003, 33004, 33005, 34712)  # JPEG and JPEG 2000, from which tifffile makes RGB
_PREMULTIPLIED, _STRAIGHT = 1, 2  # of the tag ExtraSamples: opacity


class Window(NamedTuple):
    """A rectangle of an image in pixels: rows top to bottom - 1, columns left to right - 1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


class ImageWindows(Protocol):
    """An image that is read by window.

    Attributes:
        size: (height, width).
        geotiff_tags: of a GeoTIFF.
        note: what of the image is not looked at, if anything.
    """

    size: tuple[int, int]
    geotiff_tags: GeoTiffTags
    note: str

    def read(self, window: Window) -> RGB:
        """The pixels of a window inside the image, (h, w, 3) uint8 RGB."""
        ...


class ArrayWindows:
    """An array, or a file of one that is mapped into memory: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8."""

    note = ""

    def __init__(
        self, array: np.ndarray, geotiff_tags: GeoTiffTags | None = None, opacity: int | None = _STRAIGHT
    ) -> None:
        _check_pixels(array.shape[2] if array.ndim == 3 else 1, array.dtype, "the array")
        if array.ndim not in (2, 3) or 0 in array.shape:
            raise InputError(f"expected an image (H, W), (H, W, 3) or (H, W, 4); got shape {array.shape}")
        self._array, self._opacity = array, opacity
        self.size = array.shape[0], array.shape[1]
        self.geotiff_tags = geotiff_tags or GeoTiffTags({})

    def read(self, window: Window) -> RGB:
        return _to_rgb(np.asarray(self._array[window.slices()]), self._opacity)


class TiffWindows:
    """A TIFF file of 8 bits a channel, of which only the tiles or strips of a window are decoded.

    The latest segments stay decoded, as neighbouring windows share them.

    Attributes:
        page: its first page.
        opacity: how the fourth channel is opacity; None: it is not.
    """

    page: TiffPage
    note = ""

    def __init__(self, path: Path) -> None:
        from tifffile import TiffFile

        self._path = path
        with TiffFile(path) as file:  # the file is opened again to read: nothing has to be closed then
            page = self.page = _first_page(file)
            self._offsets, self._counts = page.dataoffsets, page.databytecounts
            self._tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            self._decode = page.decode
            self.geotiff_tags = GeoTiffTags.from_page(page)
            self.opacity = _opacity(page)
        self.size = page.imagelength, page.imagewidth
        if page.samplesperpixel == 4 and self.opacity is None:
            self.note = "the first three of four channels are looked at, as the fourth is not marked as opacity"
        self._segments: OrderedDict[int, np.ndarray | None] = OrderedDict()
        self._bytes = 0

    def read(self, window: Window) -> RGB:
        page = self.page
        out = np.zeros((*window.size, page.samplesperpixel), np.uint8)  # a segment that the file leaves out is black
        height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        height = min(height, page.imagelength)
        across = -(-page.imagewidth // width)
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        per_plane = across * -(-page.imagelength // height)
        for plane in range(planes):
            for row in range(window.top // height, -(-window.bottom // height)):
                for column in range(window.left // width, -(-window.right // width)):
                    segment = self._segment(plane * per_plane + row * across + column)
                    if segment is not None:
                        _paste(out, segment, row * height - window.top, column * width - window.left, plane)
        return _to_rgb(out, self.opacity)

    def _segment(self, index: int) -> np.ndarray | None:
        """(h, w, samples) pixels of a tile or strip; None if the file leaves it out."""
        if index in self._segments:
            self._segments.move_to_end(index)
            return self._segments[index]
        with self._path.open("rb") as handle:
            handle.seek(self._offsets[index])
            data = handle.read(self._counts[index]) if self._counts[index] else None
        decoded = self._decode(data, index, **self._tables)[0]
        segment = None if decoded is None else decoded[0]
        self._segments[index] = segment
        self._bytes += 0 if segment is None else segment.nbytes
        while self._bytes > _CACHE_BYTES and len(self._segments) > 1:
            _, oldest = self._segments.popitem(last=False)
            self._bytes -= 0 if oldest is None else oldest.nbytes
        return segment


def open_windows(image: str | Path | np.ndarray, work: Path) -> ImageWindows:
    """An image that is read by window.

    TIFF files are read by tile or strip. What has no such parts is decoded once, into a file in ``work``.

    Args:
        image: a file, or an array of bytes: grey, RGB or RGB with opacity.
        work: folder for that file.

    Raises:
        ImageError: a file that cannot be read, has other than 8 bits a channel, or is too large to be decoded whole.
        InputError: an array of something else.
    """
    if isinstance(image, np.ndarray):
        return ArrayWindows(image)
    path = Path(image)
    decoded = work / "image.npy"
    if path.suffix.lower() not in _TIFF_SUFFIXES:
        if not decoded.exists():
            _decode_with_pillow(path, decoded)
        return ArrayWindows(np.load(decoded, mmap_mode="r"))
    with _tiff_errors(path):
        windows = TiffWindows(path)
        page = windows.page
        _check_pixels(page.samplesperpixel, page.dtype, path.name)
        rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        if min(rows, page.imagelength) * columns * page.samplesperpixel <= _MAX_SEGMENT_BYTES:
            return windows
        if page.is_memmappable and page.planarconfig == 1:
            from tifffile import memmap

            mapped = np.asarray(memmap(path, page=page.index, mode="r"))
            return ArrayWindows(mapped, windows.geotiff_tags, windows.opacity)
        if not decoded.exists():
            from tifffile import imread

            _save(imread(path, key=0), decoded, windows.opacity)
        return ArrayWindows(np.load(decoded, mmap_mode="r"), windows.geotiff_tags)


def read_dimensions(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image file of any size, from its header.

    Raises:
        ImageError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() in _TIFF_SUFFIXES:
        from tifffile import TiffFile

        with _tiff_errors(path), TiffFile(path) as file:
            page = _first_page(file)
            return page.imagelength, page.imagewidth
    with _open_with_pillow(path) as image:
        return image.height, image.width


def fingerprint(image: str | Path | np.ndarray) -> str:
    """SHA-256 of the content of a file or an array."""
    if not isinstance(image, np.ndarray):
        return sha256_of(Path(image))
    digest = hashlib.sha256(f"{image.shape} {image.dtype}".encode())
    for top in range(0, image.shape[0], _STRIP_ROWS):
        digest.update(image[top : top + _STRIP_ROWS].tobytes())
    return digest.hexdigest()


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


def _first_page(file: Any) -> TiffPage:
    """The first page; the others are smaller copies of it, or further pictures."""
    page = file.pages[0]
    orientation = page.tags.get(274)
    if orientation is not None and int(orientation.value) != 1:
        raise ImageError(f"expected an upright TIFF file; got orientation {int(orientation.value)}; rotate it first")
    return page


def _opacity(page: TiffPage) -> int | None:
    """How the fourth channel is opacity, if it is.

    Raises:
        ImageError: pixels that are neither grey nor RGB.
    """
    photometric, compression = int(page.photometric), int(page.compression)
    if photometric not in (1, 2) and not (photometric == 6 and compression in _RGB_CODECS):
        name = getattr(page.photometric, "name", str(photometric))
        raise ImageError(
            f"expected grey or RGB in an image that is read by window; got {name}; convert it to RGB, with "
            "gdal_translate -expand rgb for instance"
        )
    kind = int(page.extrasamples[0]) if page.extrasamples else 0
    return kind if kind in (_PREMULTIPLIED, _STRAIGHT) else None


def _check_pixels(channels: int, dtype: Any, what: str) -> None:
    if dtype != np.uint8 or channels not in (1, 3, 4):
        raise ImageError(
            f"expected 8 bits a channel and 1, 3 or 4 channels in an image that is read by window; got {dtype} and "
            f"{channels} in {what}; convert it, with gdal_translate -ot Byte -scale for instance"
        )


def _paste(out: np.ndarray, segment: np.ndarray, top: int, left: int, plane: int) -> None:
    """Copy the part of a segment that falls on ``out``, of which it begins at row ``top`` and column ``left``."""
    rows = slice(max(top, 0), min(top + segment.shape[0], out.shape[0]))
    columns = slice(max(left, 0), min(left + segment.shape[1], out.shape[1]))
    part = segment[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    channels = slice(plane, plane + 1) if part.shape[2] < out.shape[2] else slice(None)
    out[rows, columns, channels] = part


def _to_rgb(pixels: np.ndarray, opacity: int | None = _STRAIGHT) -> RGB:
    """Grey repeated, opacity composited over white; ``opacity``: what a fourth channel is."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    colours = pixels[..., :3]
    if pixels.shape[2] == 4 and opacity is not None:
        alpha = pixels[..., 3:].astype(np.uint16)
        if opacity == _PREMULTIPLIED:
            return np.minimum(colours + (255 - alpha), 255).astype(np.uint8)
        return ((colours * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(colours)


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


def _decode_with_pillow(path: Path, target: Path) -> None:
    with _open_with_pillow(path) as image:
        pixels = image.width * image.height
        if pixels > MAX_DECODED_PIXELS:
            raise ImageError(
                f"expected at most {MAX_DECODED_PIXELS:,} pixels in a file that has to be decoded whole; got "
                f"{image.width} x {image.height}; save it as a tiled TIFF file"
            )
        if image.mode not in ("L", "RGB", "RGBA", "P", "1", "CMYK", "YCbCr"):
            _check_pixels(len(image.getbands()), image.mode, path.name)
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            raise ImageError(f"expected an upright image; got {path.name}, which EXIF turns; rotate it first")
        try:
            image.load()
        except Exception as error:
            raise ImageError(f"cannot read the image {path}: {type(error).__name__}: {error}") from error
        _save(image, target)


def _save(image: Any, target: Path, opacity: int | None = _STRAIGHT) -> None:
    """Write a picture as an array file, by strips: a converted copy of all of it would double the memory."""
    is_array = isinstance(image, np.ndarray)
    height, width = image.shape[:2] if is_array else (image.height, image.width)

    def write(handle: Any) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (height, width, 3)}
        np.lib.format.write_array_header_2_0(handle, header)
        for top in range(0, height, _STRIP_ROWS):
            bottom = min(top + _STRIP_ROWS, height)
            if is_array:
                strip = _to_rgb(np.asarray(image[top:bottom]), opacity)
            else:
                strip = pillow_to_rgb(image.crop((0, top, width, bottom)))
            handle.write(np.ascontiguousarray(strip).tobytes())

    write_atomically(target, write)
