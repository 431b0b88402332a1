"""ViT-Adapter around small networks that are saved and read by the real loading code."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from masktree.errors import InputError, WeightsError
from masktree.models.pyramid.base import Pyramid
from masktree.models.pyramid.build import build_pyramid
from masktree.models.pyramid.deformable import DeformableAttention, cell_centres
from masktree.models.pyramid.vit_adapter import Extractor, Injector, ViTAdapter
from tests.backbones.test_timm_backbone import KINDS, write_folder

DEPTH = 4
CELLS = {"dino": 8, "dinov2": 16, "dinov2-reg": 16, "dinov3": 16}
HALF = 0.5, 0.5, 0.5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    return {
        name: write_folder(
            root / name,
            KINDS[name].architecture,
            {**KINDS[name].extra, "embed_dim": 32, "depth": DEPTH, "num_heads": KINDS[name].heads},
        )
        for name in CELLS
    }


def build(folder: Path) -> ViTAdapter:
    torch.manual_seed(0)
    adapter = build_pyramid(str(folder), weights=True)
    assert isinstance(adapter, ViTAdapter)
    return adapter


def awake(adapter: ViTAdapter) -> ViTAdapter:
    """As after some training: injectors add something, sampling depends on what is seen."""
    generator = torch.Generator().manual_seed(1)
    for module in adapter.modules():
        drawn: list[torch.Tensor] = [module.gamma] if isinstance(module, Injector) else []
        drawn += (
            [module.sampling_offsets.weight, module.attention_weights.weight]
            if isinstance(module, DeformableAttention)
            else []
        )
        for parameter in drawn:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return adapter


@pytest.mark.parametrize("name", CELLS)
def test_maps_of_any_aspect(name, folders):
    adapter = build(folders[name]).train()
    assert isinstance(adapter, Pyramid)
    assert adapter.token_stride == CELLS[name]
    for H, W in [(32, 32), (32, 160), (96, 64)]:
        with torch.no_grad():
            maps = adapter(torch.rand(2, 3, H, W))
        assert [tuple(plane.shape) for plane in maps] == [(2, 32, H // s, W // s) for s in (4, 8, 16, 32)]
        assert all(bool(plane.isfinite().all()) and float(plane.std()) > 0.5 for plane in maps)
    with pytest.raises(InputError, match="multiples of 32"):
        adapter(torch.rand(1, 3, 32, 48))


@pytest.mark.parametrize("name", CELLS)
def test_the_transformer_starts_unchanged(name, folders):
    adapter = build(folders[name])
    network, patch = adapter.network, KINDS[name].patch
    images = torch.rand(2, 3, 64, 96)
    pixels = (images - adapter.mean) / adapter.std
    tokens, sizes = [], []
    hooks = [
        network.norm.register_forward_hook(lambda *call: tokens.append(call[2])),
        network.patch_embed.register_forward_hook(lambda *call: sizes.append(tuple(call[1][0].shape[2:]))),
    ]
    with torch.no_grad():
        adapter(images)
        awake(adapter)(images)
        for hook in hooks:
            hook.remove()
        scale = patch / adapter.token_stride
        assert set(sizes) == {(int(64 * scale), int(96 * scale))}
        seen = functional.interpolate(pixels, sizes[0], mode="bilinear") if scale != 1 else pixels
        plain = network.forward_features(seen)
    assert torch.allclose(tokens[0], plain, atol=1e-5)
    assert float((tokens[1] - plain).abs().max()) > 0.1


@pytest.mark.parametrize("name", ["dino", "dinov3"])
def test_gradients_reach_every_parameter(name, folders):
    adapter = build(folders[name]).train()
    optimizer = torch.optim.SGD(adapter.parameters(), 1e-2)
    images = torch.rand(2, 3, 64, 64)
    # gamma leaves 0 at the first step, the weights of the injectors' offsets at the second; their queries' norm is next
    for _ in range(3):
        optimizer.zero_grad()
        maps = adapter(images)
        loss = sum((plane * torch.linspace(-1, 1, plane[0].numel()).view(plane[0].shape)).sum() for plane in maps)
        loss.backward()
        grads = {key: parameter.grad for key, parameter in adapter.named_parameters()}
        assert all(grad is not None for grad in grads.values())  # or DDP would wait for them for ever
        optimizer.step()
    assert [key for key, grad in grads.items() if not grad.any()] == []
    pretrained = {id(parameter) for parameter in adapter.pretrained_parameters()}
    assert {key.split(".")[0] for key, parameter in adapter.named_parameters() if id(parameter) in pretrained} == {
        "network"
    }
    assert len(pretrained) == len(list(adapter.network.parameters()))


@pytest.mark.parametrize("name", CELLS)
def test_bfloat16_is_close(name, folders):
    adapter = awake(build(folders[name]))
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        exact = adapter(images)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = adapter(images)
        pure = adapter.to(torch.bfloat16)(images.to(torch.bfloat16))
    assert {plane.dtype for plane in pure} == {torch.bfloat16}
    for coarse in (mixed, pure):
        for got, expected in zip(coarse, exact, strict=True):
            off = (got.float() - expected).square().mean().sqrt()
            assert float(off) < 0.1 * float(expected.std())


def test_images_do_not_depend_on_each_other_nor_on_the_mode(folders, tmp_path):
    dropping = {"embed_dim": 32, "depth": DEPTH, "num_heads": 4, "drop_path_rate": 0.5, "proj_drop_rate": 0.5}
    folder = write_folder(tmp_path / "dropping", "vit_small_patch8_224", {"img_size": 32} | dropping)
    for source in (folders["dinov2-reg"], folder):
        adapter = awake(build(source))
        images = torch.rand(3, 3, 64, 32)
        with torch.no_grad():
            together = adapter.train()(images)
            alone = adapter.eval()(images[1:2])
        for a, b in zip(together, alone, strict=True):
            assert torch.allclose(a[1:2], b, atol=1e-4)


def test_checkpointing_changes_nothing(folders):
    adapter = awake(build(folders["dino"])).train()
    images = torch.rand(1, 3, 32, 64)
    results = []
    for adapter.checkpointing in (False, True):
        adapter.zero_grad()
        maps = adapter(images)
        sum(plane.square().sum() + plane[:, ::2].sum() for plane in maps).backward()
        results.append([*maps, *(parameter.grad.clone() for parameter in adapter.parameters())])
    for kept, again in zip(*results, strict=True):
        assert torch.allclose(kept, again, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", [8, 16])
def test_tokens_and_cells_meet_where_they_lie(cell):
    """Each side finds the other's own coordinates where nothing but places and averages is left of the attention."""
    dim, size = 16, (256, 384)
    grid = size[0] // cell, size[1] // cell
    shapes = [(size[0] // s, size[1] // s) for s in (8, 16, 32)]
    injector, extractor = Injector(dim, 2), Extractor(dim, 2)
    for module in (injector, extractor):
        module.add_module("feature_norm", nn.Identity())
        attention = module.attention
        nn.init.zeros_(attention.sampling_offsets.bias)
        nn.init.eye_(attention.value_proj.weight)
        nn.init.eye_(attention.output_proj.weight)
    nn.init.ones_(injector.gamma)
    nn.init.zeros_(extractor.fc2.weight)
    nn.init.zeros_(extractor.fc2.bias)

    def coordinates(places: list) -> torch.Tensor:
        return functional.pad(cell_centres(places), (0, dim - 2))[None]

    with torch.no_grad():
        to_tokens = injector(torch.zeros(1, grid[0] * grid[1], dim), grid, coordinates(shapes), shapes)
        to_cells = extractor(torch.zeros_like(coordinates(shapes)), shapes, coordinates([grid]), grid)
    for found, own in ((to_tokens, coordinates([grid])), (to_cells, coordinates(shapes))):
        # next to the border a part of what is sampled lies outside
        x, y = own[0, :, 0] * size[1], own[0, :, 1] * size[0]
        inside = (x > 16) & (x < size[1] - 16) & (y > 16) & (y < size[0] - 16)
        assert torch.allclose(found[0, inside], own[0, inside], atol=1e-5)


@pytest.mark.parametrize(("depth", "last"), [(4, 0), (6, 0), (12, 2), (13, 2)])
def test_blocks_are_shared_out(depth, last):
    adapter = ViTAdapter(tiny_vit(depth), HALF, HALF)
    assert [block for group in adapter.block_groups for block in group] == list(range(depth))
    assert adapter.block_groups[0][-1] == last
    assert max(map(len, adapter.block_groups)) - min(map(len, adapter.block_groups)) <= 1
    assert [len(extractors) for extractors in adapter.extractors] == [1, 1, 1, 3]


def tiny_vit(depth: int = 4, **arguments) -> nn.Module:
    return timm.create_model(
        "vit_small_patch16_224",
        **({"embed_dim": 16, "depth": depth, "num_heads": 2, "num_classes": 0, "dynamic_img_size": True} | arguments),
    )


def test_heads_are_those_of_the_transformer():
    adapter = ViTAdapter(tiny_vit(embed_dim=48, num_heads=6), HALF, HALF)
    assert adapter.channels == (48, 48, 48, 48)
    assert {module.heads for module in adapter.modules() if isinstance(module, DeformableAttention)} == {6}
    assert adapter.injectors[0].attention.value_proj.out_features == 24


def test_pooling_networks_have_no_idle_parameters():
    adapter = ViTAdapter(tiny_vit(global_pool="avg"), HALF, HALF)
    adapter(torch.rand(1, 3, 32, 32))[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.network.parameters())


def test_networks_that_do_not_fit_are_refused(tmp_path, folders):
    with pytest.raises(WeightsError, match="got 3 blocks"):
        ViTAdapter(tiny_vit(depth=3), HALF, HALF)
    with pytest.raises(WeightsError, match="patches of 56 pixels"):
        ViTAdapter(tiny_vit(patch_size=56), HALF, HALF)
    mixed = timm.create_model(
        "vit_small_patch16_rope_mixed_224", embed_dim=32, depth=4, num_heads=2, dynamic_img_size=True
    )
    with pytest.raises(WeightsError, match="a position embedding for each block"):
        ViTAdapter(mixed, HALF, HALF)
