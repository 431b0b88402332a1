"""Photographs to a pseudo-label data set.

The run can be stopped at any moment and resumed with the same command; the manifest of the label set is written last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from masktree.coco.annotations import MAX_MASKS
from masktree.errors import InputError
from masktree.io.files import lock_folder, read_json, write_json
from masktree.io.packs import find_in_folder
from masktree.io.photos import Photo, find_in_folders, find_unread
from masktree.io.read_options import DEFAULT_OPTIONS, ReadOptions
from masktree.io.stored import check_names, find_stored, is_stored
from masktree.jobs.batch import Engine, JobResult
from masktree.jobs.quarantine import MAX_TRIES, Quarantine
from masktree.jobs.record import has_results
from masktree.jobs.recorded_batch import BatchOutcome, run_recorded_batch
from masktree.labels import LabelSetWriter
from masktree.labels.writer import pending_folder
from masktree.predict import SegmenterConfig
from masktree.stages.pictures import NO_PICTURES
from masktree.stages.read_notes import ReadNotes
from masktree.stages.segment_job import SegmentJob, resolve_batch_size
from masktree.stages.shards import THRESHOLDS, Shard, gather
from masktree.stages.target_count import choose_options

_THRESHOLD_KEYS: dict[str, type] = {"request": dict, "options": dict}  # content of thresholds.json


def discover(
    folders: str | Path | Sequence[str | Path],
    output: Path,
    config: SegmenterConfig,
    *,
    labels_per_image: int | None = None,
    average_labels: float | None = None,
    shard_size: int | None = None,
    shard: Shard | None = None,
    read_options: ReadOptions = DEFAULT_OPTIONS,
    workers: int = 0,
    batch_size: int = 0,
    engine: Engine | None = None,
    tries: int = MAX_TRIES,
    overwrite: bool = False,
    show_progress: bool = False,
) -> BatchOutcome:
    """Make a pseudo-label data set (see ``masktree.labels``) of all photographs in folders.

    Args:
        folders: photographs, searched recursively, in one or several folders; or a tar or Parquet file, a list or an
            address, see ``masktree.io.stored.find_stored``.
        output, config, read_options, workers, batch_size, engine, tries, overwrite, show_progress: as for ``segment``;
            the labels of the method masktree are nodes unless its option ``masks`` says otherwise: what is learned is
            the hierarchy.
        labels_per_image: keep at most this many masks of each image, those with the highest scores.
        average_labels: choose the method's thresholds for about this many labels per image on average (SOHES, arXiv
            2404.12386, appendix D), counted on a sample of the photographs, without any ground truth. One image may
            get many labels and another none. Not with ``labels_per_image``.
        shard_size: images per COCO file; default 1000, or that of the run that is resumed.
        shard: make this share of the COCO files alone, in OUT/parts; see ``masktree.stages.shards``. Without it, the
            files of all shards in OUT/parts are gathered first, and what is missing is made.

    Raises:
        InputError: as ``segment``; also if the collection has changed since the run that is resumed, or both numbers of
            labels are given.
    """
    if labels_per_image is not None and average_labels is not None:
        raise InputError(
            "expected --labels-per-image, which cuts each image, or --average-labels, which cuts the set; got both"
        )
    if labels_per_image is not None and not 1 <= labels_per_image <= MAX_MASKS:
        raise InputError(f"expected 1 to {MAX_MASKS} labels per image; got {labels_per_image}")
    if config.method == "masktree":
        config = replace(config, options={"masks": "nodes"} | config.options)
    sources = [folders] if isinstance(folders, (str, Path)) else list(folders)
    root, photos, unlisted = _find(sources)
    output = output if shard is None else shard.folder(output)
    with lock_folder(output):
        # All checks come before an existing label set is touched.
        if average_labels is not None:
            path = output / THRESHOLDS
            config = _with_chosen_options(config, path, photos, average_labels, read_options, overwrite, show_progress)
        job = SegmentJob(
            config,
            pending_folder(output),
            NO_PICTURES,
            for_labels=True,
            max_labels=labels_per_image,
            read_options=read_options,
            batch_size=1 if engine is not None else resolve_batch_size(batch_size, config),
        )
        job.load(show_progress=show_progress)
        record = job.open_record(output, {"average_labels": average_labels}, overwrite)
        workers = workers if engine is not None else job.resolve_workers(workers, len(photos))
        open_writer = partial(LabelSetWriter.open, output, root, photos, shard_size=shard_size)
        writer = open_writer(overwrite=overwrite)
        if shard is not None:
            photos = [photo for number in shard.files(len(writer.shards)) for photo in writer.members(number)]
        elif gather(output, record):
            writer = open_writer(overwrite=False)
        notes = ReadNotes()

        def collect(result: JobResult[Photo]) -> None:
            if result.error is None:
                notes.add(result.item.path.name, result.value.notes)
                record.notes = notes.record()
            writer.add(result)

        todo = job.unfinished([photo for photo in photos if not writer.has(photo)])
        with writer.in_background():
            outcome = run_recorded_batch(
                photos,
                todo,
                job,
                record,
                unlisted=unlisted,
                workers=workers,
                spare=job.spare_processes(workers, todo),
                description="discover",
                show_progress=show_progress,
                on_result=collect,
                quarantine=Quarantine(output, tries, is_continued=record.is_resumed),
                engine=engine,
                on_accelerator=job.segmenter.device != "cpu",
                group_size=job.group_size,
            )
        if shard is None:
            writer.close(record)
        else:
            writer.write_remaining(shard.files(len(writer.shards)))
    unread = [] if is_stored(str(sources[0])) else find_unread(sources)
    return replace(outcome, left_out=unread, notes=outcome.notes + notes.lines())


def _find(sources: Sequence[str | Path]) -> tuple[Path, list[Photo], list[dict[str, str]]]:
    """The folder that the photographs of the sources are below, the photographs, and failures."""
    if len(sources) != 1:
        return find_in_folders([Path(source) for source in sources])
    [source] = sources
    if is_stored(str(source)):
        root, photos, failures = find_stored(str(source))
        check_names(photos)
        outside = [photo for photo in photos if not photo.path.is_relative_to(root)]
        if outside:
            raise InputError(
                f"expected photographs below the folder of the list {source}; got {outside[0].location}; put the list "
                "into a folder above all of them"
            )
        return Path(root), photos, failures
    if not os.path.isdir(source):
        raise InputError(f"expected a folder of photographs; got {source}")
    return Path(source), *find_in_folder(Path(source))


def _with_chosen_options(
    config: SegmenterConfig,
    path: Path,
    photos: Sequence[Photo],
    average_labels: float,
    read_options: ReadOptions,
    overwrite: bool,
    show_progress: bool,
) -> SegmenterConfig:
    """The configuration with options for that many labels, stored so that a resumed run reuses them."""
    given = {"read": read_options.record()} if read_options != DEFAULT_OPTIONS else {}
    request = json.loads(json.dumps(config.record() | {"average_labels": average_labels} | given))
    if path.exists():
        read_json(path, _THRESHOLD_KEYS)  # raises if it is a file of something else
    stored = read_json(path, _THRESHOLD_KEYS) if path.exists() and not overwrite else None
    if stored is None or (stored["request"] != request and not has_results(path.parent)):
        chosen = choose_options(
            photos, config.load(), average_labels, read_options=read_options, show_progress=show_progress
        )
        options = config.options | {name: value for name, value in chosen.items() if not callable(value)}
        stored = {"request": request, "options": options}
        write_json(path, stored)
    if stored["request"] != request:
        keys = request.keys() | stored["request"].keys()
        changed = sorted(key for key in keys if stored["request"].get(key) != request.get(key))
        raise InputError(
            f"expected the configuration that the thresholds in {path} were chosen for; {', '.join(changed)} changed; "
            "choose another output folder, or --overwrite"
        )
    return replace(config, options=stored["options"])
