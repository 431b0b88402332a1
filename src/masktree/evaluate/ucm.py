"""Ultrametric contour maps in the layout of BSDS500: files with ``ucm2``, and the tree of regions that a map encodes.

A doubled map of an (H, W) image has (2H + 1, 2W + 1) cells. Pixel (y, x) is the cell (2y + 1, 2x + 1); the cells
between carry the height at which the border there vanishes. Arbelaez, Maire, Fowlkes and Malik, TPAMI 2011, section 3
(doi 10.1109/TPAMI.2010.161).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from masktree.errors import FormatError, InputError
from masktree.kernels import kernel
from masktree.trees.dendrogram import PartitionTree

FINEST = 0.01  # the benchmark's lowest threshold: pixels inside regions must not be above it


def read_ucm(path: str | Path) -> np.ndarray:
    """The map ``ucm2`` of a MATLAB file of version 7 or older: (2H + 1, 2W + 1) float64 in [0, 1].

    Whole numbers of 8 bits are divided by 255 (our choice; the benchmark's files hold floating-point numbers).

    Raises:
        FormatError: no such map in the file, a file that cannot be read, or values out of range.
    """
    content = load_mat(Path(path))
    if "ucm2" not in content:
        names = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise FormatError(f"{path}: expected the doubled contour map 'ucm2'; got {names}; save it under that name")
    try:
        return _checked(content["ucm2"])
    except InputError as error:
        raise FormatError(f"{path}: {error}") from error


def load_mat(path: Path) -> dict[str, Any]:
    """What a MATLAB file of version 7 or older holds, by name.

    Raises:
        FormatError: missing, damaged, or of version 7.3, which is another format (HDF5).
    """
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(str(path), appendmat=False)
        return content
    except NotImplementedError as error:
        raise FormatError(
            f"{path}: expected a MATLAB file of version 7 or older; got version 7.3 (HDF5); save it with -v7"
        ) from error
    except OSError as error:
        raise FormatError(f"{path}: expected a MATLAB file; got none that can be opened; check the path") from error
    except Exception as error:  # scipy raises whatever the damage leads it to: ValueError, TypeError, zlib.error ...
        raise FormatError(f"{path}: expected a MATLAB file; got a damaged or foreign one ({error})") from error


def ucm_tree(ucm2: np.ndarray) -> PartitionTree:
    """The tree whose cut at altitude t has the regions that are left when cells above t are taken as borders.

    Cells are connected with all eight neighbours, as in the benchmark (``bwlabel(ucm2 <= t)``, read at the pixels).
    One sort of the border cells and one pass over them.

    Args:
        ucm2: (2H + 1, 2W + 1) map, values in [0, 1], or uint8, which is divided by 255.

    Raises:
        InputError: another shape, values out of range, or pixels that lie on borders at the lowest threshold: the map
            is not doubled.
    """
    heights = _checked(ucm2)
    base = float(heights[1::2, 1::2].max())
    if base > FINEST:
        raise InputError(
            f"expected a doubled map, whose pixels at odd rows and columns are at most {FINEST}; got {base:.3g} there; "
            "was it made at the size of the image?"
        )
    cells, _ = ndimage.label(heights <= base, np.ones((3, 3)))
    pixels = cells[1::2, 1::2]
    present = np.zeros(int(cells.max()) + 1, np.bool_)
    present[pixels] = True
    number = np.where(present, np.cumsum(present) - 1, -1).astype(np.int32)  # base components without pixels: -1
    borders = np.flatnonzero(heights.ravel() > base)
    borders = borders[np.argsort(heights.ravel()[borders], kind="stable")]
    leaves = number[pixels]
    merges, at = _flood(cells.astype(np.int32), number, borders, int(leaves.max()) + 1)
    return PartitionTree.from_merges(leaves, merges, heights.ravel()[at])


def _checked(ucm2: np.ndarray) -> np.ndarray:
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
    cells: np.ndarray, number: np.ndarray, borders: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """Merges in order of height as the border cells are opened: (n - 1, 2) nodes, and the cell of each merge.

    A set is a base component (1 .. last) or an opened border cell (after them); ``node`` is the tree node of its
    regions, -1 while it has none.
    """
    height, width = cells.shape
    first = len(number)
    parent = np.arange(first + len(borders)).astype(np.int32)
    node = np.full(len(parent), -1, np.int32)
    node[:first] = number
    merges = np.empty((n - 1, 2), np.int32)
    at = np.empty(n - 1, np.int64)
    done = 0
    for k in range(len(borders)):
        y, x = borders[k] // width, borders[k] % width
        own = first + k
        cells[y, x] = own
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                v, u = y + dy, x + dx
                if not (0 <= v < height and 0 <= u < width) or cells[v, u] == 0:
                    continue
                a, b = _root(parent, own), _root(parent, cells[v, u])
                if a == b:
                    continue
                parent[max(a, b)] = min(a, b)
                first_node, second_node = node[a], node[b]
                joined = max(first_node, second_node)
                if first_node >= 0 and second_node >= 0:
                    merges[done, 0] = min(first_node, second_node)
                    merges[done, 1] = joined
                    at[done] = borders[k]
                    joined = n + done
                    done += 1
                node[min(a, b)] = joined
    return merges, at


@kernel()
def _root(parent: np.ndarray, i: int) -> int:  # pragma: no cover
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
