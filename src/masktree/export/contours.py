"""The contour map of a dendrogram (ultrametric contour map, Arbelaez et al. 2011, 10.1109/TPAMI.2010.161) as a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from masktree.errors import InputError
from masktree.export.image import LabelledImage
from masktree.export.options import ExportOptions
from masktree.io.files import write_atomically

_LARGEST = 2**16 - 1


def write_contours_png(image: LabelledImage, path: Path, options: ExportOptions) -> None:
    """16-bit grey PNG of ``MaskTree.ucm``: 65,535 times the granularity at which the border at a pixel disappears, 0
    where there is none.

    Raises:
        InputError: a tree without a dendrogram.
    """
    picture = Image.fromarray(_contours(image))
    write_atomically(path, lambda handle: picture.save(handle, format="PNG", compress_level=6))


def write_contours_tiff(image: LabelledImage, path: Path, options: ExportOptions) -> None:
    """The same numbers as 16-bit TIFF."""
    picture = Image.fromarray(_contours(image))
    write_atomically(path, lambda handle: picture.save(handle, format="TIFF", compression="tiff_adobe_deflate"))


def _contours(image: LabelledImage) -> np.ndarray:
    if image.tree.dendrogram is None:
        raise InputError(
            "expected a tree with a dendrogram; got masks only, as of edited and imported trees and other methods; add "
            "--no-edits for the machine's contours of an edited tree"
        )
    return np.round(image.tree.ucm() * _LARGEST).astype(np.uint16)
