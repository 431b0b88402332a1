"""Backbones: images in, feature grids out. Importing this package imports neither torch nor timm."""

from __future__ import annotations

from numbers import Integral
from typing import Literal

from masktree.arguments import check_type
from masktree.backbones.base import Backbone
from masktree.backbones.weights import PUBLISHED_WEIGHTS, Weights
from masktree.errors import InputError

__all__ = ["PUBLISHED_WEIGHTS", "Backbone", "Weights", "load_backbone"]


def load_backbone(
    name: str = "embedded",
    device: str = "auto",
    dtype: str = "float32",
    *,
    features: Literal["keys", "tokens"] = "keys",
    positions: Literal["timm", "dino"] = "timm",
    batch: int = 8,
) -> Backbone:
    """Backbone by name, file or folder; never replaced by another one.

    Args:
        name: ``embedded`` (no download): the small network of the package. ``texture``: a hand-crafted extractor of
            colour and texture without weights, on the CPU in float32. Neither uses ``features`` and
            ``batch`` or has ``positions``. ``embedded@PATH``: other weights of the embedded network, from
            ``recipes/embedded_backbone.py``. A key of ``PUBLISHED_WEIGHTS`` (``dino-vitb8``, ``dinov2-vits14-reg``
            ...): from the cache, else downloaded once. ``NAME@PATH``: a local file for such a network: safetensors, or
            .pth/.pt of tensors; timm's or the original authors' layout; checkpoints with ``teacher`` or ``state_dict``
            inside. A folder with ``config.json`` (timm's ``architecture``, ``model_args``, and ``mean`` and ``std`` in
            ``pretrained_cfg``) and ``model.safetensors``.
        device: ``auto`` (cuda, else mps, else cpu), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``float32``, ``bfloat16`` or, on GPUs, ``float16`` for the computation; results are always float32.
        features: of a ViT, ``keys`` of the last attention block (as clustered by HASSOD, SOHES and UnSAM) or
            ``tokens``, the patch tokens after the last layer and the final norm. A ResNet has one feature map.
        positions: how a ViT's learned position embeddings are resized: by timm, or as in DINO's own code, which the
            published methods run on; see ``TimmBackbone``. Neither built-in backbone has any.
        batch: maximum number of images in one forward pass, >= 1; bounds memory.

    Returns:
        Backbone; its ``provenance.sha256`` is the hash of the file that was read. Origin, licence and training images
        of a local file are ``unknown`` unless it is a copy of a published one.

    Raises:
        WeightsError: unknown name; not cached and no network; wrong, damaged or mismatching file; device missing;
            ``positions="dino"`` for a network without such positions.
        InputError: unknown ``dtype``, ``device``, ``features`` or ``positions``; ``batch`` below 1.
    """
    for argument, value in (("name", name), ("device", device), ("dtype", dtype), ("features", features)):
        check_type(value, str, argument)
    check_type(batch, Integral, "batch")
    if features not in ("keys", "tokens"):
        raise InputError(f"expected features 'keys' or 'tokens'; got {features!r}; give one of these")
    if positions not in ("timm", "dino"):
        raise InputError(f"expected positions 'timm' or 'dino'; got {positions!r}; give one of these")
    if positions == "dino" and name.partition("@")[0] in ("embedded", "texture"):
        raise InputError(f"expected positions 'dino' with a ViT; got {name!r}, which has no positions; omit them")
    if batch < 1:
        raise InputError(f"expected a batch of at least 1 image; got {batch}; 1 needs the least memory")
    if name == "texture":
        if device not in ("auto", "cpu") or dtype != "float32":
            raise InputError(
                f"expected device auto or cpu and dtype float32 for {name!r}, which is computed on the CPU; got "
                f"{device!r} and {dtype!r}; leave these options out, or choose a network"
            )
        from masktree.backbones.texture import TextureBackbone

        return TextureBackbone()
    from masktree.backbones.device import resolve_device, resolve_dtype

    target = resolve_device(device)  # before the weights: a wrong device should not cost a download
    resolve_dtype(dtype, target)
    if name == "embedded" or name.startswith("embedded@"):
        from masktree.backbones.embedded import EmbeddedBackbone

        return EmbeddedBackbone(device=target, dtype=dtype, path=name.partition("@")[2] or None)
    from masktree.backbones.timm_backbone import TimmBackbone
    from masktree.backbones.timm_networks import load_timm_network

    network, provenance = load_timm_network(name)
    return TimmBackbone(
        network, provenance, features=features, positions=positions, device=target, dtype=dtype, batch=batch
    )
