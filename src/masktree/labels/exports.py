"""A label set in the files that others read: one COCO file, or a file per image as SA-1B has them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from masktree.coco.annotations import CATEGORY, MAX_MASKS, SHARD_SHAPE, group_by_image, tree_of
from masktree.coco.stream import read_records
from masktree.errors import InputError, MasktreeError
from masktree.io.files import read_json, write_atomically, write_json
from masktree.labels.dataset import LabelSet

_SA1B = re.compile(r"sa_\d+\.\w+")


def write_coco(labels: LabelSet, path: Path, info: dict[str, Any]) -> None:
    """One COCO file of a label set; ``info`` stands first in it. One shard is in memory at a time.

    Annotations keep their further keys: parent_id, level, score, source.
    """

    def write(handle: IO[bytes]) -> None:
        handle.write(b'{"info": ' + json.dumps(info, allow_nan=False).encode())
        for key in ("images", "annotations"):
            separator = b', "' + key.encode() + b'": ['
            empty = separator
            for document in _documents(labels):
                for record in document[key]:
                    handle.write(separator + json.dumps(record, allow_nan=False).encode())
                    separator = b",\n"
            handle.write(separator + b"]" if separator is empty else b"]")
        handle.write(b', "categories": ' + json.dumps([CATEGORY]).encode() + b"}")

    write_atomically(path, write)


def read_coco_info(path: Path) -> dict[str, Any] | None:
    """``info`` of a file of ``write_coco``, from its beginning; None if it is something else."""
    try:
        record = next(read_records(path), None)
    except MasktreeError:
        return None
    known = record is not None and record.key == "info" and isinstance(record.value, dict)
    return record.value if record is not None and known else None


def write_sa1b(labels: LabelSet, folder: Path, run: str, *, overwrite: bool = False) -> None:
    """A file per image in SA-1B's format; github.com/facebookresearch/segment-anything, "Dataset".

    Beyond its keys, annotations have parent_id, level, depth, granularity and, in a merged set, source. A file has the
    number of its photograph if all are called like SA-1B's, ``sa_1.jpg``; else that of the image in the label set.

    Args:
        run: mark of these results; files that have it already are kept.
        overwrite: replace files with another mark.

    Raises:
        InputError: a file is there that has none, or another one.
    """
    own = all(_SA1B.fullmatch(image["file_name"]) for document in _documents(labels) for image in document["images"])
    for document in _documents(labels):
        groups = group_by_image(document)
        for image in document["images"]:
            name = Path(image["file_name"]).stem if own else f"sa_{image['id']}"
            path = folder / f"{name}.json"
            header = {
                "image_id": image["id"],
                "width": image["width"],
                "height": image["height"],
                "file_name": image["file_name"],
                "merge": run,
            }
            if not _is_done(path, header, overwrite):
                write_json(path, {"image": header, "annotations": _sa1b_records(image, groups[image["id"]])})


def _sa1b_records(image: dict[str, Any], annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    tree = tree_of(annotations, (image["height"], image["width"]))
    first = image["id"] * MAX_MASKS
    records = tree.masks(output_mode="coco_rle")
    for record in records:
        source = annotations[record["id"]].get("source")
        if source is not None:
            record["source"] = source
        record["id"] += first
        if record["parent_id"] is not None:
            record["parent_id"] += first
    return records


def _is_done(path: Path, header: dict[str, Any], overwrite: bool) -> bool:
    if not path.exists():
        return False
    try:
        record = next(read_records(path), None)
        value = record.value if record is not None and record.key == "image" else None
    except MasktreeError:
        value = None
    mark = value.get("merge") if isinstance(value, dict) else None
    if mark == header["merge"]:
        return True
    if mark is None or not overwrite:
        raise InputError(f"expected no foreign files where results go; got {path}; choose another output folder")
    return False


def _documents(labels: LabelSet) -> Iterator[dict[str, Any]]:
    for shard in labels.index["shards"]:
        yield read_json(labels.folder / shard["file"], SHARD_SHAPE)
