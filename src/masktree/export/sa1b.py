"""SA-1B: a JSON file per image (github.com/facebookresearch/segment-anything, "Dataset")."""

from __future__ import annotations

from pathlib import Path

from masktree.coco.annotations import MAX_MASKS
from masktree.export.image import LabelledImage
from masktree.export.options import ExportOptions
from masktree.io.files import write_json


def write_sa1b(image: LabelledImage, path: Path, options: ExportOptions) -> None:
    """SA-1B's keys, and beyond them parent_id, level, depth, kind and granularity. Ids are unique over all images of
    the collection as long as none has more than 10,000 masks."""
    first = image.number * MAX_MASKS
    records = image.tree.masks(output_mode="coco_rle")
    for record in records:
        index = record["id"]
        record |= {key: values[index] for key, values in image.extras.items()}
        if image.classes is not None:
            record["class"] = image.classes[index]  # null for none
        record["id"] = first + index
        if record["parent_id"] is not None:
            record["parent_id"] += first
    height, width = image.tree.size
    header = {"image_id": image.number, "width": width, "height": height, "file_name": image.file_name}
    write_json(path, {"image": header, "annotations": records})
