"""The masks of any segmenter on an image of any size.

The image and its reduced copies, by factors of two down to the size of one window, are segmented in overlapping
windows. An object that is larger than a window is found on a copy. Masks are joined within each level, those of coarser
levels that a finer one has as well are left out, and one hierarchy of all is made by coverage.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np

from masktree import __version__
from masktree.discover.detail import WORKING_SIDE
from masktree.discover.methods import METHODS
from masktree.errors import InputError, MasktreeWarning
from masktree.io.block_grid import BlockGrid
from masktree.io.read_options import DEFAULT_OPTIONS, ReadOptions
from masktree.io.windows import ImageWindows, Window, fingerprint
from masktree.jobs import batch
from masktree.jobs.progress import notify, progress_bar
from masktree.large.block import BLOCK
from masktree.large.joining import join_windows
from masktree.large.overview import OVERVIEW_SIDE
from masktree.large.pyramid import level_factors, open_level, reduced_size, write_levels
from masktree.large.window_grid import WindowGrid
from masktree.large.window_job import WindowJob
from masktree.large.work_folder import WorkFolder
from masktree.predict.config import SegmenterConfig
from masktree.predict.discovery import DiscoverySegmenter
from masktree.predict.model import ModelSegmenter
from masktree.trees.scaled_masks import ScaledMasks
from masktree.trees.tiled_masks import TiledMasks, write_tiled_masks
from masktree.types import RGB

OVERLAP = 0.25  # of a window's side: what is smaller is whole in one of the windows (our choice)
MIN_WINDOW = 64  # pixels (our choice)
# IoU from which a mask of a coarser level is that of a finer one, which has the better outline (our choice: a border
# that is off by a pixel of a level of half the size costs an object of 32 pixels an eighth of its area on each side).
DUPLICATE_IOU = 0.7


def segment_masks(
    source: Path | np.ndarray,
    path: Path,
    config: SegmenterConfig,
    *,
    side: int | None = None,
    workers: int = 1,
    read_options: ReadOptions = DEFAULT_OPTIONS,
    show_progress: bool = False,
) -> TiledMasks:
    """The masks of an image that may be larger than memory, written to a file.

    Memory: that of the segmenter for one window in each process; then about 2 kB a mask.

    Args:
        source: a file or an array, as of ``masktree.large.segment.segment_large``.
        path: of the file, see ``TiledMasks``.
        config: of the segmenter.
        side: of the windows in pixels. None: that of the images that the segmenter works on.
        workers: processes; 0 is one per core. An array is analysed in one.
        read_options: which page and channels are read, and how values become bytes.
        show_progress: whether to show a progress bar over windows on standard error.

    Raises:
        ImageError: the image cannot be read.
        InputError: an option out of range, or a window that cannot be segmented.
    """
    segmenter = config.load()
    side = _working_side(segmenter) if side is None else side
    if side < MIN_WINDOW:
        raise InputError(f"expected windows of at least {MIN_WINDOW} pixels; got {side}")
    plan = {"image": fingerprint(source), "config": config.record(), "weights": segmenter.provenance.sha256}
    work = WorkFolder.open(
        path.with_name(path.name + ".work"),
        plan | {"window": side, "read": read_options.record(), "version": __version__},
    )
    job = WindowJob(source, config, work, read_options, {})
    image = job.windows
    for note in image.reading.notes.values():
        warnings.warn(note, MasktreeWarning, stacklevel=3)
    factors = level_factors(image.size, side)
    overlap = round(OVERLAP * side)
    job.grids = {factor: WindowGrid(reduced_size(image.size, factor), side, overlap) for factor in factors}
    write_levels(image, work.path, factors)
    _segment_windows(job, workers, show_progress=show_progress)
    notify("joining the masks of all windows", show=show_progress)
    masks, scores, stabilities = _collect(job, image.size)
    overview = _overview(image, work.path, factors)
    grid = BlockGrid(image.size, BLOCK)
    tree = write_tiled_masks(
        path, grid, masks, scores, stabilities, overview, image.geotiff_tags, image.reading.values()
    )
    work.remove()
    return tree


def _working_side(segmenter: DiscoverySegmenter | ModelSegmenter) -> int:
    """The side in pixels of the images that a segmenter works on, whatever those that it is given."""
    if isinstance(segmenter, ModelSegmenter):
        return int(segmenter.model.config.image_size)
    options = METHODS[segmenter.method].options() | segmenter.options
    return int(options.get("side", WORKING_SIDE))


def _segment_windows(job: WindowJob, workers: int, *, show_progress: bool) -> None:
    """Segment all windows that have no result yet.

    Raises:
        InputError: a window cannot be segmented; the message is that of the first one.
    """
    items = [(factor, index) for factor, grid in job.grids.items() for index in range(len(grid))]
    todo = [item for item in items if not job.file(item).exists()]
    single = isinstance(job.image, np.ndarray) or len(todo) < 2 or job.segmenter.device != "cpu"
    processes = 1 if single else batch.resolve_workers(workers, single=False)
    with progress_bar("segment", len(todo), len(items) - len(todo), show=show_progress, unit="window") as progress:
        for result in batch.run(todo, job, workers=processes):
            if result.error is not None:
                raise InputError(f"expected to segment every window; got: {result.error}; run it again to go on")
            progress.advance()


def _collect(job: WindowJob, size: tuple[int, int]) -> tuple[ScaledMasks, np.ndarray, np.ndarray]:
    """The masks of all levels, none twice, with their scores and stabilities."""
    masks, scores, stabilities = [], [], []
    for factor, grid in job.grids.items():
        level = join_windows(grid, partial(job.load_window, factor))
        masks.append(level.masks.scaled(factor, size))
        scores.append(level.scores)
        stabilities.append(level.stabilities)
    joined = ScaledMasks.concatenate(masks, size)
    kept = np.flatnonzero(~joined.duplicates(DUPLICATE_IOU))
    return joined[kept], np.concatenate(scores)[kept], np.concatenate(stabilities)[kept]


def _overview(image: ImageWindows, folder: Path, factors: list[int]) -> RGB:
    """The finest level of at most ``OVERVIEW_SIDE`` pixels a side; the coarsest one is never larger than a window."""
    small = [factor for factor in factors if max(reduced_size(image.size, factor)) <= OVERVIEW_SIDE]
    factor = small[0] if small else factors[-1]
    return np.array(open_level(image, folder, factor).read(Window(0, 0, *reduced_size(image.size, factor))))
