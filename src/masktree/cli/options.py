"""What verbs say in the end, and what their arguments have in common."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from masktree.jobs.recorded_batch import BatchOutcome

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]


def refuse(message: str, code: int = 2) -> int:
    """Say why nothing, or not all, was done; the exit code."""
    from masktree.jobs.progress import one_line

    print(f"masktree: {one_line(message)}", file=sys.stderr)
    return code


def report_outcome(outcome: BatchOutcome, output: Path) -> int:
    """Print the counts of a ``BatchOutcome``; returns the exit code."""
    skipped = f", {outcome.skipped} skipped (done before)" if outcome.skipped else ""
    failed = f", {len(outcome.failures)} failed (see {output / 'failures.json'})" if outcome.failures else ""
    print(f"{outcome.completed} done{skipped}{failed}; results in {output}", flush=True)
    return 1 if outcome.failures else 0
