"""Ultrametric contour maps in the layout of BSDS500: files with ``ucm2``, and the region tree of a map.

A doubled map of an (H, W) image has (2H + 1, 2W + 1) cells. Pixel (y, x) is cell (2y + 1, 2x + 1); the cells between
pixels hold the height at which the border there vanishes. Arbelaez, Maire, Fowlkes and Malik, TPAMI 2011, section 3
(doi 10.1109/TPAMI.2010.161).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from masktree.arguments import check_type
from masktree.errors import FormatError, InputError
from masktree.evaluate.mat_file import load_mat
from masktree.kernels import kernel
from masktree.trees.dendrogram import PartitionTree

FINEST_THRESHOLD = 0.01  # the benchmark's lowest; pixels may not be above it


def read_ucm(path: str | Path) -> np.ndarray:
    """Read ``ucm2`` from a MATLAB file of version 7 or older: (2H + 1, 2W + 1) float64 in [0, 1].

    uint8 is divided by 255 (our choice; the benchmark's files hold floating-point numbers).

    Raises:
        FormatError: the file cannot be read, has no ``ucm2``, or its values are out of range.
    """
    content = load_mat(path)
    if "ucm2" not in content:
        names = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise FormatError(f"{path}: expected the doubled contour map 'ucm2'; got {names}; save it under that name")
    try:
        return _checked(content["ucm2"])
    except InputError as error:
        raise FormatError(f"{path}: {error}") from error


def ucm_tree(ucm2: np.ndarray) -> PartitionTree:
    """Build the tree whose cut at altitude t has the connected components of the cells of at most t as regions.

    Cells are 8-connected, as in the benchmark (``bwlabel(ucm2 <= t)``, read at the pixels). Costs one sort of the
    border cells and one pass over them.

    Args:
        ucm2: (2H + 1, 2W + 1) map with values in [0, 1], or uint8, which is divided by 255.

    Raises:
        InputError: wrong shape, values out of range, or pixels above the lowest threshold, as in undoubled maps.
    """
    heights = _checked(ucm2)
    base = float(heights[1::2, 1::2].max())
    if base > FINEST_THRESHOLD:
        raise InputError(
            f"expected a doubled map, with at most {FINEST_THRESHOLD} at odd rows and columns; got {base:.3g} there; "
            "double it"
        )
    cells, _ = ndimage.label(heights <= base, np.ones((3, 3)))
    pixels = cells[1::2, 1::2]
    present = np.zeros(int(cells.max()) + 1, np.bool_)
    present[pixels] = True
    leaf_of = np.where(present, np.cumsum(present) - 1, -1).astype(np.int32)  # by component; -1: no pixels
    borders = np.flatnonzero(heights.ravel() > base)
    borders = borders[np.argsort(heights.ravel()[borders], kind="stable")]
    leaves = leaf_of[pixels]
    merges, merge_cells = _flood(cells.astype(np.int32), leaf_of, borders, int(leaves.max()) + 1)
    return PartitionTree.from_merges(leaves, merges, heights.ravel()[merge_cells])


def _checked(ucm2: np.ndarray) -> np.ndarray:
    check_type(ucm2, np.ndarray, "a contour map")
    shape, kind = ucm2.shape, ucm2.dtype
    if len(shape) != 2 or min(shape) < 3 or shape[0] % 2 == 0 or shape[1] % 2 == 0:
        raise InputError(f"expected a doubled contour map of odd shape (2H + 1, 2W + 1); got {shape}; double it")
    if kind == np.uint8:
        return ucm2 / 255.0
    if kind.kind != "f":
        raise InputError(f"expected a contour map of floating-point numbers in [0, 1] or of uint8; got {kind}")
    low, high = float(ucm2.min()), float(ucm2.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise InputError(f"expected a contour map with values in [0, 1]; got {low:.3g}..{high:.3g}; scale it")
    return ucm2.astype(np.float64)


@kernel()
def _flood(
    cells: np.ndarray, leaf_of: np.ndarray, borders: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """Union-find over the border cells in order of height: (n - 1, 2) merged nodes, and the cell of each merge.

    The sets are the base components (from 1), then the border cells; ``node`` is the tree node of a set, -1 for none.
    """
    height, width = cells.shape
    first = len(leaf_of)
    parent = np.arange(first + len(borders)).astype(np.int32)
    node = np.full(len(parent), -1, np.int32)
    node[:first] = leaf_of
    merges = np.empty((n - 1, 2), np.int32)
    merge_cells = np.empty(n - 1, np.int64)
    n_merges = 0
    for k in range(len(borders)):
        y, x = borders[k] // width, borders[k] % width
        cell = first + k
        cells[y, x] = cell
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                v, u = y + dy, x + dx
                if not (0 <= v < height and 0 <= u < width) or cells[v, u] == 0:
                    continue
                a, b = _root(parent, cell), _root(parent, cells[v, u])
                if a == b:
                    continue
                parent[max(a, b)] = min(a, b)
                first_node, second_node = node[a], node[b]
                merged = max(first_node, second_node)
                if first_node >= 0 and second_node >= 0:
                    merges[n_merges, 0] = min(first_node, second_node)
                    merges[n_merges, 1] = merged
                    merge_cells[n_merges] = borders[k]
                    merged = n + n_merges
                    n_merges += 1
                node[min(a, b)] = merged
    return merges, merge_cells


@kernel()
def _root(parent: np.ndarray, i: int) -> int:  # pragma: no cover
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
