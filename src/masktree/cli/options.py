"""What verbs say in the end, and what their arguments have in common."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]


def refuse(message: str, code: int = 2) -> int:
    """Say why nothing, or not all, was done; the exit code."""
    from masktree.jobs.progress import one_line

    print(f"masktree: {one_line(message)}", file=sys.stderr)
    return code


def report_outcome(outcome: object, output: Path) -> int:
    """Say what a ``pipeline.Outcome`` is; the exit code."""
    from masktree.stages.segment import Outcome

    assert isinstance(outcome, Outcome)
    kept = f", {outcome.kept} kept from before" if outcome.kept else ""
    failed = f", {len(outcome.failures)} failed (see {output / 'failures.json'})" if outcome.failures else ""
    print(f"{outcome.done} done{kept}{failed}; results in {output}", flush=True)
    return 1 if outcome.failures else 0
