from __future__ import annotations

import numpy as np
import pytest

from masktree.cluster.merge import merge_tree
from masktree.discover import order as order_module
from masktree.discover.masktree import discover_masks
from masktree.discover.order import (
    FEATURES,
    SMALL_AREA,
    MotionOrder,
    choose_by_motion,
    correct_scores,
    mask_features,
    motion_order,
)
from masktree.errors import InputError, WeightsError
from masktree.trees.candidates import MaskCandidates, find_candidates
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
def dendrogram() -> PartitionTree:
    """A square of 20 pixels in the middle of the left half, the rest of this half, and the right half."""
    leaves = np.zeros((60, 80), np.int32)
    leaves[:, 40:] = 1
    leaves[20:40, 10:30] = 2
    return PartitionTree.from_merges(leaves, np.array([[0, 2], [1, 3]]), np.array([0.4, 0.9]))


@pytest.fixture
def candidates(dendrogram) -> MaskCandidates:
    return find_candidates(dendrogram, max_masks=None, max_area=1.0, masks="nodes")


@pytest.fixture
def picture(dendrogram) -> np.ndarray:
    colours = np.array([[40, 40, 40], [60, 60, 60], [200, 40, 40]], np.uint8)
    return colours[dendrogram.leaves]


def column(features: np.ndarray, name: str) -> np.ndarray:
    return features[:, FEATURES.index(name)]


def test_trees_are_summed():
    features = np.array([[1.0, 0.0], [1.5, -2.0], [1.5, -1.9]], np.float32)
    np.testing.assert_allclose(ORDER.predict(features), [0.75, -0.75, 2.25])


def test_features_of_a_square(candidates, picture):
    features = mask_features(candidates, picture)
    assert features.shape == (len(candidates), len(FEATURES))
    assert np.isfinite(features).all()
    square = int(np.flatnonzero(candidates.areas == 400)[0])
    half = int(np.flatnonzero(candidates.areas == 2400)[0])
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


def test_features_of_large_images_are_those_of_reduced_ones(candidates, picture):
    small = candidates.dendrogram
    large = small.with_leaves(np.kron(small.leaves, np.ones((20, 20), np.int32)))
    found = mask_features(
        find_candidates(large, max_masks=None, max_area=1.0, masks="nodes"),
        np.kron(picture, np.ones((20, 20, 1), np.uint8)),
    )
    expected = mask_features(candidates, picture)
    for name in ("log_area", "sides", "fill", "border_outside"):
        np.testing.assert_allclose(column(found, name), column(expected, name), atol=0.03)
    # Reducing by three mixes the colours of two pixels at borders
    np.testing.assert_allclose(column(found, "chroma"), column(expected, "chroma"), atol=0.5)


def test_masks_at_two_sides_of_the_image_are_corrected_less():
    features = np.zeros((2, len(FEATURES)), np.float32)
    features[1, FEATURES.index("sides")] = 2
    found = correct_scores(np.array([0.1, 0.1]), features, np.array([2.0, 2.0]))
    np.testing.assert_allclose(found, 0.1 * np.exp([1.0, 0.5]))


def test_the_order_of_the_package_keeps_masks_and_scale(rng):
    image = rng.integers(0, 60, (96, 128, 3), np.uint8)
    image[30:60, 40:80] += np.uint8(120)
    before = discover_masks(image, order="stability", max_masks=None)
    after = discover_masks(image, max_masks=None)
    assert after.rles == before.rles
    assert (after.scores != before.scores).any()
    assert after.scores.min() >= 0
    assert after.scores.max() <= 1
    assert (np.diff(motion_order().learned) > 0).all()
    with pytest.raises(InputError, match="expected order as motion or stability; got 'size'"):
        discover_masks(image, order="size")


@pytest.fixture
def many(rng) -> tuple[MaskCandidates, np.ndarray]:
    """The candidates of a random dendrogram, more than a hundred of them small, and an image."""
    tree = merge_tree(rng.normal(size=(24, 26, 4)).astype(np.float32))
    tree = tree.with_altitudes(tree.altitudes / tree.altitudes[-1])
    candidates = find_candidates(tree, max_masks=None, min_area=1)
    assert (candidates.areas < SMALL_AREA * tree.leaves.size).sum() > 100
    return candidates, rng.integers(0, 256, (*tree.size, 3), np.uint8)


@pytest.mark.parametrize("count", [50, 300])
def test_small_masks_are_those_without_correction_and_large_ones_the_best_with_it(many, monkeypatch, count):
    candidates, image = many
    monkeypatch.setattr(order_module, "MAX_MASKS", 20)
    chosen = choose_by_motion(candidates, image, count)
    assert len(chosen) == count
    limit = SMALL_AREA * image.shape[0] * image.shape[1]
    first = np.argsort(-candidates.scores, kind="stable")[:count]
    expected = {tuple(candidates.members[i]) for i in first if candidates.areas[i] < limit}
    assert {tuple(row) for row in chosen.members[chosen.areas < limit]} == expected
    scores = motion_order().correct(candidates.scores, mask_features(candidates, image))
    large = np.sort(scores[candidates.areas >= limit])[::-1]
    np.testing.assert_allclose(np.sort(chosen.scores[chosen.areas >= limit])[::-1], large[: count - len(expected)])


def test_fewer_masks_are_the_first_of_the_default_number(many, monkeypatch):
    candidates, image = many
    monkeypatch.setattr(order_module, "MAX_MASKS", 100)
    default = choose_by_motion(candidates, image, 100)
    few = choose_by_motion(candidates, image, 10)
    best = np.sort(np.argsort(-default.scores, kind="stable")[:10])
    np.testing.assert_array_equal(few.members, default.members[best])
    np.testing.assert_array_equal(few.scores, default.scores[best])
    assert few.omitted == default.omitted + (default.kinds == 0).sum() - (few.kinds == 0).sum()
    every = choose_by_motion(candidates, image, None)
    np.testing.assert_array_equal(every.members, candidates.members)
    assert every.omitted == candidates.omitted


def test_a_file_is_read_as_it_was_written(tmp_path):
    ORDER.save(tmp_path / "order.npz")
    again = MotionOrder.load(tmp_path / "order.npz")
    for name in ORDER.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(ORDER, name))
    (tmp_path / "order.npz").write_bytes(b"PK")
    with pytest.raises(WeightsError, match="expected the order of masks"):
        MotionOrder.load(tmp_path / "order.npz")


def test_features_are_those_of_an_image_of_the_same_size(candidates, picture):
    with pytest.raises(InputError, match=r"expected an image of the dendrogram's \(60, 80\) pixels; got \(59, 80\)"):
        mask_features(candidates, picture[1:])
