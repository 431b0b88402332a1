import numpy as np
import pytest
import torch

from masktree.models.mask2former.matching import assign, pair_costs
from tests.oracles import matching as oracle

WEIGHTS = (2.0, 5.0, 5.0)


def test_costs_by_definition():
    generator = torch.Generator().manual_seed(0)
    entity = torch.randn(5, 2, generator=generator)
    logits = 3 * torch.randn(5, 30, generator=generator)
    targets = (torch.rand(3, 30, generator=generator) < 0.3).float()
    costs = pair_costs(entity, logits, targets, WEIGHTS)
    assert costs.shape == (5, 3)
    for q in range(5):
        for n in range(3):
            expected = oracle.pair_cost(entity[q].tolist(), logits[q].tolist(), targets[n].tolist(), WEIGHTS)
            assert float(costs[q, n]) == pytest.approx(expected, rel=1e-4)


def test_costs_of_extreme_logits_are_finite():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    assert pair_costs(torch.zeros(2, 2), logits, torch.eye(2), WEIGHTS).isfinite().all()


@pytest.mark.parametrize(("queries", "masks"), [(5, 3), (4, 4), (3, 5), (6, 1), (1, 1)])
def test_assignment_is_the_cheapest_of_all(queries, masks):
    costs = np.random.default_rng(queries).normal(size=(4, queries, masks))
    found = assign(torch.tensor(costs))
    assert len(found) == 4
    for cost, (rows, columns) in zip(costs, found, strict=True):
        assert len(set(rows.tolist())) == len(set(columns.tolist())) == min(queries, masks)
        assert cost[rows, columns].sum() == pytest.approx(oracle.least_cost(cost), abs=1e-5)


def test_planted_pairs_are_found_in_any_order():
    masks = torch.eye(6).repeat_interleave(5, dim=1)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    logits = torch.cat([torch.zeros(4, 30), 10 * (2 * masks[order] - 1)])
    ((rows, columns),) = assign(pair_costs(torch.zeros(10, 2), logits, masks, WEIGHTS)[None])
    assert (rows >= 4).all()
    assert torch.equal(columns, order[rows - 4])


def test_no_masks_no_pairs():
    found = assign(torch.zeros(2, 7, 0))
    assert [(len(rows), len(columns)) for rows, columns in found] == [(0, 0), (0, 0)]


def test_costs_that_are_no_numbers_still_give_an_assignment():
    costs = torch.zeros(1, 4, 2)
    costs[0, 0] = torch.nan
    costs[0, 1] = torch.inf
    ((rows, _),) = assign(costs)
    assert sorted(rows.tolist()) == [2, 3]
