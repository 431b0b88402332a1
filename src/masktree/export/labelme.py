"""LabelMe: a JSON file per image, with masks as PNG in base64 (``shape_type`` "mask", since version 5.2)."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

from PIL import Image

from masktree.export.image import LabelledImage, MaskCrop, mask_crops
from masktree.export.options import ExportOptions
from masktree.io.files import write_json

_VERSION = "5.5.0"  # of the file format that is written


def write_labelme(image: LabelledImage, path: Path, options: ExportOptions) -> None:
    """A shape per mask; ``mask_id`` and ``parent_id`` are further keys, which LabelMe keeps, and ``group_id`` is the
    root that the mask belongs to. Wholes stand before their parts.

    ``imagePath`` leads from the file to the photograph.
    """
    names = image.class_names()
    roots = _roots(image)
    order = sorted(range(len(image.tree)), key=lambda index: (image.tree.depths[index], -image.tree.areas[index]))
    shapes = [_shape(image, i, names[i], roots[i], crop) for i, crop in enumerate(mask_crops(image.tree))]
    height, width = image.tree.size
    document: dict[str, Any] = {
        "version": _VERSION,
        "flags": {},
        "shapes": [shapes[index] for index in order],
        "imagePath": os.path.relpath(image.photo, path.parent).replace(os.sep, "/"),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    write_json(path, document, indent=1)


def _roots(image: LabelledImage) -> list[int]:
    roots = list(range(len(image.tree)))
    for index in sorted(roots, key=lambda index: image.tree.depths[index]):
        parent = int(image.tree.parents[index])
        if parent >= 0:
            roots[index] = roots[parent]
    return roots


def _shape(image: LabelledImage, index: int, name: str, root: int, crop: MaskCrop) -> dict[str, Any]:
    record = image.tree.record(index)
    height, width = crop.inside.shape
    buffer = io.BytesIO()
    Image.fromarray(crop.inside).save(buffer, format="PNG")
    return {
        "label": name,
        "points": [[crop.left, crop.top], [crop.left + width - 1, crop.top + height - 1]],  # both inside
        "group_id": root,
        "description": image.given_name(index) or "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(buffer.getvalue()).decode("ascii"),
        "mask_id": index,
        "parent_id": record["parent_id"],
        "level": record["level"],
        "kind": record["kind"],
        "granularity": record["granularity"],
        "score": record["score"],
    }
