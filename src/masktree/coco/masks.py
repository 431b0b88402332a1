"""The segmentation of an annotation as a compressed run-length string.

A segmentation is a list of polygons, a run-length dict with a list of ``counts``, or one with a string
(cocodataset.org/#format-data). Polygons are rasterised exactly as by COCO's own tools (``common/maskApi.c``), through
faster-coco-eval.
"""

from __future__ import annotations

import reprlib
from itertools import chain
from typing import Any

import numpy as np

from masktree.errors import FormatError, InputError
from masktree.trees import rle

REMEDY = "correct the file or get it again"
_MAX_OUTLINE = 2**22  # pixels, of the polygons of a mask: rasterising takes about 100 bytes for each (our choice)


def read_mask(annotation: dict[str, Any], size: tuple[int, int], where: str) -> bytes:
    """Run-length string of an annotation's segmentation, whose run lengths are checked.

    Args:
        annotation: a COCO annotation.
        size: (height, width) of its image.
        where: file, image and annotation, for error messages.

    Raises:
        FormatError: there is no segmentation, it cannot be read, or it belongs to another image size.
    """
    try:
        mask = encode_segmentation(annotation, size, where)
        rle.runs([mask], size)  # here, where the annotation can be named
    except InputError as error:
        raise FormatError(f"{where}: {error}; {REMEDY}") from error
    return mask


def has_segmentation(annotation: dict[str, Any]) -> bool:
    """Whether an annotation has a segmentation. Tools that write boxes beside masks give those an empty list, or a list
    of an empty list."""
    segmentation = annotation.get("segmentation")
    return any(piece != [] for piece in segmentation) if isinstance(segmentation, list) else segmentation is not None


def encode_segmentation(annotation: dict[str, Any], size: tuple[int, int], where: str) -> bytes:
    """As :func:`read_mask`; the run lengths of a compressed string are passed on unchecked."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list) and has_segmentation(annotation):
        return _rasterise([piece for piece in segmentation if piece != []], size, where)
    if not isinstance(segmentation, dict):
        got = reprlib.repr(segmentation) if "segmentation" in annotation else "none"
        raise FormatError(f"{where}: expected a segmentation of polygons or run lengths; got {got}; {REMEDY}")
    if segmentation.get("size") != list(size):
        raise FormatError(
            f"{where}: expected a mask of its image's size {list(size)} (height, width); "
            f"got {reprlib.repr(segmentation.get('size'))}; {REMEDY}"
        )
    counts = segmentation.get("counts")
    if not isinstance(counts, str):
        return _compress(counts, size, where)
    try:
        return counts.encode("ascii")
    except UnicodeEncodeError as error:
        raise FormatError(f"{where}: {error}; {REMEDY}") from error


def _compress(counts: Any, size: tuple[int, int], where: str) -> bytes:
    """The string of uncompressed run lengths: background and foreground in turn."""
    is_whole = isinstance(counts, list) and all(type(count) is int and 0 <= count < 2**31 for count in counts)
    if not is_whole or sum(counts) != size[0] * size[1]:
        got = "another sum" if is_whole else "something else"
        raise FormatError(
            f"{where}: expected counts as a string, or whole numbers with the sum {size[0] * size[1]}; got {got}; "
            f"{REMEDY}"
        )
    ends = np.cumsum(counts, dtype=np.int64)[: len(counts) // 2 * 2].reshape(-1, 2)
    ends = ends[ends[:, 0] < ends[:, 1]]
    return rle.encode_runs(ends[:, 0], ends[:, 1], size)


def _rasterise(polygons: list[Any], size: tuple[int, int], where: str) -> bytes:
    from faster_coco_eval.core import mask as coco_mask

    if not all(_is_polygon(polygon) for polygon in polygons):
        raise FormatError(f"{where}: expected polygons as lists [x1, y1, x2, y2, ...]; got others; {REMEDY}")
    values = np.array(list(chain.from_iterable(polygons)), np.float64)
    low, high = values.min(), values.max()
    # Points beyond the image are right, what they enclose is clipped. Rasterising takes memory in proportion to the
    # length of the edges, so that distant points would exhaust it.
    if not (low >= -_MAX_OUTLINE and high <= _MAX_OUTLINE):  # also refuses NaN
        raise FormatError(
            f"{where}: expected polygons near the image of {size[0]} x {size[1]} pixels; "
            f"got coordinates {low} ... {high}; {REMEDY}"
        )
    if len(values) * (high - low) > _MAX_OUTLINE and _outline(polygons) > _MAX_OUTLINE:
        raise FormatError(
            f"{where}: expected polygons with an outline of at most {_MAX_OUTLINE:,} pixels; got longer ones; {REMEDY}"
        )
    # COCO's tools take the whole list for boxes if the first polygon has four numbers; the order is free otherwise.
    ordered = sorted(polygons, key=len, reverse=True)
    if len(ordered[0]) < 6:
        raise FormatError(f"{where}: expected a polygon of at least three points; got none; {REMEDY}")
    pieces = coco_mask.frPyObjects([[float(value) for value in polygon] for polygon in ordered], *size)
    return bytes(coco_mask.merge(pieces)["counts"] if len(pieces) > 1 else pieces[0]["counts"])


def _outline(polygons: list[list[float]]) -> float:
    """Sum of the lengths of the edges, each the longer of its extents in x and y."""
    total = 0.0
    for polygon in polygons:
        points = np.array(polygon, np.float64).reshape(-1, 2)
        total += float(np.abs(points - np.roll(points, 1, 0)).max(1).sum())
    return total


def _is_polygon(polygon: Any) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 2 or len(polygon) % 2:
        return False
    return all(isinstance(value, float) or (type(value) is int and abs(value) < 2**53) for value in polygon)
