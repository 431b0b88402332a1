"""What files beside a GeoTIFF say of it: NAME.tif.msk, a mask, and NAME.tif.aux.xml, names of bands and "no data".

rasterio reads them, where it is installed (the extra ``geo``). Pixels, and what the TIFF itself says, come
from tifffile in any case, so that a file alone gives the same picture with and without rasterio.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from masktree.io.image_description import ImageDescription

_SUFFIXES = (".msk", ".aux.xml")  # after the whole name


def read_sidecars(path: Path, description: ImageDescription) -> tuple[ImageDescription, np.ndarray | None]:
    """The description with what the files beside ``path`` add to it, and (H, W) bool, which pixels have data.

    The mask is None if there is none. Without rasterio a note says which files are not looked at.
    """
    found = [beside for suffix in _SUFFIXES if (beside := path.with_name(path.name + suffix)).is_file()]
    if not found:
        return description, None
    if find_spec("rasterio") is None:
        names = " and ".join(beside.name for beside in found)
        note = f"{names} beside the image not looked at; install rasterio to read them"
        return replace(description, notes=(*description.notes, ("sidecars", note))), None
    import rasterio
    from rasterio.enums import MaskFlags

    logging.getLogger("rasterio").addHandler(logging.NullHandler())
    with rasterio.open(path, driver="GTiff") as dataset:
        if (dataset.height, dataset.width) != description.size or dataset.count != description.num_samples:
            return description, None  # of another page
        nodata = tuple(float(value) for value in dataset.nodatavals if value is not None)
        description = replace(description, nodata=tuple(dict.fromkeys(description.nodata + nodata)))
        if not description.is_converted and any(dataset.descriptions):
            description = replace(description, names=tuple(dataset.descriptions))
        has_mask = MaskFlags.per_dataset in dataset.mask_flag_enums[0] and found[0].suffix == ".msk"
        mask = dataset.read_masks(1) > 0 if has_mask else None
    return description, mask
