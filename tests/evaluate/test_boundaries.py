"""Thinning, matching and the precision-recall curve against their definitions written out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from skimage.morphology import thin as thin_of_scikit_image

from masktree.errors import InputError
from masktree.evaluate.boundaries import TOLERANCE, match, score_contours, summarise, thin
from tests.oracles import contours as oracle


@pytest.mark.parametrize("density", [0.3, 0.6, 0.9, 1.0])
def test_thinning_equals_the_definition(rng, density):
    for shape in [(1, 1), (1, 9), (7, 1), (12, 15), (20, 9)]:
        mask = rng.random(shape) < density
        lines = thin(mask)
        assert np.array_equal(lines, oracle.thin(mask))
        assert np.array_equal(lines, thin_of_scikit_image(mask))
        assert np.array_equal(thin(lines), lines)


def test_thinning_of_a_band_is_its_middle():
    mask = np.zeros((9, 40), np.bool_)
    mask[3:6] = True
    lines = thin(mask)
    assert lines[4, 2:-2].all()
    assert lines.sum() == lines[4].sum()
    assert mask.sum() == 120  # the input stays


@pytest.mark.parametrize("reach", [0.0, 1.0, 1.5, 2.3, 10.0])
def test_matching_has_the_most_pairs(rng, reach):
    for _ in range(30):
        first, second = rng.random((4, 5)) < 0.3, rng.random((4, 5)) < 0.25
        matched, back = match(first, second, reach)
        assert matched.sum() == back.sum() == oracle.best_matching(first, second, reach)[0]
        assert not (matched & ~first).any()
        assert not (back & ~second).any()


@pytest.mark.parametrize("reach", [1.0, 2.3, 3.7])
def test_matching_has_the_lowest_cost(rng, reach):
    surplus = 0
    for _ in range(40):
        first, second = rng.random((4, 5)) < 0.3, rng.random((4, 5)) < 0.2
        matched, back = match(first, second, reach)
        pairs, cost = oracle.best_matching(first, second, reach)
        if (first & ~matched).any() and not (second & ~back).any():  # only predicted pixels are left over
            surplus += 1
            pairs_again, cost_again = oracle.best_matching(matched, second, reach)
            assert pairs_again == pairs
            assert cost_again == pytest.approx(cost, abs=0.005 * pairs + 1e-9)
    assert surplus > 5


def test_matching_needs_augmenting_paths():
    # The nearest pair (b, x) must be given up so that both a and b find a partner.
    first, second = np.zeros((1, 8), np.bool_), np.zeros((1, 8), np.bool_)
    first[0, [1, 3]] = True
    second[0, [3, 5]] = True
    matched, back = match(first, second, 2.0)
    assert matched.sum() == back.sum() == 2


def test_a_long_chain_is_matched_to_its_end():
    first, second = np.zeros((1, 4001), np.bool_), np.zeros((1, 4001), np.bool_)
    first[0, :4000:2] = True
    second[0, 2:4001:2] = True  # greedy pairs leave the first and the last pixel alone
    matched, back = match(first, second, 2.0)
    assert matched.sum() == back.sum() == 2000


def test_the_tolerance_is_inclusive_and_euclidean():
    first, second = np.zeros((9, 9), np.bool_), np.zeros((9, 9), np.bool_)
    first[0, 0] = second[3, 4] = True
    assert match(first, second, 5.0)[0].sum() == 1
    assert match(first, second, 4.99)[0].sum() == 0


def test_counts_add_up_over_annotators(rng):
    shape = (15, 18)
    ground_truths = [rng.random(shape) < 0.08 for _ in range(3)]
    strength = rng.random(shape)
    maps = [strength >= t for t in (0.7, 0.85, 0.97)]
    tolerance = 0.08
    stats = score_contours(maps, ground_truths, tolerance=tolerance)
    for t, current in enumerate(maps):
        lines = oracle.thin(current)
        pairs = [match(lines, ground_truth, oracle.reach(shape, tolerance)) for ground_truth in ground_truths]
        assert stats["sum_p"][t] == lines.sum()
        assert stats["cnt_r"][t] == sum(int(back.sum()) for _, back in pairs)
        assert stats["cnt_p"][t] == np.logical_or.reduce([matched for matched, _ in pairs]).sum()
    assert stats["sum_r"] == sum(int(ground_truth.sum()) for ground_truth in ground_truths)
    assert json.loads(json.dumps(stats)) == stats


def test_a_pixel_is_right_if_any_annotator_has_it():
    left, right = np.zeros((20, 20), np.bool_), np.zeros((20, 20), np.bool_)
    left[2:18, 3] = right[2:18, 15] = True
    stats = score_contours([left | right], [left, right])
    assert stats["cnt_p"] == stats["sum_p"] == [32]
    assert stats["cnt_r"] == [32]
    assert stats["sum_r"] == 32
    assert score_contours([left], [left, right])["cnt_r"] == [16]


@pytest.mark.parametrize("images", [1, 4])
def test_summary_equals_the_definition(rng, images):
    stats = []
    for _ in range(images):
        sum_p = np.sort(rng.integers(0, 300, 12))[::-1]
        sum_p[-2:] = 0
        sum_r = int(rng.integers(200, 500))
        found = np.minimum(sum_p, sum_r) * rng.random(12)
        correct = sum_p * rng.random(12)
        stats.append(
            {
                "cnt_r": found.astype(int).tolist(),
                "sum_r": sum_r,
                "cnt_p": correct.astype(int).tolist(),
                "sum_p": sum_p.tolist(),
            }
        )
    assert summarise(stats) == pytest.approx(oracle.summary(stats), abs=1e-12)


def test_ods_lies_between_two_thresholds():
    stats = [{"cnt_r": [100, 20], "sum_r": 100, "cnt_p": [20, 20], "sum_p": [100, 20]}]
    scores = summarise(stats)
    assert scores["f_ois"] == pytest.approx(1 / 3)
    assert scores["f_ods"] == pytest.approx(0.6, abs=1e-4)  # near recall = precision = .6


def test_perfect_contours_score_one_and_empty_ones_zero():
    line = np.zeros((30, 30), np.bool_)
    line[4:26, 9] = True
    perfect = summarise([score_contours([line, line], [line])])
    assert perfect["f_ods"] == perfect["f_ois"] == 1
    assert perfect["f_ap"] == 0  # a curve of one recall has no area, as in the benchmark
    empty = summarise([score_contours([np.zeros_like(line)], [line])])
    assert empty == {"f_ods": 0, "f_ois": 0, "f_ap": 0}
    without_truth = summarise([score_contours([line], [np.zeros_like(line)])])
    assert without_truth == {"f_ods": None, "f_ois": None, "f_ap": None}


def test_every_pixel_of_a_full_border_map_is_matched():
    full = np.ones((40, 50), np.bool_)
    stats = score_contours([full], [full])
    assert stats["sum_p"] == [int(oracle.thin(full).sum())]
    assert stats["cnt_r"] == stats["cnt_p"] == stats["sum_p"]  # each line pixel has a partner


def test_bad_input_raises_an_input_error():
    line = np.eye(6, dtype=np.bool_)
    with pytest.raises(InputError, match="one shape"):
        match(line, line[:3], 1.0)
    with pytest.raises(InputError, match="at least 0"):
        match(line, line, float("nan"))
    with pytest.raises(InputError, match="annotators"):
        score_contours([line], [])
    with pytest.raises(InputError, match="like the ground truth"):
        score_contours([line[:3]], [line])
    with pytest.raises(InputError, match="one or more thresholds"):
        score_contours([], [line])
    with pytest.raises(InputError, match="tolerance"):
        score_contours([line], [line], tolerance=-TOLERANCE)
    with pytest.raises(InputError, match="at least one image"):
        summarise([])
    with pytest.raises(InputError, match="equally many"):
        summarise([score_contours([line], [line]), score_contours([line, line], [line])])
