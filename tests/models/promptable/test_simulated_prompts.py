"""Where questions come from, and what their answers are taught."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from masktree.models.mask2former.losses import LossPoints, sample_masks
from masktree.models.promptable.losses import best_mask_index, mask_ious, multimask_losses, target_mask_losses
from masktree.models.promptable.simulated_prompts import (
    PromptBatch,
    draw_boxes,
    draw_points,
    draw_targets,
    granularities,
    pick,
)
from masktree.models.structures import Targets
from tests.oracles import clicks as oracle
from tests.oracles import mask_losses

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
        got = granularities(torch.tensor(areas), torch.tensor(parents))
        assert got.tolist() == pytest.approx(oracle.granularity(areas.tolist(), parents.tolist()), abs=1e-6)
        assert got.min() >= 0.1
        assert got.max() <= 1
    assert granularities(torch.tensor([9, 9]), torch.tensor([-1, 0])).tolist() == [1, 1]


def test_every_size_is_asked_about_alike():
    areas = torch.tensor([16] * 30 + [100] * 2 + [5000])
    drawn = draw_targets(areas, 6000, seeded())
    shares = [(drawn < 30).float().mean(), ((drawn >= 30) & (drawn < 32)).float().mean(), (drawn == 32).float().mean()]
    assert [float(share) for share in shares] == pytest.approx([1 / 3] * 3, abs=0.03)
    assert len(drawn.unique()) == 33
    assert draw_targets(torch.tensor([1]), 3, seeded()).tolist() == [0, 0, 0]


def test_points_lie_in_their_masks_and_half_of_them_in_the_middle(targets):
    which = torch.tensor([0, 1, 2, 3]).repeat(200)
    points = draw_points(targets.masks, which, seeded())
    x, y = points.long().unbind(1)
    assert targets.masks[which, y, x].all()
    assert torch.equal(points % 1, torch.full_like(points, 0.5))
    far = (points[which == 0] - 22).abs().amax(1)
    assert 0.4 < (far < 9).float().mean() < 0.8  # a quarter of the mask has about a quarter of the other half
    assert far.max() > 15
    assert torch.equal(points, draw_points(targets.masks, which, seeded()))


def test_boxes_are_those_of_the_masks_but_for_some_noise(targets):
    which = torch.tensor([0, 2, 3]).repeat(100)
    boxes = draw_boxes(targets.masks, which, seeded())
    exact = torch.tensor([[4, 4, 40, 40], [10, 10, 16, 16], [8, 44, 60, 60]]).float().repeat(100, 1)
    sides = (exact[:, 2:] - exact[:, :2]).repeat(1, 2)
    assert ((boxes - exact).abs() <= sides / 4 + 1e-4).all()
    assert ((boxes - exact) / sides).std() == pytest.approx(0.1, abs=0.02)
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 1
    assert boxes.min() >= 0
    assert boxes.max() <= SIDE


def test_of_many_masks_those_that_differ_most_are_learned():
    rng = np.random.default_rng(1)
    for n in (1, 5, 6, 7, 12, 40):
        areas = rng.integers(1, 10_000, n)
        candidate_masks = torch.ones(1, n, dtype=torch.bool)
        index, exists = pick(candidate_masks, torch.tensor(areas), 6)
        assert index[exists].tolist() == oracle.most_different(areas.tolist(), 6)
    index, exists = pick(torch.tensor([[False, True, False], [True, True, True]]), torch.tensor([5, 5, 5]), 2)
    assert index[0, 0] == 1
    assert exists.tolist() == [[True, False], [True, True]]
    assert index[1].tolist() == [0, 1]


def test_questions_mean_what_their_prompts_say(targets):
    questions = PromptBatch.draw(targets, 100, seeded())
    prompts, boxed = questions.prompts, ~questions.prompts.boxes.isnan().any(1)
    assert len(prompts) == len(questions.targets) == 200
    assert questions.open.tolist() == [False] * 100 + [True] * 100
    assert torch.equal(prompts.granularity.isnan(), questions.open)
    assert torch.equal(questions.single, boxed | ~questions.open)
    assert 0.15 < boxed.float().mean() < 0.35
    assert torch.equal(prompts.labels[:, 0], torch.where(boxed, -1, 1))
    g = oracle.granularity(targets.masks.sum((1, 2)).tolist(), targets.parents.tolist())
    background = 0
    for i in range(200):
        x, y = prompts.points[i, 0].long().tolist()
        inside = targets.masks[:, y, x].tolist()
        own = int(questions.targets[i])
        if not any(inside):
            background += 1
            assert questions.open[i]
            assert not boxed[i]
            assert not questions.candidate_masks[i].any()
            continue
        assert inside[own]
        assert questions.candidate_masks[i].tolist() == ([k == own for k in range(4)] if boxed[i] else inside)
        if not questions.open[i]:
            assert prompts.granularity[i] == pytest.approx(g[own])
    assert (
        0.1 < background / (questions.open & ~boxed).sum() < 0.4
    )  # half of the image is background, at most a quarter is asked


def test_where_masks_cover_everything_all_clicks_mean_one(targets):
    masks = torch.cat([targets.masks, ~targets.masks.any(0, keepdim=True)])
    whole = Targets(masks, torch.tensor([-1, 0, 1, -1, -1]), torch.tensor([0, 1, 2, 0, 0]))
    assert PromptBatch.draw(whole, 100, seeded()).candidate_masks.any(1).all()


def test_further_clicks_are_where_the_answer_is_wrong(targets):
    first = PromptBatch.draw(targets, 40, seeded())
    points = torch.rand(4000, 2, generator=seeded(3))
    wanted = sample_masks(targets.masks, points)
    answers = torch.randn(80, 16, 16, generator=seeded(4))
    inside = torch.rand(80, 4000, generator=seeded(5)) < 0.3
    inside[7] = wanted[first.targets[7]]  # wrong nowhere
    second = first.add_correction_clicks(answers, inside, wanted, points, seeded(6))
    known = first.candidate_masks.any(1)
    assert 0 < (~known).sum() < 20
    assert torch.equal(second.single, known)
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
        assert inside[i, at] != wanted[own, at] == label
        assert second.candidate_masks[i].tolist() == (first.candidate_masks[i] & (wanted[:, at] == label)).tolist()
        assert second.candidate_masks[i, own]
    dropped = second.prompts.granularity[:40].isnan().float().mean()
    assert 0.25 < dropped < 0.75
    assert second.prompts.granularity[40:].isnan().all()


# --- lessons --------------------------------------------------------------------------------------------------------


def lesson(targets: Targets, count: int = 5, seed: int = 0):
    points = LossPoints.draw(40, seed, torch.device("cpu"))
    wanted = sample_masks(targets.masks, points.all)
    questions = PromptBatch.draw(targets, count, seeded(seed))
    logits = 3 * torch.randn(2 * count, 7, len(points.all), generator=seeded(seed + 1))
    ious = torch.rand(2 * count, 7, generator=seeded(seed + 2))
    return points, wanted, questions, logits, ious, targets.masks.sum((1, 2))


def at_points(row: torch.Tensor, mask: torch.Tensor, points: LossPoints) -> tuple[list[float], list[bool]]:
    """Those that a mask learns from: the last quarter of the even ones is replaced by the least sure candidates."""
    even = len(points.uniform)
    sought = int(0.75 * even)
    doubtful = even + row[even:].abs().argsort()[:sought]
    index = torch.cat([torch.arange(even - sought), doubtful])
    return row[index].tolist(), mask[index].tolist()


def test_the_single_answer_learns_the_mask_that_was_meant(targets):
    points, wanted, questions, logits, ious, _ = lesson(targets)
    rows = []
    for i in range(len(questions.targets)):
        if not questions.single[i]:
            continue
        mask = wanted[questions.targets[i]]
        own = at_points(logits[i, 0], mask, points)
        error = float(ious[i, 0]) - oracle.iou((logits[i, 0] > 0).tolist(), mask.tolist())
        rows.append([mask_losses.mask_loss(*own), mask_losses.dice_loss(*own), error**2])
    got = target_mask_losses(logits, ious, questions, wanted, points)
    assert got.tolist() == pytest.approx(np.mean(rows, 0).tolist(), rel=1e-4)


def test_the_other_answers_learn_all_masks_by_the_cheapest_assignment(targets):
    points, wanted, questions, logits, ious, areas = lesson(targets, seed=3)
    pairs, errors = [], []
    even = len(points.uniform)
    for i in range(len(questions.targets)):
        if not questions.open[i]:
            continue
        meant = questions.candidate_masks[i].nonzero()[:, 0].tolist()
        own = logits[i, 1:]

        def cost(k, m, own=own):
            at = own[k, :even].tolist(), wanted[m, :even].tolist()
            return 5 * mask_losses.mask_loss(*at) + 5 * mask_losses.dice_loss(*at)

        costs = {(k, m): cost(k, m) for k in range(6) for m in meant}
        best = min(
            permutations(range(6), len(meant)),
            key=lambda order: sum(costs[k, m] for k, m in zip(order, meant, strict=True)),
        )
        matched = dict(zip(best, meant, strict=True))
        for k in range(6):
            inside = (own[k] > 0).tolist()
            every = {m: oracle.iou(inside, wanted[m].tolist()) for m in meant}
            true = every[matched[k]] if k in matched else max(every.values(), default=0.0)  # a click where no mask is
            errors.append((float(ious[i, 1 + k]) - true) ** 2)
            if k in matched:
                at = at_points(own[k], wanted[matched[k]], points)
                pairs.append([mask_losses.mask_loss(*at), mask_losses.dice_loss(*at)])
    got = multimask_losses(logits, ious, questions, wanted, points, areas)
    assert got.tolist() == pytest.approx([*np.mean(pairs, 0), np.mean(errors)], rel=1e-4)


def test_clicks_where_no_mask_is_teach_that_nothing_fits(targets):
    points, wanted, questions, logits, _, areas = lesson(targets)
    nothing = replace(questions, candidate_masks=questions.candidate_masks & False)
    for known, expected in ((0.0, 0.0), (0.5, 0.25)):
        got = multimask_losses(logits, torch.full(logits.shape[:2], known), nothing, wanted, points, areas)
        assert got.tolist() == [0, 0, expected]


def test_questions_without_a_single_meaning_teach_no_single_answer(targets):
    points, wanted, questions, logits, ious, _ = lesson(targets)
    logits.requires_grad_(True)
    none = PromptBatch(
        questions.prompts, questions.targets, questions.single & False, questions.open, questions.candidate_masks
    )
    got = target_mask_losses(logits, ious, none, wanted, points)
    got.sum().backward()
    assert got.tolist() == [0, 0, 0]
    assert logits.grad.abs().sum() == 0


def test_further_clicks_correct_the_answer_that_fits_best(targets):
    _, wanted, questions, logits, _, _ = lesson(targets, count=8)
    best = best_mask_index(logits, questions, wanted)
    for i, number in enumerate(best.tolist()):
        if questions.single[i]:
            assert number == 0
        else:
            mask = wanted[questions.targets[i]].tolist()
            ious = [oracle.iou((logits[i, k] > 0).tolist(), mask) for k in range(1, 7)]
            assert ious[number - 1] == max(ious)
    assert (best[questions.single] == 0).all()
    assert (best[~questions.single] > 0).any()


def test_perfect_answers_have_nothing_left_to_learn(targets):
    points, wanted, questions, logits, ious, areas = lesson(targets)
    signed = torch.where(wanted, 40.0, -40.0)
    logits = signed[questions.targets][:, None].repeat(1, 7, 1)
    for i in range(len(logits)):
        members = questions.candidate_masks[i].nonzero()[:, 0]
        logits[i, 1 : 1 + len(members)] = signed[members]
    ious = torch.ones_like(ious)
    # the smoothed dice of a mask without any point is 0 too
    assert target_mask_losses(logits, ious, questions, wanted, points)[:2].tolist() == pytest.approx([0, 0], abs=1e-4)
    assert multimask_losses(logits, ious, questions, wanted, points, areas)[:2].tolist() == pytest.approx(
        [0, 0], abs=1e-4
    )


def test_ious_of_nothing_are_0():
    empty = torch.zeros(2, 5, dtype=torch.bool)
    assert mask_ious(empty, empty).tolist() == [0, 0]
    assert mask_ious(~empty, ~empty).tolist() == [1, 1]
