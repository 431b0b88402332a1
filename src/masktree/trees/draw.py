"""Overlays of trees on images."""

from __future__ import annotations

import base64
import colorsys
import html
import io
import sys
import warnings
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageShow

from masktree.arguments import check_number, check_type
from masktree.errors import InputError
from masktree.io.images import ImageInput, as_rgb
from masktree.io.pixels import ImageFormat
from masktree.trees.dendrogram import renumber
from masktree.trees.masktree import LEVELS, MaskTree
from masktree.types import RGB, Labels, checked

Shows = Literal["masks", "cut"]  # what a picture shows

_STRIP_PIXELS = 1 << 20  # painted at once
_PREVIEW_SIDE = 320  # pixels of the longer side of a picture in a notebook (our choice)
_GOLDEN_RATIO = 0.618033988749895  # successive hues at these steps stay far apart for any number of entities


@checked
def overlay(
    image: ImageInput,
    tree: MaskTree,
    *,
    image_format: ImageFormat = "RGB",
    granularity: float = 0.5,
    part_granularity: float | None = None,
    shows: Shows = "masks",
    opacity: float = 0.55,
) -> RGB:
    """Draw a tree over its image: one hue per entity, shades of it for the parts, thin borders.

    Args:
        image: an image of the size of the tree: array, path or Pillow image, see ``masktree.io.images.as_rgb``.
        tree: the masks.
        image_format: order of the channels of an array.
        granularity: entities are the largest masks up to this granularity, or the regions of the cut at it.
        part_granularity: parts are those of this finer granularity; None takes half of ``granularity`` (our choice).
        shows: ``masks``: masks of the tree only, see ``MaskTree.owners``; ``cut``: the regions of
            ``tree.cut(granularity)``, which cover every pixel and need not be masks of the tree.
        opacity: of the colours, in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB. Pixels that no mask covers are grey.

    Raises:
        ImageError: the file cannot be read.
        InputError: an array whose meaning is ambiguous, another size than the tree's, or a value out of range.
    """
    image = as_rgb(image, image_format)
    check_type(tree, MaskTree, "a tree")
    if image.shape[:2] != tree.size:
        raise InputError(f"expected an image of {tree.size[0]} x {tree.size[1]} pixels; got {image.shape[:2]}")
    check_number(opacity, "an opacity", 0, 1)
    if shows not in get_args(Shows):
        raise InputError(f"expected a picture of {' or '.join(get_args(Shows))}; got {shows!r}")
    is_exact_cut = shows == "cut" and tree.dendrogram is not None
    covered = np.ones(tree.size, bool) if is_exact_cut else tree.owners(granularity) >= 0
    regions_at = tree.cut if shows == "cut" else lambda level: tree.owners(level) + 1
    entities = regions_at(granularity)
    parts = regions_at(granularity / 2 if part_granularity is None else part_granularity)
    hues, shades = _hues(entities), _shades(image, parts)
    thin, thick = _boundaries(parts, 1), _boundaries(entities, max(1, round(max(tree.size) / 700)))
    picture = np.empty_like(image)
    for rows in _strips(image):
        photo = image[rows].astype(np.float32)
        colour = hues[entities[rows]] * shades[parts[rows]][..., None]
        grey = 0.75 * photo.mean(axis=2, keepdims=True) + 40
        painted = np.where(covered[rows][..., None], (1 - opacity) * photo + opacity * colour, grey)
        painted[thin[rows]] = 0.55 * painted[thin[rows]] + 0.45 * 255
        painted[thick[rows]] = 0.15 * painted[thick[rows]] + 0.85 * 255
        picture[rows] = np.rint(painted)
    return picture


def show(
    image: ImageInput,
    tree: MaskTree,
    *,
    image_format: ImageFormat = "RGB",
    granularity: float = 0.5,
    shows: Shows = "masks",
) -> Image.Image:
    """Show a tree over its image. Notebooks display the returned picture; elsewhere the system's viewer opens it.

    Args:
        image, tree, image_format, granularity, shows: see :func:`overlay`.

    Returns:
        The overlay, to be saved with ``.save("overlay.png")`` for instance.

    Raises:
        ImageError, InputError: as :func:`overlay`.
    """
    picture = Image.fromarray(overlay(image, tree, image_format=image_format, granularity=granularity, shows=shows))
    ipython = sys.modules.get("IPython")
    if ipython is not None and hasattr(ipython.get_ipython(), "kernel"):
        return picture
    if not ImageShow.show(picture, title="masktree"):
        warnings.warn("there is no viewer for pictures here; save the returned one with .save(path)", stacklevel=2)
    return picture


def html_preview(tree: MaskTree) -> str:
    """``repr(tree)``, a small picture of the masks at granularity 0.5, grey where there are none, a row per level."""
    owners = tree.owners(0.5)
    step = max(1, -(-max(tree.size) // _PREVIEW_SIDE))
    labels = renumber(np.ascontiguousarray(owners[::step, ::step]) + 1)
    colours = colour_labels(labels)
    colours[owners[::step, ::step] < 0] = 128
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    picture = f'<img src="data:image/png;base64,{data}" alt="masks at granularity 0.5">'
    return f"<div>{html.escape(repr(tree))}</div>{picture}{_level_table(tree)}"


def _level_table(tree: MaskTree) -> str:
    """Number, areas, granularities and highest score of the masks of each level that has some, as an HTML table."""
    names = ("level", "masks", "smallest, pixels", "median", "largest", "granularity", "best score")
    rows = ["".join(f"<th>{name}</th>" for name in names)]
    for level, name in enumerate(LEVELS):
        chosen = tree.levels == level
        if not chosen.any():
            continue
        areas, granularities = tree.areas[chosen], tree.granularities[chosen]
        values = (
            name,
            f"{len(areas):,}",
            *(f"{area:,.0f}" for area in (areas.min(), np.median(areas), areas.max())),
            f"{granularities.min():.2f} to {granularities.max():.2f}",
            f"{tree.scores[chosen].max():.2f}",
        )
        rows.append("".join(f"<td>{html.escape(value)}</td>" for value in values))
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>" if len(rows) > 1 else ""


@checked
def colour_labels(labels: Labels) -> RGB:
    """A label map in distinct colours: (H, W, 3) uint8."""
    return np.rint(_palette(int(labels.max()) + 1)[labels]).astype(np.uint8)


def _palette(n: int) -> np.ndarray:
    """(n, 3) float32 colours in 0..255, hues at golden-ratio steps, two saturations and two brightnesses."""
    colours = [
        colorsys.hsv_to_rgb((0.07 + i * _GOLDEN_RATIO) % 1.0, 0.85 - 0.25 * (i % 2), 0.95 - 0.2 * (i // 2 % 2))
        for i in range(n)
    ]
    return 255.0 * np.array(colours, np.float32).reshape(n, 3)


def _hues(entities: Labels) -> np.ndarray:
    """(n, 3) float32 colour of each entity; large entities take the first hues, which lie farthest apart."""
    areas = np.bincount(entities.ravel())
    hues = np.empty((len(areas), 3), np.float32)
    hues[np.argsort(-areas, kind="stable")] = _palette(len(areas))
    return hues


def _shades(image: RGB, parts: Labels) -> np.ndarray:
    """(n,) float32 factor of each part, higher where the photograph is brighter: 0.6 to 1.05, so that no colour of
    the palette exceeds 255, which would change its hue."""
    n = int(parts.max()) + 1
    total = np.zeros(n)
    for rows in _strips(image):
        total += np.bincount(parts[rows].ravel(), image[rows].mean(axis=2).ravel(), n)
    brightness = total / np.maximum(np.bincount(parts.ravel(), minlength=n), 1)
    return (0.6 + 0.45 * brightness / 255).astype(np.float32)


def _strips(image: RGB) -> Iterator[slice]:
    """Row ranges of about a megapixel: float32 copies of a whole large photograph would take gigabytes."""
    step = max(1, _STRIP_PIXELS // image.shape[1])
    for start in range(0, image.shape[0], step):
        yield slice(start, start + step)


def _boundaries(labels: Labels, thickness: int) -> np.ndarray:
    """(H, W) bool: pixels within ``thickness`` of a label change to the right or below."""
    boundary = np.zeros(labels.shape, bool)
    for step in range(1, thickness + 1):
        boundary[:-step] |= labels[:-step] != labels[step:]
        boundary[:, :-step] |= labels[:, :-step] != labels[:, step:]
    return boundary
