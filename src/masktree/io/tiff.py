"""TIFF files: what they say of their pages, and their samples as stored.

tifffile and imagecodecs decode them. libtiff by way of Pillow, which this replaces, scrambles turned images, planar
ones of 16 bits and compressed ones of the other byte order without a word.
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from masktree.errors import ImageError
from masktree.io.image_description import ColourModel, ImageDescription
from masktree.io.ome import StackLayout, stack_layout

if TYPE_CHECKING:
    import tifffile

MAX_DECODED_BYTES = 2**32  # of all samples of a page, before channels are chosen (our choice)
MAX_PAGES = 100_000  # of a file (our choice)
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF
_REDUCED, _MASK = 1, 4  # bits of the tag NewSubfileType: a thumbnail or overview, a mask of another page
# Of the tag PhotometricInterpretation
_MODELS: dict[int, ColourModel] = {
    0: "inverted",
    1: "grey",
    2: "rgb",
    3: "palette",
    5: "cmyk",
    6: "ycbcr",
    8: "lab",
    9: "icclab",
}
_JPEG = (6, 7, 34892, 33007)  # of the tag Compression; tifffile converts YCbCr of these to RGB
_RGB_CODECS = (*_JPEG, 33004, 33005, 34712, 34927, 50001, 50002, 52546)  # give RGB whatever the file says of YCbCr
_COMPRESSIONS = frozenset(  # those of images; others are raw data of cameras, or decoders that few files have tested
    {1, 2, 3, 4, 5, 7, 8, 32773, 32909, 32946, 33003, 33004, 33005, 33007, 34712, 34887, 34892, 34925, 34926}
    | {34927, 34933, 50000, 50001, 50002, 52546}
)
_EXTRA_SAMPLES, _ORIENTATION, _GDAL_METADATA, _GDAL_NODATA = 338, 274, 42112, 42113

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # its remarks on odd tags are no output of ours


@dataclass(frozen=True)
class TiffPage:
    """One image of an open TIFF file.

    Attributes:
        description: of the image.
        planes: pages of the file, each with some of the image's samples.
        mask: page that says which pixels have data, None if there is none.
        colormap: of a palette, (3, n) uint16.
    """

    description: ImageDescription
    planes: tuple[Any, ...]
    mask: Any = None
    colormap: np.ndarray | None = None

    def read_samples(self) -> np.ndarray:
        """(H, W, samples), in stored order and orientation.

        Raises:
            ImageError: too many bytes, or strips that end before the file does.
        """
        samples = [_decode(plane) for plane in self.planes]
        return samples[0] if len(samples) == 1 else np.concatenate(samples, axis=2)

    def read_mask(self) -> np.ndarray | None:
        """(H, W) bool: which pixels have data; None: all, as far as the file says."""
        return None if self.mask is None else _decode(self.mask)[..., 0] > 0


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a TIFF or BigTIFF."""
    return head[:4] in _MAGIC


@contextmanager
def open_tiff(path: Path, page: int = 0) -> Iterator[TiffPage]:
    """Open one image of a TIFF file; nothing is decoded yet.

    Raises:
        ImageError: no such page, raw data of a camera, or of a kind that is not read.
    """
    import tifffile

    directories = _directories(path)
    # Other files that OME-XML names are not opened, and special treatment by suffix is off.
    with tifffile.TiffFile(path, _multifile=False, is_ndpi=False) as file:
        images, masks = _images(directories)
        first = _page(file, directories, images[0])
        layout = stack_layout(str(first.description or ""), len(images)) or StackLayout(
            tuple((index,) for index in range(len(images)))
        )
        if page >= len(layout.frames):
            raise ImageError(
                f"expected the number of a page, 0 to {len(layout.frames) - 1}; got {page}; choose another --page"
            )
        planes = tuple(_page(file, directories, images[index]) for index in layout.frames[page])
        if any((plane.shaped, plane.dtype) != (planes[0].shaped, planes[0].dtype) for plane in planes[1:]):
            raise ImageError("expected channels of one size and type; got several; choose one with another program")
        description = replace(
            _describe(planes[0], len(planes), layout.names),
            num_pages=len(layout.frames),
            pages_are=layout.frames_are,
            notes=_plane_notes(layout, planes[0].shaped[1]),
        )
        mask = next(
            (
                m
                for i in masks
                if i > images[0] and (m := _page(file, directories, i)).shaped[1:4] == planes[0].shaped[1:4]
            ),
            None,
        )
        colormap = planes[0].colormap if description.model == "palette" else None
        yield TiffPage(description, planes, mask, colormap)


def _plane_notes(layout: StackLayout, depth: int) -> tuple[tuple[str, str], ...]:
    """A note on planes that are no pages of the file: those of a volume of some depth, or of a large ImageJ stack."""
    count = layout.num_unlisted + depth
    if count == 1:
        return ()
    return (("pages", f"the first of {count} planes shown; save the stack as OME-TIFF to choose another"),)


def _directories(path: Path) -> list[tuple[int, int]]:
    """(offset, NewSubfileType) of each image file directory. The chain may be damaged: it ends where it repeats."""
    found: list[tuple[int, int]] = []
    seen: set[int] = set()
    with path.open("rb") as handle:
        head = handle.read(16)
        order = "<" if head[:2] == b"II" else ">"
        is_big = head[2:4] in (b"+\0", b"\0+")
        pointer, count_format, entry_bytes = ("Q", "Q", 20) if is_big else ("I", "H", 12)
        width = struct.calcsize(f"{order}{pointer}")
        (offset,) = struct.unpack_from(f"{order}{pointer}", head.ljust(16, b"\0"), 8 if is_big else 4)
        while offset and offset not in seen and len(found) < MAX_PAGES:
            seen.add(offset)
            handle.seek(min(offset, 2**62))
            count_bytes = handle.read(struct.calcsize(f"{order}{count_format}"))
            if len(count_bytes) < struct.calcsize(f"{order}{count_format}"):
                break
            (count,) = struct.unpack(f"{order}{count_format}", count_bytes)
            if not 0 < count <= 4096:  # as tifffile has it
                break
            entries = handle.read(count * entry_bytes + width)
            if len(entries) < count * entry_bytes:
                break
            kind = 0
            for start in range(0, count * entry_bytes, entry_bytes):
                if struct.unpack_from(f"{order}H", entries, start)[0] == 254:
                    (kind,) = struct.unpack_from(f"{order}I", entries, start + entry_bytes - width)
            found.append((offset, kind))
            tail = entries[count * entry_bytes :].ljust(width, b"\0")
            (offset,) = struct.unpack(f"{order}{pointer}", tail)
    if not found:
        raise ImageError("expected a TIFF file with an image; got one whose directory is damaged; restore it")
    return found


def _images(directories: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """(directories of images, directories of masks); thumbnails and overviews are neither."""
    images = [index for index, (_, kind) in enumerate(directories) if not kind & (_REDUCED | _MASK)]
    masks = [index for index, (_, kind) in enumerate(directories) if kind & _MASK and not kind & _REDUCED]
    return images or [0], masks


def _page(file: tifffile.TiffFile, directories: list[tuple[int, int]], index: int) -> Any:
    """A page of the file, by the offset of its directory."""
    import tifffile

    if index == 0:
        return file.pages.first
    file.filehandle.seek(directories[index][0])
    return tifffile.TiffPage(file, index)


def _describe(page: Any, num_planes: int, names: tuple[str | None, ...]) -> ImageDescription:
    """The description of the samples of a page.

    Raises:
        ImageError: a kind that is not read.
    """
    model = _model(page)
    if page.dtype is None or page.dtype.kind not in "buif":
        got = f"{page.bitspersample} bits of sample format {page.sampleformat}" if page.dtype is None else page.dtype
        raise ImageError(
            f"expected whole numbers or floats; got {got}; convert the image, to its magnitude for instance"
        )
    bits = page.bitspersample if isinstance(page.bitspersample, int) else page.dtype.itemsize * 8
    num_samples = page.shaped[0] * page.shaped[4]
    colours = {"palette": 1, "cmyk": 4, "grey": 1, "inverted": 1}.get(model, 3)
    if num_samples < colours:
        raise ImageError(f"expected {colours} samples of a pixel ({model}); got {num_samples}; convert it to RGB")
    description = ImageDescription(
        size=(page.imagelength, page.imagewidth),
        dtype=np.dtype(np.uint8) if page.dtype.kind == "b" else page.dtype.newbyteorder("="),
        bits=1 if page.dtype.kind == "b" else bits,
        model=model,
        num_samples=num_samples * num_planes,
        orientation=_orientation(page),
        names=names,
        nodata=_nodata(page),
    )
    if num_planes > 1:
        return description
    interpretations, band_names = _gdal_bands(page)
    if band_names:
        description = replace(
            description, names=tuple(band_names.get(band) for band in range(description.num_channels))
        )
    first_extra = description.num_channels - (num_samples - colours)
    for position, kind in enumerate(tuple(page.extrasamples)[: num_samples - colours]):
        channel = first_extra + position
        said = f"{interpretations.get(channel, '')} {band_names.get(channel, '')}".lower()
        if int(kind) in (1, 2) and not any(word in said for word in ("undefined", "grey", "gray", "nir", "infrared")):
            return replace(description, alpha=channel, is_premultiplied=int(kind) == 1)
    return description


def _model(page: Any) -> ColourModel:
    """What the samples of a page mean.

    Raises:
        ImageError: a kind that is not read.
    """
    photometric, compression = int(page.photometric), int(page.compression)
    if photometric in (32803, 34892) or compression in (32767, 32769, 32770, 32772, 34713):
        raise ImageError("expected a picture; got raw data of a camera; develop it and save it as TIFF, PNG or JPEG")
    if compression not in _COMPRESSIONS:
        name = getattr(page.compression, "name", str(compression))
        raise ImageError(f"expected a usual compression; got {name} in a TIFF file; save it with LZW or Deflate")
    if photometric == 4:  # a mask alone in its file
        return "grey"
    if photometric == 5 and int(page.tags.valueof(332, 1)) != 1:  # InkSet
        raise ImageError("expected the inks cyan, magenta, yellow and black; got others; convert the image to RGB")
    if photometric not in _MODELS:
        name = getattr(page.photometric, "name", str(photometric))
        raise ImageError(f"expected grey, RGB, a palette, CMYK, YCbCr or Lab; got {name}; convert the image to RGB")
    model = _MODELS[photometric]
    return "rgb" if model == "ycbcr" and compression in _RGB_CODECS else model


def _orientation(page: Any) -> int:
    value = page.tags.valueof(_ORIENTATION, 1)
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def _nodata(page: Any) -> tuple[float, ...]:
    """The value of the tag of GDAL; tifffile refuses some, such as the lowest float32 in 17 digits."""
    try:
        return (float(str(page.tags.valueof(_GDAL_NODATA, "")).strip("\0 ")),)
    except ValueError:
        return ()


def _gdal_bands(page: Any) -> tuple[dict[int, str], dict[int, str]]:
    """(colour interpretation, description) of the bands, from the tag of GDAL."""
    interpretations: dict[int, str] = {}
    names: dict[int, str] = {}
    try:
        root = ElementTree.fromstring(str(page.tags.valueof(_GDAL_METADATA, "")).strip("\0 "))
        for item in root.iter("Item"):
            sample, text = item.get("sample", ""), (item.text or "").strip()
            if sample.isdecimal() and len(sample) < 6 and text:
                if item.get("role") == "description":
                    names[int(sample)] = text
                elif item.get("role") == "colorinterp":
                    interpretations[int(sample)] = text
    except ElementTree.ParseError:
        pass
    return interpretations, names


def _decode(page: Any) -> np.ndarray:
    """(H, W, samples) of one page."""
    num_bytes = math.prod(page.shaped) * page.dtype.itemsize
    if num_bytes > MAX_DECODED_BYTES:
        raise ImageError(
            f"expected samples of at most {MAX_DECODED_BYTES / 2**30:g} GiB; got {num_bytes / 2**30:.1f} GiB; cut the "
            "image, or save fewer channels"
        )
    file_bytes = page.parent.filehandle.size
    if any(start + count > file_bytes for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)):
        raise ImageError("expected a whole file; got one that ends before its pixels do; restore it")
    if is_decoded_whole(page):
        samples = _decode_subsampled(page)
    else:
        decoded = page.asarray(squeeze=False, maxworkers=1)  # (planes, depth, H, W, samples)
        samples = decoded[0, 0] if decoded.shape[0] == 1 else np.moveaxis(decoded[:, 0, ..., 0], 0, -1)
    return samples.view(np.uint8) if samples.dtype.kind == "b" else samples


def is_decoded_whole(page: Any) -> bool:
    """Whether tifffile does not decode the strips of a page, but this module does: YCbCr with chroma of blocks."""
    return bool(page.is_subsampled) and int(page.photometric) == 6 and int(page.compression) not in _RGB_CODECS


def _decode_subsampled(page: Any) -> np.ndarray:
    """(H, W, 3) of YCbCr whose chroma is stored for blocks of pixels: Y of the block row by row, then Cb and Cr."""
    import tifffile

    across, down = page.subsampling or (2, 2)
    height, width = page.imagelength, page.imagewidth
    if page.is_tiled or page.planarconfig != 1 or page.bitspersample != 8 or {across, down} - {1, 2, 4}:
        raise ImageError("expected YCbCr of 8 bits in strips; got another kind; convert the image to RGB")
    decompress = None if page.compression == 1 else tifffile.TIFF.DECOMPRESSORS[int(page.compression)]
    rows = min(page.rowsperstrip, height)
    columns = -(-width // across)
    result = np.empty((height, width, 3), np.uint8)
    strips = zip(page.dataoffsets, page.databytecounts, strict=False)
    for top, (start, count) in zip(range(0, height, rows), strips, strict=False):
        page.parent.filehandle.seek(start)
        data = page.parent.filehandle.read(count)
        lines = -(-min(rows, height - top) // down)
        size = lines * columns * (across * down + 2)
        units = np.frombuffer(data if decompress is None else decompress(data, out=size), np.uint8)
        if len(units) < size:
            raise ImageError("expected a whole strip of pixels; got a part of it; the file is damaged")
        units = units[:size].reshape(lines, columns, across * down + 2)
        blocks = units[..., :-2].reshape(lines, columns, down, across)
        luma = blocks.swapaxes(1, 2).reshape(lines * down, columns * across)
        chroma = units[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
        stop = min(top + rows, height)
        result[top:stop, :, 0] = luma[: stop - top, :width]
        result[top:stop, :, 1:] = chroma[: stop - top, :width]
    return result
