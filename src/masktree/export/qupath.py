"""QuPath: annotations as GeoJSON (qupath.readthedocs.io, "Importing and exporting"; read by version 0.5 and later).

Drag the file onto the image, or File > Import objects from file.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from masktree.export.features import geometry, write_collection
from masktree.export.image import LabelledImage, MaskCrop, mask_crops
from masktree.export.options import ExportOptions

_NAMESPACE = uuid.UUID("b1d4a2a6-3a0e-5b57-9d0c-6f1c1c5b7a11")  # of our ids, so that they are the same every time
_COLORS = (  # of whole, part and subpart, or of the user's classes (our choice: those of matplotlib)
    *([31, 119, 180], [255, 127, 14], [44, 160, 44], [214, 39, 40], [148, 103, 189]),
    *([140, 86, 75], [227, 119, 194], [127, 127, 127], [188, 189, 34], [23, 190, 207]),
)


def write_qupath(image: LabelledImage, path: Path, options: ExportOptions) -> None:
    """An annotation per mask, in pixels. Parts are in the ``childObjects`` of their wholes, or with ``flat`` all in one
    list, as geographic information systems read them."""
    names = image.class_names()
    parents = image.tree.parents.tolist()
    features = [_feature(image, index, names[index], crop) for index, crop in enumerate(mask_crops(image.tree))]
    roots = []
    for feature, parent in zip(features, parents, strict=True):
        if parent < 0 or options.flat:
            roots.append(feature)
        else:
            features[parent]["properties"].setdefault("childObjects", []).append(feature)
    write_collection(path, {"type": "FeatureCollection", "features": roots}, compress=options.compress)


def _color(image: LabelledImage, index: int, name: str) -> list[int]:
    """By the place of the class in the user's list; of masks without one by level."""
    place = image.class_list.index(name) if name in image.class_list else int(image.tree.levels[index])
    return _COLORS[place % len(_COLORS)]


def _feature(image: LabelledImage, index: int, name: str, crop: MaskCrop) -> dict[str, Any]:
    record = image.tree.record(index)
    metadata = {"mask_id": str(index), "level": record["level"], "kind": record["kind"]}
    if record["parent_id"] is not None:
        metadata["parent_id"] = str(record["parent_id"])
    measurements = {key: record[key] for key in ("score", "granularity", "stability", "depth", "area")}
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{image.file_name} {index}")),
        "geometry": geometry(crop),
        "properties": {
            "objectType": "annotation",
            "name": image.given_name(index) or f"{name} {index}",
            "classification": {"name": name, "color": _color(image, index, name)},
            "measurements": measurements,
            "metadata": metadata,
        },
    }
