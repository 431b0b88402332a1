"""The pictures of README and guide: example photographs at several granularities, by the default method.

    python recipes/pictures.py examples/photos docs

Writes docs/demo.jpg (three photographs, granularities .5 and .3) and docs/granularities.jpg (all of them, .7, .5, .3).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import masktree
from masktree.images import read_image

GAP = 6  # pixels


def column(image: np.ndarray, granularities: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """A photograph above its cuts, each resized to (width, height)."""
    tree = masktree.load("embedded")(image)
    pictures = [image, *(tree.draw(image, granularity=g) for g in granularities)]
    return beside([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.LANCZOS)) for p in pictures], axis=0)


def beside(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Pictures with white gaps between them."""
    height, width, _ = pictures[0].shape
    gap = np.full((GAP, width, 3) if axis == 0 else (height, GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("docs", type=Path)
    options = parser.parse_args()
    images = {path.stem: read_image(path) for path in sorted(options.photos.glob("*.jpg"))}
    chosen = {"astronaut": (300, 300), "coffee": (450, 300), "tissue": (300, 300)}
    demo = beside([column(images[name], (0.5, 0.3), size) for name, size in chosen.items()], axis=1)
    Image.fromarray(demo).save(options.docs / "demo.jpg", quality=88)
    names = list(images)
    rows = [[column(images[name], (0.7, 0.5, 0.3), (200, 160)) for name in names[k : k + 5]] for k in (0, 5)]
    both = beside([beside(row, axis=1) for row in rows], axis=0)
    Image.fromarray(both).save(options.docs / "granularities.jpg", quality=85)


if __name__ == "__main__":
    main()
