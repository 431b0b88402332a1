"""What the stages of training share: they open a run, take its steps, and leave a model at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from masktree.errors import InputError
from masktree.io.files import lock_folder
from masktree.jobs.progress import Progress, progress_bar
from masktree.labels import LabelSet
from masktree.models.build import build_model
from masktree.models.config import ModelConfig
from masktree.models.structures import Batch, Targets
from masktree.models.trees import MIN_AREA, tree_of
from masktree.train.augmentation import Augmentation
from masktree.train.initialisation import Initialisation
from masktree.train.label_store import LabelStore
from masktree.train.labelled_dataset import LabelledDataset
from masktree.train.loop import (
    Precision,
    Stateful,
    TrainingState,
    WeightedBatch,
    accelerated,
    fit,
    interruptible,
    resolve_process_device,
    split,
)
from masktree.train.optimiser import pretrained_parameters
from masktree.train.photo_dataset import PhotoDataset
from masktree.train.plots import draw_samples
from masktree.train.presets import Preset
from masktree.train.run_folder import SAMPLES, RunFolder
from masktree.trees import rle
from masktree.trees.masktree import MaskTree

if TYPE_CHECKING:
    from accelerate import Accelerator

_SHOWN = 4  # photographs in a sample picture (our choice)
Item = TypeVar("Item")


@dataclass(frozen=True)
class RunOptions:
    """What does not decide the result, beyond rounding.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps; with several processes a kind.
        precision: auto, float32, bfloat16 or float16 (CUDA). This one does decide, so a run goes on with its own.
        workers: processes that make examples, for each process that trains; 0 makes them in between.
        save_every: seconds between checkpoints.
        sample_every: steps between sample pictures; 0 makes none.
        skip_broken: replace photographs that cannot be read instead of ending with an error.
        show_progress: a bar on standard error.
    """

    device: str = "auto"
    precision: Precision = "auto"
    workers: int = 0
    save_every: float = 600.0
    sample_every: int = 500
    skip_broken: bool = False
    show_progress: bool = False

    def __post_init__(self) -> None:
        for name in ("workers", "save_every", "sample_every"):
            if getattr(self, name) < 0:
                raise InputError(f"expected {name} of 0 or more; got {getattr(self, name)}")


@dataclass
class TrainingRun:
    """A run that is open, in one of the processes that share it.

    Attributes:
        run: its folder.
        state: what it goes on from; that of the checkpoint after ``begin``.
        store, root: the labels, and where their photographs are.
        data: examples of them.
        preset: settings; the augmentation says whether the model wants cues.
        accelerator, device: what the steps are computed with.
        options, seed: as given.
        messages: lines to tell before the first step.
    """

    run: RunFolder
    state: TrainingState
    store: LabelStore
    root: Path
    data: LabelledDataset
    preset: Preset
    accelerator: Accelerator
    device: torch.device
    options: RunOptions
    seed: int
    messages: list[str]

    @property
    def augmentation(self) -> Augmentation:
        return self.data.settings

    def begin(self, teacher: Stateful | None = None) -> None:
        """Bring state and folder to the checkpoint; ``teacher``: what else is in it, of self-training."""
        self.state.teacher = teacher
        self.run.restore(self.state)
        self.accelerator.wait_for_everyone()  # all have read what the first process is going to change
        if self.accelerator.is_main_process:
            self.run.begin()

    def read(self, photographs: PhotoDataset[Any, Item], bar: Progress) -> Generator[Item, None, None]:
        """This process's shares of the steps that are left, made of these photographs; ``bar`` hears of broken ones."""
        settings, accelerator = self.preset.optimisation, self.accelerator
        return photographs.loader(
            self.state.step,
            settings.steps,
            settings.batch_size,
            accelerator.process_index,
            accelerator.num_processes,
            self.options.workers,
            on_broken=lambda name, error: bar.fail(name, error, counted=False),
        )

    def batches(self, bar: Progress) -> Generator[Batch, None, None]:
        """The labelled batches of the steps that are left."""
        return self.read(self.data, bar)

    def take(
        self,
        items: Callable[[Progress], Generator[Item, None, None]],
        make_batches: Callable[[Item], Sequence[WeightedBatch]],
        *,
        name: str = "train",
        note: Callable[[Progress], Mapping[str, float]] = lambda bar: {},
        rising: bool = True,
    ) -> int:
        """Take the steps that are left; how many they were.

        Args:
            items: what the steps are made of, from the state's step on; told of the bar for its messages.
            make_batches, rising: as in ``fit``.
            note: what else belongs into the record of the step just done.

        Raises:
            TrainingError: as ``fit`` and ``RunFolder.save``.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, with a checkpoint written.
        """
        state, options, run, main = self.state, self.options, self.run, self.accelerator.is_main_process
        settings = self.preset.optimisation
        first, last = state.step, settings.steps
        show = options.show_progress and main
        with (
            progress_bar(name, last - first, first, show=show, unit="step") as bar,
            interruptible() as wanted_end,
            contextlib.closing(items(bar)) as given,
            contextlib.closing(
                fit(
                    state,
                    given,
                    self.accelerator,
                    settings,
                    device=self.device,
                    make_batches=make_batches,
                    rising=rising,
                )
            ) as steps,
        ):
            for message in self.messages:
                bar.print(message)
            saved = time.monotonic()
            for record in steps:
                noted = note(bar)
                if main:
                    run.log({**record, **noted})
                bar.advance(f"loss {record['loss']:.3f}")
                end = _any(wanted_end(), self.accelerator, self.device)
                if main and (end or state.step == last or time.monotonic() - saved > options.save_every):
                    run.save(state)
                    spent = f"{record['seconds']:.2f} s/step"
                    bar.print(f"checkpoint of step {state.step}: loss {record['loss']:.4g}, {spent}")
                    saved = time.monotonic()
                if end:
                    raise KeyboardInterrupt
                if main and options.sample_every and (state.step % options.sample_every == 0 or state.step == last):
                    sheet = _sheet_of(state.averaged, self.data, self.accelerator, self.device)
                    run.picture(f"{SAMPLES}/step-{state.step:06d}.png", sheet)
        return state.step - first


@contextlib.contextmanager
def open_training_run(
    labels: Path,
    output: Path,
    preset: Preset,
    *,
    seed: int = 0,
    root: Path | None = None,
    overwrite: bool = False,
    options: RunOptions | None = None,
    start: Initialisation | None = None,
    further: Mapping[str, Any] | None = None,
) -> Iterator[TrainingRun]:
    """Open a run; nothing is written before ``TrainingRun.begin``.

    Args:
        start: whose weights a new run begins with; None for the backbone's.
        further: plain values that decide the result, beside preset, labels and seed.
        labels, output, seed, root, overwrite, options: as in ``train``.

    Raises:
        MasktreeError: as ``train``.
    """
    options = options or RunOptions()
    if not 0 <= seed < 2**32:
        raise InputError(f"expected a seed from 0 to {2**32 - 1}; got {seed}")
    label_set = LabelSet.open(labels, root=root)
    device = resolve_process_device(options.device)
    with contextlib.ExitStack() as stack:
        accelerator = stack.enter_context(accelerated(device, options.precision))
        preset.optimisation.check_processes(accelerator.num_processes)
        if accelerator.is_main_process:
            stack.enter_context(lock_folder(output))
        store = _open_store(label_set, accelerator, options)
        training, record = _describe(preset, seed, store, label_set, accelerator, device)
        if start is not None:
            training["start"] = start.sha256
            record["start"] = str(start.folder.resolve())
        run = RunFolder.open(output, preset.model, training | dict(further or {}), record, overwrite=overwrite)
        stack.callback(run.close)
        model, taken = _build(preset.model, seed, accelerator, start, fresh=run.step == 0)
        if run.step == 0:
            pretrained = _hash_pretrained(model) if start is None else start.pretrained
            run.header["record"] |= {"pretrained_sha256": pretrained, "taken": taken}
        state = TrainingState.begin(model.to(device), preset.optimisation)
        augmentation = replace(preset.augmentation, cues=model.wants_cues)  # type: ignore[arg-type]
        folder = Path(label_set.index["root"])
        data = LabelledDataset(store, folder, augmentation, seed, skip_broken=options.skip_broken)
        messages = [] if start is None or taken is None else [f"begins with {taken} of {start.folder}"]
        yield TrainingRun(run, state, store, folder, data, preset, accelerator, device, options, seed, messages)


def _open_store(label_set: LabelSet, accelerator: Accelerator, options: RunOptions) -> LabelStore:
    new = not (label_set.folder / "store").is_dir()
    show = options.show_progress and accelerator.is_main_process and new
    with accelerator.main_process_first(), progress_bar("read labels", len(label_set), 0, show=show) as bar:
        return LabelStore.of(label_set, progress=bar)


def _describe(
    preset: Preset,
    seed: int,
    store: LabelStore,
    label_set: LabelSet,
    accelerator: Accelerator,
    device: torch.device,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What decides the result, and what is only noted."""
    optimisation = asdict(preset.optimisation)
    images, accumulation_steps = len(store.filled()), optimisation.pop("accumulation_steps")
    if images < preset.optimisation.batch_size:
        raise InputError(
            f"expected at least {preset.optimisation.batch_size} images with masks, as many as a step has; got "
            f"{images} in {label_set.folder}; label more photographs, or lower --batch-size"
        )
    augmentation = asdict(preset.augmentation)
    del augmentation["cues"]  # the model's to say
    training = {
        "optimisation": optimisation,
        "augmentation": augmentation,
        "precision": {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[accelerator.mixed_precision],
        "seed": seed,
        "labels": {"key": store.key, "images": images, "masks": store.masks},
    }
    record = {
        "labels": str(label_set.folder.resolve()),
        "label_weights": label_set.index["weights"],
        "device": str(device),
        "processes": accelerator.num_processes,
        "accumulation_steps": accumulation_steps,
    }
    return training, record


def _build(
    config: ModelConfig, seed: int, accelerator: Accelerator, start: Initialisation | None, *, fresh: bool
) -> tuple[nn.Module, str | None]:
    """The model, with the same new weights in every process, and what it got from ``start``. Those of a run that goes
    on come from its checkpoint; those of ``start`` have all of the backbone's in them."""
    with accelerator.main_process_first(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config, weights=fresh and start is None)
    assert isinstance(model, nn.Module)
    return model, start.load_into(model) if fresh and start is not None else None


def _hash_pretrained(model: nn.Module) -> str | None:
    """Of the values of all parameters that begin pretrained, whatever file they came from; None where none do."""
    digest, parameters = hashlib.sha256(), list(pretrained_parameters(model))
    for parameter in parameters:
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest() if parameters else None


def _any(value: bool, accelerator: Accelerator, device: torch.device) -> bool:
    """Whether it is true in any process: all must end at the same step."""
    if accelerator.num_processes == 1:
        return value
    return bool(accelerator.reduce(torch.tensor(float(value), device=device), "sum") > 0)


def _sheet_of(
    model: nn.Module, data: LabelledDataset, accelerator: Accelerator, device: torch.device
) -> Callable[[], Any]:
    """What draws the sample picture: one photograph after the other, so that it takes less memory than a step. Of each
    as many of the model's masks, the best, as there are pseudo-labels."""

    def draw() -> Any:
        batch, contents = data.preview(_SHOWN)
        rows = []
        for one, size in zip(split(batch, len(contents)), contents, strict=True):
            with torch.no_grad(), accelerator.autocast():
                moved = one.to(device)
                [found] = model.detect(moved.images, moved.cues, [size])  # type: ignore[operator]
            image = (255 * one.images[0, :, : size[0], : size[1]]).round().byte().permute(1, 2, 0)
            taught, tree = _taught(one.targets[0], size), tree_of(found, size, min_area=MIN_AREA)
            rows.append((image.contiguous().numpy(), taught, tree[np.arange(len(tree)) < len(taught)]))
        return draw_samples(rows)

    return draw


def _taught(targets: Targets, size: tuple[int, int]) -> MaskTree:
    """The targets of one image as a tree."""
    rles = [rle.encode(mask[: size[0], : size[1]].contiguous().numpy()) for mask in targets.masks]
    return MaskTree.from_rles(rles, size, targets.parents.numpy(), levels=targets.levels.numpy())
