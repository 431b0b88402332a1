"""The picture of a large image as a file of 8-bit RGB, made strip by strip, with one range of values for all of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from masktree.io.channels import choose_channels
from masktree.io.files import read_json, write_json
from masktree.io.image_description import ImageDescription, upright
from masktree.io.raster import find_rendering
from masktree.io.read_options import ReadOptions
from masktree.types import RGB

_STRIP_ROWS = 512  # converted at once: 20 MB of 16-bit grey 20,000 pixels wide (our choice)
_PICTURE, _READING, _VALUES = "image.npy", "reading.json", "values.part"


@dataclass(frozen=True)
class Reading:
    """What became of the values of an image, see ``masktree.io.raster.DecodedImage``.

    Attributes:
        record: channels and ranges of values; empty for ordinary 8-bit images.
        notes: what a reader should be told, by kind.
        orientation: of the stored picture, 1 to 8.
    """

    record: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    orientation: int = 1

    def values(self) -> dict[str, Any]:
        """Plain values for the header of a tree: channels, ranges of values and notes, where there are any."""
        return self.record | ({"notes": self.notes} if self.notes else {})


def open_copy(folder: Path) -> tuple[RGB, Reading] | None:
    """The picture in a folder, mapped into memory and upright; None if there is none."""
    if not (folder / _READING).exists():
        return None
    reading = Reading(**read_json(folder / _READING, {"record": dict, "notes": dict, "orientation": int}))
    return upright(np.load(folder / _PICTURE, mmap_mode="r"), reading.orientation), reading


def write_copy(folder: Path, size: tuple[int, int], strip: Callable[[int, int], RGB], reading: Reading) -> None:
    """Write a picture of ``size``, as stored, atomically; ``strip`` gives rows ``top`` to ``bottom`` - 1."""
    part = folder / "image.part"
    picture = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(*size, 3))
    for top in range(0, size[0], _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, size[0])
        picture[top:bottom] = strip(top, bottom)
    picture.flush()
    os.replace(part, folder / _PICTURE)
    write_json(folder / _READING, asdict(reading))


def write_rendered_copy(
    folder: Path,
    channels: Callable[[int, int], np.ndarray],
    description: ImageDescription,
    options: ReadOptions,
    valid: np.ndarray | None,
) -> None:
    """Write the picture of ``masktree.io.raster.render``; the chosen channels lie in a file beside it meanwhile.

    Args:
        folder: where the picture goes.
        channels: (rows, W, C) of ``masktree.io.colour_model.to_channels``, of the rows ``top`` to ``bottom`` - 1.
        description, options, valid: of the image, see ``render``.

    Raises:
        ImageError: as ``render``.
    """
    choice = choose_channels(description, options.channels)
    chosen = [*choice.channels, *(() if choice.alpha is None else (choice.alpha,))]
    height, width = description.size
    dtype = channels(0, 1).dtype
    path = folder / _VALUES
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(height, width, len(chosen)))
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, height)
        stored[top:bottom] = channels(top, bottom)[..., chosen]
    values = stored[..., : len(choice.channels)]
    alpha = None if choice.alpha is None else stored[..., -1]
    rendering = find_rendering(values, alpha, choice, description, options, valid)

    def strip(top: int, bottom: int) -> RGB:
        rows = slice(top, bottom)
        return rendering.apply(
            np.asarray(values[rows]),
            None if alpha is None else np.asarray(alpha[rows]),
            None if valid is None else valid[rows],
        )

    record = {"channels": list(rendering.shown_channels), "value_range": [list(r) for r in rendering.value_ranges]}
    reading = Reading(record if rendering.value_ranges else {}, rendering.notes, description.orientation)
    write_copy(folder, description.size, strip, reading)
    path.unlink()
