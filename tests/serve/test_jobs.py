"""Segmenting on demand: progress, failure, cancelling, dying processes, the queue."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from masktree.errors import InputError
from masktree.serve import jobs as jobs_module
from masktree.serve.answers import RefusalError
from masktree.serve.folder import Folder
from masktree.serve.jobs import Jobs, Request
from masktree.trees import file as treefile
from masktree.trees.masktree import MaskTree
from tests.serve.running import planted_site, running, write_photo

QUICK = Request(backbone="texture")  # starts without torch


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def folder(tmp_path) -> Folder:
    for name in ("a", "b", "c"):
        write_photo(tmp_path / "photos" / f"{name}.png", (48, 64), ord(name))
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    return Folder.open(tmp_path / "photos", tmp_path / "out")


@pytest.fixture
def jobs(folder) -> Iterator[Jobs]:
    started = Jobs(folder.output, 1)
    yield started
    started.close()


def test_images_are_segmented_one_after_the_other_by_one_process(folder, jobs):
    entries = {entry.name: entry for entry in folder.entries()}
    a, b, broken = entries["a"], entries["b"], entries["broken"]
    job = jobs.submit(a, QUICK)
    assert jobs.submit(a, QUICK) is job  # it is queued or running already
    jobs.submit(broken, QUICK)
    jobs.submit(b, QUICK)
    seen = set()

    def is_done() -> bool:
        for entry in (a, b, broken):
            found = jobs.find(entry)
            seen.add((entry.name, None if found is None else found.status, None if found is None else found.progress))
        return jobs.find(a) is None and jobs.find(b) is None

    wait_for(is_done)
    failed = jobs.find(broken)
    assert failed is not None
    assert (failed.status, failed.progress) == ("failed", None)
    assert "cannot read the image" in failed.error or "expected an image" in failed.error
    assert ("b", "queued", None) in seen
    assert ("a", "running", 0.0) in seen
    for entry in (a, b):
        assert len(MaskTree.load(entry.tree)) >= 1
        header = treefile.read_header(entry.tree)
        assert header["file_name"] == str(entry.photo)
        assert header["run"]
    assert folder.facts(a).masks == len(MaskTree.load(a.tree))
    assert jobs.submit(broken, QUICK).status in ("queued", "running")  # it may be tried again


def test_cancelling_takes_images_out_of_the_queue_and_kills_what_runs(folder, jobs):
    entries = {entry.name: entry for entry in folder.entries()}
    jobs.submit(entries["a"], QUICK)
    jobs.submit(entries["b"], QUICK)
    jobs.submit(entries["c"], QUICK)
    wait_for(lambda: jobs.find(entries["a"]).status == "running")
    jobs.cancel(entries["b"])
    jobs.cancel(entries["a"])
    assert jobs.find(entries["a"]) is None
    wait_for(lambda: jobs.find(entries["c"]) is None)  # by another process
    assert entries["c"].tree.is_file()
    assert not entries["a"].tree.exists()
    assert not entries["b"].tree.exists()
    with pytest.raises(RefusalError, match="expected an image that is queued or running"):
        jobs.cancel(entries["a"])


def test_an_image_whose_process_dies_fails_and_the_next_one_does_not(folder, jobs):
    entries = {entry.name: entry for entry in folder.entries()}
    job = jobs.submit(entries["a"], QUICK)
    jobs.submit(entries["b"], QUICK)
    wait_for(lambda: job.worker is not None and job.worker._process is not None and job.worker._process.pid)
    os.kill(job.worker._process.pid, signal.SIGKILL)
    wait_for(lambda: job.status == "failed")
    assert "out of memory" in job.error
    wait_for(lambda: jobs.find(entries["b"]) is None)
    assert entries["b"].tree.is_file()


def test_the_queue_is_bounded(folder, jobs, monkeypatch):
    monkeypatch.setattr(jobs_module, "MAX_WAITING", 1)
    monkeypatch.setattr(Jobs, "_work", lambda self: None)  # nothing is taken out
    entries = folder.entries()
    jobs.submit(entries[0], QUICK)
    with pytest.raises(RefusalError) as caught:
        jobs.submit(entries[1], QUICK)
    assert (caught.value.status, caught.value.retry_after) == (429, 10)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "sam"}, "expected method as one of masktree, "),
        ({"quality": "good"}, "expected quality as one of fast, best"),
        ({"detail": "7"}, "expected detail as auto, fine or a number"),
        ({"detail": "fine", "method": "hassod"}, "expected detail with the method masktree"),
    ],
)
def test_requests_that_make_no_sense_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        Request(**values)


def test_addresses_queue_and_cancel(tmp_path, monkeypatch):
    monkeypatch.setattr(Jobs, "_work", lambda self: None)  # nothing is taken out
    with running(planted_site(tmp_path)) as server:
        path = f"/api/images/{server.ids['bare']}"
        answer = server.post(f"{path}/segment", {"method": "masktree", "quality": "fast", "detail": "auto"})
        assert (answer.status, answer.json["status"]) == (202, "queued")
        listed = {image["name"]: image for image in server.get("/api/images").json["images"]}
        assert listed["bare.png"]["status"] == "queued"
        assert server.post(f"{path}/segment", {"method": "sam"}).status == 400
        assert server.post(f"{path}/segment", {"method": 7}).status == 400
        assert server.call("DELETE", f"{path}/segment").status == 200
        assert server.call("DELETE", f"{path}/segment").status == 404


def test_trees_with_edits_are_not_replaced_and_edits_wait_for_new_trees(tmp_path, monkeypatch):
    monkeypatch.setattr(Jobs, "_work", lambda self: None)  # nothing is taken out
    edit = {"version": 0, "edit": {"op": "accept", "ids": [0]}}
    with running(planted_site(tmp_path)) as server:
        planted, other = (f"/api/images/{server.ids[name]}" for name in ("planted", "sub/random"))
        assert server.post(f"{planted}/edits", edit).status == 200
        refused = server.post(f"{planted}/segment", {})
        assert (refused.status, "planted.edits.jsonl" in refused.error) == (409, True)
        assert server.post(f"{other}/segment", {}).status == 202
        assert server.post(f"{other}/edits", edit).status == 409
        assert server.call("DELETE", f"{other}/segment").status == 200
        assert server.post(f"{other}/edits", edit).status == 200
