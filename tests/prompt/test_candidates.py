"""Choice of answers against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.prompt.candidates import (
    Candidates,
    click_costs,
    iou_with_mask,
    pairwise_intersections,
    rank_candidates,
    relative_granularities,
    select_masks,
)
from masktree.prompt.prompt import Prompt
from tests.oracles import prompts as oracle


def candidates(rng, k=8, a=40):
    inside = rng.random((k, a)) < rng.random((k, 1))
    inside[:, 0] = True
    weights = rng.integers(1, 5, a).astype(float)
    return Candidates(inside, weights, rng.random(k) * 4, np.ones(k))


def dense(known):
    return [np.repeat(region, known.segment_areas.astype(int)) for region in known.membership]


def test_scores_and_choice_equal_the_definition(rng):
    for _ in range(20):
        known = candidates(rng)
        order, scores = rank_candidates(known, 4, None)
        regions = dense(known)
        expected = oracle.expected_ious(regions, known.costs)
        np.testing.assert_allclose(scores, expected[order], atol=1e-12)
        assert order[0] == expected.argmax()
        assert (np.diff(scores) <= 1e-12).all()
        assert set(order.tolist()) == set(oracle.best_set(regions, known.costs, 4))
        assert rank_candidates(known, 1, None)[0][0] == order[0]


def test_duplicate_candidates_are_returned_once():
    inside = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1]], bool)
    known = Candidates(inside, np.ones(3), np.zeros(3), np.ones(3))
    assert len(rank_candidates(known, 6, None)[0]) == 2


def test_a_larger_granularity_never_gives_a_smaller_area(rng):
    for _ in range(10):
        known = candidates(rng)
        areas = known.membership @ known.segment_areas
        chosen = [areas[rank_candidates(known, 1, g)[0][0]] for g in np.linspace(0.1, 1, 30)]
        assert chosen == sorted(chosen)
    flat = Candidates(known.membership, known.segment_areas, np.zeros(8), np.ones(8))
    assert areas[rank_candidates(flat, 1, 0.1)[0][0]] == areas.min()
    assert areas[rank_candidates(flat, 1, 1.0)[0][0]] == areas.max()


def test_relative_granularities_are_those_of_unsamv2():
    assert relative_granularities(np.array([4.0, 16.0, 9.0])) == pytest.approx([0.1, 1.0, 0.55])
    assert relative_granularities(np.array([4.0, 4.0])).tolist() == [1, 1]


def test_clicks_are_less_likely_for_larger_targets():
    areas = np.array([1.0, 16.0, 400.0])
    for labels in ([1], [0, 1]):
        clicks = Prompt.read((30, 40), [[5, 5], [9, 9]][: len(labels)], labels)
        assert np.exp(-click_costs(clicks, areas)) == pytest.approx([1, 1 / 4, 1 / 20])
    for sized in ({"box": [0, 0, 20, 20]}, {"mask_input": np.ones((1, 256, 256), np.float32)}, {"granularity": 0.3}):
        assert click_costs(Prompt.read((30, 40), [[5, 5]], [1], **sized), areas).tolist() == [0, 0, 0]
    assert click_costs(Prompt.read((30, 40), [[5, 5]], [0], [0, 0, 20, 20]), areas).tolist() == [0, 0, 0]


def test_no_candidates_give_one_empty_mask():
    nothing = Candidates(np.zeros((0, 3), bool), np.ones(3), np.zeros(0), np.zeros(0))
    masks, scores, low = select_masks(nothing, lambda region: region, (3, 4), 6, None)
    assert masks.shape == (1, 3, 4)
    assert not masks.any()
    assert scores.tolist() == [0]
    assert (low < 0).all()


def test_intersections_and_ious_equal_those_of_dense_regions(rng):
    known = candidates(rng, a=2**16 + 70)
    computed = pairwise_intersections(known.membership, known.membership[:2], known.segment_areas)
    np.testing.assert_allclose(
        computed, (known.membership * known.segment_areas) @ known.membership[:2].T.astype(float)
    )
    covered = known.membership[3] * known.segment_areas
    ious = iou_with_mask(known.membership, known.segment_areas, covered, covered.sum())
    assert ious[3] == 1
    assert ious[0] == pytest.approx(
        ((known.membership[0] & known.membership[3]) @ known.segment_areas)
        / ((known.membership[0] | known.membership[3]) @ known.segment_areas)
    )
