"""LabelMe: masks, polygons and rectangles of its JSON files."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from masktree.errors import FormatError
from masktree.importers.image import (
    ForeignImage,
    ForeignMask,
    checked_score,
    checked_size,
    filled,
    foreign,
    placed,
    warn_of_others,
)
from masktree.io.files import parse_json


def read_labelme(path: Path) -> Iterator[ForeignImage]:
    """The image of a file; ``mask_id`` and ``parent_id``, where shapes have them, make the tree.

    Raises:
        FormatError: damaged, or another kind of file.
    """
    document = parse_json(path.read_bytes(), path, strict=False)
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        raise FormatError(f"{path}: expected a file of LabelMe with shapes; got something else")
    name = str(document.get("imagePath") or path.with_suffix("").name).replace("\\", "/")
    yield ForeignImage(name, _reader(document), path)


def _reader(document: dict[str, Any]) -> Any:
    def read(size: tuple[int, int] | None) -> tuple[tuple[int, int], list[ForeignMask]]:
        with foreign("shapes as LabelMe writes them"):
            if document.get("imageHeight") is not None:
                size = checked_size(document["imageHeight"], document["imageWidth"])
            if size is None:
                raise ValueError("no imageHeight and no photograph")
            kinds = ("mask", "polygon", "rectangle")
            known = [shape for shape in document["shapes"] if shape.get("shape_type", "polygon") in kinds]
            warn_of_others(len(document["shapes"]) - len(known), "points, lines or circles")
            return size, [_mask(shape, size) for shape in known]

    return read


def _mask(shape: dict[str, Any], size: tuple[int, int]) -> ForeignMask:
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("coordinates that are not finite")
    kind = shape.get("shape_type", "polygon")
    if kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=["PNG"]) as picture:
            if picture.height > size[0] or picture.width > size[1]:  # before its pixels take memory
                raise ValueError("a mask larger than the image")
            if (points[0] < 0).any() or (points[0] >= [size[1], size[0]]).any():
                raise ValueError("a mask outside of the image")
            left, top = np.floor(points[0]).astype(int).tolist()
            mask = placed(np.asarray(picture) > 0, top, left, size)
    elif kind == "rectangle":
        (x1, y1), (x2, y2) = points
        mask = filled([[[x1, y1], [x2, y1], [x2, y2], [x1, y2]]], size)
    else:
        mask = filled([points], size)
    score = checked_score(shape.get("score"))
    return ForeignMask(mask, shape.get("mask_id"), shape.get("parent_id"), shape.get("label"), score)
