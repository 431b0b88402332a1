"""``TiledTree``: the dendrogram of an image of any size, in a file that is read by window."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from masktree.arguments import check_number, check_path, check_type
from masktree.errors import FormatError, InputError
from masktree.io.block_grid import BlockGrid
from masktree.io.geotiff_tags import GeoTiffTags
from masktree.io.windows import Window
from masktree.trees import hierarchy, rle
from masktree.trees.decimals import ceil_float32
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MAX_MASKS, MaskTree
from masktree.trees.node_selection import SelectedNodes, select_nodes
from masktree.trees.tiled_file import TiledHeader, open_tiled_file, write_array, write_tiled_file
from masktree.types import RGB, Labels, Mask

SUFFIX = ".dendrogram.npz"
FORMAT_VERSION = 1
_FORMAT = "masktree-dendrogram"
_ARRAYS = ("parents", "altitudes", "leaf_areas", "first_leaves", "overview", "overview_leaves")


@dataclass(frozen=True, eq=False, repr=False)
class TiledTree:
    """A dendrogram whose leaf map stays in its file, in blocks, of which only those of a window are read.

    The file is a NumPy archive (``numpy.load`` opens it): ``parents`` and ``altitudes`` as of ``PartitionTree``,
    ``leaf_areas`` (n,), ``leaves_K`` for each block K of the grid, row by row, with numbers from 0 to which
    ``first_leaves[K]`` is added, a small picture ``overview`` with its leaves, and a JSON ``header``.

    Attributes:
        path: the file.
        grid: the blocks.
        graph: the hierarchy over n leaves, each one pixel of a (1, n) leaf map.
        leaf_areas: (n,) int64, pixels of each leaf.
        first_leaves: (blocks + 1,) int64, number of the first leaf of each block; the last one is n.
        overview: small RGB picture of the image.
        overview_leaves: leaf at each of its pixels.
        geotiff_tags: of the image.
        reading: channels and value range of the image that are shown, and notes on what is not, where there are any.
    """

    path: Path
    grid: BlockGrid
    graph: PartitionTree
    leaf_areas: np.ndarray
    first_leaves: np.ndarray
    overview: RGB
    overview_leaves: Labels
    geotiff_tags: GeoTiffTags
    reading: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> TiledTree:
        """Open the file of a tree; leaves are read when they are needed.

        Raises:
            FormatError: damaged, another file, or an unknown version.
            FileNotFoundError: no such file.
        """
        check_path(path)
        path = Path(path)
        with open_tiled_file(path, _FORMAT, FORMAT_VERSION, "a dendrogram") as (header, archive):
            arrays = {name: archive[name] for name in _ARRAYS}
            leaves = np.arange(len(arrays["leaf_areas"]), dtype=np.int32)[None]
            graph = PartitionTree(leaves, arrays.pop("parents"), arrays.pop("altitudes"))
            return cls(path, header.grid, graph, geotiff_tags=header.geotiff_tags, reading=header.reading, **arrays)

    def __repr__(self) -> str:
        return f"TiledTree({self.size[0]} x {self.size[1]}, {self.graph.n_leaves} leaves, {self.path.name})"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.grid.size

    @cached_property
    def areas(self) -> np.ndarray:
        """(2n-1,) int64 areas of all nodes in pixels."""
        low, high = self.graph.intervals
        total = np.concatenate([[0], np.cumsum(self.leaf_areas[self.graph.order])])
        return total[high] - total[low]

    # --- windows --------------------------------------------------------------------------------------------------

    def leaves(self, window: tuple[int, int, int, int] | None = None) -> Labels:
        """(h, w) int32 leaf of each pixel of a window (top, left, bottom, right); None is the whole image.

        Raises:
            InputError: the window is empty or leaves the image.
        """
        return self._map_leaves(lambda leaves: leaves, np.int32, window)

    def cut(self, granularity: float, window: tuple[int, int, int, int] | None = None) -> Labels:
        """Partition at a granularity from 0 (finest) to 1 (coarsest): (h, w) int32 labels of the pixels of a window.

        A region has the same number in every window: regions are numbered from 0 in the order of their nodes.

        Args:
            granularity: all merges up to this altitude are done.
            window: (top, left, bottom, right) in pixels; None is the whole image, at 4 bytes a pixel.

        Raises:
            InputError: a granularity out of range, or a window that is empty or leaves the image.
        """
        numbers = self.region_numbers(granularity)
        return self._map_leaves(lambda leaves: numbers[leaves], np.int32, window)

    def region_numbers(self, granularity: float) -> np.ndarray:
        """(n,) int32: for each leaf the number of its region in ``cut``."""
        check_number(granularity, "a granularity", 0, 1)
        nodes = self.graph.cut_nodes(self.graph.merges_at(granularity))
        return np.unique(nodes, return_inverse=True)[1].astype(np.int32)

    def mask(self, node: int, window: tuple[int, int, int, int] | None = None) -> Mask:
        """(h, w) bool mask of a node of ``graph`` in a window."""
        if not 0 <= node < len(self.graph.parents):
            raise InputError(f"expected a node in 0..{len(self.graph.parents) - 1}; got {node}")
        low, high = self.graph.intervals
        first = low[: self.graph.n_leaves]
        inside = (first >= low[node]) & (first < high[node])
        return self._map_leaves(lambda leaves: inside[leaves], np.bool_, window)

    def cut_blocks(self, granularity: float) -> tuple[int, Iterator[Labels]]:
        """The highest label of ``cut``, and the labels of each block in turn."""
        numbers = self.region_numbers(granularity)
        return int(numbers.max()), self.blocks(numbers)

    def blocks(self, values: np.ndarray) -> Iterator[np.ndarray]:
        """``values[leaf]`` of the pixels of each block in turn."""
        with np.load(self.path, allow_pickle=False) as archive:
            for index in range(len(self.grid)):
                yield values[self._block(archive, index)]

    def _map_leaves(
        self, convert: Callable[[np.ndarray], np.ndarray], dtype: type, window: tuple[int, int, int, int] | None
    ) -> np.ndarray:
        window = check_window(window, self.size)
        out: np.ndarray = np.empty(window.size, dtype)
        with np.load(self.path, allow_pickle=False) as archive:
            for index in self.grid.inside(window):
                block = self.grid.window(index)
                part = block.intersection(window)
                leaves = self._block(archive, index)
                out[part.slices_in(window)] = convert(leaves[part.slices_in(block)])
        return out

    def _block(self, archive: Any, index: int) -> Labels:
        leaves = archive[f"leaves_{index}"].astype(np.int32)
        if leaves.shape != self.grid.window(index).size or int(leaves.max()) >= np.diff(self.first_leaves)[index]:
            raise FormatError(f"{self.path}: expected the leaves of block {index}; got others; segment again")
        return leaves + np.int32(self.first_leaves[index])

    # --- masks ----------------------------------------------------------------------------------------------------

    def mask_tree(
        self,
        *,
        min_area: int = 32,
        max_area: float = 0.9,
        max_masks: int | None = MAX_MASKS,
        duplicate_iou: float = 0.9,
    ) -> MaskTree:
        """The stable nodes as masks of the whole image, as ``MaskTree.from_dendrogram`` chooses them.

        One column of blocks is in memory at a time. The result has no dendrogram.

        Raises:
            InputError: an option out of range, or an image of 2^31 pixels or more, which run lengths cannot describe.
        """
        selected = self._select(min_area, max_area, max_masks, duplicate_iou)
        return self._masks(self.size, selected, self._encode(selected.nodes), None)

    def overview_tree(
        self,
        *,
        min_area: int = 32,
        max_area: float = 0.9,
        max_masks: int | None = MAX_MASKS,
        duplicate_iou: float = 0.9,
    ) -> MaskTree:
        """The masks of ``mask_tree`` on the overview, with a dendrogram."""
        selected = self._select(min_area, max_area, max_masks, duplicate_iou)
        small = self.graph.with_leaves(self.overview_leaves)
        return self._masks(small.size, selected, small.rles(selected.nodes), small)

    def _select(self, min_area: int, max_area: float, max_masks: int | None, duplicate_iou: float) -> SelectedNodes:
        return select_nodes(
            self.graph,
            min_area=min_area,
            max_area=max_area,
            max_masks=max_masks,
            duplicate_iou=duplicate_iou,
            areas=self.areas,
        )

    def _masks(
        self, size: tuple[int, int], selected: SelectedNodes, rles: list[bytes], dendrogram: PartitionTree | None
    ) -> MaskTree:
        return MaskTree(
            size=size,
            rles=tuple(rles),
            parents=selected.parents,
            scores=selected.scores.astype(np.float32),
            granularities=ceil_float32(self.graph.altitudes[selected.nodes]),
            stabilities=selected.stabilities.astype(np.float32),
            levels=hierarchy.levels(selected.parents),
            dendrogram=dendrogram,
            omitted=selected.omitted,
        )

    def _encode(self, nodes: np.ndarray) -> list[bytes]:
        """Run lengths of nodes: pixels are numbered down the columns, so those of column strips follow each other."""
        low, high = self.graph.intervals
        position_of = low[: self.graph.n_leaves]
        height = self.size[0]
        strips: list[tuple[int, tuple[int, int], list[bytes]]] = []
        for column in range(self.grid.columns):
            block = self.grid.window(column)
            positions = position_of[self.leaves((0, block.left, height, block.right))]
            present, compact = np.unique(positions, return_inverse=True)
            labels = compact.reshape(positions.shape).astype(np.int32)
            first, last = np.searchsorted(present, low[nodes]), np.searchsorted(present, high[nodes])
            size = height, block.right - block.left
            strips.append((block.left * height, size, rle.encode_intervals(labels, first, last)))
        return [self._join(strips, k) for k in range(len(nodes))]

    def _join(self, strips: list[tuple[int, tuple[int, int], list[bytes]]], k: int) -> bytes:
        starts, ends = [], []
        for offset, size, strings in strips:
            runs = rle.runs([strings[k]], size)
            starts.append(runs.starts + offset)
            ends.append(runs.ends + offset)
        return rle.encode_runs(np.concatenate(starts), np.concatenate(ends), self.size)


def write_tiled_tree(
    path: Path,
    graph: PartitionTree,
    grid: BlockGrid,
    leaf_areas: np.ndarray,
    first_leaves: np.ndarray,
    read_block: Callable[[int], np.ndarray],
    overview: RGB,
    overview_leaves: Labels,
    geotiff_tags: GeoTiffTags,
    reading: dict[str, Any] | None = None,
) -> TiledTree:
    """Write a tree atomically, a block at a time, and open it; ``read_block`` gives the leaves of a block from 0."""
    arrays = {
        "parents": graph.parents,
        "altitudes": graph.altitudes,
        "leaf_areas": leaf_areas,
        "first_leaves": first_leaves,
        "overview": overview,
        "overview_leaves": overview_leaves,
    }

    def write(archive: zipfile.ZipFile) -> None:
        for name, array in arrays.items():
            write_array(archive, name, array)
        for index in range(len(grid)):
            leaves = read_block(index)
            write_array(archive, f"leaves_{index}", leaves.astype(np.min_scalar_type(int(leaves.max()))))

    write_tiled_file(path, _FORMAT, FORMAT_VERSION, TiledHeader(grid, geotiff_tags, reading or {}), write)
    return TiledTree.load(path)


def check_window(window: tuple[int, int, int, int] | None, size: tuple[int, int]) -> Window:
    """A window (top, left, bottom, right) of an image of ``size``; None is the whole image.

    Raises:
        InputError: the window is empty or leaves the image.
    """
    if window is None:
        return Window(0, 0, *size)
    check_type(window, tuple, "a window")
    if len(window) != 4 or not all(isinstance(side, (int, np.integer)) for side in window):
        raise InputError(f"expected a window (top, left, bottom, right) in whole pixels; got {window}")
    top, left, bottom, right = (int(side) for side in window)
    if not (0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]):
        raise InputError(f"expected a window inside {size[0]} x {size[1]} pixels; got {window}")
    return Window(top, left, bottom, right)
