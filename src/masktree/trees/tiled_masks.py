"""``TiledMasks``: the masks of an image of any size, in a file that is read by window."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from masktree.arguments import check_index, check_number, check_path
from masktree.errors import FormatError
from masktree.io.block_grid import BlockGrid
from masktree.io.geotiff_tags import GeoTiffTags
from masktree.io.windows import Window
from masktree.trees import hierarchy
from masktree.trees.decimals import ceil_float32
from masktree.trees.masktree import MAX_MASKS, MaskTree
from masktree.trees.scaled_masks import ScaledMasks
from masktree.trees.scores import check_limits
from masktree.trees.tiled import check_window
from masktree.trees.tiled_file import TiledHeader, open_tiled_file, write_array, write_tiled_file
from masktree.types import RGB, Labels, Mask

SUFFIX = ".masks.npz"
FORMAT_VERSION = 1
_FORMAT = "masktree-masks"
_COLUMNS = ("parents", "scores", "granularities", "stabilities", "levels", "factors", "boxes", "areas")
_ARRAYS = ("overview", "first_uncovered", "components", *_COLUMNS)
_GROUP = 1024  # masks that are read together (our choice)
_PLACE = 2048  # side in pixels of the squares whose masks are neighbours in the file (our choice)


@dataclass(frozen=True, eq=False, repr=False)
class TiledMasks:
    """n masks of an image with their hierarchy, whose pixels stay in a file, of which only those of a window are read.

    The file is a NumPy archive (``numpy.load`` opens it): the arrays below, ``runs_K`` and ``offsets_K`` of each group
    of 1,024 masks, see ``masktree.trees.scaled_masks``, and ``uncovered_K`` for each block K of the grid: numbers from
    1 of the pieces without a mask, to which ``first_uncovered[K]`` is added to find their component in ``components``.

    Attributes:
        path: the file.
        grid: the blocks.
        parents, scores, granularities, stabilities, levels: (n,) as of ``MaskTree``.
        factors: (n,) int32, side in pixels of the cells of each mask: 1 if it was found at full resolution.
        boxes: (n, 4) int64 top, left, bottom, right in pixels.
        areas: (n,) int64 pixels.
        overview: small RGB picture of the image.
        first_uncovered: (blocks + 1,) int64, see above.
        components: (pieces,) int32, see above.
        geotiff_tags: of the image.
        reading: channels and value range of the image that are shown, and notes on what is not, where there are any.
    """

    path: Path
    grid: BlockGrid
    parents: np.ndarray
    scores: np.ndarray
    granularities: np.ndarray
    stabilities: np.ndarray
    levels: np.ndarray
    factors: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    overview: RGB
    first_uncovered: np.ndarray
    components: np.ndarray
    geotiff_tags: GeoTiffTags
    reading: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> TiledMasks:
        """Open the file of masks; their pixels are read when they are needed.

        Raises:
            FormatError: damaged, another file, or an unknown version.
            FileNotFoundError: no such file.
        """
        check_path(path)
        path = Path(path)
        with open_tiled_file(path, _FORMAT, FORMAT_VERSION, "masks") as (header, archive):
            arrays = {name: archive[name] for name in _ARRAYS}
            if len({len(arrays[name]) for name in _COLUMNS}) != 1:
                raise FormatError(f"{path}: expected columns of one length; got others; segment again")
            return cls(path, header.grid, geotiff_tags=header.geotiff_tags, reading=header.reading, **arrays)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"TiledMasks({self.size[0]} x {self.size[1]}, {len(self)} masks, {self.path.name})"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.grid.size

    # --- windows --------------------------------------------------------------------------------------------------

    def inside(self, window: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """(k,) ascending indices of the masks whose boxes share pixels with a window (top, left, bottom, right)."""
        top, left, bottom, right = check_window(window, self.size)
        boxes = self.boxes
        near = (boxes[:, 0] < bottom) & (boxes[:, 2] > top) & (boxes[:, 1] < right) & (boxes[:, 3] > left)
        return np.flatnonzero(near)

    def mask(self, index: int, window: tuple[int, int, int, int] | None = None) -> Mask:
        """(h, w) bool mask at ``index`` in a window; None is the whole image."""
        check_index(index, len(self))
        within = check_window(window, self.size)
        out = np.zeros(within.size, np.int32)
        self._read(np.array([index % len(self)])).paint(out, np.ones(1), within.top, within.left)
        return out > 0

    def cut(self, granularity: float, window: tuple[int, int, int, int] | None = None) -> Labels:
        """Partition at a granularity from 0 (finest) to 1 (coarsest): (h, w) int32 labels of the pixels of a window.

        As of a ``MaskTree`` without dendrogram: each pixel belongs to the largest mask on it whose granularity is at
        most ``granularity``, else to the smallest mask on it, and has its index as label; each connected component of
        the pixels without a mask is one more region, numbered from n. Labels are those of the whole image in every
        window, and not all of them occur.

        Args:
            granularity: see above.
            window: (top, left, bottom, right) in pixels; None is the whole image, at 4 bytes a pixel.

        Raises:
            InputError: a granularity out of range, or a window that is empty or leaves the image.
        """
        return self._labels(self._order(granularity), check_window(window, self.size))

    def cut_blocks(self, granularity: float) -> tuple[int, Iterator[Labels]]:
        """The highest label of ``cut``, and the labels of each block in turn."""
        order = self._order(granularity)
        highest = len(self) + int(self.components.max(initial=-1))
        return highest, (self._labels(order, self.grid.window(index)) for index in range(len(self.grid)))

    def _order(self, granularity: float) -> np.ndarray:
        """Masks in the order in which they are painted, see ``MaskTree.owners``."""
        check_number(granularity, "a granularity", 0, 1)
        below = self.granularities <= ceil_float32(np.array(granularity, np.float64))
        return np.lexsort((np.where(below, self.areas, -self.areas), below))

    def _labels(self, order: np.ndarray, window: Window) -> Labels:
        out = self._owners(order, window)
        bare = out < 0
        if bare.any():
            out[bare] = len(self) + self._uncovered(window)[bare]
        return out

    def _owners(self, order: np.ndarray, window: Window) -> Labels:
        """(h, w) int32: the last of the masks ``order`` on each pixel of a window, -1 for none."""
        out = np.full(window.size, -1, np.int32)
        is_near = np.zeros(len(self), np.bool_)
        is_near[self.inside(window)] = True
        near = order[is_near[order]]
        self._read(near).paint(out, near, window.top, window.left)
        return out

    def _uncovered(self, window: Window) -> Labels:
        """(h, w) int32 component of the pixels without a mask; of others any number."""
        out = np.zeros(window.size, np.int32)
        with np.load(self.path, allow_pickle=False) as archive:
            for index in self.grid.inside(window):
                block = self.grid.window(index)
                pieces = archive[f"uncovered_{index}"].astype(np.int64)
                part = block.intersection(window)
                numbers = np.concatenate([[0], self.components[slice(*self.first_uncovered[index : index + 2])]])
                out[part.slices_in(window)] = numbers[pieces[part.slices_in(block)]]
        return out

    def _read(self, indices: np.ndarray) -> ScaledMasks:
        """The masks at indices, in this order."""
        groups = np.unique(indices // _GROUP)
        parts, position = [], np.full(len(self), -1, np.int64)
        count = 0
        with np.load(self.path, allow_pickle=False) as archive:
            for group in groups.tolist():
                members = np.unique(indices[indices // _GROUP == group])
                whole = self._group(archive, group)
                parts.append(whole[members - group * _GROUP])
                position[members] = count + np.arange(len(members))
                count += len(members)
        return ScaledMasks.concatenate(parts, self.size)[position[indices]]

    def _group(self, archive: Any, group: int) -> ScaledMasks:
        runs, offsets = archive[f"runs_{group}"], archive[f"offsets_{group}"]
        factors = self.factors[group * _GROUP : (group + 1) * _GROUP]
        if len(offsets) != len(factors) + 1 or offsets[-1] != runs.shape[1]:
            raise FormatError(f"{self.path}: expected the runs of masks; got others; segment again")
        return ScaledMasks(self.size, factors, offsets, *runs)

    # --- masks ----------------------------------------------------------------------------------------------------

    def mask_tree(self, *, min_area: int = 1, min_score: float = 0.0, max_masks: int | None = MAX_MASKS) -> MaskTree:
        """The masks of highest score as masks of the whole image.

        Args:
            min_area: smallest mask in pixels.
            min_score: lowest score.
            max_masks: maximum number of masks, best score first; None for all.

        Raises:
            InputError: an option out of range, or an image of 2^31 pixels or more, which run lengths cannot describe.
        """
        kept, omitted = self._best(min_area, min_score, max_masks)
        return self._tree(kept, omitted, self.size, self._read(kept).rles())

    def overview_tree(
        self, *, min_area: int = 1, min_score: float = 0.0, max_masks: int | None = MAX_MASKS
    ) -> MaskTree:
        """The masks of ``mask_tree`` on the overview, without those that are smaller than a pixel of it."""
        kept, omitted = self._best(min_area, min_score, max_masks)
        height, width = self.overview.shape[:2]
        small = self._read(kept).sampled(-(-max(self.size) // max(height, width)), (height, width))
        return self._tree(kept, omitted, small.size, small.rles())[np.diff(small.offsets) > 0]

    def _best(self, min_area: int, min_score: float, max_masks: int | None) -> tuple[np.ndarray, int]:
        """(k,) ascending indices of the masks within the limits, and how many ``max_masks`` has left out."""
        check_limits(min_score, max_masks)
        check_number(min_area, "min_area", 1, float("inf"))
        eligible = np.flatnonzero((self.areas >= min_area) & (self.scores >= min_score))
        best = eligible[np.argsort(-self.scores[eligible], kind="stable")[:max_masks]]
        return np.sort(best), len(eligible) - len(best)

    def _tree(self, kept: np.ndarray, omitted: int, size: tuple[int, int], rles: list[bytes]) -> MaskTree:
        is_kept = np.zeros(len(self), np.bool_)
        is_kept[kept] = True
        parents = hierarchy.reparent(self.parents, is_kept)
        return MaskTree(
            size=size,
            rles=tuple(rles),
            parents=parents,
            scores=self.scores[kept],
            granularities=self.granularities[kept],
            stabilities=self.stabilities[kept],
            levels=hierarchy.levels(parents),
            omitted=omitted,
        )


def write_tiled_masks(
    path: Path,
    grid: BlockGrid,
    masks: ScaledMasks,
    scores: np.ndarray,
    stabilities: np.ndarray,
    overview: RGB,
    geotiff_tags: GeoTiffTags,
    reading: dict[str, Any] | None = None,
    *,
    min_coverage: float = 0.9,
) -> TiledMasks:
    """Write the masks of an image atomically, a block at a time, and open the file.

    The hierarchy is that of all masks: parents by coverage, see ``masktree.trees.hierarchy.parents_by_coverage``.
    Granularities are those of ``MaskTree.from_rles``: sqrt(area / image area), so that parents have larger ones.
    """
    order = _by_place(masks.boxes)
    masks, scores, stabilities = masks[order], scores[order], stabilities[order]
    parents = masks.parents(min_coverage)
    arrays = {
        "parents": parents,
        "scores": scores.astype(np.float32),
        "granularities": ceil_float32(np.sqrt(masks.areas / (grid.size[0] * grid.size[1]))),
        "stabilities": stabilities.astype(np.float32),
        "levels": hierarchy.levels(parents),
        "factors": masks.factors,
        "boxes": masks.boxes,
        "areas": masks.areas,
        "overview": overview,
    }

    def write(archive: zipfile.ZipFile) -> None:
        for name, array in arrays.items():
            write_array(archive, name, array)
        for first in range(0, len(masks), _GROUP):
            group = masks[np.arange(first, min(first + _GROUP, len(masks)))]
            write_array(archive, f"runs_{first // _GROUP}", np.stack([group.columns, group.starts, group.ends]))
            write_array(archive, f"offsets_{first // _GROUP}", group.offsets)
        uncovered = _Uncovered(grid)
        for index in range(len(grid)):
            pieces = uncovered.add(_is_covered(masks, grid.window(index)))
            write_array(archive, f"uncovered_{index}", pieces)
        write_array(archive, "first_uncovered", uncovered.first)
        write_array(archive, "components", uncovered.components())

    write_tiled_file(path, _FORMAT, FORMAT_VERSION, TiledHeader(grid, geotiff_tags, reading or {}), write)
    return TiledMasks.load(path)


def _by_place(boxes: np.ndarray) -> np.ndarray:
    """Masks in an order in which those that are near each other are in few groups."""
    rows, columns = ((boxes[:, side] + boxes[:, side + 2]) // 2 // _PLACE for side in (0, 1))
    return np.lexsort((columns, rows))


def _is_covered(masks: ScaledMasks, window: Window) -> Mask:
    out = np.zeros(window.size, np.int32)
    near = masks[masks.touching(window)]
    near.paint(out, np.ones(len(near)), window.top, window.left)
    return out > 0


class _Uncovered:
    """Connected components of the pixels without a mask, block by block.

    Attributes:
        first: (blocks + 1,) int64 number of pieces before each block.
    """

    def __init__(self, grid: BlockGrid) -> None:
        self.first = np.zeros(len(grid) + 1, np.int64)
        self._grid = grid
        self._sides: list[dict[str, np.ndarray]] = []  # piece along each side of a block, -1 for none

    def add(self, is_covered: Mask) -> np.ndarray:
        """(h, w) pieces of the next block: 0 where there is a mask, else numbers from 1."""
        index = len(self._sides)
        pieces, count = ndimage.label(~is_covered)
        self.first[index + 1] = self.first[index] + count
        numbers = np.where(pieces > 0, pieces - 1 + self.first[index], -1)
        self._sides.append(
            {"top": numbers[0], "bottom": numbers[-1], "left": numbers[:, 0].copy(), "right": numbers[:, -1].copy()}
        )
        return pieces.astype(np.min_scalar_type(count))

    def components(self) -> np.ndarray:
        """(pieces,) int32 component of each piece of all blocks: those that touch across a seam are one."""
        pairs = [np.zeros((2, 0), np.int64)]
        for one, other, side_by_side in self._grid.seams():
            names = ("right", "left") if side_by_side else ("bottom", "top")
            touching = np.stack([self._sides[one][names[0]], self._sides[other][names[1]]])
            pairs.append(touching[:, (touching >= 0).all(axis=0)])
        first, second = np.concatenate(pairs, axis=1)
        count = int(self.first[-1])
        if count == 0:
            return np.zeros(0, np.int32)
        graph = csr_matrix((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
        return connected_components(graph, directed=False)[1].astype(np.int32)
