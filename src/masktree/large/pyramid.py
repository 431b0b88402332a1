"""Reduced copies of a large image, by factors of two, in files that are mapped into memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from masktree.io.windows import ArrayWindows, ImageWindows, Window

_STRIP_ROWS = 512  # of the image, that are reduced at once: 31 MB of an image 20,000 pixels wide (our choice)


def level_factors(size: tuple[int, int], side: int) -> list[int]:
    """1, 2, 4 ... up to the first factor by which the image, reduced, fits into ``side`` x ``side`` pixels."""
    factors = [1]
    while max(reduced_size(size, factors[-1])) > side:
        factors.append(2 * factors[-1])
    return factors


def reduced_size(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """(height, width) of an image whose pixels are the means of ``factor`` x ``factor`` pixels."""
    return -(-size[0] // factor), -(-size[1] // factor)


def write_levels(windows: ImageWindows, folder: Path, factors: list[int]) -> None:
    """Write the copies of all factors but 1, unless they are there; the image is read once, by strips."""
    reduced = [factor for factor in factors if factor > 1]
    if all(_level(folder, factor).exists() for factor in reduced):
        return
    paths = {factor: _level(folder, factor).with_suffix(".part") for factor in reduced}
    copies = {
        factor: np.lib.format.open_memmap(
            path, mode="w+", dtype=np.uint8, shape=(*reduced_size(windows.size, factor), 3)
        )
        for factor, path in paths.items()
    }
    height, width = windows.size
    rows = max(_STRIP_ROWS, factors[-1])
    for top in range(0, height, rows):
        strip = Image.fromarray(windows.read(Window(top, 0, min(top + rows, height), width)))
        for factor in reduced:
            strip = strip.reduce(2)
            copies[factor][top // factor : top // factor + strip.height] = np.asarray(strip)
    for factor, path in paths.items():
        copies[factor].flush()
        os.replace(path, _level(folder, factor))


def open_level(windows: ImageWindows, folder: Path, factor: int) -> ImageWindows:
    """The image at a factor that ``write_levels`` has written."""
    return windows if factor == 1 else ArrayWindows(np.load(_level(folder, factor), mmap_mode="r"))


def _level(folder: Path, factor: int) -> Path:
    return folder / f"reduced_{factor}.npy"
