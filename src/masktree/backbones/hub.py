"""Networks with published weights: timm's ViT (DINO, DINOv2), Eva (DINOv3) and ResNet as backbones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from torch import nn
from torch.nn.functional import interpolate, linear

from masktree.backbones.base import Grids, Images, check_images, nearest_multiple
from masktree.backbones.weights import PUBLISHED_WEIGHTS, Weights, fetch, find_weights, read_state
from masktree.errors import WeightsError
from masktree.io.files import sha256_of

# Stage of a ResNet whose output is used: layer3, stride 16 (our choice: layer4's stride 32 leaves 15 x 15
# cells of a 480 x 480 image, too few for parts, and dilating it would change what the network learnt).
_RESNET_STAGE = 3
_RESNET_STRIDE = 16
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class HubBackbone:
    """A timm ViT, Eva or ResNet as a :class:`~masktree.backbones.base.Backbone`.

    ``features="keys"``: k = W_k norm1(x) + b_k of every patch in the last block, heads side by side, class
    and register tokens left out; the rest of the last block (about 1/depth of the cost) is never computed.
    DINOv3 turns queries and keys by a rotary position code inside the attention: ours are the keys *before*
    that turn (our choice: after it the similarity of two patches depends on how far apart they lie, and equal
    textures would no longer be equal). ``features="tokens"``: patch tokens after the last block and the final
    norm. A ResNet's features are the output of layer3 (stride 16), whatever ``features`` says.

    Learned position codes are resized to the grid by timm's rule (bicubic, antialiased), which differs
    slightly from DINO's own bicubic; rotary codes are computed for the grid in float32.

    Results do not depend on ``batch`` but for the rounding of matrix products. bfloat16 costs 2-3 digits.

    Raises
    ------
    WeightsError: the network has no keys of the kind described (one block only, normalised keys).
    """

    def __init__(
        self,
        network: nn.Module,
        provenance: Weights,
        *,
        features: Literal["keys", "tokens"] = "keys",
        device: torch.device | str = "cpu",
        dtype: str = "float32",
        batch: int = 8,
    ) -> None:
        self.name = provenance.name
        self.provenance = provenance
        self.stride = provenance.patch
        self.batch = batch
        self.features = "map" if is_resnet(network) else features
        if self.features == "keys":
            _check_keys(network, self.name)
        self.dim = _key_weight(network).shape[0] if self.features == "keys" else provenance.dim
        self._dtype = _DTYPES[dtype]
        self._device = torch.device(device)
        self.device = self._device.type
        self._network: Any = network.eval().requires_grad_(False).to(self._device, self._dtype)
        self._mean, self._std = (
            torch.tensor(values, device=self._device).view(1, 3, 1, 1) for values in (provenance.mean, provenance.std)
        )

    def input_size(self, H: int, W: int) -> tuple[int, int]:
        """Nearest multiples of the stride; see :func:`~masktree.backbones.base.nearest_multiple`."""
        return nearest_multiple(H, W, self.stride)

    @torch.inference_mode()
    def __call__(self, images: Images) -> Grids:
        """(b, H, W, 3) uint8 RGB to (b, h, w, dim) float32; see :class:`.base.Backbone`."""
        check_images(images)
        height, width = self.input_size(*images.shape[1:3])
        grids = np.empty((len(images), height // self.stride, width // self.stride, self.dim), np.float32)
        for start in range(0, len(images), self.batch):
            chunk = slice(start, start + self.batch)
            pixels = self._normalised(images[chunk], (height, width))
            # cuDNN would round float32 convolutions to TF32 and may pick another algorithm at each call
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                grids[chunk] = self._grid(pixels).float().cpu().numpy()
        return grids

    def _normalised(self, images: Images, size: tuple[int, int]) -> torch.Tensor:
        copied = np.array(images, order="C")  # torch takes neither read-only nor mirrored arrays
        pixels = torch.from_numpy(copied).to(self._device).permute(0, 3, 1, 2).float()
        if size != images.shape[1:3]:
            pixels = interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        return ((pixels / 255 - self._mean) / self._std).to(self._dtype)

    def _grid(self, pixels: torch.Tensor) -> torch.Tensor:
        """(b, h, w, dim) features of normalised (b, 3, H, W) pixels."""
        network = self._network
        if self.features == "map":
            (stage,) = network.forward_intermediates(
                pixels, indices=[_RESNET_STAGE], stop_early=True, intermediates_only=True
            )
            return stage.permute(0, 2, 3, 1)
        if self.features == "tokens":
            cells = network.forward_features(pixels)[:, network.num_prefix_tokens :]
        else:
            before_last = [len(network.blocks) - 2]
            (cells,) = network.forward_intermediates(
                pixels, indices=before_last, stop_early=True, output_fmt="NLC", intermediates_only=True
            )
            cells = linear(network.blocks[-1].norm1(cells), _key_weight(network), _key_bias(network))
        h, w = pixels.shape[2] // self.stride, pixels.shape[3] // self.stride
        return cells.unflatten(1, (h, w))


def is_resnet(network: Any) -> bool:
    """True of the ResNets among the networks that are built here, False of the ViTs."""
    return not hasattr(network, "blocks")


def _check_keys(network: Any, name: str) -> None:
    attention: Any = getattr(network.blocks[-1], "attn", None)
    fused = getattr(attention, "qkv", None) is not None
    if len(network.blocks) < 2 or not fused or not isinstance(attention.k_norm, nn.Identity):
        raise WeightsError(
            "expected a ViT of at least 2 blocks with one qkv projection and keys that are not normalised; "
            f"got {name!r}; use features='tokens'"
        )


def _key_weight(network: Any) -> torch.Tensor:
    return network.blocks[-1].attn.qkv.weight.chunk(3)[1]


def _key_bias(network: Any) -> torch.Tensor | None:
    # Eva (DINOv3) keeps its biases outside the layer and has none for keys
    bias = network.blocks[-1].attn.qkv.bias
    return None if bias is None else bias.chunk(3)[1]


def load_network(name: str) -> tuple[nn.Module, Weights]:
    """Headless timm network in float32 on the CPU with all its weights, and their record.

    ``name`` as in :func:`masktree.backbones.load_backbone`, but for the built-in extractors, which are no
    networks. The record's ``source`` and ``sha256`` are those of the file that was read.

    Raises
    ------
    WeightsError: see :func:`masktree.backbones.load_backbone`.
    """
    network, weights = build_network(name)
    if _is_folder(name):
        path = Path(name) / "model.safetensors"
        state = read_state(path)
        digest = sha256_of(path)
    else:
        file = name.partition("@")[2]
        path = Path(file).expanduser() if file else fetch(weights)
        state = _timm_layout(read_state(path), path)
        digest = sha256_of(path)
        if not file and weights.sha256 not in (None, digest):
            raise WeightsError(
                f"expected {weights.name!r} with SHA-256 {weights.sha256}; got {digest} in {str(path)!r}; "
                "remove the file and download it again"
            )
        weights = replace(weights, source=file or weights.source)
    _fill(network, state, path)
    return network, replace(weights, sha256=digest)


def build_network(name: str) -> tuple[nn.Module, Weights]:
    """The network of ``load_network`` before it has its weights, and their record without a hash.

    No weight file is looked for; of a folder ``config.json`` is read.

    Raises
    ------
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
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        cfg = config.get("pretrained_cfg", config)
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (cfg["mean"], cfg["std"]))
        architecture, model_args = str(config["architecture"]), dict(config.get("model_args") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
        licence=str(cfg.get("license") or "unknown"),
        patch=_RESNET_STRIDE if resnet else network.patch_embed.patch_size[0],
        dim=network.feature_info[_RESNET_STAGE]["num_chs"] if resnet else network.num_features,
        mean=mean,
        std=std,
        url=str(cfg.get("origin_url") or ""),
        trained_on=str(config.get("trained_on") or "unknown"),
        label_free=config.get("label_free") is True,  # what is not stated is not known
        architecture=architecture,
    )


def _build(architecture: str, model_args: Mapping[str, Any]) -> nn.Module:
    """timm network without a head and without weights; leaves torch's random state as it was."""
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
            # the two named arguments make it an error for a config to name weights elsewhere
            return timm.create_model(architecture, pretrained=False, checkpoint_path=None, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise WeightsError(
            f"expected arguments that timm's {architecture!r} takes; got {dict(model_args)} "
            f"({type(error).__name__}: {error}); correct 'model_args' in config.json"
        ) from error


def _timm_layout(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Names of the authors' own DINOv2 and DINOv3 files turned into timm's; other files as they are.

    DINOv2's files carry a mask token, used in training alone; with registers, the position code of the class
    token is added to that token once and for all. DINOv3's carry constants that timm computes and a qkv bias
    that is zero.
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


def _fill(network: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Give every tensor of the network its value from the file; all names and shapes must agree."""
    wanted = network.state_dict()
    # batch norm's step counters have no part in inference, and old files lack them
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in wanted]
    shapes = [
        f"{k} {tuple(v.shape)} for {tuple(wanted[k].shape)}"
        for k, v in state.items()
        if k in wanted and v.shape != wanted[k].shape
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
