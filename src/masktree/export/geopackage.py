"""GeoPackage: a SQLite database that every geographic information system reads (OGC 12-128r18, geopackage.org)."""

from __future__ import annotations

import sqlite3
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from masktree.export.features import polygon_rings
from masktree.export.geojson import attributes
from masktree.export.image import LabelledImage, mask_crops
from masktree.export.options import ExportOptions
from masktree.io.files import write_atomically
from masktree.io.georeference import read_georeference

_APPLICATION_ID, _VERSION = 0x47504B47, 10300  # "GPKG", 1.3
_PIXELS = -1  # the specification's id of an undefined Cartesian system
_DATE = "2000-01-01T00:00:00.000Z"  # the same masks give the same file
_TABLE = "masks"
_SCHEMA = f"""
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
  organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
  description TEXT DEFAULT '', last_change DATETIME NOT NULL, min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE,
  srs_id INTEGER REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL REFERENCES gpkg_contents(table_name),
  column_name TEXT NOT NULL, geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL, z TINYINT NOT NULL,
  m TINYINT NOT NULL, PRIMARY KEY (table_name, column_name));
CREATE TABLE {_TABLE} (fid INTEGER PRIMARY KEY, geom MULTIPOLYGON, mask_id INTEGER NOT NULL, parent_id INTEGER,
  class TEXT, name TEXT, level TEXT, depth INTEGER, kind TEXT, granularity DOUBLE, score DOUBLE, stability DOUBLE,
  area INTEGER);
"""


def write_geopackage(image: LabelledImage, path: Path, options: ExportOptions) -> None:
    """A table ``masks`` with a multipolygon and the attributes of each mask; ``fid`` is ``mask_id`` + 1.

    Coordinates are those of the photograph's reference system if it is a GeoTIFF with one, else pixels, rows downwards.
    """
    reference = read_georeference(image.photo)
    srs = _PIXELS if reference is None else reference.epsg
    transform = None if reference is None else reference.transform
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "masks.gpkg")
        database = sqlite3.connect(file)
        try:
            with database:
                database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {_VERSION}")
                database.executescript(_SCHEMA)
                _describe(database, image, srs)
                bounds: list[np.ndarray] = []
                for index, crop in enumerate(mask_crops(image.tree)):
                    pieces = polygon_rings(crop, transform)
                    bounds += [rings[0] for rings in pieces]
                    values = [index + 1, _encode(pieces, srs), *attributes(image, index).values()]
                    database.execute(f"INSERT INTO {_TABLE} VALUES ({', '.join('?' * len(values))})", values)
                if bounds:
                    points = np.concatenate(bounds)
                    box = [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
                    database.execute("UPDATE gpkg_contents SET min_x = ?, min_y = ?, max_x = ?, max_y = ?", box)
        finally:
            database.close()
        write_atomically(path, lambda handle: handle.write(file.read_bytes()))


def _describe(database: sqlite3.Connection, image: LabelledImage, srs: int) -> None:
    """The rows that describe the table and its reference system; GDAL takes the definition of a system of EPSG from its
    own database, by the number."""
    systems: list[tuple[Any, ...]] = [
        ("Undefined Cartesian", -1, "NONE", -1, "undefined", "pixels, rows downwards"),
        ("Undefined geographic", 0, "NONE", 0, "undefined", None),
        ("WGS 84", 4326, "EPSG", 4326, _WGS84, None),
    ]
    if srs not in (_PIXELS, 4326):
        systems.append((f"EPSG:{srs}", srs, "EPSG", srs, "undefined", None))
    database.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, ?)", systems)
    database.execute(
        "INSERT INTO gpkg_contents VALUES (?, 'features', ?, ?, ?, NULL, NULL, NULL, NULL, ?)",
        (_TABLE, _TABLE, image.file_name, _DATE, srs),
    )
    database.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'MULTIPOLYGON', ?, 0, 0)", (_TABLE, srs))


def _encode(pieces: list[list[np.ndarray]], srs: int) -> bytes:
    """The header of GeoPackage (section 2.1.3) and well-known binary, little-endian."""
    points = np.concatenate([rings[0] for rings in pieces])
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    header = b"GP" + struct.pack("<BBi4d", 0, 0b011, srs, left, right, top, bottom)
    parts = [header, struct.pack("<BII", 1, 6, len(pieces))]
    for rings in pieces:
        parts.append(struct.pack("<BII", 1, 3, len(rings)))
        for ring in rings:
            parts += [struct.pack("<I", len(ring)), ring.astype("<f8").tobytes()]
    return b"".join(parts)


_WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,AUTHORITY["EPSG","7030"]],'
    'AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],UNIT["degree",0.0174532925199433,'
    'AUTHORITY["EPSG","9122"]],AUTHORITY["EPSG","4326"]]'
)
