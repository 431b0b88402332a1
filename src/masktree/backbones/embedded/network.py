"""The network of the embedded backbone: a small convolutional encoder with a feature pyramid and two dense heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from masktree.backbones.texture import NUM_CUES

SIZE_DIVISOR = 32  # height and width of the input must be multiples of it
STAGE_CHANNELS = (24, 48, 96, 160, 224)  # at strides 2, 4, 8, 16, 32 (our choice)
STAGE_BLOCKS = (0, 2, 2, 3, 2)  # residual blocks per stage (our choice)
PYRAMID_CHANNELS = 64  # (our choice)
EMBEDDING_DIM = 64  # (our choice)
# Granularities at which boundaries and regions are trained: a typical photograph has about 2.7, 5, 8, 12, 19 and 30
# regions there. They are paired with the cosine thresholds of the published rules, coarse to fine.
GRANULARITIES = (0.85, 0.756, 0.685, 0.624, 0.554, 0.485)
COSINE_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def _conv_bn(in_channels: int, out_channels: int, stride: int = 1, kernel_size: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def fuse_batch_norm(network: nn.Module) -> None:
    """Fuse each batch norm into the convolution before it, in place, for inference; the outputs stay the same."""
    for name, child in network.named_children():
        parts = list(child) if isinstance(child, nn.Sequential) else []
        if len(parts) == 2 and isinstance(parts[0], nn.Conv2d) and isinstance(parts[1], nn.BatchNorm2d):
            setattr(network, name, nn.Sequential(fuse_conv_bn_eval(parts[0].eval(), parts[1].eval())))
        else:
            fuse_batch_norm(child)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv_bn(channels, channels)
        self.second = _conv_bn(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class EmbeddedNetwork(nn.Module):
    """RGB image and boundary cues to boundary logits and embeddings.

    ``forward`` takes images (b, 3, H, W) in [0, 1], H and W multiples of ``SIZE_DIVISOR``, and cues (b, NUM_CUES, H/2,
    W/2), about 1 at a clear boundary, or None, and returns

    * boundary logits (b, len(GRANULARITIES), H/2, W/2), one map per granularity;
    * embeddings (b, EMBEDDING_DIM, H/4, W/4), not normalised; pixels of one region have a high cosine similarity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv_bn(3, STAGE_CHANNELS[0], 2), nn.ReLU(), _conv_bn(STAGE_CHANNELS[0], STAGE_CHANNELS[0]), nn.ReLU()
        )
        # The names of these attributes are those of the tensors in the weight file.
        self.evidence = nn.Conv2d(NUM_CUES, STAGE_CHANNELS[0], 3, padding=1)
        stages = []
        for before, width, depth in zip(STAGE_CHANNELS, STAGE_CHANNELS[1:], STAGE_BLOCKS[1:], strict=False):
            blocks = [ResidualBlock(width) for _ in range(depth)]
            stages.append(nn.Sequential(_conv_bn(before, width, 2), nn.ReLU(), *blocks))
        self.stages = nn.ModuleList(stages)
        self.context = nn.Linear(STAGE_CHANNELS[-1], STAGE_CHANNELS[-1])
        self.laterals = nn.ModuleList([nn.Conv2d(width, PYRAMID_CHANNELS, 1) for width in STAGE_CHANNELS[1:]])
        self.smooth = nn.ModuleList([_conv_bn(PYRAMID_CHANNELS, PYRAMID_CHANNELS) for _ in STAGE_CHANNELS[1:-1]])
        self.embed = nn.Sequential(
            _conv_bn(PYRAMID_CHANNELS, 2 * PYRAMID_CHANNELS, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(2 * PYRAMID_CHANNELS, EMBEDDING_DIM, 1),
        )
        self.fine = nn.Sequential(_conv_bn(PYRAMID_CHANNELS // 2 + STAGE_CHANNELS[0], STAGE_CHANNELS[0]), nn.ReLU())
        self.reduce = nn.Conv2d(PYRAMID_CHANNELS, PYRAMID_CHANNELS // 2, 1)
        self.border = nn.Conv2d(STAGE_CHANNELS[0], len(GRANULARITIES), 3, padding=1)

    def forward(self, images: Tensor, cues: Tensor | None, scene_mean: Tensor | None = None) -> tuple[Tensor, Tensor]:
        finest, maps = self.encode(images, cues, scene_mean)
        finest_pyramid = self.top_down(maps)[0]
        upsampled = functional.interpolate(
            self.reduce(finest_pyramid), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        return self.border(self.fine(torch.cat([upsampled, finest], 1))), self.embed(finest_pyramid)

    def encode(
        self, images: Tensor, cues: Tensor | None, scene_mean: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Encoder maps: that at stride 2, and those at strides 4, 8, 16 and 32; STAGE_CHANNELS channels.

        ``scene_mean``: (b, STAGE_CHANNELS[-1]) mean of the coarsest of ``local_maps`` over the image of which these are
        windows; None takes that of each image itself.
        """
        finest, maps = self.local_maps(images, cues)
        # Global context: the receptive field of most pixels is smaller than the image.
        mean = maps[-1].mean((2, 3)) if scene_mean is None else scene_mean
        maps[-1] = maps[-1] + self.context(mean)[:, :, None, None]
        return finest, maps

    def local_maps(self, images: Tensor, cues: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """The maps of ``encode`` before the global context is added to the coarsest."""
        first, relu, second, _ = self.stem
        x = relu(first((images - 0.45) / 0.25))
        if cues is not None:
            x = x + self.evidence(cues - 0.5)
        x = relu(second(x))
        finest, maps = x, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return finest, maps

    def top_down(self, maps: list[Tensor]) -> list[Tensor]:
        """Feature pyramid (Lin et al. 2017, arXiv 1612.03144) at strides 4, 8 and 16, PYRAMID_CHANNELS channels."""
        x, pyramid = self.laterals[-1](maps[-1]), []
        for level in (2, 1, 0):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = functional.relu(self.smooth[level](x + self.laterals[level](maps[level])))
            pyramid.append(x)
        return pyramid[::-1]
