"""The job of one photograph: segment it and write the tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from masktree.backbones.device import resolve_device
from masktree.coco.annotations import MAX_MASKS
from masktree.errors import InputError
from masktree.io.files import sha256_of
from masktree.io.images import decode_image
from masktree.io.photos import Photo
from masktree.io.raster import DecodedImage
from masktree.io.read_options import DEFAULT_OPTIONS, ReadOptions
from masktree.jobs import batch
from masktree.jobs.progress import loading
from masktree.jobs.record import RunRecord, run_fingerprint
from masktree.predict import DiscoverySegmenter, ModelSegmenter, SegmenterConfig
from masktree.stages.pictures import Pictures, SavedTree
from masktree.trees import file as treefile
from masktree.trees.masktree import MaskTree
from masktree.trees.scores import limit_masks

SINGLE_PROCESS_IMAGES = 4  # up to this many images, worker processes cost more to start than they save (our choice)
_WORKERS_PER_SPARE = 4  # reading and writing take 2 to 20 % of an image's time, the more the smaller it is (measured)
Step = Literal["read", "segment", "write"]
_BATCHES_PER_GROUP = 2  # (our choice: photographs of a collection have few shapes; more are more memory)
BATCH_SIZE = 8  # of a trained model on an accelerator (our choice)


def resolve_batch_size(requested: int, config: SegmenterConfig) -> int:
    """Photographs that go through the network together: as requested; for 0, several for a trained model on an
    accelerator, else one.

    Raises:
        InputError: a negative number, or an unknown device.
        WeightsError: this machine has no such device.
    """
    if requested < 0:
        raise InputError(f"expected batch_size >= 0; got {requested}; 0 chooses")
    if requested or config.model is None:
        return requested or 1
    return 1 if resolve_device(config.device).type == "cpu" else BATCH_SIZE


@dataclass(frozen=True)
class _ReadPhoto:
    decoded: DecodedImage
    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class SegmentResult:
    """What a batch should know of a segmented photograph: how many masks ``max_masks`` has left out, and what was not
    looked at, see ``masktree.io.raster.DecodedImage.notes``."""

    omitted: int
    notes: dict[str, str]


class SegmentJob:
    """Segments one photograph. The segmenter is loaded once per process, on first use.

    Attributes:
        config: of the segmenter.
        output: folder of the results.
        pictures: what is drawn.
        for_labels: whether the trees become pseudo-labels, which hold no dendrogram and at most ``MAX_MASKS`` masks.
        max_labels: of an image, those with the highest scores; None keeps all.
        read_options: how photographs are read.
        in_tiles: whether all photographs are segmented in tiles, which gives other trees; the side of the tiles where
            trees depend on it.
        batch_size: photographs that go through the network together; changes nothing but rounding.
        fingerprint: of the run, written into every tree; set by ``open_record``.
    """

    def __init__(
        self,
        config: SegmenterConfig,
        output: Path,
        pictures: Pictures,
        *,
        for_labels: bool = False,
        max_labels: int | None = None,
        read_options: ReadOptions = DEFAULT_OPTIONS,
        in_tiles: bool | int = False,
        batch_size: int = 1,
    ) -> None:
        self.config = config
        self.output = output
        self.pictures = pictures
        self.for_labels = for_labels
        self.max_labels = max_labels
        self.read_options = read_options
        self.in_tiles = in_tiles
        self.batch_size = batch_size
        self.fingerprint = ""
        self._segmenter: DiscoverySegmenter | ModelSegmenter | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_segmenter": None}  # each worker process loads its own

    @property
    def segmenter(self) -> DiscoverySegmenter | ModelSegmenter:
        if self._segmenter is None:
            self._segmenter = self.config.load()
        return self._segmenter

    def load(self, *, show_progress: bool) -> None:
        """Load the segmenter in this process, which may take seconds or, with a download, minutes.

        Raises:
            WeightsError: the backbone or model cannot be loaded.
        """
        with loading(self.config.model or f"the backbone {self.config.backbone or 'embedded'}", show=show_progress):
            _ = self.segmenter

    def open_record(self, folder: Path, settings: dict[str, Any], overwrite: bool) -> RunRecord:
        """The record of this run, with further ``settings`` that do not change the trees. Pictures may change: they are
        drawn again.

        Loads the weights, so that a wrong name fails before any work.
        """
        config, weights = self.identify()
        config |= settings | {"pictures": asdict(self.pictures)}
        return RunRecord.open(folder, config, weights, overwrite=overwrite, ignored_keys=frozenset({"pictures"}))

    def identify(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Set the fingerprint; returns the settings and the weights that decide the trees. Loads the weights."""
        weights = asdict(self.segmenter.provenance)
        config = self.config.record() | {"device": self.segmenter.device}
        config |= {"labels_per_image": self.max_labels} if self.for_labels else {}
        config |= {"read": given} if (given := self.read_options.record()) else {}
        config |= {"in_tiles": self.in_tiles} if self.in_tiles else {}
        self.fingerprint = run_fingerprint(config, weights)
        return config, weights

    def resolve_workers(self, requested: int, num_images: int) -> int:
        """Number of processes; 0 means one per core, or one on an accelerator and for a few images."""
        single = self.segmenter.device != "cpu" or num_images <= SINGLE_PROCESS_IMAGES
        return batch.resolve_workers(requested, single=single)

    def spare_processes(self, workers: int, photos: Sequence[Photo]) -> int:
        """Number of processes that read and write while others compute; a process takes 400 to 800 MB (our choice)."""
        is_remote = any("://" in photo.location for photo in photos)
        return 0 if workers == 1 else max(workers // _WORKERS_PER_SPARE, int(is_remote))

    def files(self, photo: Photo) -> SavedTree:
        """The tree of a photograph, and with it the pictures."""
        return SavedTree(self.output / f"{photo.name}.json", photo.path)

    def is_finished(self, photo: Photo) -> bool:
        """Whether there is a tree of this configuration and of the current content of the photograph."""
        tree_path = self.files(photo).tree
        header = treefile.read_header(tree_path) if tree_path.exists() else None
        if header is None or header.get("run") != self.fingerprint:
            return False
        # Dates say nothing: cp -p, rsync -t, unzip and git checkout give a new picture an old one.
        return photo.has_sha256(header.get("sha256"))

    def unfinished(self, photos: Sequence[Photo]) -> list[Photo]:
        """Those without a result; photographs with one are hashed, by several threads as reading takes the time."""
        with ThreadPoolExecutor() as threads:
            finished = list(threads.map(self.is_finished, photos))
        return [photo for photo, is_done in zip(photos, finished, strict=True) if not is_done]

    @property
    def group_size(self) -> int:
        """Photographs that ``do_together`` should be given: more than go through the network together, as only those of
        one shape do."""
        return 1 if self.batch_size == 1 else self.batch_size * _BATCHES_PER_GROUP

    def __call__(self, photo: Photo, report: Callable[[Step], object] = lambda _: None) -> SegmentResult:
        """Write the tree and the pictures; ``report`` is called when a step begins."""
        report("read")
        image = self._read(photo)
        with batch.computing():
            report("segment")
            self.config.seed_generators()
            tree = self.segmenter(image.decoded.rgb)
        report("write")
        return self._write(photo, image, tree)

    def do_together(self, photos: Sequence[Photo]) -> list[SegmentResult]:
        """As a call for each photograph, but up to ``batch_size`` of them go through the network together."""
        images = [self._read(photo) for photo in photos]
        with batch.computing():
            self.config.seed_generators()
            trees = self.segmenter.segment_batch([image.decoded.rgb for image in images], batch_size=self.batch_size)
        return [self._write(*item) for item in zip(photos, images, trees, strict=True)]

    def _read(self, photo: Photo) -> _ReadPhoto:
        with photo.local() as path:
            # Hashed before it is read: if it changes in between, the next run sees another hash and does it again.
            digest, num_bytes = sha256_of(path), path.stat().st_size
            return _ReadPhoto(decode_image(path, self.read_options), digest, num_bytes)

    def _write(self, photo: Photo, image: _ReadPhoto, tree: MaskTree) -> SegmentResult:
        files = self.files(photo)
        if self.max_labels is not None:
            tree = limit_masks(tree, min_score=0.0, max_masks=self.max_labels)
        if self.for_labels:
            if len(tree) > MAX_MASKS:
                raise InputError(f"expected at most {MAX_MASKS} masks; got {len(tree)}; raise min_area")
            tree = replace(tree, dendrogram=None)
        source: dict[str, Any] = {"file_name": photo.location, "bytes": image.num_bytes, "sha256": image.sha256}
        given = self.read_options.record()
        source |= image.decoded.record() | ({"read": given} if given else {})
        tree.save(files.tree, image=source | {"run": self.fingerprint})
        # Pictures come second: one without a tree is never masktree's.
        self.pictures.write(files, image.decoded.rgb, tree)
        return SegmentResult(tree.omitted, image.decoded.notes)
