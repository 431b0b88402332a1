"""Label images: a number for each region, 0 for background, as TIFF or PNG; several channels are several cuts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from masktree.errors import FormatError, MasktreeError
from masktree.importers.image import ForeignImage, ForeignMask, foreign
from masktree.io.images import MAX_PIXELS
from masktree.trees import rle

_SUFFIXES = (".tiff", ".tif", ".png", ".ome")


def read_label_image(path: Path) -> Iterator[ForeignImage]:
    """The image of a file, named as the file is. A region that several channels have alike is one mask; parents are by
    coverage.

    Raises:
        FormatError: damaged, or no label image.
    """
    name = path.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)

    def read(_: tuple[int, int] | None) -> tuple[tuple[int, int], list[ForeignMask]]:
        with foreign(f"{path}: a label image"):
            channels = _read_channels(path)
        size = channels.shape[1], channels.shape[2]
        masks: dict[bytes, None] = {}
        for labels in channels:
            values, dense = np.unique(labels, return_inverse=True)
            dense = dense.reshape(size).astype(np.int32)
            numbers = np.flatnonzero(values != 0)
            masks |= dict.fromkeys(rle.encode_intervals(dense, numbers, numbers + 1))
        return size, [ForeignMask(mask) for mask in masks]

    yield ForeignImage(name, read, path)


def _read_channels(path: Path) -> np.ndarray:
    """(C, H, W) whole numbers."""
    if path.suffix.lower() in (".tif", ".tiff"):
        from tifffile import TiffFile

        try:
            with TiffFile(path) as file:
                series = file.series[0]
                _check(series.dtype, int(np.prod(series.shape)), path)
                channels: Any = series.asarray()
        except MasktreeError:
            raise
        except Exception as error:  # tifffile documents none; damaged files raise struct.error and many others
            raise FormatError(f"{path}: expected a label image; got a damaged file ({error})") from error
    else:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.mode not in ("1", "L", "P", "I", "I;16"):
                raise FormatError(f"{path}: expected a grey or palette PNG of labels; got one of mode {picture.mode}")
            _check(np.dtype(np.int32), picture.width * picture.height, path)
            channels = np.asarray(picture)
    channels = channels.reshape(-1, *channels.shape[-2:]) if channels.ndim >= 2 else channels
    if channels.ndim != 3:
        raise FormatError(f"{path}: expected a label image of channels, rows and columns; got another")
    return np.asarray(channels)


def _check(dtype: np.dtype[Any], count: int, path: Path) -> None:
    if dtype.kind not in "iub" or not 0 < count <= MAX_PIXELS:
        raise FormatError(
            f"{path}: expected whole numbers as labels, at most {MAX_PIXELS:,} of them; got {count:,} values of type "
            f"{dtype}"
        )
