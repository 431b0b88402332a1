from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from masktree.io.files import lock_folder, write_atomically
from masktree.io.photos import Photo
from masktree.jobs.batch import JobResult, attempt
from masktree.jobs.record import RunRecord
from masktree.jobs.recorded_batch import run_recorded_batch

PHOTOS = [Photo(Path(f"{name}.jpg"), name) for name in "abc"]


class KilledEngine:
    """An engine one of whose processes is killed while it writes."""

    def __init__(self, folder: Path) -> None:
        self.partial = folder / f".{16 * 'a'}.{8 * '0'}.partial"

    def run(self, items, job, *, workers, tries, on_accelerator) -> Iterator[JobResult]:
        for item in items:
            self.partial.write_bytes(b"half")
            yield attempt(job, item)


@pytest.mark.parametrize("before", [True, False])
def test_no_temporary_files_of_killed_processes_stay(tmp_path, before):
    record, engine = RunRecord.open(tmp_path, {}, {}, overwrite=False), KilledEngine(tmp_path)
    foreign = tmp_path / ".mine.partial"
    foreign.touch()
    if before:  # the whole command was killed, in the run before this one
        engine.partial.touch()

    def job(photo: Photo) -> None:
        assert photo.name != "a" or not before or engine.partial.read_bytes() == b"half"
        write_atomically(tmp_path / photo.name, lambda handle: handle.write(b"whole"))

    with lock_folder(tmp_path):
        outcome = run_recorded_batch(
            PHOTOS, PHOTOS, job, record, unlisted=[], workers=2, description="", show_progress=False, engine=engine
        )
    assert (outcome.completed, outcome.failures) == (3, [])
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c", "run.json", ".lock", ".mine.partial"}
