"""Resumable writing of a label set, shard by shard."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from masktree.coco.annotations import read_sources, tree_from_annotations, tree_to_annotations
from masktree.coco.document import read_document, read_info, write_document
from masktree.errors import FormatError, InputError
from masktree.io.files import read_json, remove_empty_folders, sha256_of, write_json
from masktree.io.photos import Photo
from masktree.jobs.batch import JobResult
from masktree.jobs.record import RunRecord
from masktree.labels.card import write_card
from masktree.labels.statistics import Statistics
from masktree.trees import file as treefile
from masktree.trees.masktree import MaskTree

_OWN_NAMES = ("index.json", "card.md", "annotations", "pending", "missing.json")
_SHARD_NAME = re.compile(r"\d{5,}\.json")
SHARD_SIZE = 1000  # images: files of tens of megabytes, which any JSON reader can load (our choice)


def pending_folder(folder: Path) -> Path:
    """Folder of the trees whose shard is not complete yet."""
    return folder / "pending"


class LabelSetWriter:
    """Collects one tree file per image under ``pending`` and writes each complete shard as one COCO file.

    Image ids are positions in the sorted collection, from 1: unique, and unchanged when a run is resumed. The next
    run retries failed images and rewrites their shards.
    """

    def __init__(self, folder: Path, root: Path, photos: Sequence[Photo], shard_size: int) -> None:
        self.folder = folder
        self.root = root
        self.photos = list(photos)
        self.shard_size = shard_size
        self.pending = pending_folder(folder)
        self._position = {photo.name: index for index, photo in enumerate(self.photos)}
        self._errors: dict[str, str] = {}
        self._finish_shard: Callable[[int], object] = self._write_shard
        self._done = self._unchanged({name: sha for shard in self.shards for name, sha in self._hashes(shard).items()})
        self._missing = [
            {photo.name for photo in self.members(shard) if not self.has(photo) and not self._tree_path(photo).exists()}
            for shard in self.shards
        ]

    @classmethod
    def open(
        cls,
        folder: Path,
        root: Path,
        photos: Sequence[Photo],
        *,
        shard_size: int | None = None,
        overwrite: bool = False,
    ) -> LabelSetWriter:
        """Start or resume a label set of the photographs under ``root``.

        Args:
            shard_size: images per COCO file; None: that of the existing label set, or 1000.

        Raises:
            InputError: the folder has a label set of other photographs or of another shard size, or files of
                something else.
            FormatError: its plan.json is damaged or of something else.
        """
        path = folder / "plan.json"
        foreign_files = [] if path.exists() else [name for name in _OWN_NAMES if (folder / name).exists()]
        if foreign_files:
            raise InputError(
                f"expected no foreign files where labels go; got {folder / foreign_files[0]}; choose another output "
                "folder"
            )
        existing = None
        if path.exists():
            existing = read_json(path, {"root": str, "shard_size": int, "images": list})
            overwrite = overwrite or not _has_labels(folder)  # a run that has made nothing does not bind the next one
            existing = None if overwrite else existing
        if shard_size is None:
            shard_size = existing["shard_size"] if existing else SHARD_SIZE
        if shard_size < 1:
            raise InputError(f"expected a shard size of at least 1 image; got {shard_size}")
        plan = {
            "root": _root_name(root),
            "shard_size": shard_size,
            "images": [photo.path.relative_to(root).as_posix() for photo in photos],
        }
        changed = [key for key in ("shard_size", "images") if existing and existing[key] != plan[key]]
        if changed:
            raise InputError(
                f"expected the collection of the label set in {folder}; {', '.join(changed)} changed; "
                "choose another output folder, or --overwrite"
            )
        if overwrite:
            _remove_labels(folder)
        write_json(path, plan)
        return cls(folder, root, photos, shard_size)

    def has(self, photo: Photo) -> bool:
        """Whether the image is in a finished shard."""
        return self._file_name(photo) in self._done

    def add(self, result: JobResult[Photo]) -> None:
        """Record the outcome of one image; writes its shard if it was the last one missing."""
        if result.error is not None:
            self._errors[result.item.name] = result.error
        shard = self._position[result.item.name] // self.shard_size
        self._missing[shard].discard(result.item.name)
        if not self._missing[shard]:
            self._finish_shard(shard)

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Inside, ``add`` leaves complete shards to a thread, so that what makes trees does not wait for it; at the end
        of the block they are written. After an exception the one that is begun is finished, and the others are left.

        Raises:
            OSError, FormatError: a shard cannot be written; from the next complete one or the end of the block.
        """
        begun: list[Future[None]] = []

        def submit(shard: int) -> None:
            for future in begun:
                if future.done():
                    future.result()
            begun.append(thread.submit(self._write_shard, shard))

        with ThreadPoolExecutor(1, "shards") as thread:
            self._finish_shard = submit
            try:
                yield
            except BaseException:
                thread.shutdown(cancel_futures=True)
                raise
            finally:
                self._finish_shard = self._write_shard
        for future in begun:
            future.result()

    def write_remaining(self, shards: Iterable[int]) -> None:
        """Write those shards that are not written yet, or have trees that wait for them."""
        for shard in shards:
            if not self._shard_path(shard).exists() or any(self._tree_path(p).exists() for p in self.members(shard)):
                self._write_shard(shard)

    def close(self, record: RunRecord, sources: Sequence[dict[str, Any]] = ()) -> None:
        """Write the remaining shards, the card and, last, the manifest.

        Args:
            sources: of a merged set, the description of each source.
        """
        shards, total, unlabelled = [], Statistics(), []
        self.write_remaining(self.shards)
        for shard in self.shards:
            info = _shard_info(self._shard_path(shard))
            statistics = Statistics.from_json(info["statistics"])
            total.merge(statistics)
            failed = {failure["file_name"] for failure in info["failures"]}
            names = [name for photo in self.members(shard) if (name := self._file_name(photo)) not in failed]
            if len(names) != len(statistics.masks_per_image):
                raise FormatError(
                    f"{self._shard_path(shard)}: expected statistics of {len(names)} images; got "
                    f"{len(statistics.masks_per_image)}; make the label set again with --overwrite"
                )
            counts = zip(names, statistics.masks_per_image, strict=True)
            unlabelled += [name for name, count in counts if count == 0]
            shards.append(
                {
                    "file": self._shard_path(shard).relative_to(self.folder).as_posix(),
                    "sha256": sha256_of(self._shard_path(shard)),
                    "images": len(statistics.masks_per_image),
                    "masks": sum(statistics.masks_per_image),
                    "failures": info["failures"],
                }
            )
        remove_empty_folders(self.pending)
        index = {
            "format": "masktree-labels",
            "version": 1,
            "root": _root_name(self.root),
            "config": record.config,
            "weights": record.weights,
            "summary": total.summary() | {"seconds_per_image": record.seconds_per_image},
            "shards": shards,
        }
        if sources:
            index["sources"] = [source | total.outcomes(i) for i, source in enumerate(sources)]
        write_card(self.folder / "card.md", index, unlabelled)
        write_json(self.folder / "index.json", index, indent=1)

    def _write_shard(self, shard: int) -> None:
        """Write one COCO file of all images of a shard that have a tree, then remove the pending trees."""
        written = self._read_shard(shard)
        hashes = {name: sha for name, sha in self._hashes(shard).items() if sha}
        images: list[dict[str, Any]] = []
        failures: list[dict[str, str]] = []
        annotations: list[Iterable[dict[str, Any]]] = []  # of each image
        statistics = Statistics()
        for photo in self.members(shard):
            file_name, image_id = self._file_name(photo), self._position[photo.name] + 1
            image: dict[str, Any]
            if self._tree_path(photo).exists():
                tree = MaskTree.load(self._tree_path(photo))
                image = {"id": image_id, "file_name": file_name, "height": tree.size[0], "width": tree.size[1]}
                header = treefile.read_header(self._tree_path(photo)) or {}
                if header.get("left_out"):
                    image["left_out"] = header["left_out"]
                if header.get("sha256"):
                    hashes[file_name] = header["sha256"]
                sources = read_sources(header, len(tree))
                annotations.append(_annotations_of(tree, image_id, sources))
            elif file_name in written:
                image, entries = written[file_name]
                tree = tree_from_annotations(entries, (image["height"], image["width"]), file_name)
                sources = [entry["source"] for entry in entries if "source" in entry]
                annotations.append(entries)
            else:
                error = self._errors.get(photo.name, "not done")
                failures.append({"file_name": file_name, "error": error})
                continue
            images.append(image)
            statistics.add(tree)
            statistics.add_sources(sources or (), image.get("left_out", {}))
        info = {
            "description": "masktree pseudo-labels",
            "statistics": statistics.to_json(),
            "failures": failures,
            "sha256": hashes,
        }
        (self.folder / "index.json").unlink(missing_ok=True)  # it holds the hash of the shard that is replaced
        write_document(self._shard_path(shard), info, images, itertools.chain.from_iterable(annotations))
        for photo in self.members(shard):
            self._tree_path(photo).unlink(missing_ok=True)

    def _hashes(self, shard: int) -> dict[str, str | None]:
        """SHA-256 of each image in a shard on disk by file name; None in a merged set, which does not read images."""
        if not self._shard_path(shard).exists():
            return {}
        info = _shard_info(self._shard_path(shard))
        failed, hashes = {failure["file_name"] for failure in info["failures"]}, info["sha256"]
        names = [self._file_name(photo) for photo in self.members(shard)]
        return {name: hashes.get(name) for name in names if name not in failed}

    def _unchanged(self, hashes: Mapping[str, str | None]) -> set[str]:
        """File names of the images that still have those hashes; several threads read, which takes the time."""
        photos = [photo for photo in self.photos if self._file_name(photo) in hashes]

        def is_unchanged(photo: Photo) -> bool:
            expected = hashes[self._file_name(photo)]
            return expected is None or photo.has_sha256(expected)

        with ThreadPoolExecutor() as threads:
            unchanged = threads.map(is_unchanged, photos)
            return {self._file_name(photo) for photo, is_same in zip(photos, unchanged, strict=True) if is_same}

    def _read_shard(self, shard: int) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Image record and annotations of each image in a shard on disk, by file name."""
        if not self._shard_path(shard).exists():
            return {}
        return {
            image["file_name"]: (image, annotations) for image, annotations in read_document(self._shard_path(shard))
        }

    @property
    def shards(self) -> range:
        """Numbers of all shards, from 0."""
        return range(-(-len(self.photos) // self.shard_size))

    def members(self, shard: int) -> list[Photo]:
        """The photographs of a shard."""
        return self.photos[shard * self.shard_size : (shard + 1) * self.shard_size]

    def _file_name(self, photo: Photo) -> str:
        return photo.path.relative_to(self.root).as_posix()

    def _shard_path(self, shard: int) -> Path:
        return self.folder / "annotations" / f"{shard:05d}.json"

    def _tree_path(self, photo: Photo) -> Path:
        return self.pending / f"{photo.name}.json"


def _annotations_of(tree: MaskTree, image_id: int, sources: list[int] | None) -> Iterator[dict[str, Any]]:
    """The annotations of an image, made when they are asked for: those of a shard take ten times its trees."""
    yield from tree_to_annotations(tree, image_id, sources)


def _root_name(root: Path) -> str:
    """The folder of the photographs as it is recorded; an address as it is."""
    kind, colon, rest = os.fspath(root).partition(":/")
    return (
        f"{kind}://{rest.lstrip('/')}" if colon and kind.isalnum() and not root.is_absolute() else str(root.resolve())
    )


def _has_labels(folder: Path) -> bool:
    """Whether there is a tree that waits for its shard, or a shard with an image."""
    if any(treefile.is_tree_file(path) for path in pending_folder(folder).rglob("*.json")):
        return True
    shards = (path for path in (folder / "annotations").glob("*.json") if _SHARD_NAME.fullmatch(path.name))
    return any(_shard_info(path)["statistics"].get("masks_per_image") != [] for path in shards)


def _remove_labels(folder: Path) -> None:
    """Remove what ``LabelSetWriter`` writes, and nothing else."""
    (folder / "index.json").unlink(missing_ok=True)
    for path in (folder / "annotations").glob("*.json"):
        if _SHARD_NAME.fullmatch(path.name):
            path.unlink()
    for path in pending_folder(folder).rglob("*.json"):
        if treefile.is_tree_file(path):
            path.unlink()
    remove_empty_folders(folder / "annotations")
    remove_empty_folders(pending_folder(folder))


def _shard_info(path: Path) -> dict[str, Any]:
    info = read_info(path)
    failures, hashes = info.get("failures"), info.setdefault("sha256", {})
    if (
        not isinstance(info.get("statistics"), dict)
        or not isinstance(failures, list)
        or not all(isinstance(failure, dict) and isinstance(failure.get("file_name"), str) for failure in failures)
        or not isinstance(hashes, dict)
    ):
        raise FormatError(
            f"{path}: expected a shard of a label set, with failures, statistics and hashes; got another file"
        )
    return info
