"""The stage: a label set in, a run's folder out."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from masktree import rle
from masktree.errors import InputError
from masktree.files import only_writer
from masktree.labels import LabelSet
from masktree.masks import MaskTree
from masktree.progress import Progress, progress_bar
from masktree.segmenter.batch import Batch, Targets
from masktree.segmenter.build import build_model
from masktree.segmenter.config import ModelConfig
from masktree.segmenter.trees import MIN_AREA, tree_of
from masktree.train.data import TrainingData
from masktree.train.loop import (
    Precision,
    State,
    accelerated,
    fit,
    interruptible,
    resolve_process_device,
    split,
    whole,
)
from masktree.train.pictures import draw_samples
from masktree.train.presets import Preset
from masktree.train.run import SAMPLES, RunFolder
from masktree.train.store import LabelStore

if TYPE_CHECKING:
    from accelerate import Accelerator

_SHOWN = 4  # photographs in a sample picture (our choice)
_SHOWN_SCORE = 0.3  # least score of a mask in it, so that it shows what the model is sure of (our choice)


@dataclass(frozen=True)
class Options:
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


def train(
    labels: Path,
    output: Path,
    preset: Preset,
    *,
    seed: int = 0,
    root: Path | None = None,
    overwrite: bool = False,
    options: Options | None = None,
) -> int:
    """Train a model on a label set, from its beginning or from the last checkpoint in ``output`` on.

    Under ``torchrun`` every process calls this; they share the images of each step, and the same folders.

    Args:
        labels: folder of a finished label set, from ``masktree discover``.
        output: the run's folder; see ``masktree.train.run``.
        preset: from ``masktree.train.presets``.
        seed: of the new weights and of every random choice.
        root: where the photographs are now, if they were moved.
        overwrite: begin anew where another run is.

    Returns:
        The number of steps that were done now.

    Raises:
        FormatError: no label set, an unfinished or damaged one; a damaged run.
        InputError: too few images; a run with other settings; a value out of range.
        WeightsError: the backbone cannot be had, or there is no such device.
        TrainingError: losses that are not finite, no memory, no room on the disk.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with a checkpoint of the last whole step written.
    """
    options = options or Options()
    if not 0 <= seed < 2**32:
        raise InputError(f"expected a seed from 0 to {2**32 - 1}; got {seed}")
    label_set = LabelSet.open(labels, root=root)
    device = resolve_process_device(options.device)
    with contextlib.ExitStack() as stack:
        accelerator = stack.enter_context(accelerated(device, options.precision))
        preset.optimisation.check_processes(accelerator.num_processes)
        main = accelerator.is_main_process
        if main:
            stack.enter_context(only_writer(output))
        store = _open_store(label_set, accelerator, options)
        training, record = _describe(preset, seed, store, label_set, accelerator, device)
        run = RunFolder.open(output, preset.model, training, record, overwrite=overwrite)
        model = _build(preset.model, seed, accelerator, fresh=run.step == 0).to(device)
        if run.step == 0:
            run.header["record"]["pretrained_sha256"] = _hash_pretrained(model)
        state = State.begin(model, preset.optimisation)
        run.restore(state)
        augmentation = replace(preset.augmentation, cues=model.wants_cues)  # type: ignore[arg-type]
        root = Path(label_set.index["root"])
        data = TrainingData(store, root, augmentation, seed, skip_broken=options.skip_broken)
        accelerator.wait_for_everyone()  # all have read what the first process is going to change
        if main:
            run.begin()
            stack.callback(run.close)
        return _go_on(run, state, data, preset, accelerator, device, options)


def _go_on(
    run: RunFolder,
    state: State,
    data: TrainingData,
    preset: Preset,
    accelerator: Accelerator,
    device: torch.device,
    options: Options,
) -> int:
    """Take the steps that are left; how many they were."""
    settings, main = preset.optimisation, accelerator.is_main_process
    first, last = state.step, settings.steps
    show = options.show_progress and main
    with (
        progress_bar("train", last - first, first, show=show, unit="step") as bar,
        interruptible() as wanted_end,
        contextlib.closing(_batches(data, first, last, settings.batch, accelerator, options, bar)) as batches,
    ):
        saved = time.monotonic()
        for record in fit(state, batches, accelerator, settings, device=device, parts=whole):
            if main:
                run.log(record)
            bar.advance(f"loss {record['loss']:.3f}")
            end = _any(wanted_end(), accelerator, device)
            if main and (end or state.step == last or time.monotonic() - saved > options.save_every):
                run.save(state)
                bar.tell(f"checkpoint of step {state.step}: loss {record['loss']:.4g}, {record['seconds']:.2f} s/step")
                saved = time.monotonic()
            if end:
                raise KeyboardInterrupt
            if main and options.sample_every and (state.step % options.sample_every == 0 or state.step == last):
                name = f"{SAMPLES}/step-{state.step:06d}.png"
                run.picture(name, _sheet_of(state.averaged, data, accelerator, device))
    return state.step - first


def _open_store(label_set: LabelSet, accelerator: Accelerator, options: Options) -> LabelStore:
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
    images, parts = len(store.filled()), optimisation.pop("parts")
    if images < preset.optimisation.batch:
        raise InputError(
            f"expected at least {preset.optimisation.batch} images with masks, as many as a step has; got {images} in "
            f"{label_set.folder}; label more photographs, or lower --batch"
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
        "parts": parts,
    }
    return training, record


def _build(config: ModelConfig, seed: int, accelerator: Accelerator, *, fresh: bool) -> nn.Module:
    """The model, with the same new weights in every process. Those of a run that goes on come from its checkpoint."""
    with accelerator.main_process_first(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config, weights=fresh)
    assert isinstance(model, nn.Module)
    return model


def _hash_pretrained(model: nn.Module) -> str | None:
    """Of the values of all parameters that begin pretrained, whatever file they came from; None where none do."""
    pyramid = getattr(model, "pyramid", None)
    if pyramid is None:
        return None
    digest = hashlib.sha256()
    for parameter in pyramid.pretrained_parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _batches(
    data: TrainingData,
    first: int,
    last: int,
    batch: int,
    accelerator: Accelerator,
    options: Options,
    bar: Progress,
) -> Generator[Batch, None, None]:
    yield from data.loader(
        first,
        last,
        batch,
        accelerator.process_index,
        accelerator.num_processes,
        options.workers,
        on_broken=lambda name, error: bar.fail(name, error, counted=False),
    )


def _any(value: bool, accelerator: Accelerator, device: torch.device) -> bool:
    """Whether it is true in any process: all must end at the same step."""
    if accelerator.num_processes == 1:
        return value
    return bool(accelerator.reduce(torch.tensor(float(value), device=device), "sum") > 0)


def _sheet_of(
    model: nn.Module, data: TrainingData, accelerator: Accelerator, device: torch.device
) -> Callable[[], Any]:
    """What draws the sample picture: one photograph after the other, so that it takes less memory than a step."""

    def draw() -> Any:
        batch, contents = data.preview(_SHOWN)
        rows = []
        for one, size in zip(split(batch, len(contents)), contents, strict=True):
            with torch.no_grad(), accelerator.autocast():
                moved = one.to(device)
                [found] = model.detect(moved.images, moved.cues, [size])  # type: ignore[operator]
            image = (255 * one.images[0, :, : size[0], : size[1]]).round().byte().permute(1, 2, 0)
            tree = tree_of(found, size, min_area=MIN_AREA, min_score=_SHOWN_SCORE)
            rows.append((image.contiguous().numpy(), _taught(one.targets[0], size), tree))
        return draw_samples(rows)

    return draw


def _taught(targets: Targets, size: tuple[int, int]) -> MaskTree:
    """The targets of one image as a tree."""
    rles = [rle.encode(mask[: size[0], : size[1]].contiguous().numpy()) for mask in targets.masks]
    return MaskTree.from_rles(rles, size, targets.parents.numpy(), levels=targets.levels.numpy())
