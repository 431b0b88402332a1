"""ImageJ and Fiji: a zip archive of regions of interest for the ROI Manager.

Binary format: ``ij.io.RoiEncoder`` of ImageJ 1.53 (public domain): a header of 64 bytes, coordinates, a second header
of 64 bytes, name and properties in UTF-16; all big-endian.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from masktree.errors import InputError
from masktree.export.image import LabelledImage, MaskCrop, mask_crops
from masktree.export.options import ExportOptions
from masktree.io.files import write_atomically
from masktree.trees.masktree import LEVELS, MaskTree
from masktree.trees.polygons import mask_to_polygons

_VERSION = 228  # the first one with groups
_RECTANGLE, _TRACED = 1, 8
_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0  # segments of a composite path
_MAX_SIDE = 60_000  # coordinates are 16-bit numbers, of which ImageJ takes those above 60,535 for negative ones
_MAX_POINTS = 65_535  # of a traced region
_MAX_GROUP = 255
_DATE = (1980, 1, 1, 0, 0, 0)  # the same masks give the same bytes


def write_rois(image: LabelledImage, path: Path, options: ExportOptions) -> None:
    """A region per mask along the edges of its pixels: traced, or a composite path where there are holes or pieces.

    Names are ``NUMBER-LEVEL``, or with the mask's name or class instead of the level; parent, level, kind, score and
    granularity are properties. The group is the place of the class in the user's list (0 for masks without a class),
    or where there is no list the level (1 to 3).

    Raises:
        InputError: an image with a side of more than 60,000 pixels.
    """
    if max(image.tree.size) > _MAX_SIDE:
        raise InputError(f"expected sides of at most {_MAX_SIDE:,} pixels, as ImageJ's regions hold; got a longer one")
    names = image.class_names()

    def write(handle: IO[bytes]) -> None:
        with zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
            for index, crop in enumerate(mask_crops(image.tree)):
                name = f"{index:04d}-{image.given_name(index) or names[index]}"
                content = _encode(crop, name, _properties(image.tree, index), _group(image, index, names[index]))
                member = zipfile.ZipInfo(f"{name}.roi".replace("/", "_"), _DATE)
                member.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(member, content)

    write_atomically(path, write)


def _group(image: LabelledImage, index: int, name: str) -> int:
    if not image.class_list:
        return int(image.tree.levels[index]) + 1
    place = image.class_list.index(name) + 1 if name in image.class_list else 0
    return place if place <= _MAX_GROUP else 0


def _properties(tree: MaskTree, index: int) -> str:
    """Lines as ``Roi.setProperty`` writes them."""
    record = tree.record(index)
    values = {
        "granularity": record["granularity"],
        "id": index,
        "kind": record["kind"],
        "level": LEVELS[tree.levels[index]],
        "parent_id": "" if record["parent_id"] is None else record["parent_id"],
        "score": record["score"],
    }
    return "".join(f"{key}: {value}\n" for key, value in values.items())


def _encode(crop: MaskCrop, name: str, properties: str, group: int) -> bytes:
    polygons = mask_to_polygons(crop.inside)
    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.holes)]
    is_traced = len(rings) == 1 and len(rings[0]) <= _MAX_POINTS
    kind, num_points, shape = _TRACED, len(rings[0]) if is_traced else 0, b""
    if is_traced:
        coordinates = rings[0].T.astype(">u2").tobytes()  # relative to the box
    else:
        kind, coordinates = _RECTANGLE, b""
        shape = _path(rings, crop.left, crop.top)
    header2_at = 64 + len(coordinates) + len(shape)
    name_at = header2_at + 64
    properties_at = name_at + 2 * len(name)
    height, width = crop.inside.shape
    header = struct.pack(
        ">4shBxHHHHH", b"Iout", _VERSION, kind, crop.top, crop.left, crop.top + height, crop.left + width, num_points
    )
    header = header.ljust(36, b"\0") + struct.pack(">i", len(shape) // 4)
    header = header.ljust(60, b"\0") + struct.pack(">i", header2_at)
    second = b"\0" * 16 + struct.pack(">ii", name_at, len(name))
    second = second.ljust(30, b"\0") + struct.pack(">B", group)
    second = second.ljust(40, b"\0") + struct.pack(">ii", properties_at, len(properties))
    text = (name + properties).encode("utf-16-be")
    return header + coordinates + shape + second.ljust(64, b"\0") + text


def _path(rings: list[np.ndarray], left: int, top: int) -> bytes:
    """Rings as segments of a ``ShapeRoi``, in image coordinates: move, lines, close."""
    parts = []
    for ring in rings:
        points = ring + np.array([left, top])
        segments = np.column_stack([np.full(len(points), _LINE), points])
        segments[0, 0] = _MOVE
        parts += [segments.ravel(), np.array([_CLOSE])]
    return np.concatenate(parts).astype(">f4").tobytes()
