"""What is exported: the masks of one image, and what formats want to know beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from masktree import __version__
from masktree.errors import InputError
from masktree.trees import rle
from masktree.trees.masktree import LEVELS, MaskTree
from masktree.types import Mask

CLASS: Final = "entity"  # of masks without classes, where a format needs one
SOFTWARE: Final = f"masktree {__version__}"


@dataclass(frozen=True)
class LabelledImage:
    """The masks of one image.

    Attributes:
        name: POSIX path of its files below the output folder, without suffix.
        file_name: POSIX path of the photograph below its collection, as formats name the image.
        photo: where the photograph is; it may be missing.
        number: of the image in its collection, from 1.
        tree: n masks.
        classes: a name for each mask, None for those without a class; or None for all.
        extras: further values of each mask by key, n each, for the formats that take any keys; ``name`` and ``status``
            are those that people gave.
        page: of the photograph's file, from 0.
        class_list: the user's classes, whose order numbers them; masks may have others.
    """

    name: str
    file_name: str
    photo: Path
    number: int
    tree: MaskTree
    classes: tuple[str | None, ...] | None = None
    extras: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    class_list: tuple[str, ...] = ()
    page: int = 0

    def __post_init__(self) -> None:
        for what, values in (("classes", self.classes), *self.extras.items()):
            if values is not None and len(values) != len(self.tree):
                raise InputError(f"expected {what} for each of {len(self.tree)} masks; got {len(values)}")

    def class_names(self, default: str | None = None) -> tuple[str, ...]:
        """The class of each mask; of those without one ``default``, or the name of the level."""
        classes = self.classes or (None,) * len(self.tree)
        return tuple(name or default or LEVELS[level] for name, level in zip(classes, self.tree.levels, strict=True))

    def given_name(self, index: int) -> str | None:
        """The name that a mask was given, or None."""
        return self.extras["name"][index] if "name" in self.extras else None


class MaskCrop(NamedTuple):
    """A mask cut to its box: pixel (row, column) of ``inside`` is (top + row, left + column) of the image."""

    top: int
    left: int
    inside: Mask


def mask_crops(tree: MaskTree) -> Iterator[MaskCrop]:
    """The masks of a tree one after the other; of an empty mask a crop without pixels."""
    runs = rle.runs(tree.rles, tree.size)
    for mask, box in zip(rle.decode_runs(runs, tree.size), tree.boxes.astype(int), strict=True):
        left, top, width, height = box.tolist()
        yield MaskCrop(top, left, np.ascontiguousarray(mask[top : top + height, left : left + width]))
