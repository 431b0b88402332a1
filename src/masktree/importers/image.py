"""What is imported: the masks of one image, as a file of another tool has them."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from masktree.errors import FormatError, MasktreeError, MasktreeWarning
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import MaskTree
from masktree.trees.polygons import fill_rings


@dataclass(frozen=True)
class ForeignMask:
    """A mask of a file.

    Attributes:
        rle: compressed run-length string.
        id: by which other masks name it as their parent; None if it has none.
        parent_id: of its parent; None for roots, and where the file has no hierarchy.
        name: of its class, or None.
        score: in [0, 1].
    """

    rle: bytes
    id: Hashable = None
    parent_id: Hashable = None
    name: str | None = None
    score: float = 1.0


class ForeignImage(NamedTuple):
    """An image of a file, whose masks are read when they are asked for.

    Attributes:
        file_name: POSIX path of the photograph as the file has it, or of the file where it names none.
        read: gives the (height, width) and the masks; called with the photograph's (height, width), None if that is
            missing. Raises FormatError.
        source: what messages name.
    """

    file_name: str
    read: Callable[[tuple[int, int] | None], tuple[tuple[int, int], list[ForeignMask]]]
    source: Path


def to_tree(size: tuple[int, int], masks: Sequence[ForeignMask]) -> tuple[MaskTree, tuple[str, ...] | None]:
    """The tree of the masks that have pixels, and their classes if any has one.

    Parents are those of the file; where it has none at all, by coverage
    (:func:`masktree.trees.hierarchy.parents_by_coverage`).

    Raises:
        FormatError: a parent that is not in the image, an id twice or of another kind, or a class that is no text.
    """
    for mask in masks:
        _check_labels(mask)
    areas = rle.areas([mask.rle for mask in masks], size)
    kept = np.flatnonzero(areas > 0).tolist()
    rles = [masks[index].rle for index in kept]
    if any(mask.parent_id is not None for mask in masks):
        parents = hierarchy.reparent(_parents(masks), areas > 0)
    else:
        parents = hierarchy.parents_by_coverage(rles, size)
    scores = np.array([masks[index].score for index in kept], np.float32)
    names = [masks[index].name for index in kept]
    classes = tuple(name or "" for name in names) if any(names) else None
    return MaskTree.from_rles(rles, size, parents, scores=scores), classes


def _check_labels(mask: ForeignMask) -> None:
    """Raise FormatError unless the ids can be looked up and the class is text."""
    for value in (mask.id, mask.parent_id):
        if isinstance(value, (list, dict)):
            raise FormatError(f"expected the id of a mask as a number or text; got {reprlib.repr(value)}")
    if mask.name is not None and not isinstance(mask.name, str):
        raise FormatError(f"expected the class of a mask as text; got {reprlib.repr(mask.name)}")


def _parents(masks: Sequence[ForeignMask]) -> np.ndarray:
    index_of: dict[Hashable, int] = {}
    for index, mask in enumerate(masks):
        if mask.id is not None and index_of.setdefault(mask.id, index) != index:
            raise FormatError(f"expected each id of a mask once; got {reprlib.repr(mask.id)} twice")
    parents = np.full(len(masks), -1, np.int32)
    for index, mask in enumerate(masks):
        if mask.parent_id is not None:
            if mask.parent_id not in index_of:
                raise FormatError(
                    f"expected the parent of a mask in its image; got {reprlib.repr(mask.parent_id)}, which is none"
                )
            parents[index] = index_of[mask.parent_id]
    return parents


@contextmanager
def foreign(what: str) -> Iterator[None]:
    """Whatever the values of a foreign file raise as a FormatError that says ``what`` they should be."""
    try:
        yield
    except MasktreeError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, OSError, SyntaxError) as error:
        # the last two are Pillow's, of damaged pictures
        text = reprlib.repr(f"{type(error).__name__}: {error}")
        raise FormatError(f"expected {what}; got other values ({text}); correct the file or get it again") from error


def warn_of_others(count: int, what: str) -> None:
    """Warn of ``count`` entries of a file that are no masks and are left out."""
    if count:
        warnings.warn(f"{count} {what} left out, which are no masks", MasktreeWarning, stacklevel=3)


def filled(rings: Sequence[Any], size: tuple[int, int]) -> bytes:
    """Run-length string of the pixels inside an odd number of rings, each a list of x and y.

    Raises:
        ValueError: not such a list, or numbers that are not finite.
    """
    arrays = [np.array(ring, np.float64).reshape(-1, 2) for ring in rings]
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("coordinates that are not finite")
    return rle.encode(fill_rings(arrays, size))


def placed(inside: np.ndarray, top: int, left: int, size: tuple[int, int]) -> bytes:
    """Run-length string of a crop of a mask at its place in the image."""
    return rle.encode_at(np.ascontiguousarray(inside, np.bool_), top, left, size)


def checked_size(height: Any, width: Any) -> tuple[int, int]:
    """(height, width) as a file states them; numbers may be text.

    Raises:
        ValueError: no size of an image.
    """
    size = int(height), int(width)
    if min(size) < 1 or size[0] * size[1] >= 2**31:
        raise ValueError(f"a size of {size[0]} x {size[1]}")
    return size


def checked_score(value: Any) -> float:
    """A score in [0, 1]; 1 where there is none."""
    if value is None or value == "":
        return 1.0
    score = float(value)
    if not 0 <= score <= 1:
        raise ValueError(f"a score of {score}")
    return score
