"""Seconds and peak memory of one call (Linux)."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Seconds(NamedTuple):
    """CPU seconds of this process, which other work on the machine does not prolong, and wall seconds."""

    cpu: float
    wall: float


def measure_seconds(work: Callable[[], object], repeats: int = 1) -> Seconds:
    """The least CPU and the least wall seconds of ``repeats`` calls."""
    cpu, wall = [], []
    for _ in range(repeats):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        work()
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - wall_start)
    return Seconds(min(cpu), min(wall))


def resident_megabytes(field: str) -> float:
    """Resident memory of this process: ``VmRSS`` now, ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peak_megabytes(work: Callable[[], object]) -> float:
    """Peak memory of one call, its result included, above what was resident before."""
    ctypes.CDLL(None).malloc_trim(0)  # memory that earlier calls freed would hide what this one needs
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident_megabytes("VmRSS")
    work()
    return resident_megabytes("VmHWM") - before


def growth_exponent(sizes: list[int], seconds: list[float]) -> float:
    """The exponent k of seconds ~ size^k, by least squares on the logarithms; NaN for a single size."""
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else float("nan")
