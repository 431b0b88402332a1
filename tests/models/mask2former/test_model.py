import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from masktree.errors import InputError
from masktree.models.config import Mask2FormerConfig
from masktree.models.mask2former import model as mask2former
from masktree.models.mask2former.decoder import QueryDecoder
from masktree.models.mask2former.losses import LossPoints
from masktree.models.mask2former.model import Mask2Former, QueryDetections
from masktree.models.mask2former.scores import DUPLICATE_IOU
from masktree.models.structures import Batch, Targets
from tests.oracles import mask_scores as oracle
from tests.oracles.mask_losses import bilinear

CONFIG = Mask2FormerConfig(
    kind="sohes",
    hidden_dim=32,
    num_heads=4,
    feedforward_dim=64,
    pixel_decoder_layers=1,
    decoder_layers=3,
    num_queries=20,
    max_detections=15,
)


class TinyPyramid(nn.Module):
    """Four convolutions in a row; cues of one channel if they are wanted."""

    def __init__(self, wants_cues: bool = False) -> None:
        super().__init__()
        self.channels = (8, 12, 16, 16)
        self.wants_cues = wants_cues
        widths = (3 + wants_cues, *self.channels)
        strides = (4, 2, 2, 2)
        self.body = nn.ModuleList(
            nn.Conv2d(a, b, s, s) for a, b, s in zip(widths, self.channels, strides, strict=False)
        )

    def pretrained_parameters(self):
        return self.parameters()

    def forward(self, images, cues=None):
        assert (cues is not None) == self.wants_cues
        x = images if cues is None else torch.cat([images, functional.interpolate(cues, images.shape[-2:])], 1)
        maps = []
        for convolution in self.body:
            x = convolution(x).tanh()
            maps.append(x)
        return maps


def build(config=CONFIG, seed=0, **options) -> Mask2Former:
    torch.manual_seed(seed)
    return Mask2Former(config, TinyPyramid(**options))


def planted(size=(64, 96), seed=5, images=2) -> Batch:
    """Coloured boxes within boxes, two trees an image."""
    rng = np.random.default_rng(seed)
    H, W = size
    pixels = torch.zeros(images, 3, H, W)
    targets = []
    for k in range(images):
        masks = torch.zeros(6, H, W, dtype=torch.bool)
        for left in (0, 1):
            x, middle = left * W // 2, W // 4
            for depth, inset in enumerate((0, H // 8, H // 4)):
                box = masks[3 * left + depth]
                box[inset : H - inset, x + inset // 2 : x + 2 * middle - inset // 2] = True
                pixels[k, :, box] = torch.tensor(rng.random((3, 1)), dtype=torch.float32)
        parents = torch.tensor([-1, 0, 1, -1, 3, 4])
        targets.append(Targets(masks, parents, torch.tensor([0, 1, 2, 0, 1, 2])))
    return Batch(pixels, None, targets, torch.arange(images) + seed, [f"image {k}" for k in range(images)])


def part(batch: Batch, k: int) -> Batch:
    return replace(
        batch,
        images=batch.images[k : k + 1],
        targets=batch.targets[k : k + 1],
        seeds=batch.seeds[k : k + 1],
        names=batch.names[k : k + 1],
    )


def without_masks(targets: Targets) -> Targets:
    return Targets(targets.masks[:0], targets.parents[:0], targets.levels[:0])


def total(parts) -> torch.Tensor:
    return torch.stack(list(parts.values())).sum()


# --- the decoder ----------------------------------------------------------------------------------------------------


def same_in_transformers(decoder: QueryDecoder, heads: int, feedforward: int):
    """transformers' decoder with the weights of ours."""
    from transformers import Mask2FormerConfig as Theirs
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerTransformerModule

    (queries, hidden), layers = decoder.query_features.weight.shape, len(decoder.layers)
    config = Theirs(
        hidden_dim=hidden, mask_feature_size=hidden, num_queries=queries, num_attention_heads=heads,
        dim_feedforward=feedforward, decoder_layers=layers + 1, dropout=0.0,
    )  # fmt: skip
    theirs = Mask2FormerTransformerModule(hidden, config)
    ours = decoder.state_dict()
    state = {
        "queries_embedder.weight": ours["query_positions.weight"],
        "queries_features.weight": ours["query_features.weight"],
        "level_embed.weight": ours["level_embed.weight"],
    }
    for kind in ("weight", "bias"):
        state[f"decoder.layernorm.{kind}"] = ours[f"norm.{kind}"]
        for k in range(3):
            state[f"decoder.mask_predictor.mask_embedder.{k}.0.{kind}"] = ours[f"mask_embed.{2 * k}.{kind}"]
        for k in range(layers):
            new, old = f"decoder.layers.{k}", f"layers.{k}"
            projections = [ours[f"{old}.cross_attn.{name}.{kind}"] for name in ("query", "key", "value")]
            state[f"{new}.cross_attn.in_proj_{kind}"] = torch.cat(projections)
            state[f"{new}.cross_attn.out_proj.{kind}"] = ours[f"{old}.cross_attn.out.{kind}"]
            for name, their_name in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj")):
                state[f"{new}.self_attn.{their_name}.{kind}"] = ours[f"{old}.self_attn.{name}.{kind}"]
            for name, their_name in (
                ("cross_attn_norm", "cross_attn_layer_norm"), ("self_attn_norm", "self_attn_layer_norm"),
                ("feedforward_norm", "final_layer_norm"), ("linear1", "fc1"), ("linear2", "fc2"),
            ):  # fmt: skip
                state[f"{new}.{their_name}.{kind}"] = ours[f"{old}.{name}.{kind}"]
    theirs.load_state_dict(state)
    return theirs


def test_decoder_equals_transformers():
    torch.manual_seed(0)
    decoder = QueryDecoder(hidden_dim=32, num_heads=4, feedforward_dim=48, num_layers=4, num_queries=12)
    theirs = same_in_transformers(decoder, 4, 48)
    maps = [torch.randn(2, 32, 2 * s, 3 * s) for s in (1, 2, 4)]
    pixels = torch.randn(2, 32, 16, 24)
    position_embedding = lambda m: theirs.position_embedder(m.shape, m.device, m.dtype)  # noqa: E731
    states, embeddings = decoder(maps, pixels, position_embedding)
    expected = theirs(maps, pixels)
    assert len(states) == len(expected.intermediate_hidden_states) == 5
    for ours, other in zip(states, expected.intermediate_hidden_states, strict=True):
        assert torch.allclose(ours, other.transpose(0, 1), atol=1e-4)
    for ours, other in zip(embeddings, expected.masks_queries_logits, strict=True):
        assert torch.allclose(torch.einsum("bqd,bdhw->bqhw", ours, pixels), other, atol=1e-3)


# --- losses     -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sohes", "unsam"])
def test_every_parameter_gets_a_gradient(kind):
    model = build(replace(CONFIG, kind=kind))
    parts = model.losses(planted())
    names = {"class", "mask", "dice", "class_aux", "mask_aux", "dice_aux"}
    assert set(parts) == names | ({"ancestor"} if kind == "sohes" else set())
    assert all(loss.shape == () and loss.isfinite() and loss > 0 for loss in parts.values())
    # sampling weights begin at zero, so that what they multiply moves from the second step on
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    total(parts).backward()
    optimizer.step()
    optimizer.zero_grad()
    total(model.losses(planted())).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # a key's bias moves all logits of a softmax alike
    assert [name for name in still if not name.endswith("key.bias")] == []


def test_two_images_are_overfitted():
    model, batch = build(replace(CONFIG, decoder_layers=2)), planted(size=(64, 64))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    history = []
    for _ in range(45):
        parts = model.losses(batch)
        optimizer.zero_grad()
        total(parts).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append(total(parts).item())
    assert np.mean(history[-5:]) < 0.45 * history[0]
    found = model.detect(batch.images, None, [(64, 64)] * 2)
    for detections, targets in zip(found, batch.targets, strict=True):
        masks = detections.render(0, 15, (64, 64))
        both = (masks[:, None] & targets.masks).sum((2, 3)) / (masks[:, None] | targets.masks).sum((2, 3)).clamp(min=1)
        assert (both.amax(0) > 0.5).sum() >= 3


@pytest.mark.parametrize("precision", ["autocast", "weights"])
def test_bfloat16_losses_are_close_to_float32(precision):
    model, batch = build(), planted()
    expected = model.losses(batch)
    if precision == "weights":
        model.bfloat16()
        batch = replace(batch, images=batch.images.bfloat16())
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        parts = model.losses(batch)
        detections = model.detect(batch.images, None, [(64, 96), (60, 90)])
    for name, loss in parts.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.15, abs=0.1)
    total(parts).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert detections[0].scores.dtype == detections[0].ancestors.dtype == torch.float32
    assert detections[1].render(0, 3, (30, 45)).shape == (3, 30, 45)


@pytest.mark.parametrize("empty", [(), (0,), (0, 1)])
def test_one_batch_is_the_mean_of_its_parts(empty):
    model, batch = build(), planted()
    second = batch.targets[1]
    targets = [batch.targets[0], Targets(second.masks[:3], second.parents[:3], second.levels[:3])]
    batch = replace(batch, targets=[without_masks(t) if k in empty else t for k, t in enumerate(targets)])
    mean = torch.tensor(sum(len(t.masks) for t in batch.targets) / 2)
    together = model.losses(batch)
    apart = [model.losses(part(batch, k), mean) for k in range(2)]
    for name, loss in together.items():
        assert loss.item() == pytest.approx((apart[0][name].item() + apart[1][name].item()) / 2, rel=1e-4, abs=1e-6)


def test_losses_depend_on_the_seeds_only():
    first, second = build(), build()
    batch = planted()
    torch.manual_seed(1)
    a = first.losses(batch)
    torch.manual_seed(2)
    b = second.losses(batch)
    total(a).backward()
    total(b).backward()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    other = first.losses(replace(batch, seeds=batch.seeds + 100))
    assert not torch.equal(a["mask"], other["mask"])


def test_images_without_masks_have_a_class_loss_only():
    model, batch = build(), planted()
    batch = replace(batch, targets=[without_masks(t) for t in batch.targets])
    parts = model.losses(batch)
    total(parts).backward()
    assert parts["class"] > 0
    assert all(parts[name] == 0 for name in ("mask", "dice", "mask_aux", "dice_aux", "ancestor"))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_single_mask_and_more_masks_than_queries():
    batch = planted(images=1)
    targets = batch.targets[0]
    one = replace(batch, targets=[Targets(targets.masks[:1], targets.parents[:1], targets.levels[:1])])
    for model, given in ((build(), one), (build(replace(CONFIG, num_queries=4)), batch)):
        parts = model.losses(given)
        total(parts).backward()
        assert all(loss.isfinite() for loss in parts.values())


def test_exact_predictions_have_no_loss(monkeypatch):
    model, batch = build(), planted(images=1)
    queries, targets = CONFIG.num_queries, batch.targets[0]
    # one channel of the map for each mask, in an order that the matching must find
    cells = targets.masks[:, 2::4, 2::4].float()
    pixels = torch.zeros(1, 32, 16, 24)
    pixels[0, :6] = 60 * (cells - 0.5)
    embeddings = torch.zeros(1, queries, 32)
    embeddings[0, torch.tensor([7, 2, 9, 0, 4, 11]), torch.arange(6)] = 1
    states = torch.zeros(1, queries, 32)
    states[0, :, 0] = -20
    states[0, [7, 2, 9, 0, 4, 11], 0] = 20
    with torch.no_grad():
        model.class_head.weight.zero_()
        model.class_head.weight[0, 0] = 1
        model.class_head.bias.zero_()
    found = mask2former._QueryOutputs([states], [embeddings], pixels)
    monkeypatch.setattr(model, "_decode_queries", lambda images, cues: found)
    parts = model.losses(batch)
    assert parts["class"] < 1e-6
    assert parts["dice"] < 0.5  # of 5: points within a cell of a border are blended by the interpolation
    assert parts["mask"] < 5
    moved = replace(batch, targets=[replace(targets, masks=targets.masks.flip(1).roll(11, 2))])
    assert model.losses(moved)["mask"] > 4 * parts["mask"]


def test_cues_reach_the_pyramid():
    model, batch = build(wants_cues=True), planted()
    assert model.wants_cues
    batch = replace(batch, cues=torch.rand(2, 1, 32, 48))
    total(model.losses(batch)).backward()
    assert isinstance(model.pyramid, TinyPyramid)
    assert model.pyramid.body[0].weight.grad[:, 3].any()
    assert len(model.detect(batch.images, batch.cues, [(64, 96)] * 2)) == 2


def test_at_most_half_of_the_cells_become_loss_points(monkeypatch):
    counts = []
    draw = LossPoints.draw

    def counted(count, seed, device):
        counts.append(count)
        return draw(count, seed, device)

    monkeypatch.setattr(LossPoints, "draw", counted)
    model = build()
    model.losses(planted())
    model.num_points = 50
    model.losses(planted())
    assert counts == [8 * 24, 8 * 24, 50, 50]


# --- detections -----------------------------------------------------------------------------------------------------


def test_detections_are_the_best_queries():
    model, batch = build(), planted()
    found = model.detect(batch.images, None, [(64, 96), (50, 70)])
    entity, masks, ancestors = model(batch.images)
    for k, (h, w) in enumerate([(64, 96), (50, 70)]):
        inside = masks[k, :, : -(-h // 4), : -(-w // 4)]
        wanted = oracle.scores(entity[k].tolist(), inside.sigmoid().flatten(1).tolist(), DUPLICATE_IOU)
        scores, order = torch.tensor(wanted).sort(descending=True, stable=True)
        assert torch.allclose(found[k].scores, scores[:15], atol=1e-6)
        assert torch.allclose(found[k].logits(0, 15), inside[order[:15]], atol=1e-4)
        expected = ancestors[k][order[:15]][:, order[:15]].fill_diagonal_(0)
        assert torch.allclose(found[k].ancestors, expected, atol=1e-6)
        assert not found[k].scores.requires_grad
        assert found[k].levels is None
    assert build(replace(CONFIG, kind="unsam")).detect(batch.images, None, [(64, 96)] * 2)[0].ancestors is None


def test_detections_do_not_depend_on_the_batch():
    model, batch = build(), planted()
    together = model.detect(batch.images, None, [(64, 96), (50, 70)])[1]
    alone = model.detect(batch.images[1:], None, [(50, 70)])[0]
    assert torch.allclose(together.scores, alone.scores, atol=1e-5)
    assert (together.render(0, 15, (100, 140)) ^ alone.render(0, 15, (100, 140))).float().mean() < 1e-3


def detections(valid_size, cells, seed=0, n=5) -> QueryDetections:
    """Smooth random masks, small ones among them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, n, 5, 5, generator=generator)
    pixels = functional.interpolate(coarse, cells, mode="bicubic")[0] - torch.arange(n)[:, None, None] / 3
    return QueryDetections(torch.ones(n), None, torch.eye(n), pixels, valid_size)


@pytest.mark.parametrize("valid_size", [(64, 96), (61, 96), (64, 90), (33, 7)])
@pytest.mark.parametrize("size", [(64, 96), (150, 211), (20, 31), (1, 1), (400, 3)])
def test_rendering_interpolates_at_pixel_centres(valid_size, size):
    found = detections(valid_size, (16, 24))
    masks = found.render(0, 5, size)
    logits = found.logits(0, 5).numpy()
    rows, columns = logits.shape[1:]
    rng = np.random.default_rng(0)
    for _ in range(150):
        i, y, x = rng.integers(5), rng.integers(size[0]), rng.integers(size[1])
        # of the photograph, then of the cells that it reaches
        v = (y + 0.5) / size[0] * valid_size[0] / (4 * rows)
        u = (x + 0.5) / size[1] * valid_size[1] / (4 * columns)
        value = bilinear(logits[i], u, v)
        if abs(value) > 1e-4:
            assert bool(masks[i, y, x]) == (value > 0)


def test_rendering_at_the_input_size_equals_torch():
    found = detections((64, 96), (16, 24))
    expected = functional.interpolate(found.pixels[None], (64, 96), mode="bilinear")[0]
    differ = (found.render(0, 5, (64, 96)) != (expected > 0)) & (expected.abs() > 1e-4)
    assert not differ.any()


def test_rendering_in_chunks_and_beyond_the_end():
    found = detections((64, 96), (16, 24))
    whole = found.render(0, 5, (70, 90))
    assert torch.equal(torch.cat([found.render(0, 2, (70, 90)), found.render(2, 9, (70, 90))]), whole)
    assert found.render(5, 9, (70, 90)).shape == (0, 70, 90)
    assert whole.any((1, 2))[0]
    far = replace(found, pixels=found.pixels - 100)
    assert not far.render(0, 5, (70, 90)).any()
    assert replace(found, pixels=found.pixels + 100).render(0, 5, (70, 90)).all()


def test_a_mask_of_one_cell_is_not_lost():
    pixels = torch.full((1, 16, 24), -1.0)
    pixels[0, 5, 7] = 1
    found = QueryDetections(torch.ones(1), None, torch.ones(1, 1), pixels, (64, 96))
    mask = found.render(0, 1, (640, 960))[0]
    ys, xs = mask.nonzero().T
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (200, 239, 280, 319)


# --- errors ---------------------------------------------------------------------------------------------------------


def test_a_hidden_width_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="hidden_dim to be a multiple of 32; got 48"):
        build(replace(CONFIG, hidden_dim=48))


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install transformers"):
        build()


def test_transformers_without_the_pixel_decoder_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.models.mask2former.modeling_mask2former", None)
    with pytest.raises(InputError, match=r"expected Mask2FormerPixelDecoder in transformers; got 5"):
        build()
