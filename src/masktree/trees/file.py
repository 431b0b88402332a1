"""The JSON file of one tree of masks, dendrogram included.

Layout (version 2)::

    {"format": "masktree", "version": 2,
     "image": {"width": .., "height": .., "omitted": .., "file_name": ..},
     "masks": [{"id", "parent_id", "level", "depth", "kind", "granularity", "score", "stability", "area", "bbox",
                "segmentation": {"size": [h, w], "counts": ".."}}, ..],
     "dendrogram": {"leaves": .., "parents": .., "altitudes": ..} or null}

A mask without ``kind`` is a node.

The arrays of the dendrogram (``leaves`` (h, w) int32, ``parents`` (2n-1,) int32, ``altitudes`` (2n-1,) float64, all
little-endian and row-major) are base64 of LZMA. At preset 1, 67 kB for 640 x 640 pixels and 0.65 MB for 6000 x 6000,
written in 0.06 s and 2.2 s and read in 0.01 s and 0.5 s. zlib needs 105 kB and 1.4 MB, or 114 kB and 1.1 MB on
differences of rows; packing leaves into two bits a pixel and bytes into planes gave 65 kB and 0.62 MB, written in
14.7 s.
"""

from __future__ import annotations

import base64
import lzma
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from masktree.errors import FormatError, InputError, MasktreeError
from masktree.io.files import is_number, is_whole, parse_json, write_json
from masktree.io.images import MAX_PIXELS
from masktree.trees.decimals import ceil_float32
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import KINDS, LEVELS, MaskTree

FORMAT_VERSION = 2
_FILE_START = b'{"format": "masktree"'
_HEADER_BYTES = 1 << 16  # of a file: they hold its image record
_MAX_NODES = 2**25  # of a dendrogram that is read: 400 MB (our choice; a tree over every pixel of 16 megapixels has it)
_LZMA_MEMORY = 2**27  # for decompression: a stream states what it needs; preset 1 takes 2 MB, preset 9 65 MB
_DTYPES = {"leaves": "<i4", "parents": "<i4", "altitudes": "<f8"}


def write_tree(tree: MaskTree, path: Path, image: dict[str, Any], classes: Sequence[str] | None = None) -> None:
    """Write one tree atomically; ``image`` adds keys to the image record, ``classes`` a ``class`` to each mask.

    Raises:
        InputError: a dendrogram that is too large to be read again.
    """
    if tree.dendrogram is not None and (
        tree.size[0] * tree.size[1] > MAX_PIXELS or len(tree.dendrogram.parents) > _MAX_NODES
    ):
        raise InputError(
            f"expected a dendrogram of at most {MAX_PIXELS:,} pixels and {_MAX_NODES:,} nodes; got {tree.size[0]} x "
            f"{tree.size[1]} and {len(tree.dendrogram.parents):,}; replace it by None, or scale the image down"
        )
    records = [tree.record(index) for index in range(len(tree))]
    if classes is not None:
        records = [record | {"class": name} for record, name in zip(records, classes, strict=True)]
    document = {
        "format": "masktree",
        "version": FORMAT_VERSION,
        "image": {"width": tree.size[1], "height": tree.size[0], "omitted": int(tree.omitted), **image},
        "masks": records,
        "dendrogram": None
        if tree.dendrogram is None
        else {name: _compress(getattr(tree.dendrogram, name).astype(dtype)) for name, dtype in _DTYPES.items()},
    }
    write_json(path, document)


def read_tree(path: Path) -> MaskTree:
    """Read one tree.

    Raises:
        FormatError: not a masktree file, an unknown version, or damaged.
        FileNotFoundError: no such file.
    """
    return read_tree_and_classes(path)[0]


def read_tree_and_classes(path: Path) -> tuple[MaskTree, tuple[str, ...] | None]:
    """Read one tree, and the class of each mask if the file has one for all; errors as ``read_tree``."""
    document = parse_json(path.read_bytes(), path)
    if not isinstance(document, dict) or document.get("format") != "masktree":
        raise FormatError(f'{path}: expected a masktree file ("format": "masktree"); got something else')
    if document.get("version") != FORMAT_VERSION:
        raise FormatError(
            f"{path}: expected version {FORMAT_VERSION}; got {reprlib.repr(document.get('version'))}; "
            "segment the image with this version of masktree"
        )
    try:
        tree = _parse(document)
    except MasktreeError as error:
        raise FormatError(f"{path}: damaged tree: {error}") from error
    classes = tuple(mask.get("class") for mask in document["masks"])
    return tree, classes if classes and all(isinstance(name, str) for name in classes) else None


def is_tree_file(path: Path) -> bool:
    """Whether masktree wrote this file, in whatever version."""
    with path.open("rb") as handle:
        return handle.read(len(_FILE_START)) == _FILE_START


def read_header(path: Path) -> dict[str, Any] | None:
    """The image record of a tree file, from its first bytes; None if it is not a masktree file of this version."""
    with path.open("rb") as handle:
        head = handle.read(_HEADER_BYTES).partition(b', "masks": [')[0]  # quotes inside names are escaped
    try:
        document = parse_json(head + b"}", path)
    except FormatError:
        return None
    if not isinstance(document, dict) or (document.get("format"), document.get("version")) != (
        "masktree",
        FORMAT_VERSION,
    ):
        return None
    return document["image"] if isinstance(document.get("image"), dict) else None


def _parse(document: dict[str, Any]) -> MaskTree:
    image, masks, packed = (document.get(key) for key in ("image", "masks", "dendrogram"))
    sides: list[Any] = [image.get(side) for side in ("height", "width")] if isinstance(image, dict) else []
    if not all(is_whole(side, 1, 2**31 - 1) for side in sides) or not sides:
        raise FormatError("expected an image with height and width in pixels; got another record")
    if not isinstance(masks, list):
        raise FormatError(f"expected a list of masks; got {reprlib.repr(masks)}")
    size = (sides[0], sides[1])
    for mask in masks:
        _check_mask(mask, size)
    index_of = {mask["id"]: index for index, mask in enumerate(masks)}
    if len(index_of) < len(masks):
        raise FormatError("expected one id per mask; got one twice")
    index_of[None] = -1
    strangers = [mask["parent_id"] for mask in masks if mask["parent_id"] not in index_of]
    if strangers:
        raise FormatError(f"expected each parent_id as the id of a mask; got {strangers[0]}")
    tree = MaskTree(
        size=size,
        rles=tuple(mask["segmentation"]["counts"].encode("ascii") for mask in masks),
        parents=np.array([index_of[mask["parent_id"]] for mask in masks], np.int32),
        scores=np.array([mask["score"] for mask in masks], np.float32),
        granularities=ceil_float32(np.array([mask["granularity"] for mask in masks], np.float64)),
        stabilities=np.array([mask["stability"] for mask in masks], np.float32),
        levels=np.array([LEVELS.index(mask["level"]) for mask in masks], np.int8),
        dendrogram=None if packed is None else _parse_dendrogram(packed, size),
        omitted=_read_omitted(document),
        kinds=np.array([KINDS.index(mask.get("kind", KINDS[0])) for mask in masks], np.int8),
    )
    _ = tree.areas  # parses all run lengths, which checks them
    return tree


def _read_omitted(document: dict[str, Any]) -> int:
    """Number of masks that ``max_masks`` left out."""
    omitted = document["image"].get("omitted", 0)
    if not is_whole(omitted, 0, 2**31 - 1):
        raise FormatError(f"expected omitted as a number of masks; got {reprlib.repr(omitted)}")
    return int(omitted)


def _check_mask(mask: Any, size: tuple[int, int]) -> None:
    """Raise FormatError unless a record of a mask has what a tree needs; values out of range are left to MaskTree."""
    if not isinstance(mask, dict) or not is_whole(mask.get("id")):
        raise FormatError("expected one id per mask, a whole number; got none")
    segmentation = mask.get("segmentation")
    if not isinstance(segmentation, dict) or segmentation.get("size") != list(size):
        raise FormatError(f"expected masks of the image's size {list(size)}; got another in mask {mask['id']}")
    counts = segmentation.get("counts")
    problems = [key for key in ("score", "granularity", "stability") if not is_number(mask.get(key))]
    if not isinstance(counts, str) or not counts.isascii():
        problems.append("segmentation")
    if "parent_id" not in mask or not (mask["parent_id"] is None or is_whole(mask["parent_id"])):
        problems.append("parent_id")
    if mask.get("level") not in LEVELS:
        problems.append("level")
    if mask.get("kind", KINDS[0]) not in KINDS:
        problems.append("kind")
    if problems:
        key = problems[0]
        raise FormatError(
            f"expected {key} as masktree writes it; got {reprlib.repr(mask.get(key))} in mask {mask['id']}"
        )


def _parse_dendrogram(packed: Any, size: tuple[int, int]) -> PartitionTree:
    if not isinstance(packed, dict):
        raise FormatError(f"expected a dendrogram of arrays, or null; got {reprlib.repr(packed)}")
    pixels = size[0] * size[1]
    if pixels > MAX_PIXELS:
        raise FormatError(f"expected a dendrogram of at most {MAX_PIXELS:,} pixels; got {size[0]} x {size[1]}")
    leaves = _decompress(packed, "leaves", pixels)
    if len(leaves) != pixels:
        raise FormatError(f"expected leaves of {pixels} pixels; got {len(leaves)}")
    parents = _decompress(packed, "parents", _MAX_NODES)
    return PartitionTree(
        leaves=leaves.astype(np.int32, copy=False).reshape(size),
        parents=parents.astype(np.int32, copy=False),
        altitudes=_decompress(packed, "altitudes", len(parents)).astype(np.float64, copy=False),
    )


def _compress(array: np.ndarray) -> str:
    return base64.b64encode(lzma.compress(array.tobytes(), preset=1)).decode("ascii")


def _decompress(packed: dict[str, Any], name: str, max_entries: int) -> np.ndarray:
    """An array of the dendrogram. A file of some kilobytes can hold gigabytes: no more is decompressed than
    ``max_entries`` take.

    Raises:
        FormatError: damaged, or longer.
    """
    text, dtype = packed.get(name), np.dtype(_DTYPES[name])
    if not isinstance(text, str):
        raise FormatError(f"expected {name} as base64 of LZMA; got {reprlib.repr(text)}")
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)
    try:
        content = decoder.decompress(base64.b64decode(text, validate=True), max_entries * dtype.itemsize + 1)
    except (ValueError, lzma.LZMAError) as error:
        raise FormatError(f"expected {name} as base64 of LZMA; got damaged text ({error})") from error
    if not decoder.eof or len(content) > max_entries * dtype.itemsize or len(content) % dtype.itemsize:
        raise FormatError(f"expected {name} of at most {max_entries} entries; got more, or a part of them")
    return np.frombuffer(content, dtype)
