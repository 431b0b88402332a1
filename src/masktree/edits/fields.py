"""The values of an edit, checked: they come from a browser, a script or a file."""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Collection
from itertools import chain
from typing import Any

import numpy as np

from masktree.edits.state import EditState
from masktree.errors import InputError
from masktree.io.files import is_number, is_whole
from masktree.trees.run_sets import RunSet, decode_set, polygon_set

MAX_CLASSES = 100  # of a user's list
MAX_NAME = 200  # characters (our choice)
_MAX_POINTS = 10_000  # of a polygon or line: a lasso drawn by hand has hundreds (our choice)
_MAX_COORDINATE = 1e6  # in pixels, beyond the image too: the longest side that there can be (our choice)
_REFUSED = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, surrogates, ends of lines and paragraphs


def check_keys(edit: dict[str, Any], required: Collection[str], optional: Collection[str] = ()) -> None:
    """Exactly these keys beside ``op``."""
    keys = set(edit) - {"op"}
    if keys - set(required) - set(optional) or set(required) - keys:
        wanted = [*sorted(required), *(f"{key} (if wanted)" for key in sorted(optional))]
        raise InputError(
            f"expected {edit['op']} with {' and '.join(wanted) or 'nothing else'}; "
            f"got {reprlib.repr(sorted(keys))}; correct the keys"
        )


def read_id(value: Any, state: EditState) -> int:
    """The id of a present mask."""
    if not is_whole(value) or value not in state.masks:
        raise InputError(f"expected the id of a mask that is there; got {_short(value)}; see the list of masks")
    return value


def read_ids(value: Any, state: EditState, least: int = 1) -> list[int]:
    """Ids of different present masks."""
    if not isinstance(value, list) or not least <= len(value) <= len(state.masks):
        raise InputError(f"expected a list of {least} or more ids of masks that are there; got {_short(value)}")
    ids = [read_id(entry, state) for entry in value]
    if len(set(ids)) < len(ids):
        raise InputError(f"expected each id once; got {_short(value)}; leave out the second one")
    return ids


def read_points(value: Any, least: int) -> np.ndarray:
    """(k, 2) float64 points [x, y]; k is at least ``least``."""
    if not isinstance(value, list) or not least <= len(value) <= _MAX_POINTS:
        got = f"{len(value):,} points" if isinstance(value, list) else _short(value)
        raise InputError(f"expected {least} to {_MAX_POINTS:,} points [x, y]; got {got}; draw a simpler shape")
    if {*map(type, value)} == {list} and {*map(len, value)} == {2}:  # thousands of points, in a tenth of the time
        numbers = [*chain.from_iterable(value)]
        is_real = {*map(type, numbers)} <= {int, float}
        if is_real and all(-_MAX_COORDINATE <= number <= _MAX_COORDINATE for number in numbers):
            return np.array(numbers, np.float64).reshape(-1, 2)
    wrong = next(point for point in value if not _is_point(point))
    raise InputError(f"expected points [x, y] of numbers up to {_MAX_COORDINATE:,.0f} pixels; got {_short(wrong)}")


def read_polygon(value: Any, size: tuple[int, int]) -> RunSet:
    """The pixels of a polygon, of which there are some."""
    runs = polygon_set(read_points(value, 3), size)
    if len(runs.starts) == 0:
        raise InputError(
            "expected a polygon around the centre of a pixel of the image; got one around none; draw it larger"
        )
    return runs


def read_rle(value: Any, size: tuple[int, int]) -> RunSet:
    """The pixels of a COCO run-length record, of which there are some."""
    counts = value.get("counts") if isinstance(value, dict) else None
    if not isinstance(counts, str) or not counts.isascii() or value.get("size") != list(size):
        raise InputError(
            f"expected rle as size {list(size)} and compressed counts; got {_short(value)}; see MaskTree.record"
        )
    runs = decode_set(counts.encode("ascii"), size)
    if len(runs.starts) == 0:
        raise InputError("expected a mask with pixels; got an empty one; draw one, or delete a mask with delete")
    return runs


def read_score(value: Any) -> float:
    """A score in [0, 1]."""
    if not is_number(value, 0, 1):
        raise InputError(f"expected a score in [0, 1]; got {_short(value)}")
    return float(value)


def read_name(value: Any, what: str) -> str:
    """Text of one line."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or value != value.strip():
        got = f"{len(value):,} characters" if isinstance(value, str) and len(value) > MAX_NAME else _short(value)
        raise InputError(
            f"expected {what} of 1 to {MAX_NAME} characters without blanks at its ends; got {got}; choose another"
        )
    if any(unicodedata.category(character) in _REFUSED for character in value):
        raise InputError(f"expected {what} without control characters; got {_short(value)}; choose another")
    return value


def _is_point(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2
    return is_pair and all(is_number(number, -_MAX_COORDINATE, _MAX_COORDINATE) for number in value)


def _short(value: Any) -> str:
    """A few characters of a value; whole numbers may have too many digits for text."""
    try:
        return reprlib.repr(value)
    except ValueError:
        return "a number of thousands of digits"
