"""timm networks by name, local file or folder: built, and loaded with all their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from masktree.backbones.download import download_weights, hub_revision, recognise_weights
from masktree.backbones.state_dict import read_state_dict
from masktree.backbones.weights import PUBLISHED_WEIGHTS, UNKNOWN, Weights, find_weights
from masktree.errors import WeightsError
from masktree.io.files import parse_json, sha256_of

# layer3 of a ResNet is used (our choice: layer4 at stride 32 has 15 x 15 cells of a 480 x 480 image, too few for parts,
# and dilating it would change the trained features).
RESNET_STAGE = 3
RESNET_STRIDE = 16


def load_timm_network(name: str) -> tuple[nn.Module, Weights]:
    """Headless timm network in float32 on the CPU with all its weights, and their record.

    ``name`` as in :func:`masktree.backbones.load_backbone`, except for the built-in backbones. A local file is known by
    its hash or not at all: unless it is a copy of a published one, its record says that its origin is unknown, whatever
    network it was given for.

    Raises:
        WeightsError: see :func:`masktree.backbones.load_backbone`.
    """
    network, weights = build_timm_network(name)
    if _is_folder(name):
        path = Path(name) / "model.safetensors"
        state = read_state_dict(path)
        digest = sha256_of(path)
        known = recognise_weights(path, digest, weights.architecture)
        weights = replace(known or weights, sha256=digest, mean=weights.mean, std=weights.std)
    else:
        file = name.partition("@")[2]
        path = Path(file).expanduser() if file else download_weights(weights)
        state = _timm_layout(read_state_dict(path), path)
        digest = sha256_of(path)
        if not file and weights.sha256 not in (None, digest):
            raise WeightsError(
                f"expected {weights.name!r} with SHA-256 {weights.sha256}; got {digest} in {str(path)!r}; "
                "remove the file and download it again"
            )
        if file:
            known = recognise_weights(path, digest, weights.architecture)
            weights = known or weights.of_local_file(file, digest)
        else:
            weights = replace(weights, sha256=digest, revision=hub_revision(path))
    _load_state_dict(network, state, path)
    return network, weights


def build_timm_network(name: str) -> tuple[nn.Module, Weights]:
    """The network of ``load_timm_network`` before its weights are loaded, and their record without a hash.

    Reads no weight file; of a folder only ``config.json``.

    Raises:
        WeightsError: unknown name, or a folder's ``config.json`` that does not describe a network.
    """
    if _is_folder(name):
        return _build_from_folder(Path(name))
    known, _, file = name.partition("@")
    if not file and Path(name).is_file():
        raise WeightsError(
            f"expected NAME@PATH for a local file, NAME one of {', '.join(PUBLISHED_WEIGHTS)}; got {name!r}; "
            "say which network the file belongs to"
        )
    weights = find_weights(known)
    return _build(weights.architecture, {}), weights


def _is_folder(name: str) -> bool:
    return name not in PUBLISHED_WEIGHTS and Path(name).is_dir()


def _build_from_folder(folder: Path) -> tuple[nn.Module, Weights]:
    try:
        config = parse_json((folder / "config.json").read_bytes(), folder / "config.json")
        cfg = config.get("pretrained_cfg", config)
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (cfg["mean"], cfg["std"]))
        architecture, model_args = str(config["architecture"]), dict(config.get("model_args") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise WeightsError(
            "expected a folder with config.json (JSON with timm's 'architecture', and in 'pretrained_cfg' a "
            f"'mean' and a 'std' of three numbers) and model.safetensors; got {str(folder)!r} "
            f"({type(error).__name__}: {error}); save the model with timm.models.save_for_hf"
        ) from error
    network: Any = _build(architecture, model_args)
    resnet = is_resnet(network)
    return network, Weights(
        name=folder.resolve().name,
        source=str(folder),
        # What timm's pretrained_cfg says of licence and origin holds for the network as timm publishes it, and stays in
        # the file of whoever trains it further or not at all.
        licence=str(config.get("license") or UNKNOWN),
        patch=RESNET_STRIDE if resnet else network.patch_embed.patch_size[0],
        dim=network.feature_info[RESNET_STAGE]["num_chs"] if resnet else network.num_features,
        mean=mean,
        std=std,
        url=str(config.get("url") or ""),
        trained_on=str(config.get("trained_on") or UNKNOWN),
        label_free=label_free if isinstance(label_free := config.get("label_free"), bool) else None,
        architecture=architecture,
    )


def _build(architecture: str, model_args: Mapping[str, Any]) -> nn.Module:
    """timm network without a head and without weights; does not change torch's random state."""
    family = ""
    if timm.is_model(architecture):
        family = timm.model_entrypoint(architecture).__module__.rpartition(".")[2]
    if family not in ("vision_transformer", "eva", "resnet"):
        raise WeightsError(
            "expected one of timm's architectures of the ViT, Eva or ResNet family; "
            f"got {architecture!r} with timm {timm.__version__}; correct the name or upgrade timm"
        )
    arguments = {**model_args, "num_classes": 0} | ({} if family == "resnet" else {"dynamic_img_size": True})
    try:
        with torch.random.fork_rng(devices=[]):
            # the two named arguments make it an error if a config names other weights
            network: nn.Module = timm.create_model(architecture, pretrained=False, checkpoint_path=None, **arguments)
            return network
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise WeightsError(
            f"expected arguments that timm's {architecture!r} takes; got {dict(model_args)} "
            f"({type(error).__name__}: {error}); correct 'model_args' in config.json"
        ) from error


def _timm_layout(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """State dict of the authors' DINOv2 and DINOv3 files in timm's layout; others are returned unchanged.

    DINOv2's files have a mask token, used only in training; with registers, timm adds the position embedding of the
    class token to that token. DINOv3's have constants that timm computes, and a qkv bias that is zero.
    """
    state = {k: v for k, v in state.items() if k != "mask_token"}
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    if "storage_tokens" not in state:
        return state
    renamed = {}
    for key, value in state.items():
        if key == "rope_embed.periods" or key.endswith("qkv.bias_mask") or key.startswith("local_cls_norm."):
            continue
        if key.endswith("qkv.bias"):
            q, _, v = value.chunk(3)  # the keys' third is masked out by the authors
            if q.any() or v.any():
                raise WeightsError(
                    "expected a DINOv3 file with zero query and value biases, as ViT-S and ViT-B have; got "
                    f"{key!r} with other values in {str(path)!r}; use a file of one of the listed networks"
                )
            continue
        for old, new in _DINOV3_NAMES.items():
            key = key.replace(old, new)
        renamed[key] = value
    return renamed


_DINOV3_NAMES = {
    "storage_tokens": "reg_token",
    "ls1.gamma": "gamma_1",
    "ls2.gamma": "gamma_2",
    "mlp.w1.": "mlp.fc1_g.",
    "mlp.w2.": "mlp.fc1_x.",
    "mlp.w3.": "mlp.fc2.",
}


def _load_state_dict(network: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load a state dict whose names and shapes must all agree with the network's."""
    expected = network.state_dict()
    # batch norm's step counters are not used in inference, and old files lack them
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in expected]
    shapes = [
        f"{k} {tuple(v.shape)} for {tuple(expected[k].shape)}"
        for k, v in state.items()
        if k in expected and v.shape != expected[k].shape
    ]
    problems = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise WeightsError(
            f"expected exactly the tensors of the network named; got in {str(path)!r} {'; '.join(problems)}; "
            "check that the file belongs to this network and has no classifier head"
        )
    damaged = [k for k, v in state.items() if not torch.isfinite(v).all()]
    if damaged:
        raise WeightsError(
            f"expected finite weights; got NaN or infinity in {len(damaged)} tensors of {str(path)!r}, first "
            f"{damaged[0]!r}; download the file again"
        )
    network.load_state_dict(state, strict=False)


def is_resnet(network: Any) -> bool:
    """Whether a network of this module is a ResNet, not a ViT."""
    return not hasattr(network, "blocks")
