"""Pictures of trees: arrays in, arrays out."""

from __future__ import annotations

import colorsys

import numpy as np

from masktree.errors import InputError
from masktree.masks import MaskTree
from masktree.types import RGB, Labels, checked

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
        InputError: image and tree differ in size.
    """
    if image.shape[:2] != tree.size:
        raise InputError(f"expected an image of {tree.size[0]} x {tree.size[1]} pixels; got {image.shape[:2]}")
    entities = tree.cut(granularity)
    pieces = tree.cut(granularity / 2 if parts is None else parts)
    colours = _colours(image, entities, pieces)
    covered = np.ones(tree.size, bool) if tree.partition is not None else tree.owners(granularity) >= 0
    grey = image.mean(axis=2, keepdims=True).astype(np.float32)
    base = np.where(covered[..., None], image, grey).astype(np.float32)
    painted = np.where(covered[..., None], (1 - opacity) * base + opacity * colours, 0.75 * base + 40.0)
    thickness = max(1, round(max(tree.size) / 700))
    fine = _borders(pieces, 1)
    painted[fine] = 0.55 * painted[fine] + 0.45 * 255.0
    strong = _borders(entities, thickness)
    painted[strong] = 0.15 * painted[strong] + 0.85 * np.array([255.0, 255.0, 255.0])
    return np.clip(np.rint(painted), 0, 255).astype(np.uint8)


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


def _colours(image: RGB, entities: Labels, pieces: Labels) -> np.ndarray:
    """(H, W, 3) float32 colour of each pixel: hue by entity, lightness by the piece's own brightness in it."""
    n_entities, n_pieces = int(entities.max()) + 1, int(pieces.max()) + 1
    # Large entities take the first hues, which lie farthest apart.
    order = np.argsort(-np.bincount(entities.ravel(), minlength=n_entities), kind="stable")
    hue = np.empty((n_entities, 3), np.float32)
    hue[order] = _palette(n_entities)
    counts = np.maximum(np.bincount(pieces.ravel(), minlength=n_pieces), 1)
    brightness = np.bincount(pieces.ravel(), image.mean(axis=2).ravel(), n_pieces) / counts
    shade = (0.6 + 0.6 * brightness / 255.0)[pieces][..., None].astype(np.float32)
    return np.clip(hue[entities] * shade, 0, 255)


def _borders(labels: Labels, thickness: int) -> np.ndarray:
    """(H, W) bool: pixels within ``thickness`` of a label change to the right or below."""
    border = np.zeros(labels.shape, bool)
    for step in range(1, thickness + 1):
        border[:-step] |= labels[:-step] != labels[step:]
        border[:, :-step] |= labels[:, :-step] != labels[:, step:]
    return border
