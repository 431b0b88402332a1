"""QuPath: GeoJSON of its objects, nested or flat."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from masktree.errors import FormatError
from masktree.importers.image import ForeignImage, ForeignMask, checked_score, filled, foreign, warn_of_others
from masktree.io.files import parse_json

_MAX_BYTES = 2**30  # of a decompressed file (our choice)
_SUFFIXES = (".gz", ".geojson", ".json")


def read_qupath(path: Path) -> Iterator[ForeignImage]:
    """The image of a file, named as the file is. Nesting, or the metadata mask_id and parent_id, make the tree.

    The file does not tell the image's size: the photograph must be there. Areas (polygons) are read, points and lines
    are not.

    Raises:
        FormatError: damaged, or another kind of file.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as handle:
                data = handle.read(_MAX_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise FormatError(f"{path}: expected a file of gzip; got a damaged one ({error})") from error
    document = parse_json(data, path, strict=False)
    features = document.get("features") if isinstance(document, dict) else document
    if not isinstance(features, list):
        raise FormatError(f"{path}: expected GeoJSON of QuPath; got something else")
    name = path.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    yield ForeignImage(name, _reader(features), path)


def _reader(features: list[Any]) -> Any:
    def read(size: tuple[int, int] | None) -> tuple[tuple[int, int], list[ForeignMask]]:
        if size is None:
            raise FormatError(
                "expected the photograph, which tells the size of the image; got none; give its folder with --images"
            )
        with foreign("objects as QuPath writes them"):
            masks: list[ForeignMask] = []
            num_others = 0
            stack: list[tuple[Any, Any]] = [(feature, None) for feature in reversed(features)]
            while stack:
                feature, parent = stack.pop()
                properties = feature.get("properties") or {}
                mask = _mask(feature, properties, parent, len(masks), size)
                if mask is None:
                    num_others += 1
                else:
                    masks.append(mask)
                below = parent if mask is None else mask.id
                stack += [(child, below) for child in reversed(properties.get("childObjects") or [])]
            warn_of_others(num_others, "points or lines")
            return size, masks

    return read


def _mask(feature: Any, properties: Any, parent: Any, number: int, size: tuple[int, int]) -> ForeignMask | None:
    geometry = feature["geometry"]
    if geometry["type"] not in ("Polygon", "MultiPolygon"):
        return None
    pieces = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    metadata = properties.get("metadata") or {}
    name = (properties.get("classification") or {}).get("name")
    score = checked_score((properties.get("measurements") or {}).get("score"))
    mask = filled([ring for piece in pieces for ring in piece], size)
    identity = metadata.get("mask_id", f"object {number}")
    return ForeignMask(mask, identity, metadata.get("parent_id", parent), name, score)
