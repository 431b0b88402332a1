"""Pyramids by name: the embedded network's, a ResNet's, and which names give none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from masktree.backbones import embedded, timm_networks
from masktree.backbones.texture import NUM_CUES
from masktree.backbones.weights import IMAGENET_MEAN, IMAGENET_STD, PUBLISHED_WEIGHTS
from masktree.errors import InputError, WeightsError
from masktree.models.pyramid.base import Pyramid
from masktree.models.pyramid.build import build_pyramid
from masktree.models.pyramid.convolutional import EmbeddedPyramid, ResNetPyramid
from masktree.models.pyramid.vit_adapter import ViTAdapter
from tests.backbones.test_timm_backbone import random_state, write_folder

SMALL_VIT = {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    return {
        "resnet": write_folder(root / "resnet", "test_resnet", {}),
        "vit": write_folder(root / "vit", "vit_small_patch16_224", SMALL_VIT),
    }


def inputs(pyramid: Pyramid, b: int = 2, H: int = 64, W: int = 96) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(b, 3, H, W, generator=generator)
    return images, torch.rand(b, NUM_CUES, H // 2, W // 2, generator=generator) if pyramid.wants_cues else None


@pytest.mark.parametrize("kind", ["embedded", "resnet", "vit"])
def test_what_every_pyramid_keeps_to(kind, folders):
    pyramid = build_pyramid("embedded" if kind == "embedded" else str(folders[kind]), weights=True)
    assert isinstance(pyramid, Pyramid)
    for H, W in [(32, 32), (64, 160)]:
        maps = pyramid(*inputs(pyramid, 2, H, W))
        expected = [(2, d, H // s, W // s) for d, s in zip(pyramid.channels, (4, 8, 16, 32), strict=True)]
        assert [tuple(plane.shape) for plane in maps] == expected
    sum(plane.square().sum() for plane in maps).backward()
    for name, parameter in pyramid.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    pretrained = list(pyramid.pretrained_parameters())
    assert pretrained
    assert all(parameter.requires_grad for parameter in pretrained)
    images, cues = inputs(pyramid)
    with pytest.raises(InputError, match=r"multiples of 32; got \(2, 3, 64, 80\)"):
        pyramid(images[..., :80], cues)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for coarse, exact in zip(pyramid(images, cues), pyramid(images.float(), cues), strict=True):
            assert float((coarse.float() - exact.float()).abs().mean()) < 0.05 * float(exact.float().std())


@pytest.mark.parametrize("kind", ["embedded", "resnet", "vit"])
def test_a_structure_takes_the_tensors_of_a_run(kind, folders, monkeypatch):
    name = "embedded" if kind == "embedded" else str(folders[kind])
    trained = build_pyramid(name, weights=True).eval()
    no_weight_files(monkeypatch)
    structure = build_pyramid(name, weights=False).eval()
    structure.load_state_dict(trained.state_dict(), strict=True)
    with torch.no_grad():
        for a, b in zip(trained(*inputs(trained)), structure(*inputs(trained)), strict=True):
            assert torch.equal(a, b)


def no_weight_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_):
        raise AssertionError("a weight file was looked for")

    for function in ("download_weights", "read_state_dict", "sha256_of"):
        monkeypatch.setattr(timm_networks, function, refuse)
    monkeypatch.setattr(embedded, "WEIGHT_FILE", Path("nowhere.safetensors"))


def test_the_embedded_pyramid_is_the_network(monkeypatch):
    network = embedded.load_embedded_network(embedded.WEIGHT_FILE, embedded.EMBEDDED_WEIGHTS.sha256)
    pyramid = build_pyramid("embedded", weights=True)
    assert isinstance(pyramid, EmbeddedPyramid)
    assert pyramid.channels == (48 + 64 + 64, 96 + 64, 160 + 64, 224)
    images, cues = inputs(pyramid)
    stages, mixed = [], []
    for stage in network.stages:
        stage.register_forward_hook(lambda *call: stages.append(call[2]))
    for smooth in network.smooth:
        smooth.register_forward_hook(lambda *call: mixed.insert(0, call[2].relu()))  # called from coarse to fine
    with torch.no_grad():
        _, embeddings = network(images, cues)
        maps = pyramid(images, cues)
        whole = stages[3] + network.context(stages[3].mean((2, 3)))[:, :, None, None]
    parts = [stages[0], mixed[0], embeddings], [stages[1], mixed[1]], [stages[2], mixed[2]], [whole]
    for plane, part in zip(maps, parts, strict=True):
        assert torch.equal(plane, torch.cat(part, 1))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in pyramid.modules())
    with pytest.raises(InputError, match="expected cues"):
        pyramid(images, None)
    no_weight_files(monkeypatch)
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
        build_pyramid("embedded", weights=True)


def test_a_resnet_gives_its_stages(folders):
    pyramid = build_pyramid(str(folders["resnet"]), weights=True)
    assert isinstance(pyramid, ResNetPyramid)
    network = timm.create_model("test_resnet", features_only=True, out_indices=(1, 2, 3, 4))
    network.load_state_dict(random_state(timm.create_model("test_resnet", num_classes=0)), strict=False)
    images, _ = inputs(pyramid)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        for plane, expected in zip(pyramid(images), network.eval()((images - mean) / std), strict=True):
            assert torch.allclose(plane, expected, rtol=1e-4, atol=1e-5)
    assert pyramid.channels == tuple(network.feature_info.channels())


def test_batch_norm_never_moves(folders):
    pyramid = build_pyramid(str(folders["resnet"]), weights=True).train()
    before = {name: value.clone() for name, value in pyramid.state_dict().items()}
    norms = tuple(name.removesuffix("running_mean") for name in before if name.endswith("running_mean"))
    frozen = {name for name in before if name.startswith(norms)}
    assert norms
    optimizer = torch.optim.SGD(pyramid.parameters(), 0.1, weight_decay=0.1)
    images, _ = inputs(pyramid)
    sum(plane.mean() for plane in pyramid(images)).backward()
    optimizer.step()
    moved = {name for name, value in pyramid.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(before) - frozen
    with torch.no_grad():
        alone, together = pyramid(images[:1]), pyramid(images)
    assert all(torch.allclose(a, b[:1], atol=1e-5) for a, b in zip(alone, together, strict=True))


def test_trained_batch_norm_normalises_by_the_batch_unless_the_backbone_is_frozen(folders):
    pyramid = build_pyramid(str(folders["resnet"]), weights=True, train_norm=True).train()
    assert all(parameter.requires_grad for parameter in pyramid.parameters())
    first = pyramid.network.bn1
    images, _ = inputs(pyramid)
    x = pyramid.network.conv1((images - pyramid.mean) / pyramid.std)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    expected = (x - mean[:, None, None]) / (variance[:, None, None] + first.eps).sqrt()
    expected = expected * first.weight[:, None, None] + first.bias[:, None, None]
    before = first.running_mean.clone()
    assert torch.allclose(first(x), expected, atol=1e-4)
    assert torch.allclose(first.running_mean, 0.9 * before + 0.1 * mean, atol=1e-5)
    pyramid.eval()
    with torch.no_grad():
        assert torch.allclose(pyramid(images[:1])[0], pyramid(images)[0][:1], atol=1e-5)
    pyramid.requires_grad_(False).train()
    assert not first.training  # a learning rate of 0 freezes it


def test_listed_names_and_local_files(tmp_path, monkeypatch):
    monkeypatch.setitem(
        PUBLISHED_WEIGHTS, "small", replace(PUBLISHED_WEIGHTS["dino-vits16"], name="small", architecture="test_vit")
    )
    file = tmp_path / "small.safetensors"
    state = random_state(timm.create_model("test_vit", num_classes=0))
    save_file(state, file)
    pyramid = build_pyramid(f"small@{file}", weights=True)
    assert isinstance(pyramid, ViTAdapter)
    assert torch.equal(pyramid.network.blocks[3].mlp.fc1.weight, state["blocks.3.mlp.fc1.weight"])
    with pytest.raises(WeightsError, match="not a file"):
        build_pyramid("small@nowhere.safetensors", weights=True)
    no_weight_files(monkeypatch)
    for name in ("small", "small@nowhere.safetensors"):
        structure = build_pyramid(name, weights=False)
        assert structure.state_dict().keys() == pyramid.state_dict().keys()


def test_of_a_folder_the_structure_needs_its_description_alone(folders, tmp_path):
    (tmp_path / "config.json").write_text((folders["vit"] / "config.json").read_text())
    assert isinstance(build_pyramid(str(tmp_path), weights=False), ViTAdapter)
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        build_pyramid(str(tmp_path), weights=True)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json"):
        build_pyramid(str(tmp_path), weights=False)


@pytest.mark.parametrize("weights", [True, False])
def test_what_is_no_pyramid(weights, tmp_path):
    with pytest.raises(WeightsError, match="did you mean dino-vitb8"):
        build_pyramid("dino-vitb9", weights=weights)
    with pytest.raises(WeightsError, match="made by hand"):
        build_pyramid("texture", weights=weights)
    dilated = write_folder(tmp_path / "dilated", "test_resnet", {"output_stride": 16})
    with pytest.raises(WeightsError, match="stages at strides"):
        build_pyramid(str(dilated), weights=weights)


def test_the_start_follows_the_seed(folders):
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(build_pyramid(str(folders["vit"]), weights=True).state_dict())
    key = "spatial_prior.stages.0.0.0.weight"
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not torch.equal(drawn[0][key], drawn[2][key])


def test_the_embedded_network_takes_other_weights_by_path(tmp_path):
    own = tmp_path / "own.safetensors"
    save_file({k: v + 1 if k == "context.bias" else v for k, v in load_file(embedded.WEIGHT_FILE).items()}, own)
    other, shipped = (build_pyramid(name, weights=True) for name in (f"embedded@{own}", "embedded"))
    assert isinstance(other, EmbeddedPyramid)
    difference = other.network.context.bias - shipped.network.context.bias
    assert torch.allclose(difference, torch.ones(()), atol=1e-2)
    build_pyramid("embedded@/nowhere", weights=False)  # a run's own tensors come later
    with pytest.raises(WeightsError, match="got no file"):
        build_pyramid("embedded@/nowhere", weights=True)
