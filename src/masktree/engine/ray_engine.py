"""Jobs on the machines of a Ray cluster."""

from __future__ import annotations

import logging
import math
import os
import pickle
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from masktree import __version__
from masktree.engine.ray_worker import ShardWorker, TryCounter
from masktree.errors import InputError
from masktree.jobs.batch import THREAD_VARIABLES, JobResult, available_cores

Item = TypeVar("Item")

_MAX_SHARD = 16  # items: what a process that dies has done in vain; a shard costs some 10 ms (our choice)
_SHARDS_PER_WORKER = 8  # at least, so that processes end at about the same time (our choice)
# Two processes on a core would slow each other down; with one core each, Ray would have none left for its own tasks.
_CORES_PER_WORKER = 0.5
_ANSWER_SECONDS = 10.0  # for a connection to a cluster (our choice)
_STARTS = 3  # tries to start a cluster on this machine (our choice)
_STORE_BYTES = 200_000_000  # of Ray's object store: only paths and short records pass through it (our choice)


@dataclass(frozen=True)
class RayEngine:
    """Runs jobs as a Ray Data pipeline: a pool of processes that takes shards of items and returns their records.

    Results are written by the processes themselves, below a folder that all machines share. A process that dies is
    replaced, and its shard is run again. Shards wait until a process is free.

    Attributes:
        address: of a cluster, as ``ray start`` prints it, or "auto"; None starts one on this machine.
    """

    address: str | None = None

    def __post_init__(self) -> None:
        if self.address is None:
            _keep_token_in_memory()
        import_ray()

    def run(
        self, items: Sequence[Item], job: Callable[[Item], Any], *, workers: int, tries: int, on_accelerator: bool
    ) -> Iterator[JobResult[Item]]:
        """See ``masktree.jobs.batch.Engine``.

        Raises:
            InputError: no cluster at the address, no accelerator in it, or machines with another masktree.
        """
        if not items:
            return
        ray = import_ray()
        with _cluster(self.address, workers):
            accelerators = _count_accelerators() if on_accelerator else 0
            workers = workers or accelerators or max(1, _count("CPU"))
            counter = ray.remote(TryCounter).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
            size = max(1, min(_MAX_SHARD, len(items) // (_SHARDS_PER_WORKER * workers)))
            num_shards = -(-len(items) // size)
            dataset = ray.data.from_items(
                [{"item": pickle.dumps(numbered)} for numbered in enumerate(items)], override_num_blocks=num_shards
            ).map_batches(
                ShardWorker,
                # With accelerators Ray asks for a size; that of the smallest block, so that it unites none.
                batch_size=len(items) // num_shards,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
                num_cpus=_CORES_PER_WORKER,
                num_gpus=_share(accelerators, workers),
                fn_constructor_args=(pickle.dumps(job), os.getcwd(), __version__, counter, tries),
            )
            try:
                for batch in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                    for data in batch["result"]:
                        result = pickle.loads(data)
                        number, _ = result.item
                        yield replace(result, item=items[number])
            except ray.exceptions.RayError as error:
                raise InputError(
                    f"expected machines that can run the job; got {_last_line(error)}; see the cause, and run the same "
                    "command again: what is done is kept"
                ) from error


def import_ray() -> Any:
    """The package, told to send nothing and to be quiet.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # 30 are too few on a busy machine (our choice)
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise InputError(
            f"expected Ray Data for --engine ray; got none ({error}); install it: pip install '.[ray]'"
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray


@contextmanager
def _cluster(address: str | None, workers: int) -> Iterator[None]:
    """Be connected to a cluster; one that was started here ends with the block, one that was connected before stays."""
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {
        "runtime_env": {"env_vars": dict.fromkeys(THREAD_VARIABLES, "1")},
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    try:
        if address is not None:
            _check_answers(address)
            ray.init(address=address, **options)
        else:
            cores = max(2, workers, available_cores())
            options |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
            _start_here(ray, options)
    except Exception as error:  # ConnectionError, ValueError, RuntimeError: which ones is not documented
        raise InputError(
            f"expected a Ray cluster at {address or 'this machine'}; got {_last_line(error)}; start one with `ray "
            "start --head`, or leave out --address"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise OSError if nothing answers at HOST:PORT; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" not in address and host and port.isdecimal():
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()


def _start_here(ray: Any, options: dict[str, Any]) -> None:
    """Start a cluster on this machine; on a busy one its first processes may be later than the 30 s that Ray waits."""
    for attempt in range(_STARTS):
        try:
            ray.init(address="local", **options)
            return
        except Exception as error:  # of no class of its own
            if attempt == _STARTS - 1 or "timed out" not in str(error):
                raise
            ray.shutdown()


def _keep_token_in_memory() -> None:
    """Make a token for a cluster of this process, which Ray would otherwise write into the user's home folder.

    Ray reads these variables when it is imported; who has imported it before has its defaults.
    """
    if "ray" in sys.modules or {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _count(kind: str) -> int:
    """How many cores ("CPU") or accelerators ("GPU") the cluster has."""
    return int(import_ray().cluster_resources().get(kind, 0))


def _count_accelerators() -> int:
    count = _count("GPU")
    if count == 0:
        raise InputError("expected accelerators in the cluster; got none; choose --device cpu")
    return count


def _share(accelerators: int, workers: int) -> float:
    """Of an accelerator for each process: one, or where there are more processes as many of them as fit; Ray counts
    ten-thousandths."""
    if workers <= accelerators:
        return float(bool(accelerators))
    return math.floor(10_000 / -(-workers // accelerators)) / 10_000 if accelerators else 0.0


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__
