"""The job of one photograph that is segmented in tiles."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from masktree.errors import FormatError, ImageError, InputError
from masktree.io.files import sha256_of
from masktree.io.images import MAX_PIXELS
from masktree.io.photos import Photo
from masktree.io.windows import read_dimensions
from masktree.jobs.progress import notify
from masktree.large.segment import makes_dendrogram, segment_large
from masktree.predict import SegmenterConfig
from masktree.stages.large_pictures import MaskLimits, draw_large
from masktree.stages.segment_job import SegmentJob, SegmentResult
from masktree.trees.tiled import TiledTree
from masktree.trees.tiled_masks import TiledMasks


def is_large(path: Path) -> bool:
    """Whether a photograph is too large to be segmented whole; False where its size cannot be read, which the usual
    way then reports."""
    try:
        height, width = read_dimensions(path)
    except (ImageError, OSError):
        return False
    return height * width > MAX_PIXELS


@dataclass(frozen=True)
class LargePhotoJob:
    """Segments one photograph in tiles; a run that was stopped goes on from its finished blocks.

    Attributes:
        job: of the run: configuration, folder, pictures and fingerprint.
        tile: side of a tile in pixels; None is the default.
        workers: processes; 0 is one per core.
        show_progress: whether to show a bar over the tiles of each photograph.
    """

    job: SegmentJob
    tile: int | None
    workers: int
    show_progress: bool

    def __call__(self, photo: Photo) -> SegmentResult:
        """Write the dendrogram or the masks, the tree file and the pictures."""
        saved, limits = self.job.files(photo), limits_of(self.job.config)
        is_dendrogram = makes_dendrogram(self.job.config)
        path = saved.dendrogram if is_dendrogram else saved.masks
        if path.exists():
            _refuse_foreign_file(path, TiledTree if is_dendrogram else TiledMasks)
        height, width = read_dimensions(photo.path)
        if height * width >= 2**31:
            raise InputError(
                f"expected fewer than 2^31 pixels, as run lengths can describe; got {width} x {height}; use "
                "masktree.segment_large, which makes the dendrogram, or scale the image down"
            )
        notify(f"{photo.path}: {width} x {height} pixels, segmented in tiles", show=self.show_progress)
        digest, num_bytes = sha256_of(photo.path), photo.path.stat().st_size
        tiled = segment_large(
            photo.path,
            path,
            self.job.config,
            tile=self.tile,
            workers=self.workers,
            read_options=self.job.read_options,
            show_progress=self.show_progress,
        )
        tree = limits.masks(tiled)
        source: dict[str, Any] = {"file_name": os.fspath(photo.path), "bytes": num_bytes, "sha256": digest}
        notes = dict(tiled.reading.get("notes", {}))
        source |= {name: value for name, value in tiled.reading.items() if name != "notes"}
        source |= {"read": given} if (given := self.job.read_options.record()) else {}
        record = {
            "run": self.job.fingerprint,
            "dendrogram" if is_dendrogram else "masks": path.name,
            "limits": asdict(limits),
        }
        tree.save(saved.tree, image=source | record)
        draw_large(saved, tiled, limits, self.job.pictures)
        return SegmentResult(tree.omitted, notes)


def limits_of(config: SegmenterConfig) -> MaskLimits:
    """The limits that a configuration sets.

    Raises:
        InputError: options that the dendrogram of a large image cannot be made with.
    """
    limits = {name: config.options[name] for name in ("max_masks", "min_score") if name in config.options}
    if not makes_dendrogram(config):  # small masks were left out in each window
        return MaskLimits(min_area=config.min_area or 1, **limits)
    unknown = sorted(config.options.keys() - limits.keys())
    if config.options.get("masks") == "nodes":  # as they are anyway
        unknown.remove("masks")
    if unknown:
        raise InputError(f"expected no {', '.join(unknown)} for an image that is segmented in tiles; leave it out")
    return MaskLimits(**limits) if config.min_area is None else MaskLimits(min_area=config.min_area, **limits)


def _refuse_foreign_file(path: Path, kind: type[TiledTree] | type[TiledMasks]) -> None:
    try:
        kind.load(path)
    except FormatError as error:
        raise InputError(
            f"expected no foreign files where results go; got {path}; choose another output folder"
        ) from error
