import numpy as np
import pytest
import torch

from masktree.models.mask2former import losses
from masktree.models.mask2former.losses import LossPoints, assign, pair_costs
from tests.oracles import mask_losses as oracle
from tests.oracles import matching

CPU = torch.device("cpu")


@pytest.fixture
def points() -> LossPoints:
    return LossPoints.draw(40, 3, CPU)


def test_points_are_the_same_for_a_seed_and_lie_in_the_image(points):
    again, other = LossPoints.draw(40, 3, CPU), LossPoints.draw(40, 4, CPU)
    assert torch.equal(points.all, again.all)
    assert not torch.equal(points.all, other.all)
    assert points.uniform.shape == (40, 2)
    assert points.candidates.shape == (120, 2)
    assert points.all.min() >= 0
    assert points.all.max() < 1


def test_points_leave_the_global_generator_alone(points):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    LossPoints.draw(10, 1, CPU)
    assert torch.equal(torch.rand(3), expected)


def test_sampled_map_is_the_bilinear_interpolation(points):
    grid = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    sampled = losses.sample_features(grid, points.all)
    expected = [[oracle.bilinear(plane, *xy) for xy in points.all.tolist()] for plane in grid.numpy()]
    assert torch.allclose(sampled, torch.tensor(expected, dtype=torch.float32), atol=1e-5)


def test_sampled_masks_are_the_pixels_under_the_points(points):
    masks = torch.rand(4, 6, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    sampled = losses.sample_masks(masks, points.all)
    for k, (x, y) in enumerate(points.all.tolist()):
        assert torch.equal(sampled[:, k], masks[:, int(y * 6), int(x * 9)])


def test_a_point_just_below_one_is_in_the_last_pixel():
    almost = torch.full((1, 2), float(np.nextafter(np.float32(1), np.float32(0))))
    masks = torch.zeros(1, 4097, 4097, dtype=torch.bool)
    masks[0, -1, -1] = True
    assert losses.sample_masks(masks, almost).all()


def test_three_quarters_of_the_points_are_the_least_sure(points):
    logits = torch.randn(3, 160, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(3 * 160).view(3, 160) % 2 == 0
    taken, wanted = losses.select_loss_points(logits, targets, points)
    assert taken.shape == wanted.shape == (3, 40)
    assert torch.equal(taken[:, :10], logits[:, :10])
    for row, all_logits in zip(taken[:, 10:], logits[:, 40:], strict=True):
        expected = sorted(all_logits.tolist(), key=abs)[:30]
        assert sorted(row.tolist(), key=abs) == expected
    by_logit = dict(zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True))
    assert [by_logit[x] for x in taken.flatten().tolist()] == wanted.bool().flatten().tolist()


def test_shared_candidates_give_each_mask_points_at_its_own_border():
    points = LossPoints.draw(400, 0, CPU)
    x = points.all[:, 0]
    logits = torch.stack([100 * (x - 0.2), 100 * (x - 0.8)])
    marked, _ = losses.select_loss_points(logits, torch.zeros(2, 1600, dtype=torch.bool), points)
    assert (marked[:, 100:].abs() < 20).all()  # within a fifth of the width: 3 / 4 of 400 points among 1200
    assert marked[:, :100].abs().max() > 60


@pytest.mark.parametrize("shift", [0.0, 30.0, -30.0])
def test_mask_and_dice_loss_by_definition(shift):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(3, 25)) + shift, rng.random((3, 25)) < 0.4
    bce = losses.mask_loss(torch.tensor(logits), torch.tensor(targets).double())
    dice = losses.dice_loss(torch.tensor(logits), torch.tensor(targets).double())
    for k in range(3):
        assert bce[k] == pytest.approx(oracle.mask_loss(logits[k], targets[k]), rel=1e-4)
        assert dice[k] == pytest.approx(oracle.dice_loss(logits[k], targets[k]), rel=1e-9)


def test_dice_of_a_perfect_and_of_an_empty_mask():
    targets = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(losses.dice_loss(200 * (targets - 0.5), targets), torch.zeros(2), atol=1e-6)


def test_class_loss_by_definition():
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for matched in ([], [0], [1, 4, 5]):
        loss = losses.class_loss(logits, torch.tensor(matched, dtype=torch.long), 0.1)
        assert float(loss) == pytest.approx(oracle.class_loss(logits.tolist(), matched, 0.1), rel=1e-9)


def test_no_masks_have_no_losses(points):
    none, nothing = torch.zeros(0, 160, requires_grad=True), torch.zeros(0, 160, dtype=torch.bool)
    taken, wanted = losses.select_loss_points(none, nothing, points)
    assert losses.mask_loss(taken, wanted).sum() == 0
    assert losses.dice_loss(taken, wanted).sum() == 0
    assert losses.sample_masks(torch.zeros(0, 8, 8, dtype=torch.bool), points.all).shape == (0, 160)


# --- matching -------------------------------------------------------------------------------------------------------

WEIGHTS = (2.0, 5.0, 5.0)  # of class, cross-entropy and dice


def test_costs_by_definition():
    generator = torch.Generator().manual_seed(0)
    entity = torch.randn(5, 2, generator=generator)
    logits = 3 * torch.randn(5, 30, generator=generator)
    targets = (torch.rand(3, 30, generator=generator) < 0.3).float()
    costs = pair_costs(entity, logits, targets, WEIGHTS)
    assert costs.shape == (5, 3)
    for q in range(5):
        for n in range(3):
            expected = matching.pair_cost(entity[q].tolist(), logits[q].tolist(), targets[n].tolist(), WEIGHTS)
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
        assert cost[rows, columns].sum() == pytest.approx(matching.least_cost(cost), abs=1e-5)


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
