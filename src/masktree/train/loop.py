"""The training loop, on one device or many.

A step consists of weighted batches: the pseudo-labels, and in self-training the teacher's masks beside them. Its
gradient does not depend on the number of processes or accumulation steps: losses are divided by the number of masks in
the whole step, and every random choice for an image comes from the image's own seed.
"""

from __future__ import annotations

import contextlib
import copy
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from masktree.errors import InputError, TrainingError
from masktree.models.structures import Batch
from masktree.train.optimiser import (
    Optimisation,
    build_optimiser,
    clip_gradients,
    freeze_pretrained,
    lr_factor,
    set_lr,
    update_ema,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

Item = TypeVar("Item")


@dataclass(frozen=True)
class WeightedBatch:
    """One batch of a step.

    Attributes:
        batch: images and targets.
        weight: of its losses.
        prefix: of the names of its losses in the metrics.
        ignored_losses: losses that are logged but not minimised.
    """

    batch: Batch
    weight: float = 1.0
    prefix: str = ""
    ignored_losses: frozenset[str] = frozenset()


class Stateful(Protocol):
    """What a checkpoint holds besides model, average and optimiser."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class TrainingState:
    """Everything that a checkpoint holds.

    Attributes:
        model: the trained network, a ``masktree.models.structures.Model``.
        ema_model: moving average of its weights, in evaluation mode; the teacher of self-training.
        optimiser: of the model's parameters.
        step: steps done.
        scaler: state of the float16 loss scaler; else empty.
        teacher: state of self-training; else None.
        result: which weights the run's model has, see ``Optimisation``.
    """

    model: nn.Module
    ema_model: nn.Module
    optimiser: torch.optim.Optimizer
    step: int
    scaler: dict[str, Any]
    teacher: Stateful | None = None
    result: Literal["average", "last"] = "average"

    @property
    def result_model(self) -> nn.Module:
        """The model whose weights are the run's result."""
        return self.ema_model if self.result == "average" else self.model

    @classmethod
    def new(cls, model: nn.Module, settings: Optimisation) -> TrainingState:
        """The state before the first step of a model that is on its device already."""
        ema_model = copy.deepcopy(model).requires_grad_(False).eval()
        freeze_pretrained(model, settings)
        return cls(model.train(), ema_model, build_optimiser(model, settings), 0, {}, result=settings.result)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        state = {
            "model": self.model.state_dict(),
            "ema_model": self.ema_model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "scaler": self.scaler,
        }
        return state if self.teacher is None else state | {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state bit for bit."""
        self.model.load_state_dict(state["model"])
        self.ema_model.load_state_dict(state["ema_model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.scaler = state["scaler"]
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])


def fit(
    state: TrainingState,
    items: Iterable[Item],
    accelerator: Accelerator,
    settings: Optimisation,
    *,
    device: torch.device,
    make_batches: Callable[[Item], Sequence[WeightedBatch]],
    ema_warmup: bool = True,
) -> Generator[dict[str, float], None, None]:
    """Take one step per item and yield its metrics; ``state`` has advanced by then.

    Args:
        items: this process's share of each step, from ``state.step`` on.
        make_batches: the batches of an item; called before the step, without gradients.
        ema_warmup: let the decay of the average rise, for a model that starts from new weights.

    Yields:
        step, lr, loss (the weighted sum), each loss by name, grad_norm, num_masks, seconds; of the whole step over all
        processes.

    Raises:
        TrainingError: a loss or the gradient is not finite, or memory runs out.
    """
    losses_module = accelerator.prepare_model(_LossModule(state.model))
    optimiser = accelerator.prepare_optimizer(state.optimiser)
    scaler = accelerator.scaler
    if scaler is not None and state.scaler:
        scaler.load_state_dict(state.scaler)
    start = time.monotonic()
    try:
        for item in items:
            lr = settings.lr * lr_factor(state.step, settings)
            set_lr(state.optimiser, lr)
            torch.manual_seed(state.step)  # for layers that use the global generator, as dropout does
            with _explain_memory_errors(state.step):
                with torch.no_grad():
                    batches = make_batches(item)
                losses, num_masks = _backward(losses_module, batches, accelerator, settings.accumulation_steps, device)
                if scaler is not None:
                    accelerator.unscale_gradients()
                grad_norm = clip_gradients(state.model.parameters(), settings)
                metrics = _mean_over_processes(losses | {"grad_norm": grad_norm.detach()}, accelerator)
                _check_finite(metrics, state.step + 1, batches, accelerator)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            state.step += 1
            update_ema(state.ema_model, state.model, state.step if ema_warmup else None, settings.ema_decay)
            state.scaler = scaler.state_dict() if scaler is not None else {}
            now = time.monotonic()
            seconds = round(now - start, 4)
            yield {"step": state.step, "lr": lr, **metrics, "num_masks": num_masks, "seconds": seconds}
            start = time.monotonic()
    finally:
        del losses_module  # and the process group with it, though a traceback may still reference this frame


def single_batch(batch: Batch) -> list[WeightedBatch]:
    """The batches of a step of supervised training."""
    return [WeightedBatch(batch)]


def split_batch(batch: Batch, count: int) -> list[Batch]:
    """A batch as ``count`` batches of equal size.

    Raises:
        InputError: its images cannot be divided evenly.
    """
    size, remainder = divmod(len(batch.names), count)
    if remainder or not size:
        raise InputError(
            f"expected a multiple of {count} images; got {len(batch.names)}; change --batch-size or "
            "--accumulation-steps"
        )
    chunks = [slice(start, start + size) for start in range(0, len(batch.names), size)]
    return [
        replace(
            batch,
            images=batch.images[chunk],
            cues=None if batch.cues is None else batch.cues[chunk],
            targets=list(batch.targets[chunk]),
            seeds=batch.seeds[chunk],
            names=list(batch.names[chunk]),
        )
        for chunk in chunks
    ]


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Defer Ctrl-C and SIGTERM to the end of a step: the yielded function tells whether one has arrived.

    A second signal raises KeyboardInterrupt at once. Outside the main thread signals are left as they are.
    """
    received: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def handle(number: int, frame: FrameType | None) -> None:
        # torchrun forwards a signal that the terminal may have sent us too: at the same moment they count as one.
        if received and time.monotonic() - received[0] > 1:
            raise KeyboardInterrupt
        received.append(time.monotonic())

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _LossModule(nn.Module):
    """The losses as a forward pass, which Accelerate wraps for several processes and lower precision."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, num_masks: Tensor) -> dict[str, Tensor]:
        return dict(self.model.losses(batch, num_masks))  # type: ignore[operator]  # a Model, which nn.Module hides


def _backward(
    losses_module: nn.Module,
    batches: Sequence[WeightedBatch],
    accelerator: Accelerator,
    accumulation_steps: int,
    device: torch.device,
) -> tuple[dict[str, Tensor], int]:
    """Accumulate the gradient of a step; its losses in this process, and its number of masks over all processes."""
    counts = torch.tensor([sum(len(t.masks) for t in item.batch.targets) for item in batches], dtype=torch.float32)
    counts = accelerator.reduce(counts.to(device), "sum")
    mean_counts = counts.clamp(min=1) / (accelerator.num_processes * accumulation_steps)
    chunks = [
        (item, num_masks, chunk)
        for item, num_masks in zip(batches, mean_counts, strict=True)
        for chunk in split_batch(item.batch, accumulation_steps)
    ]
    losses: dict[str, Tensor] = {"loss": torch.zeros((), device=device)}
    for index, (item, num_masks, chunk) in enumerate(chunks):
        # Gradients are averaged over the processes once, after the last chunk.
        is_last = index == len(chunks) - 1
        with contextlib.nullcontext() if is_last else accelerator.no_sync(losses_module):
            chunk_losses = losses_module(chunk.to(device), num_masks)
            # Ignored losses are multiplied by 0, not left out: processes wait for the gradient of every parameter.
            terms = [value * float(name not in item.ignored_losses) for name, value in chunk_losses.items()]
            total = item.weight / accumulation_steps * torch.stack(terms).sum()
            accelerator.backward(total)
        losses["loss"] += total.detach()
        for name, value in chunk_losses.items():
            key = item.prefix + name
            losses[key] = losses.get(key, torch.zeros_like(value)) + value.detach() / accumulation_steps
    return losses, int(counts.sum())


def _mean_over_processes(values: dict[str, Tensor], accelerator: Accelerator) -> dict[str, float]:
    """In one transfer; every process has the same names."""
    stacked = accelerator.reduce(torch.stack([value.float() for value in values.values()]), "mean")
    return dict(zip(values, stacked.tolist(), strict=True))


def _check_finite(
    metrics: Mapping[str, float], step: int, batches: Sequence[WeightedBatch], accelerator: Accelerator
) -> None:
    # With a loss scaler an infinite gradient is no error: the scaler skips the step and lowers the scale.
    checked = {name: value for name, value in metrics.items() if name != "grad_norm" or accelerator.scaler is None}
    not_finite = [f"{name} {value}" for name, value in checked.items() if not abs(value) < float("inf")]
    if not not_finite:
        return
    from accelerate.utils import gather_object

    names = gather_object([name for item in batches for name in item.batch.names])
    raise TrainingError(
        f"expected finite losses in step {step}; got {', '.join(not_finite)} from the images "
        f"{', '.join(dict.fromkeys(names))}; the last checkpoint is kept: lower --lr, or use --precision float32, in a "
        "new folder; if it is always the same step, look at these images"
    )


@contextlib.contextmanager
def _explain_memory_errors(step: int) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        is_exhausted = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "not enough memory" in str(error)
        if not is_exhausted:
            raise
        reason = (str(error).strip().splitlines() or ["out of memory"])[0]
        raise TrainingError(
            f"expected enough memory for step {step + 1}; got: {reason}; the last checkpoint is kept: use "
            "--accumulation-steps 2 (same result, slower); or, in a new folder, a smaller --batch-size, --image-size "
            "or --queries, or --precision bfloat16"
        ) from error
