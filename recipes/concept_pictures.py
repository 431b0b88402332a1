"""Pictures of the concepts and limits pages: dendrogram, granularity, tree, levels and failures.

    python recipes/concept_pictures.py examples/photos docs/images

Writes dendrogram.png, granularity.jpg, tree.jpg, levels.jpg and limit-*.jpg with the default method.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import masktree
from masktree.io.images import read_image
from masktree.trees.draw import colour_labels
from sheets import beside, resized

LIMITS = {"gravel": (0.6, 0.5), "retina": (0.5, 0.3), "cat": (0.7, 0.5), "galaxies": (0.5, 0.3)}  # granularities
HEIGHT = 200  # pixels


def strip(pictures: Sequence[np.ndarray], height: int = HEIGHT) -> Image.Image:
    """Pictures of one image side by side."""
    width = round(height * pictures[0].shape[1] / pictures[0].shape[0])
    return Image.fromarray(beside([resized(picture, (width, height)) for picture in pictures], axis=1))


def outlined(image: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """The image with the masks outlined in yellow and the background darkened."""
    covered = np.any(masks, axis=0)
    picture = np.where(covered[..., None], image, image // 3)
    for mask in masks:
        inner = mask.copy()
        for axis in (0, 1):
            for step in (-2, 2):
                inner &= np.roll(mask, step, axis)
        picture[mask & ~inner] = (255, 220, 0)
    return picture


def painted(image: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """The image in grey with each mask in another colour, small masks on top."""
    numbers = np.zeros(image.shape[:2], np.int32)
    for number, mask in enumerate(sorted(masks, key=np.sum, reverse=True), start=1):
        numbers[mask] = number
    grey = image.mean(axis=2, keepdims=True)
    return np.where(numbers[..., None] > 0, 0.4 * grey + 0.6 * colour_labels(numbers), grey).astype(np.uint8)


def marked(image: np.ndarray, x: int, y: int) -> np.ndarray:
    """The image with a red square at a pixel."""
    picture = image.copy()
    picture[y - 8 : y + 9, x - 8 : x + 9] = 255
    picture[y - 6 : y + 7, x - 6 : x + 7] = (220, 0, 0)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("images", type=Path)
    options = parser.parse_args()
    segmenter = masktree.load("embedded")

    image = read_image(options.photos / "coins.jpg")
    dendrogram = segmenter(image).dendrogram
    assert dendrogram is not None
    cuts = [dendrogram.cut_count(k) for k in (dendrogram.n_leaves, 60, 12, 3)]
    pictures = [image, *(colour_labels(labels) for labels in cuts)]
    strip(pictures, 160).quantize(128).save(options.images / "dendrogram.png", optimize=True)

    image = read_image(options.photos / "coffee.jpg")
    tree = segmenter(image)
    cuts = [tree.draw(image, granularity=g, shows="cut") for g in (0.2, 0.4, 0.6, 0.8)]
    strip([image, *cuts], 150).save(options.images / "granularity.jpg", quality=80)

    x, y = 300, 150
    chain = [i for i in tree.at(x, y) if tree.scores[i] >= 0.9]
    shown = [chain[round(k)] for k in np.linspace(0, len(chain) - 1, 4)]
    pictures = [marked(image, x, y), *(outlined(image, [tree.mask(i)]) for i in shown)]
    strip(pictures, 150).save(options.images / "tree.jpg", quality=80)

    best = [np.flatnonzero(tree.levels == level) for level in range(3)]
    best = [indices[np.argsort(-tree.scores[indices])][:12] for indices in best]
    pictures = [image, *(painted(image, [tree.mask(i) for i in indices]) for indices in best)]
    strip(pictures, 180).save(options.images / "levels.jpg", quality=80)

    for name, granularities in LIMITS.items():
        image = read_image(options.photos / f"{name}.jpg")
        tree = segmenter(image)
        cuts = [tree.draw(image, granularity=g, shows="cut") for g in granularities]
        strip([image, *cuts]).save(options.images / f"limit-{name}.jpg", quality=80)


if __name__ == "__main__":
    main()
