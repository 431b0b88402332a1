from __future__ import annotations

import numpy as np
import pytest
import torch

from masktree.models.cascade.boxes import encode
from masktree.models.cascade.heads import (
    MASK_SIZE,
    BoxHead,
    BoxPredictions,
    MaskHead,
    SampledRois,
    class_losses,
    level_losses,
    mask_loss,
    pool_rois,
)
from tests.oracles import cascade as oracle

WEIGHTS = (20.0, 20.0, 10.0, 10.0)


def make_maps(images: int = 2, channels: int = 3, side: int = 256) -> list:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, channels, side // s, side // s, generator=generator) for s in (4, 8, 16, 32, 64)]


def test_each_box_is_pooled_from_its_map():
    maps = make_maps()
    boxes = [
        torch.tensor([[0.0, 0, 255, 256], [10, 20, 30, 41], [5, 5, 130, 120], [7, 9, 8, 10]]),
        torch.tensor([[100.0, 40, 180, 250], [200, 200, 256, 256]]),
    ]
    pooled = pool_rois(maps, boxes, 7, 2)
    assert pooled.shape == (6, 3, 7, 7)
    levels = set()
    for number, (image, box) in enumerate([(i, tuple(box.tolist())) for i in range(2) for box in boxes[i]]):
        level = oracle.pyramid_level(box)
        levels.add(level)
        wanted = oracle.roi_align(maps[level][image, 1].numpy(), box, 0.25 / 2**level, 7, 2)
        inside = np.abs(pooled[number, 1].numpy() - wanted)
        # Points beyond a map's border count as its border in RoIAlign's code, as 0 here: look at inner cells.
        np.testing.assert_allclose(inside[2:-2, 2:-2], 0, atol=1e-4)
    assert levels == {0, 1, 2}


def test_adaptive_pooling_has_a_point_for_every_cell_of_the_map():
    maps = make_maps()
    boxes = [torch.tensor([[30.0, 40, 170, 210], [60, 60, 100, 90]]), torch.zeros(0, 4)]
    pooled = pool_rois(maps, boxes, 7, 0)
    for number, box in enumerate(map(tuple, boxes[0].tolist())):
        level = oracle.pyramid_level(box)
        wanted = oracle.roi_align(maps[level][0, 1].numpy(), box, 0.25 / 2**level, 7, 0)
        np.testing.assert_allclose(pooled[number, 1], wanted, atol=1e-4)


def test_pooling_without_boxes_and_of_a_box_without_area():
    maps = make_maps()
    assert pool_rois(maps, [torch.zeros(0, 4), torch.zeros(0, 4)], 7, 2).shape == (0, 3, 7, 7)
    flat = pool_rois(maps, [torch.zeros(0, 4), torch.tensor([[5.0, 5, 5, 9]])], 7, 2)
    assert torch.isfinite(flat).all()


def test_class_losses_drop_boxes_without_overlap():
    targets = [(0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 70.0)]
    boxes = [(0.0, 0.0, 10.0, 12.0), (9.5, 9.5, 19.5, 19.5), (55.0, 60.0, 65.0, 80.0), (80.0, 0.0, 90.0, 9.0)]
    logits, positive = [(0.3, 1.2), (0.1, 2.0), (-0.7, 0.5), (1.0, 1.5)], [True, False, False, False]
    ious = torch.tensor([max(oracle.iou(box, target) for target in targets) for box in boxes])
    wanted = [oracle.drop_loss(*each, targets) for each in zip(logits, positive, boxes, strict=True)]
    assert [value > 0 for value in wanted] == [True, False, True, False]
    found = class_losses(torch.tensor(logits), torch.tensor(positive), ious)
    torch.testing.assert_close(found, torch.tensor(wanted))


def test_level_losses_are_focal(rng):
    logits, levels = rng.normal(size=(5, 3)) * 3, np.array([0, 1, 2, 2, 0])
    found = level_losses(torch.from_numpy(logits), torch.from_numpy(levels))
    wanted = [[oracle.focal(logits[i, j], int(levels[i] == j)) for j in range(3)] for i in range(5)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert level_losses(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).shape == (0, 3)


def test_mask_loss_is_a_mean_over_cells(rng):
    logits, cells = rng.normal(size=(3, MASK_SIZE, MASK_SIZE)), rng.random((3, MASK_SIZE, MASK_SIZE)) < 0.5
    p = 1 / (1 + np.exp(-logits))
    wanted = -np.log(np.where(cells, p, 1 - p)).mean()
    assert mask_loss(torch.from_numpy(logits), torch.from_numpy(cells)).item() == pytest.approx(wanted)
    assert mask_loss(torch.zeros(0, MASK_SIZE, MASK_SIZE), torch.zeros(0, MASK_SIZE, MASK_SIZE, dtype=torch.bool)) == 0


def make_head() -> BoxHead:
    torch.manual_seed(0)
    return BoxHead(3, 16, 0.6, WEIGHTS)


def test_box_head_losses_equal_their_definitions():
    box_head = make_head()
    targets, levels = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 70]]), torch.tensor([2, 0])
    rois = SampledRois(
        torch.tensor([[0.0, 0, 10, 12], [48, 50, 60, 72], [20, 20, 30, 30]]),
        torch.tensor([True, True, False]),
        torch.tensor([0, 1, 0]),
    )
    predictions = BoxPredictions(
        torch.tensor([[0.1, 0.9], [0.4, -0.2], [2.0, 1.0]]),
        torch.tensor([[0.1, -0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]]),
        torch.tensor([[0.2, -1.0, 0.5], [1.0, 0.0, -2.0], [5.0, 5.0, 5.0]]),
    )
    ious = torch.tensor([0.8, 0.7, 0.0])
    losses = box_head.losses(predictions, rois, ious, targets, levels)
    assert losses.counts.tolist() == [3, 3, 6]
    classes, distance, level = losses.sums / losses.counts
    pairs = list(zip(predictions.class_logits.tolist(), [True, True, False], strict=True))
    wanted = [oracle.drop_loss(tuple(pair), kind, (0, 0, 1, 1), [(0, 0, 1, 1)]) for pair, kind in pairs[:2]]
    assert classes.item() == pytest.approx(sum(wanted) / 3, rel=1e-5)
    code = encode(targets, rois.boxes[:2], WEIGHTS)
    assert distance.item() == pytest.approx((predictions.deltas[:2] - code).abs().sum().item() / 3, rel=1e-5)
    focal = [
        oracle.focal(predictions.level_logits[i, j].item(), int(j == (2, 0)[i])) for i in range(2) for j in range(3)
    ]
    assert level.item() == pytest.approx(np.mean(focal), rel=1e-5)


def test_losses_without_boxes_positives_or_targets_are_zero():
    box_head = make_head()
    for count in (0, 4):
        predictions = BoxPredictions(torch.randn(count, 2), torch.randn(count, 4), torch.randn(count, 3))
        nothing = SampledRois(
            torch.rand(count, 4), torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.int64)
        )
        losses = box_head.losses(
            predictions, nothing, torch.zeros(count), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        )
        assert losses.sums.tolist() == [0, 0, 0]
        assert losses.counts.tolist() == [count, count, 0]


def test_the_gradient_of_the_maps_is_scaled():
    box_head = make_head()
    boxes = [torch.tensor([[10.0, 20, 130, 141]]), torch.tensor([[4.0, 4, 60, 61]])]
    gradients, weights = [], []
    for scale in (1.0, 1 / 3):
        maps = [one.requires_grad_() for one in make_maps()]
        box_head.zero_grad()
        predictions = box_head(maps, boxes, gradient_scale=scale)
        (predictions.class_logits.sum() + predictions.level_logits.sum()).backward()
        gradients.append(maps[1].grad)
        weights.append(box_head.level_score.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1] * 3, gradients[0])
    assert torch.equal(*weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_return_float32(dtype):
    torch.manual_seed(0)
    box_head, head = make_head(), MaskHead(3, 2)
    boxes = [torch.tensor([[10.0, 20, 130, 141]]), torch.zeros(0, 4)]
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        predictions, logits = box_head(make_maps(), boxes), head(make_maps(), boxes)
    assert predictions.class_logits.shape == (1, 2)
    assert logits.shape == (1, MASK_SIZE, MASK_SIZE)
    for value in (predictions.class_logits, predictions.deltas, predictions.level_logits, logits):
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
