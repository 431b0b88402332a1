"""Peak memory of one call, as the benchmarks print it (Linux)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path


def resident(field: str) -> float:
    """Resident memory of this process in MB: VmRSS now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peak_megabytes(work: Callable[[], object]) -> float:
    """Peak memory of one call above what was there before, its result included."""
    ctypes.CDLL(None).malloc_trim(0)  # gives back what earlier calls freed, which would hide this call's share
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before
