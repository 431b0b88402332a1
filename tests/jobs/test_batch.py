from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from masktree.errors import ImageError
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
