"""All masks of an image, from a network that answers clicks: it is clicked everywhere, and copies are left out.

As the automatic mask generator of SAM (Kirillov et al. 2023, arXiv 2304.02643, appendix B), but copies are recognised
by their masks, not by their boxes: the parts of a tree often have the box of their whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masktree.models.config import PromptableConfig
from masktree.models.mask2former.model import render_cells, within
from masktree.models.promptable.predictions import Answers, Encoded, mask_logits
from masktree.models.promptable.prompt_encoder import Prompts

SAME = 0.8  # IoU above which two masks are one (our choice: between the 0.7 of SAM's boxes and exact copies)
_MEMORY = 2**28  # bytes that the questions of one pass may take (our choice)
_POOL = 2  # candidates for each mask that is kept (our choice)
_SIDE = 128  # cells along a side on which masks are compared: every second one at 1024 pixels (our choice)
_ROWS = 256  # masks compared with all others at a time


@dataclass(frozen=True)
class PromptDetections:
    """n masks of one image, best score first; satisfies ``Detections``.

    ``vectors`` (n, hidden), ``coarse`` (n, h, w) and ``pixels`` as in ``Answers``; ``content``: height and width of the
    image within the padding. ``stabilities`` (n,): IoU of a mask's logits cut above and below 0; None if not asked for.
    """

    scores: Tensor
    vectors: Tensor
    coarse: Tensor
    pixels: Tensor
    content: tuple[int, int]
    stabilities: Tensor | None = None
    ancestors: Tensor | None = None
    levels: Tensor | None = None

    @torch.no_grad()
    def logits(self, start: int, stop: int) -> Tensor:
        """(k, rows, columns) float32 logits of masks ``start`` to ``stop``, without cells that are only padding."""
        logits = mask_logits(self.vectors[start:stop, None], self.coarse[start:stop, None], self.pixels)[:, 0]
        return within(logits, self.content)

    def render(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """Masks ``start`` to ``stop`` at the image's own (height, width): (k, height, width) bool."""
        return render_cells(self.logits(start, stop), self.content, size)


@torch.no_grad()
def everything(
    decode: Callable[[Encoded, Prompts], Answers],
    encoded: Encoded,
    content: tuple[int, int],
    config: PromptableConfig,
    *,
    points: Tensor | None = None,
    at_once: int | None = None,
    least: float = 0.0,
    stable: float = 0.0,
    offset: float | None = None,
) -> PromptDetections:
    """The masks of all granularities at points of an image, of which ``content`` (height, width) is no padding; best
    first by the IoU that the network expects.

    Of masks with an IoU above ``SAME`` the best stays; at most ``config.detections`` are kept. 6 x points masks are
    asked for, and never more than those of a pass are made at a time.

    Args:
        points: (k, 2) x and y in pixels of the network's input; None: ``config.grid`` along the longer side.
        at_once: points of a pass; None: as many as fit in ``_MEMORY``.
        least: of the expected IoU.
        stable: least stability: IoU of the logits cut at ``offset`` and at -``offset`` (arXiv 2304.02643, appendix B).
        offset: None: stabilities are not looked at.
    """
    points = (grid_points(content, config.grid) if points is None else points).to(encoded.pixels.device)
    at_once = at_once or max(1, _MEMORY // (20 * config.hidden * len(encoded.places)))
    most = _POOL * config.detections
    best: list[Tensor] = []
    for some in points.split(at_once):
        ones = torch.ones(len(some), 1, dtype=torch.int64, device=some.device)
        answers = decode(encoded, Prompts(some[:, None], ones))
        found = _candidates(answers, content, least, stable, offset)
        best = [torch.cat(pair) for pair in zip(best, found, strict=True)] if best else found
        first = best[0].argsort(descending=True, stable=True)[:most]
        best = [value[first] for value in best]
    kept = without_copies(best[-1])[: config.detections]
    scores, stabilities, vectors, coarse, _ = (value[kept] for value in best)
    known = None if offset is None else stabilities
    return PromptDetections(scores, vectors, coarse, encoded.pixels[0], content, known)


def _candidates(
    answers: Answers, content: tuple[int, int], least: float, stable: float, offset: float | None
) -> list[Tensor]:
    """Scores, stabilities, vectors, coarse maps and small masks of what passes the thresholds and has a cell."""
    logits = within(answers.logits(masks=slice(1, None)), content).flatten(0, 1)
    scores = answers.ious[:, 1:].flatten()
    stabilities = torch.ones_like(scores)
    if offset is not None:
        # Mask by mask, as the numbers of cells of a pass may be those of a thousand images.
        inner, outer = (torch.stack([(one > cut).sum() for one in logits]) for cut in (offset, -offset))
        stabilities = inner / outer.clamp(min=1)
    step = -(-max(logits.shape[1:]) // _SIDE)
    small = (logits[:, ::step, ::step] > 0).flatten(1)
    wanted = ((scores >= least) & (stabilities >= stable) & small.any(1)).nonzero()[:, 0]
    parts = scores, stabilities, answers.vectors[:, 1:].flatten(0, 1), answers.coarse[:, 1:].flatten(0, 1), small
    return [part[wanted] for part in parts]


def without_copies(masks: Tensor, iou: float = SAME) -> Tensor:
    """(k,) int64: of (n, p) bool masks, best first, those with no IoU above ``iou`` with a better one that is kept.

    O(n^2 p) for the products of masks, in parts.
    """
    areas = masks.sum(1).float()
    own = masks.float()
    same = np.zeros((len(masks), len(masks)), bool)
    for first in range(0, len(masks), _ROWS):
        shared = own[first : first + _ROWS] @ own.T
        union = areas[first : first + _ROWS, None] + areas - shared
        same[first : first + _ROWS] = (shared > iou * union).cpu().numpy()
    alive = np.ones(len(masks), bool)
    for i in range(len(masks)):
        if alive[i]:
            alive[i + 1 :] &= ~same[i, i + 1 :]
    return torch.from_numpy(np.flatnonzero(alive)).to(masks.device)


def grid_points(size: tuple[int, int], count: int) -> Tensor:
    """(k, 2) x and y, ``count`` along the longer side of (height, width) and as far apart along the other."""
    step = max(size) / count
    x, y = ((torch.arange(max(1, round(side / step))) + 0.5) / max(1, round(side / step)) * side for side in size[::-1])
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
