"""Contour maps against labelling them anew at each threshold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.io import savemat

from masktree.cluster.merge import merge_tree
from masktree.errors import FormatError, InputError
from masktree.evaluate.ucm import read_ucm, ucm_tree
from masktree.trees.dendrogram import renumber


def labelled(ucm2, threshold):
    """The benchmark's regions: cells of at most the threshold, eight neighbours, read at the pixels."""
    return ndimage.label(ucm2 <= threshold, np.ones((3, 3)))[0][1::2, 1::2]


def partition_tree(rng, shape=(9, 11)):
    tree = merge_tree(rng.normal(size=(*shape, 3)).astype(np.float32))
    return tree.with_altitudes(tree.altitudes / tree.altitudes.max())


@pytest.mark.parametrize("shape", [(9, 11), (1, 5), (6, 1), (1, 1)])
def test_tree_of_a_map_equals_labelling_at_each_threshold(rng, shape):
    ucm2 = partition_tree(rng, shape).ucm(doubled=True).astype(float) if shape != (1, 1) else np.zeros((3, 3))
    tree = ucm_tree(ucm2)
    for threshold in np.arange(1, 100) / 100:
        expected = renumber(labelled(ucm2, threshold).astype(np.int32))
        assert np.array_equal(tree.cut_at(threshold), expected)


def test_maps_that_are_no_ultrametric_are_read_as_the_benchmark_does(rng):
    for _ in range(5):
        ucm2 = np.round(rng.random((15, 19)), 1)  # crossings lower than borders, ties, dead ends
        ucm2[1::2, 1::2] = 0
        tree = ucm_tree(ucm2)
        for threshold in np.arange(0, 101) / 100:
            assert np.array_equal(tree.cut_at(threshold), renumber(labelled(ucm2, threshold).astype(np.int32)))


def test_a_tree_and_the_tree_of_its_map_have_the_same_contours(rng):
    tree = partition_tree(rng)
    ucm2 = tree.ucm(doubled=True)
    again = ucm_tree(ucm2)
    assert np.array_equal(again.ucm(doubled=True), ucm2)
    assert np.allclose(np.sort(again.altitudes)[again.n_leaves :], np.sort(tree.altitudes)[tree.n_leaves :], atol=1e-7)


def test_a_uniform_map_has_one_leaf_and_separated_pixels_one_each():
    assert ucm_tree(np.zeros((7, 9))).n_leaves == 1
    walls = np.ones((5, 7))
    walls[1::2, 1::2] = 0
    assert ucm_tree(walls).n_leaves == 6
    assert np.array_equal(ucm_tree(walls).altitudes[6:], np.ones(5))


def test_floats_and_bytes_are_read_alike(tmp_path, rng):
    ucm2 = partition_tree(rng).ucm(doubled=True)
    savemat(tmp_path / "a.mat", {"ucm2": ucm2.astype(float)}, do_compression=True)
    assert np.array_equal(read_ucm(tmp_path / "a.mat"), ucm2)
    savemat(tmp_path / "b.mat", {"ucm2": np.full((3, 5), 51, np.uint8)})
    assert np.array_equal(read_ucm(tmp_path / "b.mat"), np.full((3, 5), 0.2))


def test_unreadable_files_raise_a_format_error(tmp_path):
    with pytest.raises(FormatError, match=r"none\.mat"):
        read_ucm(tmp_path / "none.mat")
    (tmp_path / "text.mat").write_bytes(b"no MATLAB file at all" * 20)
    with pytest.raises(FormatError, match=r"text\.mat: expected a MATLAB file"):
        read_ucm(tmp_path / "text.mat")
    (tmp_path / "empty.mat").write_bytes(b"")
    with pytest.raises(FormatError, match=r"empty\.mat"):
        read_ucm(tmp_path / "empty.mat")
    savemat(tmp_path / "cut.mat", {"ucm2": np.random.default_rng(0).random((41, 41))}, do_compression=True)
    (tmp_path / "cut.mat").write_bytes((tmp_path / "cut.mat").read_bytes()[:900])
    with pytest.raises(FormatError, match=r"cut\.mat"):
        read_ucm(tmp_path / "cut.mat")
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    (tmp_path / "new.mat").write_bytes(header + b"\x00" * 400)
    with pytest.raises(FormatError, match=r"new\.mat.*-v7"):
        read_ucm(tmp_path / "new.mat")
    savemat(tmp_path / "other.mat", {"ucm": np.zeros((3, 3))})
    with pytest.raises(FormatError, match=r"'ucm2'; got ucm"):
        read_ucm(tmp_path / "other.mat")


@pytest.mark.parametrize(
    ("ucm2", "what"),
    [
        (np.zeros((4, 5)), "odd shape"),
        (np.zeros((1, 5)), "odd shape"),
        (np.zeros((3, 3, 3)), "odd shape"),
        (np.full((3, 3), np.nan), r"values in \[0, 1\]"),
        (np.full((3, 3), 1.5), r"values in \[0, 1\]"),
        (np.full((3, 3), -0.1), r"values in \[0, 1\]"),
        (np.zeros((3, 3), np.int64), "uint8"),
        (np.full((3, 3), 0.4), "doubled map"),
    ],
)
def test_maps_of_wrong_shape_or_values_are_refused(ucm2, what, tmp_path):
    with pytest.raises(InputError, match=what):
        ucm_tree(ucm2)
    if "doubled map" not in what:
        savemat(tmp_path / "bad.mat", {"ucm2": ucm2})
        with pytest.raises(FormatError, match=what):
            read_ucm(tmp_path / "bad.mat")
