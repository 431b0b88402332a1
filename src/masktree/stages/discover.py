"""Photographs to a pseudo-label data set.

The run can be stopped at any moment and resumed with the same command; the manifest of the label set is written last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from masktree.errors import InputError
from masktree.io.files import lock_folder, read_json, write_json
from masktree.io.photos import Photo, find_photos, find_unread
from masktree.jobs.record import has_results
from masktree.jobs.recorded_batch import BatchOutcome, run_recorded_batch
from masktree.labels import LabelSetWriter
from masktree.labels.writer import pending_folder
from masktree.predict import SegmenterConfig
from masktree.stages.segment_job import SegmentJob
from masktree.stages.target_count import choose_options

_THRESHOLDS: dict[str, type] = {"request": dict, "options": dict}  # content of thresholds.json


def discover(
    folder: Path,
    output: Path,
    config: SegmenterConfig,
    *,
    labels_per_image: float | None = None,
    shard_size: int | None = None,
    workers: int = 0,
    overwrite: bool = False,
    show_progress: bool = False,
) -> BatchOutcome:
    """Make a pseudo-label data set (see ``masktree.labels``) of all photographs in a folder.

    Args:
        folder: photographs, searched recursively.
        output, config, workers, overwrite, show_progress: as for ``segment``.
        labels_per_image: choose the method's thresholds for about this many labels per image on average (SOHES,
            arXiv 2404.12386, appendix D), counted on a sample of the photographs, without any ground truth.
        shard_size: images per COCO file; default 1000, or that of the run that is resumed.

    Raises:
        InputError: as ``segment``; also if the collection has changed since the run that is resumed.
    """
    if not folder.is_dir():
        raise InputError(f"expected a folder of photographs; got {folder}")
    photos, unlisted = find_photos([folder])
    with lock_folder(output):
        # All checks come before an existing label set is touched.
        if labels_per_image is not None:
            config = _with_chosen_options(config, output / "thresholds.json", photos, labels_per_image, overwrite)
        job = SegmentJob(config, pending_folder(output), None, for_labels=True)
        workers = job.resolve_workers(workers, len(photos))
        record = job.open_record(output, {"labels_per_image": labels_per_image}, overwrite)
        writer = LabelSetWriter.open(output, folder, photos, shard_size=shard_size, overwrite=overwrite)
        todo = job.unfinished([photo for photo in photos if not writer.has(photo)])
        outcome = run_recorded_batch(
            photos,
            todo,
            job,
            record,
            unlisted=unlisted,
            workers=workers,
            description="discover",
            show_progress=show_progress,
            on_result=writer.add,
        )
        writer.close(record)
    return replace(outcome, left_out=find_unread([folder]))


def _with_chosen_options(
    config: SegmenterConfig, path: Path, photos: Sequence[Photo], labels_per_image: float, overwrite: bool
) -> SegmenterConfig:
    """The configuration with options for that many labels, stored so that a resumed run reuses them."""
    request = json.loads(json.dumps(config.record() | {"labels_per_image": labels_per_image}))
    if path.exists():
        read_json(path, _THRESHOLDS)  # raises if it is a file of something else
    stored = read_json(path, _THRESHOLDS) if path.exists() and not overwrite else None
    if stored is None or (stored["request"] != request and not has_results(path.parent)):
        stored = {"request": request, "options": choose_options(photos, config.load(), labels_per_image)}
        write_json(path, stored)
    if stored["request"] != request:
        changed = sorted(key for key in request if stored["request"].get(key) != request[key])
        raise InputError(
            f"expected the configuration that the thresholds in {path} were chosen for; {', '.join(changed)} changed; "
            "choose another output folder, or --overwrite"
        )
    return replace(config, options=stored["options"])
