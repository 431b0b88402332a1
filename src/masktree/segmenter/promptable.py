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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from masktree.errors import InputError
from masktree.segmenter.batch import Batch
from masktree.segmenter.config import PromptableConfig
from masktree.segmenter.losses import POINTS, sample_map
from masktree.segmenter.mask2former import QueryDetections
from masktree.segmenter.pixel_decoder import build_pixel_decoder, decode_pixels
from masktree.segmenter.prompts import STRIDE, PromptEncoder, Prompts
from masktree.segmenter.twoway import TwoWayDecoder

if TYPE_CHECKING:
    from masktree.segmenter.pyramid import Pyramid

TOKENS = 6  # masks of different granularity for one click (UnSAM, arXiv 2406.20081, section 3.3)
ANSWERS = 1 + TOKENS


@dataclass(frozen=True)
class Encoded:
    """What is kept of b images of one size to answer any questions about them.

    ``pixels`` (b, hidden, H/4, W/4): vectors that masks are made of; ``cells`` (b, hidden, h, w): the map that is
    asked; ``places`` (h w, hidden): where its cells are. ``encoded[i]`` is one image, with b = 1.
    """

    pixels: Tensor
    cells: Tensor
    places: Tensor

    def __getitem__(self, i: int) -> Encoded:
        return Encoded(self.pixels[i : i + 1], self.cells[i : i + 1], self.places)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input, padding included."""
        return self.pixels.shape[2] * STRIDE, self.pixels.shape[3] * STRIDE


@dataclass(frozen=True)
class Answers:
    """Of n questions: ANSWERS masks each, as vectors and small maps; number 0 is the single answer, 1 to 6 the masks
    of all granularities.

    ``vectors`` (n, 7, hidden): their products with the (hidden, H/4, W/4) ``pixels`` are the fine part of the masks'
    logits; ``coarse`` (n, 7, h, w): the coarse part. ``ious`` (n, 7) float32 in [0, 1]: how well each mask is expected
    to fit.
    """

    vectors: Tensor
    coarse: Tensor
    ious: Tensor
    pixels: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    def logits(self, questions: slice = slice(None), masks: slice = slice(None)) -> Tensor:
        """(k, m, H/4, W/4) float32 logits of some masks of some questions, inside above 0; made when called.

        4 x k x m x H x W / 16 bytes: 28 MB for 16 questions at 1024 pixels.
        """
        return mask_logits(self.vectors[questions, masks], self.coarse[questions, masks], self.pixels)

    def at(self, points: Tensor) -> Tensor:
        """(n, 7, p) float32 logits at (p, 2) points in [0, 1], fractions of width and height."""
        fine = self.vectors.float() @ sample_map(self.pixels.float(), points)
        coarse = sample_map(self.coarse.float().flatten(0, 1), points).unflatten(0, self.coarse.shape[:2])
        return fine + coarse


def mask_logits(vectors: Tensor, coarse: Tensor, pixels: Tensor) -> Tensor:
    """(n, m, H/4, W/4) float32 logits of (n, m, hidden) ``vectors`` and (n, m, h, w) ``coarse`` maps, which are
    interpolated between the centres of their cells."""
    fine = torch.einsum("nmd,dhw->nmhw", vectors, pixels).float()
    return fine + functional.interpolate(coarse.float(), fine.shape[2:], mode="bilinear", align_corners=False)


class Promptable(nn.Module):
    """Satisfies ``Model``. ``pyramid`` gives maps at strides 4, 8, 16 and 32.

    ``points``: that a mask learns from, as in ``Mask2Former``.

    Raises:
        InputError: ``config.hidden`` no multiple of 32, or transformers missing or too old.
    """

    def __init__(self, config: PromptableConfig, pyramid: Pyramid) -> None:
        super().__init__()
        self.config = config
        self.wants_cues = pyramid.wants_cues
        self.points = POINTS
        self.pyramid = pyramid
        hidden = config.hidden
        self.pixel_decoder: Any = build_pixel_decoder(config, pyramid.channels)
        self.prompts = PromptEncoder(hidden, config.image_size, config.cell)
        self.masks = nn.Embedding(ANSWERS, hidden)
        self.decoder = TwoWayDecoder(hidden, config.heads, config.feedforward, config.prompt_layers)
        self.fine, self.coarse, self.iou = _mlp(hidden, hidden), _mlp(hidden, hidden), _mlp(hidden, 1)

    def encode(self, images: Tensor, cues: Tensor | None = None) -> Encoded:
        """What is asked about b images, which may be kept: ``images`` and ``cues`` as in ``Batch``."""
        maps, pixels = decode_pixels(self.pixel_decoder, self.pyramid(images, cues))
        cells = maps[{32: 0, 16: 1, 8: 2}[self.config.cell]]
        return Encoded(pixels, cells, self.prompts.grid(*cells.shape[2:]))

    def decode(self, encoded: Encoded, prompts: Prompts) -> Answers:
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
        cells = (encoded.cells + self.prompts.dense(prompts, rows, columns)).flatten(2).transpose(1, 2)
        tokens, known = self.prompts.tokens(prompts, pixels)
        masks = self.masks.weight.expand(len(prompts), -1, -1)
        tokens = torch.cat([masks, tokens.to(masks.dtype)], 1)
        known = torch.cat([known.new_ones(len(prompts), ANSWERS), known], 1)
        states, cells = self.decoder(tokens, known, cells, encoded.places)
        states = states[:, :ANSWERS]
        coarse = self.coarse(states) @ cells.transpose(1, 2) / math.sqrt(self.config.hidden)
        ious = self.iou(states)[..., 0].float().sigmoid()
        return Answers(self.fine(states), coarse.unflatten(2, (rows, columns)), ious, pixels)

    def losses(self, batch: Batch, masks: Tensor | None = None) -> Mapping[str, Tensor]:
        raise NotImplementedError

    def detect(
        self, images: Tensor, cues: Tensor | None, content: Sequence[tuple[int, int]]
    ) -> Sequence[QueryDetections]:
        raise NotImplementedError


def _mlp(hidden: int, out: int) -> nn.Sequential:
    """Three linear maps, as in SAM."""
    return nn.Sequential(
        nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, out)
    )
