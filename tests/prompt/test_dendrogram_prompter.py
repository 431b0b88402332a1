"""The seeded cut of a dendrogram against all labellings, and planted strips."""

from __future__ import annotations

import time

import numpy as np
import pytest

from masktree import PartitionTree, Predictor
from masktree.prompt.dendrogram_prompter import minimum_cuts
from tests.oracles import prompts as oracle
from tests.prompt.planted import STRIPS, box, random_tree, strips


def ask(tree, points, labels, **options):
    return Predictor(tree, num_multimask_outputs=6).predict(np.array(points), np.array(labels), **options)


def test_the_minimum_cut_equals_exhaustive_search(rng):
    for _ in range(40):
        n = int(rng.integers(2, 6))
        parents = random_tree(rng, n).parents.astype(np.int64)
        m = len(parents)
        costs = rng.random(m) * 5
        seeds = {int(leaf): int(rng.integers(2)) for leaf in rng.permutation(n)[: rng.integers(1, n + 1)]}
        sides = np.full(m, -1, np.int8)
        sides[list(seeds)] = list(seeds.values())
        energies, inside = minimum_cuts(parents, costs, sides, np.arange(m))
        for top in range(m):
            minimum = oracle.least_cut(parents, costs, seeds, top)
            if np.isinf(minimum):
                assert energies[top] > 1e5
                continue
            assert energies[top] == pytest.approx(minimum, abs=1e-6)
            above = [False if i == m - 1 else inside[top][parents[i]] for i in range(m)]
            assert costs[inside[top] != above].sum() == pytest.approx(minimum)
            assert inside[top][top]
            assert not above[top]
            assert all(inside[top][i] == side for i, side in seeds.items())


def test_masks_satisfy_all_clicks(rng):
    for _ in range(20):
        tree = random_tree(rng, 12)
        pixels = rng.permutation(12 * 16)[:6]
        y, x = np.divmod(pixels, 16)
        labels = np.array([1, *rng.integers(0, 2, 5)])
        masks, scores, low = ask(tree, np.stack([x, y], 1), labels)
        assert (masks[:, y, x] == (labels == 1)).all()
        assert ((scores >= 0) & (scores <= 1)).all()
        assert len(low) == len(masks) == len(scores) <= 6


def test_one_click_gives_the_nodes_above_it():
    masks, scores, _ = ask(strips(), [[3, 3]], [1])
    assert np.array_equal(masks[0], STRIPS[0] | STRIPS[1])  # the most persistent
    assert {int(mask.sum()) for mask in masks} == {600, 1200, 2400}
    assert scores.argmax() == 0
    one, _, _ = ask(strips(), [[3, 3]], [1], multimask_output=False)
    assert np.array_equal(one, masks[:1])


def test_of_nodes_around_a_click_the_most_persistent_is_first_not_the_largest():
    # .45 and .35; times the square roots of the areas it would be the other way around
    tree = strips((0.45, 0.5, 0.8))
    assert np.array_equal(ask(tree, [[3, 3]], [1])[0][0], STRIPS[0])
    for edges, inside in (([0, 0, 30, 40], STRIPS[0] | STRIPS[1]), ([0, 0, 15, 40], STRIPS[0])):
        assert np.array_equal(ask(tree, [[3, 3]], [1], box=edges)[0][0], inside)


def test_a_click_outside_takes_a_node_away():
    masks, _, _ = ask(strips(), [[3, 3], [20, 3]], [1, 0])
    assert np.array_equal(masks[0], STRIPS[0])
    masks, _, _ = ask(strips((0.1, 0.6, 0.7)), [[3, 3], [50, 3], [35, 3]], [1, 0, 1])
    assert np.array_equal(masks[0], STRIPS[0] | STRIPS[1] | STRIPS[2])  # the image without one strip


def test_two_clicks_inside_give_a_union_or_an_ancestor():
    apart, _, _ = ask(strips((0.01, 0.02, 0.9)), [[3, 3], [50, 3]], [1, 1])
    assert np.array_equal(apart[0], np.ones((40, 60), bool))
    union, _, _ = ask(strips((0.8, 0.8, 0.9)), [[3, 3], [50, 3]], [1, 1], multimask_output=True)
    assert any(np.array_equal(mask, STRIPS[0] | STRIPS[3]) for mask in union)


def test_a_leaf_that_is_clicked_as_both_is_divided():
    masks, _, _ = ask(strips(), [[2, 20], [12, 20]], [1, 0])
    assert masks[0][20, 2]
    assert not masks[0][20, 12]
    assert masks[0][:, :7].all()  # nearer to the click inside
    assert not masks[0][:, 8:15].any()


def test_the_box_and_the_mask_of_a_node_find_it():
    tree = strips()
    for node, expected in enumerate([*STRIPS, STRIPS[0] | STRIPS[1], STRIPS[2] | STRIPS[3]]):
        columns = np.flatnonzero(expected.any(0))
        edges = [columns[0], 0, columns[-1] + 1, 40]
        masks, scores, low = Predictor(tree).predict(box=edges)
        assert np.array_equal(masks[0], expected), node
        repeated, _, _ = Predictor(tree).predict(mask_input=low[:1], multimask_output=False)
        assert np.array_equal(repeated[0], expected), node
        assert scores[0] > 0.9
    masks, _, _ = Predictor(tree).predict(box=[0, 0, 30, 40], point_coords=[[20, 3]], point_labels=[0])
    assert np.array_equal(masks[0], STRIPS[0])


def test_the_mask_for_a_box_lies_inside_it():
    leaves = np.repeat(np.arange(4, dtype=np.int32), (20, 20, 4, 16))[None].repeat(40, axis=0)
    tree = PartitionTree.from_merges(leaves, np.array([[1, 2], [0, 4], [3, 5]]), np.array([0.1, 0.2, 0.9]))
    masks, _, _ = Predictor(tree).predict(box=[0, 0, 40, 40])
    assert np.array_equal(masks[0], box(0, 0, 40, 40))  # without the leaf of four columns that hangs on it


def test_an_earlier_mask_determines_the_granularity():
    tree = strips()
    masks, _, low = ask(tree, [[3, 3]], [1])
    for mask, logits in zip(masks, low, strict=True):
        repeated, _, _ = ask(tree, [[3, 3]], [1], mask_input=logits[None], multimask_output=False)
        assert np.array_equal(repeated[0], mask)


def test_granularities_run_from_the_leaf_to_the_largest_node():
    areas = [int(ask(strips(), [[3, 3]], [1], granularity=g)[0].sum()) for g in np.linspace(0.1, 1, 10)]
    assert areas == sorted(areas)
    assert areas[0] == 600
    assert areas[-1] >= 1200
    assert ask(strips(), [[3, 3]], [1], granularity=0.1)[0].shape == (1, 40, 60)


def test_a_single_leaf_and_altitudes_above_one():
    single = PartitionTree(np.zeros((5, 7), np.int32), np.zeros(1, np.int32), np.zeros(1))
    masks, scores, _ = ask(single, [[3, 3]], [1])
    assert masks.all()
    assert scores.tolist() == [1] * 6
    masks, scores, _ = Predictor(single).predict([[3, 3]], [0], box=[0, 0, 7, 5])
    assert not masks.any()  # nothing obeys the click
    assert not scores.any()
    scaled = ask(strips((0.4, 0.6, 1.8)), [[3, 3]], [1])[0]
    assert np.array_equal(scaled[0], ask(strips((0.4 / 1.8, 0.6 / 1.8, 1.0)), [[3, 3]], [1])[0][0])


def test_twenty_clicks_on_a_deep_tree_are_fast(rng):
    n = 3000
    leaves = np.arange(n, dtype=np.int32).reshape(50, 60).repeat(12, 0).repeat(12, 1)
    chain = np.stack([np.concatenate([[0], np.arange(n, 2 * n - 2)]), np.arange(1, n)], 1)
    tree = PartitionTree.from_merges(leaves, np.sort(chain, 1), np.linspace(0.1, 1, n - 1))
    predictor = Predictor(tree)
    points, labels = rng.integers(0, 600, (20, 2)), np.array([1, *rng.integers(0, 2, 19)])
    predictor.predict(points[:2], labels[:2])
    start = time.process_time()
    masks, _, _ = predictor.predict(points, labels)
    assert time.process_time() - start < 5
    x, y = points.T
    assert (masks[0][y, x] == (labels == 1)).all()
