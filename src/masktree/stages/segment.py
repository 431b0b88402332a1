"""Photographs to trees of masks and overlays.

The run can be stopped at any moment and resumed with the same command; its record is written last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from masktree.errors import InputError
from masktree.io.files import lock_folder
from masktree.io.photos import Photo, find_photos, find_unread, is_overlay
from masktree.jobs.record import RunRecord
from masktree.jobs.recorded_batch import BatchOutcome, run_recorded_batch
from masktree.predict import SegmenterConfig
from masktree.stages.segment_job import SegmentJob
from masktree.trees import file as treefile


def segment(
    inputs: Sequence[str | Path],
    output: Path,
    config: SegmenterConfig,
    *,
    granularity: float = 0.5,
    overlay: bool = True,
    workers: int = 0,
    overwrite: bool = False,
    show_progress: bool = False,
) -> BatchOutcome:
    """Write OUT/<relative path>.json, and .png with the overlay, for every photograph, and OUT/run.json.

    A photograph that fails is one entry of OUT/failures.json and does not end the run.

    Args:
        inputs: files, folders (recursive), globs.
        output: folder, made if missing. Existing results are kept unless ``overwrite``.
        config: of the segmenter.
        granularity: of the entities in the overlay, 0 (finest) to 1 (coarsest).
        overlay: whether to draw overlays.
        workers: processes; 0 chooses one per core, or one on an accelerator and for a few images.
        overwrite: whether to segment photographs again that have a result.
        show_progress: whether to show a progress bar on standard error.

    Raises:
        InputError: no such input, or the folder holds results of another configuration or other files.
        WeightsError: the backbone or model cannot be loaded.
    """
    if not 0.0 <= granularity <= 1.0:
        raise InputError(f"expected a granularity in [0, 1]; got {granularity}")
    photos, unlisted = find_photos(inputs)
    job = SegmentJob(config, output, granularity if overlay else None)
    job.load(show_progress=show_progress)
    workers = job.resolve_workers(workers, len(photos))
    with lock_folder(output):
        record = job.open_record(output, {"granularity": granularity}, overwrite)
        todo = photos if overwrite else job.unfinished(photos)
        _check_existing_files(job, todo, record, overwrite)
        outcome = run_recorded_batch(
            photos,
            todo,
            job,
            record,
            unlisted=unlisted,
            workers=workers,
            description="segment",
            show_progress=show_progress,
        )
    return replace(outcome, left_out=find_unread(inputs))


def _check_existing_files(job: SegmentJob, todo: Sequence[Photo], record: RunRecord, overwrite: bool) -> None:
    """Refuse to replace files that masktree did not write and, unless ``overwrite``, results of another configuration.

    Raises:
        InputError: there is such a file.
    """
    for photo in todo:
        tree_path, overlay_path = job.paths(photo)
        header = treefile.read_header(tree_path) if tree_path.exists() else None
        foreign_files = [tree_path] if tree_path.exists() and not treefile.is_tree_file(tree_path) else []
        if job.granularity is not None and overlay_path.exists() and not is_overlay(overlay_path):
            foreign_files.append(overlay_path)
        if foreign_files:
            raise InputError(
                f"expected no foreign files where results go; got {foreign_files[0]}; choose another output folder"
            )
        if header is not None and not overwrite and not record.is_resumed and header.get("run") != job.fingerprint:
            raise InputError(
                f"expected results of this configuration in {record.folder}; got others ({tree_path}) without their "
                "run.json; choose another output folder, or --overwrite"
            )
