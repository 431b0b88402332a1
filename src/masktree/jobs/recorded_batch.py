"""A batch of photographs with a record, a progress bar and failures that do not end the run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from masktree.io.photos import Photo
from masktree.jobs import batch
from masktree.jobs.progress import progress_bar
from masktree.jobs.record import RunRecord


@dataclass(frozen=True)
class BatchOutcome:
    """What a stage did.

    Attributes:
        completed: photographs done in this run.
        skipped: photographs with a result from a previous run.
        failures: {"path", "error"} of each failure.
    """

    completed: int
    skipped: int
    failures: list[dict[str, str]]


def run_recorded_batch(
    photos: Sequence[Photo],
    job: Callable[[Photo], Any],
    record: RunRecord,
    *,
    skipped: int,
    unlisted: Sequence[dict[str, str]],
    workers: int,
    description: str,
    show_progress: bool,
    on_result: Callable[[batch.JobResult[Photo]], None] | None = None,
) -> BatchOutcome:
    """Run ``job`` on every photograph and record the results.

    Args:
        photos: photographs that have no result yet.
        job: called with a photograph; writes its result.
        record: written at the start, every few seconds and at the end; after an exception as "interrupted".
        skipped: number of photographs with a result from a previous run.
        unlisted: failures to find photographs, from ``find_photos``.
        workers: number of processes.
        description: label of the progress bar.
        show_progress: whether to show the bar, on standard error.
        on_result: called in this process with every result.
    """
    record.failures += unlisted
    record.write()
    failed = 0
    try:
        with progress_bar(description, len(photos), skipped, show=show_progress) as progress:
            for failure in unlisted:
                progress.fail(failure["path"], failure["error"], counted=False)
            for result in batch.run(photos, job, workers=workers):
                record.add(result)
                if on_result is not None:
                    on_result(result)
                if result.error is None:
                    progress.advance()
                else:
                    failed += 1
                    progress.fail(str(result.item.path), result.error)
    except BaseException:
        with contextlib.suppress(OSError):  # on a full disk the first error is the one to report
            record.close("interrupted")
        raise
    record.close("complete")
    return BatchOutcome(len(photos) - failed, skipped, record.failures)
