"""A batch of photographs with a record, a progress bar and failures that do not end the run."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masktree.errors import InputError
from masktree.io.files import check_locked, remove_partial_files
from masktree.io.photos import Photo
from masktree.jobs import batch
from masktree.jobs.progress import progress_bar
from masktree.jobs.quarantine import Quarantine
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
    spare: int = 0,
    description: str,
    show_progress: bool,
    on_result: Callable[[batch.JobResult[Photo]], None] | None = None,
    quarantine: Quarantine | None = None,
    engine: batch.Engine | None = None,
    on_accelerator: bool = False,
    group_size: int = 1,
) -> BatchOutcome:
    """Run ``job`` on every photograph that has no result yet and record the results.

    Args:
        photos: all photographs of the run.
        todo: those that have no result yet.
        job: called with a photograph; writes its result.
        record: written at the start, every few seconds and at the end; after an exception as "interrupted". Its folder
            is locked by ``lock_folder``.
        unlisted: failures to find photographs, from ``find_photos``.
        workers: number of processes; with an ``engine`` 0 lets it choose.
        spare: processes of this machine that read and write while the others compute, see ``masktree.jobs.batch.run``.
        description: label of the progress bar.
        show_progress: whether to show the bar, on standard error.
        on_result: called in this process with every result.
        quarantine: photographs in it are not tried again; None tries all.
        engine: runs the job elsewhere; None takes processes of this machine.
        on_accelerator: whether the job needs an accelerator.
        group_size: most photographs that the job does at once, see ``batch.run``; not with an ``engine``.

    Raises:
        InputError: the folder was removed meanwhile, or what the engine raises.
    """
    skipped = len(photos) - len(todo)
    names = {photo.name for photo in todo}
    record.add_finished([photo.name for photo in photos if photo.name not in names])
    record.failures += unlisted
    record.write()
    failed = 0
    held = quarantine.held(todo) if quarantine is not None else []
    held_names = {result.item.name for result in held}
    tried = [photo for photo in todo if photo.name not in held_names]
    if engine is None:
        results = batch.run(tried, job, workers=workers, spare=spare, group_size=group_size)
    else:
        remove_partial_files(record.folder)
        tries = 1 if quarantine is None else quarantine.max_tries
        results = engine.run(tried, job, workers=workers, tries=tries, on_accelerator=on_accelerator)
    try:
        with progress_bar(description, len(todo), skipped, show=show_progress) as progress:
            for failure in unlisted:
                progress.fail(failure["path"], failure["error"], counted=False)
            for result in itertools.chain(held, results):
                check_locked(record.folder)
                record.add(result)
                if quarantine is not None and result.tries:
                    quarantine.add(result)
                if on_result is not None:
                    on_result(result)
                for text in result.warnings:
                    progress.print(f"warning: {result.item.location}: {text}")
                if result.error is None:
                    progress.advance()
                else:
                    failed += 1
                    is_held = result.item.name in held_names
                    progress.fail(result.item.location, result.error + " (in quarantine)" * is_held)
    except BaseException:
        with contextlib.suppress(OSError, InputError):  # the first error, as of a full disk, is the one to report
            check_locked(record.folder)
            record.close("interrupted")
            if quarantine is not None:
                quarantine.write()
        raise
    if engine is not None:
        remove_partial_files(record.folder)  # of processes that were killed, whose successors have other names
    if quarantine is not None:
        quarantine.write()
    record.close("complete")
    return BatchOutcome(len(todo) - failed, skipped, record.failures, notes=_held_note(held, quarantine))


def _held_note(held: Sequence[object], quarantine: Quarantine | None) -> tuple[str, ...]:
    if not held or quarantine is None:
        return ()
    images = "1 image" if len(held) == 1 else f"{len(held)} images"
    return (f"{images} in quarantine, not tried again; see {quarantine.path}; --tries for more",)
