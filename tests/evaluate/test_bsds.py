"""Region benchmark against its formulas written out naively, and the fast route against the plain one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.io import savemat

from masktree.cluster.merge import merge_tree
from masktree.errors import FormatError, InputError
from masktree.evaluate.bsds import (
    CONTOUR_THRESHOLDS,
    HumanSegmentation,
    read_human_segmentations,
    score,
    score_image,
    score_tree,
    summarise,
)
from masktree.trees.masktree import MaskTree
from tests.oracles import bsds as oracle


def random_labels(rng, shape, count):
    blocks = rng.integers(count, size=(3, 3))
    return blocks[(np.arange(shape[0]) * 3 // shape[0])[:, None], np.arange(shape[1]) * 3 // shape[1]].astype(np.int32)


@pytest.mark.parametrize("shape", [(9, 7), (4, 12), (1, 6), (2, 2)])
def test_scores_equal_the_published_formulas(rng, shape):
    ground_truths = [random_labels(rng, shape, k) for k in (2, 4, 6)]
    cuts = [rng.integers(k, size=shape).astype(np.int32) for k in (1, 2, 5)] + [ground_truths[1]]
    scores = score_image(cuts, ground_truths)
    sums = [oracle.covering_sums(cut, ground_truths) for cut in cuts]
    assert scores["covered"] == pytest.approx([s for s, _ in sums])
    assert scores["pixels"] == sums[0][1] == 3 * shape[0] * shape[1]
    assert scores["best"] == pytest.approx(oracle.best_sum(cuts, ground_truths))
    assert scores["rand"] == pytest.approx([np.mean([oracle.rand_index(c, t) for t in ground_truths]) for c in cuts])
    assert scores["vi"] == pytest.approx(
        [np.mean([oracle.variation_of_information(c, t) for t in ground_truths]) for c in cuts], abs=1e-9
    )


def test_perfect_partition_scores_perfectly(rng):
    ground_truth = random_labels(rng, (12, 10), 5)
    scores = summarise(
        [score_image([ground_truth[::-1].copy(), ground_truth + 3], [ground_truth])]
    )  # numbers need not start at 0
    assert scores["covering_ods"] == scores["covering_ois"] == scores["covering_best"] == 1
    assert scores["pri_ods"] == 1
    assert scores["vi_ods"] == pytest.approx(0, abs=1e-12)


def test_order_of_truth_labels_does_not_matter(rng):
    ground_truth, cut = random_labels(rng, (9, 9), 5), random_labels(rng, (9, 9), 3)
    first = score_image([cut], [ground_truth])
    second = score_image([cut], [np.int32(50) - 7 * ground_truth.astype(np.int32)])
    assert first["covered"] == pytest.approx(second["covered"])
    assert first["vi"] == pytest.approx(second["vi"])
    sparse = score_image([cut], [ground_truth * np.int32(10**8)])  # numbers far apart cost no memory
    assert first["covered"] == pytest.approx(sparse["covered"])


def test_tree_route_equals_plain_route(rng):
    shape = (14, 11)
    tree = merge_tree(rng.normal(size=(*shape, 4)).astype(np.float32))
    tree = tree.with_altitudes(tree.altitudes / tree.altitudes.max())
    ground_truths = [random_labels(rng, shape, k) for k in (3, 6)]
    fast = score_tree(tree, ground_truths)
    plain = score_image([tree.cut(1.0 - t) for t in CONTOUR_THRESHOLDS], ground_truths)
    assert fast.keys() == plain.keys()
    for name, value in plain.items():
        assert fast[name] == pytest.approx(value, abs=1e-9), name
    assert len(np.unique(fast["vi"])) > 10  # the thresholds did cut differently


def test_a_tree_of_one_leaf_scores_perfectly_on_one_pixel():
    tree = merge_tree(np.ones((1, 1, 2), np.float32))
    scores = score_tree(tree, [np.zeros((1, 1), np.int32)])
    assert scores["covered"] == [1] * 99
    assert scores["rand"] == [1] * 99
    assert scores["vi"] == [0] * 99


def test_summary_weighs_covering_by_pixels_and_the_rest_by_images():
    small, large = np.zeros((2, 2), np.int32), np.zeros((4, 8), np.int32)
    halves = large.copy()
    halves[:, 4:] = 1
    first = score_image([small, small], [small])  # perfect at both
    second = score_image([large, halves], [halves, halves])  # half covered, then perfect
    scores = summarise([first, second])
    assert first["covered"] == pytest.approx([4, 4])
    assert second["covered"] == pytest.approx([32, 64])
    assert scores["covering_ods"] == 1
    swapped = summarise([first, score_image([large, large], [halves, halves])])
    assert swapped["covering_ods"] == pytest.approx(36 / 68)
    assert swapped["vi_ods"] == pytest.approx(0.5)


def test_ois_takes_each_image_at_its_own_threshold():
    left = np.zeros((2, 4), np.int32)
    right = left.copy()
    right[:, 2:] = 1
    scores = summarise([score_image([left, right], [left]), score_image([left, right], [right])])
    assert scores["covering_ods"] == pytest.approx(0.75)
    assert scores["covering_ois"] == 1


def test_files_in_the_official_layout_are_read(tmp_path):
    maps = [np.array([[1, 1, 4], [2, 2, 4]], np.uint16), np.ones((2, 3), np.uint16)]
    cell = np.empty((1, 2), object)
    for i, labels in enumerate(maps):
        cell[0, i] = {"Segmentation": labels, "Boundaries": np.zeros((2, 3), np.uint8)}
    savemat(tmp_path / "a.mat", {"groundTruth": cell})
    first, second = (one.labels for one in read_human_segmentations(tmp_path / "a.mat"))
    assert first.dtype == np.int32
    assert first.tolist() == [[0, 0, 2], [1, 1, 2]]
    assert second.tolist() == [[0, 0, 0], [0, 0, 0]]
    savemat(tmp_path / "b.mat", {"other": 1})
    with pytest.raises(FormatError, match="groundTruth"):
        read_human_segmentations(tmp_path / "b.mat")


def test_reads_boundaries_too_and_names_a_damaged_annotator(tmp_path):
    labels, drawn = np.array([[1, 2], [1, 2]], np.uint16), np.array([[0, 1], [0, 1]], np.uint8)
    cell = np.empty((1, 2), object)
    cell[0, 0] = cell[0, 1] = {"Segmentation": labels, "Boundaries": drawn}
    savemat(tmp_path / "a.mat", {"groundTruth": cell})
    annotations = read_human_segmentations(tmp_path / "a.mat")
    assert len(annotations) == 2
    assert annotations[1].boundaries.tolist() == [[False, True], [False, True]]
    assert annotations[1].labels.tolist() == [[0, 1], [0, 1]]
    cell[0, 1] = {"Segmentation": labels}
    savemat(tmp_path / "b.mat", {"groundTruth": cell})
    with pytest.raises(FormatError, match="annotator 1"):
        read_human_segmentations(tmp_path / "b.mat")
    cell[0, 1] = {"Segmentation": labels, "Boundaries": drawn[:1]}
    savemat(tmp_path / "c.mat", {"groundTruth": cell})
    with pytest.raises(FormatError, match="one \\(H, W\\) shape"):
        read_human_segmentations(tmp_path / "c.mat")


def drawn(labels):
    """An annotation whose boundaries are where the benchmark's own conversion of regions puts them."""
    padded = np.pad(labels, ((0, 1), (0, 1)), mode="edge")
    corners = np.stack([padded[:-1, :-1], padded[1:, :-1], padded[:-1, 1:], padded[1:, 1:]])
    return HumanSegmentation(labels, corners.min(0) != corners.max(0))


def planted(rng, shape=(24, 30)):
    tree = merge_tree(rng.normal(size=(4, 5, 4)).astype(np.float32))
    leaves = tree.leaves[(np.arange(shape[0]) * 4 // shape[0])[:, None], np.arange(shape[1]) * 5 // shape[1]]
    return tree.with_altitudes(tree.altitudes / tree.altitudes.max()).with_leaves(leaves)


def test_a_tree_and_its_contour_map_score_alike(rng):
    tree = planted(rng)
    ground_truths = [drawn(tree.cut_at(0.4)), drawn(tree.cut_at(0.7))]
    of_tree, of_map = score(tree, ground_truths), score(tree.ucm(doubled=True), ground_truths)
    assert of_tree.keys() == of_map.keys() == {
        "covered", "best", "pixels", "rand", "vi", "cnt_r", "sum_r", "cnt_p", "sum_p"
    }  # fmt: skip
    for name, value in of_tree.items():
        assert of_map[name] == pytest.approx(value, abs=1e-9), name
    assert json.loads(json.dumps(of_tree)) == of_tree
    assert len(set(of_tree["sum_p"])) > 3


def test_cuts_of_masks_score_like_those_of_their_partition(rng):
    tree = planted(rng)
    masks = MaskTree.from_dendrogram(tree, min_area=1, max_area=1.0, duplicate_iou=1.0)
    ground_truths = [drawn(tree.cut_at(0.5))]
    with_partition = score(masks, ground_truths)
    assert with_partition == score(tree, ground_truths)
    levels = np.array([0.2, 0.5, 0.8])
    bare = MaskTree.from_rles(masks.rles, masks.size, masks.parents)
    scores = score(bare, ground_truths, thresholds=levels)
    cuts = [bare.cut(float(t)) for t in levels]
    assert scores["covered"] == score_image(cuts, [ground_truths[0].labels])["covered"]
    assert scores["sum_r"] == ground_truths[0].boundaries.sum()


def test_the_truth_itself_is_perfect(rng):
    tree = planted(rng)
    ground_truth = drawn(tree.cut_at(0.5))
    scores = summarise([score(tree.ucm(doubled=True), [ground_truth])])
    assert scores["covering_ois"] == scores["covering_best"] == 1
    assert scores["pri_ois"] == 1
    assert scores["vi_ois"] == pytest.approx(0, abs=1e-12)
    assert scores["f_ois"] > 0.97  # thinning may take a pixel off a corner


def test_without_boundaries_f_is_undefined(rng):
    tree = planted(rng)
    ground_truths = [drawn(tree.cut_at(0.5))]
    plain, full = score(tree, ground_truths, boundaries=False), score(tree, ground_truths)
    assert "cnt_r" not in plain
    summary = summarise([plain, plain])
    assert summary["f_ods"] is summary["f_ois"] is summary["f_ap"] is None
    assert summary["covering_ods"] == summarise([full])["covering_ods"]
    with pytest.raises(InputError, match="in all images or in none"):
        summarise([plain, full])


def test_one_region_has_the_known_scores_on_validation_images(shared):
    folder = shared / "data" / "BSDS500" / "groundTruth" / "val"
    images = []
    for path in sorted(folder.glob("*.mat")):
        ground_truths = [one.labels for one in read_human_segmentations(path)]
        images.append(score_image([np.zeros_like(ground_truths[0])], ground_truths))
    scores = summarise(images)
    assert len(images) == 100
    assert scores["covering_ods"] == pytest.approx(0.314, abs=5e-4)  # known values of this benchmark
    assert scores["vi_ods"] == pytest.approx(2.34, abs=5e-3)


def test_bad_input_raises_an_input_error(rng):
    ground_truth = random_labels(rng, (4, 5), 2)
    with pytest.raises(InputError, match="shape"):
        score_image([ground_truth[:3]], [ground_truth])
    with pytest.raises(InputError, match="human segmentations"):
        score_image([ground_truth], [])
    with pytest.raises(InputError, match="at least one partition"):
        score_image([], [ground_truth])
    with pytest.raises(InputError, match="ascending"):
        score_tree(merge_tree(np.ones((4, 5, 1), np.float32)), [ground_truth], np.array([0.5, 0.1]))
    with pytest.raises(InputError, match="ascending"):
        score(merge_tree(np.ones((4, 5, 1), np.float32)), [drawn(ground_truth)], thresholds=np.array([0.1, np.nan]))
    with pytest.raises(InputError, match="human segmentations"):
        score(merge_tree(np.ones((4, 5, 1), np.float32)), [])
    with pytest.raises(InputError, match="shape"):
        score(np.zeros((11, 11)), [drawn(ground_truth)])
    with pytest.raises(InputError, match="equally many"):
        summarise(
            [score_image([ground_truth], [ground_truth]), score_image([ground_truth, ground_truth], [ground_truth])]
        )
    with pytest.raises(InputError, match="at least one image"):
        summarise([])
