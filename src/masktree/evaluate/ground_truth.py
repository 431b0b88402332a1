"""What predictions are compared with: the class-agnostic ground truth of one data set, image by image.

Ground truth is for reporting only; nothing in this package fits weights or picks thresholds by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from masktree.errors import InputError, MasktreeError
from masktree.trees import hierarchy, rle


@dataclass(frozen=True, eq=False)
class ImageGroundTruth:
    """The annotated entities of one image, whatever their class. Arrays are read-only.

    Attributes:
        id: image id of the data set; COCO result files refer to it.
        name: path of the image below the data set's image folder, POSIX, with suffix; trees are found by it.
        size: (height, width) in pixels.
        rles: n compressed COCO run-length strings (column-major); None where an annotation has a box only.
        boxes: (n, 4) float64 XYWH in pixels.
        areas: (n,) float64 in pixels, as annotated: they decide what is small, medium and large.
        crowd: (n,) bool: regions of many entities, which are neither to be found nor held against who finds them.
        parents: (n,) int32 index of the parent, -1 for roots; all -1 where the data set has no hierarchy.
    """

    id: int
    name: str
    size: tuple[int, int]
    rles: tuple[bytes, ...] | None
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    parents: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.boxes)
        for name, dtype, shape in (
            ("boxes", np.float64, (n, 4)),
            ("areas", np.float64, (n,)),
            ("crowd", np.bool_, (n,)),
            ("parents", np.int32, (n,)),
        ):
            array = np.asarray(getattr(self, name), dtype)
            if array.shape != shape or (array.dtype == np.float64 and not np.isfinite(array).all()):
                raise InputError(f"{self.name}: expected finite {name} of shape {shape}; got {array.shape}")
            array = array.copy()
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.rles is not None and len(self.rles) != n:
            raise InputError(f"{self.name}: expected as many masks as boxes; got {len(self.rles)} and {n}")
        if n and (self.parents.min() < -1 or self.parents.max() >= n):
            raise InputError(f"{self.name}: expected parents in -1..{n - 1}; got others")
        try:
            hierarchy.depths(self.parents)  # raises on a cycle
        except MasktreeError as error:
            raise InputError(f"{self.name}: {error}") from error

    @classmethod
    def from_masks(
        cls,
        image_id: int,
        name: str,
        size: tuple[int, int],
        rles: Iterable[bytes],
        *,
        boxes: np.ndarray | None = None,
        areas: np.ndarray | None = None,
        crowd: np.ndarray | None = None,
        parents: np.ndarray | None = None,
    ) -> ImageGroundTruth:
        """From masks; boxes and areas are those of the masks, crowd is False and parents -1, unless given."""
        rles = tuple(rles)
        try:
            own_areas = rle.areas(rles, size)  # reads all run lengths, which checks them
        except MasktreeError as error:
            raise InputError(f"{name}: {error}") from error
        return cls(
            id=image_id,
            name=name,
            size=size,
            rles=rles,
            boxes=rle.boxes(rles, size) if boxes is None else boxes,
            areas=own_areas if areas is None else areas,
            crowd=np.zeros(len(rles), np.bool_) if crowd is None else crowd,
            parents=np.full(len(rles), -1, np.int32) if parents is None else parents,
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def masks(self) -> tuple[bytes, ...]:
        """The run-length strings; raises InputError where the data set has boxes only."""
        if self.rles is None:
            raise InputError(
                f"{self.name}: expected masks; got annotations with a box only; compare boxes with --iou-type boxes"
            )
        return self.rles


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The ground truth of a data set.

    Attributes:
        dataset: name of the data set, as in ``--dataset``.
        licence: its terms, in a line.
        images: the images in the data set's order; ids and names are unique.

    Raises:
        InputError: no image, an id or a name twice, or no annotation at all.
    """

    dataset: str
    licence: str
    images: tuple[ImageGroundTruth, ...]

    def __post_init__(self) -> None:
        if not self.images:
            raise InputError(f"{self.dataset}: expected at least one image; got none")
        for what in ("id", "name"):
            seen: set[int | str] = set()
            for image in self.images:
                value = getattr(image, what)
                if value in seen:
                    raise InputError(f"{self.dataset}: expected each image {what} once; got {value!r} twice")
                seen.add(value)
        if not any(len(image) for image in self.images):
            raise InputError(f"{self.dataset}: expected annotations; got {len(self.images)} images without any")

    def __len__(self) -> int:
        return len(self.images)


def hash_names(names: Iterable[str]) -> str:
    """SHA-256 of a list of image names, sorted, one per line."""
    return hashlib.sha256("\n".join(sorted(names)).encode("utf-8", "surrogateescape")).hexdigest()
