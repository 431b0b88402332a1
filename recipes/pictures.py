"""Pictures of the README and the guides: example photographs at several granularities, by the default method.

    python recipes/pictures.py examples/photos docs/images [--model RUN]

Writes demo.jpg (three photographs, granularities .5 and .3), granularities.jpg (all of them, .7, .5, .3) and clicks.jpg
(the mask for a click at granularities .1, .3, .6 and 1). With a promptable run also network.jpg: the first mask for a
click and that at .3, by the default method, the network, and the network with snapped masks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import masktree
from masktree.io.images import read_image
from sheets import beside, resized


def column(image: np.ndarray, granularities: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """A photograph above its cuts, each resized to (width, height)."""
    tree = masktree.load("embedded")(image)
    pictures = [image, *(tree.draw(image, granularity=g, shows="cut") for g in granularities)]
    return beside([resized(p, size) for p in pictures], axis=0)


def masks_at(
    image: np.ndarray,
    click: tuple[int, int],
    sources: Sequence[Any],
    granularities: Sequence[float | None],
    size: tuple[int, int],
) -> np.ndarray:
    """A photograph with a click, and the mask of each source at each granularity, its background faded."""
    pictures = [image]
    for source in sources:
        predictor = masktree.Predictor(source)
        predictor.set_image(image)
        for g in granularities:
            [mask], _, _ = predictor.predict([click], [1], multimask_output=False, granularity=g)
            pictures.append(np.where(mask[..., None], image, 255 - (255 - image) // 5))
    small = [resized(picture, size).copy() for picture in pictures]
    x, y = (round(c * s / side) for c, s, side in zip(click, size, image.shape[1::-1], strict=True))
    for radius, colour in ((6, (255, 255, 255)), (4, (220, 0, 0))):
        for picture in small:
            picture[y - radius : y + radius + 1, x - radius : x + radius + 1] = colour
    return beside(small, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("docs", type=Path)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    images = {path.stem: read_image(path) for path in sorted(options.photos.glob("*.jpg"))}
    chosen = {"astronaut": (300, 300), "coffee": (450, 300), "tissue": (300, 300)}
    demo = beside([column(images[name], (0.5, 0.3), size) for name, size in chosen.items()], axis=1)
    Image.fromarray(demo).save(options.docs / "demo.jpg", quality=88)
    names = list(images)
    rows = [[column(images[name], (0.7, 0.5, 0.3), (200, 160)) for name in names[k : k + 5]] for k in (0, 5)]
    both = beside([beside(row, axis=1) for row in rows], axis=0)
    Image.fromarray(both).save(options.docs / "granularities.jpg", quality=85)
    clicks = {"astronaut": (220, 120), "tissue": (150, 150), "photographer": (220, 250)}
    default = [masktree.load("embedded")]
    shown = [masks_at(images[name], click, default, (0.1, 0.3, 0.6, 1.0), (160, 160)) for name, click in clicks.items()]
    Image.fromarray(beside(shown, axis=0)).save(options.docs / "clicks.jpg", quality=85)
    if options.model:
        sources = default + [masktree.load(options.model, snap=snap) for snap in (False, True)]
        clicks |= {"coffee": (300, 150), "cat": (230, 150)}
        shown = [masks_at(images[name], click, sources, (None, 0.3), (120, 120)) for name, click in clicks.items()]
        Image.fromarray(beside(shown, axis=0)).save(options.docs / "network.jpg", quality=85)


if __name__ == "__main__":
    main()
