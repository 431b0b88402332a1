"""Trees that are read by window: windows are parts of the whole, and damaged files are refused."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.errors import FormatError, InputError
from masktree.io.block_grid import BlockGrid
from masktree.io.geotiff_tags import GeoTiffTags
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.tiled import TiledTree, write_tiled_tree

TAGS = GeoTiffTags({33550: (0.5, 0.5, 0.0), 33922: (0.0, 0.0, 0.0, 4e5, 5e6, 0.0), 34737: "WGS 84|"})


@pytest.fixture
def tree(tmp_path, rng):
    """Four leaves in two blocks of 4 x 4 and 4 x 2 pixels, with a chain of merges."""
    blocks = [np.repeat([[0], [0], [1], [1]], 4, 1), np.repeat([[0], [1], [1], [1]], 2, 1)]
    merges, costs = np.array([[0, 2], [1, 3], [4, 5]]), np.array([0.2, 0.5, 0.9])
    graph = PartitionTree.from_merges(np.arange(4, dtype=np.int32)[None], merges, costs)
    leaves = np.concatenate([blocks[0], blocks[1] + 2], 1).astype(np.int32)
    return write_tiled_tree(
        tmp_path / "a.dendrogram.npz",
        graph,
        BlockGrid((4, 6), 4),
        np.bincount(leaves.ravel()),
        np.array([0, 2, 4]),
        lambda index: blocks[index],
        rng.integers(256, size=(2, 3, 3)).astype(np.uint8),
        leaves[::2, ::2].copy(),
        TAGS,
    )


def test_windows_are_parts_of_the_whole(tree):
    whole = tree.cut(0.3)
    assert whole.tolist() == [[2] * 6, [2, 2, 2, 2, 1, 1], [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]]
    for window in [(0, 0, 4, 6), (1, 3, 3, 5), (2, 4, 3, 6), (0, 0, 1, 1)]:
        top, left, bottom, right = window
        assert np.array_equal(tree.cut(0.3, window=window), whole[top:bottom, left:right])
        assert np.array_equal(tree.mask(4, window=window), (whole == 2)[top:bottom, left:right])
    assert tree.cut(1.0).max() == 0


def test_areas_are_those_of_the_masks(tree):
    assert tree.areas.tolist() == [int(tree.mask(node).sum()) for node in range(7)]


def test_the_file_keeps_the_georeference(tree):
    loaded = TiledTree.load(tree.path)
    assert loaded.geotiff_tags == TAGS
    assert loaded.geotiff_tags.scaled(4).tags[33550] == (2.0, 2.0, 0.0)
    assert loaded.size == (4, 6)
    assert repr(loaded) == "TiledTree(4 x 6, 4 leaves, a.dendrogram.npz)"


@pytest.mark.parametrize("window", [(0, 0, 0, 3), (0, 0, 5, 3), (-1, 0, 2, 3), (0, 0, 2), (0, 0, 1.5, 3)])
def test_windows_outside_the_image_are_refused(tree, window):
    with pytest.raises(InputError, match="window"):
        tree.cut(0.5, window=window)


def test_damaged_files_are_refused(tree, tmp_path):
    data = tree.path.read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name in ("cut.npz", "text.npz", "other.npz"):
        with pytest.raises(FormatError, match=name):
            TiledTree.load(tmp_path / name)
