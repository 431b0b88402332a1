from __future__ import annotations

import numpy as np
import pytest
import torch

from masktree.models.cascade.boxes import encode
from masktree.models.cascade.proposals import MAP_STRIDES, ProposalNetwork
from tests.oracles import cascade as oracle

SIZE = (64, 96)


def make_maps(channels: int = 4, size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.float32) -> list:
    generator = torch.Generator().manual_seed(0)
    shapes = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in MAP_STRIDES]
    return [torch.randn(2, channels, *shape, generator=generator).to(dtype) for shape in shapes]


@pytest.fixture
def network() -> ProposalNetwork:
    torch.manual_seed(0)
    return ProposalNetwork(4)


def test_anchors_equal_the_paper(network):
    logits, deltas, anchors = network(make_maps())
    assert [len(one) for one in anchors] == [3 * 16 * 24, 3 * 8 * 12, 3 * 4 * 6, 3 * 2 * 3, 3 * 1 * 2]
    assert logits.shape == (2, sum(map(len, anchors)))
    assert deltas.shape == (2, sum(map(len, anchors)), 4)
    for level, (stride, side) in enumerate(zip(MAP_STRIDES, (32, 64, 128, 256, 512), strict=True)):
        width = -(-SIZE[1] // stride)
        for number, box in enumerate(anchors[level].tolist()):
            place, aspect = divmod(number, 3)
            row, column = divmod(place, width)
            wanted = oracle.anchor(row, column, stride, side, (0.5, 1.0, 2.0)[aspect])
            assert box == pytest.approx(wanted, abs=0.5)  # halves are rounded either way


def test_logits_and_deltas_are_in_the_order_of_the_anchors(network):
    maps = make_maps()
    logits, deltas, anchors = network(maps)
    head_logits, head_deltas = network.head(maps)
    first = 0
    assert len(anchors) == len(head_logits)
    for level, one in enumerate(anchors):
        height, width = head_logits[level].shape[-2:]
        for row, column, aspect in [(0, 0, 0), (height - 1, 0, 2), (height - 1, width - 1, 1)]:
            at = first + (row * width + column) * 3 + aspect
            assert torch.equal(logits[:, at], head_logits[level][:, aspect, row, column])
            assert torch.equal(deltas[:, at], head_deltas[level][:, 4 * aspect : 4 * aspect + 4, row, column])
        first += len(one)


def test_anchors_are_exact_for_bfloat16_maps(network):
    _, _, exact = network(make_maps())
    with torch.autocast("cpu", torch.bfloat16):
        logits, deltas, anchors = network(make_maps(dtype=torch.bfloat16))
    assert all(torch.equal(a, b) for a, b in zip(exact, anchors, strict=True))
    assert logits.dtype == deltas.dtype == torch.float32


def planted(network, targets: list) -> tuple:
    """Outputs that hit each image's targets from the anchors that learn them, and reject all other anchors; and the
    number of anchors that learn something."""
    logits, deltas, anchors = network(make_maps())
    joined = torch.cat(anchors)
    logits, deltas, hits = torch.full_like(logits, -20.0).detach(), torch.zeros_like(deltas).detach(), 0
    for i, boxes in enumerate(targets):
        for j, box in enumerate(boxes):
            ious = np.array([oracle.iou(tuple(a), tuple(box.tolist())) for a in joined.tolist()])
            own = np.flatnonzero((ious >= 0.7) | (ious >= ious.max() - 1e-9))
            logits[i, own] = 20.0 + j
            deltas[i, own] = encode(box[None], joined[own], (1.0, 1.0, 1.0, 1.0))
            hits += len(own)
    return logits, deltas, anchors, hits


def test_planted_boxes_are_proposed_first(network):
    targets = [torch.tensor([[10.0, 8, 40, 50], [60, 5, 90, 60]]), torch.tensor([[3.0, 3, 4, 4]])]
    logits, deltas, anchors, _ = planted(network, targets)
    proposed = network.propose(logits, deltas, anchors, [SIZE, SIZE], 20, training=True)
    torch.testing.assert_close(proposed[0][:2], targets[0].flip(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(proposed[1][:1], targets[1], atol=1e-3, rtol=0)
    for boxes in proposed:
        assert len(boxes) <= 20
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([SIZE[1], SIZE[0]])).all()


def test_proposals_of_one_map_do_not_overlap(network):
    logits, deltas, anchors = network(make_maps())
    own = len(anchors[0])
    found = network.propose(logits[:1, :own], deltas[:1, :own], anchors[:1], [SIZE], 50, training=False)
    boxes = found[0].tolist()
    assert len(boxes) > 5
    assert max(oracle.iou(tuple(a), tuple(b)) for i, a in enumerate(boxes) for b in boxes[:i]) <= 0.65 + 1e-6


def test_proposals_are_clipped_to_the_valid_size_of_each_image(network):
    logits, deltas, anchors = network(make_maps())
    first, second = network.propose(logits, deltas, anchors, [(40, 96), (64, 7)], 100, training=False)
    assert first[:, 3].max() == 40
    assert second[:, 2].max() == 7
    assert (first[:, 1] < first[:, 3]).all()
    assert (second[:, 0] < second[:, 2]).all()


def test_nan_logits_give_no_proposals(network):
    logits, deltas, anchors = network(make_maps())
    proposed = network.propose(logits * float("nan"), deltas, anchors, [SIZE, SIZE], 100, training=True)
    assert [boxes.shape for boxes in proposed] == [(0, 4), (0, 4)]


def generators(*seeds: int) -> list:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


TARGETS = [torch.tensor([[10.0, 8, 40, 50]]), torch.tensor([[3.0, 3, 9, 10]])]


def test_exact_outputs_have_almost_no_loss(network):
    logits, deltas, anchors, _ = planted(network, TARGETS)
    objectness, distance = network.losses(logits, deltas, torch.cat(anchors), TARGETS, generators(0, 1))
    assert objectness < 1e-6
    assert distance < 1e-6
    wrong, _ = network.losses(-logits, deltas, torch.cat(anchors), TARGETS, generators(0, 1))
    assert wrong > 10


def test_losses_are_divided_by_the_sample_size(network):
    logits, deltas, anchors, hits = planted(network, TARGETS)
    assert 2 <= hits <= 128
    objectness, distance = network.losses(logits * 0, deltas + 0.25, torch.cat(anchors), TARGETS, generators(0, 1))
    assert objectness.item() == pytest.approx(np.log(2), rel=1e-5)  # 256 anchors are drawn of each image
    assert distance.item() == pytest.approx(hits * 4 * 0.25 / 256 / 2, rel=1e-4)


def test_images_without_targets_are_background(network):
    logits, deltas, anchors = network(make_maps())
    empty = [torch.zeros(0, 4)] * 2
    objectness, distance = network.losses(logits, deltas, torch.cat(anchors), empty, generators(0, 1))
    assert objectness.item() == pytest.approx(torch.nn.functional.softplus(logits).mean().item(), rel=0.05)
    assert distance == 0
    (objectness + distance).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
