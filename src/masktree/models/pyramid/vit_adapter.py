"""ViT-Adapter (Chen et al. 2023, arXiv 2205.08534): maps at strides 4, 8, 16 and 32 from a plain vision transformer.

A small convolutional branch, the spatial prior module, runs beside the transformer. Four times an injector adds its
features to the patch tokens and extractors update its maps from the tokens, both by deformable attention.

Differences from the authors' code:

* group norm instead of batch norm synchronised over processes: a step must not depend on how its images are spread;
* no stochastic depth, for the same reason; the transformer is always in evaluation mode;
* class and register tokens stay, as the transformer was trained with them; they take no part in the interaction;
* attention is global in all blocks, as the transformer was trained;
* the tokens that are added to the maps pass the transformer's final norm first: without batch norm nothing else would
  tame the few channels that are a hundred times larger than the rest in DINOv2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from masktree.errors import WeightsError
from masktree.models.pyramid.base import SIZE_DIVISOR, check_image_size
from masktree.models.pyramid.deformable import DeformableAttention, Shape, cell_centres

# From the authors' configuration of the base size.
STEM_CHANNELS = 64
NUM_POINTS = 4  # sampling points per head and map
FFN_RATIO = 0.25
VALUE_RATIO = 0.5
NUM_INTERACTIONS = 4
NUM_LAST_EXTRACTORS = 3  # in the last interaction; one in the others
LAYER_NORM_EPS = 1e-6
_CHANNELS_PER_GROUP = 16  # of group norm (Wu and He 2018, arXiv 1803.08494, table 3)


class ViTAdapter(nn.Module):
    """ViT-Adapter around a timm ViT or Eva network; a ``Pyramid``.

    Patch tokens lie on a grid of stride 8 for patches of 8 pixels and of 16 for 14 and 16: a network with patches of 14
    gets the image at 7/8 of its size (the authors resize its patch filters instead), so that its grid matches the map
    at stride 16. All maps have the network's width. Deformable attention has as many heads as the network's own
    attention (12 for base, as published, 6 for small).

    Args:
        network: with ``dynamic_img_size``, as ``masktree.backbones.timm_networks`` builds it; its parameters become
        trainable.
        mean, std: its RGB normalisation, for values in [0, 1].
        checkpointing: recompute each interaction in the backward pass instead of keeping its activations: about a third
            more time for a fraction of the memory. May be changed at any time.

    Raises:
        WeightsError: fewer than 4 blocks, patches of more than 32 pixels, or a position embedding per block.
    """

    wants_cues = False
    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], *, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.network = cast(Any, network.requires_grad_(True).eval())  # timm's attributes are not in nn.Module's type
        self.network.fc_norm = nn.Identity()  # for pooled tokens: it would never get a gradient
        depth, dim, heads = len(self.network.blocks), self.network.num_features, self.network.blocks[0].attn.num_heads
        self.patch_size = int(self.network.patch_embed.patch_size[0])
        self._check_network(depth)
        self.token_stride = next(stride for stride in (8, 16, 32) if stride >= self.patch_size)
        self.channels = (dim, dim, dim, dim)
        self.checkpointing = checkpointing
        ends = [depth * i // NUM_INTERACTIONS for i in range(NUM_INTERACTIONS + 1)]
        self.block_groups = [range(*pair) for pair in itertools.pairwise(ends)]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.spatial_prior = SpatialPriorModule(dim)
        self.injectors = nn.ModuleList([Injector(dim, heads) for _ in self.block_groups])
        counts = [1] * (NUM_INTERACTIONS - 1) + [NUM_LAST_EXTRACTORS]
        self.extractors = nn.ModuleList([nn.ModuleList([Extractor(dim, heads) for _ in range(n)]) for n in counts])
        self.upsample = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.norms = nn.ModuleList([_group_norm(dim) for _ in self.channels])
        for part in (self.spatial_prior, self.injectors, self.extractors, self.upsample):
            part.apply(_init_weights)

    def _check_network(self, depth: int) -> None:
        problems = [
            f"{depth} blocks" if depth < NUM_INTERACTIONS else "",
            f"patches of {self.patch_size} pixels" if self.patch_size > SIZE_DIVISOR else "",
            "a position embedding for each block" if getattr(self.network, "rope_mixed", False) else "",
        ]
        if any(problems):
            raise WeightsError(
                f"expected a ViT of at least {NUM_INTERACTIONS} blocks, patches of at most {SIZE_DIVISOR} pixels and "
                f"one position embedding; got {', '.join(filter(None, problems))}; choose another backbone"
            )

    def train(self, mode: bool = True) -> ViTAdapter:
        super().train(mode)
        self.network.eval()
        return self

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the transformer."""
        parameters: Iterator[nn.Parameter] = self.network.parameters()
        return parameters

    def forward(self, images: Tensor, cues: Tensor | None = None) -> list[Tensor]:
        """See ``Pyramid``; ``cues`` are ignored."""
        check_image_size(images)
        pixels = (images - self.mean) / self.std
        grid = images.shape[2] // self.token_stride, images.shape[3] // self.token_stride
        finest, maps = self.spatial_prior(pixels)
        shapes = [(int(m.shape[2]), int(m.shape[3])) for m in maps]
        cells = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        tokens, rope = self._embed(pixels, grid)
        for index in range(NUM_INTERACTIONS):
            inputs = (index, tokens, cells, rope, grid, shapes)
            if self.checkpointing and torch.is_grad_enabled():
                tokens, cells = checkpoint(self._interaction, *inputs, use_reentrant=False)
            else:
                tokens, cells = self._interaction(*inputs)
        features = _to_map(self.network.norm(tokens)[:, self.network.num_prefix_tokens :], grid)
        maps = [_to_map(m, shape) for m, shape in zip(_split(cells, shapes), shapes, strict=True)]
        maps = [finest + self.upsample(maps[0]), *maps]
        return [norm(m + _resize(features, m.shape[2:])) for norm, m in zip(self.norms, maps, strict=True)]

    def _embed(self, pixels: Tensor, grid: Shape) -> tuple[Tensor, Tensor | None]:
        """Tokens before the first block, and the rotary position embedding of networks that have one."""
        if self.token_stride != self.patch_size:
            size = grid[0] * self.patch_size, grid[1] * self.patch_size
            pixels = functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
        embedded = self.network._pos_embed(self.network.patch_embed(pixels))
        tokens, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
        return self.network.norm_pre(tokens), rope

    def _interaction(
        self, index: int, tokens: Tensor, cells: Tensor, rope: Tensor | None, grid: Shape, shapes: Sequence[Shape]
    ) -> tuple[Tensor, Tensor]:
        """Injector, a group of the transformer's blocks, extractors."""
        prefix = self.network.num_prefix_tokens
        patches = self.injectors[index](tokens[:, prefix:], grid, cells, shapes)
        tokens = torch.cat([tokens[:, :prefix], patches], 1)
        for block in self.block_groups[index]:
            tokens = self.network.blocks[block](tokens, **({} if rope is None else {"rope": rope}))
        for extractor in cast("nn.ModuleList", self.extractors[index]):
            cells = extractor(cells, shapes, tokens[:, prefix:], grid)
        return tokens, cells


class SpatialPriorModule(nn.Module):
    """Convolutional branch: a map at stride 4, and three at 8, 16 and 32 with a level embedding each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        c = STEM_CHANNELS
        stem = [_conv_norm_relu(3, c, 2), _conv_norm_relu(c, c, 1), _conv_norm_relu(c, c, 1)]
        self.stages = nn.ModuleList(
            [
                nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1)),
                _conv_norm_relu(c, 2 * c, 2),
                _conv_norm_relu(2 * c, 4 * c, 2),
                _conv_norm_relu(4 * c, 4 * c, 2),
            ]
        )
        self.projections = nn.ModuleList([nn.Conv2d(factor * c, dim, 1) for factor in (1, 2, 4, 4)])
        self.level_embed = nn.Parameter(torch.randn(3, dim))

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(b, 3, H, W) normalised pixels to (b, dim, H/4, W/4), and [(b, dim, H/s, W/s) for s = 8, 16, 32]."""
        x, maps = pixels, []
        for stage, project in zip(self.stages, self.projections, strict=True):
            x = stage(x)
            maps.append(project(x))
        return maps[0], [m + level[:, None, None] for m, level in zip(maps[1:], self.level_embed, strict=True)]


class Injector(nn.Module):
    """Adds features of the three maps to the patch tokens; the identity before training, as ``gamma`` is 0."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query_norm, self.feature_norm = nn.LayerNorm(dim, LAYER_NORM_EPS), nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.attention = DeformableAttention(dim, heads, 3, NUM_POINTS, VALUE_RATIO)
        self.gamma = nn.Parameter(torch.zeros(dim))

    def forward(self, patches: Tensor, grid: Shape, cells: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """``patches`` (b, h * w, dim) on ``grid`` = (h, w); ``cells`` (b, n, dim) on maps of ``shapes``."""
        centres = cell_centres([grid], patches.device)
        attended: Tensor = self.attention(self.query_norm(patches), centres, self.feature_norm(cells), shapes)
        return patches + self.gamma * attended


class Extractor(nn.Module):
    """Updates the cells of the three maps from the patch tokens; then a convolutional feed-forward layer."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query_norm, self.feature_norm = nn.LayerNorm(dim, LAYER_NORM_EPS), nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.attention = DeformableAttention(dim, heads, 1, NUM_POINTS, VALUE_RATIO)
        inner = int(dim * FFN_RATIO)
        self.ffn_norm = nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.fc1 = nn.Linear(dim, inner)
        self.depthwise_conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.fc2 = nn.Linear(inner, dim)

    def forward(self, cells: Tensor, shapes: Sequence[Shape], patches: Tensor, grid: Shape) -> Tensor:
        """``cells`` (b, n, dim) on maps of ``shapes``; ``patches`` (b, h * w, dim) on ``grid`` = (h, w)."""
        centres = cell_centres(shapes, cells.device)
        cells = cells + self.attention(self.query_norm(cells), centres, self.feature_norm(patches), [grid])
        inner = _split(self.fc1(self.ffn_norm(cells)), shapes)
        mixed = [self.depthwise_conv(_to_map(m, shape)).flatten(2) for m, shape in zip(inner, shapes, strict=True)]
        output: Tensor = self.fc2(functional.gelu(torch.cat(mixed, 2).transpose(1, 2)))
        return cells + output


def _split(cells: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
    parts: Sequence[Tensor] = cells.split([h * w for h, w in shapes], 1)
    return parts


def _to_map(cells: Tensor, shape: Shape) -> Tensor:
    """(b, h * w, d) cells of one map as (b, d, h, w)."""
    feature_map: Tensor = cells.transpose(1, 2).unflatten(2, shape)
    return feature_map


def _resize(features: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear upsampling, or average pooling to a coarser map."""
    factor = features.shape[2] // size[0]
    if factor >= 1:
        return functional.avg_pool2d(features, factor) if factor > 1 else features
    return functional.interpolate(features, tuple(size), mode="bilinear", align_corners=False)


def _conv_norm_relu(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), _group_norm(outputs), nn.ReLU())


def _group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width // math.gcd(_CHANNELS_PER_GROUP, width), width)


def _init_weights(module: nn.Module) -> None:
    """The authors' initialisation: truncated normal in linear layers, He's in convolutions."""
    if isinstance(module, DeformableAttention):
        module.reset_parameters()  # apply() visited its layers first
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
