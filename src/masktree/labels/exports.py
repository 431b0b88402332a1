"""A label set in the formats of other tools: one COCO file, or a file per image as in SA-1B."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from masktree.coco.annotations import MAX_MASKS, tree_from_annotations
from masktree.coco.document import read_document, write_document
from masktree.coco.json_entries import read_entries
from masktree.errors import InputError, MasktreeError
from masktree.io.files import write_json
from masktree.labels.dataset import LabelSet

_SA1B_NAME = re.compile(r"sa_\d+\.\w+")


def write_coco(labels: LabelSet, path: Path, info: dict[str, Any]) -> None:
    """One COCO file of a label set, with ``info`` first. One shard is in memory at a time.

    Annotations keep masktree's keys: parent_id, level, score, source.
    """
    images = (image for image, _ in _images(labels))
    write_document(path, info, images, (annotation for _, annotations in _images(labels) for annotation in annotations))


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
    keep_names = all(_SA1B_NAME.fullmatch(image["file_name"]) for image, _ in _images(labels))
    for image, records in _images(labels):
        name = Path(image["file_name"]).stem if keep_names else f"sa_{image['id']}"
        path = folder / f"{name}.json"
        header = {
            "image_id": image["id"],
            "width": image["width"],
            "height": image["height"],
            "file_name": image["file_name"],
            "merge": run,
        }
        if not _is_done(path, header, overwrite):
            write_json(path, {"image": header, "annotations": _sa1b_annotations(image, records)})


def _sa1b_annotations(image: dict[str, Any], annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    tree = tree_from_annotations(annotations, (image["height"], image["width"]), image["file_name"])
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
        entry = next(read_entries(path), None)
        value = entry.value if entry is not None and entry.key == "image" else None
    except MasktreeError:
        value = None
    mark = value.get("merge") if isinstance(value, dict) else None
    if mark == header["merge"]:
        return True
    if mark is None or not overwrite:
        raise InputError(f"expected no foreign files where results go; got {path}; choose another output folder")
    return False


def _images(labels: LabelSet) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    for shard in labels.index["shards"]:
        yield from read_document(labels.folder / shard["file"])
