"""Pyramids by the name of their backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from masktree.backbones import embedded
from masktree.backbones.embedded.network import EmbeddedNetwork, fuse_batch_norm
from masktree.errors import WeightsError
from masktree.models.pyramid.convolutional import EmbeddedPyramid, ResNetPyramid

if TYPE_CHECKING:
    from masktree.models.pyramid.vit_adapter import ViTAdapter


def build_pyramid(
    name: str, *, weights: bool, train_norm: bool = False
) -> EmbeddedPyramid | ResNetPyramid | ViTAdapter:
    """The pyramid of a backbone, on the CPU in float32, trainable.

    Layers without pretrained weights (those of a ViT-Adapter) are initialised from torch's global random state.

    Args:
        name: ``embedded``, or ``embedded@PATH`` for other weights of that network; a listed name (``dino-vitb8``,
            ``dino-resnet50`` ...), ``NAME@PATH`` or a folder, as for ``masktree.backbones.load_backbone``. A ResNet
            returns the maps of its stages; a ViT gets a ViT-Adapter.
        weights: False builds the structure only, for the tensors of a run. No weight file is then opened; of a folder
            only ``config.json`` is read.
        train_norm: train the batch norms of a ResNet; no other backbone has any.

    Raises:
        WeightsError: as ``load_backbone``; also for a network without maps at these strides, and for ``texture``, which
            is not a network.
    """
    if name == "embedded" or name.startswith("embedded@"):
        return EmbeddedPyramid(_embedded_network(name.partition("@")[2], weights=weights))
    if name == "texture":
        raise WeightsError(
            "expected a trainable backbone; got 'texture', which is made by hand; choose 'embedded' or one of the "
            "networks that 'masktree info backbone' lists"
        )
    from masktree.backbones.timm_networks import build_timm_network, is_resnet, load_timm_network  # timm: 1 s to import
    from masktree.models.pyramid.vit_adapter import ViTAdapter

    network, record = load_timm_network(name) if weights else build_timm_network(name)
    if is_resnet(network):
        return ResNetPyramid(network, record.mean, record.std, train_norm=train_norm)
    return ViTAdapter(network, record.mean, record.std)


def _embedded_network(path: str, *, weights: bool) -> EmbeddedNetwork:
    if not weights:
        network = EmbeddedNetwork().eval()
        fuse_batch_norm(network)
        return network
    if path:
        return embedded.load_embedded_network(Path(path), None)
    return embedded.load_embedded_network(embedded.WEIGHT_FILE, embedded.EMBEDDED_WEIGHTS.sha256)
