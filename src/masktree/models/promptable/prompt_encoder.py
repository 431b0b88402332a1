"""What a user points at: clicks, boxes, an earlier mask, a granularity; and their form as tokens and maps.

Places are Fourier features (Tancik et al. 2020, arXiv 2006.10739), as in SAM (Kirillov et al. 2023, arXiv 2304.02643,
appendix A), whose two-corner boxes and mask embedding are followed too. The granularity is that of UnSAMv2 (arXiv
2511.13714). Beyond SAM (our choice) a click also brings along what the network knows of the pixel under it, as cells of
the map that is attended to are wider than small parts are; and every cell of that map is told how near it is to the
clicks, how like the pixels under them, and whether it lies in the box. Where a token stands is hard to learn from sines
and cosines alone, and takes a small network longer than it has: with the map it obeys boxes and further clicks after
minutes (docs/log.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from masktree.errors import InputError
from masktree.models.mask2former.losses import sample_features

NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = range(4)  # labels of points; the last two are a box's corners, as in SAM
PADDING = -1  # label of what is no point
MIN_GRANULARITY = 0.1  # of the smallest mask of an instance; its largest has 1 (UnSAMv2, arXiv 2511.13714)
STRIDE = 4  # pixels per cell of a mask
_SLOWEST, _FASTEST = 0.5, 16.0  # waves per image side (our choice): from the whole image to a 32nd of it
_OCTAVES = 8  # of the Fourier features of a granularity (our choice)
_WIDTHS = (1 / 32, 1 / 8, 1 / 2)  # standard deviations of how near a cell is to a click, image sides (our choice)
_SOFT = 1 / 64  # image sides over which a box ends (our choice)
_PROMPT_MAP_CHANNELS = (
    2 * (len(_WIDTHS) + 1) + 1
)  # values that a cell is told: of clicks inside and outside, and of the box
_SURE = 8.0  # logits of an earlier mask beyond it say no more (our choice)


@dataclass(frozen=True)
class Prompts:
    """n questions about one image, each answered by itself.

    Attributes:
        points: (n, k, 2) float32, x and y in pixels of the network's input, where the first pixel reaches from 0 to 1
            and has its centre at 0.5. k may be 0.
        labels: (n, k) int64: 1 inside, 0 outside, -1 no point (its place is not read).
        boxes: (n, 4) float32 left, top, right, bottom in the same pixels, or None; a row of NaN is no box.
        masks: (n, H/4, W/4) float32 logits of an earlier answer, or None; NaN in its first cell: this one is left out.
        granularity: (n,) float32 in [0.1, 1], finest to coarsest, or None; NaN: left out.

    Raises:
        InputError: shapes that do not fit each other.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor | None = None
    masks: Tensor | None = None
    granularity: Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.points)
        fit = self.points.ndim == 3 and self.points.shape[2] == 2 and self.labels.shape == self.points.shape[:2]
        fit &= self.boxes is None or self.boxes.shape == (n, 4)
        fit &= self.masks is None or (self.masks.ndim == 3 and len(self.masks) == n)
        fit &= self.granularity is None or self.granularity.shape == (n,)
        if not fit:
            given = {name: None if t is None else tuple(t.shape) for name, t in vars(self).items()}
            raise InputError(
                "expected points (n, k, 2), labels (n, k), boxes (n, 4), masks (n, H/4, W/4), granularity (n,); got "
                f"{', '.join(f'{name} {shape}' for name, shape in given.items() if shape is not None)}"
            )

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, which: slice) -> Prompts:
        """Some of the questions."""
        return Prompts(*(None if value is None else value[which] for value in vars(self).values()))  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> Prompts:
        return Prompts(*(None if value is None else value.to(device) for value in vars(self).values()))  # type: ignore[arg-type]

    def points_and_corners(self) -> tuple[Tensor, Tensor]:
        """Points and labels with the boxes as two more points each, (n, k + 2, 2) and (n, k + 2), or as many as there
        are; what is no point is at 0, 0."""
        points, labels = self.points, self.labels
        if self.boxes is not None:
            corners = self.boxes.unflatten(1, (2, 2))
            kinds = labels.new_tensor([TOP_LEFT, BOTTOM_RIGHT]).expand(len(corners), 2)
            kinds = torch.where(self.boxes.isnan().any(1, keepdim=True), PADDING, kinds)
            points, labels = torch.cat([points, corners.to(points.dtype)], 1), torch.cat([labels, kinds], 1)
        return torch.where((labels >= 0)[..., None], points, 0.0), labels


class PromptEncoder(nn.Module):
    """Prompts as vectors: a token per point, one for the granularity, and a map of where they are and were answered.

    Args:
        hidden: width, a multiple of 4.
        side: pixels that count as 1 for Fourier features: the size that the network is trained at.
        cell: pixels per cell of the map, a multiple of 4.
    """

    frequencies: Tensor

    def __init__(self, hidden: int, side: int, cell: int) -> None:
        super().__init__()
        self.side, self.cell = side, cell
        # Saved with the weights: points of other frequencies would mean nothing to them.
        self.register_buffer("frequencies", _frequencies(hidden // 2))
        self.labels = nn.Embedding(4, hidden)
        self.point_feature_proj = nn.Linear(hidden, hidden)
        self.granularity = nn.Sequential(nn.Linear(2 * _OCTAVES, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.no_granularity = nn.Parameter(0.02 * torch.randn(hidden))
        shrink = cell // STRIDE
        self.mask = nn.Sequential(
            nn.Conv2d(1, hidden // 4, shrink, shrink), nn.GELU(), nn.Conv2d(hidden // 4, hidden, 1)
        )
        self.no_mask = nn.Parameter(0.02 * torch.randn(hidden))
        self.prompt_map_mlp = nn.Sequential(
            nn.Linear(_PROMPT_MAP_CHANNELS, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )

    def places(self, points: Tensor) -> Tensor:
        """(..., hidden) Fourier features of (..., 2) points in pixels."""
        # Products and a sum, not a matrix product: autocast would round coordinates to bfloat16.
        turns = (points.float()[..., None] / self.side * self.frequencies).sum(-2)
        return torch.cat([(2 * math.pi * turns).sin(), (2 * math.pi * turns).cos()], -1)

    def grid(self, rows: int, columns: int) -> Tensor:
        """(rows x columns, hidden) Fourier features of the centres of the map's cells."""
        y, x = (torch.arange(count, device=self.frequencies.device) + 0.5 for count in (rows, columns))
        return self.places(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1) * self.cell)

    def tokens(self, prompts: Prompts, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(n, t, hidden) tokens and (n, t) bool, which of them are meant: the granularity's first, always meant.

        ``pixels``: (hidden, H/4, W/4) vectors of the image.
        """
        points, labels = prompts.points_and_corners()
        known = labels >= 0
        size = points.new_tensor([pixels.shape[2] * STRIDE, pixels.shape[1] * STRIDE])
        seen = sample_features(pixels, (points / size).flatten(0, 1)).T.unflatten(0, known.shape)
        marks = self.places(points) + self.labels(labels.clamp(min=0)) + self.point_feature_proj(seen)
        tokens = torch.cat([self._granularity(prompts)[:, None].to(marks.dtype), marks], 1)
        return tokens, torch.cat([known.new_ones(len(known), 1), known], 1)

    def dense(self, prompts: Prompts, means: Tensor) -> Tensor:
        """What is added to the image's map: (n, hidden, h, w), of where the prompts are and of the earlier masks.

        ``means``: (hidden, h, w) mean vectors of the pixels in each cell.

        Raises:
            InputError: masks of another size than (H/4, W/4).
        """
        maps = self.prompt_map_mlp(self.prompt_maps(prompts, means)).permute(0, 3, 1, 2)
        none = self.no_mask[None, :, None, None]
        if prompts.masks is None:
            return maps + none
        wanted = tuple(side * self.cell // STRIDE for side in means.shape[1:])
        if prompts.masks.shape[1:] != wanted:
            raise InputError(f"expected earlier masks of {wanted} cells; got {tuple(prompts.masks.shape[1:])}")
        absent = prompts.masks[:, :1, :1, None].isnan()
        masks = prompts.masks.float().nan_to_num().clamp(-_SURE, _SURE) / _SURE
        return maps + torch.where(absent, none, self.mask(masks[:, None]))

    def prompt_maps(self, prompts: Prompts, means: Tensor) -> Tensor:
        """(n, h, w, 9) float32: what each cell is told about the prompts; ``means`` as in ``dense``.

        For clicks inside, then for those outside: exp(-d^2 / (2 s^2)) of the nearest one, at a distance of d, for each
        s of ``_WIDTHS``; the highest cosine with the vectors under them, if above 0. Last, from 0 outside to 1 inside,
        the box. All are 0 where there is none.
        """
        points, labels = prompts.points_and_corners()
        rows, columns = means.shape[1:]
        # One more, which is no point: of no points there is no highest value.
        points = functional.pad(points.float(), (0, 0, 0, 1))
        labels = functional.pad(labels, (0, 1), value=PADDING)[..., None]
        y, x = (torch.arange(count, device=points.device) + 0.5 for count in (rows, columns))
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1) * self.cell
        apart = (places - points[:, :, None]) / self.side  # (n, k, h w, 2)
        vectors = functional.normalize(means.float(), dim=0)
        size = points.new_tensor([columns * self.cell, rows * self.cell])
        under = functional.normalize(sample_features(vectors, (points / size).flatten(0, 1)), dim=0).T
        alike = (under @ vectors.flatten(1)).unflatten(0, labels.shape[:2])
        squares = apart.square().sum(-1)
        near = [(-squares / (2 * width**2)).exp() for width in _WIDTHS]
        values = [
            torch.where(labels == kind, value, 0.0).amax(1) for kind in (POSITIVE, NEGATIVE) for value in (*near, alike)
        ]
        inner = (apart / _SOFT).sigmoid()
        lower = torch.where(labels == TOP_LEFT, inner.prod(-1), 0.0).amax(1)
        upper = torch.where(labels == BOTTOM_RIGHT, (1 - inner).prod(-1), 0.0).amax(1)
        return torch.stack([*values, lower * upper], -1).unflatten(1, (rows, columns))

    def _granularity(self, prompts: Prompts) -> Tensor:
        g = prompts.granularity
        if g is None:
            g = torch.full((len(prompts),), math.nan, device=self.no_granularity.device)
        absent = g.isnan()[:, None]
        turns = g.float().nan_to_num()[:, None] * (math.pi / 2 * 2.0 ** torch.arange(_OCTAVES, device=g.device))
        return torch.where(absent, self.no_granularity, self.granularity(torch.cat([turns.sin(), turns.cos()], 1)))


def _frequencies(count: int) -> Tensor:
    """(2, count) waves per side in x and y: directions at random, lengths evenly over the octaves; always the same."""
    generator = torch.Generator().manual_seed(0)
    angles = math.pi * torch.rand(count, generator=generator)
    lengths = _SLOWEST * (_FASTEST / _SLOWEST) ** torch.linspace(0, 1, count)
    return torch.stack([lengths * angles.cos(), lengths * angles.sin()])
