"""Multi-scale deformable attention (Zhu et al. 2021, arXiv 2010.04159, section 4.1) in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Shape = tuple[int, int]  # height and width of a map, in cells


class DeformableAttention(nn.Module):
    """Each query looks at a few points of each map, at places that it chooses itself.

    Parameters
    ----------
    dim: channels of queries, maps and output.
    heads: attention heads; divides ``dim`` and ``int(dim * ratio)``.
    levels: number of maps.
    points: places per head and map.
    ratio: channels that are sampled, as a share of ``dim``.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int = 4, ratio: float = 1.0) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        inner = int(dim * ratio)
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.weights = nn.Linear(dim, heads * levels * points)
        self.values = nn.Linear(dim, inner)
        self.output = nn.Linear(inner, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published start: head k looks in direction k, its points 1, 2, 3 ... cells away, with equal weights."""
        angle = 2 * math.pi * torch.arange(self.heads) / self.heads
        direction = torch.stack([angle.cos(), angle.sin()], 1)
        direction = direction / direction.abs().amax(1, keepdim=True)
        steps = torch.arange(1, self.points + 1.0)
        start = direction[:, None, None] * steps[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_(start.expand(-1, self.levels, -1, -1).flatten())
        for still in (self.offsets.weight, self.weights.weight, self.weights.bias, self.values.bias, self.output.bias):
            nn.init.zeros_(still)
        nn.init.xavier_uniform_(self.values.weight)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(self, queries: Tensor, centres: Tensor, maps: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """What the queries find: (b, q, dim).

        ``queries`` (b, q, dim); ``centres`` (q, 2): where each one stands, x and y in [0, 1] of the image; ``maps``
        (b, n, dim): the cells of all maps, row by row, one map after the other; ``shapes``: of the maps.
        """
        b, q, _ = queries.shape
        offsets = self.offsets(queries).view(b, q, self.heads, self.levels, self.points, 2)
        weights = self.weights(queries).view(b, q, self.heads, self.levels * self.points).float().softmax(-1)
        sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32, device=queries.device)
        # Places need float32: at 128 cells a bfloat16 could not tell neighbouring cells apart.
        places = centres.float()[:, None, None, None] + offsets.float() / sizes[:, None]
        values = self.values(maps).unflatten(2, (self.heads, -1))
        found = sample(values, shapes, places, weights.view(b, q, self.heads, self.levels, self.points))
        return self.output(found.to(values.dtype))


def sample(values: Tensor, shapes: Sequence[Shape], places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples, 0 outside the maps, computed in float32: (b, q, heads * d).

    ``values`` (b, n, heads, d), cells of all maps; ``places`` (b, q, heads, levels, points, 2): x and y in [0, 1] of
    each map, cell (r, c) of an h x w map centred on ((c + 0.5) / w, (r + 0.5) / h); ``weights`` (b, q, heads, levels,
    points). Takes about 4 * q * heads * d * levels * points bytes per image, and as much again in training.
    """
    b, _, heads, d = values.shape
    grids = (2 * places.float() - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (levels, b * heads, q, points, 2)
    shares = weights.float().permute(3, 0, 2, 1, 4).flatten(1, 2)[:, :, None]
    found = []
    for level, cells in enumerate(values.float().split([h * w for h, w in shapes], 1)):
        planes = cells.permute(0, 2, 3, 1).reshape(b * heads, d, *shapes[level])
        points = functional.grid_sample(planes, grids[level], align_corners=False)
        found.append((points * shares[level]).sum(-1))
    return torch.stack(found).sum(0).view(b, heads * d, -1).transpose(1, 2)


def cell_centres(shapes: Sequence[Shape], device: torch.device | str = "cpu") -> Tensor:
    """Centres of the cells of all maps, row by row, one map after the other: (n, 2) x and y in [0, 1]."""
    centres = []
    for h, w in shapes:
        y, x = ((torch.arange(side, device=device) + 0.5) / side for side in (h, w))
        centres.append(torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1).flatten(0, 1))
    return torch.cat(centres)
