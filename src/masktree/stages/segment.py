"""Photographs to trees of masks and pictures.

The run can be stopped at any moment and resumed with the same command; its record is written last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from masktree.edits import refuse_edited
from masktree.errors import InputError
from masktree.io.files import lock_folder
from masktree.io.photos import Photo, find_photos, find_unread
from masktree.io.read_options import DEFAULT_OPTIONS, ReadOptions
from masktree.io.stored import check_names, find_stored, is_stored
from masktree.jobs.batch import Engine, JobResult
from masktree.jobs.progress import notify
from masktree.jobs.quarantine import MAX_TRIES, Quarantine
from masktree.jobs.record import RunRecord
from masktree.jobs.recorded_batch import BatchOutcome, run_recorded_batch
from masktree.large.segment import makes_dendrogram
from masktree.predict import SegmenterConfig
from masktree.stages.large_job import LargePhotoJob, is_large
from masktree.stages.pictures import Pictures, redraw
from masktree.stages.read_notes import ReadNotes
from masktree.stages.segment_job import SegmentJob, resolve_batch_size
from masktree.trees import file as treefile

DEFAULT_PICTURES = Pictures()


def segment(
    inputs: Sequence[str | Path],
    output: Path,
    config: SegmenterConfig,
    *,
    pictures: Pictures = DEFAULT_PICTURES,
    read_options: ReadOptions = DEFAULT_OPTIONS,
    tile: int | None = None,
    workers: int = 0,
    batch_size: int = 0,
    engine: Engine | None = None,
    tries: int = MAX_TRIES,
    overwrite: bool = False,
    show_progress: bool = False,
) -> BatchOutcome:
    """Write OUT/<relative path>.json, and its pictures as .png, for every photograph, and OUT/run.json.

    A photograph that fails is one entry of OUT/failures.json and does not end the run. Finished trees are kept; where
    their pictures show something else they are drawn again.

    Args:
        inputs: files, folders (recursive), globs; tar and Parquet files, lists and addresses, see
            ``masktree.io.stored.find_stored``.
        output: folder, made if missing. Existing results are kept unless ``overwrite``.
        config: of the segmenter.
        read_options: which pages and channels of the photographs are read, and how.
        pictures: what is drawn: a picture of the masks, of a cut or none, and label maps of instances.
        tile: side of the tiles that photographs are segmented in, see ``masktree.large.segment``; None segments only
            those in tiles that are too large to be segmented whole. Dendrograms do not depend on the side.
        workers: processes; 0 chooses one per core, or one on an accelerator and for a few images.
        batch_size: photographs of one shape that go through the network of a model or a published backbone together,
            which changes nothing but rounding. 0 chooses 8 for a model on an accelerator, else 1. Photographs in tiles
            and those of an ``engine`` go one after the other.
        engine: runs the job on other machines, such as ``masktree.engine.ray_engine.RayEngine``; None takes processes
            of this one. Photographs in tiles are always segmented on this machine.
        tries: a photograph that has failed so often, over all runs into the folder, is not tried again; see
            ``masktree.jobs.quarantine``.
        overwrite: whether to segment photographs again that have a result.
        show_progress: whether to show a progress bar on standard error.

    Raises:
        InputError: no such input, the folder holds results of another configuration or other files, or a tree that
            would be segmented again has edits.
        WeightsError: the backbone or model cannot be loaded.
    """
    photos, unlisted = _find(inputs)
    job = SegmentJob(
        config,
        output,
        pictures,
        read_options=read_options,
        in_tiles=tile is not None if makes_dendrogram(config) else tile or False,
        batch_size=1 if engine is not None else resolve_batch_size(batch_size, config),
    )
    job.load(show_progress=show_progress)
    omitted: list[int] = []
    notes = ReadNotes()

    def collect(result: JobResult[Photo]) -> None:
        if result.error is None:
            omitted.append(result.value.omitted)
            notes.add(result.item.path.name, result.value.notes)
            record.notes = notes.record()

    with lock_folder(output):
        record = job.open_record(output, {}, overwrite)
        todo = photos if overwrite else job.unfinished(photos)
        names = {photo.name for photo in todo}
        finished = [job.files(photo) for photo in photos if photo.name not in names]
        outdated = [files for files in finished if not pictures.are_current(files)]
        _check_existing_files(job, todo, record, overwrite)
        pictures.refuse_foreign_files(outdated)
        refuse_edited(job.files(photo).tree for photo in todo)
        large = [photo for photo in todo if type(photo) is Photo and (tile is not None or is_large(photo.path))]
        large_names = {photo.name for photo in large}
        quarantine = Quarantine(output, tries, is_continued=record.is_resumed)
        processes = workers if engine is not None else job.resolve_workers(workers, len(photos))
        outcome = run_recorded_batch(
            [photo for photo in photos if photo.name not in large_names],
            [photo for photo in todo if photo.name not in large_names],
            job,
            record,
            unlisted=unlisted,
            workers=processes,
            spare=job.spare_processes(processes, todo),
            description="segment",
            show_progress=show_progress and len(large) < max(len(todo), 1),
            on_result=collect,
            quarantine=quarantine,
            engine=engine,
            on_accelerator=job.segmenter.device != "cpu",
            group_size=job.group_size,
        )
        if large:
            large_job = LargePhotoJob(job, tile, workers, show_progress=show_progress)
            outcome = _segment_large(large, large_job, record, outcome, collect, quarantine)
        failures = redraw(outdated, pictures, show_progress=show_progress)
    num_cut = sum(count > 0 for count in omitted)
    note = f"{num_cut} of {len(omitted)} images have more masks than were kept, the best by score; see --max-masks"
    return replace(
        outcome,
        redrawn=len(outdated) - len(failures),
        failures=outcome.failures + failures,
        left_out=find_unread([item for item in inputs if not is_stored(str(item))]),
        notes=outcome.notes + ((note,) if num_cut else ()) + notes.lines(),
    )


def _find(inputs: Sequence[str | Path]) -> tuple[list[Photo], list[dict[str, str]]]:
    """Photographs and failures of all inputs.

    Raises:
        InputError: as ``find_photos`` and ``find_stored``; or two photographs would write to one name.
    """
    files = [item for item in inputs if not is_stored(str(item))]
    photos, failures = find_photos(files) if files else ([], [])
    for item in (str(item) for item in inputs if is_stored(str(item))):
        _, found, unread = find_stored(item)
        photos, failures = photos + found, failures + unread
    check_names(photos)
    return photos, failures


def _segment_large(
    photos: Sequence[Photo],
    job: LargePhotoJob,
    record: RunRecord,
    before: BatchOutcome,
    collect: Callable[[JobResult[Photo]], None],
    quarantine: Quarantine,
) -> BatchOutcome:
    """Segment photographs in tiles, one after the other, as each takes all processes; the outcome of all so far."""

    def report(result: JobResult[Photo]) -> None:
        collect(result)
        told = () if result.error is not None else result.value.notes.values()  # at the end, once of each kind
        for text in (text for text in result.warnings if text not in told):
            notify(f"warning: {result.item.path}: {text}", show=job.show_progress)
        if result.error is not None:
            notify(f"failed: {result.item.path}: {result.error}", show=job.show_progress)

    record.status = "running"
    outcome = run_recorded_batch(
        photos,
        photos,
        job,
        record,
        unlisted=(),
        workers=1,
        description="segment",
        show_progress=False,
        on_result=report,
        quarantine=quarantine,
    )
    completed, notes = before.completed + outcome.completed, before.notes + outcome.notes
    return replace(outcome, completed=completed, skipped=before.skipped, notes=notes)


def _check_existing_files(job: SegmentJob, todo: Sequence[Photo], record: RunRecord, overwrite: bool) -> None:
    """Refuse to replace files that masktree did not write and, unless ``overwrite``, results of another configuration.

    Raises:
        InputError: there is such a file.
    """
    resumed = (record.folder / "run.json").exists()
    job.pictures.refuse_foreign_files([job.files(photo) for photo in todo])
    for photo in todo:
        path = job.files(photo).tree
        if not path.exists():
            continue
        if not treefile.is_tree_file(path):
            raise InputError(f"expected no foreign files where results go; got {path}; choose another output folder")
        header = treefile.read_header(path)
        if header is not None and not overwrite and not resumed and header.get("run") != job.fingerprint:
            raise InputError(
                f"expected results of this configuration in {record.folder}; got others ({path}) and no run.json; "
                "choose another output folder, or --overwrite"
            )
