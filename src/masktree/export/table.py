"""A table of the properties of regions: one row per mask, one file for all images, as CSV or Parquet.

Columns that scikit-image measures too have its names (``skimage.measure.regionprops_table``).
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from masktree.errors import InputError, MasktreeWarning
from masktree.export.image import LabelledImage, MaskCrop, mask_crops
from masktree.export.options import ExportOptions
from masktree.io.files import write_atomically
from masktree.io.images import read_image

_SHAPE = ("area", "perimeter", "axis_major_length", "axis_minor_length", "eccentricity", "orientation")
_COLUMNS = (
    *("image", "label", "parent", "class", "name", "level", "depth", "granularity", "score", "stability"),
    *_SHAPE,
    *("centroid-0", "centroid-1", "bbox-0", "bbox-1", "bbox-2", "bbox-3"),
    *(f"intensity_{statistic}-{channel}" for statistic in ("mean", "std") for channel in range(3)),
)


Row = dict[str, Any]


def write_csv(tables: Iterable[list[Row]], path: Path, options: ExportOptions) -> None:
    """The rows of :func:`measure`, image after image."""

    def write(handle: IO[bytes]) -> None:
        text = io.TextIOWrapper(handle, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        for rows in tables:
            writer.writerows(rows)
        text.detach()

    write_atomically(path, write)


def write_parquet(tables: Iterable[list[Row]], path: Path, options: ExportOptions) -> None:
    """The same table as Parquet, a row group per image.

    Raises:
        InputError: pyarrow is missing.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            "expected pyarrow, which writes Parquet; got none; pip install pyarrow; or export to csv"
        ) from error
    types = {name: pa.float64() for name in _COLUMNS}
    types |= dict.fromkeys(("image", "class", "name", "level"), pa.string())
    types |= dict.fromkeys(("label", "parent", "depth", "area", *(f"bbox-{i}" for i in range(4))), pa.int64())
    schema = pa.schema(list(types.items()))

    def write(handle: IO[bytes]) -> None:
        with parquet.ParquetWriter(handle, schema) as writer:
            for rows in tables:
                writer.write_table(pa.Table.from_pylist(rows, schema))

    write_atomically(path, write)


def measure(image: LabelledImage, options: ExportOptions) -> list[Row]:
    """A row per mask: image, label (number of the mask in its tree), parent (None for roots), class, name (None for
    most), level, depth, granularity, score and stability; shape in pixels, rows and columns; mean and standard
    deviation of red, green and blue, from 0 to 255.

    Where the photograph is missing there are no intensities, and a warning.

    Raises:
        ImageError: a photograph that cannot be read.
        InputError: a photograph of another size than the masks.
    """
    rows = []
    photo = read_image(image.photo) if image.photo.is_file() else None
    if photo is None:
        text = f"no photograph {image.photo}: intensities in the table are empty; give its folder with --images"
        warnings.warn(text, MasktreeWarning, stacklevel=2)
    if photo is not None and photo.shape[:2] != image.tree.size:
        raise InputError(
            f"expected a photograph of {image.tree.size[0]} x {image.tree.size[1]} pixels; got {photo.shape[0]} x "
            f"{photo.shape[1]} in {image.photo}; give the folder of the segmented one with --images"
        )
    names = image.class_names()
    for index, crop in enumerate(mask_crops(image.tree)):
        record = image.tree.record(index)
        row = {"image": image.file_name, "label": index, "parent": record["parent_id"], "class": names[index]}
        row["name"] = image.given_name(index)
        row |= {key: record[key] for key in ("level", "depth", "granularity", "score", "stability")}
        row |= _shape(crop)
        if photo is not None:
            height, width = crop.inside.shape
            window = photo[crop.top : crop.top + height, crop.left : crop.left + width]
            row |= _intensities(window[crop.inside])
        rows.append(row)
    return rows


def _shape(crop: MaskCrop) -> dict[str, Any]:
    from skimage.measure import regionprops

    [region] = regionprops(crop.inside.astype(np.uint8), cache=True)
    top, left, bottom, right = region.bbox
    row, column = region.centroid
    values: dict[str, Any] = {name: float(getattr(region, name)) for name in _SHAPE if name != "area"}
    values |= {"area": int(region.area), "centroid-0": row + crop.top, "centroid-1": column + crop.left}
    edges = (top + crop.top, left + crop.left, bottom + crop.top, right + crop.left)
    return values | {f"bbox-{i}": edge for i, edge in enumerate(edges)}


def _intensities(pixels: np.ndarray) -> dict[str, float]:
    """Of (n, 3) pixels."""
    values = pixels.astype(np.float64)
    means, spreads = values.mean(axis=0).tolist(), values.std(axis=0).tolist()
    named = [(f"intensity_mean-{i}", value) for i, value in enumerate(means)]
    return dict(named + [(f"intensity_std-{i}", value) for i, value in enumerate(spreads)])
