"""The network of the embedded backbone: a small convolutional encoder with a feature pyramid and two dense heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from masktree.backbones.texture import CUES

STRIDE = 32  # sides must be multiples of it
WIDTHS = (24, 48, 96, 160, 224)  # channels at strides 2, 4, 8, 16, 32 (our choice)
DEPTHS = (0, 2, 2, 3, 2)  # residual blocks there (our choice)
PYRAMID = 64  # channels of the pyramid (our choice)
DIMENSIONS = 64  # of the embedding (our choice)
# Granularities at which borders and regions are learned: a typical photograph has about 2.7, 5, 8, 12, 19 and 30
# regions there. They are paired with the cosine thresholds of the published rules, coarse to fine.
LEVELS = (0.85, 0.756, 0.685, 0.624, 0.554, 0.485)
COSINES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def _convolution(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


def fold(network: nn.Module) -> None:
    """Put each batch norm into the convolution before it, in place; for inference only. The outputs stay the same."""
    for name, child in network.named_children():
        parts = list(child) if isinstance(child, nn.Sequential) else []
        if len(parts) == 2 and isinstance(parts[0], nn.Conv2d) and isinstance(parts[1], nn.BatchNorm2d):
            setattr(network, name, nn.Sequential(fuse_conv_bn_eval(parts[0].eval(), parts[1].eval())))
        else:
            fold(child)


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = _convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class Network(nn.Module):
    """RGB in, border logits and embeddings out.

    ``forward`` takes images (b, 3, H, W) in [0, 1], H and W multiples of 32, and cues (b, CUES, H/2, W/2), about 1 at a
    clear border, and returns

    * borders (b, len(LEVELS), H/2, W/2): logit that a border passes here which lasts to that granularity;
    * embeddings (b, DIMENSIONS, H/4, W/4), not normalised; their cosines say what belongs together.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _convolution(3, WIDTHS[0], 2), nn.ReLU(), _convolution(WIDTHS[0], WIDTHS[0]), nn.ReLU()
        )
        self.evidence = nn.Conv2d(CUES, WIDTHS[0], 3, padding=1)
        stages = []
        for before, width, depth in zip(WIDTHS, WIDTHS[1:], DEPTHS[1:], strict=False):
            blocks = [Block(width) for _ in range(depth)]
            stages.append(nn.Sequential(_convolution(before, width, 2), nn.ReLU(), *blocks))
        self.stages = nn.ModuleList(stages)
        self.context = nn.Linear(WIDTHS[-1], WIDTHS[-1])
        self.laterals = nn.ModuleList([nn.Conv2d(width, PYRAMID, 1) for width in WIDTHS[1:]])
        self.smooth = nn.ModuleList([_convolution(PYRAMID, PYRAMID) for _ in WIDTHS[1:-1]])
        self.embed = nn.Sequential(
            _convolution(PYRAMID, 2 * PYRAMID, size=1), nn.ReLU(), nn.Conv2d(2 * PYRAMID, DIMENSIONS, 1)
        )
        self.fine = nn.Sequential(_convolution(PYRAMID // 2 + WIDTHS[0], WIDTHS[0]), nn.ReLU())
        self.reduce = nn.Conv2d(PYRAMID, PYRAMID // 2, 1)
        self.border = nn.Conv2d(WIDTHS[0], len(LEVELS), 3, padding=1)

    def forward(self, images: Tensor, cues: Tensor | None) -> tuple[Tensor, Tensor]:
        finest, maps = self.encode(images, cues)
        top = self.mix(maps)[0]
        wide = functional.interpolate(self.reduce(top), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.border(self.fine(torch.cat([wide, finest], 1))), self.embed(top)

    def encode(self, images: Tensor, cues: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """The map at stride 2 and those of the four stages, at strides 4, 8, 16 and 32; WIDTHS channels."""
        first, relu, second, _ = self.stem
        x = relu(first((images - 0.45) / 0.25))
        if cues is not None:
            x = x + self.evidence(cues - 0.5)
        x = relu(second(x))
        finest, maps = x, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        # What the whole picture shows is added everywhere: few pixels see all of it otherwise.
        maps[-1] = maps[-1] + self.context(maps[-1].mean((2, 3)))[:, :, None, None]
        return finest, maps

    def mix(self, maps: list[Tensor]) -> list[Tensor]:
        """The stages' maps with what the coarser ones know, at strides 4, 8 and 16; PYRAMID channels."""
        top, mixed = self.laterals[-1](maps[-1]), []
        for level in (2, 1, 0):
            top = functional.interpolate(top, scale_factor=2.0, mode="nearest")
            top = functional.relu(self.smooth[level](top + self.laterals[level](maps[level])))
            mixed.append(top)
        return mixed[::-1]
