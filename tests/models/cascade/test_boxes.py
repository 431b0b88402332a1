from __future__ import annotations

import numpy as np
import pytest
import torch

from masktree.errors import InputError
from masktree.models.cascade.boxes import crop_masks, decode, encode, is_proper, mask_boxes, match, sample
from tests.oracles import cascade as oracle

STAGE_WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)]


def random_boxes(count: int, seed: int, side: float = 100.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * side * 0.8
    return torch.cat([corner, corner + 0.5 + torch.rand(count, 2, generator=generator) * side / 2], 1)


def test_mask_boxes_equal_the_definition(rng):
    masks = rng.random((6, 9, 13)) < 0.03
    masks[0] = False
    masks[0, 4, 7] = True  # a single pixel
    masks[1] = True
    masks[2:, 0, 0] |= ~masks[2:].any((1, 2))
    boxes = mask_boxes(torch.from_numpy(masks))
    assert boxes.tolist() == [list(map(float, oracle.box_of(mask))) for mask in masks]
    assert boxes[0].tolist() == [7, 4, 8, 5]
    assert boxes.dtype == torch.float32


def test_mask_boxes_of_no_masks_and_of_an_empty_one():
    assert mask_boxes(torch.zeros(0, 4, 5, dtype=torch.bool)).shape == (0, 4)
    masks = torch.ones(2, 4, 5, dtype=torch.bool)
    masks[1] = False
    with pytest.raises(InputError, match="at least one pixel"):
        mask_boxes(masks)


@pytest.mark.parametrize("weights", STAGE_WEIGHTS)
def test_deltas_equal_the_paper_and_decode_back(weights):
    boxes, anchors = random_boxes(20, 0), random_boxes(20, 1)
    anchors[0] = torch.tensor([3.0, 3.0, 4.0, 90.0])  # one pixel wide
    deltas = encode(boxes, anchors, weights)
    wanted = [oracle.encode(tuple(b), tuple(a), weights) for b, a in zip(boxes.tolist(), anchors.tolist(), strict=True)]
    torch.testing.assert_close(deltas, torch.tensor(wanted), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decode(deltas, anchors, weights), boxes, rtol=1e-4, atol=1e-3)


def test_extreme_deltas_stay_finite():
    anchor = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    grown = decode(torch.tensor([[0.0, 0.0, 1e4, 1e4]]), anchor, STAGE_WEIGHTS[0])
    assert torch.isfinite(grown).all()
    assert (grown[0, 2] - grown[0, 0]).item() == pytest.approx(625, rel=1e-4)
    assert decode(torch.zeros(2, 3, 4), anchor.expand(2, 3, 4), STAGE_WEIGHTS[1]).shape == (2, 3, 4)


def test_proper_boxes_are_finite_with_an_area():
    clipped = torch.tensor([[0.0, 0.0, 40.0, 7.0], [40.0, 3.0, 40.0, 8.0], [0.0, 0.0, 0.0, 5.0]])
    assert is_proper(clipped).tolist() == [True, False, False]
    assert (
        is_proper(torch.tensor([[0.0, 0.0, float("nan"), 5.0], [0.0, 0.0, float("inf"), 5.0]])).tolist() == [False] * 2
    )


@pytest.mark.parametrize("count", [1, 16, 17, 120])  # 120: HASSOD's code looks at the first 100 only
def test_matching_considers_every_target(count):
    boxes, targets = random_boxes(50, 2), random_boxes(count, 3)
    targets[-1] = boxes[7]
    found = match(boxes, targets)
    matrix = np.array([[oracle.iou(tuple(b), tuple(t)) for t in targets.tolist()] for b in boxes.tolist()])
    np.testing.assert_allclose(found.ious, matrix.max(1), atol=1e-6)
    assert found.targets[matrix.max(1) > 0].tolist() == matrix.argmax(1)[matrix.max(1) > 0].tolist()
    assert found.targets[7] == count - 1
    assert found.ious[7] == 1
    best = {int(matrix[:, t].argmax()) for t in range(count) if matrix[:, t].max() > 0}
    assert set(found.is_best_of_target.nonzero().flatten().tolist()) == best


def test_matching_without_targets_or_boxes():
    none = match(random_boxes(4, 0), torch.zeros(0, 4))
    assert none.ious.tolist() == [0] * 4
    assert none.targets.tolist() == [0] * 4
    assert not none.is_best_of_target.any()
    assert match(torch.zeros(0, 4), random_boxes(4, 0)).ious.shape == (0,)


def test_a_target_without_overlap_has_no_best_box():
    found = match(torch.tensor([[0.0, 0.0, 5.0, 5.0]]), torch.tensor([[50.0, 50.0, 60.0, 60.0]]))
    assert not found.is_best_of_target.any()


def test_sample_takes_half_positives_and_fills_with_negatives():
    positive = torch.zeros(200, dtype=torch.bool)
    positive[:80] = True
    negative = ~positive
    negative[190:] = False  # of neither kind
    chosen = sample(positive, negative, 64, 0.5, torch.Generator().manual_seed(0))
    assert len(set(chosen.tolist())) == 64
    assert positive[chosen].tolist() == [True] * 32 + [False] * 32
    few = sample(positive & (torch.arange(200) < 3), negative, 64, 0.5, torch.Generator().manual_seed(0))
    assert positive[few].sum() == 3
    assert len(few) == 64
    everything = sample(positive, negative, 1000, 0.5, torch.Generator().manual_seed(0))
    assert sorted(everything.tolist()) == list(range(190))


def test_sample_depends_on_its_generator_alone():
    positive = torch.arange(300) % 3 == 0
    first, again, other = (
        sample(positive, ~positive, 40, 0.5, torch.Generator().manual_seed(seed)).tolist() for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other
    times = torch.zeros(300)
    for seed in range(300):
        times[sample(positive, ~positive, 40, 0.5, torch.Generator().manual_seed(seed))] += 1
    assert abs(times[positive].mean() - 60) < 1e-4  # 20 of 100
    assert times[positive].std() < 12  # binomial: 6.9
    assert times.min() > 0


def test_crops_on_whole_pixels_are_exact(rng):
    masks = torch.from_numpy(rng.random((11, 40, 40)) < 0.5)
    which = torch.tensor([10, 0, 3, 10])
    boxes = torch.tensor([[0.0, 0, 28, 28], [12, 5, 40, 33], [4, 4, 32, 32], [2, 6, 30, 34]])
    cells = crop_masks(masks, which, boxes, 28, 4)
    for index in range(4):
        left, top, right, bottom = boxes[index].int().tolist()
        assert torch.equal(cells[index], masks[which[index], top:bottom, left:right])


def test_crops_of_large_small_and_no_boxes():
    mask = torch.zeros(1, 200, 200, dtype=torch.bool)
    mask[:, :100] = True
    cells = crop_masks(
        mask, torch.zeros(2, dtype=torch.int64), torch.tensor([[0.0, 0, 200, 200], [50, 99, 51, 101]]), 28, 4
    )
    for cell in cells:
        assert cell[:14].all()
        assert not cell[14:].any()
    assert crop_masks(mask, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), 28, 4).shape == (0, 28, 28)
    assert crop_masks(mask[:0], torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), 28, 4).shape == (0, 28, 28)


@pytest.mark.parametrize("samples", [4, 0])
def test_crops_equal_the_definition_of_roi_align(rng, samples):
    masks = torch.from_numpy(rng.random((1, 16, 16)) < 0.4)
    box = (1.3, 2.1, 13.9, 15.4)
    cells = crop_masks(masks, torch.zeros(1, dtype=torch.int64), torch.tensor([box]), 6, samples)
    means = oracle.roi_align(masks[0].numpy().astype(float), box, 1.0, 6, samples)
    assert np.abs(means - 0.5).min() > 1e-5  # no tie to round
    assert (cells[0].numpy() == (means >= 0.5)).all()
