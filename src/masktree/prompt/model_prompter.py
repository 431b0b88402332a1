"""Prompts on a promptable network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from masktree.discover.masktree import build_dendrogram
from masktree.models.inputs import collate_inputs, prepare_image
from masktree.models.mask_maps import MASK_STRIDE, crop_to_valid
from masktree.models.promptable.generate import generate_masks
from masktree.models.promptable.model import Promptable
from masktree.models.promptable.prompt_encoder import Prompts
from masktree.models.trees import tree_of
from masktree.prompt.candidates import MIN_PROBABILITY, Candidates, click_costs, rank_candidates
from masktree.prompt.prompt import LOW_RES_SIZE, MASK_LOGIT, Prompt
from masktree.prompt.prompter import PromptResult
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.masktree import MaskTree
from masktree.trees.snap import closest_regions, snap_to_regions
from masktree.types import RGB

if TYPE_CHECKING:
    from masktree.predict import ModelSegmenter

POINTS_PER_BATCH = 64  # as in segment-anything


class ModelPrompter:
    """Clicks, boxes, masks and granularities on an image, which the network encodes once, here.

    A single click is ambiguous: it may mean each of the network's masks of all granularities, with a probability
    proportional to the predicted IoU times the likelihood of the click (``click_costs``); ``rank_candidates`` chooses.
    Any other prompt has the network's single mask first and, if several are wanted, the others behind it; scores are
    then the predicted IoUs.

    Args:
        segmenter: a model of kind promptable. With a ``snap_backbone`` masks are snapped to the regions of the image's
            dendrogram (``masktree.trees.snap``); the low-resolution logits stay the network's.
        image: (H, W, 3) uint8 RGB.
    """

    def __init__(self, segmenter: ModelSegmenter, image: RGB) -> None:
        assert isinstance(segmenter.model, Promptable)
        self.model: Promptable = segmenter.model
        self.size = (image.shape[0], image.shape[1])
        self._segmenter = segmenter
        self._device = next(self.model.parameters()).device
        inputs = prepare_image(image, self.model.config.image_size, cues=self.model.wants_cues)
        self._valid_size = inputs.valid_size
        with torch.inference_mode(), self._autocast():
            self._embedding = self.model.encode(*collate_inputs([inputs], self._device))
        self._dendrogram = (
            None if segmenter.snap_backbone is None else build_dendrogram(image, backbone=segmenter.snap_backbone)
        )

    def predict(self, prompt: Prompt, num_masks: int) -> PromptResult:
        """See ``Prompter``; the masks are logits."""
        with torch.inference_mode(), self._autocast():
            predictions = self.model.decode(self._embedding, self._to_network_input(prompt))
            ious = predictions.ious[0].float().cpu().numpy()
            logits = predictions.logits(slice(0, 1))[0]
            order, scores = self._rank(prompt, logits, ious, num_masks)
            logits = logits[torch.from_numpy(order).to(logits.device)]
        masks = upscale_logits(logits, self._valid_size, self.size).cpu().numpy()
        if self._dendrogram is not None:
            masks = _snap_logits(masks, self._dendrogram, prompt)
        return PromptResult(masks, scores.astype(np.float32), self._to_low_res(logits).cpu().numpy())

    def generate_tree(
        self,
        point_grid: np.ndarray | None,
        *,
        points_per_batch: int | None,
        min_score: float,
        min_stability: float,
        stability_offset: float,
    ) -> MaskTree:
        """The masks of all granularities at each point of a grid, as a tree by coverage, best score first.

        Masks below the segmenter's ``min_area`` or ``min_score`` and near-duplicates of better ones are dropped. At
        most ``config.max_detections`` are kept, and snapped if the segmenter has a ``snap_backbone``. Memory: the
        logits of a batch, and the embeddings and coarse maps of the candidates.

        Args:
            point_grid: (N, 2) x and y in [0, 1]; None: the grid of the model's configuration.
            points_per_batch: None: ``POINTS_PER_BATCH``.
            min_score: lowest predicted IoU.
            min_stability: lowest IoU of the logits cut at ``stability_offset`` and at -``stability_offset`` (Kirillov
                et al. 2023, arXiv 2304.02643, appendix B).
            stability_offset: in logits, above 0.
        """
        height, width = self._valid_size
        points = None if point_grid is None else torch.tensor(point_grid * (width, height), dtype=torch.float32)
        with torch.inference_mode(), self._autocast():
            detections = generate_masks(
                self.model.decode,
                self._embedding,
                self._valid_size,
                self.model.config,
                points=points,
                points_per_batch=points_per_batch or POINTS_PER_BATCH,
                pred_iou_thresh=max(min_score, self._segmenter.min_score),
                stability_score_thresh=min_stability,
                stability_score_offset=stability_offset,
            )
            assert detections.stabilities is not None
            min_area = self.model.config.min_area if self._segmenter.min_area is None else self._segmenter.min_area
            stabilities = detections.stabilities.cpu().numpy()
            tree = tree_of(detections, self.size, min_area=min_area, stabilities=stabilities)
        return tree if self._dendrogram is None else snap_to_regions(tree, self._dendrogram)

    def _rank(self, prompt: Prompt, logits: Tensor, ious: np.ndarray, num_masks: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of at most ``num_masks`` of the (7, H/4, W/4) masks, best first, and their scores."""
        multimask = 1 + np.argsort(-ious[1:], kind="stable")
        single_click = (
            len(prompt.labels) == 1 and prompt.box is None and prompt.mask is None and prompt.granularity is None
        )
        if not single_click:
            order = np.array([0, *multimask])[:num_masks]
            return order, ious[order]
        inside = (crop_to_valid(logits, self._valid_size) > 0).flatten(1).cpu().numpy()
        nonempty = multimask[inside[multimask].any(1)]
        if len(nonempty) == 0:
            return multimask[:1], np.zeros(1)
        probabilities = ious[nonempty].astype(np.float64)
        costs = click_costs(prompt, inside[nonempty].sum(1)) - np.log(np.maximum(probabilities, MIN_PROBABILITY))
        candidates = Candidates(inside[nonempty], np.ones(inside.shape[1]), costs, probabilities)
        order, scores = rank_candidates(candidates, num_masks, None)
        return nonempty[order], scores

    def _autocast(self) -> torch.autocast:
        half = self._segmenter.dtype == "bfloat16"
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=half)

    def _to_network_input(self, prompt: Prompt) -> Prompts:
        """The prompt in pixels of the network's input."""
        scale = np.array([self._valid_size[1] / self.size[1], self._valid_size[0] / self.size[0]])
        # A click is one on the centre of its pixel: (x + 0.5, y + 0.5) for whole numbers, as in segment-anything.
        points = torch.tensor((prompt.pixels + 0.5) * scale, dtype=torch.float32)[None]
        boxes = None if prompt.box is None else torch.tensor(prompt.box * np.tile(scale, 2), dtype=torch.float32)[None]
        granularity = None if prompt.granularity is None else torch.tensor([prompt.granularity], dtype=torch.float32)
        masks = None if prompt.mask is None else self._from_low_res(torch.from_numpy(prompt.mask))[None]
        return Prompts(points, torch.from_numpy(prompt.labels)[None], boxes, masks, granularity).to(self._device)

    def _from_low_res(self, mask: Tensor) -> Tensor:
        """(LOW_RES_SIZE, LOW_RES_SIZE) logits at the (H/4, W/4) of the network's masks; padding is -MASK_LOGIT."""
        height, width = (length // MASK_STRIDE for length in self._embedding.size)
        rows, columns = (-(-length // MASK_STRIDE) for length in self._valid_size)
        side = round(max(self._valid_size) / MASK_STRIDE)
        square = functional.interpolate(mask[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]
        result = mask.new_full((height, width), -MASK_LOGIT)
        valid = square[:rows, :columns]
        result[: valid.shape[0], : valid.shape[1]] = valid
        return result

    def _to_low_res(self, logits: Tensor) -> Tensor:
        """(n, LOW_RES_SIZE, LOW_RES_SIZE) of (n, H/4, W/4) logits: the inverse of ``_from_low_res``."""
        side = round(max(self._valid_size) / MASK_STRIDE)
        rows, columns = (min(-(-length // MASK_STRIDE), side) for length in self._valid_size)
        square = logits.new_full((len(logits), 1, side, side), -MASK_LOGIT)
        square[:, 0, :rows, :columns] = logits[:, :rows, :columns]
        low_res = (LOW_RES_SIZE, LOW_RES_SIZE)
        return functional.interpolate(square, low_res, mode="bilinear", align_corners=False)[:, 0]


def _snap_logits(logits: np.ndarray, dendrogram: PartitionTree, prompt: Prompt) -> np.ndarray:
    """(n, H, W) logits with the signs of the closest regions; logits whose sign changes become 1 or -1.

    Leaves under clicks get the label of the click, unless clicks of both labels lie in the leaf.
    """
    leaves = dendrogram.leaves.ravel()
    intersections = np.stack([np.bincount(leaves[m.ravel() > 0], minlength=dendrogram.n_leaves) for m in logits])
    x, y = prompt.pixels.T
    clicked, positive = dendrogram.leaves[y, x], prompt.positive
    foreground = np.setdiff1d(clicked[positive], clicked[~positive])
    background = np.setdiff1d(clicked[~positive], clicked[positive])
    intersections[:, foreground], intersections[:, background] = dendrogram.areas[foreground], 0
    inside, close = closest_regions(intersections, dendrogram)
    inside[:, foreground], inside[:, background] = True, False
    for k in np.flatnonzero(close):
        mask = inside[k][dendrogram.leaves]
        logits[k] = np.where(mask == (logits[k] > 0), logits[k], np.where(mask, 1, -1))
    return logits


def upscale_logits(logits: Tensor, valid_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(n, H, W) logits at the image's ``size`` from (n, h, w) logits of the network's input, of which ``valid_size``
    (height, width) pixels are not padding: bilinear, aligned to within half a pixel."""
    cells = [-(-length // MASK_STRIDE) for length in valid_size]
    covered = [  # pixels of the image that the cells stand for, the part of the last cell beyond the image included
        max(target, round(count * MASK_STRIDE * target / length))
        for count, length, target in zip(cells, valid_size, size, strict=True)
    ]
    valid = logits[None, :, : cells[0], : cells[1]]
    upscaled = functional.interpolate(valid, covered, mode="bilinear", align_corners=False)[0]
    return upscaled[:, : size[0], : size[1]]
