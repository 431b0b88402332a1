"""A label set made on several devices of a machine: a process for each makes a share of the COCO files."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from masktree.backbones.device import resolve_device
from masktree.errors import InputError, MasktreeError
from masktree.jobs.batch import available_cores, child_environment, end_with_parent, thread_variables
from masktree.jobs.recorded_batch import BatchOutcome
from masktree.predict import SegmenterConfig
from masktree.stages.discover import discover
from masktree.stages.shards import Shard, take_thresholds


def discover_on_devices(
    folders: str | Path | Sequence[str | Path],
    output: Path,
    config: SegmenterConfig,
    *,
    devices: int,
    shard: Shard | None = None,
    workers: int = 0,
    overwrite: bool = False,
    show_progress: bool = False,
    **options: Any,
) -> BatchOutcome:
    """``discover`` in one process per device, each with a share of the COCO files; the label set is that of one process
    to the byte, as far as the devices compute the same.

    Process k writes OUT/parts/k-of-N as ``discover`` with ``shard`` does, and sees GPU k alone. The shares are gathered
    at the end.

    Args:
        folders, output, config, options: as for ``discover``, without an engine.
        devices: number of processes, at most that of GPUs; several on a CPU share its cores.
        shard: divide this share alone, and gather nothing.
        workers: of each process; 0 chooses one on GPUs, and on a CPU as many as there are cores for each.
        overwrite, show_progress: as for ``discover``; the progress shown is that of the first device.

    Raises:
        InputError: as ``discover``; fewer GPUs than ``devices``, or one of them by number.
        WeightsError: as ``discover``, or no such device.
    """
    shards = (shard or Shard(1, 1)).split(devices)
    environments = _environments(config.device, devices)
    cores = max(1, available_cores() // devices)
    on_cpu = resolve_device(config.device).type == "cpu"
    call = partial(
        discover, folders, output, config, overwrite=overwrite, workers=workers or (cores if on_cpu else 1), **options
    )
    calls = [partial(call, shard=part, show_progress=show_progress and part is shards[0]) for part in shards]
    outcomes = _run_processes(calls, [environment | thread_variables(cores) for environment in environments])
    completed = sum(outcome.completed for outcome in outcomes)
    idle = sum(outcome.completed + outcome.skipped + len(outcome.failures) == 0 for outcome in outcomes)
    note = f"{idle} of {devices} devices had no file to make; a smaller --shard-size makes more files"
    notes = (note,) if idle else ()
    if shard is not None:
        failures = [failure for outcome in outcomes for failure in outcome.failures]
        skipped = sum(outcome.skipped for outcome in outcomes)
        return replace(outcomes[0], completed=completed, skipped=skipped, failures=failures, notes=notes)
    if not overwrite:
        take_thresholds(shards[0].folder(output), output)
    whole = discover(
        folders, output, config, workers=workers, overwrite=overwrite, show_progress=show_progress, **options
    )
    return replace(
        whole, completed=whole.completed + completed, skipped=whole.skipped - completed, notes=whole.notes + notes
    )


def _environments(device: str, count: int) -> list[dict[str, str]]:
    """Environment variables that show one device to each process.

    Raises:
        InputError: a numbered device, or fewer GPUs than processes.
    """
    resolved = resolve_device(device)
    if resolved.type == "cpu" or count == 1:
        return [{}] * count
    import torch

    available = torch.cuda.device_count() if resolved.type == "cuda" else 1
    if resolved.index is not None or available < count:
        raise InputError(
            f"expected {count} devices of a kind, such as cuda; got {device!r} where torch finds {available}; lower "
            "--devices"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if visible is None else visible.split(",")
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:count]]


def _run_processes(
    calls: Sequence[partial[BatchOutcome]], environments: Sequence[dict[str, str]]
) -> list[BatchOutcome]:
    """The outcome of each call in a process of its own.

    Raises:
        MasktreeError: that of the first call that failed, after all have ended.
        InputError: a process died.
    """
    context = get_context("spawn")
    with ExitStack() as stack:
        connections = []
        for call, environment in zip(calls, environments, strict=True):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_call, args=(call, sender))
            with child_environment(environment):
                process.start()
            sender.close()  # so that nothing is received from a process that has died
            stack.callback(process.join)
            stack.callback(process.terminate)  # called before: one that has ended stays as it is
            connections.append(receiver)
        received = [_receive(receiver, number) for number, receiver in enumerate(connections, 1)]
    for item in received:
        if isinstance(item, MasktreeError):
            raise item
    return [item for item in received if isinstance(item, BatchOutcome)]


def _receive(receiver: Connection, number: int) -> BatchOutcome | MasktreeError:
    try:
        received: BatchOutcome | MasktreeError = receiver.recv()
    except EOFError:
        return InputError(
            f"expected process {number} to end with a result; it died, most likely out of memory; run the same command "
            "again: what is done is kept"
        )
    return received


def _call(call: partial[BatchOutcome], sender: Connection) -> None:
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)
    try:
        sender.send(call())
    except MasktreeError as error:
        sender.send(error)
    except KeyboardInterrupt:
        pass  # the parent was interrupted as well, and says so


def _interrupt_once(*_: object) -> None:
    """Raise KeyboardInterrupt; Ctrl-C reaches all processes, and the parent's own signal comes on top of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
