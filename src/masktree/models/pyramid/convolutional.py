"""Pyramids of convolutional backbones: the embedded network and ResNets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from masktree.backbones.embedded.network import PYRAMID_CHANNELS, STAGE_CHANNELS, EmbeddedNetwork
from masktree.errors import InputError, WeightsError
from masktree.models.pyramid.base import STRIDES, check_image_size


class EmbeddedPyramid(nn.Module):
    """Maps of the embedded network; a ``Pyramid``.

    The maps at strides 4, 8 and 16 are those of its stages, concatenated with its top-down pyramid; the finest also
    has its embeddings, whose inner products say which pixels belong together, the same form in which a mask decoder
    compares queries with pixels. A stage alone would leave the finest map, from which masks are decoded, with the small
    receptive field of 48 channels. (Our choice: a linear read-out of the finest map gives the masks that the default
    method finds in six photographs with a mean IoU of 0.29 from the stage alone, 0.64 with the top-down map and 0.69
    with the embeddings. It costs three small 3 x 3 convolutions.)

    Args:
        network: with fused batch norm; its boundary head is removed and its parameters become trainable.
    """

    channels = (
        STAGE_CHANNELS[1] + 2 * PYRAMID_CHANNELS,
        STAGE_CHANNELS[2] + PYRAMID_CHANNELS,
        STAGE_CHANNELS[3] + PYRAMID_CHANNELS,
        STAGE_CHANNELS[4],
    )
    wants_cues = True

    def __init__(self, network: EmbeddedNetwork) -> None:
        super().__init__()
        self.network = network.requires_grad_(True)
        del network.fine, network.reduce, network.border

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters."""
        return self.network.parameters()

    def forward(self, images: Tensor, cues: Tensor | None = None) -> list[Tensor]:
        """See ``Pyramid``."""
        check_image_size(images)
        if cues is None:
            raise InputError(
                "expected cues beside the images; got None; compute them with masktree.backbones.texture.boundary_cues"
            )
        _, maps = self.network.encode(images, cues)
        top_down = self.network.top_down(maps)
        finest = torch.cat([maps[0], top_down[0], self.network.embed(top_down[0])], 1)
        between = [torch.cat(pair, 1) for pair in zip(maps[1:3], top_down[1:], strict=True)]
        return [finest, *between, maps[3]]


class ResNetPyramid(nn.Module):
    """Maps of the four stages of a ResNet; a ``Pyramid``.

    With frozen batch norms the network stays in evaluation mode, and their scale and shift are not trained: batches are
    small and differ from the images of pretraining (usual in detectors since He et al. 2016, arXiv 1512.03385, appendix
    A). Trained ones, as in the released code of CutLER and HASSOD, normalise by the batch of the process, or on several
    GPUs of all of them, so that a step depends on how its images are spread.

    Args:
        network: timm's ResNet without a head; all but frozen batch norms becomes trainable.
        mean, std: its RGB normalisation, for values in [0, 1].
        train_norm: train the batch norms, unless the backbone's learning rate is 0.

    Raises:
        WeightsError: its stages have other strides.
    """

    wants_cues = False
    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], *, train_norm: bool = False
    ) -> None:
        super().__init__()
        self.network = cast(Any, network.requires_grad_(True).eval())  # timm's attributes are not in nn.Module's type
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(train_norm)
        stages = self.network.feature_info[1:]
        strides = tuple(stage["reduction"] for stage in stages)
        if strides != STRIDES:
            raise WeightsError(f"expected a ResNet with stages at strides {STRIDES}; got {strides}; choose another")
        c4, c8, c16, c32 = (stage["num_chs"] for stage in stages)
        self.channels = (c4, c8, c16, c32)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> ResNetPyramid:
        super().train(mode)
        norms = [m for m in self.network.modules() if isinstance(m, nn.BatchNorm2d)]
        self.network.train(mode and any(p.requires_grad for norm in norms for p in norm.parameters()))
        return self

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters but those of frozen batch norms."""
        return (parameter for parameter in self.network.parameters() if parameter.requires_grad)

    def forward(self, images: Tensor, cues: Tensor | None = None) -> list[Tensor]:
        """See ``Pyramid``; ``cues`` are ignored."""
        check_image_size(images)
        maps: list[Tensor] = self.network.forward_intermediates(
            (images - self.mean) / self.std, indices=[1, 2, 3, 4], intermediates_only=True
        )
        return maps
