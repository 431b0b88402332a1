"""How the numeric kernels are compiled: one typed decorator around numba's ``njit``, which has no types of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(*, fastmath: bool = False, error_model: Literal["python", "numpy"] = "python") -> Callable[[F], F]:
    """Decorator that compiles a function on its first call, keeps the machine code on disk and releases the GIL.

    Args:
        fastmath: allow reordering of floating-point operations; faster, with other rounding.
        error_model: what a division by zero gives: an exception, or infinity as in NumPy.
    """
    compiler = numba.njit(cache=True, nogil=True, fastmath=fastmath, error_model=error_model)
    return cast(Callable[[F], F], compiler)
