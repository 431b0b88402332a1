"""Features of timm networks against the published formulas; all weights are random, made and saved here."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from masktree.backbones import Backbone, load_backbone
from masktree.backbones.device import resolve_device
from masktree.backbones.timm_backbone import TimmBackbone
from masktree.backbones.timm_networks import load_timm_network
from masktree.backbones.weights import IMAGENET_MEAN, IMAGENET_STD, PUBLISHED_WEIGHTS
from masktree.errors import InputError, WeightsError
from tests.oracles import attention, released


@dataclass(frozen=True)
class Kind:
    """A small network of the same make as a published one."""

    architecture: str
    patch: int
    heads: int
    eps: float
    extra: dict
    rope: bool = False


SMALL = {"embed_dim": 32, "depth": 3}
KINDS = {
    "dino": Kind("vit_small_patch8_224", 8, 4, 1e-6, {"img_size": 32}),
    "dinov2": Kind("vit_small_patch14_dinov2", 14, 2, 1e-6, {"img_size": 56}),
    "dinov2-reg": Kind("vit_small_patch14_reg4_dinov2", 14, 4, 1e-6, {"img_size": 56}),
    "dinov3": Kind("vit_small_patch16_dinov3", 16, 2, 1e-5, {}, rope=True),
    "dinov3-plus": Kind("vit_small_plus_patch16_dinov3", 16, 2, 1e-5, {}, rope=True),
    "dinov3-qkvb": Kind("vit_small_patch16_dinov3_qkvb", 16, 2, 1e-5, {}, rope=True),
}


def random_state(network: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of unit gain: a net that starts near the identity would hide mistakes in the blocks."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, old in network.state_dict().items():
        draw = torch.randn(old.shape, generator=generator)
        fan = old[0].numel() if old.ndim > 1 and name.endswith("weight") else 4
        state[name] = draw / fan**0.5 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        if "running_var" in name or "num_batches" in name:
            state[name] = old.clone()
    return state


def write_folder(folder: Path, architecture: str, model_args: dict, **config: object) -> Path:
    network = timm.create_model(architecture, num_classes=0, **model_args)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(random_state(network), folder / "model.safetensors")
    cfg = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "license": "CC0-1.0"}
    content = {"architecture": architecture, "model_args": model_args, "pretrained_cfg": cfg} | config
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    return {
        name: write_folder(root / name, kind.architecture, {**SMALL, "num_heads": kind.heads, **kind.extra})
        for name, kind in KINDS.items()
    }


def load(folder: Path, **options) -> TimmBackbone:
    backbone = load_backbone(str(folder), "cpu", **options)
    assert isinstance(backbone, TimmBackbone)
    return backbone


def expected(folder: Path, kind: Kind, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Oracle's keys, turned keys and tokens as (h, w, d) grids."""
    network, _ = load_timm_network(str(folder))
    state = {name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()}
    for block in range(SMALL["depth"]):  # DINOv3 with biases: timm stores those of q and v, and k has none
        q = state.pop(f"blocks.{block}.attn.q_bias", None)
        if q is not None:
            v = state.pop(f"blocks.{block}.attn.v_bias")
            state[f"blocks.{block}.attn.qkv.bias"] = np.concatenate([q, np.zeros_like(q), v])
    h, w = image.shape[0] // kind.patch, image.shape[1] // kind.patch
    grids = attention.features(
        image,
        state,
        size=kind.patch,
        grid=(4, 4),
        heads=kind.heads,
        eps=kind.eps,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        rope=kind.rope,
    )
    keys, turned, tokens = (grid.reshape(h, w, -1) for grid in grids)
    return keys, turned, tokens


def error(got: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(got - reference).max() / np.abs(reference).max())


def pictures(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("cells", [(4, 4), (3, 5), (7, 2)], ids=["stored grid", "wide", "tall"])
@pytest.mark.parametrize("name", KINDS)
def test_keys_and_tokens_equal_the_published_formulas(name, cells, folders, rng):
    kind = KINDS[name]
    image = pictures(rng, cells[0] * kind.patch, cells[1] * kind.patch)
    keys, _, tokens = expected(folders[name], kind, image)
    backbone = load_backbone(str(folders[name]), "cpu")
    got = backbone(image[None])[0]
    assert got.shape == (*cells, 32)
    assert got.dtype == np.float32
    assert error(got, keys) <= 1e-5
    got = load_backbone(str(folders[name]), "cpu", features="tokens")(image[None])[0]
    assert error(got, tokens) <= 1e-5
    assert error(keys, tokens) > 0.1  # the oracle tells them apart


def test_dinov3_keys_are_those_before_rotary_embeddings(folders, rng):
    image = pictures(rng, 64, 64)
    keys, turned, _ = expected(folders["dinov3"], KINDS["dinov3"], image)
    got = load_backbone(str(folders["dinov3"]), "cpu")(image[None])[0]
    assert error(got, keys) <= 1e-5
    assert error(got, turned) > 0.1


def test_keys_skip_the_rest_of_the_last_block(folders, rng):
    backbone = load(folders["dino"])
    image = pictures(rng, 1, 32, 32)
    before = backbone(image)
    last = backbone._network.blocks[-1]
    with torch.no_grad():
        for layer in (last.attn.proj, last.mlp, last.norm2, backbone._network.norm):
            for parameter in layer.parameters():
                parameter.fill_(torch.nan)
    np.testing.assert_array_equal(backbone(image), before)


def test_backbone_describes_itself(folders):
    backbone = load(folders["dinov2-reg"])
    assert isinstance(backbone, Backbone)
    assert (backbone.stride, backbone.dim, backbone.name) == (14, 32, "dinov2-reg")
    assert (backbone.device, backbone.features) == ("cpu", "keys")
    assert backbone.provenance.licence == "unknown"  # timm states the licence of the network that it publishes
    assert backbone.provenance.architecture == "vit_small_patch14_reg4_dinov2"


@pytest.mark.parametrize(
    ("size", "want"), [((32, 32), (32, 32)), ((35, 36), (32, 40)), ((1, 100), (8, 104)), ((3, 3), (8, 8))]
)
def test_sizes_go_to_the_nearest_multiple_halves_up(size, want, folders, rng):
    backbone = load(folders["dino"])
    assert backbone.input_size(*size) == want
    assert backbone(pictures(rng, 1, *size)).shape == (1, want[0] // 8, want[1] // 8, 32)


def test_other_sizes_are_resized_not_cropped(folders):
    backbone = load(folders["dino"])
    plain = np.full((1, 32, 40, 3), 90, np.uint8)
    odd = np.full((1, 30, 43, 3), 90, np.uint8)
    np.testing.assert_allclose(backbone(odd), backbone(plain), rtol=0, atol=1e-4)
    # the resize is antialiased: a one-pixel checkerboard that is shrunk becomes nearly its mean
    board = np.indices((35, 35)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    fine = backbone._normalised(board.astype(np.uint8)[None], (8, 8))
    grey = backbone._normalised(np.full((1, 8, 8, 3), 128, np.uint8), (8, 8))
    assert float((fine - grey).abs().max()) < 0.15  # of a range of 4.5


def test_batch_equals_one_by_one_and_twice_the_same(folders, rng):
    images = pictures(rng, 5, 24, 40)
    for name in folders:
        backbone = load_backbone(str(folders[name]), "cpu", batch=2)
        together = backbone(images)
        np.testing.assert_array_equal(backbone(images), together)
        singly = np.concatenate([backbone(image[None]) for image in images])
        assert error(together, singly) <= 1e-5
        assert backbone(images[:0]).shape == (0, *together.shape[1:])


def test_batch_bounds_the_images_in_one_pass(folders, rng, monkeypatch):
    backbone = load(folders["dino"], batch=2)
    seen = []
    run = backbone._grid

    def counted(pixels):
        seen.append(len(pixels))
        return run(pixels)

    monkeypatch.setattr(backbone, "_grid", counted)
    backbone(pictures(rng, 5, 16, 16))
    assert seen == [2, 2, 1]


def test_views_and_read_only_images_are_accepted(folders, rng):
    backbone = load(folders["dino"])
    images = pictures(rng, 2, 16, 16)
    want = backbone(images[:, ::-1].copy())
    images.flags.writeable = False
    np.testing.assert_array_equal(backbone(images[:, ::-1]), want)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("features", ["keys", "tokens"])
def test_bfloat16_is_close_to_float32(name, features, folders, rng):
    images = pictures(rng, 2, 64, 64)
    full = load_backbone(str(folders[name]), "cpu", features=features)(images)
    half = load_backbone(str(folders[name]), "cpu", "bfloat16", features=features)(images)
    assert half.dtype == np.float32
    cosine = (full * half).sum(-1) / np.linalg.norm(full, axis=-1) / np.linalg.norm(half, axis=-1)
    assert cosine.min() > 0.99
    assert error(half, full) > 1e-5  # it did compute in another precision


def test_loading_does_not_change_the_random_state(folders):
    torch.manual_seed(3)
    want = torch.rand(3)
    torch.manual_seed(3)
    load_backbone(str(folders["dino"]), "cpu")
    torch.testing.assert_close(torch.rand(3), want, rtol=0, atol=0)


def test_resnet_gives_layer3_at_stride_16(tmp_path, rng):
    folder = write_folder(tmp_path / "conv", "test_resnet", {})
    backbone = load_backbone(str(folder), "cpu")
    network, _ = load_timm_network(str(folder))
    image = pictures(rng, 1, 64, 96)
    x = (torch.from_numpy(image).permute(0, 3, 1, 2) / 255.0 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / (
        torch.tensor(IMAGENET_STD).view(3, 1, 1)
    )
    network.eval()
    with torch.no_grad():
        for stage in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3"):
            x = network.get_submodule(stage)(x)
    got = backbone(image)
    assert got.shape == (1, 4, 6, backbone.dim)
    assert backbone.stride == 16
    assert error(got, x.permute(0, 2, 3, 1).numpy()) <= 1e-5
    np.testing.assert_array_equal(load_backbone(str(folder), "cpu", features="tokens")(image), got)


@pytest.mark.parametrize("name", PUBLISHED_WEIGHTS)
def test_records_agree_with_the_architectures(name):
    weights = PUBLISHED_WEIGHTS[name]
    if name == "dino-resnet50":
        stage = timm.create_model(weights.architecture, num_classes=0).feature_info[3]
        assert (stage["reduction"], stage["num_chs"]) == (weights.patch, weights.dim)
        return
    network = timm.create_model(weights.architecture, num_classes=0, depth=1)
    assert network.patch_embed.patch_size == (weights.patch, weights.patch)
    assert network.num_features == weights.dim
    cfg = timm.get_pretrained_cfg(weights.source.removeprefix("timm/"))
    assert cfg.hf_hub_id == weights.source
    assert (cfg.mean, cfg.std) == (weights.mean, weights.std)


def original_dinov3(state: dict[str, torch.Tensor], bias: float) -> dict[str, torch.Tensor]:
    """timm's names and contents turned into those of the authors' files."""
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    if "blocks.0.mlp.fc1_g.weight" in state:
        names |= {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.fc2": "mlp.w3"}
    out = {"mask_token": torch.ones(1, 32), "rope_embed.periods": torch.ones(4)}
    for key, value in state.items():
        for new, old in names.items():
            key = key.replace(new, old)
        out[key] = value
        if key.endswith("qkv.weight"):
            out[key.replace("weight", "bias")] = torch.full((96,), bias)
            out[key.replace("weight", "bias_mask")] = torch.full((96,), torch.nan)
    return out


@pytest.mark.parametrize("name", ["dinov3", "dinov3-plus"])
def test_authors_dinov3_files_are_read(name, tmp_path, folders, monkeypatch, rng):
    _, record = load_timm_network(str(folders[name]))
    small = timm.create_model(KINDS[name].architecture, num_classes=0, num_heads=2, **SMALL)
    state = random_state(small)
    monkeypatch.setitem(PUBLISHED_WEIGHTS, "small3", record)
    monkeypatch.setattr("masktree.backbones.timm_networks._build", lambda *_: small)
    torch.save(original_dinov3(state, 0.0), tmp_path / "v3.pth")
    image = pictures(rng, 1, 32, 48)
    got = load_backbone(f"small3@{tmp_path / 'v3.pth'}", "cpu")(image)
    np.testing.assert_array_equal(got, load_backbone(str(folders[name]), "cpu")(image))
    torch.save(original_dinov3(state, 0.5), tmp_path / "biased.pth")
    with pytest.raises(WeightsError, match=r"zero query and value biases.*blocks\.0\.attn\.qkv\.bias"):
        load_backbone(f"small3@{tmp_path / 'biased.pth'}", "cpu")


def test_authors_dinov2_files_with_registers_are_read(tmp_path, folders, monkeypatch, rng):
    kind = KINDS["dinov2-reg"]
    _, record = load_timm_network(str(folders["dinov2-reg"]))
    small = timm.create_model(
        kind.architecture, num_classes=0, num_heads=kind.heads, dynamic_img_size=True, **SMALL, **kind.extra
    )
    state = random_state(small)
    monkeypatch.setitem(PUBLISHED_WEIGHTS, "small2", record)
    monkeypatch.setattr("masktree.backbones.timm_networks._build", lambda *_: small)
    # the authors' position code has an entry for the class token, which timm adds to the token for good
    own = torch.linspace(-1, 1, 32).view(1, 1, 32)  # not constant, which the norms would remove
    authors = dict(state)
    authors["register_tokens"] = authors.pop("reg_token")
    authors["cls_token"] = state["cls_token"] - own
    authors["pos_embed"] = torch.cat([own, state["pos_embed"]], 1)
    authors["mask_token"] = torch.ones(1, 32)
    torch.save(authors, tmp_path / "v2.pth")
    image = pictures(rng, 1, 28, 42)
    got = load_backbone(f"small2@{tmp_path / 'v2.pth'}", "cpu")(image)
    assert error(got, load_backbone(str(folders["dinov2-reg"]), "cpu")(image)) <= 1e-5


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((1, 0, 8, 3), np.uint8),
        [[1, 2, 3]],
    ],
    ids=["float", "one image", "channels first", "no pixels", "list"],
)
def test_invalid_images_are_refused(images, folders):
    with pytest.raises(InputError, match="uint8 array"):
        load_backbone(str(folders["dino"]), "cpu")(images)


def test_invalid_settings_are_refused(folders, monkeypatch):
    folder = str(folders["dino"])
    with pytest.raises(InputError, match="'float64'"):
        load_backbone(folder, "cpu", "float64")
    with pytest.raises(InputError, match="'queries'"):
        load_backbone(folder, "cpu", features="queries")
    with pytest.raises(InputError, match="at least 1 image"):
        load_backbone(folder, "cpu", batch=0)
    with pytest.raises(InputError, match="'tpu'"):
        load_backbone(folder, "tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(WeightsError, match="'cuda' where torch finds 0"):
        load_backbone(folder, "cuda")
    with pytest.raises(WeightsError, match="'cpu:1' where torch finds 1"):
        load_backbone(folder, "cpu:1")


def test_auto_selects_cuda_then_mps_then_cpu(monkeypatch):
    for cuda, mps, want in [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert resolve_device("auto").type == want


def test_networks_without_plain_keys_support_tokens_only(tmp_path, rng):
    args = {"embed_dim": 32, "num_heads": 2, "img_size": 32, "patch_size": 8}
    single = write_folder(tmp_path / "one", "vit_tiny_patch16_224", {**args, "depth": 1})
    normed = write_folder(tmp_path / "two", "vit_tiny_patch16_224", {**args, "depth": 2, "qk_norm": True})
    for folder in (single, normed):
        with pytest.raises(WeightsError, match="at least 2 blocks"):
            load_backbone(str(folder), "cpu")
        assert load_backbone(str(folder), "cpu", features="tokens")(pictures(rng, 1, 16, 16)).shape[1:3] == (2, 2)


def test_a_network_is_loaded_trainable(folders):
    network, record = load_timm_network(str(folders["dino"]))
    assert record == replace(record, name="dino", patch=8, dim=32)
    assert not any(name.startswith("head") for name in network.state_dict())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="This test needs a CUDA device.")
@pytest.mark.parametrize("name", KINDS)
def test_cuda_equals_the_published_formulas(name, folders, rng):
    kind = KINDS[name]
    image = pictures(rng, 3 * kind.patch, 5 * kind.patch)
    keys, _, _ = expected(folders[name], kind, image)
    backbone = load_backbone(str(folders[name]), "cuda")
    got = backbone(image[None])
    assert error(got[0], keys) <= 2e-5
    np.testing.assert_array_equal(backbone(image[None]), got)


@pytest.mark.parametrize("cells", [(4, 4), (9, 9), (3, 5)])
def test_positions_are_resized_as_in_the_code_of_dino(cells, folders, rng):
    image = pictures(rng, 1, cells[0] * 8, cells[1] * 8)
    network, weights = load_timm_network(str(folders["dino"]))
    network.eval()
    with torch.no_grad():
        stored = network.pos_embed.numpy()
        patches = network.patch_embed(torch.zeros(1, 3, *image.shape[1:3])).numpy().reshape(1, -1, 32)
        expected = np.concatenate([network.cls_token.numpy(), patches], 1) + released.dino_positions(stored, *cells)
    backbone = TimmBackbone(network, weights, positions="dino")
    with torch.no_grad():
        got = network._pos_embed(network.patch_embed(torch.zeros(1, 3, *image.shape[1:3]))).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-6)
    as_timm = load(folders["dino"])(image)
    assert error(backbone(image), as_timm) == 0 if cells == (4, 4) else error(backbone(image), as_timm) > 1e-3


def test_positions_of_dino_need_a_learned_embedding_of_patches_and_class_token(folders):
    for name in ("dinov2-reg", "dinov3"):
        with pytest.raises(WeightsError, match="learned position embedding"):
            load(folders[name], positions="dino")
    with pytest.raises(InputError, match="which has no positions"):
        load_backbone("texture", positions="dino")
    with pytest.raises(InputError, match="positions 'timm' or 'dino'; got 'x'"):
        load(folders["dino"], positions="x")
