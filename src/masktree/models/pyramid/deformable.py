"""Multi-scale deformable attention (Zhu et al. 2021, arXiv 2010.04159, section 4.1) in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Shape = tuple[int, int]  # height and width of a map, in cells


class DeformableAttention(nn.Module):
    """Attention of each query to a few sampled points of each map.

    Args:
        dim: channels of queries, maps and output.
        heads: attention heads; divides ``dim`` and ``int(dim * ratio)``.
        levels: number of maps.
        points: sampling points per head and map.
        ratio: channels of the values, as a fraction of ``dim``.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int = 4, ratio: float = 1.0) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        value_dim = int(dim * ratio)
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, value_dim)
        self.output_proj = nn.Linear(value_dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published initialisation: head k samples in direction k, 1, 2, 3 ... cells away, with equal weights."""
        angles = 2 * math.pi * torch.arange(self.heads) / self.heads
        directions = torch.stack([angles.cos(), angles.sin()], 1)
        directions = directions / directions.abs().amax(1, keepdim=True)
        distances = torch.arange(1, self.points + 1.0)
        offsets = directions[:, None, None] * distances[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        for parameter in (
            self.sampling_offsets.weight,
            *self.attention_weights.parameters(),
            self.value_proj.bias,
            self.output_proj.bias,
        ):
            nn.init.zeros_(parameter)
        nn.init.xavier_uniform_(self.value_proj.weight)
        nn.init.xavier_uniform_(self.output_proj.weight)

    def forward(self, queries: Tensor, reference_points: Tensor, maps: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """(b, q, dim) attended values.

        Args:
            queries: (b, q, dim).
            reference_points: (q, 2) x and y of each query, in [0, 1] of the image.
            maps: (b, n, dim) cells of all maps, row by row, one map after the other.
            shapes: of the maps.
        """
        b, q, _ = queries.shape
        offsets = self.sampling_offsets(queries).view(b, q, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(queries).view(b, q, self.heads, self.levels * self.points).float().softmax(-1)
        sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32, device=queries.device)
        # Locations need float32: at 128 cells bfloat16 cannot tell neighbouring cells apart.
        locations = reference_points.float()[:, None, None, None] + offsets.float() / sizes[:, None]
        values = self.value_proj(maps).unflatten(2, (self.heads, -1))
        sampled = sample_values(values, shapes, locations, weights.view(b, q, self.heads, self.levels, self.points))
        output: Tensor = self.output_proj(sampled.to(values.dtype))
        return output


def sample_values(values: Tensor, shapes: Sequence[Shape], locations: Tensor, weights: Tensor) -> Tensor:
    """(b, q, heads * d) weighted sums of bilinear samples, in float32; samples outside a map are 0.

    Takes about 4 * q * heads * d * levels * points bytes per image, and as much again in training.

    Args:
        values: (b, n, heads, d) cells of all maps.
        shapes: of the maps.
        locations: (b, q, heads, levels, points, 2) x and y in [0, 1] of each map, where cell (r, c) of an h x w map has
            its centre at ((c + 0.5) / w, (r + 0.5) / h).
        weights: (b, q, heads, levels, points).
    """
    b, _, heads, d = values.shape
    grids = (2 * locations.float() - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (levels, b * heads, q, points, 2)
    level_weights = weights.float().permute(3, 0, 2, 1, 4).flatten(1, 2)[:, :, None]
    sums = []
    for level, cells in enumerate(values.float().split([h * w for h, w in shapes], 1)):
        planes = cells.permute(0, 2, 3, 1).reshape(b * heads, d, *shapes[level])
        samples = functional.grid_sample(planes, grids[level], align_corners=False)
        sums.append((samples * level_weights[level]).sum(-1))
    return torch.stack(sums).sum(0).view(b, heads * d, -1).transpose(1, 2)


def cell_centres(shapes: Sequence[Shape], device: torch.device | str = "cpu") -> Tensor:
    """(n, 2) x and y in [0, 1] of the cell centres of all maps, row by row, one map after the other."""
    centres = []
    for h, w in shapes:
        y, x = ((torch.arange(side, device=device) + 0.5) / side for side in (h, w))
        centres.append(torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1).flatten(0, 1))
    return torch.cat(centres)
