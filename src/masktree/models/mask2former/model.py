"""Mask2Former without classes (Cheng et al. 2022, arXiv 2112.01527): the models of SOHES and UnSAM.

Every query is an object or no object. For SOHES an ancestor head predicts which object contains which. The pixel
decoder is that of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from masktree.models.config import Mask2FormerConfig
from masktree.models.mask2former.ancestors import AncestorHead, ancestor_loss, ancestor_targets
from masktree.models.mask2former.decoder import QueryDecoder
from masktree.models.mask2former.losses import (
    NUM_POINTS,
    LossPoints,
    assign,
    class_loss,
    dice_loss,
    mask_loss,
    pair_costs,
    sample_features,
    sample_masks,
    select_loss_points,
)
from masktree.models.mask2former.pixel_decoder import build_pixel_decoder, decode_pixels
from masktree.models.mask2former.scores import mask_scores, published_scores
from masktree.models.mask_maps import crop_to_valid, upsample_masks
from masktree.models.pyramid.base import Pyramid
from masktree.models.structures import Batch, Targets

# Weights of the losses and of the matching costs (arXiv 2112.01527, section 4.1).
CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0
NO_OBJECT_WEIGHT = 0.1  # of unmatched queries in the class loss (same source)
ANCESTOR_WEIGHT = 1.0  # (our choice: the loss starts at 0.7, a tenth of the sum of the others)


@dataclass(frozen=True)
class QueryDetections:
    """n masks of one image, highest score first; ``ModelDetections``.

    A mask is stored as its (hidden,) embedding, whose product with the (hidden, h, w) embeddings of the ``pixels``, at
    ``MASK_STRIDE`` pixels per cell, gives its logits when it is rendered.

    Attributes:
        scores, ancestors, levels: as in ``ModelDetections``.
        embeddings: (n, hidden).
        pixels: (hidden, h, w).
        valid_size: height and width of the image within the padding.
    """

    scores: Tensor
    ancestors: Tensor | None
    embeddings: Tensor
    pixels: Tensor
    valid_size: tuple[int, int]
    levels: Tensor | None = None

    @torch.no_grad()
    def logits(self, start: int, stop: int) -> Tensor:
        """(k, rows, columns) float32 logits of masks ``start`` to ``stop``, without cells that are only padding."""
        pixels = crop_to_valid(self.pixels, self.valid_size)
        return torch.einsum("nd,dhw->nhw", self.embeddings[start:stop], pixels).float()

    def render(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """(k, height, width) bool masks ``start`` to ``stop`` at the image's own (height, width)."""
        return upsample_masks(self.logits(start, stop), self.valid_size, size)


@dataclass(frozen=True)
class _QueryOutputs:
    """Of b images: queries and mask embeddings, (b, q, hidden) per layer, and pixel embeddings (b, hidden, h, w)."""

    states: list[Tensor]
    embeddings: list[Tensor]
    pixels: Tensor


class Mask2Former(nn.Module):
    """A ``Model``.

    Attributes:
        num_points: points that a mask is trained on, at most half of the map's cells (our choice: the published 12,544
            are for images of 1024 pixels, whose map has 65,536).

    Args:
        config: of the model.
        pyramid: of its backbone.

    Raises:
        InputError: ``config.hidden_dim`` is not a multiple of 32, or transformers is missing or too old.
    """

    def __init__(self, config: Mask2FormerConfig, pyramid: Pyramid) -> None:
        super().__init__()
        self.config = config
        self.wants_cues = pyramid.wants_cues
        self.num_points = NUM_POINTS
        self.pyramid = pyramid
        self.pixel_decoder: Any = build_pixel_decoder(config, pyramid.channels)  # transformers is not typed
        self.decoder = QueryDecoder(
            config.hidden_dim,
            config.num_heads,
            config.decoder_feedforward_dim or config.feedforward_dim,
            config.decoder_layers,
            config.num_queries,
        )
        self.class_head = nn.Linear(config.hidden_dim, 2)  # logits of object and no object
        self.ancestor_head = AncestorHead(config.hidden_dim) if config.kind == "sohes" else None

    def forward(self, images: Tensor, cues: Tensor | None = None) -> tuple[Tensor, ...]:
        """Raw outputs for export; ``images`` and ``cues`` as in ``Batch``.

        Returns:
            (b, q) object probabilities; (b, q, H/4, W/4) mask logits; for ``sohes`` (b, q, q) probabilities that query
            j is an ancestor of query i, with a diagonal of no meaning.
        """
        outputs = self._decode_queries(images, cues)
        objects = self.class_head(outputs.states[-1]).softmax(2)[..., 0]
        masks = torch.einsum("bqd,bdhw->bqhw", outputs.embeddings[-1], outputs.pixels)
        if self.ancestor_head is None:
            return objects, masks
        return objects, masks, self.ancestor_head(outputs.states[-1]).sigmoid()

    def losses(self, batch: Batch, num_masks: Tensor | None = None) -> Mapping[str, Tensor]:
        """Weighted losses ``class``, ``mask`` and ``dice`` of the last layer, the same with ``_aux`` summed over the
        earlier layers and the initial queries, and ``ancestor`` for ``sohes``.

        Mask, dice and ancestor losses are means over target masks; the class loss is a weighted mean over all queries.
        If there are more masks than queries, those that fit best are learned.

        Raises:
            InputError: the parents of a target are not a forest.
        """
        outputs = self._decode_queries(batch.images, batch.cues)
        class_logits = [self.class_head(state).float() for state in outputs.states]
        with torch.autocast(batch.images.device.type, enabled=False):
            image_losses = [
                self._image_losses(i, outputs, class_logits, targets, int(seed))
                for i, (targets, seed) in enumerate(zip(batch.targets, batch.seeds.tolist(), strict=True))
            ]
        layer_losses = torch.stack([layers for layers, _ in image_losses])  # (b, layers + 1, 3)
        sums = (layer_losses * batch.loss_weights[:, None, None]).sum(0)
        if num_masks is None:
            num_masks = sums.new_tensor(float(sum(len(targets.masks) for targets in batch.targets)))
        num_queries = len(batch.images) * self.config.num_queries
        num_matched = num_masks.to(sums).clamp(max=num_queries)
        divisor = num_matched.clamp(min=1e-3)  # without masks all sums are 0
        divisors = torch.stack([num_matched + NO_OBJECT_WEIGHT * (num_queries - num_matched), divisor, divisor])
        weighted = sums * sums.new_tensor([CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT]) / divisors
        losses = dict(zip(("class", "mask", "dice"), weighted[-1], strict=True))
        losses |= zip(("class_aux", "mask_aux", "dice_aux"), weighted[:-1].sum(0), strict=True)
        if self.ancestor_head is not None:
            ancestor_sum = torch.stack([ancestor for _, ancestor in image_losses]).sum()
            losses["ancestor"] = ANCESTOR_WEIGHT * ancestor_sum / divisor
        return losses

    def _image_losses(
        self, i: int, outputs: _QueryOutputs, class_logits: list[Tensor], targets: Targets, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Of image i: (layers + 1, 3) sums of class, mask and dice loss; ancestor loss times the number of masks."""
        num_cells = outputs.pixels.shape[2] * outputs.pixels.shape[3]
        points = LossPoints.draw(min(self.num_points, -(-num_cells // 2)), seed, outputs.pixels.device)
        pixels = sample_features(outputs.pixels[i].float(), points.all)
        point_targets = sample_masks(targets.masks, points.all)
        embeddings = [layer[i].float() for layer in outputs.embeddings]
        pairs = _match([layer[i] for layer in class_logits], embeddings, pixels, point_targets, len(points.uniform))
        rows = []
        for logits, embedding, (queries, masks) in zip(class_logits, embeddings, pairs, strict=True):
            selected = select_loss_points(embedding[queries] @ pixels, point_targets[masks], points)
            classes = class_loss(logits[i], queries, NO_OBJECT_WEIGHT)
            rows.append(torch.stack([classes, mask_loss(*selected).sum(), dice_loss(*selected).sum()]))
        return torch.stack(rows), self._ancestor_loss(outputs.states[-1][i], targets, *pairs[-1])

    def _ancestor_loss(self, states: Tensor, targets: Targets, queries: Tensor, masks: Tensor) -> Tensor:
        if self.ancestor_head is None:
            return states.new_zeros(())
        ancestors = ancestor_targets(targets.parents).to(states.device)[masks][:, masks]
        logits = self.ancestor_head(states[queries].to(self.ancestor_head.bias.dtype)).float()
        return len(masks) * ancestor_loss(logits, ancestors)

    @torch.no_grad()
    def detect(
        self, images: Tensor, cues: Tensor | None, valid_sizes: Sequence[tuple[int, int]]
    ) -> Sequence[QueryDetections]:
        """The ``config.max_detections`` masks of each image with the highest scores."""
        outputs = self._decode_queries(images, cues)
        objects = self.class_head(outputs.states[-1]).float().softmax(2)[..., 0]
        detections = []
        for i, valid_size in enumerate(valid_sizes):
            embeddings, pixels = outputs.embeddings[-1][i], outputs.pixels[i].to(outputs.embeddings[-1].dtype)
            scores, best = self._best(objects[i], embeddings, crop_to_valid(pixels, valid_size))
            ancestors = None
            if self.ancestor_head is not None:
                ancestors = self.ancestor_head(outputs.states[-1][i, best]).float().sigmoid().fill_diagonal_(0)
            detections.append(QueryDetections(scores, ancestors, embeddings[best], pixels, valid_size))
        return detections

    def _best(self, objects: Tensor, embeddings: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and queries of the ``config.max_detections`` best masks; arguments as of ``mask_scores``."""
        count = self.config.max_detections
        if self.config.score == "expected_iou":
            scores = mask_scores(objects, embeddings, pixels)
            best = scores.argsort(descending=True, stable=True)[:count]
            return scores[best], best
        chosen = objects.argsort(descending=True, stable=True)[:count]  # as published: by their class
        if self.config.score == "object":
            return objects[chosen], chosen
        scores = published_scores(objects[chosen], embeddings[chosen], pixels)
        order = scores.argsort(descending=True, stable=True)
        return scores[order], chosen[order]

    def _decode_queries(self, images: Tensor, cues: Tensor | None) -> _QueryOutputs:
        maps, pixels = decode_pixels(self.pixel_decoder, self.pyramid(images, cues))
        states, embeddings = self.decoder(maps, pixels, self._position_embedding)
        return _QueryOutputs(states, embeddings, pixels)

    def _position_embedding(self, features: Tensor) -> Tensor:
        embedding: Tensor = self.pixel_decoder.position_embedding(features.shape, features.device, features.dtype)
        return embedding


@torch.no_grad()
def _match(
    class_logits: list[Tensor], embeddings: list[Tensor], pixels: Tensor, point_targets: Tensor, num_uniform: int
) -> list[tuple[Tensor, Tensor]]:
    """Matched queries and masks of each layer, by their costs at the ``num_uniform`` uniform points."""
    targets = point_targets[:, :num_uniform].to(pixels.dtype)
    weights = (CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT)
    costs = [
        pair_costs(logits, embedding @ pixels[:, :num_uniform], targets, weights)
        for logits, embedding in zip(class_logits, embeddings, strict=True)
    ]
    return assign(torch.stack(costs))
