"""One dendrogram of an image of any size.

The image is analysed in blocks of a fixed grid, each with a halo. Leaves end at the sides of the blocks; edges across
these have the strength of the boundary there, and basins that the side has cut are joined first. One greedy
merge over the graph of all leaves makes the dendrogram. Nothing depends on how many blocks are read at once.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from masktree import __version__
from masktree.cluster.leaves import MIN_LEAF_AREA
from masktree.cluster.merge import merge_graph
from masktree.discover.masktree import EMBEDDING_WEIGHT, HISTOGRAM_WEIGHT, SIZE_POWER, costs_to_granularities
from masktree.errors import InputError, MasktreeWarning
from masktree.io.block_grid import BlockGrid
from masktree.io.read_options import DEFAULT_OPTIONS, ReadOptions
from masktree.io.windows import fingerprint
from masktree.jobs import batch
from masktree.jobs.progress import notify, progress_bar
from masktree.large.basins import Basins
from masktree.large.block import BLOCK, HALO
from masktree.large.region_graph import RegionGraph, collect_blocks
from masktree.large.scene import read_scene, save_scene
from masktree.large.tile_job import TileJob
from masktree.large.work_folder import WorkFolder
from masktree.predict.blank import is_blank
from masktree.predict.config import SegmenterConfig
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.tiled import TiledTree, write_tiled_tree

BLOCKS_A_TILE = 2  # along each side: progress is shown every few seconds (our choice)
TYPICAL_LEAVES = 2**20  # so many leaves of least area would cover an image; larger ones have larger leaves (our choice)


def segment_dendrogram(
    source: Path | np.ndarray,
    path: Path,
    config: SegmenterConfig,
    *,
    tile: int | None = None,
    workers: int = 1,
    block: int = BLOCK,
    read_options: ReadOptions = DEFAULT_OPTIONS,
    show_progress: bool = False,
) -> TiledTree:
    """The dendrogram of an image that may be larger than memory, written to a file.

    Memory: 0.9 GB and in each further process 0.9 GB; then about 1.2 kB a leaf.

    Args:
        source: a file or an array, as of ``masktree.large.segment.segment_large``.
        path: of the file, see ``TiledTree``.
        config: the backbone, embedded or texture, its device and its precision.
        tile: side in pixels of what is read at once, a multiple of ``block``; the tree does not depend on it. None:
            two blocks.
        workers: processes; 0 is one per core. An array is analysed in one.
        block: side of the blocks of the grid, a multiple of 32; another side is another tree.
        read_options: which page and channels are read, and how values become bytes.
        show_progress: whether to show a progress bar over tiles on standard error.

    Raises:
        ImageError: the image cannot be read.
        InputError: an option out of range.
    """
    plan = {"image": fingerprint(source), "config": config.record(), "block": block, "halo": HALO}
    plan |= {"read": read_options.record()}
    work = WorkFolder.open(path.with_name(path.name + ".work"), plan | {"version": __version__})
    job = _prepare(source, config, work, block, read_options)
    _analyse(job, BLOCKS_A_TILE * block if tile is None else tile, workers, show_progress=show_progress)
    notify(f"merging the leaves of {len(job.grid)} blocks", show=show_progress)
    graph = collect_blocks(job.grid, work.load)
    hierarchy = merge_blocks(graph)
    tree = write_tiled_tree(
        path,
        hierarchy,
        job.grid,
        graph.areas,
        graph.first_leaves,
        lambda index: work.load(index).leaves,
        graph.overview,
        graph.overview_leaves,
        job.windows.geotiff_tags,
        reading=job.windows.reading.values(),
    )
    work.remove()
    return tree


def min_leaf_area(size: tuple[int, int]) -> int:
    """Smallest leaf in pixels: 16 up to 17 megapixels, above in proportion to the area (382 for 20,000 x 20,000)."""
    return max(MIN_LEAF_AREA, -(-size[0] * size[1] // TYPICAL_LEAVES))


def _prepare(
    source: Path | np.ndarray, config: SegmenterConfig, work: WorkFolder, block: int, read_options: ReadOptions
) -> TileJob:
    """The job of the tiles; measures what all blocks share, unless an earlier run has."""
    if block < 32 or block % 32:
        raise InputError(f"expected blocks of a multiple of 32 pixels; got {block}")
    job = TileJob(source, config, work, read_options, BlockGrid((1, 1), block), 0)
    for note in job.windows.reading.notes.values():
        warnings.warn(note, MasktreeWarning, stacklevel=4)
    job.grid = BlockGrid(job.windows.size, block)
    job.min_leaf_area = min_leaf_area(job.grid.size)
    if not work.scene.exists():
        save_scene(work.scene, read_scene(job.windows, job.backbone))
    return job


def _analyse(job: TileJob, tile: int, workers: int, *, show_progress: bool) -> None:
    """Analyse all tiles that have no result yet.

    Raises:
        InputError: a tile cannot be analysed; the message is that of the first one.
    """
    tiles = job.grid.tiles(tile)
    todo = [blocks for blocks in tiles if not job.is_finished(blocks)]
    single = isinstance(job.image, np.ndarray) or job.backbone.device != "cpu" or len(todo) < 2
    processes = 1 if single else batch.resolve_workers(workers, single=False)
    with progress_bar("analyse", len(todo), len(tiles) - len(todo), show=show_progress, unit="tile") as progress:
        for result in batch.run(todo, job, workers=processes):
            if result.error is not None:
                raise InputError(f"expected to analyse every tile; got: {result.error}; run it again to go on")
            progress.advance()


def merge_blocks(graph: RegionGraph) -> PartitionTree:
    """The hierarchy over all leaves, on a (1, n) leaf map, with granularities as altitudes."""
    learned = graph.embeddings.shape[1] > 0
    basins = Basins.from_pairs(graph.continued, len(graph.areas))
    edges, strengths, lengths = basins.edges(graph.edges, graph.strengths, graph.lengths)
    merges, costs = merge_graph(
        edges,
        np.bincount(basins.basin_of, graph.areas),
        image_area=int(graph.areas.sum()),
        embeddings=basins.sums(graph.embeddings) if learned else None,
        histograms=basins.sums(graph.histograms),
        boundary=strengths,
        lengths=lengths,
        histogram_weight=HISTOGRAM_WEIGHT,
        size_power=SIZE_POWER,
        embedding_weight=EMBEDDING_WEIGHT if learned else 0.0,
    )
    leaves = np.arange(len(graph.areas), dtype=np.int32)[None]
    costs = np.concatenate([np.zeros(len(basins.merges)), costs])
    tree = PartitionTree.from_merges(leaves, basins.expand(merges), costs)
    if graph.is_blank and is_blank(graph.overview):
        return tree.with_altitudes(np.zeros_like(tree.altitudes))
    return tree.with_altitudes(costs_to_granularities(tree.altitudes, learned=learned))
