"""Fuzz targets: a reader on many mutated inputs either gives a result or raises masktree's own error, in bounded time
and memory.

``FUZZ_EXAMPLES`` is the number of inputs of each target. Without it the inputs are few and always the same; with it
they differ from run to run.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masktree.errors import MasktreeError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
_BOUNDED_EXAMPLES = 150
_MAX_SECONDS = 5.0  # of one input, on a busy machine
_MAX_GROWTH = 2**30  # bytes of the process at its peak, by all inputs of a target


@dataclass
class Outcomes:
    """What the inputs of a target came to."""

    inputs: int = 0
    results: int = 0
    own_errors: int = 0
    other_errors: int = 0
    seconds: float = 0.0
    slowest: float = 0.0


OUTCOMES: dict[str, Outcomes] = {}  # by target


def fuzz(target: str, inputs: st.SearchStrategy[Any], read: Callable[[Any], object], cost: int = 1) -> None:
    """Call ``read`` with each input; fails with the smallest input that ends otherwise than it should.

    Args:
        cost: of an input; a target gets that many times fewer inputs.
    """
    outcomes = OUTCOMES.setdefault(target, Outcomes())
    memory = _peak_memory()

    @settings(
        max_examples=(EXAMPLES or _BOUNDED_EXAMPLES) // cost,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def check(data: Any) -> None:
        outcomes.inputs += 1
        started = time.perf_counter()
        try:
            read(data)
            outcomes.results += 1
        except MasktreeError:
            outcomes.own_errors += 1
        except BaseException:
            outcomes.other_errors += 1
            raise
        seconds = time.perf_counter() - started
        outcomes.seconds += seconds
        outcomes.slowest = max(outcomes.slowest, seconds)
        assert seconds < _MAX_SECONDS
        assert _peak_memory() - memory < _MAX_GROWTH

    check()


def _peak_memory() -> int:
    """Bytes of this process at its peak."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
