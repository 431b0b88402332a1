"""Run a job over many items in worker processes; a failure or a crash affects its item only."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from masktree.errors import InputError, MasktreeError, MasktreeWarning

Item = TypeVar("Item")

_POLL_SECONDS = 0.5  # between looks at whether a worker compiles (our choice)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class JobResult(Generic[Item]):
    """Result of one item: seconds taken, the error message if it failed, and the return value if it did not; the texts
    of masktree's warnings; and how often it was tried, 0 where it failed for the file system or the network."""

    item: Item
    seconds: float
    error: str | None = None
    value: Any = None
    warnings: tuple[str, ...] = ()
    tries: int = 1


class Engine(Protocol):
    """Runs a job over many items somewhere else than in worker processes of this machine."""

    def run(
        self, items: Sequence[Item], job: Callable[[Item], Any], *, workers: int, tries: int, on_accelerator: bool
    ) -> Iterator[JobResult[Item]]:
        """Call ``job`` on every item; yields results in order of completion, as ``run`` does.

        Args:
            items, job: picklable, and their return values.
            workers: number of processes; 0 means as many as there are cores, or accelerators.
            tries: an item at which processes die is given up after so many.
            on_accelerator: whether processes need an accelerator: one each, or where there are more processes a share.
        """
        ...


@runtime_checkable
class GroupJob(Protocol):
    """A job that does several items at once in less time than one after the other."""

    def do_together(self, items: Sequence[Any]) -> Sequence[Any]:
        """The return value of each item."""
        ...


def run(
    items: Sequence[Item], job: Callable[[Item], Any], *, workers: int, spare: int = 0, group_size: int = 1
) -> Iterator[JobResult[Item]]:
    """Call ``job`` on every item; yields results in order of completion.

    An exception fails its item only. With several workers each is a single-threaded process; if one dies (killed for
    memory, for instance), only the item it worked on fails.

    Args:
        items: what to work on; if ``workers`` > 1, items, job and return values must be picklable.
        job: called with one item.
        workers: number of processes; 1 runs in this process, with all its threads.
        spare: further processes, with several workers, for a job that computes within ``computing``: so many read or
            write while the others compute.
        group_size: most items at once; above 1 for a ``GroupJob`` only. Fewer where workers would have none.

    Raises:
        InputError: no worker process can start, as the main program is no file or starts workers when it is imported.
    """
    group_size = max(1, min(group_size, -(-len(items) // max(workers, 1))))
    groups = [items[start : start + group_size] for start in range(0, len(items), group_size)]
    if workers == 1:
        for group in groups:
            yield from _attempt_group(job, group)
        return
    with single_threaded_children():
        yield from _run_pool(groups, job, workers, spare)


def computing() -> AbstractContextManager[object]:
    """For the block in which a job computes: at most ``workers`` processes of ``run`` are in theirs at a time, so that
    no more threads are busy than there are cores. Elsewhere it does nothing."""
    return _turn


def available_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_workers(requested: int, *, single: bool) -> int:
    """Number of processes: as requested; for 0, one if ``single`` else one per core.

    Raises:
        InputError: a negative number.
    """
    if requested < 0:
        raise InputError(f"expected workers >= 0; got {requested}; 0 chooses")
    return requested or (1 if single else available_cores())


def describe_error(error: BaseException) -> str:
    """One-line message; masktree's own errors without their type, others with it."""
    text = " ".join(str(error).split())
    if isinstance(error, MasktreeError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _run_pool(
    pending: list[Sequence[Item]], job: Callable[[Item], Any], workers: int, spare: int
) -> Iterator[JobResult[Item]]:
    from masktree.kernels import report_compilation  # numba takes half a second to import

    pending.reverse()
    context = multiprocessing.get_context("spawn")
    has_started = context.Event()
    compiles, has_reported = context.Event(), False
    suspects: list[Sequence[Item]] = []  # items in flight when a worker died: any of them may have caused it
    while pending or suspects:
        # Each suspect is retried in a process of its own, so that only the one that caused the crash fails.
        isolated = bool(suspects)
        queue = [suspects.pop()] if isolated else pending
        in_flight: dict[Future[list[JobResult[Item]]], Sequence[Item]] = {}
        processes = 1 if isolated else workers + spare
        # A process that dies while it computes takes its turn with it: each pool has turns of its own.
        turns = context.Semaphore(workers) if spare else nullcontext()
        pool = ProcessPoolExecutor(
            processes, context, initializer=_start_worker, initargs=(job, has_started, compiles, turns)
        )
        try:
            while queue or in_flight:
                while queue and len(in_flight) < 2 * processes:
                    in_flight[pool.submit(_attempt_in_worker, queue[-1])] = queue[-1]  # stays queued if submit raises
                    queue.pop()
                done, _ = wait(in_flight, None if has_reported else _POLL_SECONDS, FIRST_COMPLETED)
                if compiles.is_set() and not has_reported:
                    report_compilation()  # of one worker for all
                    has_reported = True
                for future in done:
                    results = future.result()
                    del in_flight[future]
                    yield from results
        except BrokenProcessPool as error:
            if not has_started.is_set():
                raise InputError(
                    "expected worker processes to start; got none, as each of them runs the main program first; put "
                    'its calls below `if __name__ == "__main__":`, keep it in a file, or use workers=1'
                ) from error
            if isolated and not in_flight:  # the process died before it received the item
                suspects += queue
            elif isolated:
                [item] = next(iter(in_flight.values()))
                yield JobResult(item, 0.0, "the worker process died; most likely out of memory", tries=2)
            else:
                suspects = [[item] for group in in_flight.values() for item in group]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def attempt(job: Callable[[Item], Any], item: Item) -> JobResult[Item]:
    """The result of one item in this process; an exception is its error."""
    start = time.perf_counter()
    with _collect_warnings() as texts:
        try:
            value = job(item)
        except OSError as error:
            return JobResult(item, time.perf_counter() - start, describe_error(error), tries=0)
        except Exception as error:
            return JobResult(item, time.perf_counter() - start, describe_error(error))
    return JobResult(item, time.perf_counter() - start, value=value, warnings=tuple(texts))


def _attempt_group(job: Callable[[Item], Any], items: Sequence[Item]) -> list[JobResult[Item]]:
    """The results of several items that the job does together. Where anything fails or warns each item is done alone,
    so that failures and warnings are those of their item."""
    if len(items) > 1:
        assert isinstance(job, GroupJob)
        together = attempt(job.do_together, items)
        if together.error is None and not together.warnings:
            seconds = together.seconds / len(items)
            return [JobResult(item, seconds, value=value) for item, value in zip(items, together.value, strict=True)]
    return [attempt(job, item) for item in items]


@contextlib.contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """The texts of masktree's own warnings inside; other warnings are shown as usual."""
    texts: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def collect(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
            if issubclass(category, MasktreeWarning):
                texts.append(str(message))
            else:
                show(message, category, *rest, **options)

        warnings.filterwarnings("always", category=MasktreeWarning)
        warnings.showwarning = collect
        yield texts


_worker_job: Callable[[Any], Any] | None = None  # sent to each worker once, so that it loads its weights once
_turn: AbstractContextManager[object] = nullcontext()  # of this process, see ``computing``


def _start_worker(
    job: Callable[[Any], Any], has_started: Event, compiles: Event, turn: AbstractContextManager[object]
) -> None:
    from masktree.kernels import call_at_compilation

    global _turn, _worker_job
    _turn = turn
    call_at_compilation(compiles.set)
    has_started.set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    end_with_parent()
    _worker_job = job


def end_with_parent() -> None:
    """End this worker when its parent process ends, even if that was killed."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _attempt_in_worker(items: Sequence[Any]) -> list[JobResult[Any]]:
    assert _worker_job is not None
    return _attempt_group(_worker_job, items)


@contextlib.contextmanager
def single_threaded_children() -> Iterator[None]:
    """Child processes started inside use one thread each."""
    with child_environment(thread_variables(1)):
        yield


def thread_variables(count: int) -> dict[str, str]:
    """Environment of a process with so many threads: numeric libraries read these variables when loaded."""
    return dict.fromkeys(THREAD_VARIABLES, str(count))


@contextlib.contextmanager
def child_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Child processes started inside have these environment variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
