"""Segmenting on demand, in worker processes that can be killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from masktree.discover.methods import METHODS, QUALITIES
from masktree.errors import InputError
from masktree.io.photos import Photo
from masktree.jobs import batch
from masktree.serve.answers import RefusalError
from masktree.serve.folder import Entry

if TYPE_CHECKING:
    from masktree.predict import SegmenterConfig

MAX_WAITING = 1000  # images in the queue (our choice)
STEPS = ("load", "read", "segment", "write")  # of a job: its progress is the share of those that are done
Status = Literal["queued", "running", "failed"]


@dataclass(frozen=True)
class Request:
    """What is asked of the segmenter."""

    method: str = "masktree"
    quality: str = "fast"
    detail: str = "auto"
    backbone: str = "embedded"

    def __post_init__(self) -> None:
        for name, value, choices in (("method", self.method, METHODS), ("quality", self.quality, QUALITIES)):
            if value not in choices:
                raise InputError(f"expected {name} as one of {', '.join(choices)}; got {value[:40]!r}")
        if self.detail != "auto":
            from masktree.discover.detail import parse_detail

            parse_detail(self.detail)
            if self.method != "masktree":
                raise InputError(f"expected detail with the method masktree; got it with {self.method}; leave it out")

    def config(self) -> SegmenterConfig:
        """The configuration of the segmenter."""
        from masktree.discover.detail import parse_detail
        from masktree.predict import SegmenterConfig

        options = {} if self.detail == "auto" else {"detail": parse_detail(self.detail)}
        quality: Any = self.quality
        return SegmenterConfig(self.backbone, self.method, quality=quality, options=options)


@dataclass
class Job:
    """The segmentation of one image."""

    entry: Entry
    request: Request
    status: Status = "queued"
    progress: float | None = None
    error: str | None = None
    is_cancelled: bool = False
    worker: _Worker | None = field(default=None, repr=False)


class Jobs:
    """A queue of images and the processes that work on it; safe for threads.

    Args:
        output: folder of the trees.
        workers: number of processes, started when they are first needed; each keeps its segmenter.
    """

    def __init__(self, output: Path, workers: int) -> None:
        self._output = output
        self._single_threaded = workers > 1
        self._jobs: dict[str, Job] = {}  # the latest of each image, until it is done
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._num_workers = workers
        self._threads: list[threading.Thread] = []

    def submit(self, entry: Entry, request: Request) -> Job:
        """Queue an image; one that is queued or running already stays as it is.

        Raises:
            RefusalError: too many wait.
        """
        with self._changed:
            job = self._jobs.get(entry.id)
            if job is not None and job.status != "failed":
                return job
            if len(self._waiting) >= MAX_WAITING:
                raise RefusalError(
                    429,
                    f"expected up to {MAX_WAITING} images in the queue; got one more; wait",
                    retry_after=10,
                )
            job = self._jobs[entry.id] = Job(entry, request)
            self._waiting.append(job)
            if len(self._threads) < self._num_workers:
                self._threads.append(threading.Thread(target=self._work, name="segment", daemon=True))
                self._threads[-1].start()
            self._changed.notify()
            return job

    def cancel(self, entry: Entry) -> None:
        """Take an image out of the queue, or kill the process that works on it.

        Raises:
            RefusalError: nothing is queued or running.
        """
        with self._changed:
            job = self._jobs.get(entry.id)
            if job is None or job.status == "failed":
                raise RefusalError(
                    404, f"expected an image that is queued or running; got {entry.label}; start it first"
                )
            del self._jobs[entry.id]
            job.is_cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
            elif job.worker is not None:
                job.worker.kill()

    def find(self, entry: Entry) -> Job | None:
        """The job of an image that is queued, running, or has failed last."""
        with self._changed:
            return self._jobs.get(entry.id)

    def close(self) -> None:
        """Kill all processes."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            for job in self._jobs.values():
                if job.worker is not None:
                    job.worker.kill()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=5)

    def _work(self) -> None:
        """The thread of one process: takes images from the queue until the server ends."""
        worker = _Worker(self._output, self._single_threaded)
        while (job := self._next(worker)) is not None:
            error: str | None = None
            try:
                for progress in worker.run(job.entry, job.request):
                    job.progress = progress
                    if job.is_cancelled:  # before the process was there
                        worker.kill()
            except EOFError:
                error = (
                    "expected the worker process to end well; got its death, most likely out of memory; scale it down"
                )
            except InputError as problem:
                error = str(problem)
            with self._changed:
                job.worker = None
                if error is not None:
                    job.status, job.error, job.progress = "failed", error, None
                elif not job.is_cancelled:
                    del self._jobs[job.entry.id]
        worker.kill()

    def _next(self, worker: _Worker) -> Job | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            job = self._waiting.popleft()
            job.status, job.progress, job.worker = "running", 0.0, worker
            return job


class _Worker:
    """A process that segments one image after the other; started on first use, and again after it was killed."""

    def __init__(self, output: Path, single_threaded: bool) -> None:
        self._output, self._single_threaded = output, single_threaded
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._is_killed = False
        self._lock = threading.Lock()

    def run(self, entry: Entry, request: Request) -> Iterator[float]:
        """Segment an image; yields its progress from 0 to 1.

        Raises:
            EOFError: the process has died.
            InputError: the image cannot be segmented.
        """
        pipe = self._start()
        try:
            pipe.send((Photo(entry.photo, entry.name), request))
            while True:
                kind, value = pipe.recv()
                if kind == "done":
                    return
                if kind == "failed":
                    raise InputError(value)
                yield value
        except (EOFError, OSError) as error:
            self.kill()  # it may look alive for a moment, and must not get the next image
            raise EOFError from error

    def kill(self) -> None:
        """End the process at once; what it has not written yet leaves no trace, as trees are written atomically."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._is_killed = True

    def _start(self) -> Connection:
        with self._lock:
            if self._process is not None:
                if self._process.is_alive() and not self._is_killed and self._pipe is not None:
                    return self._pipe
                self._process.join()
            context = multiprocessing.get_context("spawn")
            self._pipe, inner = context.Pipe()
            self._process = context.Process(target=_serve_worker, args=(inner, self._output), daemon=True)
            self._is_killed = False
            with batch.single_threaded_children() if self._single_threaded else contextlib.nullcontext():
                self._process.start()
            inner.close()
            return self._pipe


def _serve_worker(pipe: Connection, output: Path) -> None:
    """The worker process: a loop over images, until the server ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    batch.end_with_parent()
    jobs: dict[Request, Any] = {}
    while True:
        try:
            photo, request = pipe.recv()
        except EOFError:
            return
        try:
            _segment(photo, request, output, jobs, lambda step: pipe.send(("progress", STEPS.index(step) / len(STEPS))))
        except Exception as error:
            pipe.send(("failed", batch.describe_error(error)))
        else:
            pipe.send(("done", None))


def _segment(
    photo: Photo, request: Request, output: Path, jobs: dict[Request, Any], report: Callable[[str], None]
) -> None:
    from masktree.stages.pictures import Pictures
    from masktree.stages.segment_job import SegmentJob

    report("load")
    if request not in jobs:
        jobs.clear()  # one segmenter at a time
        jobs[request] = SegmentJob(request.config(), output, Pictures(overlay=None))
        jobs[request].identify()
    jobs[request](photo, report)
