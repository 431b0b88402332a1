from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from masktree import MaskTree
from masktree.discover.masktree import discover_masks
from masktree.discover.order import FEATURES, MotionOrder, correct_scores, leaves_inside, mask_features, motion_order
from masktree.errors import InputError, WeightsError
from masktree.trees.dendrogram import PartitionTree

# Two trees: 0.5 up to 1 in the first feature, and beyond it by the second one; and 0.25 everywhere
ORDER = MotionOrder(
    features=np.array([[0, 1], [0, 0]], np.int16),
    thresholds=np.array([[1.0, -2.0], [np.inf, np.inf]], np.float32),
    children=np.array([[[-1, 1], [-2, -3]], [[-1, -1], [-1, -1]]], np.int16),
    values=np.array([[0.5, -1.0, 2.0], [0.25, 0.0, 0.0]], np.float32),
    learned=np.array([0.0, 10.0]),
    scores=np.array([0.0, 1.0]),
)


@pytest.fixture
def tree() -> MaskTree:
    """A square of 20 pixels in the middle of the left half, the rest of this half, and the right half."""
    leaves = np.zeros((60, 80), np.int32)
    leaves[:, 40:] = 1
    leaves[20:40, 10:30] = 2
    return MaskTree.from_dendrogram(
        PartitionTree.from_merges(leaves, np.array([[0, 2], [1, 3]]), np.array([0.4, 0.9])), max_area=1.0
    )


@pytest.fixture
def picture(tree) -> np.ndarray:
    colours = np.array([[40, 40, 40], [60, 60, 60], [200, 40, 40]], np.uint8)
    return colours[tree.dendrogram.leaves]


def column(features: np.ndarray, name: str) -> np.ndarray:
    return features[:, FEATURES.index(name)]


def test_trees_are_summed():
    features = np.array([[1.0, 0.0], [1.5, -2.0], [1.5, -1.9]], np.float32)
    np.testing.assert_allclose(ORDER.predict(features), [0.75, -0.75, 2.25])


def test_features_of_a_square(tree, picture):
    features = mask_features(tree, picture)
    assert features.shape == (len(tree), len(FEATURES))
    assert np.isfinite(features).all()
    square = int(np.flatnonzero(tree.areas == 400)[0])
    half = int(np.flatnonzero(tree.areas == 2400)[0])
    row = {name: features[square, i] for i, name in enumerate(FEATURES)}
    assert row["log_area"] == pytest.approx(np.log(400 / 4800))
    assert (row["sides"], row["frame"], row["fill"], row["aspect"]) == (0, 0, 1, 0)
    assert row["compactness"] == pytest.approx(4)
    assert (row["box_width"], row["box_height"]) == pytest.approx((20 / 80, 20 / 60))
    assert row["border_outside"] == pytest.approx(0.4)
    assert row["lightness_deviation"] == pytest.approx(0, abs=1e-3)
    assert row["chroma_contrast"] > 20
    assert column(features, "sides")[half] == 3
    assert row["has_parent"] == 1


def test_features_of_large_images_are_those_of_reduced_ones(tree, picture):
    large = PartitionTree(
        np.kron(tree.dendrogram.leaves, np.ones((20, 20), np.int32)), tree.dendrogram.parents, tree.dendrogram.altitudes
    )
    found = mask_features(
        MaskTree.from_dendrogram(large, max_area=1.0), np.kron(picture, np.ones((20, 20, 1), np.uint8))
    )
    expected = mask_features(tree, picture)
    for name in ("log_area", "sides", "fill", "border_outside"):
        np.testing.assert_allclose(column(found, name), column(expected, name), atol=0.03)
    # Reducing by three mixes the colours of two pixels at borders
    np.testing.assert_allclose(column(found, "chroma"), column(expected, "chroma"), atol=0.5)


def test_leaves_inside_are_those_of_the_masks(tree):
    inside = leaves_inside(tree)
    leaves = tree.dendrogram.leaves
    for i in range(len(tree)):
        np.testing.assert_array_equal(inside[i][leaves], tree.mask(i))


def test_masks_at_two_sides_of_the_image_are_corrected_less():
    features = np.zeros((2, len(FEATURES)), np.float32)
    features[1, FEATURES.index("sides")] = 2
    found = correct_scores(np.array([0.1, 0.1]), features, np.array([2.0, 2.0]))
    np.testing.assert_allclose(found, 0.1 * np.exp([1.0, 0.5]))


def test_the_order_of_the_package_keeps_masks_and_scale(rng):
    image = rng.integers(0, 60, (96, 128, 3), np.uint8)
    image[30:60, 40:80] += np.uint8(120)
    before = discover_masks(image, order="stability")
    after = discover_masks(image)
    assert after.rles == before.rles
    assert (after.scores != before.scores).any()
    assert after.scores.min() >= 0
    assert after.scores.max() <= 1
    assert (np.diff(motion_order().learned) > 0).all()
    with pytest.raises(InputError, match="expected order as motion or stability; got 'size'"):
        discover_masks(image, order="size")


def test_a_file_is_read_as_it_was_written(tmp_path):
    ORDER.save(tmp_path / "order.npz")
    again = MotionOrder.load(tmp_path / "order.npz")
    for name in ORDER.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(ORDER, name))
    (tmp_path / "order.npz").write_bytes(b"PK")
    with pytest.raises(WeightsError, match="expected the order of masks"):
        MotionOrder.load(tmp_path / "order.npz")


def test_features_need_a_dendrogram(tree, picture):
    with pytest.raises(InputError, match="expected a tree with dendrogram"):
        mask_features(replace(tree, dendrogram=None), picture)
