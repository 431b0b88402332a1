"""Maps at strides 4, 8, 16 and 32 from a plain vision transformer: ViT-Adapter (Chen et al. 2023, arXiv 2205.08534).

A small convolutional branch, the spatial prior, runs beside the transformer. Four times it adds what it sees to the
patch tokens (injector) and takes up what the transformer knows (extractor), both by deformable attention.

What differs from the authors' code, and why:

* group norm stands for batch norm synchronised over processes: a step must not depend on how its images are spread;
* no stochastic depth, for the same reason; the transformer is always in evaluation mode;
* the transformer keeps its class and register tokens, which it was trained with; they take no part in the exchange;
* attention is global in all blocks, as the transformer was trained;
* the tokens that are added to the maps pass the transformer's final norm first: without batch norm nothing else would
  tame the few channels that are a hundred times larger than the rest in DINOv2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from masktree.errors import WeightsError
from masktree.models.pyramid.deformable import DeformableAttention, Shape, cell_centres
from masktree.models.pyramid.pyramid import STRIDE, check_sides

# All from the authors' configuration of the base size.
STEM = 64
POINTS = 4
FEEDFORWARD = 0.25
DEFORM = 0.5
INTERACTIONS = 4
EXTRACTORS = 3  # in the last interaction; one in the others
EPSILON = 1e-6
_GROUP = 16  # channels that are normalised together (Wu and He 2018, arXiv 1803.08494, table 3)


class ViTAdapter(nn.Module):
    """A pyramid around a timm ViT or Eva network; see :class:`masktree.models.pyramid.pyramid.Pyramid`.

    Tokens lie on a grid of stride 8 for patches of 8 pixels, and of 16 for 14 and 16: the network of 14 sees the image
    at 7/8 of its size, as the authors do by resizing its patch filters, so that its grid and the map at stride 16 are
    one. All four maps have the network's width. Deformable attention has as many heads as the network's own attention
    (12 for base, as published, 6 for small).

    Parameters
    ----------
    network: with ``dynamic_img_size``, as ``timm_networks`` builds it; its parameters become trainable.
    mean, std: its RGB normalisation, for values in [0, 1].
    checkpointing: compute each interaction again in the backward pass instead of keeping its inner values; about a
        third more time, for a fraction of the memory. May be changed at any time.

    Raises
    ------
    WeightsError: fewer than 4 blocks, patches of more than 32 pixels, or another position code in each block.
    """

    wants_cues = False
    stride = STRIDE
    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], *, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.network = cast(Any, network.requires_grad_(True).eval())
        self.network.fc_norm = nn.Identity()  # of pooled tokens: parameters that no image would reach
        depth, dim, heads = len(self.network.blocks), self.network.num_features, self.network.blocks[0].attn.num_heads
        self.patch = int(self.network.patch_embed.patch_size[0])
        self._check(depth)
        self.cell = next(stride for stride in (8, 16, 32) if stride >= self.patch)
        self.channels = (dim, dim, dim, dim)
        self.checkpointing = checkpointing
        self.groups = [range(depth * i // INTERACTIONS, depth * (i + 1) // INTERACTIONS) for i in range(INTERACTIONS)]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.prior = SpatialPrior(dim)
        self.injectors = nn.ModuleList([Injector(dim, heads) for _ in self.groups])
        counts = [1] * (INTERACTIONS - 1) + [EXTRACTORS]
        self.extractors = nn.ModuleList([nn.ModuleList([Extractor(dim, heads) for _ in range(n)]) for n in counts])
        self.up = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.norms = nn.ModuleList([_group_norm(dim) for _ in self.channels])
        for part in (self.prior, self.injectors, self.extractors, self.up):
            part.apply(_initialise)

    def _check(self, depth: int) -> None:
        found = [
            f"{depth} blocks" if depth < INTERACTIONS else "",
            f"patches of {self.patch} pixels" if self.patch > STRIDE else "",
            "a position code for each block" if getattr(self.network, "rope_mixed", False) else "",
        ]
        if any(found):
            raise WeightsError(
                f"expected a ViT of at least {INTERACTIONS} blocks, with patches of at most {STRIDE} pixels and one "
                f"position code; got {', '.join(filter(None, found))}; choose another backbone"
            )

    def train(self, mode: bool = True) -> ViTAdapter:
        super().train(mode)
        self.network.eval()
        return self

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the transformer."""
        return self.network.parameters()

    def forward(self, images: Tensor, cues: Tensor | None = None) -> list[Tensor]:
        """Maps (b, dim, H/s, W/s) at s = 4, 8, 16, 32 of (b, 3, H, W) images in [0, 1]; ``cues`` are not looked at.

        Raises
        ------
        InputError: sides that are not multiples of 32.
        """
        check_sides(images)
        pixels = (images - self.mean) / self.std
        grid = images.shape[2] // self.cell, images.shape[3] // self.cell
        finest, maps = self.prior(pixels)
        shapes = [(int(plane.shape[2]), int(plane.shape[3])) for plane in maps]
        cells = torch.cat([plane.flatten(2).transpose(1, 2) for plane in maps], 1)
        tokens, rope = self._embed(pixels, grid)
        for index in range(INTERACTIONS):
            step = (index, tokens, cells, rope, grid, shapes)
            if self.checkpointing and torch.is_grad_enabled():
                tokens, cells = checkpoint(self._interact, *step, use_reentrant=False)
            else:
                tokens, cells = self._interact(*step)
        seen = _planes(self.network.norm(tokens)[:, self.network.num_prefix_tokens :], grid)
        maps = [_planes(part, shape) for part, shape in zip(_split(cells, shapes), shapes, strict=True)]
        maps = [finest + self.up(maps[0]), *maps]
        return [norm(plane + _resized(seen, plane.shape[2:])) for norm, plane in zip(self.norms, maps, strict=True)]

    def _embed(self, pixels: Tensor, grid: Shape) -> tuple[Tensor, Tensor | None]:
        """Tokens before the first block, and the rotary position code of networks that have one."""
        if self.cell != self.patch:
            size = grid[0] * self.patch, grid[1] * self.patch
            pixels = functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
        embedded = self.network._pos_embed(self.network.patch_embed(pixels))
        tokens, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
        return self.network.norm_pre(tokens), rope

    def _interact(
        self, index: int, tokens: Tensor, cells: Tensor, rope: Tensor | None, grid: Shape, shapes: Sequence[Shape]
    ) -> tuple[Tensor, Tensor]:
        """Injector, a group of the transformer's blocks, extractors."""
        first = self.network.num_prefix_tokens
        patches = self.injectors[index](tokens[:, first:], grid, cells, shapes)
        tokens = torch.cat([tokens[:, :first], patches], 1)
        for block in self.groups[index]:
            tokens = self.network.blocks[block](tokens, **({} if rope is None else {"rope": rope}))
        extractors: Any = self.extractors[index]
        for extractor in extractors:
            cells = extractor(cells, shapes, tokens[:, first:], grid)
        return tokens, cells


class SpatialPrior(nn.Module):
    """The convolutional branch: a map at stride 4, and three at 8, 16 and 32 that are told apart by an embedding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        stem = [_convolution(3, STEM, 2), _convolution(STEM, STEM, 1), _convolution(STEM, STEM, 1)]
        self.stages = nn.ModuleList(
            [
                nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1)),
                _convolution(STEM, 2 * STEM, 2),
                _convolution(2 * STEM, 4 * STEM, 2),
                _convolution(4 * STEM, 4 * STEM, 2),
            ]
        )
        self.widen = nn.ModuleList([nn.Conv2d(factor * STEM, dim, 1) for factor in (1, 2, 4, 4)])
        self.level = nn.Parameter(torch.randn(3, dim))

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(b, 3, H, W) normalised pixels to (b, dim, H/4, W/4), and [(b, dim, H/s, W/s) for s = 8, 16, 32]."""
        x, maps = pixels, []
        for stage, widen in zip(self.stages, self.widen, strict=True):
            x = stage(x)
            maps.append(widen(x))
        return maps[0], [plane + level[:, None, None] for plane, level in zip(maps[1:], self.level, strict=True)]


class Injector(nn.Module):
    """Adds to the patch tokens what they find on the three maps; nothing before training, as ``gamma`` is 0."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query_norm, self.feature_norm = nn.LayerNorm(dim, EPSILON), nn.LayerNorm(dim, EPSILON)
        self.attention = DeformableAttention(dim, heads, 3, POINTS, DEFORM)
        self.gamma = nn.Parameter(torch.zeros(dim))

    def forward(self, patches: Tensor, grid: Shape, cells: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """``patches`` (b, h * w, dim) on ``grid`` = (h, w); ``cells`` (b, n, dim) on maps of ``shapes``."""
        centres = cell_centres([grid], patches.device)
        found = self.attention(self.query_norm(patches), centres, self.feature_norm(cells), shapes)
        return patches + self.gamma * found


class Extractor(nn.Module):
    """Adds to the cells of the three maps what they find among the patch tokens; then a convolutional layer."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query_norm, self.feature_norm = nn.LayerNorm(dim, EPSILON), nn.LayerNorm(dim, EPSILON)
        self.attention = DeformableAttention(dim, heads, 1, POINTS, DEFORM)
        inner = int(dim * FEEDFORWARD)
        self.norm = nn.LayerNorm(dim, EPSILON)
        self.narrow = nn.Linear(dim, inner)
        self.around = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.widen = nn.Linear(inner, dim)

    def forward(self, cells: Tensor, shapes: Sequence[Shape], patches: Tensor, grid: Shape) -> Tensor:
        """``cells`` (b, n, dim) on maps of ``shapes``; ``patches`` (b, h * w, dim) on ``grid`` = (h, w)."""
        centres = cell_centres(shapes, cells.device)
        cells = cells + self.attention(self.query_norm(cells), centres, self.feature_norm(patches), [grid])
        inner = _split(self.narrow(self.norm(cells)), shapes)
        mixed = [self.around(_planes(part, shape)).flatten(2) for part, shape in zip(inner, shapes, strict=True)]
        return cells + self.widen(functional.gelu(torch.cat(mixed, 2).transpose(1, 2)))


def _split(cells: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
    return cells.split([h * w for h, w in shapes], 1)


def _planes(cells: Tensor, shape: Shape) -> Tensor:
    """(b, h * w, d) cells of one map as (b, d, h, w)."""
    return cells.transpose(1, 2).unflatten(2, shape)


def _resized(planes: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, or the mean of the cells that become one."""
    shrink = planes.shape[2] // size[0]
    if shrink >= 1:
        return functional.avg_pool2d(planes, shrink) if shrink > 1 else planes
    return functional.interpolate(planes, tuple(size), mode="bilinear", align_corners=False)


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), _group_norm(outputs), nn.ReLU())


def _group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width // math.gcd(_GROUP, width), width)


def _initialise(module: nn.Module) -> None:
    """The authors' start: small normal weights in linear layers, He's in convolutions."""
    if isinstance(module, DeformableAttention):
        module.reset_parameters()  # after its layers: apply() visits children first
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
