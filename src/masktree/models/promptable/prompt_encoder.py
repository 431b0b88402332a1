"""Prompts (clicks, boxes, an earlier mask, a granularity), and their encoding as tokens and dense maps.

Positions are Fourier features (Tancik et al. 2020, arXiv 2006.10739), as in SAM (Kirillov et al. 2023, arXiv
2304.02643, appendix A); boxes as two corners and the mask embedding follow it too. The granularity is that of UnSAMv2
(arXiv 2511.13714). Two additions to SAM (our choice): the token of a click includes the pixel embedding under it, as
the cells of the image map are larger than small parts; and prompt maps tell every cell how near it is to the clicks,
how similar to the pixels under them, and whether it lies in the box. Learning positions from sines and cosines alone
takes small networks longer than their training; with the maps they obey boxes and further clicks after minutes
(docs/log.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from masktree.errors import InputError
from masktree.models.mask2former.losses import sample_features
from masktree.models.mask_maps import MASK_STRIDE

NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = range(4)  # labels of points; the last two are box corners, as in SAM
PADDING = -1  # label of padding points
_MIN_FREQUENCY, _MAX_FREQUENCY = 0.5, 16.0  # periods per image side (our choice): whole image to a 32nd of it
_NUM_OCTAVES = 8  # of the Fourier features of a granularity (our choice)
_CLICK_STDS = (1 / 32, 1 / 8, 1 / 2)  # standard deviations of the click maps, in image sides (our choice)
_BOX_SOFTNESS = 1 / 64  # image sides over which the box map rises from 0 to 1 (our choice)
_NUM_PROMPT_MAPS = 2 * (len(_CLICK_STDS) + 1) + 1  # of positive clicks, negative clicks and the box
_MAX_LOGIT = 8.0  # logits of an earlier mask are clamped to it (our choice)


@dataclass(frozen=True)
class Prompts:
    """n independent prompts for one image.

    Attributes:
        points: (n, k, 2) float32 x and y in pixels of the network's input, where the first pixel spans 0 to 1 and has
            its centre at 0.5. k may be 0.
        labels: (n, k) int64: 1 positive, 0 negative, -1 padding (its point is ignored).
        boxes: (n, 4) float32 left, top, right, bottom in the same pixels, or None; a row of NaN is no box.
        masks: (n, H/4, W/4) float32 logits of earlier predictions, or None; NaN in the first cell is no mask.
        granularity: (n,) float32 in [0.1, 1], finest to coarsest, or None; NaN is no granularity.

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
        fits = self.points.ndim == 3 and self.points.shape[2] == 2 and self.labels.shape == self.points.shape[:2]
        fits &= self.boxes is None or self.boxes.shape == (n, 4)
        fits &= self.masks is None or (self.masks.ndim == 3 and len(self.masks) == n)
        fits &= self.granularity is None or self.granularity.shape == (n,)
        if not fits:
            shapes = {name: tuple(value.shape) for name, value in vars(self).items() if value is not None}
            raise InputError(
                "expected points (n, k, 2), labels (n, k), boxes (n, 4), masks (n, H/4, W/4), granularity (n,); got "
                f"{', '.join(f'{name} {shape}' for name, shape in shapes.items())}"
            )

    def __len__(self) -> int:
        return len(self.points)

    def to(self, device: torch.device | str) -> Prompts:
        """The prompts on a device."""
        boxes, masks, granularity = (
            None if value is None else value.to(device) for value in (self.boxes, self.masks, self.granularity)
        )
        return Prompts(self.points.to(device), self.labels.to(device), boxes, masks, granularity)

    def points_and_corners(self) -> tuple[Tensor, Tensor]:
        """Points (n, k + 2, 2) and labels (n, k + 2) with two box corners each, or k of them without boxes; padding is
        at (0, 0)."""
        points, labels = self.points, self.labels
        if self.boxes is not None:
            corners = self.boxes.unflatten(1, (2, 2))
            corner_labels = labels.new_tensor([TOP_LEFT, BOTTOM_RIGHT]).expand(len(corners), 2)
            corner_labels = torch.where(self.boxes.isnan().any(1, keepdim=True), PADDING, corner_labels)
            points, labels = torch.cat([points, corners.to(points.dtype)], 1), torch.cat([labels, corner_labels], 1)
        return torch.where((labels >= 0)[..., None], points, 0.0), labels


class PromptEncoder(nn.Module):
    """Sparse tokens (one per point, one for the granularity) and a dense embedding of prompt maps and earlier masks.

    Args:
        hidden_dim: channels, a multiple of 4.
        image_size: pixels that count as 1 for Fourier features: the size that the network is trained at.
        stride: pixels per cell of the image map, a multiple of 4.
    """

    frequencies: Tensor

    def __init__(self, hidden_dim: int, image_size: int, stride: int) -> None:
        super().__init__()
        self.image_size, self.stride = image_size, stride
        # Saved with the weights: positions of other frequencies would mean nothing to them.
        self.register_buffer("frequencies", _frequencies(hidden_dim // 2))
        self.label_embed = nn.Embedding(4, hidden_dim)
        self.point_feature_proj = nn.Linear(hidden_dim, hidden_dim)
        self.granularity_mlp = nn.Sequential(
            nn.Linear(2 * _NUM_OCTAVES, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, hidden_dim)
        )
        self.no_granularity_embed = nn.Parameter(0.02 * torch.randn(hidden_dim))
        downscaling = stride // MASK_STRIDE
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, hidden_dim // 4, downscaling, downscaling),
            nn.GELU(),
            nn.Conv2d(hidden_dim // 4, hidden_dim, 1),
        )
        self.no_mask_embed = nn.Parameter(0.02 * torch.randn(hidden_dim))
        self.prompt_map_mlp = nn.Sequential(
            nn.Linear(_NUM_PROMPT_MAPS, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, hidden_dim)
        )

    def position_embedding(self, points: Tensor) -> Tensor:
        """(..., hidden) Fourier features of (..., 2) points in pixels."""
        # Products and a sum instead of a matrix product: autocast would round coordinates to bfloat16.
        phases = 2 * math.pi * (points.float()[..., None] / self.image_size * self.frequencies).sum(-2)
        return torch.cat([phases.sin(), phases.cos()], -1)

    def cell_positions(self, rows: int, columns: int) -> Tensor:
        """(rows x columns, hidden) position embeddings of the cells of a map."""
        return self.position_embedding(self._cell_centres(rows, columns))

    def sparse(self, prompts: Prompts, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, t, hidden), the granularity's first, and (n, t) bool: which of them are not padding.

        Args:
            prompts: n prompts.
            pixels: (hidden, H/4, W/4) pixel embeddings of the image.
        """
        points, labels = prompts.points_and_corners()
        is_valid = labels >= 0
        places = _as_fractions(points, pixels.shape[2] * MASK_STRIDE, pixels.shape[1] * MASK_STRIDE)
        features = sample_features(pixels, places.flatten(0, 1)).T.unflatten(0, is_valid.shape)
        point_tokens = self.position_embedding(points) + self.label_embed(labels.clamp(min=0))
        point_tokens = point_tokens + self.point_feature_proj(features)
        tokens = torch.cat([self._granularity_token(prompts)[:, None].to(point_tokens.dtype), point_tokens], 1)
        return tokens, torch.cat([is_valid.new_ones(len(is_valid), 1), is_valid], 1)

    def dense(self, prompts: Prompts, cell_means: Tensor) -> Tensor:
        """(n, hidden, h, w) embedding of prompt maps and earlier masks, to be added to the image map.

        Args:
            prompts: n prompts.
            cell_means: (hidden, h, w) mean pixel embedding of each cell.

        Raises:
            InputError: masks of another size than (H/4, W/4).
        """
        embedding: Tensor = self.prompt_map_mlp(self.prompt_maps(prompts, cell_means)).permute(0, 3, 1, 2)
        no_mask = self.no_mask_embed[None, :, None, None]
        if prompts.masks is None:
            return embedding + no_mask
        size = tuple(side * self.stride // MASK_STRIDE for side in cell_means.shape[1:])
        if prompts.masks.shape[1:] != size:
            raise InputError(f"expected earlier masks of {size} cells; got {tuple(prompts.masks.shape[1:])}")
        is_absent = prompts.masks[:, :1, :1, None].isnan()
        masks = prompts.masks.float().nan_to_num().clamp(-_MAX_LOGIT, _MAX_LOGIT) / _MAX_LOGIT
        return embedding + torch.where(is_absent, no_mask, self.mask_downscaling(masks[:, None]))

    def prompt_maps(self, prompts: Prompts, cell_means: Tensor) -> Tensor:
        """(n, h, w, 9) float32 maps of where the prompts are; ``cell_means`` as in ``dense``.

        For positive clicks, then for negative ones: exp(-d^2 / (2 s^2)) of the distance d to the nearest one, for each
        s of ``_CLICK_STDS``; the highest cosine similarity with the pixels under them, at least 0. Last the box, 1
        inside. All are 0 without such a prompt.
        """
        points, labels = prompts.points_and_corners()
        rows, columns = cell_means.shape[1:]
        # A padding point more: without any point there would be no maximum.
        points = functional.pad(points.float(), (0, 0, 0, 1))
        labels = functional.pad(labels, (0, 1), value=PADDING)[..., None]
        offsets = (self._cell_centres(rows, columns) - points[:, :, None]) / self.image_size  # (n, k, h w, 2)
        features = functional.normalize(cell_means.float(), dim=0)
        places = _as_fractions(points, columns * self.stride, rows * self.stride)
        clicked = functional.normalize(sample_features(features, places.flatten(0, 1)), dim=0).T
        similarities = (clicked @ features.flatten(1)).unflatten(0, labels.shape[:2])
        squared_distances = offsets.square().sum(-1)
        click_maps = [(-squared_distances / (2 * std**2)).exp() for std in _CLICK_STDS] + [similarities]
        maps = [
            torch.where(labels == label, values, 0.0).amax(1) for label in (POSITIVE, NEGATIVE) for values in click_maps
        ]
        inside = (offsets / _BOX_SOFTNESS).sigmoid()
        right_of_top_left = torch.where(labels == TOP_LEFT, inside.prod(-1), 0.0).amax(1)
        left_of_bottom_right = torch.where(labels == BOTTOM_RIGHT, (1 - inside).prod(-1), 0.0).amax(1)
        stacked = torch.stack([*maps, right_of_top_left * left_of_bottom_right], -1)
        return stacked.reshape(len(stacked), rows, columns, -1)

    def _cell_centres(self, rows: int, columns: int) -> Tensor:
        """(rows x columns, 2) x and y in pixels."""
        y, x = (torch.arange(count, device=self.frequencies.device) + 0.5 for count in (rows, columns))
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1) * self.stride

    def _granularity_token(self, prompts: Prompts) -> Tensor:
        g = prompts.granularity
        if g is None:
            g = torch.full((len(prompts),), math.nan, device=self.no_granularity_embed.device)
        phases = g.float().nan_to_num()[:, None] * (math.pi / 2 * 2.0 ** torch.arange(_NUM_OCTAVES, device=g.device))
        embedding = self.granularity_mlp(torch.cat([phases.sin(), phases.cos()], 1))
        return torch.where(g.isnan()[:, None], self.no_granularity_embed, embedding)


def _as_fractions(points: Tensor, width: int, height: int) -> Tensor:
    """(..., 2) points in pixels as fractions of the sides; a tensor of the sides would be a constant when exported."""
    return torch.stack([points[..., 0] / width, points[..., 1] / height], -1)


def _frequencies(count: int) -> Tensor:
    """(2, count) fixed periods per side in x and y: random directions, magnitudes evenly over the octaves."""
    generator = torch.Generator().manual_seed(0)
    angles = math.pi * torch.rand(count, generator=generator)
    magnitudes = _MIN_FREQUENCY * (_MAX_FREQUENCY / _MIN_FREQUENCY) ** torch.linspace(0, 1, count)
    return torch.stack([magnitudes * angles.cos(), magnitudes * angles.sin()])
