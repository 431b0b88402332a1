"""One run at a time writes to a folder, and a folder that goes away ends its run."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from masktree.errors import InputError
from masktree.io.files import lock_folder
from masktree.jobs.record import RunRecord
from masktree.predict import SegmenterConfig
from masktree.stages.segment import segment

ENTRIES = 2500  # of each of four processes


def enter(folder: Path, barrier, result) -> None:
    """Take and release the lock; count the entries, and those at which another process was inside as well."""
    entries = together = 0
    barrier.wait()
    while entries < ENTRIES:
        try:
            with lock_folder(folder):
                entries += 1
                try:
                    os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    together += 1
                else:
                    os.unlink(folder / "inside")
        except InputError:
            pass
    result.put((entries, together))


def test_four_processes_are_never_inside_together(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, result = context.Barrier(4), context.Queue()
    processes = [context.Process(target=enter, args=(tmp_path / "out", barrier, result)) for _ in range(4)]
    for process in processes:
        process.start()
    counts = [result.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sum(entries for entries, _ in counts) == 4 * ENTRIES
    assert sum(together for _, together in counts) == 0


def test_a_second_lock_of_one_process_is_refused(tmp_path):
    with lock_folder(tmp_path), pytest.raises(InputError, match="no other run writes to"), lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path):  # it is free again
        pass


@pytest.mark.parametrize("moved", [False, True])
def test_a_folder_that_is_removed_ends_the_run_in_words(tmp_path, monkeypatch, moved):
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (20, 20), "red").save(photos / name)
    add = RunRecord.add

    def add_and_remove(self, result):
        add(self, result)
        if output.exists():
            output.rename(tmp_path / "moved") if moved else shutil.rmtree(output)

    monkeypatch.setattr(RunRecord, "add", add_and_remove)
    with pytest.raises(InputError, match="got it removed or moved; run the same command again"):
        segment([photos], output, SegmenterConfig(method="masktree", backbone="texture"), workers=1)
    monkeypatch.setattr(RunRecord, "add", add)
    assert segment([photos], output, SegmenterConfig(method="masktree", backbone="texture"), workers=1).failures == []
    assert len(list(output.glob("?.json"))) == 3
