"""What a user says about the entity that is meant: clicks, a box, a mask, a granularity. Checked once, here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from masktree.errors import InputError

SIDE = 256  # cells a side of a low-resolution mask (segment-anything's interface)
SURE = 10.0  # logit of a pixel that is in a mask which is not a network's (our choice: its probability rounds to 1)
FINEST, COARSEST = 0.1, 1.0  # granularities (UnSAMv2, arXiv 2511.13714)


@dataclass(frozen=True, eq=False)
class Prompt:
    """A checked prompt on an image of (height, width) ``size``. Made by ``Prompt.read``.

    Attributes:
        size: (height, width) of the image in pixels.
        points: (n, 2) float64 xy in pixels, inside the image; n may be 0.
        labels: (n,) int64: 1 inside the entity, 0 outside it.
        box: (4,) float64: left, top, right, bottom in pixels, or None.
        mask: (SIDE, SIDE) float32 logits over the square of the image's longer side, whose upper left is the image; or
            None.
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
        point_coords: Any = None,
        point_labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        granularity: float | None = None,
    ) -> Prompt:
        """From the arguments of ``Predictor.predict``.

        Raises:
            InputError: no prompt, clicks or a box outside the image, other shapes or labels, one pixel clicked as
                inside and as outside, negative clicks alone, a granularity out of range.
        """
        points, labels = _clicks(point_coords, point_labels, size)
        known = cls(
            size,
            points,
            labels,
            None if box is None else _box(box, size),
            None if mask_input is None else _mask(mask_input),
            _granularity(granularity),
        )
        if known.box is None and known.mask is None and not known.positive.any():
            got = f"{len(labels)} clicks outside it" if len(labels) else "none"
            raise InputError(f"expected a click inside the entity (label 1), a box or a mask; got {got}; add one")
        return known

    @property
    def positive(self) -> np.ndarray:
        """(n,) bool: which clicks are inside the entity."""
        return self.labels == 1

    @cached_property
    def pixels(self) -> np.ndarray:
        """(n, 2) int64 column and row of the pixel of each click."""
        return self.points.astype(np.int64)

    @cached_property
    def inside(self) -> np.ndarray | None:
        """(H, W) bool: where ``mask`` is positive, at the image's own size (bilinear)."""
        if self.mask is None:
            return None
        height, width = self.size
        cells = SIDE / max(self.size)
        seen = Image.fromarray(self.mask).resize(
            (width, height), Image.Resampling.BILINEAR, box=(0, 0, max(width * cells, 1), max(height * cells, 1))
        )
        return np.asarray(seen) > 0

    @cached_property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the pixels that the box touches."""
        assert self.box is not None
        left, top, right, bottom = self.box
        return slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))


def low_resolution(masks: np.ndarray) -> np.ndarray:
    """(n, SIDE, SIDE) float32 logits of (n, H, W) bool masks, as ``mask_input`` takes them: from -SURE to SURE in
    proportion to the share of a cell that is inside, -SURE right of and below the image."""
    height, width = masks.shape[1:]
    rows, columns = (max(1, round(side * SIDE / max(height, width))) for side in (height, width))
    result = np.full((len(masks), SIDE, SIDE), -SURE, np.float32)
    how = Image.Resampling.BOX
    for logits, mask in zip(result, masks, strict=True):
        share = np.asarray(Image.fromarray(mask.view(np.uint8) * np.uint8(255)).resize((columns, rows), how))
        logits[:rows, :columns] = share.astype(np.float32) * (2 * SURE / 255) - SURE
    return result


def _clicks(coords: Any, labels: Any, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    if coords is None and labels is None:
        return np.zeros((0, 2)), np.zeros(0, np.int64)
    if coords is None or labels is None:
        given = "point_labels" if coords is None else "point_coords"
        raise InputError(f"expected point_coords and point_labels together; got {given} alone; give both")
    points, marks = _numbers(coords, "point_coords"), _numbers(labels, "point_labels")
    if points.ndim != 2 or points.shape[1] != 2 or marks.shape != points.shape[:1]:
        raise InputError(
            f"expected clicks (N, 2) as x, y and labels (N,); got {points.shape} and {marks.shape}; one click is "
            "[[x, y]] and [1]"
        )
    if not np.isin(marks, (0, 1)).all():
        raise InputError(f"expected labels 1 (inside) and 0 (outside); got {marks.tolist()}; leave other clicks out")
    height, width = size
    here = (points >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height)  # NaN is nowhere
    if not here.all():
        x, y = points[~here][0]
        raise InputError(
            f"expected clicks inside the image (0 <= x < {width}, 0 <= y < {height}); got ({x:g}, {y:g}); give x, y "
            "in pixels of the image that was set"
        )
    pixels = points.astype(np.int64)
    both = {tuple(p) for p in pixels[marks == 1].tolist()} & {tuple(p) for p in pixels[marks == 0].tolist()}
    if both:
        raise InputError(f"expected each pixel clicked as inside or as outside; got {min(both)} as both; drop one")
    return points, marks.astype(np.int64)


def _box(box: Any, size: tuple[int, int]) -> np.ndarray:
    corners = _numbers(box, "box")
    if corners.shape == (1, 4):  # segment-anything's examples give a box as box[None, :]
        corners = corners[0]
    if corners.shape != (4,):
        raise InputError(f"expected one box (4,): left, top, right, bottom; got shape {corners.shape}")
    height, width = size
    left, top, right, bottom = corners
    if not (left < right and top < bottom):
        raise InputError(f"expected a box left, top, right, bottom with an area; got {corners.tolist()}; order corners")
    if not (left >= 0 and top >= 0 and right <= width and bottom <= height):
        raise InputError(
            f"expected a box inside the image of {width} x {height} pixels; got {corners.tolist()}; clip it first"
        )
    return corners


def _mask(mask: Any) -> np.ndarray:
    logits = _numbers(mask, "mask_input")
    if logits.shape not in ((1, SIDE, SIDE), (SIDE, SIDE)):
        raise InputError(
            f"expected mask_input (1, {SIDE}, {SIDE}), logits of an earlier answer; got {logits.shape}; "
            "give logits[best][None]"
        )
    return np.ascontiguousarray(logits.reshape(SIDE, SIDE), np.float32)


def _granularity(granularity: float | None) -> float | None:
    if granularity is None:
        return None
    if isinstance(granularity, (bool, str)) or not FINEST <= granularity <= COARSEST:
        raise InputError(f"expected a granularity from {FINEST} (finest) to {COARSEST:g}; got {granularity!r}")
    return float(granularity)


def _numbers(values: Any, name: str) -> np.ndarray:
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
