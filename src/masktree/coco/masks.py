"""The mask of an annotation as COCO's files have it, as a run-length string.

Format: cocodataset.org/#format-data. A mask is a list of polygons, a run-length dict with a list of ``counts``, or one
with a string. Polygons become masks exactly as in COCO's own tools (``common/maskApi.c``), through faster-coco-eval.
"""

from __future__ import annotations

from array import array
from contextlib import suppress
from typing import Any

import numpy as np

from masktree.errors import FormatError, InputError
from masktree.trees import rle

REMEDY = "correct the file or get it again"


def pack_polygons(record: dict[str, Any]) -> dict[str, Any]:
    """For ``json``'s ``object_hook``: polygons become doubles while a file is read, a quarter of a list's memory."""
    polygons = record.get("segmentation")
    if type(polygons) is list:
        with suppress(TypeError, OverflowError):  # reported later, with the annotation's name
            record["segmentation"] = [array("d", polygon) for polygon in polygons]
    return record


def read_mask(record: dict[str, Any], size: tuple[int, int], where: str) -> bytes:
    """Compressed run-length string of an annotation that was read with ``pack_polygons``.

    Raises:
        FormatError: it has no mask that can be read, or one of another image size; begins with ``where``.
    """
    segmentation = record.get("segmentation")
    if isinstance(segmentation, list) and segmentation:
        return _drawn(segmentation, size, where)
    if not isinstance(segmentation, dict):
        got = repr(segmentation) if "segmentation" in record else "none"
        raise FormatError(f"{where}: expected a segmentation of polygons or run lengths; got {got}; {REMEDY}")
    if segmentation.get("size") != list(size):
        raise FormatError(
            f"{where}: expected a mask of its image's size {list(size)} (height, width); "
            f"got {segmentation.get('size')}; {REMEDY}"
        )
    counts = segmentation.get("counts")
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else _compressed(counts, size)
        rle.runs([text], size)  # here, so that the annotation can be named
    except (InputError, UnicodeEncodeError) as error:
        raise FormatError(f"{where}: {error}; {REMEDY}") from error
    return text


def _compressed(counts: Any, size: tuple[int, int]) -> bytes:
    """String of COCO's uncompressed run lengths. Raises InputError."""
    whole = isinstance(counts, list) and all(type(count) is int and 0 <= count < 2**31 for count in counts)
    if not whole or sum(counts) != size[0] * size[1]:
        got = "another sum" if whole else "something else"
        raise InputError(f"expected counts as a string, or whole numbers with the sum {size[0] * size[1]}; got {got}")
    borders = np.cumsum(counts, dtype=np.int64)[: len(counts) // 2 * 2].reshape(-1, 2)
    borders = borders[borders[:, 0] < borders[:, 1]]
    return rle.encode_runs(borders[:, 0], borders[:, 1], size)


def _drawn(polygons: list[Any], size: tuple[int, int], where: str) -> bytes:
    from faster_coco_eval.core import mask as coco_mask

    if not all(isinstance(polygon, array) and len(polygon) >= 2 and len(polygon) % 2 == 0 for polygon in polygons):
        raise FormatError(f"{where}: expected polygons as lists [x1, y1, x2, y2, ...]; got others; {REMEDY}")
    values = np.frombuffer(b"".join(polygons))
    low, high, reach = values.min(), values.max(), max(size)
    # Drawing takes memory in proportion to the length of the edges, so that far points would exhaust it.
    if not (-reach <= low and high <= 2 * reach):  # NaN is nowhere
        raise FormatError(
            f"{where}: expected polygons in or near the image of {size[0]} x {size[1]} pixels; "
            f"got coordinates {low} ... {high}; {REMEDY}"
        )
    # COCO's tools take the whole list for boxes if the first polygon has four numbers; the order is free otherwise.
    ordered = sorted(polygons, key=len, reverse=True)
    if len(ordered[0]) < 6:
        raise FormatError(f"{where}: expected a polygon of at least three points; got none; {REMEDY}")
    pieces = coco_mask.frPyObjects([polygon.tolist() for polygon in ordered], *size)
    return bytes(coco_mask.merge(pieces)["counts"] if len(pieces) > 1 else pieces[0]["counts"])
