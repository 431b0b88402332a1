"""A training run that is open: label set, model, data and run folder, and the loop over its remaining steps."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from masktree.errors import InputError
from masktree.io.files import lock_folder, refuse_inputs
from masktree.jobs.progress import Progress, notify, progress_bar
from masktree.labels import LabelSet
from masktree.models.build import build_model as default_build_model
from masktree.models.config import ModelConfig
from masktree.models.structures import Batch, Model, Targets
from masktree.models.trees import tree_of
from masktree.train.distributed import accelerated, any_process, precision_of, resolve_process_device
from masktree.train.initialisation import Initialisation
from masktree.train.label_store import LabelStore
from masktree.train.labelled_dataset import LabelledDataset
from masktree.train.loop import Stateful, TrainingState, WeightedBatch, deferred_signals, fit, split_batch
from masktree.train.optimiser import pretrained_parameters
from masktree.train.options import RunOptions
from masktree.train.photo_dataset import PhotoDataset
from masktree.train.plots import draw_samples, require_matplotlib
from masktree.train.presets import Preset
from masktree.train.run_folder import CHECKPOINT, SAMPLES, RunFolder
from masktree.train.validation import HeldOutImages, Validation, hold_out
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from masktree.types import RGB

if TYPE_CHECKING:
    from accelerate import Accelerator

_NUM_SAMPLES = 4  # images in a sample picture (our choice)
Item = TypeVar("Item")


class ModelBuilder(Protocol):
    """``masktree.models.build.build_model``, or another maker of models."""

    def __call__(self, config: ModelConfig, *, weights: bool) -> Model: ...


@dataclass
class TrainingRun:
    """An open run, in one of the processes that share it.

    Attributes:
        folder: files of the run.
        state: that of the checkpoint after ``restore``.
        store, root: labels, and folder of their images.
        data: labelled batches.
        preset: settings.
        accelerator, device: where steps are computed.
        options: as given.
        show_progress: progress bars, in the main process.
        held_out: images that the run is measured on; None without.
        messages: shown before the first step.
    """

    folder: RunFolder
    state: TrainingState
    store: LabelStore
    root: Path
    data: LabelledDataset
    preset: Preset
    accelerator: Accelerator
    device: torch.device
    options: RunOptions
    show_progress: bool
    held_out: HeldOutImages | None = None
    messages: list[str] = field(default_factory=list)

    def without_held_out(self, indices: np.ndarray) -> np.ndarray:
        """Those of the images at ``indices`` that the run may learn from."""
        if self.held_out is None or self.held_out.store is not self.store:
            return indices
        return np.setdiff1d(indices, self.held_out.indices)

    def restore(self, teacher: Stateful | None = None) -> None:
        """Load the checkpoint, if there is one, and prepare the folder; ``teacher``: further state in checkpoints."""
        self.state.teacher = teacher
        self.folder.restore(self.state)
        self.accelerator.wait_for_everyone()  # the main process is about to change what all have read
        if self.accelerator.is_main_process:
            self.folder.prepare()
            self.folder.complete_save(self.state)

    def load(self, dataset: PhotoDataset[Any, Item], bar: Progress) -> Generator[Item, None, None]:
        """This process's share of the remaining steps of a data set; ``bar`` reports skipped images."""
        optimisation, accelerator = self.preset.optimisation, self.accelerator
        return dataset.loader(
            self.state.step,
            optimisation.steps,
            optimisation.batch_size,
            accelerator.process_index,
            accelerator.num_processes,
            self.options.workers,
            on_broken=lambda name, error: bar.fail(name, error, counted=False),
        )

    def labelled_batches(self, bar: Progress) -> Generator[Batch, None, None]:
        """Labelled batches of the remaining steps."""
        return self.load(self.data, bar)

    def run_steps(
        self,
        load_items: Callable[[Progress], Generator[Item, None, None]],
        make_batches: Callable[[Item], Sequence[WeightedBatch]],
        *,
        title: str = "train",
        extra_metrics: Callable[[Progress], Mapping[str, float]] = lambda bar: {},
        ema_warmup: bool = True,
    ) -> int:
        """Take the remaining steps; returns their number.

        Args:
            load_items: the items of the steps, from ``state.step`` on.
            make_batches, ema_warmup: as in ``fit``.
            title: of the progress bar.
            extra_metrics: further metrics of the step just taken.

        Raises:
            TrainingError: as ``fit`` and ``RunFolder.save``.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, with a checkpoint written.
        """
        state, is_main, optimisation = self.state, self.accelerator.is_main_process, self.preset.optimisation
        first = state.step
        show = self.show_progress and is_main
        with (
            progress_bar(title, optimisation.steps - first, first, show=show, unit="step") as bar,
            deferred_signals() as is_interrupted,
            contextlib.closing(load_items(bar)) as items,
            contextlib.closing(
                fit(
                    state,
                    items,
                    self.accelerator,
                    optimisation,
                    device=self.device,
                    make_batches=make_batches,
                    ema_warmup=ema_warmup,
                )
            ) as steps,
        ):
            for message in self.messages:
                bar.print(message)
            last_saved = time.monotonic()
            for metrics in steps:
                further = {**extra_metrics(bar), **self._validate(bar)}
                if is_main:
                    self.folder.log({**metrics, **further})
                bar.advance(f"loss {metrics['loss']:.3f}")
                stop = any_process(is_interrupted(), self.accelerator, self.device)
                is_last = state.step == optimisation.steps
                if is_main and (stop or is_last or time.monotonic() - last_saved > self.options.save_every):
                    self.folder.save(state)
                    bar.print(
                        f"checkpoint at step {state.step}: loss {metrics['loss']:.4g}, {metrics['seconds']:.2f} s/step"
                    )
                    last_saved = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
                sample_every = self.options.sample_every
                if is_main and sample_every and (state.step % sample_every == 0 or is_last):
                    self.folder.save_picture(f"{SAMPLES}/step-{state.step:06d}.png", self._draw_samples)
        return state.step - first

    def _validate(self, bar: Progress) -> dict[str, float]:
        """The measure of the run's model by name, where it is due; keeps the best weights."""
        state, steps, held_out = self.state, self.preset.optimisation.steps, self.held_out
        if held_out is None or not held_out.validation.is_due(state.step, steps):
            return {}
        value = held_out.evaluate(state.result_model, self.accelerator, self.device, bar)
        name = held_out.validation.measure.name
        if self.accelerator.is_main_process:
            is_best = self.folder.keep_best(state, name, value, len(held_out.indices))
            bar.print(f"{name} of pseudo-labels held out, at step {state.step}: {value:.4f}{', the best' * is_best}")
        return {f"val_{name}": value}

    def _draw_samples(self) -> RGB:
        """Images, their pseudo-labels, and as many of the model's masks; one image at a time, to save memory."""
        batch, valid_sizes = self.data.preview(_NUM_SAMPLES)
        rows = []
        for single, size in zip(split_batch(batch, len(valid_sizes)), valid_sizes, strict=True):
            with torch.no_grad(), self.accelerator.autocast():
                inputs = single.to(self.device)
                # a Model, which nn.Module hides
                [detections] = self.state.ema_model.detect(inputs.images, inputs.cues, [size])  # type: ignore[operator]
            image = (255 * single.images[0, :, : size[0], : size[1]]).round().byte().permute(1, 2, 0)
            labels, predictions = _label_tree(single.targets[0], size), tree_of(detections, size)
            best = np.arange(len(predictions)) < len(labels)
            rows.append((image.contiguous().numpy(), labels, predictions[best]))
        return draw_samples(rows)


@contextlib.contextmanager
def open_training_run(
    labels: Path,
    output: Path,
    preset: Preset,
    options: RunOptions,
    *,
    initialisation: Initialisation | None = None,
    validation: Validation | None = None,
    extra_settings: Mapping[str, Any] | None = None,
    build_model: ModelBuilder = default_build_model,
    show_progress: bool = False,
) -> Iterator[TrainingRun]:
    """Open a run; nothing is written before ``TrainingRun.restore``.

    Args:
        labels, output, preset, options, validation, build_model, show_progress: as in ``train``.
        initialisation: the first weights of a new run; None for the backbone's.
        extra_settings: plain values that decide the result, beside preset, labels and seed.

    Raises:
        MasktreeError: as ``train``.
    """
    require_matplotlib()
    label_set = LabelSet.open(labels, root=options.root)
    refuse_inputs([output], [label_set.folder, *([initialisation.folder] if initialisation is not None else [])])
    device = resolve_process_device(options.device)
    with contextlib.ExitStack() as stack:
        accelerator = stack.enter_context(accelerated(device, options.precision))
        preset.optimisation.check_divisible(accelerator.num_processes)
        if accelerator.is_main_process:
            stack.enter_context(lock_folder(output))
        if initialisation is not None and (options.overwrite or not (output / CHECKPOINT).exists()):
            advice = initialisation.check(preset, build_model)  # reading the labels may take minutes
            notify(advice or "", show=show_progress and accelerator.is_main_process and advice is not None)
        store = _open_store(label_set, accelerator, show_progress)
        root = Path(label_set.index["root"])
        indices, held_out = _split(validation, store, root, options, accelerator, show_progress)
        settings, record = _header(preset, options.seed, store, len(indices), label_set, accelerator, device)
        if validation is not None and held_out is not None:
            settings |= {"held_out": {"share": validation.share}} if validation.share else {}
            record["validation"] = {"labels": str(held_out.store.folder.parent.parent), "images": len(held_out.indices)}
        if initialisation is not None:
            settings["init_sha256"] = initialisation.sha256
            record["init_from"] = str(initialisation.folder.resolve())
        folder = RunFolder.open(
            output, preset.model, settings | dict(extra_settings or {}), record, overwrite=options.overwrite
        )
        stack.callback(folder.close)
        is_new = folder.step == 0
        with accelerator.main_process_first(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)  # the same new weights in every process
            # A resumed run takes its weights from the checkpoint, another one's weights include the backbone's.
            model = build_model(preset.model, weights=is_new and initialisation is None)
        assert isinstance(model, nn.Module)
        loaded = initialisation.load_into(model) if is_new and initialisation is not None else None
        if is_new:
            pretrained = _hash_pretrained(model) if initialisation is None else initialisation.pretrained_sha256
            folder.header["record"] |= {"pretrained_sha256": pretrained, "loaded_tensors": loaded}
        if accelerator.num_processes > 1 and device.type == "cuda":  # no such layer on CPUs
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        state = TrainingState.new(model.to(device), preset.optimisation)
        augmentation = replace(preset.augmentation, cues=model.wants_cues)
        data = LabelledDataset(store, root, augmentation, options.seed, indices, skip_broken=options.skip_broken)
        run = TrainingRun(
            folder, state, store, root, data, preset, accelerator, device, options, show_progress, held_out
        )
        if initialisation is not None and loaded is not None:
            run.messages.append(f"initialised with {loaded} of {initialisation.folder}")
        yield run


def _open_store(label_set: LabelSet, accelerator: Accelerator, show_progress: bool) -> LabelStore:
    is_new = not (label_set.folder / "store").is_dir()
    show = show_progress and accelerator.is_main_process and is_new
    with accelerator.main_process_first(), progress_bar("read labels", len(label_set), 0, show=show) as bar:
        return LabelStore.of(label_set, progress=bar)


def _split(
    validation: Validation | None,
    store: LabelStore,
    root: Path,
    options: RunOptions,
    accelerator: Accelerator,
    show_progress: bool,
) -> tuple[np.ndarray, HeldOutImages | None]:
    """Indices of the images to learn from, and the images to measure on."""
    indices = store.images_with_masks()
    if validation is None:
        return indices, None
    if validation.labels is None:
        indices, kept = hold_out(indices, validation.share, options.seed)
        return indices, HeldOutImages(validation, store, root, kept, options.skip_broken)
    other = LabelSet.open(validation.labels)
    other_store = _open_store(other, accelerator, show_progress)
    if other_store.key == store.key:
        raise InputError(
            f"expected a label set of other images to measure on; got that of training, {validation.labels}; give one "
            "of other images, or a share such as 0.05 to hold out"
        )
    kept, other_root = other_store.images_with_masks(), Path(other.index["root"])
    return indices, HeldOutImages(validation, other_store, other_root, kept, options.skip_broken)


def _header(
    preset: Preset,
    seed: int,
    store: LabelStore,
    num_images: int,
    label_set: LabelSet,
    accelerator: Accelerator,
    device: torch.device,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings that decide the result, and what is only recorded."""
    optimisation, augmentation = asdict(preset.optimisation), asdict(preset.augmentation)
    accumulation_steps = optimisation.pop("accumulation_steps")
    del augmentation["cues"]  # decided by the model
    batch_size = preset.optimisation.batch_size
    if num_images < batch_size:
        raise InputError(
            f"expected at least {batch_size} images with masks, one batch; got {num_images} in {label_set.folder}; "
            "label more images, or lower --batch-size"
        )
    settings = {
        "optimisation": optimisation,
        "augmentation": augmentation,
        "precision": precision_of(accelerator),
        "seed": seed,
        "labels": {"key": store.key, "images": num_images, "masks": store.num_masks},
    }
    record = {
        "labels": str(label_set.folder.resolve()),
        "label_weights": label_set.index["weights"],
        "device": str(device),
        "processes": accelerator.num_processes,
        "accumulation_steps": accumulation_steps,
    }
    return settings, record


def _hash_pretrained(model: nn.Module) -> str | None:
    """SHA-256 of the values of all pretrained parameters, whatever file they come from; None without any."""
    digest, parameters = hashlib.sha256(), list(pretrained_parameters(model))
    for parameter in parameters:
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest() if parameters else None


def _label_tree(targets: Targets, size: tuple[int, int]) -> MaskTree:
    """The targets of one image as a tree."""
    rles = [rle.encode(mask[: size[0], : size[1]].contiguous().numpy()) for mask in targets.masks]
    return MaskTree.from_rles(rles, size, targets.parents.numpy(), levels=targets.levels.numpy())
