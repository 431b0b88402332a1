"""Finding, reading and refusing weight files; nothing here uses the network."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from masktree.backbones import load_backbone
from masktree.backbones.download import cached_weights
from masktree.backbones.state_dict import read_state_dict
from masktree.backbones.weights import BUILT_IN, PUBLISHED_WEIGHTS, Weights, find_weights
from masktree.errors import InputError, WeightsError
from masktree.io.files import sha256_of

IMAGE = np.random.default_rng(1).integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("test_vit", num_classes=0).state_dict()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A listed name with a small network behind it."""
    record = replace(
        PUBLISHED_WEIGHTS["dino-vits16"], name="small", source="timm/test_vit.small", architecture="test_vit", dim=64
    )
    monkeypatch.setitem(PUBLISHED_WEIGHTS, "small", record)
    return record


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no network, as HF_HUB_OFFLINE=1 and HF_HOME set before the start would give."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


def grid(name: str) -> np.ndarray:
    return load_backbone(name, "cpu")(IMAGE)


@pytest.fixture
def reference(small: Weights, state: dict, tmp_path: Path) -> np.ndarray:
    save_file(state, tmp_path / "reference.safetensors")
    return grid(f"small@{tmp_path / 'reference.safetensors'}")


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + key: value for key, value in state.items()}


HEAD = {"head.mlp.0.weight": torch.zeros(2, 2)}
LAYOUTS = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": prefixed(s, "module.")},
    "backbone": lambda s: prefixed(s, "backbone.") | HEAD,
    "teacher.backbone": lambda s: prefixed(s, "teacher.backbone.") | prefixed(HEAD, "teacher."),
    "DINO full checkpoint": lambda s: {
        "student": prefixed({key: value + 1 for key, value in s.items()}, "module.backbone."),
        "teacher": prefixed(s, "backbone.") | HEAD,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(arch="vit_small"),
        "epoch": 100,
    },
}


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoints_in_every_layout_give_the_same_features(layout, suffix, state, reference, tmp_path):
    path = tmp_path / f"file{suffix}"
    torch.save(LAYOUTS[layout](state), path)
    np.testing.assert_array_equal(grid(f"small@{path}"), reference)


def test_hash_of_the_file_is_in_the_record(small, state, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    backbone = load_backbone(f"small@{path}", "cpu")
    assert backbone.provenance.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == sha256_of(path)
    assert backbone.provenance.source == str(path)
    assert backbone.name == backbone.provenance.name == "small@w.safetensors"


def test_nothing_is_said_of_local_files_that_is_not_known(small, state, tmp_path):
    """Random weights in the shape of a published network were recorded as that network's."""
    save_file(state, tmp_path / "random.safetensors")
    record = load_backbone(f"small@{tmp_path / 'random.safetensors'}", "cpu").provenance
    assert (record.licence, record.trained_on, record.label_free, record.url) == ("unknown", "unknown", None, "")
    timm_says = {"license": "apache-2.0", "origin_url": "https://example.org", "mean": [0.4] * 3, "std": [0.2] * 3}
    folder = folder_with(tmp_path / "own", {key: value + 1 for key, value in state.items()}, pretrained_cfg=timm_says)
    record = load_backbone(folder, "cpu").provenance
    assert (record.licence, record.trained_on, record.label_free, record.url) == ("unknown", "unknown", None, "")


def test_copies_of_published_files_are_known_by_their_hash(offline, small, state, tmp_path, monkeypatch):
    snapshot = offline / "hub" / "models--timm--test_vit.small" / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("1" * 40)
    save_file(state, snapshot / "model.safetensors")
    downloaded = load_backbone("small", "cpu").provenance
    assert (downloaded.name, downloaded.revision, downloaded.licence) == ("small", "1" * 40, "Apache-2.0")
    assert downloaded.label_free is True
    save_file(state, tmp_path / "copy.safetensors")
    assert load_backbone(f"small@{tmp_path / 'copy.safetensors'}", "cpu").provenance == downloaded
    folder = load_backbone(folder_with(tmp_path / "folder", state), "cpu").provenance
    assert (folder.name, folder.sha256, folder.mean) == ("small", downloaded.sha256, (0.4, 0.5, 0.6))
    (snapshot / "model.safetensors").unlink()
    assert load_backbone(f"small@{tmp_path / 'copy.safetensors'}", "cpu").provenance.licence == "unknown"
    monkeypatch.setitem(PUBLISHED_WEIGHTS, "small", replace(small, sha256=downloaded.sha256))
    assert load_backbone(f"small@{tmp_path / 'copy.safetensors'}", "cpu").provenance.licence == "Apache-2.0"


class Evil:
    """Unpickling this would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_file_is_refused_and_never_run(new_format, small, state, tmp_path):
    target = tmp_path / "owned"
    content = {"state_dict": state, "extra": Evil(target)}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match="could run code") as caught:
        load_backbone(f"small@{tmp_path / 'evil.pth'}", "cpu")
    assert not target.exists()
    assert "weights_only=False" not in str(caught.value)
    torch.load(tmp_path / "evil.pth", weights_only=False)  # the file is as dangerous as meant
    assert target.exists()


def test_damaged_and_foreign_files_are_refused(small, state, tmp_path):
    save_file(state, tmp_path / "cut.safetensors")
    torch.save(state, tmp_path / "cut.pth")
    for name in ("cut.safetensors", "cut.pth"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("not weights")
    for name in ("cut.safetensors", "cut.pth", "text.pth", "empty.pt", "text.safetensors"):
        with pytest.raises(WeightsError, match="damaged"):
            load_backbone(f"small@{tmp_path / name}", "cpu")
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"\.safetensors, \.pth, \.pt; got 'weights\.npz'"):
        load_backbone(f"small@{tmp_path / 'weights.npz'}", "cpu")
    for missing in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(WeightsError, match="not a file"):
            load_backbone(f"small@{missing}", "cpu")


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {}, {"a": 1}, {"state_dict": {"a": "b"}}])
def test_files_without_a_state_dict_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="state dict"):
        read_state_dict(tmp_path / "x.pth")


def test_names_and_shapes_must_agree_exactly(small, state, tmp_path):
    def message(change: dict) -> str:
        changed = {key: value for key, value in {**state, **change}.items() if value is not None}
        save_file(changed, tmp_path / "x.safetensors")
        with pytest.raises(WeightsError) as caught:
            load_backbone(f"small@{tmp_path / 'x.safetensors'}", "cpu")
        return str(caught.value)

    assert "1 missing (blocks.0.norm1.weight)" in message({"blocks.0.norm1.weight": None})
    # a classifier head is the mark of weights trained with labels
    assert "2 unexpected (head.bias, head.weight)" in message(
        {"head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}
    )
    assert "1 of another shape (norm.bias (63,) for (64,))" in message({"norm.bias": torch.zeros(63)})
    every = message({key: None for key in state if key.startswith("blocks.")})
    assert "missing (blocks.0.norm1.weight, " in every
    assert every.count("blocks.") == 3
    assert "NaN or infinity in 1 tensors" in message({"norm.bias": torch.full((64,), torch.nan)})


def test_batch_norm_counters_may_be_absent(small, monkeypatch, tmp_path):
    monkeypatch.setitem(PUBLISHED_WEIGHTS, "small", replace(small, architecture="test_resnet", dim=192))
    conv = timm.create_model("test_resnet", num_classes=0).state_dict()
    save_file(conv, tmp_path / "all.safetensors")
    save_file({k: v for k, v in conv.items() if "num_batches" not in k}, tmp_path / "old.safetensors")
    np.testing.assert_array_equal(
        grid(f"small@{tmp_path / 'old.safetensors'}"), grid(f"small@{tmp_path / 'all.safetensors'}")
    )


def test_unknown_names_get_suggestions_and_the_list():
    with pytest.raises(WeightsError) as caught:
        find_weights("dino-vit-b8")
    assert "did you mean dino-vitb8" in str(caught.value)
    assert all(name in str(caught.value) for name in [*BUILT_IN, *PUBLISHED_WEIGHTS])
    with pytest.raises(WeightsError, match="got 'resnet-of-dreams'; give"):
        load_backbone("resnet-of-dreams@/nowhere.pth", "cpu")
    with pytest.raises(WeightsError, match="NAME@PATH"):
        load_backbone(__file__, "cpu")


@pytest.mark.parametrize(("name", "cache"), [("dino-vitb8", "HF_HOME"), ("dino-resnet50", "TORCH_HOME")])
def test_the_error_without_cache_and_network_names_the_remedies(name, cache, offline):
    with pytest.raises(WeightsError) as caught:
        load_backbone(name, "cpu")
    for way in ("connect once", "HF_HUB_OFFLINE", cache, f"{name}@/path/to/file.safetensors", "'embedded'"):
        assert way in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["dino-vitb8", "dino-resnet50"])
def test_the_error_of_a_broken_connection_is_the_same(name, offline, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def download(*_: object, local_files_only: bool = False, **__: object) -> str:
        raise FileNotFoundError("not cached") if local_files_only else ConnectionError("host unreachable\nmore")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [])
    with pytest.raises(WeightsError, match="got ConnectionError: host unreachable; ways out") as caught:
        load_backbone(name, "cpu")
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().err == f"downloading the weights of {name}, once\n"


@pytest.mark.parametrize("name", ["dino-vitb8", "dino-resnet50"])
def test_an_unknown_host_fails_before_a_download(name, offline, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.getproxies", dict)

    def unknown(*_: object) -> None:
        raise OSError(-2, "Name or service not known")

    def download(*_: object, local_files_only: bool = False, **__: object) -> str:
        assert local_files_only, "a download was tried although the host is unknown"
        raise FileNotFoundError("not cached")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(WeightsError, match=r"no network: the name .* cannot be resolved"):
        load_backbone(name, "cpu")


def test_cached_hub_files_are_used_without_a_network(offline, small, state, reference):
    repository = offline / "hub" / "models--timm--test_vit.small"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(state, snapshot / "model.safetensors")
    backbone = load_backbone("small", "cpu")
    np.testing.assert_array_equal(backbone(IMAGE), reference)
    assert backbone.provenance.source == "timm/test_vit.small"
    assert backbone.provenance.sha256 == sha256_of(snapshot / "model.safetensors")


def test_cached_files_from_a_url_are_used_and_pinned_hashes_checked(offline, small, state, reference, monkeypatch):
    folder = offline / "torch" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / "small.pth")
    digest = sha256_of(folder / "small.pth")
    address = replace(small, source="https://example.org/a/small.pth", sha256=digest)
    monkeypatch.setitem(PUBLISHED_WEIGHTS, "small", address)
    np.testing.assert_array_equal(grid("small"), reference)
    monkeypatch.setitem(PUBLISHED_WEIGHTS, "small", replace(address, sha256="0" * 64))
    with pytest.raises(WeightsError, match=f"SHA-256 {'0' * 64}; got {digest}"):
        load_backbone("small", "cpu")


def folder_with(path: Path, state: dict, **config: object) -> str:
    path.mkdir(exist_ok=True)
    save_file(state, path / "model.safetensors")
    base = {"architecture": "test_vit", "pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}}
    (path / "config.json").write_text(json.dumps(base | config))
    return str(path)


def test_folders_state_their_origin(state, tmp_path):
    provenance = load_backbone(folder_with(tmp_path / "mine", state), "cpu").provenance
    assert (provenance.name, provenance.licence, provenance.trained_on) == ("mine", "unknown", "unknown")
    assert provenance.label_free is None
    assert (provenance.mean, provenance.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    own = folder_with(tmp_path / "own", state, label_free=True, trained_on="my photographs")
    provenance = load_backbone(own, "cpu").provenance
    assert (provenance.label_free, provenance.trained_on) == (True, "my photographs")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "vit_of_dreams"}, "'vit_of_dreams' with timm"),
        ({"architecture": "hf-hub:timm/vit_small_patch8_224.dino"}, "'hf-hub:"),
        ({"architecture": "test_efficientnet"}, "ViT, Eva or ResNet"),
        ({"model_args": {"wings": 2}}, "'wings'"),
        ({"model_args": {"pretrained": True}}, "pretrained"),
        ({"model_args": {"checkpoint_path": "elsewhere.pth"}}, "checkpoint_path"),
        ({"model_args": {"embed_dim": 65}}, "model_args"),
        ({"model_args": {"embed_dim": 32}}, "of another shape"),
        ({"pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}, "'std'"),
        ({"pretrained_cfg": {"mean": [0.5], "std": [1, 1, 1]}}, "three numbers"),
        ({"pretrained_cfg": None}, "'mean'"),
    ],
)
def test_wrong_folders_are_refused(config, message, state, tmp_path):
    with pytest.raises(WeightsError, match=message):
        load_backbone(folder_with(tmp_path / "x", state, **config), "cpu")


def test_incomplete_folders_are_refused(state, tmp_path):
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_backbone(str(tmp_path), "cpu")
    folder = folder_with(tmp_path / "x", state)
    (tmp_path / "x" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="not a file"):
        load_backbone(folder, "cpu")
    for broken in ("{", "[]"):
        (tmp_path / "x" / "config.json").write_text(broken)
        with pytest.raises(WeightsError, match=r"config\.json"):
            load_backbone(folder, "cpu")


def test_published_weights_are_label_free_licensed_and_frozen():
    for name, weights in PUBLISHED_WEIGHTS.items():
        assert weights.name == name
        assert weights.label_free
        assert weights.url.startswith("https://")
        assert ("not open source" in weights.licence) == name.startswith("dinov3")
    frozen: Any = PUBLISHED_WEIGHTS["dino-vitb8"]
    with pytest.raises(FrozenInstanceError):
        frozen.licence = "none"


def test_importing_the_package_imports_no_torch():
    code = "import sys, masktree.backbones; print([m for m in ('torch', 'timm', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_texture_backbone_refuses_devices_and_dtypes():
    assert load_backbone("texture").device == load_backbone("texture", "cpu").device == "cpu"
    with pytest.raises(InputError, match=r"expected device auto or cpu .*got 'cuda'"):
        load_backbone("texture", "cuda")
    with pytest.raises(InputError, match="bfloat16"):
        load_backbone("texture", dtype="bfloat16")


def test_cached_files_are_found_without_a_network(offline: Path, small: Weights):
    resnet = PUBLISHED_WEIGHTS["dino-resnet50"]
    assert cached_weights(small) is None
    assert cached_weights(resnet) is None
    file = offline / "torch" / "checkpoints" / "dino_resnet50_pretrain.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    assert cached_weights(resnet) == file
