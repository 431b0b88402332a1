"""Promptable network: the promptable half of UnSAM (Wang et al. 2024, arXiv 2406.20081), with the granularity of
UnSAMv2 (arXiv 2511.13714) and the decoder of SAM (Kirillov et al. 2023, arXiv 2304.02643).

An image is encoded once, by the pyramid and the pixel decoder that the models of SOHES and UnSAM also have, under the
same names, so that their weights can be loaded. A prompt then takes milliseconds. Seven masks are predicted: mask 0 for
prompts that mean one mask (with a granularity, a box or more than one click), masks 1 to 6 of all granularities around
a click, in no order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from masktree.errors import InputError
from masktree.models.config import PromptableConfig
from masktree.models.mask2former.losses import NUM_POINTS, LossPoints, sample_features, sample_masks
from masktree.models.mask2former.pixel_decoder import build_pixel_decoder, decode_pixels
from masktree.models.mask_maps import MASK_STRIDE
from masktree.models.promptable.box_losses import GIOU_WEIGHT, L1_WEIGHT, PromptBoxes, normalised_boxes
from masktree.models.promptable.decoder import TwoWayDecoder
from masktree.models.promptable.generate import PromptDetections, generate_masks
from masktree.models.promptable.losses import best_mask_index, multimask_losses, target_mask_losses
from masktree.models.promptable.predictions import NUM_MASK_TOKENS, ImageEmbedding, MaskPredictions
from masktree.models.promptable.prompt_encoder import PromptEncoder, Prompts
from masktree.models.promptable.simulated_prompts import PromptBatch
from masktree.models.pyramid.base import Pyramid
from masktree.models.structures import Batch, Targets

# Weights of the losses (Semantic-SAM, arXiv 2307.04767, as in UnSAM's code).
MASK_WEIGHT, DICE_WEIGHT, IOU_WEIGHT = 5.0, 5.0, 1.0
_MAP_INDEX = {32: 0, 16: 1, 8: 2}  # of a stride among the pixel decoder's maps


class Promptable(nn.Module):
    """A ``Model``; ``num_points`` as in ``Mask2Former``.

    Args:
        config: of the model.
        pyramid: of its backbone.

    Raises:
        InputError: ``config.hidden_dim`` is not a multiple of 32, or transformers is missing or too old.
    """

    def __init__(self, config: PromptableConfig, pyramid: Pyramid) -> None:
        super().__init__()
        self.config = config
        self.wants_cues = pyramid.wants_cues
        self.num_points = NUM_POINTS
        self.pyramid = pyramid
        dim = config.hidden_dim
        self.pixel_decoder: Any = build_pixel_decoder(config, pyramid.channels)  # transformers is not typed
        self.prompt_encoder = PromptEncoder(dim, config.image_size, config.embedding_stride)
        self.mask_tokens = nn.Embedding(NUM_MASK_TOKENS, dim)
        feedforward_dim = config.decoder_feedforward_dim or config.feedforward_dim
        self.decoder = TwoWayDecoder(dim, config.num_heads, feedforward_dim, config.prompt_decoder_layers)
        self.mask_head, self.coarse_mask_head, self.iou_head = _mlp(dim, dim), _mlp(dim, dim), _mlp(dim, 1)
        self.box_head = _mlp(dim, 4) if config.box_losses else None

    def encode(self, images: Tensor, cues: Tensor | None = None) -> ImageEmbedding:
        """The embedding of b images; ``images`` and ``cues`` as in ``Batch``."""
        maps, pixels = decode_pixels(self.pixel_decoder, self.pyramid(images, cues))
        cells = maps[_MAP_INDEX[self.config.embedding_stride]]
        cell_means = functional.avg_pool2d(pixels, self.config.embedding_stride // MASK_STRIDE)
        return ImageEmbedding(pixels, cells, cell_means, self.prompt_encoder.cell_positions(*cells.shape[2:]))

    def decode(self, embedding: ImageEmbedding, prompts: Prompts) -> MaskPredictions:
        """The masks of n independent prompts for one image.

        Memory grows with n: about 40 x hidden x h x w x n bytes for a map of h x w cells (at 1024 pixels, hidden 256
        and stride 16, 42 MB per prompt). Split many prompts into batches.

        Raises:
            InputError: several images, or earlier masks of another size than (H/4, W/4).
        """
        if len(embedding.pixels) != 1:
            raise InputError(f"expected one image; got {len(embedding.pixels)}; decode one by one: embedding[i]")
        pixels = embedding.pixels[0]
        dense = self.prompt_encoder.dense(prompts, embedding.cell_means[0])
        cells = (embedding.cells + dense).flatten(2).transpose(1, 2)
        prompt_tokens, is_valid = self.prompt_encoder.sparse(prompts, pixels)
        mask_tokens = self.mask_tokens.weight.expand(len(prompts), -1, -1)
        tokens = torch.cat([mask_tokens, prompt_tokens.to(mask_tokens.dtype)], 1)
        is_valid = torch.cat([is_valid.new_ones(len(prompts), NUM_MASK_TOKENS), is_valid], 1)
        tokens, cells = self.decoder(tokens, is_valid, cells, embedding.positions)
        tokens = tokens[:, :NUM_MASK_TOKENS]
        coarse = self.coarse_mask_head(tokens) @ cells.transpose(1, 2) / math.sqrt(self.config.hidden_dim)
        ious = self.iou_head(tokens)[..., 0].float().sigmoid()
        boxes = None if self.box_head is None else self.box_head(tokens).float().sigmoid()
        coarse = coarse.unflatten(2, embedding.cells.shape[2:])
        return MaskPredictions(self.mask_head(tokens), coarse, ious, pixels, boxes)

    def losses(self, batch: Batch, num_masks: Tensor | None = None) -> Mapping[str, Tensor]:
        """Weighted losses ``mask``, ``dice`` and ``iou`` of mask 0, and, with ``_all``, of the masks of all
        granularities; with ``config.box_losses`` also ``box`` and ``giou`` of their boxes.

        Means over the prompts of an image and over two rounds: the first prompts, and those after 1 to
        ``config.max_correction_clicks`` correction clicks, a number drawn per image. Rounds in between are not trained
        on (RITM, Sofiiuk et al. 2021, arXiv 2102.06583): time and memory are those of two rounds. Images are weighted
        by their number of masks.
        """
        embedding = self.encode(batch.images, batch.cues)
        names, weights = ["mask", "dice", "iou"], [MASK_WEIGHT, DICE_WEIGHT, IOU_WEIGHT]
        if self.box_head is not None:
            names, weights = [*names, "box", "giou"], [*weights, L1_WEIGHT, GIOU_WEIGHT]
        sums = embedding.pixels.new_zeros(2, len(names), dtype=torch.float32)
        for i, (targets, seed) in enumerate(zip(batch.targets, batch.seeds.tolist(), strict=True)):
            if len(targets.masks):
                sums = sums + len(targets.masks) * self._image_losses(embedding[i], targets, int(seed))
            else:
                sums = sums + self._zero_loss(embedding[i])
        if num_masks is None:
            num_masks = sums.new_tensor(float(sum(len(targets.masks) for targets in batch.targets)))
        divisor = num_masks.to(sums).clamp(min=1e-3)  # without masks the sums are 0
        weighted = sums * sums.new_tensor(weights) / divisor
        return dict(zip([*names, *(f"{name}_all" for name in names)], weighted.flatten(), strict=True))

    def _image_losses(self, embedding: ImageEmbedding, targets: Targets, seed: int) -> Tensor:
        """(2, 3) mask, dice and IoU losses of mask 0 and of all granularities, or (2, 5) with those of boxes, means
        over the two trained rounds."""
        device, num_cells = embedding.pixels.device, embedding.pixels.shape[2] * embedding.pixels.shape[3]
        loss_points = LossPoints.draw(min(self.num_points, -(-num_cells // 2)), seed, device)
        points = loss_points.all
        point_targets = sample_masks(targets.masks, points)
        areas, target_boxes = targets.masks.sum((1, 2)), normalised_boxes(targets.masks)
        generator = torch.Generator().manual_seed(seed ^ 1)  # other random numbers than those of the points
        prompts = PromptBatch.draw(targets, self.config.prompts_per_image, generator)
        num_clicks = int(torch.randint(1, 1 + self.config.max_correction_clicks, (1,), generator=generator))
        rounds, pixels = [], sample_features(embedding.pixels[0].float(), points)
        for number in range(1 + num_clicks):
            is_trained = number in (0, num_clicks)
            with torch.set_grad_enabled(is_trained and torch.is_grad_enabled()):
                predictions = self.decode(embedding, prompts.prompts)
                with torch.autocast(device.type, enabled=False):
                    logits = predictions.logits_at(points, pixels)
                    if is_trained:
                        found = logits, predictions.ious, prompts, point_targets, loss_points
                        own = predictions.boxes
                        boxes = None if own is None else PromptBoxes(own, target_boxes)
                        single, multi = target_mask_losses(*found, boxes), multimask_losses(*found, areas, boxes)
                        rounds.append(torch.stack([single, multi]))
            if number < num_clicks:
                with torch.no_grad():
                    best = best_mask_index(logits, prompts, point_targets)
                    predicted = logits[torch.arange(len(best), device=device), best] > 0
                    earlier = predictions.selected_logits(best)
                    prompts = prompts.add_correction_clicks(earlier, predicted, point_targets, points, generator)
        return torch.stack(rounds).mean(0)

    def _zero_loss(self, embedding: ImageEmbedding) -> Tensor:
        """0 that depends on every parameter: in distributed training other processes wait for all gradients."""
        points = embedding.pixels.new_full((2, 1, 2), embedding.size[0] / 2)
        no_granularity = points.new_full((2,), math.nan)
        no_masks = points.new_full((2, *embedding.pixels.shape[2:]), math.nan)
        labels = torch.ones(2, 1, dtype=torch.int64, device=points.device)
        predictions = self.decode(embedding, Prompts(points, labels, None, no_masks, no_granularity))
        total = predictions.embeddings.float().sum() + predictions.coarse.float().sum() + predictions.ious.sum()
        return 0 * (total if predictions.boxes is None else total + predictions.boxes.sum())

    @torch.no_grad()
    def detect(
        self, images: Tensor, cues: Tensor | None, valid_sizes: Sequence[tuple[int, int]]
    ) -> Sequence[PromptDetections]:
        """All masks of each image; see ``generate_masks``."""
        embedding = self.encode(images, cues)
        return [generate_masks(self.decode, embedding[i], size, self.config) for i, size in enumerate(valid_sizes)]


def _mlp(dim: int, output_dim: int) -> nn.Sequential:
    """Three linear layers, as in SAM."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, output_dim))
