"""Simulated prompts, and the losses of predictions for them."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from masktree.models.mask2former.losses import LossPoints, sample_masks
from masktree.models.promptable.box_losses import PromptBoxes, normalised_boxes
from masktree.models.promptable.losses import best_mask_index, mask_ious, multimask_losses, target_mask_losses
from masktree.models.promptable.simulated_prompts import (
    PromptBatch,
    draw_boxes,
    draw_points,
    draw_targets,
    relative_granularities,
    select_diverse_areas,
)
from masktree.models.structures import Targets
from tests.oracles import clicks as oracle
from tests.oracles import mask_losses, released

SIDE = 64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def targets() -> Targets:
    """A whole, its part, that one's part; and another whole without parts."""
    masks = torch.zeros(4, SIDE, SIDE, dtype=torch.bool)
    masks[0, 4:40, 4:40] = True
    masks[1, 8:28, 8:28] = True
    masks[2, 10:16, 10:16] = True
    masks[3, 44:60, 8:60] = True
    return Targets(masks, torch.tensor([-1, 0, 1, -1]), torch.tensor([0, 1, 2, 0]))


# --- drawing --------------------------------------------------------------------------------------------------------


def test_granularity_is_the_published_one():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 30):
        areas = rng.integers(1, 5000, n)
        parents = np.array([rng.integers(-1, i) if i else -1 for i in range(n)])
        got = relative_granularities(torch.tensor(areas), torch.tensor(parents))
        assert got.tolist() == pytest.approx(oracle.granularity(areas.tolist(), parents.tolist()), abs=1e-6)
        assert got.min() >= 0.1
        assert got.max() <= 1
    assert relative_granularities(torch.tensor([9, 9]), torch.tensor([-1, 0])).tolist() == [1, 1]


def test_all_sizes_are_drawn_equally():
    areas = torch.tensor([16] * 30 + [100] * 2 + [5000])
    drawn = draw_targets(areas, 6000, seeded())
    shares = [(drawn < 30).float().mean(), ((drawn >= 30) & (drawn < 32)).float().mean(), (drawn == 32).float().mean()]
    assert [float(share) for share in shares] == pytest.approx([1 / 3] * 3, abs=0.03)
    assert len(drawn.unique()) == 33
    assert draw_targets(torch.tensor([1]), 3, seeded()).tolist() == [0, 0, 0]


def test_points_lie_in_their_masks_half_of_them_near_the_centre(targets):
    which = torch.tensor([0, 1, 2, 3]).repeat(200)
    points = draw_points(targets.masks, which, seeded())
    x, y = points.long().unbind(1)
    assert targets.masks[which, y, x].all()
    assert torch.equal(points % 1, torch.full_like(points, 0.5))
    far = (points[which == 0] - 22).abs().amax(1)
    assert 0.4 < (far < 9).float().mean() < 0.8  # a quarter of the mask has about a quarter of the other half
    assert far.max() > 15
    assert torch.equal(points, draw_points(targets.masks, which, seeded()))


def test_boxes_are_those_of_the_masks_plus_noise(targets):
    which = torch.tensor([0, 2, 3]).repeat(100)
    boxes = draw_boxes(targets.masks, which, seeded())
    exact = torch.tensor([[4, 4, 40, 40], [10, 10, 16, 16], [8, 44, 60, 60]]).float().repeat(100, 1)
    sides = (exact[:, 2:] - exact[:, :2]).repeat(1, 2)
    assert ((boxes - exact).abs() <= sides / 4 + 1e-4).all()
    assert ((boxes - exact) / sides).std() == pytest.approx(0.1, abs=0.02)
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 1
    assert boxes.min() >= 0
    assert boxes.max() <= SIDE


def test_candidates_of_most_diverse_areas_are_selected():
    rng = np.random.default_rng(1)
    for n in (1, 5, 6, 7, 12, 40):
        areas = rng.integers(1, 10_000, n)
        candidate_masks = torch.ones(1, n, dtype=torch.bool)
        index, exists = select_diverse_areas(candidate_masks, torch.tensor(areas), 6)
        assert index[exists].tolist() == oracle.most_different(areas.tolist(), 6)
    index, exists = select_diverse_areas(
        torch.tensor([[False, True, False], [True, True, True]]), torch.tensor([5, 5, 5]), 2
    )
    assert index[0, 0] == 1
    assert exists.tolist() == [[True, False], [True, True]]
    assert index[1].tolist() == [0, 1]


def test_prompt_batches_are_consistent_with_the_masks(targets):
    prompt_batch = PromptBatch.draw(targets, 100, seeded())
    prompts, boxed = prompt_batch.prompts, ~prompt_batch.prompts.boxes.isnan().any(1)
    assert len(prompts) == len(prompt_batch.targets) == 200
    assert prompt_batch.is_ambiguous.tolist() == [False] * 100 + [True] * 100
    assert torch.equal(prompts.granularity.isnan(), prompt_batch.is_ambiguous)
    assert torch.equal(prompt_batch.has_single_target, boxed | ~prompt_batch.is_ambiguous)
    assert 0.15 < boxed.float().mean() < 0.35
    assert torch.equal(prompts.labels[:, 0], torch.where(boxed, -1, 1))
    g = oracle.granularity(targets.masks.sum((1, 2)).tolist(), targets.parents.tolist())
    background = 0
    for i in range(200):
        x, y = prompts.points[i, 0].long().tolist()
        inside = targets.masks[:, y, x].tolist()
        own = int(prompt_batch.targets[i])
        if not any(inside):
            background += 1
            assert prompt_batch.is_ambiguous[i]
            assert not boxed[i]
            assert not prompt_batch.candidate_masks[i].any()
            continue
        assert inside[own]
        assert prompt_batch.candidate_masks[i].tolist() == ([k == own for k in range(4)] if boxed[i] else inside)
        if not prompt_batch.is_ambiguous[i]:
            assert prompts.granularity[i] == pytest.approx(g[own])
    assert (
        0.1 < background / (prompt_batch.is_ambiguous & ~boxed).sum() < 0.4
    )  # half of the image is background, at most a quarter is asked


def test_without_background_every_click_has_candidates(targets):
    masks = torch.cat([targets.masks, ~targets.masks.any(0, keepdim=True)])
    whole = Targets(masks, torch.tensor([-1, 0, 1, -1, -1]), torch.tensor([0, 1, 2, 0, 0]))
    assert PromptBatch.draw(whole, 100, seeded()).candidate_masks.any(1).all()


def test_correction_clicks_lie_where_the_prediction_is_wrong(targets):
    first = PromptBatch.draw(targets, 40, seeded())
    points = torch.rand(4000, 2, generator=seeded(3))
    point_targets = sample_masks(targets.masks, points)
    answers = torch.randn(80, 16, 16, generator=seeded(4))
    inside = torch.rand(80, 4000, generator=seeded(5)) < 0.3
    inside[7] = point_targets[first.targets[7]]  # wrong nowhere
    second = first.add_correction_clicks(answers, inside, point_targets, points, seeded(6))
    known = first.candidate_masks.any(1)
    assert 0 < (~known).sum() < 20
    assert torch.equal(second.has_single_target, known)
    assert (second.prompts.labels[~known, 1] == -1).all()  # where no mask is meant nothing can be clicked right
    assert not second.candidate_masks[~known].any()
    alone = second.prompts.masks.isnan().all((1, 2))
    assert torch.equal(second.prompts.masks[~alone], answers[~alone])
    assert 0.3 < alone[known].float().mean() < 0.7
    assert not alone[~known].any()
    assert not alone[7]  # without a click and without the answer the question would be another one
    assert second.prompts.points.shape == (80, 2, 2)
    assert second.prompts.labels[7, 1] == -1
    assert torch.equal(second.candidate_masks[7], first.candidate_masks[7])
    for i in [k for k in range(80) if k != 7 and known[k]]:
        at = (points * SIDE - second.prompts.points[i, 1]).abs().sum(1).argmin()
        label = bool(second.prompts.labels[i, 1])
        own = first.targets[i]
        assert inside[i, at] != point_targets[own, at] == label
        assert (
            second.candidate_masks[i].tolist() == (first.candidate_masks[i] & (point_targets[:, at] == label)).tolist()
        )
        assert second.candidate_masks[i, own]
    dropped = second.prompts.granularity[:40].isnan().float().mean()
    assert 0.25 < dropped < 0.75
    assert second.prompts.granularity[40:].isnan().all()


# --- losses --------------------------------------------------------------------------------------------------------


def random_predictions(targets: Targets, count: int = 5, seed: int = 0):
    points = LossPoints.draw(40, seed, torch.device("cpu"))
    point_targets = sample_masks(targets.masks, points.all)
    prompt_batch = PromptBatch.draw(targets, count, seeded(seed))
    logits = 3 * torch.randn(2 * count, 7, len(points.all), generator=seeded(seed + 1))
    ious = torch.rand(2 * count, 7, generator=seeded(seed + 2))
    return points, point_targets, prompt_batch, logits, ious, targets.masks.sum((1, 2))


def at_points(row: torch.Tensor, mask: torch.Tensor, points: LossPoints) -> tuple[list[float], list[bool]]:
    """The points that a mask is trained on: three quarters of the uniform ones are replaced by the most uncertain
    candidates."""
    num_uniform = len(points.uniform)
    num_uncertain = int(0.75 * num_uniform)
    doubtful = num_uniform + row[num_uniform:].abs().argsort()[:num_uncertain]
    index = torch.cat([torch.arange(num_uniform - num_uncertain), doubtful])
    return row[index].tolist(), mask[index].tolist()


def test_target_mask_losses_equal_the_definition(targets):
    points, point_targets, prompt_batch, logits, ious, _ = random_predictions(targets)
    rows = []
    for i in range(len(prompt_batch.targets)):
        if not prompt_batch.has_single_target[i]:
            continue
        mask = point_targets[prompt_batch.targets[i]]
        own = at_points(logits[i, 0], mask, points)
        error = float(ious[i, 0]) - oracle.iou((logits[i, 0] > 0).tolist(), mask.tolist())
        rows.append([mask_losses.mask_loss(*own), mask_losses.dice_loss(*own), error**2])
    got = target_mask_losses(logits, ious, prompt_batch, point_targets, points)
    assert got.tolist() == pytest.approx(np.mean(rows, 0).tolist(), rel=1e-4)


@pytest.mark.parametrize("has_boxes", [False, True])
def test_multimask_losses_equal_the_definition(targets, has_boxes):
    points, point_targets, prompt_batch, logits, ious, areas = random_predictions(targets, seed=3)
    draw = torch.Generator().manual_seed(1)
    boxes = PromptBoxes(0.1 + 0.8 * torch.rand(*logits.shape[:2], 4, generator=draw), normalised_boxes(targets.masks))
    pairs, errors = [], []
    num_uniform = len(points.uniform)
    for i in range(len(prompt_batch.targets)):
        if not prompt_batch.is_ambiguous[i]:
            continue
        meant = prompt_batch.candidate_masks[i].nonzero()[:, 0].tolist()
        own = logits[i, 1:]

        def cost(k, m, own=own):
            at = own[k, :num_uniform].tolist(), point_targets[m, :num_uniform].tolist()
            total = 5 * mask_losses.mask_loss(*at) + 5 * mask_losses.dice_loss(*at)
            return total + (released.box_cost(*box_pair(k, m)) if has_boxes else 0)

        def box_pair(k, m, i=i):
            return tuple(boxes.predicted[i, 1 + k].tolist()), tuple(boxes.targets[m].tolist())

        costs = {(k, m): cost(k, m) for k in range(6) for m in meant}
        best = min(
            permutations(range(6), len(meant)),
            key=lambda order: sum(costs[k, m] for k, m in zip(order, meant, strict=True)),
        )
        matched = dict(zip(best, meant, strict=True))
        for k in range(6):
            inside = (own[k] > 0).tolist()
            every = {m: oracle.iou(inside, point_targets[m].tolist()) for m in meant}
            true = every[matched[k]] if k in matched else max(every.values(), default=0.0)  # a click where no mask is
            errors.append((float(ious[i, 1 + k]) - true) ** 2)
            if k in matched:
                at = at_points(own[k], point_targets[matched[k]], points)
                a, b = box_pair(k, matched[k])
                distance = sum(abs(x - y) for x, y in zip(a, b, strict=True))
                pairs.append([mask_losses.mask_loss(*at), mask_losses.dice_loss(*at)])
                pairs[-1] += [distance, 1 - released.generalised_iou(a, b)]
    means = np.mean(pairs, 0).tolist()
    wanted = [*means[:2], np.mean(errors), *(means[2:] if has_boxes else [])]
    given = (boxes,) if has_boxes else ()
    got = multimask_losses(logits, ious, prompt_batch, point_targets, points, areas, *given)
    assert got.tolist() == pytest.approx(wanted, rel=1e-4)


def test_background_clicks_train_an_iou_of_0(targets):
    points, point_targets, prompt_batch, logits, _, areas = random_predictions(targets)
    nothing = replace(prompt_batch, candidate_masks=prompt_batch.candidate_masks & False)
    for known, expected in ((0.0, 0.0), (0.5, 0.25)):
        got = multimask_losses(logits, torch.full(logits.shape[:2], known), nothing, point_targets, points, areas)
        assert got.tolist() == [0, 0, expected]


def test_ambiguous_prompts_have_no_target_mask_loss(targets):
    points, point_targets, prompt_batch, logits, ious, _ = random_predictions(targets)
    logits.requires_grad_(True)
    none = PromptBatch(
        prompt_batch.prompts,
        prompt_batch.targets,
        prompt_batch.has_single_target & False,
        prompt_batch.is_ambiguous,
        prompt_batch.candidate_masks,
    )
    got = target_mask_losses(logits, ious, none, point_targets, points)
    got.sum().backward()
    assert got.tolist() == [0, 0, 0]
    assert logits.grad.abs().sum() == 0


def test_correction_clicks_follow_the_best_mask(targets):
    _, point_targets, prompt_batch, logits, _, _ = random_predictions(targets, count=8)
    best = best_mask_index(logits, prompt_batch, point_targets)
    for i, number in enumerate(best.tolist()):
        if prompt_batch.has_single_target[i]:
            assert number == 0
        else:
            mask = point_targets[prompt_batch.targets[i]].tolist()
            ious = [oracle.iou((logits[i, k] > 0).tolist(), mask) for k in range(1, 7)]
            assert ious[number - 1] == max(ious)
    assert (best[prompt_batch.has_single_target] == 0).all()
    assert (best[~prompt_batch.has_single_target] > 0).any()


def test_perfect_predictions_have_no_loss(targets):
    points, point_targets, prompt_batch, logits, ious, areas = random_predictions(targets)
    signed = torch.where(point_targets, 40.0, -40.0)
    logits = signed[prompt_batch.targets][:, None].repeat(1, 7, 1)
    for i in range(len(logits)):
        members = prompt_batch.candidate_masks[i].nonzero()[:, 0]
        logits[i, 1 : 1 + len(members)] = signed[members]
    ious = torch.ones_like(ious)
    # the smoothed dice of a mask without any point is 0 too
    assert target_mask_losses(logits, ious, prompt_batch, point_targets, points)[:2].tolist() == pytest.approx(
        [0, 0], abs=1e-4
    )
    assert multimask_losses(logits, ious, prompt_batch, point_targets, points, areas)[:2].tolist() == pytest.approx(
        [0, 0], abs=1e-4
    )


def test_iou_of_empty_masks_is_0():
    empty = torch.zeros(2, 5, dtype=torch.bool)
    assert mask_ious(empty, empty).tolist() == [0, 0]
    assert mask_ious(~empty, ~empty).tolist() == [1, 1]
