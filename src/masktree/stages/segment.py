"""Stages over collections of photographs: configuration and paths in, a folder out.

Every stage can be stopped at any moment and started again with the same command: finished results are kept, and
the record of the run (or the manifest of the label set) is written last.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from masktree.errors import FormatError, InputError
from masktree.io.files import only_writer, read_json, sha256_of, write_atomically, write_json
from masktree.io.images import Photo, find_photos, read_image
from masktree.jobs import batch
from masktree.jobs.progress import progress_bar
from masktree.jobs.record import RunRecord, fingerprint
from masktree.models.saved import is_model
from masktree.predict import DiscoverySegmenter, Method, ModelSegmenter, Quality, load, load_model
from masktree.trees import file as treefile
from masktree.trees.masktree import MaskTree
from masktree.types import RGB

_FEW = 4  # up to this many images a process pool costs more to start than it saves (our choice)


@dataclass(frozen=True)
class Config:
    """What decides the content of the results; recorded beside them.

    Attributes:
        backbone, method, quality: see ``masktree.load``; embedded, masktree and fast if not given.
        model: a trained model instead of these three; see ``masktree.predict.load_model``.
        min_area, device, dtype: see ``masktree.load``.
        seed: of every random generator, set anew for each image, so results do not depend on order or workers.
        options: further keyword arguments of the method, or of the model.
    """

    backbone: str | None = None
    method: Method | None = None
    quality: Quality | None = None
    min_area: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    model: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise InputError(f"expected a seed from 0 to {2**32 - 1}; got {self.seed}")
        for name, default in (("backbone", "embedded"), ("method", "masktree"), ("quality", "fast")):
            if self.model is None and getattr(self, name) is None:
                object.__setattr__(self, name, default)
            elif self.model is not None and getattr(self, name) is not None:
                raise InputError(
                    f"expected --model without --{name}, which a trained model does not take; got "
                    f"{getattr(self, name)!r}; leave out one of the two"
                )

    def record(self) -> dict[str, Any]:
        """Plain values for the record of a run; ``model`` only where there is one, so that older runs go on."""
        return {name: value for name, value in asdict(self).items() if name != "model" or value is not None}

    @classmethod
    def of(cls, folder: Path) -> Config:
        """What outlines photographs as a trained model does, or as those of a label set were, with its thresholds.

        Raises:
            FormatError: no finished label set, or one that was made by other means, such as ``masktree merge``.
        """
        from masktree.labels import LabelSet

        if is_model(folder):
            return cls(model=str(folder))
        made = LabelSet.open(folder).index["config"]
        known = {name: made[name] for name in cls.__dataclass_fields__ if name in made}
        if made.get("method") not in get_args(Method) and "model" not in known:
            raise FormatError(
                f"{folder}: expected labels of a method or a model; got those of {made.get('method')!r}; give "
                "the label sets or runs that they come from"
            )
        return cls(**known)

    def segmenter(self) -> DiscoverySegmenter | ModelSegmenter:
        """Load the segmenter; raises on anything that would fail for every image."""
        if self.model is not None:
            return load_model(self.model, device=self.device, dtype=self.dtype, min_area=self.min_area, **self.options)
        assert self.backbone is not None
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
    photos, unlisted = find_photos(inputs)
    job = SegmentJob(config, output, granularity if overlay else None)
    workers = job.choose_workers(workers, len(photos))
    with only_writer(output):
        record = job.open_record(output, {"granularity": granularity}, overwrite)
        todo = photos if overwrite else [photo for photo in photos if not job.finished(photo)]
        _refuse_foreign_files(job, todo, record, overwrite)
        failed = run_batch(todo, unlisted, job, record, workers, len(photos) - len(todo), "segment", show_progress)
    return Outcome(len(todo) - failed, len(photos) - len(todo), record.failures)


def discover(
    folder: Path,
    output: Path,
    config: Config,
    *,
    labels_per_image: float | None = None,
    shard_size: int | None = None,
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
        shard_size: images per COCO file; 1000, or what the run that is continued has.

    Raises:
        InputError: as ``segment``; also when the collection has changed since the run that is to be continued.
    """
    from masktree.coco.annotations import MAX_MASKS
    from masktree.labels import LabelSetWriter
    from masktree.labels.writer import pending_folder

    if not folder.is_dir():
        raise InputError(f"expected a folder of photographs; got {folder}")
    photos, unlisted = find_photos([folder])
    with only_writer(output):
        # Whatever can be refused is refused before an earlier label set is touched.
        if labels_per_image is not None:
            config = _with_chosen_options(config, output / "thresholds.json", photos, labels_per_image, overwrite)
        job = SegmentJob(config, pending_folder(output), None, limit=MAX_MASKS)
        workers = job.choose_workers(workers, len(photos))
        record = job.open_record(output, {"labels_per_image": labels_per_image}, overwrite)
        writer = LabelSetWriter.open(output, folder, photos, shard_size=shard_size, overwrite=overwrite)
        todo = [photo for photo in photos if not writer.has(photo) and not job.finished(photo)]
        kept = len(photos) - len(todo)
        failed = run_batch(todo, unlisted, job, record, workers, kept, "discover", show_progress, writer.add)
        writer.close(record)
    return Outcome(len(todo) - failed, kept, record.failures)


def _with_chosen_options(config: Config, path: Path, photos: Sequence[Photo], wanted: float, overwrite: bool) -> Config:
    """Options for the wanted number of labels; chosen once and kept, so that a continued run uses the same."""
    from masktree.stages.target_count import choose_options

    wish = json.loads(json.dumps(config.record() | {"labels_per_image": wanted}))
    if overwrite or not path.exists():
        write_json(path, {"wish": wish, "options": choose_options(photos, config.segmenter(), wanted)})
    chosen = read_json(path, {"wish": dict, "options": dict})
    if chosen["wish"] != wish:
        changed = sorted(key for key in wish if chosen["wish"].get(key) != wish[key])
        raise InputError(
            f"expected the configuration that the thresholds in {path} were chosen for; {', '.join(changed)} changed; "
            "choose another output folder, or --overwrite"
        )
    return replace(config, options=chosen["options"])


def _refuse_foreign_files(job: SegmentJob, todo: Sequence[Photo], record: RunRecord, overwrite: bool) -> None:
    """Never write over a file that is not a result of ours, nor, unasked, over results of another configuration."""
    continued = (record.folder / "run.json").exists()
    for photo in todo:
        tree, picture = job.paths(photo)
        header = treefile.read_header(tree) if tree.exists() else None
        if header is None:
            foreign = [path for path in (tree, picture) if path.exists() and photo.name not in record.earlier]
            if foreign:
                raise InputError(
                    f"expected no foreign files where results go; got {foreign[0]}; choose another output folder"
                )
        elif not overwrite and not continued and header.get("run") != job.fingerprint:
            raise InputError(
                f"expected results of this configuration in {record.folder}; got others ({tree}) and no run.json; "
                "choose another output folder, or --overwrite"
            )


class SegmentJob:
    """Tree, and picture, of one photograph. The segmenter is loaded once per process, on first use.

    Attributes:
        output: folder of the results.
        granularity: of the picture; None draws none.
        limit: most masks that a result may have; None for no limit.
        fingerprint: of the run, written into every tree; set by ``open_record``.
    """

    def __init__(self, config: Config, output: Path, granularity: float | None, limit: int | None = None) -> None:
        self.config = config
        self.output = output
        self.granularity = granularity
        self.limit = limit
        self.fingerprint = ""
        self._segmenter: DiscoverySegmenter | ModelSegmenter | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_segmenter": None}  # networks do not travel between processes

    @property
    def segmenter(self) -> DiscoverySegmenter | ModelSegmenter:
        if self._segmenter is None:
            self._segmenter = self.config.segmenter()
        return self._segmenter

    def open_record(self, folder: Path, extra: dict[str, Any], overwrite: bool) -> RunRecord:
        """The record of this run; ``extra`` settings do not decide what the trees are. Loads the weights, so a wrong
        name fails before any work."""
        weights = asdict(self.segmenter.provenance)
        config = self.config.record() | {"device": self.segmenter.device}
        self.fingerprint = fingerprint(config, weights)
        free = frozenset({"overlay"} | ({"granularity"} if self.granularity is None else set()))
        config |= extra | {"overlay": self.granularity is not None}
        return RunRecord.open(folder, config, weights, overwrite=overwrite, free=free)

    def choose_workers(self, wanted: int, images: int) -> int:
        """Number of processes; 0 means one per core, or one on an accelerator and for a few images."""
        return batch.choose_workers(wanted, alone=self.segmenter.device != "cpu" or images <= _FEW)

    def paths(self, photo: Photo) -> tuple[Path, Path]:
        return self.output / f"{photo.name}.json", self.output / f"{photo.name}.png"

    def finished(self, photo: Photo) -> bool:
        """Whether the results are there, of this configuration and of the photograph as it is now."""
        tree, picture = self.paths(photo)
        if not tree.exists() or (self.granularity is not None and not picture.exists()):
            return False
        header = treefile.read_header(tree)
        if header is None or header.get("run") != self.fingerprint:
            return False
        try:
            now = photo.path.stat()
            unchanged = now.st_size == header.get("bytes") and now.st_mtime_ns <= tree.stat().st_mtime_ns
            return unchanged or sha256_of(photo.path) == header.get("sha256")
        except OSError:
            return True  # the photograph cannot be read any more; its result is all there is

    def __call__(self, photo: Photo) -> None:
        tree_path, picture_path = self.paths(photo)
        _seed_everything(self.config.seed)
        image = read_image(photo.path)
        tree = self.segmenter(image)
        if self.limit is not None and len(tree) > self.limit:
            raise InputError(f"expected at most {self.limit} masks; got {len(tree)}; raise min_area")
        source = {"file_name": os.fspath(photo.path), "bytes": photo.path.stat().st_size}
        tree.save(tree_path, image=source | {"sha256": sha256_of(photo.path), "run": self.fingerprint})
        # The picture comes second: a picture without its tree is never ours.
        if self.granularity is not None:
            _write_picture(picture_path, image, tree, self.granularity)


def run_batch(
    todo: Sequence[Photo],
    unlisted: list[dict[str, str]],
    job: Callable[[Photo], Any],
    record: RunRecord,
    workers: int,
    kept: int,
    description: str,
    show: bool,
    on_result: Callable[[batch.Result[Photo]], None] | None = None,
) -> int:
    """Run ``job`` over ``todo`` into ``record``; returns how many failed.

    On an interruption the record says so and the error goes on.
    """
    record.failures += unlisted
    record.write()
    failed = 0
    try:
        with progress_bar(description, len(todo), kept, show=show) as progress:
            for failure in unlisted:
                progress.fail(failure["path"], failure["error"], counted=False)
            for result in batch.run(todo, job, workers=workers):
                record.add(result)
                if on_result is not None:
                    on_result(result)
                if result.error is None:
                    progress.advance()
                else:
                    failed += 1
                    progress.fail(str(result.item.path), result.error)
    except BaseException:
        with contextlib.suppress(OSError):  # on a full disk the first error is the one to show
            record.close("interrupted")
        raise
    record.close("complete")
    return failed


def _write_picture(path: Path, image: RGB, tree: MaskTree, granularity: float) -> None:
    from PIL import Image

    from masktree.trees.draw import overlay

    picture = Image.fromarray(overlay(image, tree, granularity=granularity))
    # Level 1 takes a third of the default's time for a file that is 15 % larger.
    write_atomically(path, lambda handle: picture.save(handle, format="PNG", compress_level=1))


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # for libraries that use the global generator; our own code takes explicit ones
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
