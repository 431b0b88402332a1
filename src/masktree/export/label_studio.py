"""Label Studio: pre-annotations (predictions) with brush masks, one JSON file of tasks for all images.

Source: labelstud.io/guide/predictions; the run lengths are those of ``label_studio_converter/brush.py`` (encode_rle),
a bit stream over the mask's four equal channels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from masktree.export.image import SOFTWARE, LabelledImage, MaskCrop, mask_crops
from masktree.export.options import ExportOptions
from masktree.io.files import write_atomically
from masktree.kernels import kernel

_WORD_SIZE = 8  # bits of a value
_LENGTH_SIZES = np.array([3, 4, 8, 16])  # bits that a length may have
_CHANNELS = 4  # red, green, blue, alpha


def write_label_studio(images: Iterable[LabelledImage], path: Path, options: ExportOptions) -> None:
    """A task per image with a prediction of ``brushlabels``; ``parentID`` makes the tree of its Regions panel.

    Regions stand from wholes to parts, so that parts are painted over their wholes. The labelling interface needs
    ``<Image name="image" value="$image"/>`` and ``<BrushLabels name="tag" toName="image">`` with the classes.
    """

    def write(handle: IO[bytes]) -> None:
        handle.write(b"[")
        for number, image in enumerate(images):
            handle.write(b",\n" * bool(number) + json.dumps(_task(image, options), allow_nan=False).encode())
        handle.write(b"]")

    write_atomically(path, write)


def _task(image: LabelledImage, options: ExportOptions) -> dict[str, Any]:
    return {"data": {"image": options.image_prefix + image.file_name}, "predictions": [prediction(image)]}


def prediction(image: LabelledImage, *, from_name: str = "tag", to_name: str = "image") -> dict[str, Any]:
    """The masks of an image as a prediction, as it stands in a task or in the answer of an ML backend.

    Args:
        image: the masks and their classes.
        from_name, to_name: names of the tags BrushLabels and Image in the labelling interface.
    """
    names, tree = image.class_names(), image.tree
    regions = [
        _region(image, index, names[index], crop) | {"from_name": from_name, "to_name": to_name}
        for index, crop in enumerate(mask_crops(tree))
    ]
    order = np.lexsort((-tree.areas, tree.depths)).tolist()
    return {
        "model_version": SOFTWARE,
        "score": round(float(tree.scores.mean()), 5) if len(tree) else 0.0,
        "result": [regions[index] for index in order],
    }


def _region(image: LabelledImage, index: int, name: str, crop: MaskCrop) -> dict[str, Any]:
    tree = image.tree
    record = tree.record(index)
    height, width = tree.size
    region: dict[str, Any] = {
        "id": f"mask{index}",
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(crop, tree.size), "brushlabels": [name]},
        "score": record["score"],
        "meta": {"level": record["level"], "kind": record["kind"], "granularity": record["granularity"]},
    }
    if (note := image.given_name(index)) is not None:
        region["meta"]["text"] = [note]  # shown as the note of a region
    if record["parent_id"] is not None:
        region["parentID"] = f"mask{record['parent_id']}"
    return region


def encode_brush(crop: MaskCrop, size: tuple[int, int]) -> list[int]:
    """Label Studio's run lengths of a mask in an image of ``size`` (height, width): a list of bytes."""
    width = size[1]
    rows = np.zeros((crop.inside.shape[0], width), np.int8)
    rows[:, crop.left : crop.left + crop.inside.shape[1]] = crop.inside
    flat = rows.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=0)) + crop.top * width
    bounds = np.unique(np.concatenate([[0], edges, [size[0] * width]])) * _CHANNELS
    starts_inside = len(edges) > 0 and edges[0] == 0
    packed: list[int] = _pack(np.diff(bounds), bool(starts_inside), _LENGTH_SIZES).tolist()
    return packed


@kernel()
def _pack(lengths: np.ndarray, is_inside: bool, length_sizes: np.ndarray) -> np.ndarray:  # pragma: no cover
    """The bit stream: number of values (32 bits), bits of a value - 1 (5), bits of the four kinds of lengths - 1 (4
    each); then for each run a bit 1, the kind of length (2), the length - 1, the value; a single value as 0, 00, 000.

    Args:
        lengths: of the runs.
        is_inside: whether the first run is inside.
    """
    longest = np.int64(1) << 16
    pieces = 0
    for length in lengths:
        pieces += (length - 1) // longest + 1
    bits = np.zeros(53 + pieces * 27 + 8, np.uint8)
    at = _put(bits, 0, lengths.sum(), 32)
    at = _put(bits, at, _WORD_SIZE - 1, 5)
    for size in length_sizes:
        at = _put(bits, at, size - 1, 4)
    for length in lengths:
        rest = length
        while rest > 0:
            part = min(rest, longest)
            rest -= part
            kind = 0
            while part > (np.int64(1) << length_sizes[kind]):
                kind += 1
            at = _put(bits, at, 0 if part == 1 else 1, 1)
            at = _put(bits, at, kind, 2)
            at = _put(bits, at, part - 1, length_sizes[kind])
            at = _put(bits, at, 255 if is_inside else 0, _WORD_SIZE)
        is_inside = not is_inside
    packed = np.zeros(at // 8 + 1, np.uint8)
    for i in range(at):
        packed[i >> 3] |= bits[i] << (7 - (i & 7))
    return packed


@kernel()
def _put(bits: np.ndarray, at: int, value: int, count: int) -> int:  # pragma: no cover
    """Write ``count`` bits of a value, highest first; returns the position behind them."""
    for i in range(count):
        bits[at + i] = (value >> (count - 1 - i)) & 1
    return at + count
