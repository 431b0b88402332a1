"""What was predicted in one image, in the form that the protocols compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from masktree.errors import InputError
from masktree.trees.masktree import MaskTree


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """Scored masks, or boxes, of one image.

    Attributes:
        size: (height, width) in pixels.
        rles: n compressed COCO run-length strings; None where only boxes were predicted.
        boxes: (n, 4) float64 XYWH in pixels.
        scores: (n,) float64, higher is better, finite, any range.

    Raises:
        InputError: shapes differ, or a score or a box is not finite.
    """

    size: tuple[int, int]
    rles: tuple[bytes, ...] | None
    boxes: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.scores)
        for name, shape in (("boxes", (n, 4)), ("scores", (n,))):
            array = np.array(getattr(self, name), np.float64)
            if array.shape != shape:
                raise InputError(f"expected {name} of shape {shape}; got {array.shape}")
            if not np.isfinite(array).all():
                wrong = int(np.flatnonzero(~np.isfinite(array).reshape(n, -1).all(1))[0])
                raise InputError(f"expected finite {name}; got {array[wrong]} in prediction {wrong}")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.rles is not None and len(self.rles) != n:
            raise InputError(f"expected as many masks as scores; got {len(self.rles)} and {n}")

    @classmethod
    def from_tree(cls, tree: MaskTree) -> ImageDetections:
        """The masks of a tree, all levels alike."""
        return cls(tree.size, tree.rles, tree.boxes, tree.scores.astype(np.float64))

    def __len__(self) -> int:
        return len(self.scores)


def box_intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(na, nb) areas that XYWH boxes (na, 4) and (nb, 4) share. (``torchvision.ops.box_iou`` takes corners and tensors;
    the rounding of its result differs.)"""
    low = np.maximum(a[:, None, :2], b[:, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[:, :2] + b[:, 2:])
    shared: np.ndarray = np.maximum(high - low, 0).prod(2)
    return shared


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(na, nb) IoU of XYWH boxes (na, 4) and (nb, 4); 0 where nothing is shared."""
    shared = box_intersections(a, b)
    union = a[:, None, 2:].prod(2) + b[:, 2:].prod(1) - shared
    iou: np.ndarray = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    return iou
