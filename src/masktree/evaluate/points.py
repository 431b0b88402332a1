"""Point prompts: how well one click segments the intended entity, and how many clicks it takes.

A click is placed at the pixel farthest from the boundary of its target; the image's edge is a boundary too. After the
first click on an entity (Semantic-SAM, Li et al. 2023, arXiv 2307.04767, section 4; UnSAM, Wang et al. 2024,
arXiv 2406.20081, section 4):
    max_iou: IoU of the returned mask with the highest predicted score.
    oracle_iou: best IoU of all returned masks.
Then clicks follow until the IoU is reached or 20 are spent (Xu et al. 2016, arXiv 1603.04042; RITM, Sofiiuk et al.
2021, arXiv 2102.06583): the next is placed at the centre of the largest connected error region, positive for a false
negative region, negative for a false positive one; a pixel is clicked once. The largest region is the one of largest
area, whereas RITM takes the one with the deepest centre.
    one_iou: IoU of the mask that this loop works with after its first click, "1-IoU" of that literature. It equals
        max_iou, or oracle_iou where the best returned mask is chosen.
    noc80, noc85, noc90: number of clicks until the IoU is reached, the maximum where it never is.
    nof80, nof85, nof90: share of the entities where it never is (number of failures).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from masktree.errors import InputError
from masktree.evaluate.case import EvaluationCase
from masktree.evaluate.click_points import farthest_point, next_click
from masktree.evaluate.ground_truth import GroundTruth, ImageGroundTruth
from masktree.evaluate.image_stats import ImageStats, Metrics
from masktree.evaluate.predictions import check_size
from masktree.evaluate.protocol import EvaluationProtocol, ScoringContext
from masktree.evaluate.result import EvaluationResult
from masktree.io.images import read_image
from masktree.jobs.progress import progress_bar
from masktree.prompt import Predictor
from masktree.prompt.candidates import NUM_MASKS
from masktree.trees import rle
from masktree.types import RGB, Mask

TARGET_IOUS = (80, 85, 90)  # per cent
MAX_CLICKS = 20
MaskChoice = Literal["score", "oracle"]


class PointPredictor(Protocol):
    """An interactive segmenter with the interface of segment-anything's ``SamPredictor``."""

    def set_image(self, image: Any) -> object: ...

    def predict(
        self, *, point_coords: np.ndarray, point_labels: np.ndarray, multimask_output: bool
    ) -> tuple[Any, Any, Any]:
        """Clicks (N, 2) float xy in pixels and (N,) labels, 1 in and 0 out: masks (C, H, W), scores (C,), anything."""
        ...


def score_image(
    predictor: PointPredictor,
    image: RGB | None,
    ground_truth: ImageGroundTruth,
    *,
    max_clicks: int = MAX_CLICKS,
    mask_choice: MaskChoice = "score",
) -> ImageStats:
    """Click on each entity of one image; crowds and empty masks are skipped.

    A prediction without any mask counts as the empty mask: IoU 0.

    Args:
        predictor: gets the image once, then clicks. It is asked for several masks at the first click, and always if
            the best mask is chosen.
        image: whatever the predictor takes; None for a ``masktree.Predictor`` of a tree.
        ground_truth: with masks.
        max_clicks: on one entity, at least 1; 20 is the standard.
        mask_choice: the returned mask that the loop works with: of the highest score, or of the best IoU ("oracle").

    Returns:
        ``n`` entities, ``clicks``: ``max_clicks``, and sums over the entities: ``max_iou``, ``oracle_iou``,
        ``one_iou``, ``noc80`` ... (clicks) and ``nof80`` ... (entities).

    Raises:
        InputError: ground truth without masks, an option out of range, or masks of another shape or with scores that
            are not finite.
    """
    if max_clicks < 1 or mask_choice not in get_args(MaskChoice):
        raise InputError(f"expected at least 1 click and masks by score or oracle; got {max_clicks}, {mask_choice!r}")
    rles = ground_truth.masks()
    areas = rle.areas(rles, ground_truth.size)
    names = ["max_iou", "oracle_iou", "one_iou", *(f"{what}{t}" for what in ("noc", "nof") for t in TARGET_IOUS)]
    stats: ImageStats = {"n": 0, "clicks": max_clicks, **dict.fromkeys(names, 0.0)}
    predictor.set_image(image)
    for index in np.flatnonzero(~ground_truth.crowd & (areas > 0)):
        target = rle.decode(rles[index], ground_truth.size)
        for name, value in _click_through(
            predictor, target, int(areas[index]), max_clicks, mask_choice, ground_truth.name
        ):
            stats[name] += value
        stats["n"] += 1
    return stats


def score_image_twice(predictor: PointPredictor, image: RGB | None, ground_truth: ImageGroundTruth) -> ImageStats:
    """Stats of :func:`score_image`, and clicks and failures with the best mask chosen as ``noc80_oracle`` ..."""
    oracle = score_image(predictor, image, ground_truth, mask_choice="oracle")
    renamed = {f"{name}_oracle": value for name, value in oracle.items() if name.startswith(("noc", "nof"))}
    return score_image(predictor, image, ground_truth) | renamed


def summarise(stats: Sequence[ImageStats]) -> Metrics:
    """Means over all entities of all images; None where there is none.

    Raises:
        InputError: no image, or images scored with different numbers of clicks.
    """
    if not stats or len({image["clicks"] for image in stats}) != 1:
        raise InputError("expected scores of at least one image, all with equally many clicks; got others")
    names = [name for name in stats[0] if name not in ("n", "clicks")]
    n = sum(image["n"] for image in stats)
    sums = np.array([[image[name] for name in names] for image in stats], float).sum(0)
    return {name: float(value) / n if n else None for name, value in zip(names, sums, strict=True)}


def evaluate_predictor(
    predictor: PointPredictor,
    ground_truth: GroundTruth,
    images: str | Path,
    *,
    name: str = "predictor",
    show_progress: bool = False,
) -> EvaluationResult:
    """Evaluate any object with segment-anything's ``set_image`` and ``predict``, in this process.

    Args:
        predictor: gets each image once, then clicks.
        ground_truth: from ``masktree.evaluate.datasets.read_ground_truth``.
        images: folder of the photographs.
        name: of the predictor, for the result.
        show_progress: a bar on standard error.

    Raises:
        InputError: a photograph is missing or of another size than its ground truth, or a prediction cannot be scored.
    """
    stats = []
    with progress_bar("evaluate points", len(ground_truth), 0, show=show_progress) as progress:
        for image in ground_truth.images:
            path = Path(images) / image.name
            if not path.is_file():
                raise InputError(f"expected the photograph of {image.name}; got no {path}")
            photo = read_image(path)
            check_size(path, photo.shape[:2], image.size)
            stats.append(score_image_twice(predictor, photo, image))
            progress.advance()
    names = [image.name for image in ground_truth.images]
    origin = {"predictions": name, "kind": "predictor"}
    return EvaluationResult.from_stats("points", ground_truth.dataset, {}, summarise(stats), names, stats, origin)


def _score_case(case: EvaluationCase, context: ScoringContext) -> ImageStats:
    tree = case.prediction.tree(case.size, nested=False)
    predictor = Predictor(tree, num_multimask_outputs=NUM_MASKS)
    return score_image_twice(predictor, None, case.annotated())


PROTOCOL = EvaluationProtocol(
    title="Point prompts",
    main_metric="max_iou",
    headline_metrics=("max_iou", "oracle_iou", "noc80", "noc85", "noc90"),
    score=_score_case,
    summarise=summarise,
)


def _click_through(
    predictor: PointPredictor, target: Mask, area: int, max_clicks: int, mask_choice: MaskChoice, image: str
) -> list[tuple[str, float]]:
    """What one entity adds to each sum."""
    points, labels = [farthest_point(target)], [1]
    out: list[tuple[str, float]] = []
    reached: dict[int, int] = {}
    for number in range(1, max_clicks + 1):
        multimask = number == 1 or mask_choice == "oracle"
        masks, scores = _predict(predictor, points, labels, multimask, target.shape, image)
        ious = np.array([_iou(mask, target, area) for mask in masks])
        top, best = (int(scores.argmax()), int(ious.argmax())) if len(masks) else (0, 0)
        chosen = best if mask_choice == "oracle" else top
        iou = float(ious[chosen]) if len(masks) else 0.0
        if number == 1:
            out = [("max_iou", float(ious[top])), ("oracle_iou", float(ious[best]))] if len(masks) else []
            out.append(("one_iou", iou))
        for t in TARGET_IOUS:
            if iou >= t / 100:
                reached.setdefault(t, number)
        if len(reached) == len(TARGET_IOUS) or number == max_clicks:
            break
        click = next_click(masks[chosen] if len(masks) else np.zeros_like(target), target, np.array(points))
        if click is None:
            break
        points.append(click[0])
        labels.append(click[1])
    out += [(f"noc{t}", float(reached.get(t, max_clicks))) for t in TARGET_IOUS]
    return out + [(f"nof{t}", float(t not in reached)) for t in TARGET_IOUS]


def _predict(
    predictor: PointPredictor,
    points: list[tuple[int, int]],
    labels: list[int],
    multimask: bool,
    shape: tuple[int, ...],
    image: str,
) -> tuple[np.ndarray, np.ndarray]:
    coords, point_labels = np.array(points, np.float64), np.array(labels, np.int64)
    masks, scores, _ = predictor.predict(point_coords=coords, point_labels=point_labels, multimask_output=multimask)
    masks, scores = np.asarray(masks), np.asarray(scores, np.float64)
    if masks.ndim != 3 or (len(masks) and masks.shape[1:] != shape) or scores.shape != masks.shape[:1]:
        raise InputError(
            f"{image}: expected masks (C, {shape[0]}, {shape[1]}) and scores (C,) from the predictor; got "
            f"{masks.shape} and {scores.shape}; was its image set, and are the masks of the image's size?"
        )
    if not np.isfinite(scores).all():
        raise InputError(f"{image}: expected finite scores from the predictor; got {scores.tolist()}")
    return masks.astype(np.bool_, copy=False), scores


def _iou(mask: np.ndarray, target: np.ndarray, area: int) -> float:
    shared = int(np.count_nonzero(mask & target))
    return shared / (area + int(np.count_nonzero(mask)) - shared)
