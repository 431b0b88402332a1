from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from masktree.errors import InputError
from masktree.models.build import read_model, save_pretrained
from masktree.models.config import Mask2FormerConfig, PromptableConfig, from_json, to_json
from masktree.models.mask2former.losses import sample_features
from masktree.models.mask2former.model import Mask2Former
from masktree.models.promptable.generate import NMS_IOU, dense_mask_nms, generate_masks, grid_points
from masktree.models.promptable.model import Promptable
from masktree.models.promptable.predictions import NUM_MASK_TOKENS, mask_logits
from masktree.models.promptable.prompt_encoder import Prompts
from masktree.models.structures import Batch, Targets
from masktree.models.trees import tree_of
from masktree.train.optimiser import Optimisation, build_optimiser, clip_gradients, lr_factor, set_lr
from tests.models.mask2former.test_model import TinyPyramid, part, planted, total, without_masks
from tests.oracles import clicks as oracle
from tests.oracles.mask_losses import bilinear

CONFIG = PromptableConfig(
    image_size=96,
    hidden_dim=32,
    num_heads=4,
    feedforward_dim=64,
    pixel_decoder_layers=1,
    embedding_stride=8,
    prompts_per_image=4,
    max_correction_clicks=1,
    points_per_side=6,
)
NAN = math.nan


def build(config=CONFIG, seed=0, **options) -> Promptable:
    torch.manual_seed(seed)
    return Promptable(config, TinyPyramid(**options))


def random_prompts(n: int, k: int = 2, size=(64, 96), seed: int = 0) -> Prompts:
    """n prompts of every kind for an image of (height, width)."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(n, k, 2, generator=generator) * torch.tensor([size[1], size[0]])
    labels = torch.randint(-1, 2, (n, k), generator=generator)
    labels[:, 0] = 1
    corners = torch.rand(n, 2, 2, generator=generator).sort(1)[0] * torch.tensor([size[1], size[0]])
    boxes = torch.where(torch.rand(n, 1, generator=generator) < 0.5, corners.flatten(1), NAN)
    masks = torch.randn(n, size[0] // 4, size[1] // 4, generator=generator)
    masks[::3, 0, 0] = NAN
    g = torch.where(torch.rand(n, generator=generator) < 0.5, torch.rand(n, generator=generator), NAN)
    return Prompts(points, labels, boxes, masks, g)


def rows(prompts: Prompts, start: int, stop: int) -> Prompts:
    """Some of the prompts."""
    return Prompts(*(None if value is None else value[start:stop] for value in vars(prompts).values()))


@pytest.fixture(scope="module")
def model() -> Promptable:
    return build().eval()


@pytest.fixture(scope="module")
def embedding(model):
    with torch.inference_mode():
        return model.encode(planted().images)


# --- encoding and decoding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [8, 16, 32])
def test_images_of_any_size_are_encoded(cell):
    model = build(replace(CONFIG, embedding_stride=cell)).eval()
    for size in ((32, 32), (64, 96), (160, 32)):
        with torch.inference_mode():
            embedding = model.encode(torch.rand(2, 3, *size))
            predictions = model.decode(embedding[1], random_prompts(3, size=size))
        assert embedding.size == size
        assert embedding.cells.shape == (2, 32, size[0] // cell, size[1] // cell)
        assert embedding.positions.shape == (size[0] // cell * size[1] // cell, 32)
        assert predictions.logits().shape == (3, NUM_MASK_TOKENS, size[0] // 4, size[1] // 4)
        assert predictions.ious.shape == (3, NUM_MASK_TOKENS)
        assert predictions.ious.min() >= 0
        assert predictions.ious.max() <= 1


def test_prompts_are_decoded_independently(model, embedding):
    prompts = random_prompts(9)
    with torch.inference_mode():
        together = model.decode(embedding[0], prompts)
        for start, stop in ((0, 1), (1, 4), (4, 9)):
            some = model.decode(embedding[0], rows(prompts, start, stop))
            assert len(some) == stop - start
            assert torch.allclose(some.logits(), together.logits(slice(start, stop)), atol=1e-4)
            assert torch.allclose(some.ious, together.ious[start:stop], atol=1e-5)
        other = model.decode(embedding[1], prompts)
        assert (other.logits() - together.logits()).abs().max() > 0.01


def test_padding_and_the_order_of_points_do_not_matter(model, embedding):
    prompts = replace(random_prompts(4, k=3), boxes=None)
    padded = replace(
        prompts,
        points=torch.cat([torch.full((4, 2, 2), NAN), prompts.points.flip(1)], 1),
        labels=torch.cat([torch.full((4, 2), -1), prompts.labels.flip(1)], 1),
        boxes=torch.full((4, 4), NAN),
    )
    with torch.inference_mode():
        a, b = (model.decode(embedding[0], some) for some in (prompts, padded))
    assert torch.allclose(a.logits(), b.logits(), atol=1e-4)
    assert torch.allclose(a.ious, b.ious, atol=1e-5)


def test_every_kind_of_prompt_changes_the_masks(model, embedding):
    base = Prompts(torch.tensor([[[30.0, 30.0]]]), torch.ones(1, 1, dtype=torch.int64))
    changes = [
        {"points": base.points + 20},
        {"labels": base.labels - 1},
        {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]])},
        {"masks": torch.ones(1, 16, 24)},
        {"granularity": torch.tensor([0.5])},
    ]
    with torch.inference_mode():
        before = model.decode(embedding[0], base).logits()
        for change in changes:
            after = model.decode(embedding[0], replace(base, **change)).logits()
            assert (after - before).abs().max() > 1e-3, change
        nothing = model.decode(embedding[0], Prompts(torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.int64)))
    assert nothing.logits().isfinite().all()


def test_logits_are_products_with_pixel_embeddings_plus_a_coarse_map(model, embedding):
    with torch.inference_mode():
        predictions = model.decode(embedding[0], random_prompts(2))
        logits = predictions.logits(slice(1, 2), slice(2, 4))
        points = torch.rand(20, 2)
        sampled = predictions.logits_at(points, sample_features(predictions.pixels, points))
    for m, (y, x) in enumerate([(0, 0), (5, 17)]):
        vector, pixel = predictions.embeddings[1, 2 + m], predictions.pixels[:, y, x]
        coarse = bilinear(predictions.coarse[1, 2 + m].numpy(), (x + 0.5) / 24, (y + 0.5) / 16)
        assert logits[0, m, y, x].item() == pytest.approx(float(vector @ pixel) + coarse, abs=1e-4)
    which = torch.tensor([0, 3])
    assert torch.allclose(predictions.selected_logits(which)[1], predictions.logits()[1, 3], atol=1e-5)
    for i in (0, 7):
        x, y = points[i].tolist()
        maps = (
            (predictions.embeddings[1, 5] @ predictions.pixels.flatten(1)).unflatten(0, (16, 24)),
            predictions.coarse[1, 5],
        )
        expected = sum(bilinear(one.numpy(), x, y) for one in maps)
        assert sampled[1, 5, i].item() == pytest.approx(expected, abs=1e-4)


def test_invalid_inputs_are_refused(model, embedding):
    with pytest.raises(InputError, match=r"expected one image; got 2; decode one by one: embedding\[i\]"):
        model.decode(embedding, random_prompts(1))
    with pytest.raises(InputError, match=r"earlier masks of \(16, 24\) cells; got \(256, 256\)"):
        model.decode(embedding[0], replace(random_prompts(2), masks=torch.zeros(2, 256, 256)))
    with pytest.raises(InputError, match="embedding_stride of 8, 16 or 32 pixels; got 4"):
        replace(CONFIG, embedding_stride=4)
    with pytest.raises(InputError, match="hidden_dim to be a multiple of 2 x num_heads; got 32 and 12"):
        replace(CONFIG, num_heads=12)
    with pytest.raises(InputError, match="hidden_dim to be a multiple of 32; got 48"):
        build(replace(CONFIG, hidden_dim=48))


# --- learning -------------------------------------------------------------------------------------------------------


def test_every_parameter_gets_a_gradient_with_and_without_masks():
    batch = planted()
    empty = replace(batch, targets=[without_masks(targets) for targets in batch.targets])
    half = replace(batch, targets=[batch.targets[0], empty.targets[1]])
    for given in (batch, half, empty):
        model = build()
        losses = model.losses(given)
        total(losses).backward()
        assert set(losses) == {"mask", "dice", "iou", "mask_all", "dice_all", "iou_all"}
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
        zero = {name for name, p in model.named_parameters() if not p.grad.any()}
        if given is empty:
            assert total(losses) == 0
            assert zero == {name for name, _ in model.named_parameters()}
        else:  # sampling offsets are new: the weights that make them of levels are 0
            assert zero <= {"pixel_decoder.level_embed"}


def test_losses_are_repeatable_and_do_not_use_the_global_generator():
    model, batch = build(), planted()
    torch.manual_seed(1)
    first = model.losses(batch)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    again = model.losses(batch)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = model.losses(replace(batch, seeds=batch.seeds + 1))
    assert all(first[name] != other[name] for name in first)


def test_only_the_first_and_the_last_round_are_trained(monkeypatch):
    model, batch, clicks, learned = build(replace(CONFIG, max_correction_clicks=4)), planted(), [], []
    decode = model.decode

    def watched(embedding, prompts):
        clicks.append(prompts.points.shape[1])
        learned.append(torch.is_grad_enabled())
        return decode(embedding, prompts)

    monkeypatch.setattr(model, "decode", watched)
    numbers = set()
    for seed in range(6):
        clicks.clear()
        learned.clear()
        model.losses(part(replace(batch, seeds=batch.seeds + seed), 0))
        assert clicks == list(range(1, len(clicks) + 1))
        assert learned == [True, *[False] * (len(clicks) - 2), True]
        numbers.add(len(clicks) - 1)
    assert len(numbers) > 1
    assert numbers <= {1, 2, 3, 4}
    with torch.no_grad():
        model.losses(part(batch, 0))
    assert not any(learned[-2:])  # a loss without gradients stays one


def test_mean_over_processes_is_the_loss_of_all_images():
    model, batch = build(), planted()
    fewer = Targets(batch.targets[1].masks[:2], torch.tensor([-1, 0]), torch.tensor([0, 1]))
    batch = replace(batch, targets=[batch.targets[0], fewer])
    together = model.losses(batch)
    mean = torch.tensor(8 / 2)
    apart = [model.losses(part(batch, k), mean) for k in (0, 1)]
    for name, value in together.items():
        assert sum(one[name].item() for one in apart) / 2 == pytest.approx(value.item(), rel=1e-4)


def test_bfloat16_losses_are_close_to_float32():
    model, batch = build(), planted()
    exact = model.losses(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model.losses(batch)
        total(rough).backward()
    for name in exact:
        assert rough[name].dtype == torch.float32
        assert rough[name].item() == pytest.approx(exact[name].item(), rel=0.1, abs=0.02)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def two_boxes(count: int, side: int = 64) -> tuple[torch.Tensor, list[Targets]]:
    """Images of a box in a box, of any colours, on the cells of the finest map."""
    rng = np.random.default_rng(0)
    colours = rng.permutation(np.stack(np.meshgrid(*[[0.1, 0.5, 0.9]] * 3), -1).reshape(-1, 3))
    images, targets = torch.zeros(count, 3, side, side), []
    for image in images:
        masks = torch.zeros(2, side, side, dtype=torch.bool)
        height, width, top, left = 4 * rng.integers([8, 8, 1, 1], [12, 12, 4, 4])
        masks[0, top : top + height, left : left + width] = True
        masks[1, top + 8 : top + height - 8, left + 8 : left + width - 8] = True
        for mask, paint in zip((~masks[0], *masks), rng.permutation(colours)[:3], strict=False):
            image[:, mask] = torch.tensor(paint, dtype=torch.float32)[:, None]
        targets.append(Targets(masks, torch.tensor([-1, 0]), torch.tensor([0, 1])))
    return images, targets


def learn(model: Promptable, images: torch.Tensor, targets: list[Targets], steps: int, rate: float) -> list[float]:
    settings = Optimisation(
        lr=rate, weight_decay=0.01, steps=steps, warmup_steps=5, schedule="cosine", batch_size=8, ema_decay=0.9
    )
    optimiser, losses = build_optimiser(model, settings), []
    for step in range(steps):
        set_lr(optimiser, settings.lr * lr_factor(step, settings))
        seeds = torch.arange(len(images)) + 100 * step
        loss = total(model.losses(Batch(images, None, targets, seeds, ["planted"] * len(images))))
        loss.backward()
        clip_gradients(model.parameters(), settings)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a & b).sum() / (a | b).sum()).item()


def test_nested_boxes_are_learned_and_selected_by_granularity():
    images, targets = two_boxes(4)
    model = build(replace(CONFIG, image_size=64, prompts_per_image=3))
    losses = learn(model, images, targets, steps=200, rate=4e-3)
    assert np.mean(losses[-5:]) < 0.4 * losses[0]
    model.eval()
    with torch.inference_mode():
        embedding = model.encode(images)
        for i, own in enumerate(targets):
            click = own.masks[1].nonzero().float().mean(0).flip(0).expand(3, 1, 2)
            g = torch.tensor([1.0, 0.1, NAN])
            predictions = model.decode(embedding[i], Prompts(click, torch.ones(3, 1, dtype=torch.int64), granularity=g))
            found = (predictions.logits() > 0).repeat_interleave(4, 2).repeat_interleave(4, 3)
            for k in (0, 1):
                assert iou(found[k, 0], own.masks[k]) > 0.8
                assert max(iou(found[2, m], own.masks[k]) for m in range(1, NUM_MASK_TOKENS)) > 0.8
            # clicked everywhere, both boxes are among the best, before what is made of the background
            best = generate_masks(model.decode, embedding[i], (64, 64), model.config).render(0, 5, (64, 64))
            assert all(max(iou(mask, box) for mask in best) > 0.8 for box in own.masks)


# --- generating all masks ------------------------------------------------------------------------------------------


def test_grid_points_have_the_same_spacing_along_both_sides():
    points = grid_points((60, 90), 6)
    assert points.shape == (24, 2)
    assert points[:3].tolist() == [[7.5, 7.5], [22.5, 7.5], [37.5, 7.5]]
    assert points[-1].tolist() == [82.5, 52.5]
    assert grid_points((1, 1000), 32)[:, 1].tolist() == [0.5] * 32
    assert grid_points((5, 5), 1).tolist() == [[2.5, 2.5]]


def test_dense_mask_nms_equals_the_definition():
    rng = np.random.default_rng(0)
    bases = rng.random((6, 50)) < 0.5
    masks = bases[rng.integers(0, 6, 40)] ^ (rng.random((40, 50)) < 0.06)
    kept = dense_mask_nms(torch.tensor(masks), 0.7)
    assert kept.tolist() == oracle.dense_mask_nms(masks.tolist(), 0.7)
    assert 6 <= len(kept) < 40
    assert dense_mask_nms(torch.zeros(0, 9, dtype=torch.bool)).tolist() == []


def test_generated_masks_are_sorted_and_distinct(model):
    batch = planted()
    valid_sizes = [(64, 96), (50, 70)]
    found = model.detect(batch.images, None, valid_sizes)
    for own, size in zip(found, valid_sizes, strict=True):
        assert 0 < len(own.scores) <= CONFIG.max_detections
        assert own.scores.tolist() == sorted(own.scores.tolist(), reverse=True)
        assert own.logits(0, 2).shape == (2, -(-size[0] // 4), -(-size[1] // 4))
        masks = (own.logits(0, len(own.scores)) > 0).flatten(1)
        assert masks.any(1).all()
        assert oracle.dense_mask_nms(masks.tolist(), NMS_IOU) == list(range(len(masks)))
        tree = tree_of(own, (100, 140), min_area=1)
        assert tree.size == (100, 140)
        assert (np.diff(tree.scores) <= 0).all()


def test_max_detections_hold_and_batching_changes_nothing(monkeypatch):
    model = build(replace(CONFIG, max_detections=5)).eval()
    images = planted().images[:1]
    whole = model.detect(images, None, [(64, 96)])[0]
    monkeypatch.setattr("masktree.models.promptable.generate._BATCH_BYTES", 1)  # point by point
    parts = model.detect(images, None, [(64, 96)])[0]
    assert len(whole.scores) == 5
    assert torch.allclose(whole.scores, parts.scores, atol=1e-5)
    assert torch.allclose(whole.logits(0, 5), parts.logits(0, 5), atol=1e-3)


def test_an_image_may_have_no_masks(model, embedding):
    def decode_empty(seen, prompts):
        predictions = model.decode(seen, prompts)
        return replace(
            predictions, embeddings=0 * predictions.embeddings, coarse=torch.full_like(predictions.coarse, -1.0)
        )

    with torch.inference_mode():
        found = generate_masks(decode_empty, embedding[0], (64, 96), CONFIG)
    assert found.scores.shape == (0,)
    assert found.render(0, 0, (64, 96)).shape == (0, 64, 96)
    assert len(tree_of(found, (64, 96))) == 0


def test_bfloat16_detections_render_outside_of_autocast(model):
    batch = planted()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.detect(batch.images, None, [(64, 96)] * 2)
    assert found[0].render(0, 2, (64, 96)).shape == (2, 64, 96)


# --- weights --------------------------------------------------------------------------------------------------------


def test_encoder_weights_have_the_names_of_other_models():
    other = Mask2Former(
        Mask2FormerConfig(
            kind="sohes", hidden_dim=32, num_heads=4, feedforward_dim=64, pixel_decoder_layers=1, num_queries=5
        ),
        TinyPyramid(),
    )
    own, theirs = build().state_dict(), other.state_dict()
    shared = {name for name in own if name.startswith(("pyramid.", "pixel_decoder."))}
    assert shared == {name for name in theirs if name.startswith(("pyramid.", "pixel_decoder."))}
    assert all(own[name].shape == theirs[name].shape for name in shared)


def test_a_model_comes_back_from_its_folder(tmp_path):
    from masktree.backbones.texture import NUM_CUES
    from masktree.models.build import build_model

    model = build_model(replace(CONFIG, backbone="embedded"), weights=True).eval()
    save_pretrained(model, tmp_path)
    back = read_model(tmp_path)
    assert isinstance(back, Promptable)
    assert back.config == model.config == from_json(to_json(model.config))
    seen = torch.rand(1, 3, 64, 96), torch.rand(1, NUM_CUES, 32, 48)
    with torch.inference_mode():
        a, b = (one.decode(one.encode(*seen), random_prompts(2)).logits() for one in (model, back))
    assert torch.equal(a, b)


def test_mask_logits_are_float32():
    embeddings = torch.randn(2, 1, 8).bfloat16()
    logits = mask_logits(embeddings, torch.zeros(2, 1, 2, 2).bfloat16(), torch.randn(8, 4, 4))
    assert logits.dtype == torch.float32
