"""How the numeric kernels are compiled: one typed decorator around numba's ``njit``, which has no types of its own."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])
DURATION = "15 to 30 seconds"  # that all kernels of a method take to compile on one core (measured)
_report: Callable[[], None] | None = None  # called at the first compilation


def kernel(*, fastmath: bool = False, error_model: Literal["python", "numpy"] = "python") -> Callable[[F], F]:
    """Decorator that compiles a function on its first call, keeps the machine code on disk and releases the GIL.

    Where no folder for the machine code can be written, every process compiles anew, after one warning of the first.

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
            found = load(signature, context)
        except Exception:
            found = None
        if found is None:
            report_compilation()
        return found

    def save_if_possible(signature: object, data: object) -> None:
        try:
            save(signature, data)
        except Exception:
            _warn_once()

    cache.load_overload, cache.save_overload = load_if_possible, save_if_possible


@lru_cache(maxsize=1)
def _warn_once() -> None:
    # A worker that is being started has this name already, and no parent process yet.
    if multiprocessing.current_process().name != "MainProcess":
        return
    warnings.warn(
        f"compiled kernels cannot be kept on disk, so every process compiles them anew, for {DURATION}; set "
        "NUMBA_CACHE_DIR to a folder that you may write to",
        RuntimeWarning,
        stacklevel=2,
    )


def report_compilation() -> None:
    """Call what waits for the first compilation, once in a process."""
    global _report
    if _report is not None:
        report, _report = _report, None
        report()


def call_at_compilation(report: Callable[[], None]) -> None:
    """Have ``report`` called when a kernel is about to be compiled, as it is not on disk."""
    global _report
    _report = report


@contextmanager
def compilation_reported(report: Callable[[], None]) -> Iterator[None]:
    """Have ``report`` called at the first compilation inside."""
    global _report
    _report = report
    try:
        yield
    finally:
        _report = None
