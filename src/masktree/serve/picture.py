"""Photographs as the browser shows them: decoded as they were segmented, reduced and encoded."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from masktree.errors import InputError
from masktree.io.images import decode_image
from masktree.io.resize import resize_image
from masktree.serve.cache import BoundedCache
from masktree.serve.folder import Entry, Folder, signature
from masktree.types import RGB

DEFAULT_SIDE = 4096
MAX_SIDE = 16384  # of canvases in browsers
MAX_SHOWN_PIXELS = 100_000_000  # of a picture that is sent
THUMBNAIL_SIDE = 160
_CACHE_BYTES = 128 * 2**20  # of encoded pictures: some hundred of 12 megapixels (our choice)
_QUALITY, _THUMBNAIL_QUALITY = 92, 80  # of JPEG (our choice)
_SMALL_PIXELS = 256 * 256  # sent without loss (our choice)
_MAX_COLOURS = 256


@dataclass(frozen=True)
class Encoded:
    """A picture for the browser, and (height, width) of the photograph."""

    data: bytes
    media_type: str
    full_size: tuple[int, int]


class Pictures:
    """Encoded pictures of the images of a folder; the most recent ones are kept in memory."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._cache: BoundedCache[Encoded] = BoundedCache(_CACHE_BYTES, lambda picture: len(picture.data))

    def picture(self, entry: Entry, side: int = DEFAULT_SIDE) -> Encoded:
        """The photograph, its longer side at most ``side`` pixels.

        Raises:
            InputError: a side out of range.
            ImageError, RefusalError: the photograph cannot be read.
        """
        if not 1 <= side <= MAX_SIDE:
            raise InputError(f"expected a side from 1 to {MAX_SIDE} pixels; got {side}")
        return self._cached(entry, side, is_thumbnail=False)

    def thumbnail(self, entry: Entry) -> Encoded:
        """A JPEG of at most 160 pixels."""
        return self._cached(entry, THUMBNAIL_SIDE, is_thumbnail=True)

    def _cached(self, entry: Entry, side: int, *, is_thumbnail: bool) -> Encoded:
        path = self._folder.photo(entry)
        key = entry.id, side, is_thumbnail, signature(path), signature(entry.tree)

        def compute() -> Encoded:
            rgb = decode_image(path, self._folder.read_options(entry)).rgb
            small = reduce_image(rgb, side)
            data, media_type = _encode_jpeg(small, _THUMBNAIL_QUALITY) if is_thumbnail else encode(small)
            return Encoded(data, media_type, (rgb.shape[0], rgb.shape[1]))

        return self._cache.get(key, compute)


def reduce_image(rgb: RGB, side: int) -> RGB:
    """The image with its longer side at most ``side`` and at most ``MAX_SHOWN_PIXELS``; smaller ones stay as they
    are."""
    height, width = rgb.shape[:2]
    scale = min(1.0, side / max(height, width), (MAX_SHOWN_PIXELS / (height * width)) ** 0.5)
    if scale == 1.0:
        return rgb
    return resize_image(rgb, (max(1, int(height * scale)), max(1, int(width * scale))))


def encode(rgb: RGB) -> tuple[bytes, str]:
    """PNG, without loss, of small pictures and those of few colours; JPEG of others."""
    height, width = rgb.shape[:2]
    if height * width <= _SMALL_PIXELS or _has_few_colours(rgb):
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue(), "image/png"
    return _encode_jpeg(rgb, _QUALITY)


def _encode_jpeg(rgb: RGB, quality: int) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue(), "image/jpeg"


def _has_few_colours(rgb: RGB) -> bool:
    """Whether a picture has at most 256 colours; photographs are known by a sample of rows."""
    for rows in (rgb[:: max(1, rgb.shape[0] // 16)], rgb):
        codes = rows.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
        if len(np.unique(codes)) > _MAX_COLOURS:
            return False
    return True
