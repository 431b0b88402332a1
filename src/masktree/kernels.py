"""How the numeric kernels are compiled: one typed decorator around numba's ``njit``, which has no types of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(*, fastmath: bool = False, error_model: Literal["python", "numpy"] = "python") -> Callable[[F], F]:
    """Decorator that compiles a function on its first call, keeps the machine code on disk and releases the GIL.

    Where no folder for the machine code can be written, every process compiles anew, after one warning.

    Args:
        fastmath: allow reordering of floating-point operations; faster, with other rounding.
        error_model: what a division by zero gives: an exception, or infinity as in NumPy.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": error_model}

    def compile_kernel(function: F) -> F:
        try:
            compiled = numba.njit(cache=True, **options)(function)
        except RuntimeError as error:  # numba looks for the folder when the function is decorated
            if "no locator available" not in str(error):
                raise
            _warn_once()
            return cast(F, numba.njit(**options)(function))
        _ignore_errors(compiled._cache)
        return cast(F, compiled)

    return compile_kernel


def _ignore_errors(cache: Any) -> None:
    """Compile where the machine code can be neither read nor written: a removed folder, a full disk, damaged files, for
    which pickle raises anything. numba has no option for it and would fail the call."""
    load, save = cache.load_overload, cache.save_overload

    def load_if_possible(signature: object, context: object) -> Any:
        try:
            return load(signature, context)
        except Exception:
            return None

    def save_if_possible(signature: object, data: object) -> None:
        try:
            save(signature, data)
        except Exception:
            _warn_once()

    cache.load_overload, cache.save_overload = load_if_possible, save_if_possible


@lru_cache(maxsize=1)
def _warn_once() -> None:
    warnings.warn(
        "Compiled code cannot be kept on disk, so every process compiles for about a minute; set NUMBA_CACHE_DIR to a "
        "writable folder.",
        RuntimeWarning,
        stacklevel=2,
    )
