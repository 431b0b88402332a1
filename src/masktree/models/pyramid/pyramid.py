"""Backbones as segmenters need them: images in, maps at strides 4, 8, 16 and 32 out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from masktree.backbones.embedded.network import PYRAMID_CHANNELS, STAGE_CHANNELS, EmbeddedNetwork, fuse_batch_norm
from masktree.errors import InputError, WeightsError

STRIDE = 32
STRIDES = (4, 8, 16, 32)


@runtime_checkable
class Pyramid(Protocol):
    """What makes four maps of an image; a ``torch.nn.Module`` besides.

    Attributes
    ----------
    channels: of the maps at strides 4, 8, 16 and 32.
    wants_cues: whether the hand-crafted boundary cues enter beside the image.
    stride: sides of images are multiples of it.
    """

    channels: tuple[int, int, int, int]
    wants_cues: bool
    stride: int

    def __call__(self, images: Tensor, cues: Tensor | None = None) -> list[Tensor]:
        """Maps (b, channels[i], H/s, W/s) at s = 4, 8, 16, 32.

        ``images`` (b, 3, H, W) RGB in [0, 1], which the pyramid normalises itself; ``cues`` (b, NUM_CUES, H/2, W/2)
        where it wants them.

        Raises
        ------
        InputError: sides that are not multiples of ``stride``; no cues where they are wanted.
        """
        ...

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """Trainable parameters that come with weights: they learn at the backbone's smaller rate."""
        ...


def build_pyramid(name: str, *, weights: bool) -> Pyramid:
    """Pyramid by the name of its backbone, on the CPU in float32, trainable.

    Parameters
    ----------
    name:
        ``embedded``: the network of the package; ``embedded@PATH``: with other weights. A listed name
        (``dino-vitb8``, ``dino-resnet50`` ...), ``NAME@PATH`` or a folder, as for
        :func:`masktree.backbones.load_backbone`. A ResNet gives the maps of its stages, a ViT gets a ViT-Adapter.
    weights:
        True: with the backbone's weights. False: the structure alone, for tensors from a run; no weight file is looked
        for, on disk or elsewhere; of a folder ``config.json`` is read.

    What has no weights of its own (a ViT-Adapter) starts from torch's global random state.

    Raises
    ------
    WeightsError: as ``load_backbone``; a network that gives no such maps; ``texture``, which is no network.
    """
    if name == "embedded" or name.startswith("embedded@"):
        return EmbeddedPyramid(_embedded_network(weights, name.partition("@")[2]))
    if name == "texture":
        raise WeightsError(
            "expected a backbone that can be trained; got 'texture', which is made by hand; choose 'embedded' or one "
            "of the networks that 'masktree info backbone' lists"
        )
    from masktree.backbones.timm_networks import build_timm_network, is_resnet, load_timm_network

    network, record = load_timm_network(name) if weights else build_timm_network(name)
    if is_resnet(network):
        return ResNetPyramid(network, record.mean, record.std)
    from masktree.models.pyramid.vit_adapter import ViTAdapter

    return ViTAdapter(network, record.mean, record.std)


def check_sides(images: Tensor) -> None:
    """Raise InputError unless ``images`` is (b, 3, H, W) with sides that are multiples of 32."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % STRIDE or images.shape[3] % STRIDE:
        raise InputError(
            f"expected images (b, 3, H, W), H and W multiples of {STRIDE}; got {tuple(images.shape)}; "
            "pad them with zeros"
        )


class EmbeddedPyramid(nn.Module):
    """All that the embedded network knows at four strides, but for its border head.

    The stages' maps alone would leave the finest one, from which masks are made, with what 48 channels see of a small
    neighbourhood. So beside them stand, at strides 4, 8 and 16, the maps into which the coarser stages' knowledge has
    been mixed, and at stride 4 the embeddings too, whose products say what belongs together: the very form in which a
    mask decoder compares queries with pixels. Training starts with them instead of learning them again (our choice: a
    linear read-out of the finest map gives the masks that the default method finds in six photographs with a mean IoU
    of 0.29 from the stage's map alone, 0.64 with the mixed one, 0.69 with the embeddings). The cost is that of three
    small 3 x 3 convolutions.

    Parameters
    ----------
    network: with batch norm folded away; its border head is taken off, its parameters become trainable.
    """

    channels = (
        STAGE_CHANNELS[1] + 2 * PYRAMID_CHANNELS,
        STAGE_CHANNELS[2] + PYRAMID_CHANNELS,
        STAGE_CHANNELS[3] + PYRAMID_CHANNELS,
        STAGE_CHANNELS[4],
    )
    wants_cues = True
    stride = STRIDE

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.requires_grad_(True)
        del network.fine, network.reduce, network.border

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """All there are."""
        return self.network.parameters()

    def forward(self, images: Tensor, cues: Tensor | None = None) -> list[Tensor]:
        """See :class:`Pyramid`; without cues an InputError."""
        check_sides(images)
        if cues is None:
            raise InputError(
                "expected cues beside the images; got None; masktree.backbones.texture.boundary_cues has them"
            )
        _, maps = self.network.encode(images, cues)
        mixed = self.network.top_down(maps)
        finest = torch.cat([maps[0], mixed[0], self.network.embed(mixed[0])], 1)
        between = [torch.cat(pair, 1) for pair in zip(maps[1:3], mixed[1:], strict=True)]
        return [finest, *between, maps[3]]


class ResNetPyramid(nn.Module):
    """The maps of a ResNet's four stages, with batch norm frozen: statistics, scale and shift never move.

    The network is always in evaluation mode. Batches are small and differ from the images of pretraining; detectors
    have been trained like this since He et al. 2016 (arXiv 1512.03385, appendix A).

    Parameters
    ----------
    network: timm's, without a head; everything but its batch norm becomes trainable.
    mean, std: its RGB normalisation, for values in [0, 1].

    Raises
    ------
    WeightsError: stages at other strides.
    """

    wants_cues = False
    stride = STRIDE
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = cast(Any, network.requires_grad_(True).eval())
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        stages = self.network.feature_info[1:]
        strides = tuple(stage["reduction"] for stage in stages)
        if strides != STRIDES:
            raise WeightsError(f"expected a ResNet with stages at strides {STRIDES}; got {strides}; choose another")
        fine, middle, coarse, coarsest = (stage["num_chs"] for stage in stages)
        self.channels = (fine, middle, coarse, coarsest)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> ResNetPyramid:
        super().train(mode)
        self.network.eval()
        return self

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """All but what is frozen."""
        return (parameter for parameter in self.network.parameters() if parameter.requires_grad)

    def forward(self, images: Tensor, cues: Tensor | None = None) -> list[Tensor]:
        """See :class:`Pyramid`; ``cues`` are not looked at."""
        check_sides(images)
        pixels = (images - self.mean) / self.std
        return self.network.forward_intermediates(pixels, indices=[1, 2, 3, 4], intermediates_only=True)


def _embedded_network(weights: bool, path: str) -> EmbeddedNetwork:
    if weights:
        from masktree.backbones import embedded

        if path:
            return embedded.load_embedded_network(Path(path), None)
        return embedded.load_embedded_network(embedded.WEIGHT_FILE, embedded.EMBEDDED_WEIGHTS.sha256)
    network = EmbeddedNetwork().eval()
    fuse_batch_norm(network)
    return network
