"""A batch of photographs with a record, a progress bar and failures that do not end the run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masktree.errors import InputError
from masktree.io.files import check_locked
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
        left_out: image files in the input folders whose formats are not read.
        redrawn: photographs with a result whose picture was drawn again.
        notes: what else the user should know, a line each.
    """

    completed: int
    skipped: int
    failures: list[dict[str, str]]
    left_out: list[Path] = field(default_factory=list)
    redrawn: int = 0
    notes: tuple[str, ...] = ()


def run_recorded_batch(
    photos: Sequence[Photo],
    todo: Sequence[Photo],
    job: Callable[[Any], Any],
    record: RunRecord,
    *,
    unlisted: Sequence[dict[str, str]],
    workers: int,
    description: str,
    show_progress: bool,
    on_result: Callable[[batch.JobResult[Photo]], None] | None = None,
) -> BatchOutcome:
    """Run ``job`` on every photograph that has no result yet and record the results.

    Args:
        photos: all photographs of the run.
        todo: those that have no result yet.
        job: called with a photograph; writes its result.
        record: written at the start, every few seconds and at the end; after an exception as "interrupted". Its folder
            is locked by ``lock_folder``.
        unlisted: failures to find photographs, from ``find_photos``.
        workers: number of processes.
        description: label of the progress bar.
        show_progress: whether to show the bar, on standard error.
        on_result: called in this process with every result.

    Raises:
        InputError: the folder was removed meanwhile.
    """
    skipped = len(photos) - len(todo)
    names = {photo.name for photo in todo}
    record.add_finished([photo.name for photo in photos if photo.name not in names])
    record.failures += unlisted
    record.write()
    failed = 0
    try:
        with progress_bar(description, len(todo), skipped, show=show_progress) as progress:
            for failure in unlisted:
                progress.fail(failure["path"], failure["error"], counted=False)
            for result in batch.run(todo, job, workers=workers):
                check_locked(record.folder)
                record.add(result)
                if on_result is not None:
                    on_result(result)
                for text in result.warnings:
                    progress.print(f"warning: {result.item.path}: {text}")
                if result.error is None:
                    progress.advance()
                else:
                    failed += 1
                    progress.fail(str(result.item.path), result.error)
    except BaseException:
        with contextlib.suppress(OSError, InputError):  # the first error, as of a full disk, is the one to report
            check_locked(record.folder)
            record.close("interrupted")
        raise
    record.close("complete")
    return BatchOutcome(len(todo) - failed, skipped, record.failures)
