"""Pictures of an image that is segmented in tiles: its overview, and the label image of a cut at full size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from masktree.discover.methods import METHODS
from masktree.errors import InputError
from masktree.io.files import write_atomically
from masktree.trees.masktree import MAX_MASKS, MaskTree
from masktree.trees.scores import limit_masks
from masktree.trees.tiled import TiledTree

if TYPE_CHECKING:
    from masktree.stages.pictures import Pictures, SavedTree

_SOFTWARE = "masktree labels"  # by which our label images are known


@dataclass(frozen=True)
class MaskLimits:
    """Which masks of a dendrogram are kept; recorded in the tree file, so that pictures can be drawn again.

    Attributes:
        min_area, max_masks, min_score: see ``DiscoverySegmenter``.
    """

    min_area: int = 32
    max_masks: int | None = MAX_MASKS
    min_score: float = 0.0

    @classmethod
    def from_record(cls, record: object) -> MaskLimits:
        """From the image record of a tree file; the defaults where it has none."""
        known = record if isinstance(record, dict) else {}
        return cls(**{name: known[name] for name in cls.__dataclass_fields__ if name in known})

    def masks(self, tiled: TiledTree) -> MaskTree:
        """The masks at full size."""
        return self._limit(tiled.mask_tree(min_area=self.min_area, max_masks=self.max_masks))

    def overview(self, tiled: TiledTree) -> MaskTree:
        """The same masks on the overview."""
        return self._limit(tiled.overview_tree(min_area=self.min_area, max_masks=self.max_masks))

    def _limit(self, tree: MaskTree) -> MaskTree:
        calibrated = METHODS["masktree"].calibration(tree)
        return limit_masks(calibrated, min_score=self.min_score, max_masks=self.max_masks)


def draw_large(saved: SavedTree, tiled: TiledTree, limits: MaskLimits, pictures: Pictures) -> None:
    """Write the label image of the cut, and then the overview, which says that both are there.

    Raises:
        InputError: pictures of instances, which need the whole label map in memory.
    """
    if pictures.instances is not None:
        raise InputError("expected no --instances of an image that is segmented in tiles; use its .cut.tif")
    if pictures.overlay is None:
        return
    write_cut(saved.cut, tiled, pictures.overlay.granularity)
    pictures.overlay.write(saved.picture, tiled.overview, limits.overview(tiled))


def write_cut(path: Path, tiled: TiledTree, granularity: float) -> None:
    """Write the labels of ``tiled.cut(granularity)`` as a tiled, compressed BigTIFF, with the tags of a GeoTIFF.

    One block is in memory at a time.

    Raises:
        InputError: there is a file that masktree did not write.
    """
    import tifffile

    if path.exists() and not is_cut(path):
        raise InputError(f"expected no foreign files where results go; got {path}; choose another output folder")
    numbers = tiled.region_numbers(granularity)
    dtype = np.uint16 if numbers.max() < 2**16 else np.uint32
    side = tiled.grid.block

    def tiles() -> Iterator[np.ndarray]:
        for labels in tiled.blocks(numbers.astype(dtype)):
            yield np.pad(labels, [(0, side - length) for length in labels.shape])

    def write(handle: Any) -> None:
        tifffile.imwrite(
            handle,
            tiles(),
            shape=tiled.size,
            dtype=dtype,
            bigtiff=True,
            tile=(side, side),
            photometric="minisblack",
            compression="zlib",
            compressionargs={"level": 1},
            software=_SOFTWARE,
            description=f"regions of the cut at granularity {granularity:g}",
            metadata=None,
            extratags=tiled.geotiff_tags.extra_tags(),
        )

    write_atomically(path, write)


def is_cut(path: Path) -> bool:
    """Whether masktree wrote this label image."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return file.pages.first.software == _SOFTWARE
    except (OSError, ValueError, IndexError):
        return False
