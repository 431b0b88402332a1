"""Masks as GeoJSON geometries (RFC 7946), shared by QuPath's files and those of geographic information systems."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from masktree.export.image import MaskCrop
from masktree.io.files import write_atomically
from masktree.trees.polygons import mask_to_polygons

Transform = Callable[[np.ndarray], np.ndarray]  # (k, 2) pixel coordinates to those of the file


def polygon_rings(crop: MaskCrop, transform: Transform | None = None) -> list[list[np.ndarray]]:
    """Each piece of a mask as its exterior and its holes, (k, 2) closed rings; pixel (column, row) is the square from
    (column, row) to (column + 1, row + 1)."""

    def close(ring: np.ndarray) -> np.ndarray:
        points = np.vstack([ring, ring[:1]]) + np.array([crop.left, crop.top])
        return points if transform is None else transform(points)

    return [[close(ring) for ring in (piece.exterior, *piece.holes)] for piece in mask_to_polygons(crop.inside)]


def geometry(crop: MaskCrop, transform: Transform | None = None) -> dict[str, Any]:
    """A Polygon, or a MultiPolygon if the mask has several pieces."""
    pieces = [[_numbers(ring) for ring in rings] for rings in polygon_rings(crop, transform)]
    if len(pieces) == 1:
        return {"type": "Polygon", "coordinates": pieces[0]}
    return {"type": "MultiPolygon", "coordinates": pieces}


def _numbers(ring: np.ndarray) -> list[list[float]]:
    """Coordinates as plain numbers, whole ones without a point, which halves the file."""
    is_whole = bool(np.all(ring == np.floor(ring)) and np.all(np.abs(ring) < 2**53))
    values: list[list[float]] = (ring.astype(np.int64) if is_whole else ring).tolist()
    return values


def write_collection(path: Path, collection: dict[str, Any], *, compress: bool) -> None:
    """Write a FeatureCollection atomically, with gzip if ``compress``; the same features give the same bytes."""
    text = json.dumps(collection, allow_nan=False, separators=(",", ":")).encode("ascii")
    content = gzip.compress(text, mtime=0) if compress else text
    write_atomically(path, lambda handle: handle.write(content))
