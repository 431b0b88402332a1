"""The JSON file of one tree of masks, dendrogram included.

Layout (version 1)::

    {"format": "masktree", "version": 1,
     "image": {"width": .., "height": .., "file_name": ..},
     "masks": [{"id", "parent_id", "level", "depth", "granularity", "score", "stability", "area", "bbox",
                "segmentation": {"size": [h, w], "counts": ".."}}, ..],
     "dendrogram": {"leaves": .., "parents": .., "altitudes": ..} or null}

The three dendrogram arrays are base64 of LZMA: ``parents`` int32 (stored as the difference to the own index) and
``altitudes`` float64 of the merge nodes, both little-endian with the first bytes of all numbers first, then all the
second bytes, and so on, which compresses better; ``leaves`` is two bits per pixel, row-major, four pixels to a byte
with the first in the highest bits (0: same label as the pixel to the left, 1: as the one above, 2: named), followed by
the named labels as int32.
"""

from __future__ import annotations

import base64
import json
import lzma
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from masktree.errors import FormatError, MasktreeError
from masktree.io.files import write_json
from masktree.trees.dendrogram import PartitionTree

if TYPE_CHECKING:
    from masktree.trees.masktree import MaskTree

VERSION = 1


def write(tree: MaskTree, path: Path, image: dict[str, Any]) -> None:
    """Write one tree; ``image`` adds keys to the image record."""
    document = {
        "format": "masktree",
        "version": VERSION,
        "image": {"width": tree.size[1], "height": tree.size[0], **image},
        "masks": [tree.record(index) for index in range(len(tree))],
        "dendrogram": None if tree.dendrogram is None else _pack_dendrogram(tree.dendrogram),
    }
    write_json(path, document)


def read(path: Path) -> MaskTree:
    """Read one tree.

    Raises:
        FormatError: not a masktree file, an unknown version, or damaged.
        FileNotFoundError: no such file.
    """
    from masktree.trees.masktree import LEVELS, MaskTree, ceil_float32

    try:
        document = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path}: expected a masktree JSON file; got unreadable JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != "masktree":
        raise FormatError(f'{path}: expected a masktree file ("format": "masktree"); got something else')
    if document.get("version") != VERSION:
        raise FormatError(f"{path}: expected version {VERSION}; got {document.get('version')}; update masktree")
    try:
        masks = document["masks"]
        size = (int(document["image"]["height"]), int(document["image"]["width"]))
        position = {mask["id"]: index for index, mask in enumerate(masks)}
        if len(position) < len(masks) or None in position:
            raise FormatError("expected one id per mask; got one twice, or none")
        if any(mask["segmentation"]["size"] != list(size) for mask in masks):
            raise FormatError(f"expected masks of the image's size {list(size)}; got another")
        position[None] = -1
        packed = document["dendrogram"]
        tree = MaskTree(
            size=size,
            rles=tuple(mask["segmentation"]["counts"].encode("ascii") for mask in masks),
            parents=np.array([position[mask["parent_id"]] for mask in masks], np.int32),
            scores=np.array([mask["score"] for mask in masks], np.float32),
            granularities=ceil_float32(np.array([mask["granularity"] for mask in masks], np.float64)),
            stabilities=np.array([mask["stability"] for mask in masks], np.float32),
            levels=np.array([LEVELS.index(mask["level"]) for mask in masks], np.int8),
            dendrogram=None if packed is None else _unpack_partition(packed, size),
        )
        _ = tree.areas  # reads all run lengths, which checks them
        return tree
    except MasktreeError as error:
        raise FormatError(f"{path}: damaged tree: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, lzma.LZMAError) as error:
        raise FormatError(f"{path}: damaged tree: {type(error).__name__}: {error}") from error


def read_header(path: Path) -> dict[str, Any] | None:
    """The image record of a tree file, from its first bytes only; None if it is no masktree file of this version."""
    with path.open("rb") as handle:
        head = handle.read(1 << 16).partition(b', "masks": [')[0]  # quotes inside names are escaped
    try:
        document = json.loads(head + b"}")
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("format") != "masktree" or document.get("version") != VERSION:
        return None
    return document["image"] if isinstance(document.get("image"), dict) else None


def _pack_dendrogram(tree: PartitionTree) -> dict[str, str]:
    n, count = tree.n_leaves, len(tree.parents)
    codes, named = _encode_leaves(tree.leaves)
    return {
        "leaves": _pack(_pack_pairs(codes.ravel()) + named.astype("<i4").tobytes()),
        "parents": _pack(_planes((tree.parents - np.arange(count)).astype("<i4"))),
        "altitudes": _pack(_planes(tree.altitudes[n:].astype("<f8"))),
    }


def _unpack_partition(packed: dict[str, str], size: tuple[int, int]) -> PartitionTree:
    pixels = size[0] * size[1]
    leaves = _unpack(packed["leaves"])
    split = -(-pixels // 4)
    codes = _unpack_pairs(leaves[:split], pixels)
    named = np.frombuffer(leaves[split:], "<i4").astype(np.int32)
    if len(codes) != pixels or int((codes == 2).sum()) != len(named) or codes[0] != 2:
        raise FormatError(f"expected a leaf map of {size[0]} x {size[1]} pixels; got a damaged one")
    offsets = _from_planes(_unpack(packed["parents"]), "<i4")
    merges = _from_planes(_unpack(packed["altitudes"]), "<f8")
    return PartitionTree(
        leaves=_decode_leaves(codes.reshape(size), named),
        parents=(offsets + np.arange(len(offsets))).astype(np.int32),
        altitudes=np.concatenate([np.zeros(len(offsets) - len(merges)), merges]),
    )


def _pack(raw: bytes) -> str:
    return base64.b64encode(lzma.compress(raw, preset=6)).decode("ascii")


def _unpack(text: str) -> bytes:
    return lzma.decompress(base64.b64decode(text, validate=True))


def _pack_pairs(codes: np.ndarray) -> bytes:
    """Two-bit values, four to a byte."""
    padded = np.zeros(-(-len(codes) // 4) * 4, np.uint8)
    padded[: len(codes)] = codes
    quads = padded.reshape(-1, 4)
    return (quads[:, 0] << 6 | quads[:, 1] << 4 | quads[:, 2] << 2 | quads[:, 3]).astype(np.uint8).tobytes()


def _unpack_pairs(raw: bytes, count: int) -> np.ndarray:
    quads = np.frombuffer(raw, np.uint8)[:, None] >> np.array([6, 4, 2, 0], np.uint8) & 3
    return quads.ravel()[:count]


def _planes(array: np.ndarray) -> bytes:
    return array.view(np.uint8).reshape(-1, array.itemsize).T.tobytes()


def _from_planes(raw: bytes, dtype: str) -> np.ndarray:
    planes = np.frombuffer(raw, np.uint8).reshape(np.dtype(dtype).itemsize, -1)
    return np.ascontiguousarray(planes.T).reshape(-1).view(dtype)


def _encode_leaves(leaves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    codes = np.full(leaves.shape, 2, np.uint8)
    codes[1:][leaves[1:] == leaves[:-1]] = 1
    codes[:, 1:][leaves[:, 1:] == leaves[:, :-1]] = 0
    return codes, leaves[codes == 2]


@njit(cache=True, nogil=True)
def _decode_leaves(codes, named):  # pragma: no cover
    h, w = codes.shape
    leaves = np.empty((h, w), np.int32)
    at = 0
    for y in range(h):
        for x in range(w):
            if codes[y, x] == 0 and x > 0:
                leaves[y, x] = leaves[y, x - 1]
            elif codes[y, x] == 1 and y > 0:
                leaves[y, x] = leaves[y - 1, x]
            elif at < named.shape[0]:
                leaves[y, x] = named[at]
                at += 1
            else:
                leaves[y, x] = -1  # refused by PartitionTree
    return leaves
