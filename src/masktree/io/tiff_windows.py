"""The samples of a TIFF file by window: of its tiles or strips only those of a window are decoded."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masktree.io.tiff import TiffPage, is_decoded_whole

if TYPE_CHECKING:
    from tifffile import TiffPage as StoredPage

_CACHE_BYTES = 2**27  # of decoded segments: strips of an image 20,000 pixels wide, as tall as a window, take 77 MB
_MAX_SEGMENT_BYTES = 2**27  # a larger strip or tile is not decoded for each window anew


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

    def slices_in(self, other: Window) -> tuple[slice, slice]:
        """Rows and columns in the pixels of another window that contains this one."""
        return (
            slice(self.top - other.top, self.bottom - other.top),
            slice(self.left - other.left, self.right - other.left),
        )

    def intersection(self, other: Window) -> Window:
        """What it shares with another window that it overlaps."""
        return Window(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )


class TiffSamples:
    """The samples of one image of a TIFF file, in stored order and orientation.

    Attributes:
        size: (height, width).
        dtype: of a sample.
    """

    def __init__(self, path: Path, page: TiffPage) -> None:
        """Of an image of an open file, which may be closed then.

        Raises:
            ImageError: a file in one piece that is too large to be decoded.
        """
        description = page.description
        self.size, self.dtype = description.size, description.dtype
        self._planes: list[_Segments] = []
        self._whole: np.ndarray | None = None
        if all(_has_small_segments(plane) and not is_decoded_whole(plane) for plane in page.planes):
            self._planes = [_Segments(path, plane) for plane in page.planes]
        elif len(page.planes) == 1 and page.planes[0].is_memmappable and page.planes[0].planarconfig == 1:
            from tifffile import memmap

            mapped = np.asarray(memmap(path, page=page.planes[0].index, mode="r"))
            self._whole = mapped.reshape(*self.size, -1)
        else:
            self._whole = page.read_samples()

    def read(self, window: Window) -> np.ndarray:
        """(h, w, samples) of a window inside the image."""
        if self._whole is not None:
            return np.asarray(self._whole[window.slices()])
        parts = [plane.read(window).astype(self.dtype, copy=False) for plane in self._planes]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


class _Segments:
    """The tiles or strips of a page. The latest ones stay decoded, as neighbouring windows share them."""

    def __init__(self, path: Path, page: StoredPage) -> None:
        self._path, self.page = path, page
        self._offsets, self._counts = page.dataoffsets, page.databytecounts
        self._tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        self._decode = page.decode
        self._segments: OrderedDict[int, np.ndarray | None] = OrderedDict()
        self._bytes = 0

    def read(self, window: Window) -> np.ndarray:
        page = self.page
        # A segment that the file leaves out has the value for "no data".
        out = np.full((*window.size, page.samplesperpixel), page.nodata, page.dtype.newbyteorder("="))
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
        return out.view(np.uint8) if out.dtype.kind == "b" else out

    def _segment(self, index: int) -> np.ndarray | None:
        """(h, w, samples) of a tile or strip; None if the file leaves it out."""
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


def _has_small_segments(page: StoredPage) -> bool:
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    return min(rows, page.imagelength) * columns * samples * page.dtype.itemsize <= _MAX_SEGMENT_BYTES


def _paste(out: np.ndarray, segment: np.ndarray, top: int, left: int, plane: int) -> None:
    """Copy the part of a segment that falls on ``out``, of which it begins at row ``top`` and column ``left``."""
    rows = slice(max(top, 0), min(top + segment.shape[0], out.shape[0]))
    columns = slice(max(left, 0), min(left + segment.shape[1], out.shape[1]))
    part = segment[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    channels = slice(plane, plane + 1) if part.shape[2] < out.shape[2] else slice(None)
    out[rows, columns, channels] = part
