"""Random access to the labels of each image: a memory-mapped copy of a label set, shared by all worker processes.

Layout, in the folder ``store`` of the label set or another one::

    KEY/store.json     manifest with the size of every column; the folder is renamed to KEY after it is written
    KEY/*.bin          columns: strings and arrays of all images, concatenated, little-endian

KEY is a hash of the hashes of the label set's shards: a changed label set gets a new store, and the old one is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from masktree.errors import FormatError, InputError, MasktreeError
from masktree.io.files import LOCK, read_json, write_json
from masktree.io.read_options import ReadOptions
from masktree.jobs.progress import NoProgress, Progress
from masktree.labels import LabelSet
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import MaskTree

_FORMAT, _VERSION = "masktree-store", 2
_KEY = re.compile("[0-9a-f]{16}")
# Per image: height and width, checksum, start of its name and of its masks; per mask: start of its run-length string,
# parent, level, score. Starts have one entry more.
_COLUMNS = {
    "names": "u1",
    "name_starts": "<i8",
    "sizes": "<i4",
    "checksums": "<u4",
    "mask_starts": "<i8",
    "rles": "u1",
    "rle_starts": "<i8",
    "parents": "<i4",
    "levels": "i1",
    "scores": "<f4",
}


@dataclass(frozen=True)
class ImageLabels:
    """The pseudo-labels of one image.

    Attributes:
        name: POSIX path of the image relative to the root of its collection.
        size: (height, width) in pixels.
        rles: n compressed COCO run-length strings.
        parents: (n,) int32 index of the parent mask, -1 for roots; a forest.
        levels: (n,) int8: 0 whole, 1 part, 2 subpart.
        scores: (n,) float32 in [0, 1].
    """

    name: str
    size: tuple[int, int]
    rles: tuple[bytes, ...]
    parents: np.ndarray
    levels: np.ndarray
    scores: np.ndarray

    def checksum(self) -> int:
        """CRC-32 of all fields."""
        lengths = np.array([*self.size, *map(len, self.rles)], "<i8")
        arrays = (lengths, self.parents, self.levels, self.scores)
        return zlib.crc32(b"".join([os.fsencode(self.name), *self.rles, *(a.tobytes() for a in arrays)]))


class LabelStore:
    """The labels of a label set: ``store[i]`` reads those of image i from disk.

    Opening takes constant time and memory for any index of images. Pickling stores only the folder's path: each worker
    process maps the files itself.

    Attributes:
        folder: of the columns.
        key: hash of the labels, 16 hexadecimal digits.
        num_masks: index of masks.
        read_options: how the photographs were read that the labels were made from.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a store that :meth:`of` wrote.

        Raises:
            FormatError: not such a folder, or a damaged one.
        """
        self.folder = Path(folder)
        path = self.folder / "store.json"
        if not path.exists():
            raise FormatError(
                f"{self.folder}: expected the store of a label set; got no store.json; run masktree train"
            )
        expected = {"format": str, "version": int, "key": str, "images": int, "masks": int, "bytes": dict}
        manifest = read_json(path, expected)
        if (manifest["format"], manifest["version"]) != (_FORMAT, _VERSION):
            raise FormatError(f"{path}: expected {_FORMAT}, version {_VERSION}; got something else; {self._remedy}")
        self.key: str = manifest["key"]
        self.num_masks: int = manifest["masks"]
        self.read_options = ReadOptions.from_record(manifest.get("read", {}))
        self._length: int = manifest["images"]
        self._columns = {name: self._map(name, manifest["bytes"].get(name)) for name in _COLUMNS}
        counts = {"name_starts": self._length + 1, "mask_starts": self._length + 1, "rle_starts": self.num_masks + 1}
        if any(len(self._columns[name]) != count for name, count in counts.items()):
            raise FormatError(f"{path}: expected the numbers of images and masks; got others; {self._remedy}")

    @classmethod
    def of(cls, labels: LabelSet, folder: str | Path | None = None, *, progress: Progress | None = None) -> LabelStore:
        """The store of a label set; written if it does not exist, with one shard in memory at a time.

        Args:
            folder: parent of stores; None for ``store`` in the label set's folder.
            progress: advanced for each image that is written.

        Raises:
            InputError: a label set without images or masks, or a folder that cannot be written to.
            FormatError: damaged shards, or a damaged store.
        """
        images, masks = len(labels), sum(shard["masks"] for shard in labels.index["shards"])
        if images == 0 or masks == 0:
            raise InputError(
                f"expected a label set with masks; got {images} images and {masks} masks in "
                f"{labels.folder}; see its failures.json and card.md"
            )
        key, parent = _key(labels), labels.folder / "store" if folder is None else Path(folder)
        if not (parent / key / "store.json").exists():
            with _writer_lock(parent):
                if not (parent / key / "store.json").exists():
                    _write_store(labels, parent / key, progress or NoProgress())
                    for other in parent.iterdir():
                        if _KEY.fullmatch(other.name) and other.name != key:
                            shutil.rmtree(other, ignore_errors=True)
        return cls(parent / key)

    def __len__(self) -> int:
        """Number of images, those without masks included."""
        return self._length

    def images_with_masks(self) -> np.ndarray:
        """(k,) int64 indices of the images with at least one mask, ascending."""
        return np.flatnonzero(np.diff(self._columns["mask_starts"]))

    def __getitem__(self, index: int) -> ImageLabels:
        """Labels of image ``index``, 0 <= index < len.

        Raises:
            InputError: the index is out of range.
            FormatError: the files were damaged after they were written.
        """
        if not 0 <= index < len(self):
            raise InputError(f"expected an image index in 0 ... {len(self) - 1}; got {index}")
        columns = self._columns
        try:
            name = os.fsdecode(_slice(columns["names"], columns["name_starts"], index).tobytes())
            first, last = (int(v) for v in columns["mask_starts"][index : index + 2])
            starts = columns["rle_starts"][first : last + 1].astype(np.int64)
            text = columns["rles"][starts[0] : starts[-1]].tobytes()
            height, width = (int(v) for v in columns["sizes"][2 * index : 2 * index + 2])
            labels = ImageLabels(
                name=name,
                size=(height, width),
                rles=tuple(text[a:b] for a, b in zip(starts[:-1] - starts[0], starts[1:] - starts[0], strict=True)),
                parents=np.array(columns["parents"][first:last]),
                levels=np.array(columns["levels"][first:last]),
                scores=np.array(columns["scores"][first:last]),
            )
            intact = labels.checksum() == columns["checksums"][index]
        except (IndexError, ValueError, OverflowError, MemoryError):
            intact = False
        if not intact:
            raise FormatError(f"{self.folder}: image {index} differs from what was written; {self._remedy}")
        return labels

    def __reduce__(self) -> tuple[type[LabelStore], tuple[Path]]:
        return LabelStore, (self.folder,)

    @property
    def _remedy(self) -> str:
        return f"delete {self.folder}; it is made again from the label set"

    def _map(self, name: str, size: object) -> np.ndarray:
        path = self.folder / f"{name}.bin"
        got = path.stat().st_size if path.exists() else None
        if not got or got != size or got % np.dtype(_COLUMNS[name]).itemsize:
            raise FormatError(f"{path}: expected {size} bytes; got {got or 'none'}; {self._remedy}")
        return np.memmap(path, _COLUMNS[name], "r")


def _slice(values: np.ndarray, starts: np.ndarray, index: int) -> np.ndarray:
    return values[int(starts[index]) : int(starts[index + 1])]


def _key(labels: LabelSet) -> str:
    shards = [[shard["file"], shard["sha256"]] for shard in labels.index["shards"]]
    read = _read_record(labels)
    return hashlib.sha256(json.dumps([_VERSION, shards, *([read] if read else [])]).encode()).hexdigest()[:16]


def _read_record(labels: LabelSet) -> Any:
    """How the photographs were read that the labels were made from, see ``ReadOptions.record``."""
    config = labels.index.get("config")
    return config.get("read", {}) if isinstance(config, dict) else {}


@contextmanager
def _writer_lock(parent: Path) -> Iterator[None]:
    """Let one process of a run write the store while the others wait."""
    from filelock import FileLock

    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / LOCK):
            yield
    except OSError as error:
        raise InputError(
            f"expected space for a copy of the labels in {parent}; got {error}; free some, or choose another folder"
        ) from error


def _write_store(labels: LabelSet, path: Path, progress: Progress) -> None:
    """Write to a temporary folder, then rename it to ``path``: a store with its final name is complete."""
    labels = LabelSet.open(labels.folder, verify=True)
    temporary = path.with_name(f".{path.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        with ExitStack() as stack:
            files = {name: stack.enter_context((temporary / f"{name}.bin").open("wb")) for name in _COLUMNS}
            images, masks = _write_columns(labels, files, progress)
            for handle in files.values():
                handle.flush()
                os.fsync(handle.fileno())
            sizes = {name: handle.tell() for name, handle in files.items()}
        manifest = {"format": _FORMAT, "version": _VERSION, "key": path.name, "images": images, "masks": masks}
        read = ReadOptions.from_record(_read_record(labels)).record()
        write_json(temporary / "store.json", manifest | {"bytes": sizes} | ({"read": read} if read else {}))
        shutil.rmtree(path, ignore_errors=True)  # no manifest: an interrupted write
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_columns(labels: LabelSet, files: Mapping[str, IO[bytes]], progress: Progress) -> tuple[int, int]:
    """Write all columns; returns the number of images and masks."""

    def append(name: str, values: object) -> None:
        files[name].write(np.asarray(values, _COLUMNS[name]).tobytes())

    images = masks = name_end = rle_end = 0
    for name in ("name_starts", "mask_starts", "rle_starts"):
        append(name, 0)
    for image, tree in labels:
        entry = _image_labels(image["file_name"], tree)
        encoded = os.fsencode(entry.name)
        files["names"].write(encoded)
        files["rles"].write(b"".join(entry.rles))
        ends = rle_end + np.cumsum([len(r) for r in entry.rles], dtype=np.int64)
        name_end, rle_end = name_end + len(encoded), int(ends[-1]) if len(ends) else rle_end
        images, masks = images + 1, masks + len(entry.rles)
        append("name_starts", name_end)
        append("mask_starts", masks)
        append("rle_starts", ends)
        append("sizes", entry.size)
        append("checksums", entry.checksum())
        for name in ("parents", "levels", "scores"):
            append(name, getattr(entry, name))
        progress.advance()
    return images, masks


def _image_labels(name: str, tree: MaskTree) -> ImageLabels:
    """The tree's masks that are not empty.

    Raises:
        FormatError: a run-length string is damaged.
    """
    try:
        keep = rle.areas(tree.rles, tree.size) > 0
    except MasktreeError as error:
        raise FormatError(f"{name}: {error}; discover the labels again") from error
    return ImageLabels(
        name=name,
        size=tree.size,
        rles=tuple(text for text, kept in zip(tree.rles, keep, strict=True) if kept),
        parents=hierarchy.reparent(tree.parents, keep).astype("<i4"),
        levels=tree.levels[keep].astype("i1"),
        scores=tree.scores[keep].astype("<f4"),
    )
