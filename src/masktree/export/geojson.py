"""GeoJSON for geographic information systems: a flat list of features with attributes.

Coordinates are those of the photograph's reference system if it is a GeoTIFF with one, else pixels, rows downwards.
RFC 7946 knows longitude and latitude only; the member ``crs`` of the 2008 specification, which GDAL writes and reads,
names another system.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from masktree.export.features import geometry, write_collection
from masktree.export.image import LabelledImage, mask_crops
from masktree.export.options import ExportOptions
from masktree.io.georeference import read_georeference

ATTRIBUTES = ("level", "depth", "kind", "granularity", "score", "stability", "area")  # of a record, in pixels


def write_geojson(image: LabelledImage, path: Path, options: ExportOptions) -> None:
    """A feature per mask with mask_id, parent_id (null for roots), class, name (null for most), level, depth, kind,
    granularity, score, stability, and area in pixels."""
    reference = read_georeference(image.photo)
    transform = None if reference is None else reference.transform
    collection: dict[str, Any] = {"type": "FeatureCollection", "name": Path(image.name).name}
    if reference is not None:
        collection["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{reference.epsg}"}}
    collection["features"] = [
        {
            "type": "Feature",
            "id": index,
            "geometry": geometry(crop, transform),
            "properties": attributes(image, index),
        }
        for index, crop in enumerate(mask_crops(image.tree))
    ]
    write_collection(path, collection, compress=options.compress)


def attributes(image: LabelledImage, index: int) -> dict[str, Any]:
    """The attributes of a mask as plain values."""
    record = image.tree.record(index)
    return {
        "mask_id": index,
        "parent_id": record["parent_id"],
        "class": image.class_names()[index],
        "name": image.given_name(index),
        **{key: record[key] for key in ATTRIBUTES},
    }
