"""The teacher of self-training: the EMA model's masks of a weak view become targets of a strong view.

HASSOD: Cao et al. 2023, arXiv 2402.03311, and its code; SOHES: Cao et al. 2024, arXiv 2404.12386.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from masktree.errors import InputError, TrainingError
from masktree.models.structures import Batch, ModelDetections, Targets
from masktree.models.trees import encode_masks
from masktree.train.collapse_monitor import CollapseMonitor
from masktree.train.geometry import Geometry
from masktree.train.photo_dataset import pad_to
from masktree.train.pseudo_label_thresholds import SIZES, PseudoLabelThresholds
from masktree.train.samples import choose_masks
from masktree.train.teacher_views import ViewBatch
from masktree.trees import hierarchy, rle
from masktree.trees.nms import mask_nms

Method = Literal["sohes", "hassod"]
Reduce = Callable[[Tensor], Tensor]
Autocast = Callable[[], contextlib.AbstractContextManager[Any]]

# Fraction of a mask that its parent covers: as for discovered labels (SOHES), and the value of HASSOD's teacher.
MIN_COVERAGE: Mapping[Method, float] = {"sohes": 0.9, "hassod": 0.75}
DUPLICATE_IOU = 0.9  # above which the worse of two masks is dropped, as in ``mask_nms`` (our choice)
FULL_IMAGE_FRACTION = 0.9  # of the image, from which a mask counts as all of it (our choice)
_MAX_BATCH_SIZE = 4  # images per forward pass of the teacher, which bounds its memory (our choice)


@dataclass(frozen=True)
class ScoredMasks:
    """Masks of one image, best score first.

    Attributes:
        rles: n run-length strings of a (height, width) ``size``, that of the weak view.
        size: see above.
        scores: (n,) float64.
        areas: (n,) float64 in pixels of the image.
    """

    rles: list[bytes]
    size: tuple[int, int]
    scores: np.ndarray
    areas: np.ndarray

    def __getitem__(self, keep: np.ndarray) -> ScoredMasks:
        """The masks selected by a boolean array (n,)."""
        rles = [text for text, kept in zip(self.rles, keep, strict=True) if kept]
        return ScoredMasks(rles, self.size, self.scores[keep], self.areas[keep])


@dataclass
class Teacher:
    """Makes targets for the student, and keeps the state of thresholds and collapse monitor.

    Attributes:
        method: sohes: masks of queries, whose duplicates are removed (our choice); hassod: masks of boxes, whose
            duplicates the model has removed.
        thresholds: select the pseudo-labels.
        min_coverage: of a mask by its parent; see ``MIN_COVERAGE``.
        max_masks: maximum number of targets per image, a random choice of more.
        min_area: smallest target in pixels of the strong view.
        monitor: ends a run whose teacher has collapsed.

    Raises:
        InputError: another method, or a number out of range.
    """

    method: Method
    thresholds: PseudoLabelThresholds
    min_coverage: float
    max_masks: int
    min_area: int
    monitor: CollapseMonitor

    def __post_init__(self) -> None:
        if self.method not in MIN_COVERAGE:
            raise InputError(f"expected a method {', '.join(MIN_COVERAGE)}; got {self.method!r}")
        if not 0 < self.min_coverage <= 1:
            usual = MIN_COVERAGE[self.method]
            raise InputError(f"expected a coverage in (0, 1]; got {self.min_coverage}; {usual} is usual")
        if self.max_masks < 1 or self.min_area < 1:
            raise InputError(f"expected max_masks and min_area of at least 1; got {self.max_masks}, {self.min_area}")

    def make_targets(
        self,
        model: nn.Module,
        views: ViewBatch,
        device: torch.device,
        *,
        autocast: Autocast = contextlib.nullcontext,
        reduce: Reduce | None = None,
    ) -> tuple[Batch, dict[str, float]]:
        """The student's batch, with the masks that the model finds in the weak views as targets.

        Thresholds and monitor are updated with the sum over all processes, so that they agree in all of them. Parents
        and levels follow from the masks in the whole image.

        Args:
            model: the EMA model, a ``Model`` on ``device``; evaluated in evaluation mode, otherwise unchanged.
            views: this process's share of a step.
            autocast: as around the student's losses.
            reduce: sum of a tensor on ``device`` over all processes; None for a single process.

        Returns:
            The batch on the CPU, and metrics of the whole step: ``threshold_small``, ``threshold_medium``,
            ``threshold_large``; ``kept_small``, ... pseudo-labels per image; ``collapsed``, the fraction of images with
            none, or with one mask of the whole image.

        Raises:
            TrainingError: the teacher has collapsed, or its scores are not finite.
        """
        found = self._predict(model, views, device, autocast)
        pseudo_labels = [masks[self.thresholds.keep(masks.scores, masks.areas)] for masks in found]
        targets = [
            self._targets(masks, strong.relative_to(weak), views.strong.images.shape[-2:], int(seed))
            for masks, weak, strong, seed in zip(
                pseudo_labels, views.weak_geometries, views.strong_geometries, views.strong.seeds, strict=True
            )
        ]
        image_areas = [g.size[0] * g.size[1] for g in views.weak_geometries]
        metrics = self._update(found, pseudo_labels, image_areas, reduce, device)
        return replace(views.strong, targets=targets), metrics

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {"thresholds": self.thresholds.state_dict(), "monitor": self.monitor.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            FormatError, KeyError: something else.
        """
        self.thresholds.load_state_dict(state["thresholds"])
        self.monitor.load_state_dict(state["monitor"])

    def _predict(
        self, model: nn.Module, views: ViewBatch, device: torch.device, autocast: Autocast
    ) -> list[ScoredMasks]:
        result: list[ScoredMasks] = []
        weak = views.weak
        for start in range(0, len(weak.names), _MAX_BATCH_SIZE):
            chunk = slice(start, start + _MAX_BATCH_SIZE)
            images, valid_sizes = weak.images[chunk].to(device), views.valid_sizes[chunk]
            cues = None if weak.cues is None else weak.cues[chunk].to(device)
            with torch.no_grad(), evaluating(model), autocast():
                # a Model, which nn.Module hides
                detections = model.detect(images, cues, valid_sizes)  # type: ignore[operator]
                for item, geometry, name in zip(
                    detections, views.weak_geometries[chunk], weak.names[chunk], strict=True
                ):
                    result.append(self._encode(item, geometry, name))
        return result

    def _encode(self, detections: ModelDetections, geometry: Geometry, name: str) -> ScoredMasks:
        """The detections of one image that may become pseudo-labels."""
        scores = detections.scores.float().cpu().double().numpy()
        if not np.isfinite(scores).all():
            raise TrainingError(
                f"expected finite scores from the teacher; got NaN or infinity in {name}: its weights are damaged; go "
                "back to an earlier run, or train with a lower --lr or --precision float32 in a new folder"
            )
        size = geometry.window
        scores = scores[: int((scores >= self.thresholds.lower_bound).sum())].clip(0, 1)
        rles = encode_masks(detections, len(scores), size)
        areas = rle.areas(rles, size).astype(np.float64)
        keep = np.flatnonzero(areas)
        if self.method == "sohes":
            keep = keep[mask_nms([rles[i] for i in keep], size, scores[keep], iou_threshold=DUPLICATE_IOU)]
        scale = geometry.size[0] * geometry.size[1] / (size[0] * size[1])
        return ScoredMasks([rles[i] for i in keep], size, scores[keep], areas[keep] * scale)

    def _targets(self, masks: ScoredMasks, geometry: Geometry, size: torch.Size, seed: int) -> Targets:
        """Pseudo-labels in the strong view; ``geometry`` maps from the weak view to it."""
        parents = hierarchy.parents_by_coverage(masks.rles, masks.size, min_coverage=self.min_coverage)
        rng = np.random.default_rng(seed)
        keep = choose_masks(geometry.mask_areas(masks.rles), self.min_area, self.max_masks, rng)
        return Targets(
            torch.from_numpy(pad_to(geometry.apply_masks(masks[keep].rles), size[0], size[1])),
            torch.from_numpy(hierarchy.reparent(parents, keep).astype(np.int64)),
            torch.from_numpy(hierarchy.levels(parents)[keep].astype(np.int64)),
        )

    def _update(
        self,
        found: Sequence[ScoredMasks],
        pseudo_labels: Sequence[ScoredMasks],
        image_areas: Sequence[int],
        reduce: Reduce | None,
        device: torch.device,
    ) -> dict[str, float]:
        """Update thresholds and monitor with one sum over the processes; returns the metrics."""
        thresholds = self.thresholds
        histogram = thresholds.count(*_scores_and_areas(found))
        kept = thresholds.count(*_scores_and_areas(pseudo_labels)).sum(1)
        collapsed = sum(_is_collapsed(masks, area) for masks, area in zip(pseudo_labels, image_areas, strict=True))
        counts = torch.cat([torch.tensor([len(found), collapsed]), kept, histogram.flatten()])
        if reduce is not None:  # as float32, which every device has: counts are far below 2^24, so the sum is exact
            counts = reduce(counts.float().to(device))
        counts = counts.cpu().double()
        num_images, num_collapsed = counts[:2].tolist()
        metrics = {f"threshold_{size}": value for size, value in zip(SIZES, thresholds.values, strict=True)}
        metrics |= {f"kept_{size}": n / num_images for size, n in zip(SIZES, counts[2:5].tolist(), strict=True)}
        thresholds.update(counts[5:].view_as(histogram), num_images)
        self.monitor.update(num_images, float(counts[2:5].sum()), num_collapsed)
        return metrics | {"collapsed": num_collapsed / num_images}


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within; each module returns to its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _is_collapsed(masks: ScoredMasks, image_area: int) -> bool:
    return len(masks.rles) == 0 or (len(masks.rles) == 1 and bool(masks.areas[0] >= FULL_IMAGE_FRACTION * image_area))


def _scores_and_areas(masks: Sequence[ScoredMasks]) -> tuple[np.ndarray, np.ndarray]:
    """Of all images together."""
    return np.concatenate([m.scores for m in masks]), np.concatenate([m.areas for m in masks])
