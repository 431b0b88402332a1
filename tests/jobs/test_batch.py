from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from masktree.errors import ImageError, MasktreeWarning
from masktree.io.photos import Photo
from masktree.jobs import batch


def photos(n: int) -> list[Photo]:
    return [Photo(Path(f"{i}.jpg"), str(i)) for i in range(n)]


class Job:
    """Touches a file per photo; fails or dies where told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, photo: Photo) -> None:
        if photo.name == "3":
            raise ImageError("expected pixels;\n got words")
        if photo.name == "4":
            raise ZeroDivisionError
        if photo.name == "5" and self.folder.name == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / photo.name).write_text(os.environ.get("OMP_NUM_THREADS", ""))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_one_result_and_the_rest_goes_on(tmp_path, workers):
    results = {r.item.name: r.error for r in batch.run(photos(8), Job(tmp_path), workers=workers)}
    assert results.pop("3") == "expected pixels; got words"
    assert results.pop("4") == "ZeroDivisionError"
    assert set(results.values()) == {None}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2", "5", "6", "7"]


def test_a_dead_worker_fails_only_its_own_photo(tmp_path):
    folder = tmp_path / "deadly"
    folder.mkdir()
    results = {r.item.name: r.error for r in batch.run(photos(8), Job(folder), workers=2)}
    assert len(results) == 8
    assert "worker process died" in results["5"]
    assert [name for name, error in results.items() if error is None] != []
    assert sorted(p.name for p in folder.iterdir()) == ["0", "1", "2", "6", "7"]


def test_workers_have_one_thread_each_and_the_environment_is_restored(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    list(batch.run(photos(2), Job(tmp_path), workers=2))
    assert (tmp_path / "0").read_text() == "1"
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_nothing_to_do(tmp_path):
    assert list(batch.run([], Job(tmp_path), workers=2)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_job_returns_comes_back_with_its_item(workers):
    values = {r.item: r.value for r in batch.run([-2, -1, 3], abs, workers=workers)}
    assert values == {-2: 2, -1: 1, 3: 3}


class Squares:
    """Squares numbers, several at once; fails at 3 and dies at 13, and warns of 5."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    def __call__(self, number: int) -> int:
        if number == 3:
            raise ValueError("three")
        if number == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 5:
            warnings.warn("five", MasktreeWarning, stacklevel=2)
        return number**2

    def do_together(self, numbers: Sequence[int]) -> list[int]:
        self.groups.append(list(numbers))
        return [self(number) for number in numbers]


def test_items_are_done_in_groups_and_failures_and_warnings_are_those_of_their_item():
    job = Squares()
    results = {r.item: r for r in batch.run(range(1, 11), job, workers=1, group_size=4)}
    assert job.groups == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert results.pop(3).error == "ValueError: three"
    assert {n: r.value for n, r in results.items()} == {n: n**2 for n in (1, 2, 4, 5, 6, 7, 8, 9, 10)}
    assert {n for n, r in results.items() if r.warnings} == {5}


def test_a_dead_worker_fails_only_one_item_of_its_group():
    results = {r.item: r for r in batch.run(list(range(10, 20)), Squares(), workers=2, group_size=3)}
    assert "worker process died" in (results.pop(13).error or "")
    assert {n: r.value for n, r in results.items()} == {n: n**2 for n in range(10, 20) if n != 13}


def test_no_worker_is_without_items_for_the_sake_of_groups():
    job = Squares()
    list(batch.run([1, 2], job, workers=1, group_size=8))
    assert job.groups == [[1, 2]]
    assert {r.value for r in batch.run([1, 2], PlainSquares(), workers=2, group_size=8)} == {1, 4}


class PlainSquares:
    """Cannot do several at once."""

    def __call__(self, number: int) -> int:
        return number**2


WITHOUT_GUARD = """
from masktree.jobs import batch
print(sorted(result.item for result in batch.run([1, 2, 3], abs, workers=2)))
"""


@pytest.mark.parametrize("from_input", [False, True])
def test_workers_that_cannot_start_are_explained(tmp_path, from_input):
    """Each worker process runs the main program first: it must be a file, and must not start workers itself."""
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_GUARD)
    command = [sys.executable] if from_input else [sys.executable, str(script)]
    text = WITHOUT_GUARD if from_input else ""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "[" not in done.stdout
    assert "InputError: expected worker processes to start; got none" in done.stderr.splitlines()[-1]


class MeetJob:
    """Waits until all processes are in the job, and counts those that compute."""

    def __init__(self, folder: Path, processes: int) -> None:
        self.folder, self.processes = folder, processes

    def __call__(self, number: int) -> int:
        (self.folder / f"in-{os.getpid()}").touch()
        self.wait_for("in-*", self.processes)
        with batch.computing():
            mine = self.folder / f"computing-{number}"
            mine.touch()
            most = 0
            for _ in range(20):
                most = max(most, len(list(self.folder.glob("computing-*"))))
                time.sleep(0.01)
            mine.unlink()
        return most

    def wait_for(self, pattern: str, count: int) -> None:
        deadline = time.monotonic() + 60
        while len(list(self.folder.glob(pattern))) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_spare_processes_read_while_others_compute(tmp_path):
    results = list(batch.run(range(9), MeetJob(tmp_path, 3), workers=2, spare=1))
    assert [result.error for result in results] == [None] * 9
    assert max(result.value for result in results) == 2
    with batch.computing():  # nothing to wait for in this process
        pass


def die_at_two(number: int) -> None:
    with batch.computing():
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_while_it_computes_stops_no_other():
    results = {result.item: result for result in batch.run(range(8), die_at_two, workers=2, spare=1)}
    assert sorted(results) == list(range(8))
    assert [number for number, result in results.items() if result.error] == [2]
