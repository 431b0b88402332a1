"""Hierarchy scores against their definitions written out naively, and on planted trees."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from masktree.cluster.merge import merge_tree
from masktree.errors import InputError
from masktree.evaluate import recall, structure
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.evaluate.hierarchy import GRANULARITIES, score_image, summarise
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import MaskTree
from tests.oracles import mask_hierarchy as oracle


def rectangles(rng, n, shape):
    """Masks with many inclusions and near copies, and some that are empty."""
    masks = np.zeros((n, *shape), bool)
    for mask in masks:
        y, x = rng.integers(shape[0] - 3), rng.integers(shape[1] - 3)
        mask[y : y + rng.integers(0, shape[0]), x : x + rng.integers(1, shape[1])] = True
    return masks


def forest(rng, n, depth_bias=2):
    order = rng.permutation(n)
    parents = np.full(n, -1, np.int32)
    for position in range(1, n):
        if rng.random() > 1 / depth_bias:
            parents[order[position]] = order[rng.integers(position)]
    return parents


def truth_of(masks, parents=None, **options):
    rles = [rle.encode(mask) for mask in masks]
    return ImageGroundTruth.from_masks(1, "a.jpg", masks.shape[1:], rles, parents=parents, **options)


def tree_of(masks, parents, scores=None):
    return MaskTree.from_rles([rle.encode(m) for m in masks], masks.shape[1:], parents, scores=scores)


def empty(size):
    return MaskTree.from_rles([], size, np.zeros(0, np.int32))


def two_wholes():
    """Two wholes of two parts each, side by side on 8 x 16 pixels: masks and parents."""
    masks = np.zeros((6, 8, 16), bool)
    masks[0, :, :6] = masks[1, :, 8:14] = True
    masks[2, :3, :6] = masks[3, 4:, :6] = True
    masks[4, :3, 8:14] = masks[5, 4:, 8:14] = True
    return masks, np.array([-1, -1, 0, 0, 1, 1], np.int32)


def random_case(seed):
    """Ground truths and predictions with parents. Even seeds keep the ground truth's links between the shifted
    ground truths."""
    rng = np.random.default_rng(seed)
    ground_truths = rectangles(rng, 7, (11, 13))
    found = np.concatenate([rectangles(rng, 9, (11, 13)), np.roll(ground_truths, 1, axis=2)])
    gt_parents = forest(rng, 7)
    kept = np.where(gt_parents < 0, -1, gt_parents + 9)
    parents = np.concatenate([forest(rng, 9), kept]) if seed % 2 == 0 else forest(rng, 16, 8)
    return ground_truths, gt_parents, found, parents.astype(np.int32), rng.random(16).astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_scores_equal_the_definitions(seed):
    ground_truths, gt_parents, found, parents, scores = random_case(seed)
    tree = tree_of(found, parents, scores)
    stats = score_image(truth_of(ground_truths, gt_parents), tree)
    expected = oracle.pairs(ground_truths, gt_parents.tolist(), found, parents.tolist())
    expected |= oracle.recalls(ground_truths, gt_parents.tolist(), found)
    expected |= oracle.structure(found, parents.tolist(), scores)
    for name, value in expected.items():
        assert stats[name] == pytest.approx(value), name
    assert stats["cut_pixels"] == ground_truths.sum()
    assert stats["cut_covered"] == pytest.approx([oracle.covered(ground_truths, tree.cut(g)) for g in GRANULARITIES])
    assert json.loads(json.dumps(stats, allow_nan=False)) == stats


def test_random_cases_have_pairs_right_and_wrong():
    totals = {"gt_pairs": 0, "gt_pairs_found": 0, "predicted_pairs": 0, "predicted_pairs_tp": 0}
    for seed in range(12):
        ground_truths, gt_parents, found, parents, _ = random_case(seed)
        for name, count in oracle.pairs(ground_truths, gt_parents.tolist(), found, parents.tolist()).items():
            totals[name] += count
    assert 5 <= totals["gt_pairs_found"] < totals["gt_pairs"]
    assert 5 <= totals["predicted_pairs_tp"] < totals["predicted_pairs"]


def test_the_truth_itself_scores_perfectly():
    masks, parents = two_wholes()
    scores = summarise([score_image(truth_of(masks, parents), tree_of(masks, parents))])
    for name in ("parent_child_precision", "parent_child_recall", "parent_child_f1", "ar_whole", "ar_part", "nesting"):
        assert scores[name] == 1, name
    assert scores["ar_subpart"] is None
    assert scores["redundancy"] == 0
    assert scores["coverage"] == 96 / 128
    assert scores["masks_per_pixel"] == pytest.approx((96 + 84) / 128)
    assert (scores["whole_per_image"], scores["part_per_image"], scores["subpart_per_image"]) == (2, 4, 0)


def test_levels_in_between_do_no_harm_and_wrong_links_do():
    masks, parents = two_wholes()
    between = masks[0].copy()
    between[7] = False
    more = np.concatenate([masks, between[None]])
    chained = np.array([-1, -1, 6, 6, 1, 1, 0], np.int32)
    scores = summarise([score_image(truth_of(masks, parents), tree_of(more, chained))])
    assert scores["parent_child_f1"] == 1
    swapped = np.array([-1, -1, 1, 1, 1, 1], np.int32)  # the left parts hang on the right whole
    scores = summarise([score_image(truth_of(masks, parents), tree_of(masks, swapped))])
    assert scores["parent_child_recall"] == scores["parent_child_precision"] == scores["parent_child_f1"] == 0.5
    assert scores["nesting"] == 0.5
    flat = np.full(6, -1, np.int32)
    scores = summarise([score_image(truth_of(masks, parents), tree_of(masks, flat))])
    assert scores["parent_child_recall"] == scores["parent_child_f1"] == 0
    assert scores["parent_child_precision"] is None
    assert scores["nesting"] is None


def test_combinations_take_no_node_from_the_hierarchy():
    masks, parents = two_wholes()
    found = masks.copy()
    found[:2, 0] = False  # the wholes of the tree are a little off, and the combination is not
    tree = tree_of(np.concatenate([found, masks[:1]]), np.append(parents, np.int32(-1)))
    tree = replace(tree, kinds=np.array([0, 0, 0, 0, 0, 0, 1], np.int8))
    scores = summarise([score_image(truth_of(masks, parents), tree)])
    assert scores["parent_child_f1"] == scores["parent_child_precision"] == 1


def test_f1_is_the_harmonic_mean_over_all_images():
    masks, parents = two_wholes()
    ground_truth = truth_of(masks, parents)
    half = np.array([-1, -1, 0, -1, 1, -1], np.int32)  # two of four links
    wrong = np.array([-1, -1, 1, 1, 1, 1], np.int32)  # two right, two wrong
    scores = summarise(
        [score_image(ground_truth, tree_of(masks, half)), score_image(ground_truth, tree_of(masks, wrong))]
    )
    assert scores["parent_child_precision"] == pytest.approx(4 / 6)
    assert scores["parent_child_recall"] == pytest.approx(4 / 8)
    assert scores["parent_child_f1"] == pytest.approx(2 * 4 / 6 * 4 / 8 / (4 / 6 + 4 / 8))


def test_unlabelled_masks_do_not_lower_precision():
    masks, parents = two_wholes()
    extra = np.zeros((2, 8, 16), bool)
    extra[0, :2, :2] = extra[1, 6:, 9:11] = True
    tree = tree_of(np.concatenate([masks, extra]), np.array([-1, -1, 0, 0, 1, 1, 2, 0], np.int32))
    assert summarise([score_image(truth_of(masks, parents), tree)])["parent_child_precision"] == 1


def test_one_mask_matches_one_truth_only():
    whole = np.zeros((1, 6, 10), bool)
    whole[0, :, :6] = True
    part = whole[0].copy()
    part[:, 5] = False
    ground_truth = truth_of(np.stack([whole[0], part]), np.array([-1, 0], np.int32))
    stats = score_image(ground_truth, tree_of(whole, np.array([-1], np.int32)))
    assert (stats["gt_pairs"], stats["gt_pairs_found"], stats["predicted_pairs"]) == (1, 0, 0)
    assert stats["level_tp"] == [10, 7, 0]  # by best overlap: IoU 1 and 5/6


def test_recall_by_level_is_that_of_the_official_matching_where_truths_do_not_overlap(rng):
    squares = np.zeros((12, 24, 32), bool)
    for i, square in enumerate(squares):
        square[8 * (i // 4) : 8 * (i // 4) + 7, 8 * (i % 4) : 8 * (i % 4) + 7] = True
    ground_truth = truth_of(squares)
    moved = [np.roll(square, rng.integers(-2, 3, 2), (0, 1)) for square in squares for _ in range(3)]
    tree = tree_of(np.stack(moved), np.full(36, -1, np.int32), rng.random(36).astype(np.float32))
    official = recall.summarise([recall.score_image(ground_truth, ImageDetections.from_tree(tree))])["ar1000"]
    assert 0.2 < official < 1
    assert summarise([score_image(ground_truth, tree)])["ar_whole"] == pytest.approx(official)


def test_best_cut_is_chosen_by_image_and_best_granularity_once():
    """Of two images one has the wholes as ground truth, the other the parts; the same tree for both."""
    masks, parents = two_wholes()
    tree = tree_of(masks, parents)
    stats = [score_image(truth_of(masks[:2]), tree), score_image(truth_of(masks[2:]), tree)]
    scores = summarise(stats)
    assert scores["best_cut"] == 1
    at = [GRANULARITIES[np.argmax(s["cut_covered"])] for s in stats]
    assert at[0] > at[1]
    # wholes for both: they are 96 of 96 pixels, and 36 + 48 of the parts with IoU 18/36 and 24/48... of 84 pixels
    expected = max(96 + sum(a * a / 48 for a in (18, 24, 18, 24)), 84 + sum(48 * 24 / 48 for _ in range(2)))
    assert scores["best_granularity"] == pytest.approx(expected / 180)
    assert scores["best_granularity_at"] in GRANULARITIES


def test_partition_trees_are_cut_at_their_altitudes(rng):
    tree = merge_tree(rng.normal(size=(12, 9, 4)).astype(np.float32))
    tree = tree.with_altitudes(tree.altitudes / tree.altitudes.max())
    masks = MaskTree.from_dendrogram(tree, min_area=2, max_area=1.0)
    ground_truths = rectangles(rng, 4, (12, 9))
    stats = score_image(truth_of(ground_truths), masks)
    assert stats["cut_covered"] == pytest.approx([oracle.covered(ground_truths, tree.cut_at(g)) for g in GRANULARITIES])
    assert len(set(stats["cut_covered"])) > 5
    assert stats["nested"] == stats["links"] > 0


def test_crowd_is_left_out_and_its_children_go_up():
    masks, parents = two_wholes()
    masks = np.concatenate([masks, masks[2:3, ::-1]])
    chained = np.array([-1, -1, 6, 0, 1, 1, 0], np.int32)  # mask 6, a crowd, between 0 and 2
    crowd = np.arange(7) == 6
    stats = score_image(truth_of(masks, chained, crowd=crowd), tree_of(masks[:6], parents))
    assert (stats["gt_pairs"], stats["gt_pairs_found"]) == (4, 4)
    assert stats["level_num_gt"] == [2, 4, 0]
    assert stats["cut_pixels"] == masks[:6].sum()


def test_only_the_thousand_best_masks_count():
    mask = np.zeros((1, 4, 4), bool)
    mask[0, :2] = True
    rles = [rle.encode(~mask[0])] * 1000 + [rle.encode(mask[0])]
    scores = np.full(1001, 0.5, np.float32)
    for score, found in ((0.4, 0), (0.6, 10)):
        scores[-1] = score
        tree = MaskTree.from_rles(rles, (4, 4), np.full(1001, -1, np.int32), scores=scores)
        stats = score_image(truth_of(mask), tree)
        assert stats["level_tp"] == [found, 0, 0]
        assert stats["duplicates"] == 999


def test_empty_trees_and_empty_truths():
    masks, parents = two_wholes()
    nothing = score_image(truth_of(masks, parents), empty((8, 16)))
    assert nothing["masks"] == nothing["gt_pairs_found"] == sum(nothing["level_tp"]) == 0
    scores = summarise([nothing])
    assert scores["parent_child_recall"] == scores["ar_part"] == scores["coverage"] == 0
    assert scores["redundancy"] is None
    assert scores["nesting"] is None
    no_truth = score_image(truth_of(masks[:0]), tree_of(masks, parents))
    scores = summarise([no_truth])
    for name in ("best_cut", "best_granularity", "best_granularity_at", "ar_whole", "ar_g_10_20", "parent_child_f1"):
        assert scores[name] is None, name
    assert scores["nesting"] == 1
    both = summarise([no_truth, nothing])
    assert both["masks_per_image"] == 3
    assert both["parent_child_recall"] == 0


def test_truth_without_parents_has_no_pairs():
    masks, parents = two_wholes()
    scores = summarise([score_image(truth_of(masks), tree_of(masks, parents))])
    assert scores["parent_child_precision"] is scores["parent_child_recall"] is scores["parent_child_f1"] is None
    assert scores["ar_whole"] == 1
    assert scores["ar_part"] is None


def test_an_empty_annotated_mask_is_not_found_and_weighs_nothing():
    masks, _ = two_wholes()
    ground_truth = truth_of(np.concatenate([masks[:1], np.zeros((1, 8, 16), bool)]))
    stats = score_image(ground_truth, tree_of(masks[:1], np.array([-1], np.int32)))
    assert (stats["level_num_gt"], stats["level_tp"]) == ([2, 0, 0], [10, 0, 0])
    assert summarise([stats])["best_cut"] == 1


def test_single_pixels_and_uniform_images_are_scored():
    one = np.ones((1, 1, 1), bool)
    scores = summarise([score_image(truth_of(one), tree_of(one, np.array([-1], np.int32)))])
    assert scores["best_cut"] == scores["ar_whole"] == scores["ar_g_40_100"] == scores["coverage"] == 1


def test_many_masks_on_a_large_image_stay_runs():
    size = (3000, 2000)
    rng = np.random.default_rng(0)
    rles = []
    for _ in range(1000):
        (h, w) = rng.integers(20, 400, 2)
        (y, x) = rng.integers(0, size[0] - h), rng.integers(0, size[1] - w)
        starts = (x + np.arange(w)) * size[0] + y
        rles.append(rle.encode_runs(starts, starts + h, size))
    parents = hierarchy.parents_by_coverage(rles, size)
    tree = MaskTree.from_rles(rles, size, parents)
    stats = score_image(
        ImageGroundTruth.from_masks(1, "big.jpg", size, rles[:100], parents=np.full(100, -1, np.int32)), tree
    )
    assert stats["level_tp"][0] == 1000
    assert stats["nested"] > 0.5 * stats["links"] > 0


def test_summary_is_the_same_for_any_order_and_adds_up(rng):
    stats = []
    for seed in range(4):
        r = np.random.default_rng(seed)
        ground_truths, found = rectangles(r, 5, (9, 9)), rectangles(r, 6, (9, 9))
        stats.append(score_image(truth_of(ground_truths, forest(r, 5)), tree_of(found, forest(r, 6))))
    first, second = summarise(stats), summarise(stats[::-1])
    assert first == pytest.approx(second)
    assert summarise(stats * 3) == pytest.approx(first)
    assert structure.summarise(stats)["coverage"] == first["coverage"]


def test_bad_input_raises_an_input_error():
    masks, parents = two_wholes()
    tree = tree_of(masks, parents)
    with pytest.raises(InputError, match=r"a.jpg: expected masks of 16 x 8 .* got 8 x 16"):
        score_image(truth_of(masks.transpose(0, 2, 1)), tree)
    with pytest.raises(InputError, match=r"a.jpg: expected masks; got annotations with a box only"):
        score_image(replace(truth_of(masks), rles=None), tree)
    damaged = replace(truth_of(masks), rles=(b"~", *truth_of(masks).rles[1:]))
    with pytest.raises(InputError, match=r"a.jpg: .*mask 0"):
        score_image(damaged, tree)
    with pytest.raises(InputError, match="at least one image"):
        summarise([])


def test_ground_truth_of_cars_scores_perfectly_and_its_wholes_find_no_part(shared):
    """Real masks: the ground truth as prediction is perfect, and its wholes find no part as COCO counts it."""
    content = json.loads((shared / "data" / "eval" / "car_parts" / "annotations.json").read_text())
    image = content["images"][0]
    annotations = [a for a in content["annotations"] if a["image_id"] == image["id"]]
    index_of = {a["id"]: i for i, a in enumerate(annotations)}
    rles = [a["segmentation"]["counts"].encode() for a in annotations]
    parents = np.array([index_of.get(a["parent_id"], -1) for a in annotations], np.int32)
    size = (image["height"], image["width"])
    ground_truth = ImageGroundTruth.from_masks(1, image["file_name"], size, rles, parents=parents)
    scores = summarise([score_image(ground_truth, MaskTree.from_rles(rles, size, parents))])
    assert scores["parent_child_f1"] == scores["ar_whole"] == scores["ar_part"] == 1
    roots = [r for r, p in zip(rles, parents, strict=True) if p < 0]
    wholes_only = summarise(
        [score_image(ground_truth, MaskTree.from_rles(roots, size, np.full(len(roots), -1, np.int32)))]
    )
    assert wholes_only["ar_whole"] == 1
    assert wholes_only["ar_part"] == wholes_only["parent_child_recall"] == 0
