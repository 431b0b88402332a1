"""Prompts answered by a promptable network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from masktree.discover.masktree import build_dendrogram
from masktree.models.inputs import prepare, stack
from masktree.models.mask2former.model import crop_to_valid
from masktree.models.promptable.model import Promptable
from masktree.models.promptable.prompt_encoder import STRIDE, Prompts
from masktree.prompt.candidates import LEAST, Answer, Candidates, choose, click_costs
from masktree.prompt.prompt import SIDE, SURE, Prompt
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.snap import closest_regions
from masktree.types import RGB

if TYPE_CHECKING:
    from masktree.predict import ModelSegmenter


class Network:
    """Clicks, boxes, masks and granularities on one image that is encoded here, once.

    A single click without more may mean each of the network's masks of all granularities, as likely as the IoU is high
    that it expects, and as its place is among clicks on it: the answers are chosen among them by ``choose``. Any other
    prompt has its single answer first, and the others behind it if several are wanted; scores are then the IoU that the
    network expects.

    Args:
        segmenter: of a model of kind promptable. With its ``snap_backbone`` answers are drawn along the regions of the
            image's dendrogram (``masktree.trees.snap``); the low-resolution logits stay the network's own.
        image: (H, W, 3) uint8 RGB.
    """

    def __init__(self, segmenter: ModelSegmenter, image: RGB) -> None:
        assert isinstance(segmenter.model, Promptable)
        self.model: Promptable = segmenter.model
        self.size = (image.shape[0], image.shape[1])
        self._device = next(self.model.parameters()).device
        self._half = segmenter.dtype == "bfloat16"
        seen = prepare(image, self.model.config.image_size, cues=self.model.wants_cues)
        self.content = seen.valid_size
        with torch.inference_mode(), self.precision():
            self.encoded = self.model.encode(*stack([seen], self._device))
        self.dendrogram = (
            None if segmenter.snap_backbone is None else build_dendrogram(image, backbone=segmenter.snap_backbone)
        )

    def answer(self, prompt: Prompt, count: int) -> Answer:
        """As ``answer.Source``; masks are logits."""
        with torch.inference_mode(), self.precision():
            answers = self.model.decode(self.encoded, self._question(prompt))
            ious = answers.ious[0].float().cpu().numpy()
            logits = answers.logits(slice(0, 1))[0]
            order, scores = self._order(prompt, logits, ious, count)
            logits = logits[torch.from_numpy(order).to(logits.device)]
        masks = enlarge(logits, self.content, self.size).cpu().numpy()
        if self.dendrogram is not None:
            masks = _snapped(masks, self.dendrogram, prompt)
        return Answer(masks, scores.astype(np.float32), self._shrink(logits).cpu().numpy())

    def _order(self, prompt: Prompt, logits: Tensor, ious: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of at most ``count`` of the (7, H/4, W/4) masks, best first, and their scores."""
        others = 1 + np.argsort(-ious[1:], kind="stable")
        said = prompt.box is not None or prompt.mask is not None or prompt.granularity is not None
        if said or len(prompt.labels) != 1:
            order = np.array([0, *others])[:count]
            return order, ious[order]
        inside = (crop_to_valid(logits, self.content) > 0).flatten(1).cpu().numpy()
        some = others[inside[others].any(1)]
        if len(some) == 0:
            return others[:1], np.zeros(1)
        believed = ious[some].astype(np.float64)
        costs = click_costs(prompt, inside[some].sum(1)) - np.log(np.maximum(believed, LEAST))
        order, scores = choose(Candidates(inside[some], np.ones(inside.shape[1]), costs, believed), count, None)
        return some[order], scores

    def precision(self) -> torch.autocast:
        """Autocast, where the segmenter asks for it."""
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._half)

    def _question(self, prompt: Prompt) -> Prompts:
        scale = np.array([self.content[1] / self.size[1], self.content[0] / self.size[0]])
        # A click on pixel (x, y) is one on its centre, as for segment-anything.
        points = torch.tensor((prompt.points + 0.5) * scale, dtype=torch.float32)[None]
        boxes = None if prompt.box is None else torch.tensor(prompt.box * np.tile(scale, 2), dtype=torch.float32)[None]
        g = None if prompt.granularity is None else torch.tensor([prompt.granularity], dtype=torch.float32)
        masks = None if prompt.mask is None else self._fit(torch.from_numpy(prompt.mask))[None]
        return Prompts(points, torch.from_numpy(prompt.labels)[None], boxes, masks, g).to(self._device)

    def _fit(self, mask: Tensor) -> Tensor:
        """(SIDE, SIDE) logits as (H/4, W/4) cells of the network's input, -SURE in its padding."""
        height, width = (side // STRIDE for side in self.encoded.size)
        rows, columns = (-(-side // STRIDE) for side in self.content)
        side = round(max(self.content) / STRIDE)
        seen = functional.interpolate(mask[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]
        result = mask.new_full((height, width), -SURE)
        part = seen[:rows, :columns]
        result[: part.shape[0], : part.shape[1]] = part
        return result

    def _shrink(self, logits: Tensor) -> Tensor:
        """(n, SIDE, SIDE) of (n, H/4, W/4) logits: the way back."""
        side = round(max(self.content) / STRIDE)
        rows, columns = (min(-(-one // STRIDE), side) for one in self.content)
        square = logits.new_full((len(logits), 1, side, side), -SURE)
        square[:, 0, :rows, :columns] = logits[:, :rows, :columns]
        return functional.interpolate(square, (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]


def _snapped(logits: np.ndarray, dendrogram: PartitionTree, prompt: Prompt) -> np.ndarray:
    """(n, H, W) logits whose signs are those of the closest regions, 1 or -1 where they changed.

    Of all leaves those under the clicks are known for certain, unless clicks contradict each other in one.
    """
    leaves = dendrogram.leaves.ravel()
    shared = np.stack([np.bincount(leaves[m.ravel() > 0], minlength=dendrogram.n_leaves) for m in logits])
    x, y = prompt.pixels.T
    under, positive = dendrogram.leaves[y, x], prompt.positive
    inner, outer = (np.setdiff1d(under[kind], under[~kind]) for kind in (positive, ~positive))
    shared[:, inner], shared[:, outer] = dendrogram.areas[inner], 0
    inside, fits = closest_regions(shared, dendrogram)
    inside[:, inner], inside[:, outer] = True, False
    for k in np.flatnonzero(fits):
        chosen = inside[k][dendrogram.leaves]
        logits[k] = np.where(chosen == (logits[k] > 0), logits[k], np.where(chosen, 1, -1))
    return logits


def enlarge(logits: Tensor, content: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(n, h, w) logits of an image's cells, ``content`` pixels (height, width) of which are the image, at (H, W)
    ``size``: bilinear, to within half a pixel."""
    cells = [-(-side // STRIDE) for side in content]
    whole = [
        max(own, round(count * STRIDE * own / side)) for count, side, own in zip(cells, content, size, strict=True)
    ]
    seen = logits[None, :, : cells[0], : cells[1]]
    big = functional.interpolate(seen, whole, mode="bilinear", align_corners=False)[0]
    return big[:, : size[0], : size[1]]
