"""YOLO's segmentation format: a data set for each level, with photographs, labels and ``data.yaml``
(docs.ultralytics.com/datasets/segment)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from masktree.errors import InputError
from masktree.export.image import CLASS, LabelledImage, MaskCrop, mask_crops
from masktree.export.options import ExportOptions
from masktree.io.files import write_atomically
from masktree.trees.masktree import LEVELS
from masktree.trees.polygons import mask_to_polygons


def write_yolo(images: Iterable[LabelledImage], folder: Path, options: ExportOptions) -> None:
    """``LEVEL/images``, ``LEVEL/labels`` and ``LEVEL/data.yaml``; with a cut all in one level, ``whole``.

    A line per mask: its class and one polygon, relative to the image, in which pieces and holes are joined by bridges
    without width. (A line per piece would make two objects of one.) Photographs are copied, since training looks for
    the labels beside them; hierarchy between the levels is lost. Classes are numbered from 0 as images bring them,
    those of the user's list in its order.

    Args:
        images: of :func:`check_photo`.
        folder: where the files go.
        options: not used.
    """
    classes: dict[str, dict[str, int]] = {}  # numbers by name, by level
    for image in images:
        for number, level in enumerate(LEVELS):
            keep = image.tree.levels == number
            if not keep.any():
                continue
            names = image.class_names(default=CLASS)
            tree = replace(image.tree[keep], levels=image.tree.levels[keep])
            kept = tuple(name for name, is_kept in zip(names, keep, strict=True) if is_kept)
            _write_level(replace(image, tree=tree, classes=kept, extras={}), folder / level, classes, level)
    for level, numbers in classes.items():
        lines = ["train: images", "val: images  # choose images of your own to validate on", "names:"]
        lines += [f"  {number}: {json.dumps(name)}" for name, number in numbers.items()]
        text = "\n".join(lines) + "\n"
        write_atomically(folder / level / "data.yaml", lambda handle, text=text: handle.write(text.encode()))  # type: ignore[misc]


def check_photo(image: LabelledImage, options: ExportOptions) -> LabelledImage:
    """The image; raises InputError if its photograph is not there."""
    if not image.photo.is_file():
        raise InputError(
            f"expected the photograph {image.photo}, which YOLO's data sets hold; got none; give its folder with "
            "--images"
        )
    return image


def _write_level(image: LabelledImage, folder: Path, classes: dict[str, dict[str, int]], level: str) -> None:
    numbers = classes.setdefault(level, {})
    for name in image.class_list:
        numbers.setdefault(name, len(numbers))
    lines = []
    for name, crop in zip(image.class_names(), mask_crops(image.tree), strict=True):
        ring = bridged_polygon(crop) / np.array([image.tree.size[1], image.tree.size[0]])
        coordinates = " ".join(f"{value:.7g}" for value in ring.ravel().tolist())
        lines.append(f"{numbers.setdefault(name, len(numbers))} {coordinates}\n")
    target = folder / "images" / f"{image.name}{image.photo.suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image.photo, target)
    text = "".join(lines).encode()
    write_atomically(folder / "labels" / f"{image.name}.txt", lambda handle: handle.write(text))


def bridged_polygon(crop: MaskCrop) -> np.ndarray:
    """(k, 2) float64 corners of one polygon, filled by the even-odd rule: pieces and holes are joined by bridges to the
    first corner, walked to and fro."""
    rings = [ring for piece in mask_to_polygons(crop.inside) for ring in (piece.exterior, *piece.holes)]
    start = rings[0][:1]
    parts = [rings[0]]
    for ring in rings[1:]:
        parts += [start, ring, ring[:1]]
    if len(rings) > 1:
        parts.append(start)
    return np.concatenate(parts) + np.array([crop.left, crop.top])
