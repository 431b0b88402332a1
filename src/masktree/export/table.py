"""A table of the properties of regions: one row per mask, one file for all images, as CSV or Parquet.

Columns that scikit-image measures too have its names (``skimage.measure.regionprops_table``); those of intensities end
in the name of the channel, or its number.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from masktree.errors import InputError, MasktreeWarning
from masktree.export.image import LabelledImage, MaskCrop, mask_crops
from masktree.export.options import ExportOptions
from masktree.io.files import write_atomically
from masktree.io.images import ImageChannels, describe_image, read_channels, read_image

_SHAPE = ("area", "perimeter", "axis_major_length", "axis_minor_length", "eccentricity", "orientation")
_COLUMNS = (
    *("image", "label", "parent", "class", "name", "level", "depth", "kind"),
    *("granularity", "score", "stability"),
    *_SHAPE,
    *("centroid-0", "centroid-1", "bbox-0", "bbox-1", "bbox-2", "bbox-3"),
)
_INTENSITY = "intensity_"
_RGB = ("0", "1", "2")  # channels where no photograph names any


Row = dict[str, Any]


@contextmanager
def _spooled(tables: Iterable[list[Row]]) -> Iterator[tuple[list[str], Iterator[list[Row]]]]:
    """All columns, which are known once all images are measured, and the rows again, from a temporary file."""
    channels: dict[str, None] = {}
    with tempfile.TemporaryFile("w+", encoding="ascii") as file:
        for rows in tables:
            for row in rows:
                prefix = f"{_INTENSITY}mean-"
                channels |= {key.removeprefix(prefix): None for key in row if key.startswith(prefix)}
            file.write(json.dumps(rows) + "\n")
        file.seek(0)
        names = list(channels) or list(_RGB)
        intensities = [f"{_INTENSITY}{statistic}-{name}" for statistic in ("mean", "std") for name in names]
        yield [*_COLUMNS, *intensities], (json.loads(line) for line in file)


def write_csv(tables: Iterable[list[Row]], path: Path, options: ExportOptions) -> None:
    """The rows of :func:`measure`, image after image."""

    def write(handle: IO[bytes]) -> None:
        text = io.TextIOWrapper(handle, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for rows in measured:
            writer.writerows(rows)
        text.detach()

    with _spooled(tables) as (columns, measured):
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

    def write(handle: IO[bytes]) -> None:
        types = {name: pa.float64() for name in columns}
        types |= dict.fromkeys(("image", "class", "name", "level", "kind"), pa.string())
        types |= dict.fromkeys(("label", "parent", "depth", "area", *(f"bbox-{i}" for i in range(4))), pa.int64())
        schema = pa.schema(list(types.items()))
        with parquet.ParquetWriter(handle, schema) as writer:
            for rows in measured:
                writer.write_table(pa.Table.from_pylist(rows, schema))

    with _spooled(tables) as (columns, measured):
        write_atomically(path, write)


def measure(image: LabelledImage, options: ExportOptions) -> list[Row]:
    """A row per mask: image, label (number of the mask in its tree), parent (None for roots), class, name (None for
    most), level, depth, kind, granularity, score and stability; shape in pixels, rows and columns; mean and standard
    deviation of each channel.

    Channels are red, green and blue, 0 to 2, of an ordinary picture of 8 bits. Of files with more bits, or with other
    or further channels, they are those of the file with the values that it stores, and with its names; values that are
    no data do not count.

    Where the photograph is missing there are no intensities, and a warning.

    Raises:
        ImageError: a photograph that cannot be read.
        InputError: a photograph of another size than the masks.
    """
    rows = []
    photo = _channels(image) if image.photo.is_file() else None
    if photo is None:
        text = f"no photograph {image.photo}: intensities in the table are empty; give its folder with --images"
        warnings.warn(text, MasktreeWarning, stacklevel=2)
    if photo is not None and photo.values.shape[:2] != image.tree.size:
        (height, width), (other_height, other_width) = image.tree.size, photo.values.shape[:2]
        raise InputError(
            f"expected a photograph of {height} x {width} pixels; got {other_height} x {other_width} in {image.photo}; "
            "give the folder of the segmented one with --images"
        )
    names = image.class_names()
    for index, crop in enumerate(mask_crops(image.tree)):
        record = image.tree.record(index)
        row = {"image": image.file_name, "label": index, "parent": record["parent_id"], "class": names[index]}
        row["name"] = image.given_name(index)
        row |= {key: record[key] for key in ("level", "depth", "kind", "granularity", "score", "stability")}
        row |= _shape(crop)
        if photo is not None:
            row |= _intensities(photo, crop)
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


def _channels(image: LabelledImage) -> ImageChannels:
    description = describe_image(image.photo, image.page)
    is_plain = description.dtype == np.uint8 and not description.nodata
    channels = None
    if not is_plain or description.alpha is not None or description.num_channels not in (1, 3):
        channels = read_channels(image.photo, image.page)
    if channels is None or (is_plain and len(channels.names) in (1, 3) and channels.valid is None):
        return ImageChannels(read_image(image.photo, page=image.page), _RGB, None)  # opacity over white, as it is seen
    return channels


def _intensities(photo: ImageChannels, crop: MaskCrop) -> dict[str, float]:
    """Mean and standard deviation of each channel in a mask; none of a channel without data in it."""
    height, width = crop.inside.shape
    window = slice(crop.top, crop.top + height), slice(crop.left, crop.left + width)
    pixels = photo.values[window][crop.inside]
    valid = None if photo.valid is None else photo.valid[window][crop.inside]
    found: dict[str, float] = {}
    for channel, name in enumerate(photo.names):
        values = pixels[:, channel] if valid is None else pixels[valid[:, channel], channel]
        if len(values):
            values = values.astype(np.float64)
            found |= {f"{_INTENSITY}mean-{name}": float(values.mean()), f"{_INTENSITY}std-{name}": float(values.std())}
    return found
