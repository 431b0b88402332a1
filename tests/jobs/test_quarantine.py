from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from masktree.errors import FormatError, ImageError
from masktree.io.photos import Photo
from masktree.jobs.batch import JobResult
from masktree.jobs.quarantine import Quarantine
from masktree.jobs.record import RunRecord
from masktree.jobs.recorded_batch import run_recorded_batch
from masktree.jobs.shard import run_shard


@pytest.fixture
def photos(tmp_path) -> list[Photo]:
    found = []
    for name in ("good", "poison"):
        (tmp_path / f"{name}.png").write_text(name)
        found.append(Photo(tmp_path / f"{name}.png", name))
    return found


class Job:
    """Fails at one photograph."""

    def __init__(self) -> None:
        self.called: Counter[str] = Counter()

    def __call__(self, photo: Photo) -> None:
        self.called[photo.name] += 1
        if photo.path.read_text() == "poison":
            raise ImageError("no pixels")


def run(photos: list[Photo], job: Callable[[Photo], None], folder: Path, max_tries: int = 2):
    folder.mkdir(exist_ok=True)
    (folder / ".lock").touch()
    record = RunRecord.open(folder, {}, {}, overwrite=False)
    return run_recorded_batch(
        photos,
        [photo for photo in photos if photo.name not in record.seconds],
        job,
        record,
        unlisted=[],
        workers=1,
        description="",
        show_progress=False,
        quarantine=Quarantine(folder, max_tries, is_continued=record.is_resumed),
    )


def test_a_photograph_that_fails_too_often_is_listed_and_not_tried_again(photos, tmp_path):
    job, folder = Job(), tmp_path / "out"
    for number in range(1, 5):
        outcome = run(photos, job, folder)
        assert outcome.failures == [{"path": str(photos[1].path), "error": "no pixels"}]
        [entry] = json.loads((folder / "quarantine.json").read_text())
        assert (entry["name"], entry["error"], entry["tries"]) == ("poison", "no pixels", min(number, 2))
        assert bool(outcome.notes) == (number > 2)
    assert job.called == {"good": 1, "poison": 2}
    run(photos, job, folder, max_tries=3)
    assert job.called["poison"] == 3


def test_a_photograph_leaves_the_quarantine_when_its_file_changes(photos, tmp_path):
    job, folder = Job(), tmp_path / "out"
    run(photos, job, folder)
    run(photos, job, folder)
    photos[1].path.write_text("mended")
    assert run(photos, job, folder).failures == []
    assert not (folder / "quarantine.json").exists()


def test_errors_of_the_file_system_are_not_counted(photos, tmp_path):
    def job(photo: Photo) -> None:
        raise OSError(28, "No space left on device")

    for _ in range(3):
        outcome = run(photos, job, tmp_path / "out")
        assert len(outcome.failures) == 2
        assert not outcome.notes
    assert not (tmp_path / "out/quarantine.json").exists()


def test_a_run_of_another_configuration_forgets_the_failures_of_earlier_ones(photos, tmp_path):
    quarantine = Quarantine(tmp_path, 1)
    quarantine.add(JobResult(photos[1], 0.0, "no pixels"))
    quarantine.write()
    assert len(Quarantine(tmp_path, 1).held(photos)) == 1
    assert Quarantine(tmp_path, 1, is_continued=False).held(photos) == []


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"name": "a"}]', "["])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "quarantine.json").write_text(content)
    with pytest.raises(FormatError, match=r"quarantine\.json: expected"):
        Quarantine(tmp_path)


def test_a_shard_gives_up_an_item_that_was_begun_too_often():
    begun = Counter({2: 3, 1: 2})

    def begin(item: int) -> int:
        begun[item] += 1
        return begun[item]

    results = list(run_shard([1, 2, 3], lambda item: 10 * item, begin=begin, tries=3))
    assert [result.value for result in results] == [10, None, 30]
    assert [replace(r, seconds=0.0) for r in results if r.error] == [
        JobResult(2, 0.0, "the worker process died 3 times; most likely out of memory", tries=3)
    ]
