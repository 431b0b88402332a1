"""A prompt: clicks, a box, an earlier mask, a granularity. The arguments of ``predict`` are validated here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from masktree.errors import InputError
from masktree.models.config import MAX_GRANULARITY, MIN_GRANULARITY

LOW_RES_SIZE = 256  # side of low-resolution masks (segment-anything's interface)
PADDING_LABEL = -1  # of clicks that are none (segment-anything's interface)
MAX_OUTSIDE = 1.0  # pixels by which a click may lie outside the image, as from rounding (our choice)
MIN_BOX_INSIDE = 0.5  # smallest fraction of a box that is inside the image (our choice)
MASK_LOGIT = 10.0  # logit inside a mask that no network made, negative outside (our choice: a probability of 1)


@dataclass(frozen=True, eq=False)
class Prompt:
    """A validated prompt on one image, made by ``Prompt.read``.

    Attributes:
        size: (height, width) of the image in pixels.
        points: (n, 2) float64 xy in pixels, inside the image; n may be 0.
        labels: (n,) int64: 1 inside the entity, 0 outside it.
        box: (4,) float64: left, top, right, bottom in pixels, or None.
        mask: (256, 256) float32 logits, or None. They cover a square with the image's longer side; the image is in its
            upper left corner.
        granularity: in [0.1, 1], or None.
    """

    size: tuple[int, int]
    points: np.ndarray
    labels: np.ndarray
    box: np.ndarray | None = None
    mask: np.ndarray | None = None
    granularity: float | None = None

    @classmethod
    def read(
        cls,
        size: tuple[int, int],
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        granularity: float | None = None,
    ) -> Prompt:
        """Validate the arguments of ``Predictor.predict``.

        Raises:
            InputError: no prompt, clicks or most of a box outside the image, wrong shapes or labels, one pixel clicked
                with both labels, only clicks outside the entity, a granularity out of range.
        """
        points, labels = _read_clicks(point_coords, point_labels, size)
        prompt = cls(
            size,
            points,
            labels,
            None if box is None else _read_box(box, size),
            None if mask_input is None else _read_mask(mask_input),
            None if granularity is None else _read_granularity(granularity),
        )
        if prompt.box is None and prompt.mask is None and not prompt.positive.any():
            got = f"{len(labels)} clicks outside it" if len(labels) else "none"
            raise InputError(f"expected a click inside the entity (label 1), a box or a mask; got {got}; add one")
        return prompt

    @property
    def positive(self) -> np.ndarray:
        """(n,) bool: whether a click is inside the entity."""
        return self.labels == 1

    @cached_property
    def pixels(self) -> np.ndarray:
        """(n, 2) int64 column and row of each click."""
        return self.points.astype(np.int64)

    @cached_property
    def inside(self) -> np.ndarray | None:
        """(H, W) bool: where ``mask`` is positive, upscaled bilinearly to the image; None without a mask."""
        if self.mask is None:
            return None
        height, width = self.size
        scale = LOW_RES_SIZE / max(self.size)
        logits = Image.fromarray(self.mask).resize(
            (width, height), Image.Resampling.BILINEAR, box=(0, 0, max(width * scale, 1), max(height * scale, 1))
        )
        return np.asarray(logits) > 0

    @cached_property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the pixels that the box overlaps."""
        assert self.box is not None
        left, top, right, bottom = self.box
        return slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))


def low_res_logits(masks: np.ndarray) -> np.ndarray:
    """(n, 256, 256) float32 logits of (n, H, W) bool masks, in the form of ``mask_input``: linear in the fraction of a
    cell that is inside, from -MASK_LOGIT to MASK_LOGIT; -MASK_LOGIT right of and below the image."""
    height, width = masks.shape[1:]
    rows, columns = (max(1, round(length * LOW_RES_SIZE / max(height, width))) for length in (height, width))
    result = np.full((len(masks), LOW_RES_SIZE, LOW_RES_SIZE), -MASK_LOGIT, np.float32)
    for logits, mask in zip(result, masks, strict=True):
        gray = Image.fromarray(mask.view(np.uint8) * np.uint8(255)).resize((columns, rows), Image.Resampling.BOX)
        logits[:rows, :columns] = np.asarray(gray).astype(np.float32) * (2 * MASK_LOGIT / 255) - MASK_LOGIT
    return result


def _read_clicks(
    coords: ArrayLike | None, labels: ArrayLike | None, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    if coords is None and labels is None:
        return np.zeros((0, 2)), np.zeros(0, np.int64)
    if coords is None or labels is None:
        given = "point_labels" if coords is None else "point_coords"
        raise InputError(f"expected point_coords and point_labels together; got only {given}; give both")
    points, numbers = _read_numbers(coords, "point_coords"), _read_numbers(labels, "point_labels")
    if points.ndim != 2 or points.shape[1] != 2 or numbers.shape != points.shape[:1]:
        raise InputError(
            f"expected clicks (N, 2) as x, y and labels (N,); got {points.shape} and {numbers.shape}; one click is "
            "[[x, y]] and [1]"
        )
    points, numbers = points[numbers != PADDING_LABEL], numbers[numbers != PADDING_LABEL]
    if not np.isin(numbers, (0, 1)).all():
        raise InputError(
            f"expected labels 1 (inside), 0 (outside) and -1 (padding); got {numbers.tolist()}; leave other clicks out"
        )
    height, width = size
    is_near = (points >= -MAX_OUTSIDE) & (points < np.array([width, height]) + MAX_OUTSIDE)
    if not is_near.all():
        x, y = points[~is_near.all(1)][0]
        raise InputError(
            f"expected clicks inside the image (0 <= x < {width}, 0 <= y < {height}); got ({x:g}, {y:g}); give x, y "
            "in pixels of the image that was set"
        )
    points = points.clip(0, np.nextafter([width, height], 0))
    pixels = points.astype(np.int64)
    both = {tuple(p) for p in pixels[numbers == 1].tolist()} & {tuple(p) for p in pixels[numbers == 0].tolist()}
    if both:
        raise InputError(f"expected each pixel clicked as inside or as outside; got {min(both)} as both; drop one")
    return points, numbers.astype(np.int64)


def _read_box(box: ArrayLike, size: tuple[int, int]) -> np.ndarray:
    corners = _read_numbers(box, "box")
    if corners.shape == (1, 4):  # segment-anything's examples give a box as box[None, :]
        corners = corners[0]
    if corners.shape != (4,):
        remedy = "; predict_torch takes several boxes" if corners.ndim == 2 and corners.shape[1] == 4 else ""
        raise InputError(f"expected one box (4,): left, top, right, bottom; got shape {corners.shape}{remedy}")
    height, width = size
    left, top, right, bottom = corners
    if not (left < right and top < bottom):
        raise InputError(f"expected a box left, top, right, bottom with an area; got {corners.tolist()}; order corners")
    clipped = corners.clip(0, [width, height, width, height])
    if np.prod(clipped[2:] - clipped[:2]) < MIN_BOX_INSIDE * np.prod(corners[2:] - corners[:2]):
        raise InputError(
            f"expected a box of which at least half is inside the image of {width} x {height} pixels; got "
            f"{corners.tolist()}; give it in pixels of the image that was set"
        )
    return clipped


def _read_mask(mask: ArrayLike) -> np.ndarray:
    logits = _read_numbers(mask, "mask_input")
    if logits.shape not in ((1, LOW_RES_SIZE, LOW_RES_SIZE), (LOW_RES_SIZE, LOW_RES_SIZE)):
        raise InputError(
            f"expected mask_input (1, {LOW_RES_SIZE}, {LOW_RES_SIZE}), logits that predict returned; got "
            f"{logits.shape}; give logits[best][None]"
        )
    return np.ascontiguousarray(logits.reshape(LOW_RES_SIZE, LOW_RES_SIZE), np.float32)


def _read_granularity(granularity: float) -> float:
    if (
        isinstance(granularity, bool)
        or not isinstance(granularity, Real)
        or not MIN_GRANULARITY <= granularity <= MAX_GRANULARITY
    ):
        raise InputError(
            f"expected a granularity from {MIN_GRANULARITY} (finest) to {MAX_GRANULARITY:g} (coarsest); got "
            f"{granularity!r}"
        )
    return float(granularity)


def _read_numbers(values: ArrayLike, name: str) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{array.dtype} values")
        array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected {name} as an array of numbers; got {error}") from error
    if not np.isfinite(array).all():
        raise InputError(f"expected finite {name}; got NaN or infinity; leave these out")
    return array
