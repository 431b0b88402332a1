"""Run one job over many photographs or other items: worker processes, isolation of failures, results as they come."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from masktree.errors import InputError, MasktreeError

Item = TypeVar("Item")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Result(Generic[Item]):
    """Outcome of one item: seconds taken, the reason if it failed, and what the job returned if it did not."""

    item: Item
    seconds: float
    error: str | None = None
    value: Any = None


def run(items: Sequence[Item], job: Callable[[Item], Any], *, workers: int) -> Iterator[Result[Item]]:
    """Call ``job`` on every item; yields results in order of completion.

    An exception fails its item only. With several workers each runs single-threaded in a process of its own,
    and a worker that dies (killed for memory, say) fails the item it was on; the rest goes on.

    Args:
        items: what to work on, photographs as a rule; picklable if ``workers`` > 1, as are the job and its values.
        job: called with one item.
        workers: number of processes; 1 works in this process with all its threads.
    """
    if workers == 1:
        for item in items:
            yield _attempt(job, item)
        return
    with single_threads():
        yield from _run_pool(list(items), job, workers)


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_workers(wanted: int, *, alone: bool) -> int:
    """Number of processes for a ``wanted`` one: 0 means one where that is enough (``alone``), else one per core.

    Raises:
        InputError: a negative one.
    """
    if wanted < 0:
        raise InputError(f"expected workers >= 0; got {wanted}")
    return wanted or (1 if alone else available_cores())


def reason(error: BaseException) -> str:
    """One line for a person: our own errors speak for themselves, others carry their type."""
    text = " ".join(str(error).split())
    if isinstance(error, MasktreeError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _run_pool(pending: list[Item], job: Callable[[Item], Any], workers: int) -> Iterator[Result[Item]]:
    pending.reverse()
    suspects: list[Item] = []  # in flight when a worker died: any of them may be to blame
    while pending or suspects:
        # Suspects run alone, one to a fresh process: only the guilty one dies again.
        alone = bool(suspects)
        queue = [suspects.pop()] if alone else pending
        flying: dict[Future[Result[Item]], Item] = {}
        pool = ProcessPoolExecutor(
            1 if alone else workers,
            multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(job,),
        )
        try:
            while queue or flying:
                while queue and len(flying) < 2 * workers:
                    flying[pool.submit(_attempt_own_job, queue[-1])] = queue[-1]  # may raise: then it stays queued
                    queue.pop()
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    del flying[future]
                    yield result
        except BrokenProcessPool:
            if alone and not flying:  # the process died before it took the item
                suspects += queue
            elif alone:
                yield Result(next(iter(flying.values())), 0.0, "the worker process died; most likely out of memory")
            else:
                suspects = list(flying.values())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _attempt(job: Callable[[Item], Any], item: Item) -> Result[Item]:
    start = time.perf_counter()
    try:
        value = job(item)
    except Exception as error:
        return Result(item, time.perf_counter() - start, reason(error))
    return Result(item, time.perf_counter() - start, value=value)


_own_job: Callable[[Any], Any] | None = None  # of a worker process: sent once, so that what it loads is loaded once


def _start_worker(job: Callable[[Any], Any]) -> None:
    global _own_job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _own_job = job


def _exit_with_parent() -> None:
    """A worker must not outlive a parent that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _attempt_own_job(item: Any) -> Result[Any]:
    assert _own_job is not None
    return _attempt(_own_job, item)


@contextlib.contextmanager
def single_threads() -> Iterator[None]:
    """Children inherit one thread each; numeric libraries read these variables when they are loaded."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
