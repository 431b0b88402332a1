"""Mask2Former without classes (Cheng et al. 2022, arXiv 2112.01527): the models of SOHES and UnSAM.

Every query is an entity or nothing. For SOHES an ancestor head says which entity lies under which. The pixel decoder is
that of transformers; query decoder, matching and objectives are in modules of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from masktree.models.config import Mask2FormerConfig
from masktree.models.mask2former.ancestor_head import AncestorHead, ancestor_loss, ancestor_targets
from masktree.models.mask2former.decoder import QueryDecoder
from masktree.models.mask2former.losses import (
    POINTS,
    LossPoints,
    class_loss,
    dice_loss,
    mask_loss,
    sample_features,
    sample_masks,
    select_loss_points,
)
from masktree.models.mask2former.matching import assign, pair_costs
from masktree.models.mask2former.pixel_decoder import build_pixel_decoder, decode_pixels
from masktree.models.mask2former.scores import mask_scores
from masktree.models.structures import Batch, Targets

if TYPE_CHECKING:
    from masktree.models.pyramid.pyramid import Pyramid

CLASS, MASK, DICE = 2.0, 5.0, 5.0  # weights of the objectives and of the matching (arXiv 2112.01527, section 4.1)
NO_OBJECT_WEIGHT = 0.1  # weight of queries that are nothing (same source)
ANCESTOR = 1.0  # weight of the ancestor head (our choice: its loss begins at 0.7, a tenth of the others' sum)
STRIDE = 4  # pixels per cell of a mask


@dataclass(frozen=True)
class _Found:
    """Of b images: queries and their mask vectors, (b, q, hidden) for each layer, and the pixels' (b, hidden, h, w)."""

    states: list[Tensor]
    vectors: list[Tensor]
    pixels: Tensor


class Mask2Former(nn.Module):
    """Satisfies ``Model``. ``pyramid`` gives maps at strides 4, 8, 16 and 32.

    ``points`` a mask learns from may be set, for small machines; there are never more than half of the map's cells (our
    choice: the published number, 12,544, is for images of 1024 pixels, whose map has 65,536).

    Raises:
        InputError: ``config.hidden_dim`` no multiple of 32, or transformers missing or too old.
    """

    def __init__(self, config: Mask2FormerConfig, pyramid: Pyramid) -> None:
        super().__init__()
        self.config = config
        self.wants_cues = pyramid.wants_cues
        self.points = POINTS
        self.pyramid = pyramid
        self.pixel_decoder: Any = build_pixel_decoder(config, pyramid.channels)
        self.decoder = QueryDecoder(
            config.hidden_dim, config.num_heads, config.feedforward_dim, config.decoder_layers, config.num_queries
        )
        self.entity = nn.Linear(config.hidden_dim, 2)  # logits of entity and none
        self.ancestor = AncestorHead(config.hidden_dim) if config.kind == "sohes" else None

    def forward(self, images: Tensor, cues: Tensor | None = None) -> tuple[Tensor, ...]:
        """All that is known of all queries, for export.

        Returns:
            (b, q) probability of being an entity; (b, q, H/4, W/4) logits of masks; for ``sohes`` (b, q, q):
            probability that query j is an ancestor of query i, its diagonal of no meaning.
        """
        found = self._decode_queries(images, cues)
        entity = self.entity(found.states[-1]).softmax(2)[..., 0]
        masks = torch.einsum("bqd,bdhw->bqhw", found.vectors[-1], found.pixels)
        if self.ancestor is None:
            return entity, masks
        return entity, masks, self.ancestor(found.states[-1]).sigmoid()

    def losses(self, batch: Batch, masks: Tensor | None = None) -> Mapping[str, Tensor]:
        """Weighted objectives: ``class``, ``mask`` and ``dice`` of the last layer, the same with ``_aux`` summed over
        the earlier ones and the queries before the first, ``ancestor`` for ``sohes``.

        Mask, dice and ancestor are means over target masks, class is one over all queries with
        ``NO_OBJECT_WEIGHT`` for those that are nothing. With ``masks`` the mean over processes with equally many
        images, the mean of their losses is the
        loss of all their images together. Of more masks than queries, those that fit best are learned.

        Raises:
            InputError: parents of a target are no forest.
        """
        found = self._decode_queries(batch.images, batch.cues)
        entity = [self.entity(state).float() for state in found.states]
        with torch.autocast(batch.images.device.type, enabled=False):
            parts = [
                self._image_losses(i, found, entity, targets, int(seed))
                for i, (targets, seed) in enumerate(zip(batch.targets, batch.seeds.tolist(), strict=True))
            ]
        layers = torch.stack([layers for layers, _ in parts])  # (b, layers + 1, 3)
        sums = (layers * batch.loss_weights[:, None, None]).sum(0)
        if masks is None:
            masks = sums.new_tensor(float(sum(len(targets.masks) for targets in batch.targets)))
        queries = len(batch.images) * self.config.num_queries
        matched = masks.to(sums).clamp(max=queries)
        count = matched.clamp(min=1e-3)  # 0 masks: all sums are 0
        divisors = torch.stack([matched + NO_OBJECT_WEIGHT * (queries - matched), count, count])
        weighted = sums * sums.new_tensor([CLASS, MASK, DICE]) / divisors
        result = dict(zip(("class", "mask", "dice"), weighted[-1], strict=True))
        result |= zip(("class_aux", "mask_aux", "dice_aux"), weighted[:-1].sum(0), strict=True)
        if self.ancestor is not None:
            result["ancestor"] = ANCESTOR * torch.stack([ancestor for _, ancestor in parts]).sum() / count
        return result

    def _image_losses(
        self, i: int, found: _Found, entity: list[Tensor], targets: Targets, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Of image i: (layers + 1, 3) sums of class, mask and dice over queries or masks; ancestor loss x masks."""
        cells = found.pixels.shape[2] * found.pixels.shape[3]
        points = LossPoints.draw(min(self.points, -(-cells // 2)), seed, found.pixels.device)
        pixels = sample_features(found.pixels[i].float(), points.all)
        wanted = sample_masks(targets.masks, points.all)
        vectors = [layer[i].float() for layer in found.vectors]
        pairs = _match([layer[i] for layer in entity], vectors, pixels, wanted, len(points.uniform))
        rows = []
        for logits, vector, (queries, masks) in zip(entity, vectors, pairs, strict=True):
            at_points = select_loss_points(vector[queries] @ pixels, wanted[masks], points)
            parts = (
                class_loss(logits[i], queries, NO_OBJECT_WEIGHT),
                mask_loss(*at_points).sum(),
                dice_loss(*at_points).sum(),
            )
            rows.append(torch.stack(parts))
        return torch.stack(rows), self._ancestor_loss(found.states[-1][i], targets, *pairs[-1])

    def _ancestor_loss(self, state: Tensor, targets: Targets, queries: Tensor, masks: Tensor) -> Tensor:
        if self.ancestor is None:
            return state.new_zeros(())
        ancestors = ancestor_targets(targets.parents).to(state.device)[masks][:, masks]
        logits = self.ancestor(state[queries].to(self.ancestor.bias.dtype)).float()
        return len(masks) * ancestor_loss(logits, ancestors)

    @torch.no_grad()
    def detect(
        self, images: Tensor, cues: Tensor | None, valid_sizes: Sequence[tuple[int, int]]
    ) -> Sequence[QueryDetections]:
        """The best ``config.max_detections`` masks of each image, by ``mask_scores``."""
        found = self._decode_queries(images, cues)
        entity = self.entity(found.states[-1]).float().softmax(2)[..., 0]
        result = []
        for i, size in enumerate(valid_sizes):
            vectors, pixels = found.vectors[-1][i], found.pixels[i].to(found.vectors[-1].dtype)
            scores = mask_scores(entity[i], vectors, crop_to_valid(pixels, size))
            best = scores.argsort(descending=True, stable=True)[: self.config.max_detections]
            ancestors = None
            if self.ancestor is not None:
                ancestors = self.ancestor(found.states[-1][i, best]).float().sigmoid().fill_diagonal_(0)
            result.append(QueryDetections(scores[best], ancestors, vectors[best], pixels, size))
        return result

    def _decode_queries(self, images: Tensor, cues: Tensor | None) -> _Found:
        maps, pixels = decode_pixels(self.pixel_decoder, self.pyramid(images, cues))
        states, vectors = self.decoder(maps, pixels, self._position_embedding)
        return _Found(states, vectors, pixels)

    def _position_embedding(self, features: Tensor) -> Tensor:
        return self.pixel_decoder.position_embedding(features.shape, features.device, features.dtype)


@dataclass(frozen=True)
class QueryDetections:
    """n masks of one image, best score first; satisfies ``ModelDetections``.

    A mask is its (hidden,) vector: the product with the (hidden, h, w) vectors of the ``pixels`` gives its logits, at
    ``STRIDE`` pixels per cell. This is smaller than the masks and gives any of them when it is wanted. ``content``:
    height and width of the image within the padding.
    """

    scores: Tensor
    ancestors: Tensor | None
    vectors: Tensor
    pixels: Tensor
    valid_size: tuple[int, int]
    levels: Tensor | None = None

    @torch.no_grad()
    def logits(self, start: int, stop: int) -> Tensor:
        """(k, rows, columns) float32 logits of masks ``start`` to ``stop``, without cells that are only padding."""
        return torch.einsum(
            "nd,dhw->nhw", self.vectors[start:stop], crop_to_valid(self.pixels, self.valid_size)
        ).float()

    def render(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """Masks ``start`` to ``stop`` at the image's own (height, width): (k, height, width) bool."""
        return render_logits(self.logits(start, stop), self.valid_size, size)


def render_logits(logits: Tensor, valid_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Masks of (k, rows, columns) logits at the image's own (height, width) ``size``: (k, height, width) bool.

    The cells are those that the image's ``content`` pixels in the network's input reach. One bilinear interpolation
    from cells to the image's pixels, at exact places and of each mask only around its positive cells: elsewhere no
    interpolated value is positive.
    """
    result = torch.zeros((len(logits), *size), dtype=torch.bool, device=logits.device)
    positive = logits > 0
    spans = zip(_occupied_ranges(positive.any(2)), _occupied_ranges(positive.any(1)), strict=True)
    axes = [_Axis(*sides, device=logits.device) for sides in zip(logits.shape[1:], valid_size, size, strict=True)]
    for mask, cells, (rows, columns) in zip(result, logits, spans, strict=True):
        if rows is None or columns is None:
            continue
        (top, bottom), (left, right) = axes[0].pixels(rows), axes[1].pixels(columns)
        across = axes[1].interpolate(cells.T, left, right).T.contiguous()
        mask[top:bottom, left:right] = axes[0].interpolate(across, top, bottom) > 0
    return result


class _Axis:
    """Where the pixels of an image's side lie between the cells of a map's side."""

    def __init__(self, cells: int, valid_size: int, pixels: int, device: torch.device) -> None:
        self.scale = valid_size / pixels / STRIDE  # cells per pixel
        place = ((torch.arange(pixels, dtype=torch.float64) + 0.5) * self.scale - 0.5).clamp(0, cells - 1)
        self.first = place.long()
        self.place = self.first.tolist(), (place > self.first).tolist()
        self.part = (place - self.first).float().to(device)
        self.first = self.first.to(device)
        self.second = (self.first + 1).clamp(max=cells - 1)

    def pixels(self, span: tuple[int, int]) -> tuple[int, int]:
        """First and one after the last pixel that cells ``span`` (inclusive) can reach."""
        low, high = span[0] - 0.5, span[1] + 1.5
        last = len(self.first)
        start = max(0, int(low / self.scale) - 1) if low > 0 else 0
        return start, min(last, int(high / self.scale) + 2)

    def interpolate(self, values: Tensor, start: int, stop: int) -> Tensor:
        """(pixels, m) of (cells, m) values, for pixels ``start`` to ``stop``."""
        first, second = values[self.first[start:stop]], values[self.second[start:stop]]
        return first.lerp_(second, self.part[start:stop, None])


def _occupied_ranges(occupied: Tensor) -> Iterator[tuple[int, int] | None]:
    """First and last True of each row of (k, m) bool, None where there is none."""
    m = occupied.shape[1]
    first = occupied.int().argmax(1)
    last = m - 1 - occupied.flip(1).int().argmax(1)
    for a, b, any_ in torch.stack([first, last, occupied.any(1).long()], dim=1).tolist():
        yield (a, b) if any_ else None


def crop_to_valid(pixels: Tensor, valid_size: tuple[int, int]) -> Tensor:
    """The cells of a (..., h, w) map that the photograph reaches."""
    rows, columns = (-(-side // STRIDE) for side in valid_size)
    return pixels[..., :rows, :columns]


@torch.no_grad()
def _match(
    entity: list[Tensor], vectors: list[Tensor], pixels: Tensor, wanted: Tensor, even: int
) -> list[tuple[Tensor, Tensor]]:
    """Queries and masks that belong together in each layer, by their costs at the ``even`` points."""
    targets = wanted[:, :even].to(pixels.dtype)
    weights = (CLASS, MASK, DICE)
    costs = [pair_costs(e, v @ pixels[:, :even], targets, weights) for e, v in zip(entity, vectors, strict=True)]
    return assign(torch.stack(costs))
