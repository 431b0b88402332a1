"""The writer of label sets: shards in a thread beside the run."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masktree.coco.document import write_document
from masktree.io.photos import Photo
from masktree.jobs.batch import JobResult
from masktree.labels import LabelSetWriter, writer
from masktree.labels.writer import pending_folder
from tests.train.labelled import random_tree

SHARDS = ("00000.json", "00001.json", "00002.json")


def make_writer(folder: Path, count: int = 6, shard_size: int = 2) -> LabelSetWriter:
    """A writer whose trees are all there, but not counted yet."""
    photos = [Photo(folder / f"in/{number}.jpg", str(number)) for number in range(count)]
    for number, photo in enumerate(photos):
        tree = random_tree((60, 80), 30, np.random.default_rng(number))
        tree.save(pending_folder(folder / "out") / f"{photo.name}.json", image={"sha256": "0"})
    opened = LabelSetWriter(folder / "out", folder / "in", photos, shard_size)
    opened._missing = [{photo.name for photo in opened.members(shard)} for shard in opened.shards]
    return opened


def add_all(opened: LabelSetWriter) -> None:
    for photo in opened.photos:
        opened.add(JobResult(photo, 0.0))


def add_in_background(opened: LabelSetWriter, then: Callable[[], None] = lambda: None) -> None:
    with opened.in_background():
        add_all(opened)
        then()


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "out/annotations").glob("*.json")}


def test_nothing_waits_for_the_shards(tmp_path, monkeypatch):
    add_all(make_writer(tmp_path / "expected"))
    expected = shards(tmp_path / "expected")
    assert tuple(sorted(expected)) == SHARDS
    all_added = threading.Event()

    def wait_and_write(*arguments: Any) -> None:
        assert all_added.wait(60)
        write_document(*arguments)

    monkeypatch.setattr(writer, "write_document", wait_and_write)
    opened = make_writer(tmp_path)
    with opened.in_background():
        add_all(opened)
        assert shards(tmp_path) == {}
        all_added.set()
    assert shards(tmp_path) == expected
    assert not list((tmp_path / "out/pending").iterdir())


def test_a_shard_that_cannot_be_written_ends_the_run(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(writer, "write_document", fail)
    opened = make_writer(tmp_path)
    with pytest.raises(OSError, match="disk full"):
        add_in_background(opened)
    assert len(list((tmp_path / "out/pending").iterdir())) == 6


def test_after_an_exception_only_the_shard_that_is_begun_is_finished(tmp_path, monkeypatch):
    begun, stopped = threading.Event(), threading.Event()

    class Thread(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            stopped.set()
            super().shutdown(wait=wait)

    def wait_and_write(*arguments: Any) -> None:
        begun.set()
        assert stopped.wait(60)
        write_document(*arguments)

    def stop() -> None:
        assert begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "ThreadPoolExecutor", Thread)
    monkeypatch.setattr(writer, "write_document", wait_and_write)
    opened = make_writer(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        add_in_background(opened, stop)
    assert tuple(shards(tmp_path)) == SHARDS[:1]
    opened.write_remaining(opened.shards)
    assert tuple(sorted(shards(tmp_path))) == SHARDS


def test_the_annotations_of_a_shard_are_made_one_image_at_a_time(tmp_path):
    """Dicts of all annotations would take ten times the memory of the trees."""
    opened = make_writer(tmp_path, count=60, shard_size=60)
    tracemalloc.start()
    try:
        add_all(opened)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    written = len(shards(tmp_path)["00000.json"])
    assert peak < written
