"""The ten first masks of photographs, by the default method and by trained models pooled with it, side by side.

    python recipes/first_masks.py examples/photos docs/images/first_masks.jpg --model RUN

One row for each photograph: the photograph, the ten masks with the highest scores by the default method, and those of
``segment --model RUN --pool --regroup``. What is first is what ``--max-masks 10`` keeps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import masktree
from masktree.io.images import read_image
from masktree.trees.draw import overlay
from sheets import beside, resized

COUNT = 10
SIDE = 200  # pixels, of the longer side of a picture
COLUMNS = 2  # photographs beside each other


def row(image: np.ndarray, segmenters: list[Callable[[np.ndarray], masktree.MaskTree]]) -> np.ndarray:
    """A photograph and its first masks by each segmenter, on a square of white."""
    scale = SIDE / max(image.shape[:2])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    pictures = [image, *(overlay(image, segment(image)) for segment in segmenters)]
    return beside([on_square(resized(picture, size)) for picture in pictures], axis=1)


def on_square(picture: np.ndarray) -> np.ndarray:
    """A picture in the middle of SIDE x SIDE white pixels."""
    square = np.full((SIDE, SIDE, 3), 255, np.uint8)
    top, left = (SIDE - picture.shape[0]) // 2, (SIDE - picture.shape[1]) // 2
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return square


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", type=Path, action="append", default=[], help="run of masktree train, or several")
    options = parser.parse_args()
    segmenters: list[Callable[[np.ndarray], masktree.MaskTree]] = [masktree.load(max_masks=COUNT)]
    segmenters += [masktree.load(run, pool=True, regroup=True, max_masks=COUNT) for run in options.model]
    rows = [row(read_image(path), segmenters) for path in sorted(options.photos.iterdir()) if path.suffix != ".md"]
    blank = np.full_like(rows[0], 255)
    rows += [blank] * (-len(rows) % COLUMNS)
    sheet = [beside(rows[k : k + COLUMNS], axis=1) for k in range(0, len(rows), COLUMNS)]
    Image.fromarray(beside(sheet, axis=0)).save(options.picture, quality=82)


if __name__ == "__main__":
    main()
