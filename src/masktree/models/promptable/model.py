"""The network that answers clicks, boxes and granularities: the promptable half of UnSAM (Wang et al. 2024, arXiv
2406.20081), with the granularity of UnSAMv2 (arXiv 2511.13714) and the decoder of SAM (Kirillov et al. 2023, arXiv
2304.02643).

An image is encoded once, by the pyramid and the pixel decoder that the models of SOHES and UnSAM have too, under the
same names, so that their weights fit. A question then takes milliseconds. Its answer is seven masks: number 0 is the
one that was meant, for questions that mean one (with a granularity, a box or more than one click); 1 to 6 are the
masks of all granularities around a click, in no order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from masktree.errors import InputError
from masktree.models.config import PromptableConfig
from masktree.models.mask2former.losses import POINTS, LossPoints, sample_features, sample_masks
from masktree.models.mask2former.pixel_decoder import build_pixel_decoder, decode_pixels
from masktree.models.promptable.generate import PromptDetections, generate_masks
from masktree.models.promptable.losses import best_mask_index, multimask_losses, target_mask_losses
from masktree.models.promptable.predictions import NUM_MASK_TOKENS, ImageEmbedding, MaskPredictions
from masktree.models.promptable.prompt_encoder import STRIDE, PromptEncoder, Prompts
from masktree.models.promptable.simulated_prompts import PromptBatch
from masktree.models.promptable.two_way import TwoWayDecoder
from masktree.models.structures import Batch, Targets

if TYPE_CHECKING:
    from masktree.models.pyramid.pyramid import Pyramid

MASK, DICE, IOU = 5.0, 5.0, 1.0  # weights of the objectives (Semantic-SAM, arXiv 2307.04767, as in UnSAM's code)


class Promptable(nn.Module):
    """Satisfies ``Model``. ``pyramid`` gives maps at strides 4, 8, 16 and 32.

    ``points``: that a mask learns from, as in ``Mask2Former``.

    Raises:
        InputError: ``config.hidden_dim`` no multiple of 32, or transformers missing or too old.
    """

    def __init__(self, config: PromptableConfig, pyramid: Pyramid) -> None:
        super().__init__()
        self.config = config
        self.wants_cues = pyramid.wants_cues
        self.points = POINTS
        self.pyramid = pyramid
        hidden = config.hidden_dim
        self.pixel_decoder: Any = build_pixel_decoder(config, pyramid.channels)
        self.prompts = PromptEncoder(hidden, config.image_size, config.embedding_stride)
        self.masks = nn.Embedding(NUM_MASK_TOKENS, hidden)
        self.decoder = TwoWayDecoder(hidden, config.num_heads, config.feedforward_dim, config.prompt_decoder_layers)
        self.fine, self.coarse, self.iou = _mlp(hidden, hidden), _mlp(hidden, hidden), _mlp(hidden, 1)

    def encode(self, images: Tensor, cues: Tensor | None = None) -> ImageEmbedding:
        """What is asked about b images, which may be kept: ``images`` and ``cues`` as in ``Batch``."""
        maps, pixels = decode_pixels(self.pixel_decoder, self.pyramid(images, cues))
        cells = maps[{32: 0, 16: 1, 8: 2}[self.config.embedding_stride]]
        means = functional.avg_pool2d(pixels, self.config.embedding_stride // STRIDE)
        return ImageEmbedding(pixels, cells, means, self.prompts.grid(*cells.shape[2:]))

    def decode(self, encoded: ImageEmbedding, prompts: Prompts) -> MaskPredictions:
        """The answers to n questions about one image, each by itself.

        Memory grows with n: about 40 x hidden x h x w x n bytes, h x w being the map's cells (at 1024 pixels, hidden
        256 and cells of 16, 42 MB each). Ask in parts.

        Raises:
            InputError: several images, or earlier masks of another size than (H/4, W/4).
        """
        if len(encoded.pixels) != 1:
            raise InputError(f"expected one image; got {len(encoded.pixels)}; take them one by one: encoded[i]")
        rows, columns = encoded.cells.shape[2:]
        pixels = encoded.pixels[0]
        cells = (encoded.cells + self.prompts.dense(prompts, encoded.means[0])).flatten(2).transpose(1, 2)
        tokens, known = self.prompts.tokens(prompts, pixels)
        masks = self.masks.weight.expand(len(prompts), -1, -1)
        tokens = torch.cat([masks, tokens.to(masks.dtype)], 1)
        known = torch.cat([known.new_ones(len(prompts), NUM_MASK_TOKENS), known], 1)
        states, cells = self.decoder(tokens, known, cells, encoded.places)
        states = states[:, :NUM_MASK_TOKENS]
        coarse = self.coarse(states) @ cells.transpose(1, 2) / math.sqrt(self.config.hidden_dim)
        ious = self.iou(states)[..., 0].float().sigmoid()
        return MaskPredictions(self.fine(states), coarse.unflatten(2, (rows, columns)), ious, pixels)

    def losses(self, batch: Batch, masks: Tensor | None = None) -> Mapping[str, Tensor]:
        """Weighted objectives: ``mask``, ``dice`` and ``iou`` of the single answers, and, with ``_all``, of the masks
        of all granularities; means over the questions of an image and over two rounds of them: as they are asked first,
        and after 1 to ``config.max_correction_clicks`` further clicks, a number that is drawn for each image. Answers
        in between are not learned from (RITM, Sofiiuk et al. 2021, arXiv 2102.06583): time and memory are those of two
        rounds.

        An image counts as its masks do, so that with ``masks`` the mean over processes with equally many images, the
        mean of their losses is the loss of all their images together.
        """
        encoded = self.encode(batch.images, batch.cues)
        sums = encoded.pixels.new_zeros(2, 3, dtype=torch.float32)
        for i, (targets, seed) in enumerate(zip(batch.targets, batch.seeds.tolist(), strict=True)):
            if len(targets.masks):
                sums = sums + len(targets.masks) * self._image_losses(encoded[i], targets, int(seed))
            else:
                sums = sums + self._nothing(encoded[i])
        if masks is None:
            masks = sums.new_tensor(float(sum(len(targets.masks) for targets in batch.targets)))
        weighted = sums * sums.new_tensor([MASK, DICE, IOU]) / masks.to(sums).clamp(min=1e-3)  # 0 masks: sums are 0
        names = ("mask", "dice", "iou", "mask_all", "dice_all", "iou_all")
        return dict(zip(names, weighted.flatten(), strict=True))

    def _image_losses(self, encoded: ImageEmbedding, targets: Targets, seed: int) -> Tensor:
        """(2, 3): mask, dice and iou of single answers and of all granularities, means over two rounds of questions."""
        device, cells = encoded.pixels.device, encoded.pixels.shape[2] * encoded.pixels.shape[3]
        points = LossPoints.draw(min(self.points, -(-cells // 2)), seed, device)
        places = points.all
        wanted = sample_masks(targets.masks, places)
        areas = targets.masks.sum((1, 2))
        generator = torch.Generator().manual_seed(seed ^ 1)  # other numbers than the points'
        questions = PromptBatch.draw(targets, self.config.prompts_per_image, generator)
        last = int(torch.randint(1, 1 + self.config.max_correction_clicks, (1,), generator=generator))
        rounds, pixels = [], sample_features(encoded.pixels[0].float(), places)
        for number in range(1 + last):
            learned = number in (0, last)
            with torch.set_grad_enabled(learned and torch.is_grad_enabled()):
                answers = self.decode(encoded, questions.prompts)
                with torch.autocast(device.type, enabled=False):
                    logits = answers.at(places, pixels)
                    if learned:
                        single = target_mask_losses(logits, answers.ious, questions, wanted, points)
                        every = multimask_losses(logits, answers.ious, questions, wanted, points, areas)
                        rounds.append(torch.stack([single, every]))
            if number < last:
                with torch.no_grad():
                    best = best_mask_index(logits, questions, wanted)
                    inside = logits[torch.arange(len(best), device=device), best] > 0
                    questions = questions.add_correction_clicks(answers.chosen(best), inside, wanted, places, generator)
        return torch.stack(rounds).mean(0)

    def _nothing(self, encoded: ImageEmbedding) -> Tensor:
        """0, by way of every parameter: other processes wait for their gradients."""
        points = encoded.pixels.new_full((2, 1, 2), encoded.size[0] / 2)
        absent = points.new_full((2,), math.nan)
        masks = points.new_full((2, *encoded.pixels.shape[2:]), math.nan)
        labels = torch.ones(2, 1, dtype=torch.int64, device=points.device)
        answers = self.decode(encoded, Prompts(points, labels, None, masks, absent))
        return 0 * (answers.vectors.float().sum() + answers.coarse.float().sum() + answers.ious.sum())

    @torch.no_grad()
    def detect(
        self, images: Tensor, cues: Tensor | None, valid_sizes: Sequence[tuple[int, int]]
    ) -> Sequence[PromptDetections]:
        """All masks of each image: those of all granularities at the points of a grid, best first by expected IoU.

        Of masks that overlap by an IoU above ``NMS_IOU`` the best stays; at most ``config.max_detections`` are kept.
        """
        encoded = self.encode(images, cues)
        return [generate_masks(self.decode, encoded[i], size, self.config) for i, size in enumerate(valid_sizes)]


def _mlp(hidden: int, out: int) -> nn.Sequential:
    """Three linear maps, as in SAM."""
    return nn.Sequential(
        nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, out)
    )
