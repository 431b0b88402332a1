import numpy as np
import pytest
import torch

from masktree.errors import InputError
from masktree.models.mask2former.ancestors import (
    POSITIVE_WEIGHT,
    AncestorHead,
    ancestor_loss,
    ancestor_targets,
    parents_from_probabilities,
)
from masktree.trees.hierarchy import ancestors, depths
from tests.oracles import ancestors as oracle


def test_logits_by_definition():
    torch.manual_seed(0)
    head = AncestorHead(8).double()
    with torch.no_grad():
        head.bias.fill_(0.3)
    queries = torch.randn(2, 5, 8, dtype=torch.float64)
    found = head(queries).detach().numpy()
    u, v = head.descendant_proj.weight.detach().numpy(), head.ancestor_proj.weight.detach().numpy()
    for k in range(2):
        assert np.allclose(found[k], oracle.logits(queries[k].numpy(), u, v, 0.3))


def test_targets_are_the_transitive_closure():
    targets = ancestor_targets(torch.tensor([1, 2, -1, 2]))
    assert targets.nonzero().tolist() == [[0, 1], [0, 2], [1, 2], [3, 2]]
    assert ancestor_targets(torch.zeros(0, dtype=torch.long)).shape == (0, 0)


def test_targets_with_a_cycle_are_refused():
    with pytest.raises(InputError, match="cycle"):
        ancestor_targets(torch.tensor([1, 0]))


def test_loss_by_definition():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for parents in ([1, 2, -1, 2, 0, -1], [-1] * 6, [-1, 0, 1, 2, 3, 4]):
        targets = ancestor_targets(torch.tensor(parents))
        expected = oracle.loss(logits.tolist(), targets.tolist(), POSITIVE_WEIGHT)
        assert float(ancestor_loss(logits, targets)) == pytest.approx(expected)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_masks_have_no_loss(n):
    logits = torch.randn(n, n, requires_grad=True)
    loss = ancestor_loss(logits, torch.zeros(n, n, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_the_head_learns_a_forest():
    torch.manual_seed(0)
    parents = torch.tensor([1, 2, -1, 2, 3, -1, 5, 6])
    head, queries, targets = AncestorHead(16), torch.randn(8, 16), ancestor_targets(parents)
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(150):
        loss = ancestor_loss(head(queries), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    apart = ~torch.eye(8, dtype=torch.bool)  # a mask's relation to itself is not learned
    assert torch.equal((head(queries) > 0) & apart, targets)


# --- forest of the probabilities ------------------------------------------------------------------------------------


def a_forest(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Parents of any depth, and areas that grow towards the roots, in a random order."""
    parents = np.array([rng.integers(-1, i) if i else -1 for i in range(n)], np.int32)
    areas = np.zeros(n, np.int64)
    for i in reversed(range(n)):
        children = areas[parents == i]
        areas[i] = max(children, default=0) + rng.integers(1, 5)
    order = rng.permutation(n)
    place = np.argsort(order)
    return np.array([-1 if parents[k] < 0 else place[parents[k]] for k in order], np.int32), areas[order]


def test_a_planted_forest_comes_back(rng):
    for _ in range(30):
        parents, areas = a_forest(int(rng.integers(1, 40)), rng)
        closure = ancestors(parents)
        noisy = np.where(closure, rng.uniform(0.51, 1, closure.shape), rng.uniform(0, 0.49, closure.shape))
        assert np.array_equal(parents_from_probabilities(closure.astype(np.float32), areas), parents)
        assert np.array_equal(parents_from_probabilities(noisy, areas), parents)


def test_a_planted_chain_of_equal_areas_comes_back():
    parents = np.array([1, 2, 3, -1], np.int32)
    closure = ancestors(parents).astype(float)
    assert np.array_equal(parents_from_probabilities(closure, np.full(4, 7)), parents)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
def test_any_probabilities_give_the_forest_of_the_definition(threshold, rng):
    for trial in range(80):
        n = int(rng.integers(1, 14))
        values = rng.random((n, n)) if trial % 2 else rng.integers(0, 6, (n, n)) / 5  # ties
        areas = rng.integers(1, 8 if trial % 3 else 2, n)  # of equal areas there are cycles
        found = parents_from_probabilities(values, areas, threshold)
        assert depths(found).max() < n  # raises for a cycle
        assert found.tolist() == oracle.parents(values, areas, threshold)


def test_the_order_of_masks_does_not_matter():
    rng = np.random.default_rng(0)
    values, order = rng.random((30, 30)), rng.permutation(30)
    place = np.argsort(order)
    areas = rng.permutation(30)
    found = parents_from_probabilities(values, areas)
    moved = parents_from_probabilities(values[np.ix_(order, order)], areas[order])
    assert moved.tolist() == [-1 if found[k] < 0 else place[found[k]] for k in order]


def test_a_smaller_mask_is_no_ancestor():
    # part 0, object 1, scene 2; the object is thought to lie under its part as well
    values = np.array([[0, 0.9, 0.9], [0.95, 0, 0.8], [0, 0, 0]])
    assert parents_from_probabilities(values, np.array([10, 100, 1000])).tolist() == [1, 2, -1]


def test_a_cycle_is_cut_at_its_weakest_link_which_takes_the_next_ancestor():
    values = np.array([[0, 0.9, 0.9], [0.6, 0, 0.8], [0, 0, 0]])
    assert parents_from_probabilities(values, np.array([10, 10, 1000])).tolist() == [1, 2, -1]
    assert parents_from_probabilities(values[:2, :2], np.array([10, 10])).tolist() == [1, -1]


def test_many_masks_that_know_nothing():
    values = np.random.default_rng(0).random((600, 600), np.float32)
    for areas in (np.arange(600), np.ones(600)):
        found = parents_from_probabilities(values, areas)
        assert (depths(found) >= 0).all()
        assert (found >= 0).sum() > 500


def test_no_masks_and_values_that_are_no_numbers():
    assert len(parents_from_probabilities(np.zeros((0, 0)), np.zeros(0))) == 0
    assert parents_from_probabilities(np.full((3, 3), np.nan), np.arange(3)).tolist() == [-1, -1, -1]


def test_a_threshold_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"threshold in \[0, 1\); got 1.0"):
        parents_from_probabilities(np.zeros((2, 2)), np.zeros(2), 1.0)
