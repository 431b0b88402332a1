"""Prompts by points: how well a click gives the entity that was meant, and how many clicks it takes.

A click stands at the pixel farthest from the boundary of what is to be clicked; the image's edge is a boundary too.
After the first click on an entity (Semantic-SAM, Li et al. 2023, arXiv 2307.04767, section 4; UnSAM, Wang et al. 2024,
arXiv 2406.20081, section 4):
    max_iou: IoU of the returned mask with the highest predicted score.
    oracle_iou: best IoU of all returned masks.
Then clicks follow until the IoU is reached or 20 are spent (Xu et al. 2016, arXiv 1603.04042; RITM, Sofiiuk et al.
2021, arXiv 2102.06583): the next stands at the centre of the largest connected region of errors, positive where the
entity is missing, negative where there is too much; a pixel is clicked once. Among regions the largest is meant by its
area; RITM takes the one with the deepest centre instead.
    one_iou: IoU of the mask that this loop works with after its first click, "1-IoU" of that literature. It is the
        same number as max_iou, or as oracle_iou with oracle granularity.
    noc80, noc85, noc90: clicks until the IoU is reached, the most allowed where it never is.
    nof80, nof85, nof90: share of the entities where it never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numba import njit
from scipy import ndimage

from masktree.errors import InputError
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.trees import rle
from masktree.types import RGB, Mask, checked

TARGETS = (80, 85, 90)  # per cent of IoU
CLICKS = 20
_EIGHT = np.ones((3, 3), np.int8)

Stats = dict[str, Any]
Granularity = Literal["oracle"] | None


class Predictor(Protocol):
    """What answers clicks: segment-anything's ``SamPredictor`` and whatever is called like it."""

    def set_image(self, image: Any) -> object: ...

    def predict(
        self, *, point_coords: np.ndarray, point_labels: np.ndarray, multimask_output: bool
    ) -> tuple[Any, Any, Any]:
        """Clicks (N, 2) float xy in pixels and (N,) labels, 1 in and 0 out: masks (C, H, W), scores (C,), anything."""
        ...


@checked
def farthest_point(mask: Mask) -> tuple[int, int]:
    """(x, y) of the pixel with the greatest Euclidean distance to the background, the first such row by row.

    What lies outside the image is background. O(H W), in 32-bit whole numbers: exact.

    Raises:
        InputError: an empty mask.
    """
    if not mask.any():
        raise InputError("expected a mask with a pixel; got an empty one; there is nothing to click on")
    return _centre(mask, np.zeros((0, 2), np.int64))


def score_image(
    predictor: Predictor,
    image: RGB | None,
    ground_truth: ImageGroundTruth,
    *,
    clicks: int = CLICKS,
    granularity: Granularity = None,
) -> Stats:
    """Click on each entity of one image; crowds and empty masks are passed over.

    An answer without any mask counts as the empty mask: IoU 0.

    Args:
        predictor: gets the image once, then clicks. It is asked for several masks at the first click, and with oracle
            granularity always.
        image: whatever the predictor wants; None for a ``masktree.Predictor`` of a tree.
        ground_truth: with masks.
        clicks: the most of one entity, at least 1; 20 is the field's.
        granularity: None: the loop works with the mask of the highest score; "oracle": with the best mask returned.

    Returns:
        ``n`` entities, ``clicks``, and sums over them: ``max_iou``, ``oracle_iou``, ``one_iou``, ``noc80`` ... (clicks)
        and ``nof80`` ... (entities).

    Raises:
        InputError: ground truth without masks, an option out of range, or an answer of another shape or with scores
        that are
            not finite.
    """
    if clicks < 1 or granularity not in (None, "oracle"):
        raise InputError(f"expected at least 1 click and granularity None or 'oracle'; got {clicks}, {granularity!r}")
    rles = ground_truth.masks()
    areas = rle.areas(rles, ground_truth.size)
    names = ["max_iou", "oracle_iou", "one_iou", *(f"{what}{t}" for what in ("noc", "nof") for t in TARGETS)]
    stats: Stats = {"n": 0, "clicks": clicks, **dict.fromkeys(names, 0.0)}
    predictor.set_image(image)
    for index in np.flatnonzero(~ground_truth.crowd & (areas > 0)):
        target = rle.decode(rles[index], ground_truth.size)
        for name, value in _click_through(predictor, target, int(areas[index]), clicks, granularity, ground_truth.name):
            stats[name] += value
        stats["n"] += 1
    return stats


def summarise(stats: Sequence[Stats]) -> dict[str, float | None]:
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


def _click_through(
    predictor: Predictor, target: np.ndarray, area: int, clicks: int, granularity: Granularity, image: str
) -> list[tuple[str, float]]:
    """What one entity adds to each sum."""
    points, labels = [_centre(target, np.zeros((0, 2), np.int64))], [1]
    out: list[tuple[str, float]] = []
    reached: dict[int, int] = {}
    for number in range(1, clicks + 1):
        several = number == 1 or granularity == "oracle"
        masks, scores = _answer(predictor, points, labels, several, target.shape, image)
        ious = np.array([_iou(mask, target, area) for mask in masks])
        top, best = (int(scores.argmax()), int(ious.argmax())) if len(masks) else (0, 0)
        chosen = best if granularity == "oracle" else top
        iou = float(ious[chosen]) if len(masks) else 0.0
        if number == 1:
            out = [("max_iou", float(ious[top])), ("oracle_iou", float(ious[best]))] if len(masks) else []
            out.append(("one_iou", iou))
        for t in TARGETS:
            if iou >= t / 100:
                reached.setdefault(t, number)
        if len(reached) == len(TARGETS) or number == clicks:
            break
        click = _next_click(masks[chosen] if len(masks) else np.zeros_like(target), target, np.array(points))
        if click is None:
            break
        points.append(click[0])
        labels.append(click[1])
    out += [(f"noc{t}", float(reached.get(t, clicks))) for t in TARGETS]
    return out + [(f"nof{t}", float(t not in reached)) for t in TARGETS]


def _answer(
    predictor: Predictor, points: list, labels: list, several: bool, shape: tuple[int, ...], image: str
) -> tuple[np.ndarray, np.ndarray]:
    coords, marks = np.array(points, np.float64), np.array(labels, np.int64)
    masks, scores, _ = predictor.predict(point_coords=coords, point_labels=marks, multimask_output=several)
    masks, scores = np.asarray(masks), np.asarray(scores, np.float64)
    if masks.ndim != 3 or (len(masks) and masks.shape[1:] != shape) or scores.shape != masks.shape[:1]:
        raise InputError(
            f"{image}: expected masks (C, {shape[0]}, {shape[1]}) and scores (C,) from the predictor; got "
            f"{masks.shape} and {scores.shape}; was its image set, and is the answer in the image's size?"
        )
    if not np.isfinite(scores).all():
        raise InputError(f"{image}: expected finite scores from the predictor; got {scores.tolist()}")
    return masks.astype(np.bool_, copy=False), scores


def _iou(mask: np.ndarray, target: np.ndarray, area: int) -> float:
    shared = int(np.count_nonzero(mask & target))
    return shared / (area + int(np.count_nonzero(mask)) - shared)


def _next_click(mask: np.ndarray, target: np.ndarray, clicked: np.ndarray) -> tuple[tuple[int, int], int] | None:
    """Centre of the largest error region with a pixel that is not clicked yet, and its label; None if there is none."""
    wrong = mask ^ target
    rows, columns = np.flatnonzero(wrong.any(1)), np.flatnonzero(wrong.any(0))
    if len(rows) == 0:
        return None
    top, left = int(rows[0]), int(columns[0])
    part = slice(top, rows[-1] + 1), slice(left, columns[-1] + 1)
    clicked = clicked - (left, top)
    y, x = clicked[((clicked >= 0) & (clicked < wrong[part].shape[::-1])).all(1)].T[::-1]
    regions = []
    for label, error in ((1, wrong[part] & target[part]), (0, wrong[part] & mask[part])):
        numbers, count = ndimage.label(error, _EIGHT)
        sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
        free = sizes - np.bincount(numbers[y, x], minlength=count + 1)[1:]
        if (free > 0).any():
            region = int(np.where(free > 0, sizes, 0).argmax())
            regions.append((int(sizes[region]), label, numbers, region + 1))
    if not regions:
        return None
    _, label, numbers, number = max(regions, key=lambda region: region[:2])  # of equal ones what is missing first
    x, y = _centre(numbers == number, clicked)
    return (left + x, top + y), label


def _centre(mask: np.ndarray, clicked: np.ndarray) -> tuple[int, int]:
    """(x, y) farthest from the background among the pixels that are not in ``clicked`` (n, 2) xy."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    squares = _squared_distances(np.ascontiguousarray(mask[top : rows[-1] + 1, left : columns[-1] + 1]))
    for x, y in clicked - (left, top):
        if 0 <= y < squares.shape[0] and 0 <= x < squares.shape[1]:
            squares[y, x] = 0
    y, x = np.unravel_index(int(squares.argmax()), squares.shape)
    return left + int(x), top + int(y)


@njit(cache=True, nogil=True)
def _squared_distances(mask):  # pragma: no cover
    """Squared Euclidean distance to the nearest background pixel, what is outside included: down and up the columns,
    then along each row the lower envelope of parabolas (Meijster et al. 2000, doi 10.1007/0-306-47025-X_36)."""
    height, width = mask.shape
    out = np.zeros((height, width), np.int64)
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                out[y, x] = 1 + (out[y - 1, x] if y else 0)
    for y in range(height - 1, -1, -1):
        for x in range(width):
            below = out[y + 1, x] if y + 1 < height else 0
            out[y, x] = min(out[y, x], below + 1)
    column = np.zeros(width + 2, np.int64)  # with one column of background on either side
    place = np.empty(width + 2, np.int64)
    start = np.empty(width + 2, np.int64)
    for y in range(height):
        column[1:-1] = out[y] ** 2
        last = 0
        place[0], start[0] = 0, 0
        for u in range(1, width + 2):
            while last >= 0:
                v, t = place[last], start[last]
                if (t - v) ** 2 + column[v] <= (t - u) ** 2 + column[u]:
                    break
                last -= 1
            if last < 0:
                last = 0
                place[0], start[0] = u, 0
                continue
            v = place[last]
            begin = 1 + (u * u - v * v + column[u] - column[v]) // (2 * (u - v))
            if begin < width + 2:
                last += 1
                place[last], start[last] = u, begin
        for x in range(width + 1, 0, -1):
            if x <= width:
                v = place[last]
                out[y, x - 1] = (x - v) ** 2 + column[v]
            if x == start[last]:
                last -= 1
    return out
