"""Label images as OME-TIFF: a channel for each cut, for Fiji, napari, cellpose and CellProfiler."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import IO

import numpy as np

from masktree.export.image import LabelledImage
from masktree.export.options import ExportOptions
from masktree.io.files import write_atomically

DEFAULT_GRANULARITIES = (0.25, 0.5, 0.75)  # (our choice)


def write_label_tiff(image: LabelledImage, path: Path, options: ExportOptions) -> None:
    """(C, H, W) unsigned labels, 1 to k without gaps in each channel: every pixel belongs to a region of the cut.

    16-bit numbers, or 32-bit ones where a cut has more than 65,535 regions. Channels are called
    ``granularity 0.25`` and so on.
    """
    from tifffile import TiffWriter

    granularities = options.granularities or DEFAULT_GRANULARITIES
    cuts = np.stack([image.tree.cut(granularity) for granularity in granularities]) + 1
    labels = cuts.astype(np.uint16 if cuts.max() < 2**16 else np.uint32)
    metadata = {
        "axes": "CYX",
        "Name": image.file_name,
        "Channel": {"Name": [f"granularity {granularity:g}" for granularity in granularities]},
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, image.file_name)),  # the same every time
    }

    def write(handle: IO[bytes]) -> None:
        with TiffWriter(handle, ome=True) as tiff:
            tiff.write(labels, metadata=metadata, photometric="minisblack", compression="zlib")

    write_atomically(path, write)
