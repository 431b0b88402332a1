from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from masktree.models.promptable.box_losses import box_costs, box_losses, generalised_iou, normalised_boxes
from tests.models.mask2former.test_model import planted, without_masks
from tests.models.promptable.test_model import CONFIG, build
from tests.oracles import released


def random_boxes(count: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.cat([torch.rand(count, 2, generator=draw), 0.05 + 0.5 * torch.rand(count, 2, generator=draw)], 1)


def test_losses_and_costs_equal_the_released_formulas():
    a, b = random_boxes(6, 0), random_boxes(5, 1)
    costs = box_costs(a, b)
    for i in range(6):
        for j in range(5):
            pair = tuple(a[i].tolist()), tuple(b[j].tolist())
            assert generalised_iou(a[i], b[j]).item() == pytest.approx(released.generalised_iou(*pair), abs=1e-5)
            assert costs[i, j].item() == pytest.approx(released.box_cost(*pair), abs=1e-4)
    distance, giou = box_losses(a[:5], b).tolist()
    rows = [(tuple(x), tuple(y)) for x, y in zip(a[:5].tolist(), b.tolist(), strict=True)]
    assert distance == pytest.approx(sum(sum(abs(p - q) for p, q in zip(*row, strict=True)) for row in rows), rel=1e-5)
    assert giou == pytest.approx(sum(1 - released.generalised_iou(*row) for row in rows), rel=1e-5)


def test_boxes_of_masks_are_fractions_of_the_input():
    masks = torch.zeros(2, 20, 40, dtype=torch.bool)
    masks[0, 5:10, 8:16] = True
    masks[1] = True
    torch.testing.assert_close(normalised_boxes(masks), torch.tensor([[0.3, 0.375, 0.2, 0.25], [0.5, 0.5, 1.0, 1.0]]))


def test_boxes_are_learned_beside_the_masks_and_need_no_prompt_to_mean_one():
    model, batch = (
        build(replace(CONFIG, box_losses=True, prompt_decoder_layers=3, decoder_feedforward_dim=48)),
        planted(),
    )
    losses = model.losses(batch)
    names = ["mask", "dice", "iou", "box", "giou"]
    assert list(losses) == [*names, *(f"{name}_all" for name in names)]
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert model.box_head is not None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.box_head.parameters())
    assert model.decoder.layers[0].linear1.out_features == 48
    model.zero_grad()
    empty = model.losses(replace(batch, targets=[without_masks(targets) for targets in batch.targets]))
    torch.stack(list(empty.values())).sum().backward()
    assert all(p.grad is not None for p in model.box_head.parameters())
    assert [value.item() for value in empty.values()] == [0] * 10
