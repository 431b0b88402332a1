"""Region benchmark against its formulas written out naively, and the fast route against the plain one."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from scipy.io import savemat

from masktree.cluster.merge import merge_tree
from masktree.errors import InputError
from masktree.evaluate.bsds import THRESHOLDS, read_ground_truth, score_image, score_tree, summarise
from tests.oracles import bsds as oracle


def random_labels(rng, shape, count):
    blocks = rng.integers(count, size=(3, 3))
    return blocks[(np.arange(shape[0]) * 3 // shape[0])[:, None], np.arange(shape[1]) * 3 // shape[1]].astype(np.int32)


@pytest.mark.parametrize("shape", [(9, 7), (4, 12), (1, 6), (2, 2)])
def test_matches_the_formulas(rng, shape):
    truths = [random_labels(rng, shape, k) for k in (2, 4, 6)]
    cuts = [rng.integers(k, size=shape).astype(np.int32) for k in (1, 2, 5)] + [truths[1]]
    scores = score_image(cuts, truths)
    sums = [oracle.covering_sums(cut, truths) for cut in cuts]
    assert scores.covered == pytest.approx([s for s, _ in sums])
    assert scores.pixels == sums[0][1] == 3 * shape[0] * shape[1]
    assert scores.best == pytest.approx(oracle.best_sum(cuts, truths))
    assert scores.rand == pytest.approx([np.mean([oracle.rand_index(c, t) for t in truths]) for c in cuts])
    assert scores.vi == pytest.approx(
        [np.mean([oracle.variation_of_information(c, t) for t in truths]) for c in cuts], abs=1e-9
    )


def test_perfect_partition_scores_perfectly(rng):
    truth = random_labels(rng, (12, 10), 5)
    scores = summarise([score_image([truth[::-1].copy(), truth + 3], [truth])])  # numbers need not start at 0
    assert scores.covering_ods == scores.covering_ois == scores.covering_best == 1
    assert scores.rand_ods == 1
    assert scores.vi_ods == pytest.approx(0, abs=1e-12)
    assert scores.threshold == 1


def test_order_of_truth_labels_does_not_matter(rng):
    truth, cut = random_labels(rng, (9, 9), 5), random_labels(rng, (9, 9), 3)
    first = score_image([cut], [truth])
    second = score_image([cut], [np.int32(50) - 7 * truth.astype(np.int32)])
    assert first.covered == pytest.approx(second.covered)
    assert first.vi == pytest.approx(second.vi)
    sparse = score_image([cut], [truth * np.int32(10**8)])  # numbers far apart cost no memory
    assert first.covered == pytest.approx(sparse.covered)


def test_tree_route_equals_plain_route(rng):
    shape = (14, 11)
    tree = merge_tree(rng.normal(size=(*shape, 4)).astype(np.float32))
    tree = tree.with_altitudes(tree.altitudes / tree.altitudes.max())
    truths = [random_labels(rng, shape, k) for k in (3, 6)]
    fast = score_tree(tree, truths)
    plain = score_image([tree.cut(1.0 - t) for t in THRESHOLDS], truths)
    for name, value in asdict(plain).items():
        assert getattr(fast, name) == pytest.approx(value, abs=1e-9), name
    assert len(np.unique(fast.vi)) > 10  # the thresholds did cut differently


def test_single_leaf_tree():
    tree = merge_tree(np.ones((1, 1, 2), np.float32))
    scores = score_tree(tree, [np.zeros((1, 1), np.int32)])
    assert np.all(scores.covered == 1)
    assert np.all(scores.rand == 1)
    assert np.all(scores.vi == 0)


def test_summary_weighs_covering_by_pixels_and_the_rest_by_images():
    small, large = np.zeros((2, 2), np.int32), np.zeros((4, 8), np.int32)
    halves = large.copy()
    halves[:, 4:] = 1
    first = score_image([small, small], [small])  # perfect at both
    second = score_image([large, halves], [halves, halves])  # half covered, then perfect
    scores = summarise([first, second])
    assert first.covered == pytest.approx([4, 4])
    assert second.covered == pytest.approx([32, 64])
    assert scores.covering_ods == 1
    swapped = summarise([first, score_image([large, large], [halves, halves])])
    assert swapped.covering_ods == pytest.approx(36 / 68)
    assert swapped.vi_ods == pytest.approx(0.5)


def test_ois_takes_each_image_at_its_own_threshold():
    left = np.zeros((2, 4), np.int32)
    right = left.copy()
    right[:, 2:] = 1
    scores = summarise([score_image([left, right], [left]), score_image([left, right], [right])])
    assert scores.covering_ods == pytest.approx(0.75)
    assert scores.covering_ois == 1


def test_reads_the_official_layout(tmp_path):
    maps = [np.array([[1, 1, 4], [2, 2, 4]], np.uint16), np.ones((2, 3), np.uint16)]
    cell = np.empty((1, 2), object)
    for i, labels in enumerate(maps):
        cell[0, i] = {"Segmentation": labels, "Boundaries": np.zeros((2, 3), np.uint8)}
    savemat(tmp_path / "a.mat", {"groundTruth": cell})
    first, second = read_ground_truth(tmp_path / "a.mat")
    assert first.dtype == np.int32
    assert first.tolist() == [[0, 0, 2], [1, 1, 2]]
    assert second.tolist() == [[0, 0, 0], [0, 0, 0]]
    savemat(tmp_path / "b.mat", {"other": 1})
    with pytest.raises(InputError, match="groundTruth"):
        read_ground_truth(tmp_path / "b.mat")


def test_one_region_on_the_validation_images(shared):
    folder = shared / "data" / "BSDS500" / "groundTruth" / "val"
    images = []
    for path in sorted(folder.glob("*.mat")):
        truths = read_ground_truth(path)
        images.append(score_image([np.zeros_like(truths[0])], truths))
    scores = summarise(images)
    assert len(images) == 100
    assert scores.covering_ods == pytest.approx(0.314, abs=5e-4)  # known values of this benchmark
    assert scores.vi_ods == pytest.approx(2.34, abs=5e-3)


def test_bad_input(rng):
    truth = random_labels(rng, (4, 5), 2)
    with pytest.raises(InputError, match="shape"):
        score_image([truth[:3]], [truth])
    with pytest.raises(InputError, match="human segmentations"):
        score_image([truth], [])
    with pytest.raises(InputError, match="at least one partition"):
        score_image([], [truth])
    with pytest.raises(InputError, match="ascending"):
        score_tree(merge_tree(np.ones((4, 5, 1), np.float32)), [truth], np.array([0.5, 0.1]))
    with pytest.raises(InputError, match="equally many"):
        summarise([score_image([truth], [truth]), score_image([truth, truth], [truth])])
    with pytest.raises(InputError, match="at least one image"):
        summarise([])
