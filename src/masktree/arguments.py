"""Checks of arguments at the entries of the public interface: what is not right raises an ``InputError``."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from masktree.errors import InputError


def check_number(value: Any, name: str, low: float, high: float) -> None:
    """A number from ``low`` to ``high``; NaN is none."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, (int, float, np.integer, np.floating)) or not low <= value <= high:
        raise InputError(f"expected {name} in [{low:g}, {high:g}]; got {_describe(value)}")


def check_index(value: Any, count: int) -> None:
    """A position in a list of ``count``; negative ones count from the end."""
    if not isinstance(value, Integral) or not -count <= int(value) < count:
        raise InputError(f"expected an index below {count}; got {_describe(value)}")


def check_path(value: Any) -> None:
    """A path, as text or as ``Path``."""
    if not isinstance(value, (str, Path)) or "\0" in str(value):
        raise InputError(f"expected a path; got {_describe(value)}")


def check_type(value: Any, expected: type, name: str) -> None:
    """An object of a class of this package or of NumPy."""
    if not isinstance(value, expected):
        raise InputError(f"expected {name} as {expected.__name__}; got {_describe(value)}")


def check_size(value: Any) -> None:
    """(height, width) in whole numbers."""
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(isinstance(side, Integral) for side in value):
        raise InputError(f"expected a size (height, width) in pixels; got {_describe(value)}")


def check_rles(value: Any) -> None:
    """A sequence of run-length strings."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not all(type(v) is bytes for v in value):
        raise InputError(f"expected a list of run-length strings (bytes); got {_describe(value)}")


def read_array(value: Any, name: str, dtype: type, length: int) -> np.ndarray:
    """A (length,) array of numbers."""
    try:
        array: np.ndarray = np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"expected {name} as {length} numbers; got {_describe(value)}") from error
    if array.shape != (length,):
        raise InputError(f"expected {name} of shape ({length},); got {array.shape}")
    return array


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    try:
        text = repr(value)
    except ValueError:  # integers of more than 4300 digits
        text = "..."
    return f"{text[:40]} ({type(value).__name__})"
