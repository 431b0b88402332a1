"""Pictures of an image that is segmented in tiles: its overview, and label images at full size."""

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
from masktree.trees.tiled_instances import TiledInstances
from masktree.trees.tiled_masks import TiledMasks
from masktree.types import Labels

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

    def masks(self, tiled: TiledTree | TiledMasks) -> MaskTree:
        """The masks at full size."""
        if isinstance(tiled, TiledMasks):
            return tiled.mask_tree(min_area=self.min_area, min_score=self.min_score, max_masks=self.max_masks)
        return self._limit(tiled.mask_tree(min_area=self.min_area, max_masks=self.max_masks))

    def overview(self, tiled: TiledTree | TiledMasks) -> MaskTree:
        """The same masks on the overview."""
        if isinstance(tiled, TiledMasks):
            return tiled.overview_tree(min_area=self.min_area, min_score=self.min_score, max_masks=self.max_masks)
        return self._limit(tiled.overview_tree(min_area=self.min_area, max_masks=self.max_masks))

    def _limit(self, tree: MaskTree) -> MaskTree:
        calibrated = METHODS["masktree"].calibration(tree)
        return limit_masks(calibrated, min_score=self.min_score, max_masks=self.max_masks)


def open_tiled(saved: SavedTree, header: dict[str, Any]) -> TiledTree | TiledMasks | None:
    """The dendrogram or the masks that a tree file names; None of an image that was not segmented in tiles."""
    if header.get("dendrogram") == saved.dendrogram.name:
        return TiledTree.load(saved.dendrogram)
    if header.get("masks") == saved.masks.name:
        return TiledMasks.load(saved.masks)
    return None


def draw_large(saved: SavedTree, tiled: TiledTree | TiledMasks, limits: MaskLimits, pictures: Pictures) -> None:
    """Write the label images of the cut and of the instances, each before its small copy, which says that both are
    there."""
    if pictures.overlay is not None:
        granularity = pictures.overlay.granularity
        highest, blocks = tiled.cut_blocks(granularity)
        _write_labels(saved.cut, tiled, highest, blocks, f"regions of the cut at granularity {granularity:g}")
        pictures.overlay.write(saved.picture, tiled.overview, limits.overview(tiled))
    if pictures.instances is not None:
        content = pictures.instances
        tree = MaskTree.load(saved.tree)
        instances = TiledInstances.select(tree, tiled.grid, min_score=content.min_score, max_area=content.max_area)
        _write_labels(saved.instance_image, tiled, len(instances), instances.blocks(), content.description)
        content.write_labels(saved.instances, instances.sampled(tiled.overview.shape[:2]))


def _write_labels(
    path: Path, tiled: TiledTree | TiledMasks, highest: int, blocks: Iterator[Labels], description: str
) -> None:
    """Write the labels 0 to ``highest`` of each block as a tiled, compressed BigTIFF, with the tags of a GeoTIFF.

    One block is in memory at a time.

    Raises:
        InputError: there is a file that masktree did not write.
    """
    import tifffile

    if path.exists() and not is_label_image(path):
        raise InputError(f"expected no foreign files where results go; got {path}; choose another output folder")
    dtype = np.uint16 if highest < 2**16 else np.uint32
    side = tiled.grid.block

    def tiles() -> Iterator[np.ndarray]:
        for labels in blocks:
            yield np.pad(labels.astype(dtype), [(0, side - length) for length in labels.shape])

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
            description=description,
            metadata=None,
            extratags=tiled.geotiff_tags.extra_tags(),
        )

    write_atomically(path, write)


def is_label_image(path: Path) -> bool:
    """Whether masktree wrote this label image."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return file.pages.first.software == _SOFTWARE
    except (OSError, ValueError, IndexError):
        return False
