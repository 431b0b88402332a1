"""Stages over collections of photographs: configuration and paths in, a folder out.

Every stage can be stopped at any moment and started again with the same command: finished results are kept, and
the record of the run (or the manifest of the label set) is written last.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from masktree import batch
from masktree.errors import InputError
from masktree.files import read_json, write_atomically, write_json
from masktree.images import Photo, find_photos, read_image
from masktree.masks import MaskTree
from masktree.predict import Method, Quality, Segmenter, load
from masktree.progress import progress_bar
from masktree.runs import RunRecord
from masktree.types import RGB

_FEW = 4  # up to this many images a process pool costs more to start than it saves (our choice)


@dataclass(frozen=True)
class Config:
    """What decides the content of the results; recorded beside them.

    Attributes:
        backbone, method, quality, min_area, device, dtype: see ``masktree.load``.
        seed: of every random generator, set anew for each image, so results do not depend on order or workers.
        options: further keyword arguments of the method.
    """

    backbone: str = "embedded"
    method: Method = "masktree"
    quality: Quality = "fast"
    min_area: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def segmenter(self) -> Segmenter:
        """Load the segmenter; raises on anything that would fail for every image."""
        return load(
            self.backbone,
            device=self.device,
            dtype=self.dtype,
            method=self.method,
            quality=self.quality,
            min_area=self.min_area,
            **self.options,
        )


@dataclass(frozen=True)
class Outcome:
    """What a stage did: images done now, images kept from before, failures as {"path", "error"}."""

    done: int
    kept: int
    failures: list[dict[str, str]]


def segment(
    inputs: Sequence[str | Path],
    output: Path,
    config: Config,
    *,
    granularity: float = 0.5,
    overlay: bool = True,
    workers: int = 0,
    overwrite: bool = False,
    show_progress: bool = False,
) -> Outcome:
    """Write OUT/<relative path>.json, and .png with the overlay, for every photograph, and OUT/run.json.

    Args:
        inputs: files, folders (recursive), globs.
        output: folder, made if need be. Existing results are kept unless ``overwrite``.
        config: method, backbone and their options.
        granularity: cut that the overlay shows as entities, 0 (finest) to 1 (coarsest).
        overlay: whether to draw the pictures.
        workers: processes; 0 chooses: one per core, or one on an accelerator and for a few images.
        show_progress: a bar on standard error.

    Raises:
        InputError: no such input, or the folder holds results of another configuration.
        WeightsError: the backbone cannot be had.

    A photograph that fails is one entry of OUT/failures.json; the rest goes on.
    """
    if not 0.0 <= granularity <= 1.0:
        raise InputError(f"expected a granularity in [0, 1]; got {granularity}")
    photos, unlisted = find_photos(inputs, output)
    job = SegmentJob(config, output, granularity if overlay else None)
    record = RunRecord.open(
        output,
        asdict(config) | {"granularity": granularity, "overlay": overlay},
        job.provenance(),
        overwrite=overwrite,
        free=frozenset({"overlay"}),
    )
    record.failures += unlisted
    todo = [photo for photo in photos if overwrite or not job.finished(photo)]
    run_batch(todo, job, record, config, workers, len(photos) - len(todo), "segment", show_progress)
    failed = len(record.failures) - len(unlisted)
    return Outcome(len(todo) - failed, len(photos) - len(todo), record.failures)


def discover(
    folder: Path,
    output: Path,
    config: Config,
    *,
    labels_per_image: float | None = None,
    shard_size: int = 1000,
    workers: int = 0,
    overwrite: bool = False,
    show_progress: bool = False,
) -> Outcome:
    """Make a pseudo-label data set (see ``masktree.labels``) of every photograph in a folder.

    Args:
        folder: photographs, searched recursively.
        output, config, workers, overwrite, show_progress: as in ``segment``.
        labels_per_image: choose the method's thresholds so that images have about this many labels on average
            (SOHES, appendix D); measured on a sample of the photographs, without any ground truth.
        shard_size: images per COCO file.

    Raises:
        InputError: as ``segment``; also when the collection has changed since the run that is to be continued.
    """
    from masktree.labels import LabelSetWriter

    if not folder.is_dir():
        raise InputError(f"expected a folder of photographs; got {folder}")
    photos, unlisted = find_photos([folder], output)
    writer = LabelSetWriter.open(output, folder, photos, shard_size=shard_size, overwrite=overwrite)
    wish = asdict(config) | {"labels_per_image": labels_per_image}
    if labels_per_image is not None:
        config = _with_chosen_options(config, output / "thresholds.json", photos, labels_per_image, overwrite)
    job = SegmentJob(config, writer.pending, None)
    record = RunRecord.open(output, wish | {"options": config.options}, job.provenance(), overwrite=overwrite)
    record.failures += unlisted
    todo = [photo for photo in photos if not writer.finished(photo)]
    run_batch(todo, job, record, config, workers, len(photos) - len(todo), "discover", show_progress, writer.add)
    writer.close(record)
    failed = len(record.failures) - len(unlisted)
    return Outcome(len(todo) - failed, len(photos) - len(todo), record.failures)


def _with_chosen_options(config: Config, path: Path, photos: Sequence[Photo], wanted: float, overwrite: bool) -> Config:
    """Options for the wanted number of labels; chosen once and kept, so that a continued run uses the same."""
    from masktree.thresholds import choose_options

    if overwrite or not path.exists():
        write_json(path, {"wanted": wanted, "options": choose_options(photos, config.segmenter(), wanted)})
    chosen = read_json(path)
    if chosen["wanted"] != wanted:
        raise InputError(f"expected {chosen['wanted']:g} labels per image, as the run was begun; got {wanted:g}")
    return replace(config, options=chosen["options"])


class SegmentJob:
    """Tree, and picture, of one photograph. The segmenter is loaded once per process, on first use."""

    def __init__(self, config: Config, output: Path, granularity: float | None) -> None:
        self.config = config
        self.output = output
        self.granularity = granularity
        self._segmenter: Segmenter | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_segmenter": None}  # networks do not travel between processes

    @property
    def segmenter(self) -> Segmenter:
        if self._segmenter is None:
            self._segmenter = self.config.segmenter()
        return self._segmenter

    def provenance(self) -> dict[str, Any]:
        """Record of the weights; loading them here makes a wrong name fail before any work."""
        return asdict(self.segmenter.backbone.provenance)

    def paths(self, photo: Photo) -> tuple[Path, Path]:
        return self.output / f"{photo.name}.json", self.output / f"{photo.name}.png"

    def finished(self, photo: Photo) -> bool:
        tree, picture = self.paths(photo)
        return tree.exists() and (self.granularity is None or picture.exists())

    def __call__(self, photo: Photo) -> None:
        tree_path, picture_path = self.paths(photo)
        _seed_everything(self.config.seed)
        image = read_image(photo.path)
        tree = self.segmenter(image)
        if self.granularity is not None:
            _write_picture(picture_path, image, tree, self.granularity)
        tree.save(tree_path, image={"file_name": os.fspath(photo.path)})


def run_batch(
    todo: Sequence[Photo],
    job: SegmentJob,
    record: RunRecord,
    config: Config,
    workers: int,
    kept: int,
    description: str,
    show: bool,
    on_result: Callable[[batch.Result], None] | None = None,
) -> None:
    """Run ``job`` over ``todo`` into ``record``; on an interruption the record says so and the error goes on."""
    if workers < 0:
        raise InputError(f"expected workers >= 0; got {workers}")
    if workers == 0:
        accelerated = job.segmenter.backbone.device != "cpu"
        workers = 1 if accelerated or len(todo) <= _FEW else batch.available_cores()
    try:
        with progress_bar(description, len(todo), kept, show=show) as progress:
            for failure in record.failures:
                progress.fail(failure["path"], failure["error"])
            for result in batch.run(todo, job, workers=workers):
                record.add(result)
                if on_result is not None:
                    on_result(result)
                if result.error is None:
                    progress.advance()
                else:
                    progress.fail(str(result.photo.path), result.error)
    except BaseException:
        record.close("interrupted")
        raise
    record.close("complete")


def _write_picture(path: Path, image: RGB, tree: MaskTree, granularity: float) -> None:
    from PIL import Image

    from masktree.visualize import overlay

    picture = Image.fromarray(overlay(image, tree, granularity=granularity))
    # Level 1 takes a third of the default's time for a file that is 15 % larger.
    write_atomically(path, lambda handle: picture.save(handle, format="PNG", compress_level=1))


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # for libraries that use the global generator; our own code takes explicit ones
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
