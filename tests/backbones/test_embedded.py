"""The embedded backbone: shapes, planted images, its weight file and its model card."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import torch

from masktree.backbones import embedded, load_backbone
from masktree.backbones.base import Backbone
from masktree.backbones.embedded.network import EmbeddedNetwork, fuse_batch_norm
from masktree.backbones.texture import NUM_CUES
from masktree.errors import InputError, WeightsError
from masktree.io.files import sha256_of
from masktree.stages.info import describe


def load(device: str = "cpu", dtype: str = "float32") -> embedded.EmbeddedBackbone:
    loaded = load_backbone("embedded", device, dtype)
    assert isinstance(loaded, embedded.EmbeddedBackbone)
    return loaded


@pytest.fixture(scope="module")
def backbone() -> embedded.EmbeddedBackbone:
    return load()


def two_halves(rng: np.random.Generator, size: int = 160) -> np.ndarray:
    """Left and right halves of other colour and other grain."""
    image = np.empty((size, size, 3))
    image[:, : size // 2] = np.array([150, 110, 60]) + rng.normal(0, 20, (size, size // 2, 1))
    image[:, size // 2 :] = np.array([60, 100, 150]) + rng.normal(0, 4, (size, size // 2, 1))
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (5, 90), (33, 50), (64, 64), (97, 31)])
def test_predictions_cover_images_of_any_size(backbone, rng, shape):
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    predicted = backbone.predict_boundaries(image)
    assert predicted.boundary.shape == shape
    assert predicted.boundary.min() >= 0
    assert predicted.boundary.max() <= 1
    assert predicted.embeddings.shape == (-(-shape[0] // 4), -(-shape[1] // 4), backbone.dim)
    assert np.linalg.norm(predicted.embeddings, axis=-1) == pytest.approx(1, abs=1e-5)


def test_it_fulfils_the_backbone_interface(backbone, rng):
    assert isinstance(backbone, Backbone)
    images = rng.integers(0, 256, (2, 47, 66, 3), dtype=np.uint8)
    grids = backbone(images)
    H, W = backbone.input_size(47, 66)
    assert grids.shape == (2, H // backbone.stride, W // backbone.stride, backbone.dim)
    np.testing.assert_array_equal(grids[1], backbone(images[1:])[0])
    assert backbone(images[:0]).shape == (0, *grids.shape[1:])
    with pytest.raises(InputError, match="uint8"):
        backbone(images.astype(np.float32))


def test_a_planted_border_is_found(backbone, rng):
    predicted = backbone.predict_boundaries(two_halves(rng))
    seam = predicted.boundary[20:-20, 78:82].max(1).mean()
    inside = np.concatenate([predicted.boundary[20:-20, 20:60], predicted.boundary[20:-20, 100:140]]).mean()
    assert seam > 3 * inside
    left, right = predicted.embeddings[5:35, 5:15].mean((0, 1)), predicted.embeddings[5:35, 25:35].mean((0, 1))
    within = (predicted.embeddings[5:35, 5:15] @ left).mean() / np.linalg.norm(left)
    across = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    assert within > across + 0.2


def test_bfloat16_is_close(backbone, rng):
    image = two_halves(rng, 64)
    coarse = load("cpu", "bfloat16").predict_boundaries(image)
    exact = backbone.predict_boundaries(image)
    assert np.abs(coarse.boundary - exact.boundary).max() < 0.1
    assert (coarse.embeddings * exact.embeddings).sum(-1).min() > 0.95


def test_fusing_batch_norm_keeps_the_outputs():
    torch.manual_seed(0)
    network = EmbeddedNetwork()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    network.eval()
    folded = copy.deepcopy(network)
    fuse_batch_norm(folded)
    inputs = torch.rand(1, 3, 32, 64), torch.rand(1, NUM_CUES, 16, 32)
    for before, after in zip(network(*inputs), folded(*inputs), strict=True):
        assert torch.allclose(before, after, atol=1e-4 * float(before.detach().abs().max()))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert network.evidence.in_channels == NUM_CUES == 10  # of the shipped weights


def test_the_weight_file_has_the_hash_of_the_model_card():
    assert embedded.WEIGHT_FILE.stat().st_size <= 12e6
    assert sha256_of(embedded.WEIGHT_FILE) == embedded.EMBEDDED_WEIGHTS.sha256
    card = (embedded.WEIGHT_FILE.parent / "README.md").read_text()
    assert str(embedded.EMBEDDED_WEIGHTS.sha256) in card
    for word in ("Data", "Recipe", "Cost", "Licence", "Known failures"):
        assert word in card, word


def test_missing_damaged_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="got no file"):
        embedded.load_embedded_network(tmp_path / "none.safetensors", None)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(embedded.WEIGHT_FILE.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="sha256"):
        embedded.load_embedded_network(damaged, embedded.EMBEDDED_WEIGHTS.sha256)
    with pytest.raises(WeightsError, match="damaged"):
        embedded.load_embedded_network(damaged, None)
    from safetensors.torch import save_file

    save_file({"stem.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="tensors of the embedded network"):
        embedded.load_embedded_network(tmp_path / "other.safetensors", None)


def test_other_weights_are_loaded_by_path(backbone, tmp_path, rng):
    from safetensors.torch import load_file, save_file

    own = {
        name: 2 * tensor if name == "border.bias" else tensor
        for name, tensor in load_file(embedded.WEIGHT_FILE).items()
    }
    save_file(own, tmp_path / "own.safetensors")
    other = load_backbone(f"embedded@{tmp_path / 'own.safetensors'}", "cpu")
    assert isinstance(other, embedded.EmbeddedBackbone)
    assert other.provenance.sha256 == sha256_of(tmp_path / "own.safetensors") != backbone.provenance.sha256
    assert (other.provenance.name, other.provenance.licence) == ("embedded@own.safetensors", "unknown")
    assert other.provenance.label_free is None
    described = describe("backbone", f"embedded@{tmp_path / 'own.safetensors'}")
    assert other.provenance.sha256 in described
    assert "Apache" not in described
    shutil.copy(embedded.WEIGHT_FILE, tmp_path / "copy.safetensors")
    assert load_backbone(f"embedded@{tmp_path / 'copy.safetensors'}", "cpu").provenance == backbone.provenance
    image = two_halves(rng, 64)
    np.testing.assert_array_equal(
        other.predict_boundaries(image).embeddings, backbone.predict_boundaries(image).embeddings
    )
    assert np.abs(other.predict_boundaries(image).boundary - backbone.predict_boundaries(image).boundary).max() > 1e-3
    with pytest.raises(WeightsError, match="got no file"):
        load_backbone(f"embedded@{tmp_path / 'none.safetensors'}", "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="This test needs a CUDA device.")
def test_cuda_gives_the_same_boundaries(rng):
    image = two_halves(rng)
    here, there = (load(device).predict_boundaries(image) for device in ("cpu", "cuda"))
    assert np.abs(here.boundary - there.boundary).max() < 1e-3
