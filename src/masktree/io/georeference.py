"""Where the pixels of a GeoTIFF lie on the earth (OGC 19-008r4, "GeoTIFF")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from masktree.errors import ImageError
from masktree.io.images import read_tiff_tags

_SCALE, _TIE_POINTS, _MATRIX, _KEYS, _ORIENTATION = 33550, 33922, 34264, 34735, 274
_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072  # keys of the directory
_PIXEL_IS_POINT = 2
_MAX_EPSG = 32766  # above stand codes for "user-defined"


@dataclass(frozen=True)
class Georeference:
    """The map from pixels to a reference system.

    Attributes:
        matrix: (2, 3) float64; x and y are its product with (column, row, 1), where (0, 0) is the upper left corner of
            the upper left pixel.
        epsg: number of the reference system.
    """

    matrix: np.ndarray
    epsg: int

    def transform(self, points: np.ndarray) -> np.ndarray:
        """(k, 2) x and y of (k, 2) columns and rows."""
        moved: np.ndarray = points @ self.matrix[:, :2].T + self.matrix[:, 2]
        return moved


def read_georeference(path: Path) -> Georeference | None:
    """That of a GeoTIFF; None for other images, and for a TIFF without an EPSG number or a regular grid.

    Raises:
        ImageError: a TIFF that is missing or has damaged tags, or a GeoTIFF that is stored rotated.
    """
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    tags = read_tiff_tags(path, (_SCALE, _TIE_POINTS, _MATRIX, _KEYS, _ORIENTATION))
    if _KEYS not in tags:
        return None
    try:
        keys = _read_keys(tags[_KEYS])
        matrix = _read_matrix(tags)
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise ImageError(f"{path}: expected the tags of a GeoTIFF; got damaged ones ({error})") from error
    epsg = keys.get(_PROJECTED, keys.get(_GEOGRAPHIC, 0))
    if matrix is None or not 0 < epsg <= _MAX_EPSG:
        return None
    if tags.get(_ORIENTATION, 1) != 1:
        raise ImageError(f"{path}: expected a GeoTIFF that is stored upright; got a rotated one; store it upright")
    if keys.get(_RASTER_TYPE) == _PIXEL_IS_POINT:  # the tie point is the centre of its pixel
        matrix[:, 2] -= matrix[:, :2] @ np.array([0.5, 0.5])
    return Georeference(matrix, epsg)


def _read_keys(directory: Any) -> dict[int, int]:
    """The keys whose values stand in the directory itself."""
    entries = np.array(directory, np.int64)[4:].reshape(-1, 4)
    return {int(key): int(value) for key, location, _, value in entries if location == 0}


def _read_matrix(tags: dict[int, Any]) -> np.ndarray | None:
    if _MATRIX in tags:
        return np.array(tags[_MATRIX], np.float64).reshape(4, 4)[:2, [0, 1, 3]].copy()
    if _SCALE not in tags or len(tags.get(_TIE_POINTS, ())) != 6:
        return None
    (width, height, _), (column, row, _, x, y, _) = tags[_SCALE], tags[_TIE_POINTS]
    return np.array([[width, 0.0, x - column * width], [0.0, -height, y + row * height]])
