"""CVAT for images 1.1: masks and polygons of its XML file."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

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


def read_cvat(path: Path) -> Iterator[ForeignImage]:
    """The images of a file. The attributes id and parent_id make the tree, score is the score.

    Raises:
        FormatError: damaged, or another kind of file.
    """
    try:
        root = ET.parse(path).getroot()
    except (ET.ParseError, LookupError, ValueError) as error:  # the last two for unknown encodings
        raise FormatError(f"{path}: expected XML of CVAT; got a damaged file ({error}); get it again") from error
    if root.tag != "annotations":
        raise FormatError(f"{path}: expected CVAT for images 1.1; got a file of <{root.tag}>")
    for element in root.iter("image"):
        with foreign(f"{path}: images of CVAT with a name"):
            name = element.attrib["name"]
        yield ForeignImage(name, _reader(element), path)


def _reader(element: ET.Element) -> Any:
    def read(_: tuple[int, int] | None) -> tuple[tuple[int, int], list[ForeignMask]]:
        with foreign("masks as CVAT for images 1.1 has them"):
            size = checked_size(element.attrib["height"], element.attrib["width"])
            known = [child for child in element if child.tag in ("mask", "polygon")]
            warn_of_others(len(element) - len(known), "boxes, points or other shapes")
            return size, [_mask(child, size) for child in known]

    return read


def _mask(element: ET.Element, size: tuple[int, int]) -> ForeignMask:
    values = {str(child.get("name")): child.text or None for child in element.iter("attribute")}
    if element.tag == "polygon":
        points = [[float(v) for v in point.split(",")] for point in element.attrib["points"].split(";")]
        mask = filled([points], size)
    else:
        left, top, width, height = (int(element.attrib[key]) for key in ("left", "top", "width", "height"))
        counts = np.array([int(count) for count in element.attrib["rle"].split(",")], np.int64)
        if min(left, top) < 0 or min(width, height) < 1 or left + width > size[1] or top + height > size[0]:
            raise ValueError("a box that is not in the image")  # before it takes memory
        if (counts < 0).any() or (counts > width * height).any() or counts.sum() > width * height:
            raise ValueError("run lengths of another size than their box")
        flat = np.zeros(width * height, np.bool_)
        inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        flat[: len(inside)] = inside
        mask = placed(flat.reshape(height, width), top, left, size)
    score = checked_score(values.get("score"))
    return ForeignMask(mask, values.get("id"), values.get("parent_id"), element.get("label"), score)
