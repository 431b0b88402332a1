"""The files that masktree writes: COCO documents with a tree of masks in the annotations of each image."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from masktree.coco.annotations import CATEGORY
from masktree.errors import FormatError
from masktree.io.files import read_json, write_atomically

_SHAPE: dict[str, type] = {"info": dict, "images": list, "annotations": list}
_AFTER_INFO = b', "images": ['
_MAX_INFO_BYTES = 2**26  # a larger one is no file of ours (our choice)


def write_document(
    path: Path, info: dict[str, Any], images: Iterable[dict[str, Any]], annotations: Iterable[dict[str, Any]]
) -> None:
    """Write a COCO file, whole or not at all; records are taken one at a time, and ``info`` stands first."""

    def write(handle: IO[bytes]) -> None:
        handle.write(b'{"info": ' + json.dumps(info, allow_nan=False).encode())
        for key, records in (("images", images), ("annotations", annotations)):
            handle.write(f', "{key}": ['.encode())
            for number, record in enumerate(records):
                handle.write(b", " * bool(number) + json.dumps(record, allow_nan=False).encode())
            handle.write(b"]")
        handle.write(b', "categories": ' + json.dumps([CATEGORY]).encode() + b"}")

    write_atomically(path, write)


def read_document(path: Path) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each image of a file of :func:`write_document` with its annotations, in the file's order. It is read whole: a
    shard has tens of megabytes (see ``masktree.coco.file`` for larger and foreign files).

    Raises:
        FormatError: damaged, or an annotation of an image that is not in the file.
    """
    document = read_json(path, _SHAPE)
    groups: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        if annotation["image_id"] not in groups:
            raise FormatError(
                f"{path}, annotation {annotation['id']}: expected an image of the file; got an unknown image id "
                f"{annotation['image_id']}"
            )
        groups[annotation["image_id"]].append(annotation)
    return [(image, groups[image["id"]]) for image in document["images"]]


def read_info(path: Path) -> dict[str, Any]:
    """``info`` of a file of :func:`write_document`, from its beginning: the file may be large.

    Raises:
        FormatError: another kind of file.
    """
    head = b""
    with path.open("rb") as handle:
        while _AFTER_INFO not in head and len(head) < _MAX_INFO_BYTES and (block := handle.read(1 << 16)):
            head += block
    try:
        info = json.loads(head.partition(_AFTER_INFO)[0] + b"}")["info"]
        if not isinstance(info, dict):
            raise TypeError("info")
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: expected a COCO file written by masktree; got {type(error).__name__}") from error
    return info
