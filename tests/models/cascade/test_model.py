from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from masktree.errors import InputError
from masktree.models.cascade.boxes import crop_masks, mask_boxes
from masktree.models.cascade.detections import BoxDetections
from masktree.models.cascade.heads import MASK_SIZE, BoxHead
from masktree.models.cascade.model import CascadeMaskRCNN
from masktree.models.config import CascadeConfig
from masktree.models.structures import Batch, Targets
from tests.oracles import cascade as oracle

IMAGE_SIZE = 96
CONFIG = CascadeConfig(
    image_size=IMAGE_SIZE,
    hidden_dim=32,
    box_head_dim=64,
    mask_head_layers=2,
    train_proposals=100,
    test_proposals=100,
    roi_batch_size=32,
    max_detections=50,
)
# Left, top, right, bottom, level and parent of what is in each of two images.
SQUARES = (
    ((8, 8, 50, 50, 0, -1), (60, 20, 90, 80, 0, -1)),
    ((20, 40, 70, 90, 0, -1), (30, 50, 50, 70, 1, 0), (60, 4, 92, 30, 0, -1)),
)
COLOURS = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.9, 0.3], [0.2, 0.3, 0.9]])


class TinyPyramid(nn.Module):
    """Four convolutions."""

    channels = (16, 24, 32, 32)

    def __init__(self, wants_cues: bool = False) -> None:
        super().__init__()
        self.wants_cues = wants_cues
        self.stem = nn.Conv2d(3 + wants_cues, 16, 7, 4, 3)
        widths = zip(self.channels[:3], self.channels[1:], strict=True)
        self.deeper = nn.ModuleList(nn.Conv2d(first, second, 3, 2, 1) for first, second in widths)

    def forward(self, images: Tensor, cues: Tensor | None = None) -> list:
        x = (images - 0.5) / 0.25
        if cues is not None:
            x = torch.cat([x, nn.functional.interpolate(cues[:, :1], images.shape[-2:])], 1)
        maps = [self.stem(x).relu()]
        for layer in self.deeper:
            maps.append(layer(maps[-1]).relu())
        return maps

    def pretrained_parameters(self):
        return iter(())


def make_model(seed: int = 0, **changes) -> CascadeMaskRCNN:
    torch.manual_seed(seed)
    return CascadeMaskRCNN(replace(CONFIG, **changes), TinyPyramid())


def make_batch(seeds: tuple[int, int] = (3, 4)) -> Batch:
    images, targets = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE), []
    for image, squares in zip(images, SQUARES, strict=True):
        masks = torch.zeros(len(squares), IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool)
        for mask, colour, (left, top, right, bottom, *_) in zip(masks, COLOURS, squares, strict=False):
            mask[top:bottom, left:right] = True
            image[:, mask] = colour[:, None]
        levels, parents = (torch.tensor([square[which] for square in squares]) for which in (4, 5))
        targets.append(Targets(masks, parents, levels))
    return Batch(images, None, targets, torch.tensor(seeds), ("first", "second"))


def part(batch: Batch, which: int) -> Batch:
    own = slice(which, which + 1)
    return Batch(batch.images[own], None, batch.targets[own], batch.seeds[own], batch.names[own])


def without_targets(batch: Batch, which: int) -> Batch:
    nothing = Targets(
        torch.zeros(0, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.int64),
    )
    targets = list(batch.targets)
    targets[which] = nothing
    return replace(batch, targets=targets)


# --- losses ---------------------------------------------------------------------------------------------------------


def test_losses_are_named_and_every_parameter_gets_a_gradient():
    model = make_model()
    losses = model.losses(make_batch())
    assert list(losses) == ["rpn_objectness", "rpn_box", "class", "box", "level", "mask"]
    assert all(loss.shape == () and loss.dtype == torch.float32 and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_initial_losses_are_those_of_uniform_predictions():
    losses = make_model().losses(make_batch())
    assert losses["rpn_objectness"].item() == pytest.approx(np.log(2), abs=0.02)
    assert losses["mask"].item() == pytest.approx(np.log(2), abs=0.02)
    assert losses["class"] < 3 * np.log(2) * 1.05  # three stages, some boxes dropped
    focal = np.mean([oracle.focal(0, 1), oracle.focal(0, 0), oracle.focal(0, 0)])
    assert losses["level"].item() == pytest.approx(3 * focal, rel=0.1)


def test_losses_depend_on_the_seeds_only():
    model = make_model(roi_batch_size=8)
    state = torch.get_rng_state()
    first = model.losses(make_batch())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(77)
    again, other = model.losses(make_batch()), model.losses(make_batch((5, 6)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("empty", [False, True])
def test_batch_loss_is_the_mean_over_images(empty):
    model, batch = make_model(), make_batch()
    if empty:
        batch = without_targets(batch, 0)
    together = model.losses(batch)
    apart = [model.losses(part(batch, which)) for which in range(2)]
    for name, value in together.items():
        mean = (apart[0][name] + apart[1][name]) / 2
        assert value.item() == pytest.approx(mean.item(), rel=1e-4), name


def test_released_losses_are_means_over_the_boxes_of_the_batch(monkeypatch):
    """Against the sums of each image, written out."""
    model, batch = make_model(roi_mean="batch"), make_batch()
    rows: list = []
    losses = BoxHead.losses

    def record(self, predictions, rois, *arguments, **options):
        found = losses(self, predictions, rois, *arguments, **options)
        rows.append((len(rois.boxes), int(rois.positive.sum()), found.sums.tolist()))
        return found

    monkeypatch.setattr(BoxHead, "losses", record)
    together = model.losses(batch)
    stages = [rows[0:2], rows[2:4], rows[4:6]]
    count = [sum(boxes for boxes, _, _ in stage) for stage in stages]
    positives = [sum(positive for _, positive, _ in stage) for stage in stages]
    total = [[sum(sums[which] for _, _, sums in stage) for which in range(3)] for stage in stages]
    assert together["class"].item() == pytest.approx(sum(t[0] / n for t, n in zip(total, count, strict=True)))
    assert together["box"].item() == pytest.approx(sum(t[1] / n for t, n in zip(total, count, strict=True)))
    assert together["level"].item() == pytest.approx(sum(t[2] / (3 * n) for t, n in zip(total, positives, strict=True)))
    by_image = make_model().losses(batch)
    assert together["level"].item() != pytest.approx(by_image["level"].item(), rel=1e-4)
    apart = [model.losses(part(batch, which))["mask"].item() for which in range(2)]
    first = [positive for _, positive, _ in stages[0]]
    assert together["mask"].item() == pytest.approx(np.average(apart, weights=first), rel=1e-4)


def test_without_drop_loss_boxes_on_nothing_are_background():
    batch = without_targets(make_batch(), 0)
    dropped, kept = make_model().losses(batch), make_model(drop_loss=False).losses(batch)
    assert kept["class"] > dropped["class"] + 0.1
    assert kept["box"].item() == pytest.approx(dropped["box"].item())
    ignored = make_model(drop_loss=False).losses(replace(batch, learn_from_empty=False))
    alone = make_model(drop_loss=False).losses(part(batch, 1))
    assert ignored["class"].item() == pytest.approx(alone["class"].item() / 2, rel=1e-4)


def test_batch_norm_of_the_feature_pyramid_is_that_of_the_released_detector():
    """Each convolution of the FPN is followed by batch norm and has no bias; top-down maps are added before the
    last."""
    model, batch = make_model(norm="batch"), make_batch()
    state = model.fpn.state_dict()
    assert not any(name.endswith("0.bias") for name in state)
    maps = model.pyramid(batch.images, None)

    def normed(x: Tensor, kind: str, number: int, padding: int) -> Tensor:
        y = nn.functional.conv2d(x, state[f"{kind}.{number}.0.weight"], padding=padding)
        mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), keepdim=True, unbiased=False)
        return (y - mean) / (variance + 1e-5).sqrt()  # scale 1 and shift 0 at first

    inner = [normed(m, "inner_blocks", number, 0) for number, m in enumerate(maps)]
    for number in (2, 1, 0):
        inner[number] = inner[number] + nn.functional.interpolate(inner[number + 1], inner[number].shape[-2:])
    wanted = [normed(m, "layer_blocks", number, 1) for number, m in enumerate(inner)]
    found = model.features(batch.images, None)
    for a, b in zip(found[:4], wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    model.eval()
    assert model.fpn.state_dict()["inner_blocks.0.1.num_batches_tracked"] == 1
    model.detect(batch.images, None, [(96, 96)] * 2)
    assert model.fpn.state_dict()["inner_blocks.0.1.num_batches_tracked"] == 1


def test_images_without_targets_train_the_anchors_only():
    model = make_model()
    losses = model.losses(without_targets(without_targets(make_batch(), 0), 1))
    assert losses["rpn_objectness"] > 0.5
    assert [losses[name].item() for name in ("rpn_box", "class", "box", "level", "mask")] == [0] * 5
    sum(losses.values()).backward()  # every parameter takes part, as data-parallel training needs
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_tiny_and_full_size_targets():
    masks = torch.zeros(4, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool)
    masks[0, 40, 41] = masks[1, -1, -1] = True
    masks[1, 0, 0] = True  # two corners: its box is the whole image
    masks[2, 50] = True  # one pixel high
    masks[3] = True
    targets = Targets(masks, torch.full((4,), -1), torch.tensor([0, 1, 2, 0]))
    model, batch = make_model(), replace(make_batch(), targets=[targets, targets])
    losses = model.losses(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_empty_target_masks_are_refused():
    batch = make_batch()
    batch.targets[1].masks[1] = False
    with pytest.raises(InputError, match="at least one pixel"):
        make_model().losses(batch)


def test_bfloat16_losses_are_close_to_float32():
    model, batch = make_model(), make_batch()
    exact = model.losses(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.losses(batch)
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        assert rough[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.01), name
    sum(rough.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_nan_weights_give_nan_losses_and_no_detections():
    model, batch = make_model(), make_batch()
    assert isinstance(model.pyramid, TinyPyramid)
    with torch.no_grad():
        model.pyramid.stem.weight.fill_(float("nan"))
    assert not torch.isfinite(sum(model.losses(batch).values()))
    assert [len(found.scores) for found in model.detect(batch.images, None, [(96, 96)] * 2)] == [0, 0]


def planted_stages(monkeypatch, model: CascadeMaskRCNN, shift: float) -> list:
    """Make every stage move its boxes by ``shift`` of their width; returns the arguments of their losses."""
    calls = []
    losses = BoxHead.losses

    def record(self, predictions, rois, ious, boxes, levels, **options):
        calls.append((rois, ious))
        return losses(self, predictions, rois, ious, boxes, levels, **options)

    monkeypatch.setattr(BoxHead, "losses", record)
    with torch.no_grad():
        for stage in model.box_heads:
            stage.bbox_pred.weight.zero_()
            stage.bbox_pred.bias.copy_(torch.tensor([shift * stage.box_weights[0], 0, 0, 0]))
    return calls


def test_each_stage_matches_by_its_own_iou_threshold(monkeypatch):
    model, batch = make_model(), part(make_batch(), 1)
    calls = planted_stages(monkeypatch, model, 0.0)
    left, top, right, bottom = SQUARES[1][0][:4]
    proposed = [[left, top, right, top + share * (bottom - top)] for share in (0.45, 0.55, 0.65, 0.75)]
    proposed += [[0, 0, 9, 9]]
    monkeypatch.setattr(model.rpn, "propose", lambda *_, **__: [torch.tensor(proposed)])
    model.losses(batch)
    targets = [tuple(map(float, square[:4])) for square in SQUARES[1]]
    counts = []
    for (rois, found), threshold in zip(calls, (0.5, 0.6, 0.7), strict=True):
        ious = np.array([[oracle.iou(tuple(box), target) for target in targets] for box in rois.boxes.tolist()])
        np.testing.assert_allclose(found, ious.max(1), atol=1e-5)  # boxes do not move: DropLoss sees the same
        assert rois.positive.tolist() == (ious.max(1) >= threshold).tolist()
        own = rois.positive.numpy()
        assert (rois.targets.numpy() == ious.argmax(1))[own].all()
        counts.append(int(own.sum()))
    assert counts == [6, 5, 4]  # the targets' own three boxes are among them
    assert len(calls[0][0].boxes) == 8


def test_stages_get_the_refined_boxes(monkeypatch):
    model = make_model()
    calls = planted_stages(monkeypatch, model, 0.1)
    model.losses(part(make_batch(), 0))
    for (before, _), (after, _) in itertools.pairwise(calls):
        moved = before.boxes.clone()
        moved[:, 0::2] += 0.1 * (moved[:, 2:3] - moved[:, 0:1])
        moved = moved.clamp(max=IMAGE_SIZE)
        moved = moved[moved[:, 2] > moved[:, 0]]
        torch.testing.assert_close(after.boxes, moved, atol=1e-3, rtol=1e-4)


# --- detection ------------------------------------------------------------------------------------------------------


def best_ious(found: BoxDetections, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Of each true mask, the largest IoU of a rendered one, and which that is."""
    drawn = found.render(0, len(found.scores), tuple(masks.shape[1:])).flatten(1).float()
    flat = masks.flatten(1).float()
    shared = flat @ drawn.T
    return (shared / (flat.sum(1)[:, None] + drawn.sum(1) - shared)).max(1)


def test_two_images_are_overfitted():
    model = make_model()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(60):
        loss = sum(model.losses(make_batch((2 * step, 2 * step + 1))).values())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    batch = make_batch()
    model.eval()
    for found, targets in zip(model.detect(batch.images, None, [(96, 96)] * 2), batch.targets, strict=True):
        ious, which = best_ious(found, targets.masks)
        assert ious.min() > 0.7
        assert found.levels[which].argmax(1).tolist() == targets.levels.tolist()
        assert found.scores[which].min() > 0.5


def check(found: BoxDetections, valid_size: tuple[int, int], most: int) -> None:
    n = len(found.scores)
    assert 0 < n <= most
    assert found.boxes.shape == (n, 4)
    assert found.levels.shape == (n, 3)
    assert found.masks.shape == (n, MASK_SIZE, MASK_SIZE)
    assert found.ancestors is None
    assert (found.scores.diff() <= 0).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    torch.testing.assert_close(found.levels.sum(1), torch.ones(n))
    assert (found.boxes[:, 2:] <= torch.tensor([valid_size[1], valid_size[0]])).all()
    assert (found.boxes[:, :2] >= 0).all()
    for value in (found.boxes, found.scores, found.levels, found.masks):
        assert value.dtype == torch.float32
        assert not value.requires_grad


@pytest.mark.parametrize("half", [False, True])
def test_detections_are_clipped_to_the_valid_size(half):
    model, batch, valid_sizes = make_model().eval(), make_batch(), [(96, 50), (31, 96)]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        for found, own in zip(model.detect(batch.images, None, valid_sizes), valid_sizes, strict=True):
            check(found, own, 50)
            assert found.render(0, 5, (17, 23)).shape == (5, 17, 23)
            boxes = [tuple(box) for box in found.boxes.tolist()]
            assert max(oracle.iou(a, b) for i, a in enumerate(boxes) for b in boxes[:i]) <= 0.5 + 1e-6


def test_detections_do_not_depend_on_the_batch():
    model, batch = make_model().eval(), make_batch()
    together = model.detect(batch.images, None, [(96, 96), (90, 80)])[1]
    alone = model.detect(batch.images[1:], None, [(90, 80)])[0]
    torch.testing.assert_close(together.scores, alone.scores)
    torch.testing.assert_close(together.boxes, alone.boxes, atol=1e-3, rtol=1e-4)


def test_few_detections_and_other_shapes():
    model = make_model(max_detections=3).eval()
    (found,) = model.detect(torch.rand(1, 3, 32, 160), None, [(1, 160)])
    check(found, (1, 160), 3)


def test_cues_reach_the_pyramid():
    model = CascadeMaskRCNN(CONFIG, TinyPyramid(wants_cues=True))
    assert model.wants_cues
    batch = replace(make_batch(), cues=torch.rand(2, 10, 48, 48))
    other = replace(batch, cues=batch.cues.flip(0))
    assert model.losses(batch)["class"] != model.losses(other)["class"]
    assert len(model.detect(batch.images, batch.cues, [(96, 96)] * 2)) == 2


# --- pasting --------------------------------------------------------------------------------------------------------


def detections(boxes: list, masks: Tensor, valid_size: tuple[int, int]) -> BoxDetections:
    n = len(boxes)
    return BoxDetections(torch.tensor(boxes).float(), torch.ones(n), torch.ones(n, 3) / 3, masks, valid_size)


def test_rendering_is_bilinear_at_pixel_centres(rng):
    masks = torch.from_numpy(rng.random((3, MASK_SIZE, MASK_SIZE))).float()
    boxes = [[3.2, 1.7, 37.9, 21.3], [0.0, 0.0, 40.0, 30.0], [39.2, 28.9, 40.0, 30.0]]
    drawn = detections(boxes, masks, (30, 40)).render(0, 3, (45, 80))
    for index, (left, top, right, bottom) in enumerate(boxes):
        wanted = oracle.paste(masks[index].numpy(), (left * 2, top * 1.5, right * 2, bottom * 1.5), (45, 80))
        assert np.abs(wanted - 0.5).min() > 1e-6
        assert (drawn[index].numpy() == (wanted > 0.5)).all()


def test_rendering_in_parts_and_at_other_sizes():
    masks = torch.ones(5, MASK_SIZE, MASK_SIZE)
    boxes = [[4.0 * i, 2.0 * i, 4.0 * i + 8, 2.0 * i + 4] for i in range(5)]
    found = detections(boxes, masks, (12, 24))
    whole = found.render(0, 5, (120, 240))
    assert torch.equal(whole, torch.cat([found.render(0, 2, (120, 240)), found.render(2, 9, (120, 240))]))
    for index, drawn in enumerate(whole):
        rows, columns = slice(20 * index, 20 * index + 40), slice(40 * index, 40 * index + 80)
        assert drawn[rows, columns].all()
        assert drawn.sum() == 40 * 80
    assert found.render(3, 3, (5, 5)).shape == (0, 5, 5)
    assert found.render(0, 5, (1, 1)).shape == (5, 1, 1)


def test_cropping_and_pasting_an_ellipse_returns_it():
    """The training target of an ellipse, pasted again, is the ellipse."""
    rows, columns = torch.meshgrid(torch.arange(200.0), torch.arange(300.0), indexing="ij")
    masks = ((rows - 90) / 70) ** 2 + ((columns - 160) / 110) ** 2 < 1
    boxes = mask_boxes(masks[None])
    cells = crop_masks(masks[None], torch.zeros(1, dtype=torch.int64), boxes, MASK_SIZE, 4)
    found = detections(boxes.tolist(), cells.float(), (200, 300))
    ious, _ = best_ious(found, masks[None])
    assert ious.item() > 0.96
    thin = detections([[10.0, 10.0, 10.001, 90.0]], torch.ones(1, MASK_SIZE, MASK_SIZE), (200, 300)).render(
        0, 1, (200, 300)
    )
    assert not thin.any()  # no pixel's centre is in it
