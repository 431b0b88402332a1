"""The files that masktree writes: COCO documents with a tree of masks in the annotations of each image."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from masktree.coco.file import check_image, read_integer
from masktree.errors import FormatError
from masktree.io.files import is_relative_path, parse_json, read_json, write_json_lists
from masktree.trees.masktree import CATEGORY

_SHAPE: dict[str, type] = {"info": dict, "images": list, "annotations": list}
_AFTER_INFO = b', "images": ['
_MAX_INFO_BYTES = 2**26  # a larger one is no file of ours (our choice)


def write_document(
    path: Path, info: dict[str, Any], images: Iterable[dict[str, Any]], annotations: Iterable[dict[str, Any]]
) -> None:
    """Write a COCO file, whole or not at all; records are taken one at a time, and ``info`` stands first."""

    lists = {"images": images, "annotations": annotations, "categories": [CATEGORY]}
    write_json_lists(path, {"info": info}, lists)


def read_document(path: Path) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each image of a file of :func:`write_document` with its annotations, in the file's order. It is read whole: a
    shard has tens of megabytes (see ``masktree.coco.file`` for larger and foreign files).

    Raises:
        FormatError: damaged, a record lacks what it must have, an image twice, a file_name outside of the collection,
            or an annotation of an image that is not in the file.
    """
    document = read_json(path, _SHAPE)
    if not all(isinstance(record, dict) for key in ("images", "annotations") for record in document[key]):
        raise FormatError(f"{path}: expected lists of records; got others; make the file again")
    groups: dict[int, list[dict[str, Any]]] = {}
    for image in document["images"]:
        check_image(image, path)
        if image["id"] in groups:
            raise FormatError(f"{path}, image {image['id']}: expected each image id once; got it twice")
        if not is_relative_path(image.get("file_name")):
            raise FormatError(
                f"{path}, image {image['id']}: expected a file_name below the folder of the photographs; "
                f"got {reprlib.repr(image.get('file_name'))}; make the file again"
            )
        groups[image["id"]] = []
    for index, annotation in enumerate(document["annotations"]):
        image_id = read_integer(annotation, "image_id", f"{path}, entry {index} of the annotations")
        if image_id not in groups:
            raise FormatError(
                f"{path}, annotation {annotation.get('id')}: expected an image of the file; got an unknown image id "
                f"{image_id}"
            )
        groups[image_id].append(annotation)
    return [(image, groups[image["id"]]) for image in document["images"]]


def read_info(path: Path) -> dict[str, Any]:
    """``info`` of a file of :func:`write_document`, from its beginning: the file may be large.

    Raises:
        FormatError: another kind of file.
    """
    head, end = bytearray(), -1
    with path.open("rb") as handle:
        while end < 0 and len(head) < _MAX_INFO_BYTES and (block := handle.read(1 << 16)):
            seen = max(0, len(head) - len(_AFTER_INFO))
            head += block
            end = head.find(_AFTER_INFO, seen)
    document = parse_json(bytes(head[:end] if end >= 0 else head) + b"}", path)
    info = document.get("info") if isinstance(document, dict) else None
    if not isinstance(info, dict):
        raise FormatError(f"{path}: expected a COCO file written by masktree; got another; make it again")
    return info
