"""One training step on several devices: Hugging Face Accelerate under ``torchrun``, and the device of each process."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from masktree.backbones.device import resolve_device
from masktree.errors import InputError, WeightsError
from masktree.train.options import Precision

if TYPE_CHECKING:
    from accelerate import Accelerator

_POLL_SECONDS = 1.0  # between looks for a file (our choice)
_MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def make_accelerator(device: torch.device, precision: Precision) -> Accelerator:
    """Accelerate's object for the processes of ``torchrun``, or for a single one, in the given precision.

    ``auto``: bfloat16 on a CUDA device that supports it, else float32.

    Raises:
        InputError: Accelerate is not installed, float16 without CUDA, a numbered device with several processes.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise InputError(f"expected Accelerate; got {error}; pip install accelerate") from error
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    if precision == "float16" and device.type != "cuda":
        raise InputError(f"expected float16 on a CUDA device; got {device.type}; use bfloat16 or float32")
    # Accelerate keeps global state; a process may train twice, on another device or in another precision.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(
        device_placement=False,
        mixed_precision=_MIXED_PRECISION[precision],
        # Without this flag Accelerate ignores torchrun on a machine without GPU.
        cpu=device.type == "cpu",
    )
    if accelerator.num_processes > 1 and device.index is not None:
        raise InputError(f"expected a device without number for several processes; got {device}; use {device.type}")
    return accelerator


def precision_of(accelerator: Accelerator) -> str:
    """float32, bfloat16 or float16."""
    return {mixed: name for name, mixed in _MIXED_PRECISION.items()}[accelerator.mixed_precision]


@contextlib.contextmanager
def accelerated(device: torch.device, precision: Precision) -> Iterator[Accelerator]:
    """``make_accelerator``; closes on exit the process group that it opened.

    A gloo thread that frees a tensor while Python shuts down aborts the process now and then. The threads end once
    nothing references the process group, prepared models included.
    """
    distributed = torch.distributed
    was_initialised = distributed.is_available() and distributed.is_initialized()
    if distributed.is_available() and not was_initialised:
        # If torch imported it later, its default arguments would hold the process group until the process ends.
        importlib.import_module("torch.distributed.nn.functional")
    accelerator = make_accelerator(device, precision)
    try:
        yield accelerator
    finally:
        accelerator.free_memory()
        if accelerator.num_processes > 1 and not was_initialised and distributed.is_initialized():
            distributed.destroy_process_group()


@dataclass(frozen=True)
class Processes:
    """This process among those of ``torchrun``: its ``index``, and their ``count``."""

    index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes what all share."""
        return self.index == 0

    def wait(self) -> None:
        """Wait for all processes, for minutes at most: torch ends processes that wait longer."""
        if self.count > 1:
            torch.distributed.barrier()

    def wait_for(self, paths: Iterable[Path]) -> None:
        """Wait for files that other processes write, for as long as it takes. ``torchrun`` ends all if one fails."""
        for path in paths:
            while not path.exists():
                time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def connected_processes(device: str) -> Iterator[Processes]:
    """The processes of ``torchrun``, connected for several runs of training one after the other.

    A process group for each run would be opened anew in the same processes, which may wait for each other for ever.

    Raises:
        InputError, WeightsError: as ``resolve_process_device``.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    resolved = resolve_process_device(device)
    importlib.import_module("torch.distributed.nn.functional")  # see accelerated
    torch.distributed.init_process_group("nccl" if resolved.type == "cuda" else "gloo")
    try:
        yield Processes(torch.distributed.get_rank(), count)
    finally:
        torch.distributed.destroy_process_group()


def resolve_process_device(device: str) -> torch.device:
    """``resolve_device``, and under ``torchrun`` on CUDA this process's own GPU.

    Raises:
        InputError, WeightsError: as ``resolve_device``; also if there are more processes than GPUs.
    """
    resolved = resolve_device(device)
    if resolved.type == "cuda" and resolved.index is None and "LOCAL_RANK" in os.environ:
        index = int(os.environ["LOCAL_RANK"])
        if index >= torch.cuda.device_count():
            raise WeightsError(
                f"expected a GPU for each process; got process {index} with {torch.cuda.device_count()} GPUs; lower "
                "--nproc-per-node, or use --device cpu"
            )
        torch.cuda.set_device(index)
    return resolved


def any_process(value: bool, accelerator: Accelerator, device: torch.device) -> bool:
    """Whether ``value`` is true in any process."""
    if accelerator.num_processes == 1:
        return value
    return bool(accelerator.reduce(torch.tensor(float(value), device=device), "sum") > 0)
