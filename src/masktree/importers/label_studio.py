"""Label Studio: its JSON export, or predictions; brush masks and polygons (labelstud.io/guide/export)."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
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
    warn_of_others,
)
from masktree.io.files import parse_json
from masktree.kernels import kernel
from masktree.trees import rle

_CHANNELS = 4  # of a brush mask, all equal unless it was drawn half-transparent; the last one counts
_OPAQUE = 127  # (our choice: alpha is 0 or 255)


def read_label_studio(path: Path) -> Iterator[ForeignImage]:
    """The tasks of a file, each with the regions of its first annotation or, without any, of its first prediction.

    ``parentID`` makes the tree. Boxes, ellipses and points are left out.

    Raises:
        FormatError: damaged, or another kind of file.
    """
    tasks = parse_json(path.read_bytes(), path, strict=False)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise FormatError(f"{path}: expected a list of tasks of Label Studio; got something else")
    for task in tasks:
        with foreign(f"{path}: the image of a task of Label Studio in data"):
            [file_name] = [v for v in task["data"].values() if isinstance(v, str) and PurePosixPath(v).suffix][:1]
            results = [entry["result"] for key in ("annotations", "predictions") for entry in task.get(key) or ()]
        yield ForeignImage(_file_name(file_name), _reader(results[0] if results else []), path)


def _file_name(url: str) -> str:
    """The path that a task's image has on the server, such as ``/data/local-files/?d=photos/a.jpg``."""
    parts = urllib.parse.urlsplit(url)
    query = urllib.parse.parse_qs(parts.query).get("d")
    return query[0] if query else urllib.parse.unquote(parts.path)


def _reader(regions: Any) -> Any:
    def read(size: tuple[int, int] | None) -> tuple[tuple[int, int], list[ForeignMask]]:
        with foreign("regions as Label Studio exports them"):
            known = [r for r in regions if r.get("type") in ("brushlabels", "polygonlabels")]
            warn_of_others(len(regions) - len(known), "boxes, points or other regions")
            sizes = {checked_size(region["original_height"], region["original_width"]) for region in known}
            if len(sizes) > 1 or (not sizes and size is None):
                raise ValueError("no size of the image" if not sizes else f"several sizes of one image, {sizes}")
            own = sizes.pop() if sizes else size
            assert own is not None
            return own, [_mask(region, own) for region in known]

    return read


def _mask(region: dict[str, Any], size: tuple[int, int]) -> ForeignMask:
    value = region["value"]
    if region["type"] == "brushlabels":
        mask = decode_brush(value["rle"], size)
    else:
        mask = filled([np.array(value["points"], np.float64) / 100 * [size[1], size[0]]], size)
    names = value.get(region["type"]) or [None]
    return ForeignMask(mask, region["id"], region.get("parentID"), names[0], checked_score(region.get("score")))


def decode_brush(packed: Any, size: tuple[int, int]) -> bytes:
    """Run-length string of a brush mask; see ``masktree.export.label_studio`` for the format.

    Raises:
        ValueError: damaged, or of another image size.
    """
    data = np.array(packed)
    if data.ndim != 1 or data.dtype.kind not in "iu" or data.min(initial=0) < 0 or data.max(initial=0) > 255:
        raise ValueError("run lengths that are no list of bytes")
    count = size[0] * size[1] * _CHANNELS
    values = _unpack(data.astype(np.uint8), count)
    if len(values) != count:
        raise ValueError(f"run lengths that are not those of {size[0]} x {size[1]} pixels")
    return rle.encode(values.reshape(size[0], size[1], _CHANNELS)[:, :, -1] > _OPAQUE)


@kernel()
def _unpack(data: np.ndarray, count: int) -> np.ndarray:  # pragma: no cover
    """The (count,) values of a packed stream; an array of length 0 if it is damaged or has another number of them."""
    nothing = np.zeros(0, np.uint8)
    end = 8 * len(data)
    if end < 53 or _bits(data, 0, 32) != count:
        return nothing
    word = _bits(data, 32, 5) + 1
    sizes = np.array([_bits(data, 37 + 4 * i, 4) + 1 for i in range(4)])
    values = np.empty(count, np.uint8)
    at, filled = 53, 0
    while filled < count:
        if at + 3 > end:
            return nothing
        is_run, kind = _bits(data, at, 1), _bits(data, at + 1, 2)
        at += 3
        if at + sizes[kind] > end:
            return nothing
        length = _bits(data, at, sizes[kind]) + 1
        at += sizes[kind]
        needed = word if is_run else word * length
        if at + needed > end or filled + length > count:
            return nothing
        for i in range(length):
            values[filled] = _bits(data, at, word)
            filled += 1
            if not is_run or i == length - 1:
                at += word
    return values


@kernel()
def _bits(data: np.ndarray, at: int, number: int) -> int:  # pragma: no cover
    value = 0
    for i in range(at, at + number):
        value = (value << 1) | ((data[i >> 3] >> (7 - (i & 7))) & 1)
    return value
