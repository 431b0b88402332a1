"""Export stage: trees and label sets into the files of other tools."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from masktree.errors import InputError, MasktreeError
from masktree.export.formats import FORMATS, Format
from masktree.export.image import LabelledImage
from masktree.export.options import ExportOptions
from masktree.io.files import check_writable, is_relative_path, lock_folder, refuse_inputs
from masktree.jobs import batch
from masktree.jobs.progress import Progress, progress_bar
from masktree.jobs.quarantine import MAX_TRIES, Quarantine
from masktree.jobs.record import RECORD, RunRecord, read_run
from masktree.jobs.recorded_batch import BatchOutcome, run_recorded_batch
from masktree.stages.export_sources import SavedMasks, find_masks

_SINGLE_PROCESS_TREES = 32  # up to this many, worker processes cost more to start than they save (our choice)
_SA1B_NAME = re.compile(r"sa_(\d{1,9})")
# Keys of the record, which may differ from one run into a folder to the next
_WRITTEN = "written"  # fingerprint of the masks of each image by its name; null where its file is begun
_FILES = "files"  # of a format with several files for all images, below the folder


@dataclass(frozen=True)
class ExportJob:
    """Writes the file of one image."""

    to: str
    options: ExportOptions
    output: Path
    edits: bool = True

    def path(self, saved: SavedMasks) -> Path:
        """The file of an image."""
        return self.output / (saved.name + suffix_of(self.to, self.options))

    def __call__(self, saved: SavedMasks) -> str:
        return self.write(saved, self.path(saved))

    def write(self, saved: SavedMasks, path: Path) -> str:
        """Write the masks to ``path``; returns their fingerprint."""
        fingerprint = saved.fingerprint()  # before they are read: if they change in between, they are written again
        FORMATS[self.to].write(_selected(FORMATS[self.to], saved.load(), self.options), path, self.options)
        return fingerprint


def export(
    source: Path,
    output: Path,
    to: str,
    options: ExportOptions | None = None,
    *,
    images: Path | None = None,
    edits: bool = True,
    workers: int = 0,
    engine: batch.Engine | None = None,
    tries: int = MAX_TRIES,
    overwrite: bool = False,
    show_progress: bool = False,
) -> BatchOutcome:
    """Write the masks of a source in another format. Images whose masks are damaged fail, and the others go on.

    Args:
        source: folder of ``masktree segment``, tree file or label set.
        output: of formats with a file per image, the folder (for one tree file also the file); else the file or folder.
        to: a name of ``masktree.export.formats.FORMATS``.
        options: which masks are written.
        images: folder of the photographs; None takes them from where they were segmented.
        edits: whether corrections of people, in the file beside a tree, are applied.
        workers: processes, for formats with a file per image; 0 chooses.
        engine, tries: for formats with a file per image, as for ``masktree.stages.segment.segment``.
        overwrite: whether to replace earlier files.

    Raises:
        InputError: unknown format, no masks, or files where results go.
    """
    options = options or ExportOptions()
    if to not in FORMATS:
        raise InputError(f"expected a format of {', '.join(FORMATS)}; got {to!r}")
    check_options(to, options)
    refuse_inputs([output], [source] if images is None else [source, images])
    saved = find_masks(source, images, edits=edits)
    if FORMATS[to].is_numbered:
        saved = numbered(saved)
    job = ExportJob(to, options, output, edits=edits)
    scope = FORMATS[to].scope
    if engine is not None and (scope != "image" or source.is_file()):
        raise InputError(f"expected a format with a file per image, and several images, with an engine; got {to}")
    if scope == "image" and source.is_file() and output.name.endswith(suffix_of(to, options)):
        outcome = _export_one(job, saved[0], overwrite)
    elif scope == "image":
        outcome = _export_images(job, saved, workers, engine, tries, overwrite, show_progress)
    elif scope == "file":
        outcome = _export_file(job, saved, overwrite, show_progress)
    else:
        outcome = _export_folder(job, saved, overwrite, show_progress)
    return replace(outcome, notes=outcome.notes + _edit_notes(saved))


def _edit_notes(saved: Sequence[SavedMasks]) -> tuple[str, ...]:
    """What the user should know of edits: that they are in the files."""
    count = sum(masks.edits is not None for masks in saved)
    images = "1 image" if count == 1 else f"{count} images"
    return (f"edits of {images} applied; --no-edits for the machine's masks",) if count else ()


def suffix_of(to: str, options: ExportOptions) -> str:
    """The suffix of a format's files."""
    return FORMATS[to].suffix + (".gz" if options.compress else "")


def numbered(saved: Sequence[SavedMasks]) -> list[SavedMasks]:
    """Named as SA-1B's files: by the numbers of the photographs if all are called ``sa_1.jpg``, else by our own."""
    matches = [_SA1B_NAME.fullmatch(PurePosixPath(masks.name).name) for masks in saved]
    numbers = [int(match[1]) for match in matches if match is not None]
    if len(set(numbers)) < len(saved):
        numbers = [masks.number for masks in saved]
    return [replace(m, name=f"sa_{number}", number=number) for m, number in zip(saved, numbers, strict=True)]


def check_options(to: str, options: ExportOptions) -> None:
    """Raise InputError for options that a format does not have."""
    cuts = FORMATS[to].cuts
    most = 1 if cuts is None else cuts
    if len(options.granularities) > most:
        what = "granularity" if most == 1 else "granularities"
        raise InputError(f"expected up to {most} {what} with {to}; got {len(options.granularities)}; leave some out")
    if cuts is not None and (options.selects_masks or options.min_area or options.classes):
        raise InputError(f"{to} holds cuts, not masks; got options of masks; leave them out")
    chosen = {"flat": options.flat, "compress": options.compress, "image_prefix": bool(options.image_prefix)}
    for name, is_chosen in chosen.items():
        if is_chosen and name not in FORMATS[to].options:
            takers = [other for other, entry in FORMATS.items() if name in entry.options]
            option = name.replace("_", "-")
            raise InputError(f"expected --{option} with {' or '.join(takers)}; got it with {to}; leave it out")


def _selected(entry: Format, image: LabelledImage, options: ExportOptions) -> LabelledImage:
    return options.select(image) if entry.cuts is None else image


def _export_one(job: ExportJob, saved: SavedMasks, overwrite: bool) -> BatchOutcome:
    _check_new(job.output, overwrite)
    job.write(saved, job.output)
    return BatchOutcome(1, 0, [])


def _export_images(
    job: ExportJob,
    saved: Sequence[SavedMasks],
    workers: int,
    engine: batch.Engine | None,
    tries: int,
    overwrite: bool,
    show_progress: bool,
) -> BatchOutcome:
    """A file per image, with run.json beside them; files of unchanged masks are kept."""
    with lock_folder(job.output):
        written = _written(job.output)
        record = _open_record(job, overwrite)
        paths = {masks: job.path(masks) for masks in saved}
        kept = set() if overwrite else {m for m, p in paths.items() if p.exists() and _is_current(m, written)}
        todo = [masks for masks in saved if masks not in kept]
        for masks in todo:
            if paths[masks].exists() and masks.name not in written:
                raise InputError(
                    f"expected no foreign files where results go; got {paths[masks]}; choose another output folder"
                )
        # Files that are begun now are known as ours even if this run is killed.
        record.config[_WRITTEN] = written | {masks.name: None for masks in todo}

        if engine is None:
            workers = batch.resolve_workers(workers, single=len(todo) <= _SINGLE_PROCESS_TREES)

        def note(result: batch.JobResult[Any]) -> None:
            if result.error is None:
                record.config[_WRITTEN][result.item.name] = result.value

        return run_recorded_batch(
            saved,
            todo,
            job,
            record,
            unlisted=[],
            workers=workers,
            description="export",
            show_progress=show_progress,
            on_result=note,
            quarantine=Quarantine(job.output, tries, is_continued=record.is_resumed),
            engine=engine,
        )


def _open_record(job: ExportJob, overwrite: bool) -> RunRecord:
    config = {"stage": "export", "to": job.to, **job.options.record()} | ({} if job.edits else {"edits": False})
    return RunRecord.open(job.output, config, {}, overwrite=overwrite, ignored_keys=frozenset({_WRITTEN, _FILES}))


def _written(folder: Path) -> dict[str, str | None]:
    """Fingerprints by name of the files that earlier runs have written into a folder.

    Raises:
        InputError: run.json is that of another verb.
    """
    path = folder / RECORD
    config = read_run(path)["config"] if path.exists() else {"stage": "export"}
    written = config.get(_WRITTEN, {})
    if config.get("stage") != "export" or not isinstance(written, dict):
        raise InputError(f"expected the folder of an export; got results of another verb in {folder}; choose another")
    return written


def _earlier_files(folder: Path) -> set[str]:
    """Files of an earlier export into a folder, of a format with several files for all images."""
    path = folder / RECORD
    names = read_run(path)["config"].get(_FILES, []) if path.exists() else []
    return {name for name in names if is_relative_path(name)} if isinstance(names, list) else set()


def _is_current(masks: SavedMasks, written: dict[str, str | None]) -> bool:
    return written.get(masks.name) is not None and written[masks.name] == masks.fingerprint()


def _check_new(path: Path, overwrite: bool) -> None:
    check_writable(path)
    if path.exists() and not overwrite:
        raise InputError(f"expected the name of a new file; got {path}, which exists; add --overwrite to replace it")


@dataclass
class _Reading:
    """The images of a set, one after the other; those that cannot be read are failures.

    Attributes:
        failures: {"path", "error"} of each.
        completed: number of images that were passed on.
    """

    job: ExportJob
    saved: Sequence[SavedMasks]
    progress: Progress
    failures: list[dict[str, str]] = field(default_factory=list)
    completed: int = 0

    def __iter__(self) -> Iterator[Any]:
        for masks in self.saved:
            try:
                entry, options = FORMATS[self.job.to], self.job.options
                image = entry.prepare(_selected(entry, masks.load(), options), options)
            except (MasktreeError, OSError) as error:
                text = batch.describe_error(error)
                self.failures.append({"path": str(masks.path), "error": text})
                self.progress.fail(str(masks.path), text)
                continue
            yield image
            self.completed += 1
            self.progress.advance()


def _export_file(job: ExportJob, saved: Sequence[SavedMasks], overwrite: bool, show_progress: bool) -> BatchOutcome:
    """One file of all images, in one pass."""
    suffix = FORMATS[job.to].suffix
    if job.output.suffix != suffix or job.output.is_dir():
        raise InputError(f"expected the name of a file *{suffix} for {job.to}; got {job.output}; it holds all images")
    _check_new(job.output, overwrite)
    with progress_bar("export", len(saved), 0, show=show_progress) as progress:
        reading = _Reading(job, saved, progress)
        FORMATS[job.to].write(reading, job.output, job.options)
    return BatchOutcome(reading.completed, 0, reading.failures)


def _export_folder(job: ExportJob, saved: Sequence[SavedMasks], overwrite: bool, show_progress: bool) -> BatchOutcome:
    """A folder of several files, made beside the others and moved to their places at the end."""
    with lock_folder(job.output):
        written, earlier = _written(job.output), _earlier_files(job.output)
        record = _open_record(job, overwrite)
        if record.seconds and not overwrite:
            current = {masks.name: masks.fingerprint() for masks in saved}
            if all(written.get(name) == value for name, value in current.items()):
                return BatchOutcome(0, len(saved), [])
            raise InputError(f"expected the masks of the files in {job.output}; got others; add --overwrite")
        staging = job.output / ".export"
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        try:
            with progress_bar("export", len(saved), 0, show=show_progress) as progress:
                reading = _Reading(job, saved, progress)
                FORMATS[job.to].write(reading, staging, job.options)
            files = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
            for name in files:
                if (job.output / name).exists() and name not in earlier:
                    raise InputError(
                        f"expected no foreign files where results go; got {job.output / name}; choose another folder"
                    )
            failed = {failure["path"] for failure in reading.failures}
            done = {m.name: m.fingerprint() for m in saved if str(m.path) not in failed}
            record.config |= {_WRITTEN: done, _FILES: sorted(earlier | set(files))}
            record.failures += reading.failures
            record.write()
            for name in files:
                (job.output / name).parent.mkdir(parents=True, exist_ok=True)
                (staging / name).replace(job.output / name)
            for name in earlier - set(files):
                (job.output / name).unlink(missing_ok=True)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        record.add_finished(list(done))
        record.close("complete")
    return BatchOutcome(reading.completed, 0, reading.failures)
