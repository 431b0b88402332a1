"""Pictures of trees: arrays in, arrays out."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator

import numpy as np

from masktree.errors import InputError
from masktree.trees.masktree import MaskTree
from masktree.types import RGB, Labels, checked

_STRIP = 1 << 20  # pixels painted at once
_GOLDEN = 0.618033988749895  # successive hues at golden-ratio steps stay far apart for any number of entities


@checked
def overlay(
    image: RGB, tree: MaskTree, *, granularity: float = 0.5, parts: float | None = None, opacity: float = 0.55
) -> RGB:
    """Draw a tree over its image: one hue per entity, shades of it for the parts, thin borders.

    Args:
        image: (H, W, 3) uint8 RGB of the size of the tree.
        tree: the masks.
        granularity: entities are the regions of ``tree.cut(granularity)``.
        parts: parts are the regions of this finer cut; half of ``granularity`` if None (our choice).
        opacity: share of the colour, 0..1.

    Returns:
        (H, W, 3) uint8 RGB. What no mask covers keeps the photograph, greyed.

    Raises:
        InputError: another kind of image, image and tree differ in size, or a value is out of range.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"expected an (H, W, 3) uint8 RGB image, values 0 to 255; got {got}; see masktree.read_image")
    if image.shape[:2] != tree.size:
        raise InputError(f"expected an image of {tree.size[0]} x {tree.size[1]} pixels; got {image.shape[:2]}")
    if not 0.0 <= opacity <= 1.0:
        raise InputError(f"expected an opacity in [0, 1]; got {opacity}")
    entities = tree.cut(granularity)
    pieces = tree.cut(granularity / 2 if parts is None else parts)
    covered = np.ones(tree.size, bool) if tree.dendrogram is not None else tree.owners(granularity) >= 0
    hues, shades = _hues(entities), _shades(image, pieces)
    fine, strong = _borders(pieces, 1), _borders(entities, max(1, round(max(tree.size) / 700)))
    picture = np.empty_like(image)
    for rows in _strips(image):
        photo = image[rows].astype(np.float32)
        colour = hues[entities[rows]] * shades[pieces[rows]][..., None]
        grey = 0.75 * photo.mean(axis=2, keepdims=True) + 40
        painted = np.where(covered[rows][..., None], (1 - opacity) * photo + opacity * colour, grey)
        painted[fine[rows]] = 0.55 * painted[fine[rows]] + 0.45 * 255
        painted[strong[rows]] = 0.15 * painted[strong[rows]] + 0.85 * 255
        picture[rows] = np.rint(painted)
    return picture


@checked
def colour_labels(labels: Labels) -> RGB:
    """A label map in distinct colours: (H, W, 3) uint8."""
    return np.rint(_palette(int(labels.max()) + 1)[labels]).astype(np.uint8)


def _palette(n: int) -> np.ndarray:
    """(n, 3) float32 saturated colours, 0..255, hues at golden-ratio steps, two brightness rings."""
    colours = [
        colorsys.hsv_to_rgb((0.07 + i * _GOLDEN) % 1.0, 0.85 - 0.25 * (i % 2), 0.95 - 0.2 * (i // 2 % 2))
        for i in range(n)
    ]
    return 255.0 * np.array(colours, np.float32).reshape(n, 3)


def _hues(entities: Labels) -> np.ndarray:
    """(n, 3) float32 colour of each entity; large entities take the first hues, which lie farthest apart."""
    areas = np.bincount(entities.ravel())
    hues = np.empty((len(areas), 3), np.float32)
    hues[np.argsort(-areas, kind="stable")] = _palette(len(areas))
    return hues


def _shades(image: RGB, pieces: Labels) -> np.ndarray:
    """(n,) float32 factor of each piece, lighter where the photograph is brighter: 0.6 to 1.05, so that no colour of
    the palette passes 255, which would change its hue."""
    n = int(pieces.max()) + 1
    total = np.zeros(n)
    for rows in _strips(image):
        total += np.bincount(pieces[rows].ravel(), image[rows].mean(axis=2).ravel(), n)
    brightness = total / np.maximum(np.bincount(pieces.ravel(), minlength=n), 1)
    return (0.6 + 0.45 * brightness / 255).astype(np.float32)


def _strips(image: RGB) -> Iterator[slice]:
    """Row ranges of about a megapixel: floating-point copies of a whole large photograph would cost gigabytes."""
    step = max(1, _STRIP // image.shape[1])
    for start in range(0, image.shape[0], step):
        yield slice(start, start + step)


def _borders(labels: Labels, thickness: int) -> np.ndarray:
    """(H, W) bool: pixels within ``thickness`` of a label change to the right or below."""
    border = np.zeros(labels.shape, bool)
    for step in range(1, thickness + 1):
        border[:-step] |= labels[:-step] != labels[step:]
        border[:, :-step] |= labels[:, :-step] != labels[:, step:]
    return border
