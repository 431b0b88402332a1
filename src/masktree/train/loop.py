"""The steps of a training run, on one device or many.

A step is a list of weighted batches: the pseudo-labels alone in plain training, those and the teacher's in
self-training. Its gradient does not depend on how the images are spread over processes or passes: losses are divided
by the number of masks in the whole step, and every random choice for an image comes from the image's own seed.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from masktree.errors import InputError, TrainingError, WeightsError
from masktree.models.structures import Batch
from masktree.train.optimiser import (
    Optimisation,
    average,
    build_optimiser,
    clip_gradients,
    freeze,
    lr_factor,
    set_lr,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Item = TypeVar("Item")
_MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class WeightedBatch:
    """One of the batches of a step: ``weight`` of its losses, ``name`` before theirs in the record; the losses
    ``without`` are recorded, but not learned from."""

    batch: Batch
    weight: float = 1.0
    name: str = ""
    without: frozenset[str] = frozenset()


class Stateful(Protocol):
    """What a run goes on from besides its models."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class TrainingState:
    """All that a run goes on from.

    Attributes:
        model: the network that is trained, a ``masktree.models.structures.Model``.
        averaged: moving average of its weights, in evaluation mode: what is kept, and the teacher of self-training.
        optimiser: of the model's parameters.
        step: how many are done.
        scaler: state of the loss scale, with float16; else empty.
        teacher: what self-training goes on from besides; else None.
    """

    model: nn.Module
    averaged: nn.Module
    optimiser: torch.optim.Optimizer
    step: int
    scaler: dict[str, Any]
    teacher: Stateful | None = None

    @classmethod
    def begin(cls, model: nn.Module, settings: Optimisation) -> TrainingState:
        """A new run's, of a model that is already on its device."""
        averaged = copy.deepcopy(model).requires_grad_(False).eval()
        freeze(model, settings)
        return cls(model.train(), averaged, build_optimiser(model, settings), 0, {})

    def content(self) -> dict[str, Any]:
        """Tensors and plain values, which ``restore`` takes."""
        content = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "scaler": self.scaler,
        }
        return content if self.teacher is None else content | {"teacher": self.teacher.state_dict()}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go on from what ``content`` returned, bit for bit."""
        self.model.load_state_dict(content["model"])
        self.averaged.load_state_dict(content["averaged"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.step = content["step"]
        self.scaler = content["scaler"]
        if self.teacher is not None:
            self.teacher.load_state_dict(content["teacher"])


def make_accelerator(device: torch.device, precision: Precision) -> Accelerator:
    """What spreads the steps over the processes of ``torchrun``, or over none, and computes in lower precision.

    ``auto``: bfloat16 on a CUDA device that has it, else float32.

    Raises:
        InputError: Accelerate is not installed, float16 on a device other than CUDA, a numbered device with several
            processes.
        WeightsError: several processes want more devices than there are.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise InputError(f"expected Accelerate; got {error}; pip install masktree[train]") from error
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    if precision == "float16" and device.type != "cuda":
        raise InputError(f"expected float16 on a CUDA device; got {device.type}; use bfloat16 or float32")
    # A process may train twice, on another device or in another precision: what Accelerate remembers is the last run's.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(
        device_placement=False,
        mixed_precision=_MIXED[precision],
        # Without this flag Accelerate takes the processes of torchrun for single ones on a machine without GPU.
        cpu=device.type == "cpu",
    )
    if accelerator.num_processes > 1 and device.index is not None:
        raise InputError(f"expected a kind of device for several processes; got {device}; use {device.type}")
    return accelerator


@contextlib.contextmanager
def accelerated(device: torch.device, precision: Precision) -> Iterator[Accelerator]:
    """``make_accelerator``; connections between processes that it made are closed in the end, and their threads with
    them. A thread of gloo that still frees a tensor while Python shuts down aborts the process, now and then. They end
    when nothing holds the connections any more, prepared models included."""
    distributed = torch.distributed
    connected = distributed.is_available() and distributed.is_initialized()
    if distributed.is_available() and not connected:
        # Imported later, by torch itself, its default arguments would hold the connections to the end of the process.
        importlib.import_module("torch.distributed.nn.functional")
    accelerator = make_accelerator(device, precision)
    try:
        yield accelerator
    finally:
        accelerator.free_memory()
        if accelerator.num_processes > 1 and not connected and distributed.is_initialized():
            distributed.destroy_process_group()


def resolve_process_device(device: str) -> torch.device:
    """``resolve_device``, and under ``torchrun`` on CUDA this process's own GPU.

    Raises:
        InputError, WeightsError: as ``resolve_device``; also where this machine has more processes than GPUs.
    """
    import os

    from masktree.backbones.device import resolve_device

    found = resolve_device(device)
    if found.type == "cuda" and found.index is None and "LOCAL_RANK" in os.environ:
        index = int(os.environ["LOCAL_RANK"])
        if index >= torch.cuda.device_count():
            raise WeightsError(
                f"expected a GPU for each process; got process {index} where torch finds {torch.cuda.device_count()}; "
                "lower --nproc-per-node, or use --device cpu"
            )
        torch.cuda.set_device(index)
    return found


def fit(
    state: TrainingState,
    items: Iterable[Item],
    accelerator: Accelerator,
    settings: Optimisation,
    *,
    device: torch.device,
    make_batches: Callable[[Item], Sequence[WeightedBatch]],
    rising: bool = True,
) -> Generator[dict[str, float], None, None]:
    """Take one step per item; yields its record after ``state`` has moved on.

    Args:
        items: this process's shares of the steps, from ``state.step`` on.
        make_batches: the weighted batches of an item; called without gradients, before the step.
        rising: whether the decay of the average rises, as it should where the first weights are new ones.

    Yields:
        step, rate, loss (their weighted sum), each loss by name, norm (of the gradient), masks, seconds. Losses are
        those of the whole step.

    Raises:
        TrainingError: a loss or the gradient is not finite, or memory runs out.
    """
    trained = accelerator.prepare_model(_Losses(state.model))
    optimiser = accelerator.prepare_optimizer(state.optimiser)
    scaler = accelerator.scaler
    if scaler is not None and state.scaler:
        scaler.load_state_dict(state.scaler)
    began = time.monotonic()
    try:
        for item in items:
            rate = settings.lr * lr_factor(state.step, settings)
            set_lr(state.optimiser, rate)
            torch.manual_seed(state.step)  # for layers that draw from the global generator
            with _memory_errors(state.step):
                with torch.no_grad():
                    wanted = make_batches(item)
                losses, masks = _backward(trained, wanted, accelerator, settings.accumulation_steps, device)
                if scaler is not None:
                    accelerator.unscale_gradients()
                norm = clip_gradients(state.model.parameters(), settings)
                values = _reduced(losses | {"norm": norm.detach()}, accelerator)
                _check_finite(values, state.step + 1, wanted, accelerator)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            state.step += 1
            average(state.averaged, state.model, state.step if rising else None, settings.ema_decay)
            state.scaler = scaler.state_dict() if scaler is not None else {}
            now = time.monotonic()
            yield {"step": state.step, "lr": rate, **values, "masks": masks, "seconds": round(now - began, 4)}
            began = time.monotonic()
    finally:
        del trained  # and connections with it, though the trace of an error may still hold this frame


def whole(batch: Batch) -> list[WeightedBatch]:
    """The parts of a step of plain training."""
    return [WeightedBatch(batch)]


def split(batch: Batch, count: int) -> list[Batch]:
    """A batch as ``count`` equal ones.

    Raises:
        InputError: its images cannot be divided evenly.
    """
    size, rest = divmod(len(batch.names), count)
    if rest or not size:
        raise InputError(
            f"expected a multiple of {count} images; got {len(batch.names)}; "
            f"change --batch-size or --accumulation-steps"
        )
    slices = [slice(start, start + size) for start in range(0, len(batch.names), size)]
    return [
        replace(
            batch,
            images=batch.images[own],
            cues=None if batch.cues is None else batch.cues[own],
            targets=list(batch.targets[own]),
            seeds=batch.seeds[own],
            names=list(batch.names[own]),
        )
        for own in slices
    ]


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C and SIGTERM only make the yielded function true, so that a step is never torn; the second one
    raises KeyboardInterrupt. In threads other than the main one signals stay as they are."""
    seen: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number: int, frame: FrameType | None) -> None:
        # torchrun passes on what the terminal may have sent us already: at the same moment, that is one signal.
        if seen and time.monotonic() - seen[0] > 1:
            raise KeyboardInterrupt
        seen.append(time.monotonic())

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Losses(nn.Module):
    """Losses as a forward pass: what goes through it is what is averaged over processes and computed in lower
    precision. Models reach every parameter in it, also where an image has no mask: the others would wait."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, masks: Tensor) -> dict[str, Tensor]:
        return dict(self.model.losses(batch, masks))  # type: ignore[operator]


def _backward(
    trained: nn.Module,
    wanted: Sequence[WeightedBatch],
    accelerator: Accelerator,
    accumulation_steps: int,
    device: torch.device,
) -> tuple[dict[str, Tensor], int]:
    """Gradients of a step; its losses in this process, and its number of masks in all."""
    counts = torch.tensor([sum(len(t.masks) for t in part.batch.targets) for part in wanted], dtype=torch.float32)
    counts = accelerator.reduce(counts.to(device), "sum")
    shares = counts.clamp(min=1) / (accelerator.num_processes * accumulation_steps)
    pieces = [
        (part, share, small)
        for part, share in zip(wanted, shares, strict=True)
        for small in split(part.batch, accumulation_steps)
    ]
    losses: dict[str, Tensor] = {"loss": torch.zeros((), device=device)}
    for index, (part, share, small) in enumerate(pieces):
        # Gradients are averaged over the processes once, after the last pass.
        last = index == len(pieces) - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(trained):
            found = trained(small.to(device), share)
            # Times 0, not left out: every parameter is to have its gradient when processes wait for each other's.
            terms = [value * float(name not in part.without) for name, value in found.items()]
            total = part.weight / accumulation_steps * torch.stack(terms).sum()
            accelerator.backward(total)
        losses["loss"] += total.detach()
        for name, value in found.items():
            key = part.name + name
            losses[key] = losses.get(key, torch.zeros_like(value)) + value.detach() / accumulation_steps
    return losses, int(counts.sum())


def _reduced(values: dict[str, Tensor], accelerator: Accelerator) -> dict[str, float]:
    """Means over processes, in one transfer. Every process has the same names."""
    names = list(values)
    together = accelerator.reduce(torch.stack([values[name].float() for name in names]), "mean")
    return dict(zip(names, together.tolist(), strict=True))


def _check_finite(
    values: Mapping[str, float], step: int, wanted: Sequence[WeightedBatch], accelerator: Accelerator
) -> None:
    # With a loss scale an infinite gradient is no error: the scaler leaves the step out and lowers the scale.
    checked = {name: v for name, v in values.items() if name != "norm" or accelerator.scaler is None}
    damaged = [name for name, value in checked.items() if not abs(value) < float("inf")]
    if not damaged:
        return
    from accelerate.utils import gather_object

    names = gather_object([name for part in wanted for name in part.batch.names])
    raise TrainingError(
        f"expected finite losses in step {step}; got {', '.join(f'{name} {values[name]}' for name in damaged)} from "
        f"the images {', '.join(dict.fromkeys(names))}; the last checkpoint stays: lower --lr, or use "
        "--precision float32, in a new folder; if the step is always the same, look at these images"
    )


@contextlib.contextmanager
def _memory_errors(step: int) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        exhausted = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "not enough memory" in str(error)
        if not exhausted:
            raise
        reason = (str(error).strip().splitlines() or ["out of memory"])[0]
        raise TrainingError(
            f"expected enough memory for step {step + 1}; got: {reason}; the last checkpoint stays. Ways out: "
            "--accumulation-steps 2 (same result, slower); or, in a new folder, a smaller --batch-size, --image-size "
            "or --queries, or --precision bfloat16"
        ) from error
