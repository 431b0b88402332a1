"""timm networks as backbones: ViT (DINO, DINOv2), Eva (DINOv3) and ResNet."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate, linear

from masktree.backbones.base import Grids, Images, check_images, nearest_multiple
from masktree.backbones.device import resolve_dtype
from masktree.backbones.timm_networks import RESNET_STAGE, is_resnet
from masktree.backbones.weights import Weights
from masktree.errors import WeightsError

Positions = Literal["timm", "dino"]  # how learned position embeddings are resized


class TimmBackbone:
    """A timm ViT, Eva or ResNet as a :class:`~masktree.backbones.base.Backbone`.

    ``features="keys"``: k = W_k norm1(x) + b_k of every patch in the last block, heads concatenated, without class and
    register tokens; the rest of the last block (about 1/depth of the cost) is not computed. DINOv3 applies rotary
    position embeddings to queries and keys inside the attention: these keys are taken *before* that (our choice:
    afterwards the similarity of two patches depends on their distance, and equal textures are no longer equal).
    ``features="tokens"``: patch tokens after the last block and the final norm. The features of a ResNet are the output
    of layer3 (stride 16), whatever ``features`` is.

    Learned position embeddings are resized to the grid. ``positions="timm"``: bicubic, antialiased. ``"dino"``: as in
    DINO's own code, on which HASSOD, MaskCut and UnSAM run: bicubic with a scale that is a tenth of a cell too large.
    Rotary embeddings are computed for the grid in float32.

    Results do not depend on ``batch`` except for the rounding of matrix products. bfloat16 loses 2-3 digits.

    Raises:
        WeightsError: the network has no such keys (only one block, or normalised keys); or ``positions="dino"`` for
            a network without a learned embedding of each patch and of the class token.
    """

    def __init__(
        self,
        network: nn.Module,
        provenance: Weights,
        *,
        features: Literal["keys", "tokens"] = "keys",
        positions: Positions = "timm",
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
        if positions == "dino":
            _check_positions(network, self.name)
            # timm calls this method for the sum of patch and position embeddings
            setattr(network, "_pos_embed", partial(_add_dino_positions, network))  # noqa: B010  # unknown to nn.Module
        self.dim = _key_weight(network).shape[0] if self.features == "keys" else provenance.dim
        self._device = torch.device(device)
        self._dtype = resolve_dtype(dtype, self._device)
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
        copy = np.array(images, order="C")  # torch accepts neither read-only arrays nor negative strides
        pixels = torch.from_numpy(copy).to(self._device).permute(0, 3, 1, 2).float()
        if size != images.shape[1:3]:
            pixels = interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        return ((pixels / 255 - self._mean) / self._std).to(self._dtype)

    def _grid(self, pixels: torch.Tensor) -> torch.Tensor:
        """(b, h, w, dim) features of normalised (b, 3, H, W) pixels."""
        network = self._network
        if self.features == "map":
            (stage,) = network.forward_intermediates(
                pixels, indices=[RESNET_STAGE], stop_early=True, intermediates_only=True
            )
            grid: torch.Tensor = stage.permute(0, 2, 3, 1)
            return grid
        if self.features == "tokens":
            cells = network.forward_features(pixels)[:, network.num_prefix_tokens :]
        else:
            before_last = [len(network.blocks) - 2]
            (cells,) = network.forward_intermediates(
                pixels, indices=before_last, stop_early=True, output_fmt="NLC", intermediates_only=True
            )
            cells = linear(network.blocks[-1].norm1(cells), _key_weight(network), _key_bias(network))
        h, w = pixels.shape[2] // self.stride, pixels.shape[3] // self.stride
        features: torch.Tensor = cells.unflatten(1, (h, w))
        return features


def _check_positions(network: Any, name: str) -> None:
    stored = getattr(network, "pos_embed", None)
    if is_resnet(network) or stored is None or network.num_prefix_tokens != 1 or network.no_embed_class:
        raise WeightsError(
            "expected a ViT with a learned position embedding of each patch and of the class token, as DINO's; got "
            f"{name!r}; use positions='timm'"
        )


def _add_dino_positions(network: Any, patches: torch.Tensor) -> torch.Tensor:
    """(b, 1 + h * w, d) tokens of (b, h, w, d) patch embeddings, with DINO's resized position embeddings."""
    (b, h, w, d), (rows, columns) = patches.shape, network.patch_embed.grid_size
    stored = network.pos_embed
    cells = stored[:, 1:].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
    if (h, w) != (rows, columns):
        scale = ((h + 0.1) / rows, (w + 0.1) / columns)  # so that rounding never loses a cell (DINO's issue 8)
        cells = interpolate(cells, scale_factor=scale, mode="bicubic")
    positions = torch.cat([stored[:, :1], cells.flatten(2).transpose(1, 2)], dim=1)
    tokens: torch.Tensor = torch.cat([network.cls_token.expand(b, -1, -1), patches.reshape(b, h * w, d)], dim=1)
    return tokens + positions


def _check_keys(network: Any, name: str) -> None:
    attention: Any = getattr(network.blocks[-1], "attn", None)
    fused = getattr(attention, "qkv", None) is not None
    if len(network.blocks) < 2 or not fused or not isinstance(attention.k_norm, nn.Identity):
        raise WeightsError(
            "expected a ViT of at least 2 blocks with one qkv projection and keys that are not normalised; "
            f"got {name!r}; use features='tokens'"
        )


def _key_weight(network: Any) -> torch.Tensor:
    weight: torch.Tensor = network.blocks[-1].attn.qkv.weight.chunk(3)[1]
    return weight


def _key_bias(network: Any) -> torch.Tensor | None:
    # Eva (DINOv3) stores its biases outside the layer and has none for keys
    bias = network.blocks[-1].attn.qkv.bias
    return None if bias is None else bias.chunk(3)[1]
