"""The teacher of self-training: what the averaged model finds in one view becomes the targets of another.

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
from masktree.train.augmentation import choose_masks
from masktree.train.geometry import Geometry
from masktree.train.photo_dataset import pad_masks
from masktree.train.pseudo_label_thresholds import ALL, SIZES, CollapseMonitor, Thresholds
from masktree.train.teacher_views import ViewBatch
from masktree.trees import hierarchy, rle
from masktree.trees.nms import mask_nms

Rule = Literal["sohes", "hassod"]
Reduce = Callable[[Tensor], Tensor]
Autocast = Callable[[], contextlib.AbstractContextManager[Any]]

# Share of a mask that lies under its parent: as for the first labels (SOHES), and HASSOD's value inside the teacher.
COVER: Mapping[Rule, float] = {"sohes": 0.9, "hassod": 0.75}
COPY = 0.9  # IoU above which a mask is a copy of a better one, as in ``mask_nms`` (our choice)
_AT_ONCE = 4  # images that the teacher looks at together: bounds its memory (our choice)


@dataclass(frozen=True)
class ScoredMasks:
    """Masks of one photograph, best score first: run-length strings of the (height, width) ``size`` of the view they
    were found in, ``scores`` (n,) float64, ``areas`` (n,) float64 in pixels of the photograph."""

    rles: list[bytes]
    size: tuple[int, int]
    scores: np.ndarray
    areas: np.ndarray

    def __getitem__(self, keep: np.ndarray) -> ScoredMasks:
        """The masks chosen by a boolean array (n,)."""
        rles = [text for text, kept in zip(self.rles, keep, strict=True) if kept]
        return ScoredMasks(rles, self.size, self.scores[keep], self.areas[keep])


@dataclass
class Teacher:
    """Makes targets for the student, and remembers what its thresholds and its watch need.

    Attributes:
        rule: sohes: masks of queries, of which copies of better ones are dropped, as nothing else keeps queries from
            repeating each other (our choice); hassod: masks in boxes, of which copies have been dropped already.
        thresholds: which masks are kept.
        cover: of a mask under its parent; see ``COVER``.
        max_masks: most targets of an image; of more a random choice.
        min_area: smallest target in pixels of the student's view.
        watch: ends a run whose teacher has gone blind.

    Raises:
        InputError: another rule, or a number out of range.
    """

    rule: Rule
    thresholds: Thresholds
    cover: float
    max_masks: int
    min_area: int
    watch: CollapseMonitor

    def __post_init__(self) -> None:
        if self.rule not in COVER:
            raise InputError(f"expected a rule {', '.join(COVER)}; got {self.rule!r}")
        if not 0 < self.cover <= 1:
            raise InputError(f"expected a coverage in (0, 1]; got {self.cover}; {COVER[self.rule]} is usual")
        if self.max_masks < 1 or self.min_area < 1:
            raise InputError(f"expected max_masks and min_area of at least 1; got {self.max_masks}, {self.min_area}")

    def teach(
        self,
        model: nn.Module,
        views: ViewBatch,
        device: torch.device,
        *,
        autocast: Autocast = contextlib.nullcontext,
        reduce: Reduce | None = None,
    ) -> tuple[Batch, dict[str, float]]:
        """The student's batch with what the model finds in the teacher's views, on the CPU, and what to log.

        All that is remembered is what the whole step had, so every process of a run ends with the same thresholds as
        one that does it alone. Parents and levels follow from the masks, on all of the photograph.

        Args:
            model: the averaged one, a ``Model`` on ``device``; nothing of it changes, whatever mode it is in.
            views: this process's share of a step.
            autocast: as around the student's losses.
            reduce: sum of a tensor on ``device`` over all processes; None for a single one.

        Returns:
            The batch, and of the whole step: ``threshold_small``, ``threshold_medium``, ``threshold_large`` that were
            applied; ``kept_small``, ... masks per image; ``blind``, the share of images of which nothing is kept, or
            one mask of the whole picture.

        Raises:
            TrainingError: the teacher has gone blind, or its scores are not finite.
        """
        found = self._look(model, views, device, autocast)
        kept = [own[self.thresholds.keep(own.scores, own.areas)] for own in found]
        targets = [
            self._targets(own, strong.through(weak), views.strong.images.shape[-1], int(seed))
            for own, weak, strong, seed in zip(
                kept, views.weak_geometries, views.strong_geometries, views.strong.seeds, strict=True
            )
        ]
        sizes = [g.size for g in views.weak_geometries]
        report = self._remember(found, kept, sizes, reduce or _alone, device)
        return replace(views.strong, targets=targets), report

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {"thresholds": self.thresholds.state_dict(), "watch": self.watch.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            FormatError, KeyError: something else.
        """
        self.thresholds.load_state_dict(state["thresholds"])
        self.watch.load_state_dict(state["watch"])

    def _look(self, model: nn.Module, views: ViewBatch, device: torch.device, autocast: Autocast) -> list[ScoredMasks]:
        result: list[ScoredMasks] = []
        weak = views.weak
        for start in range(0, len(weak.names), _AT_ONCE):
            own = slice(start, start + _AT_ONCE)
            images, contents = weak.images[own].to(device), views.contents[own]
            cues = None if weak.cues is None else weak.cues[own].to(device)
            with torch.no_grad(), evaluating(model), autocast():
                detected = model.detect(images, cues, contents)  # type: ignore[operator]
                for detections, geometry, name in zip(
                    detected, views.weak_geometries[own], weak.names[own], strict=True
                ):
                    result.append(self._outline(detections, geometry, name))
        return result

    def _outline(self, detections: ModelDetections, geometry: Geometry, name: str) -> ScoredMasks:
        """What may be kept of the detections of one image."""
        scores = detections.scores.float().cpu().double().numpy()
        if not np.isfinite(scores).all():
            raise TrainingError(
                f"expected finite scores from the teacher; got NaN or infinity in {name}: its weights are damaged; go "
                "back to an earlier run, or train with a lower rate or --precision float32 in a new folder"
            )
        size = geometry.window
        scores = scores[: int((scores >= self.thresholds.least).sum())].clip(0, 1)
        rles = encode_masks(detections, len(scores), size)
        areas = rle.areas(rles, size).astype(np.float64)
        keep = np.flatnonzero(areas)
        if self.rule == "sohes":
            keep = keep[mask_nms([rles[i] for i in keep], size, scores[keep], iou_threshold=COPY)]
        scale = geometry.size[0] * geometry.size[1] / (size[0] * size[1])
        return ScoredMasks([rles[i] for i in keep], size, scores[keep], areas[keep] * scale)

    def _targets(self, found: ScoredMasks, geometry: Geometry, crop: int, seed: int) -> Targets:
        """The masks as the student's view has them; ``geometry`` takes them there."""
        parents = hierarchy.parents_by_coverage(found.rles, found.size, min_coverage=self.cover)
        rng = np.random.default_rng(seed)
        keep = choose_masks(geometry.mask_areas(found.rles), self.min_area, self.max_masks, rng)
        masks = geometry.apply_masks(found[keep].rles)
        return Targets(
            torch.from_numpy(pad_masks(masks, crop)),
            torch.from_numpy(hierarchy.reparent(parents, keep).astype(np.int64)),
            torch.from_numpy(hierarchy.levels(parents)[keep].astype(np.int64)),
        )

    def _remember(
        self,
        found: Sequence[ScoredMasks],
        kept: Sequence[ScoredMasks],
        sizes: Sequence[tuple[int, int]],
        reduce: Reduce,
        device: torch.device,
    ) -> dict[str, float]:
        """Let the step count in thresholds and watch; what to log of it. One sum over the processes."""
        thresholds = self.thresholds
        seen = thresholds.count(*_joined(found))
        taken = thresholds.count(*_joined(kept)).sum(1)
        blind = sum(_is_blind(own, size) for own, size in zip(kept, sizes, strict=True))
        own = torch.cat([torch.tensor([len(found), blind]), taken, seen.flatten()])
        whole = reduce(own.float().to(device)).cpu().double()  # counts far below 2^24: exact, and every device has them
        images, blind_images = whole[:2].tolist()
        report = {f"threshold_{size}": value for size, value in zip(SIZES, thresholds.values, strict=True)}
        report |= {f"kept_{size}": count / images for size, count in zip(SIZES, whole[2:5].tolist(), strict=True)}
        thresholds.update(whole[5:].view_as(seen), images)
        self.watch.note(images, float(whole[2:5].sum()), blind_images)
        return report | {"blind": blind_images / images}


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, the model is in evaluation mode; afterwards each of its modules is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _is_blind(kept: ScoredMasks, size: tuple[int, int]) -> bool:
    return len(kept.rles) == 0 or (len(kept.rles) == 1 and bool(kept.areas[0] >= ALL * size[0] * size[1]))


def _joined(found: Sequence[ScoredMasks]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and areas of all masks."""
    return np.concatenate([own.scores for own in found]), np.concatenate([own.areas for own in found])


def _alone(values: Tensor) -> Tensor:
    return values
