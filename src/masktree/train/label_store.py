"""A label set by image number: one binary copy on disk, mapped into memory, for any number of worker processes.

Layout, below the folder ``store`` of the label set or another::

    KEY/store.json     manifest with the size of every column, written before the folder gets its name
    KEY/*.bin          columns: strings and arrays of all photographs one after the other, little-endian

KEY is a hash of the hashes of the label set's shards: labels made anew get a new copy, and the old one is removed.
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
from typing import IO

import numpy as np

from masktree.errors import FormatError, InputError, MasktreeError
from masktree.io.files import read_json, write_json
from masktree.jobs.progress import NoProgress, Progress
from masktree.labels import LabelSet
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import MaskTree

_FORMAT, _VERSION = "masktree-store", 1
_KEY = re.compile("[0-9a-f]{16}")
# One entry a photograph: heights and widths, check sums, and where its name and its masks begin; one a mask: where
# its string begins, and the arrays. Beginnings have one entry more.
_COLUMNS = {
    "names": "u1",
    "name_starts": "<i8",
    "sizes": "<i4",
    "checks": "<u4",
    "mask_starts": "<i8",
    "rles": "u1",
    "rle_starts": "<i8",
    "parents": "<i4",
    "levels": "i1",
    "scores": "<f4",
}


@dataclass(frozen=True)
class ImageLabels:
    """What a label set says of one photograph.

    Attributes:
        name: POSIX path of the photograph relative to the root of its collection.
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

    def check_sum(self) -> int:
        """CRC-32 of all that the store keeps of the photograph."""
        lengths = np.array([*self.size, *map(len, self.rles)], "<i8")
        arrays = (lengths, self.parents, self.levels, self.scores)
        return zlib.crc32(b"".join([os.fsencode(self.name), *self.rles, *(a.tobytes() for a in arrays)]))


class LabelStore:
    """The photographs of a label set: ``store[i]`` reads number i, and only that, from disk.

    Opening costs the same for any number of images; memory is what the system caches of the files. A pickled store
    is its folder's name: worker processes map the files themselves.

    Attributes:
        folder: of the columns.
        key: identifies the labels: 16 hexadecimal digits, other labels have another one.
        masks: number of masks.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open what :meth:`of` made.

        Raises:
            FormatError: not such a folder, or a damaged one.
        """
        self.folder = Path(folder)
        path = self.folder / "store.json"
        if not path.exists():
            raise FormatError(f"{self.folder}: expected the copy of a label set; got no store.json; make it anew")
        expected = {"format": str, "version": int, "key": str, "images": int, "masks": int, "bytes": dict}
        manifest = read_json(path, expected)
        if (manifest["format"], manifest["version"]) != (_FORMAT, _VERSION):
            raise FormatError(f"{path}: expected {_FORMAT}, version {_VERSION}; got something else; {self._remedy}")
        self.key, self.masks, self._length = manifest["key"], manifest["masks"], manifest["images"]
        self._columns = {name: self._map(name, manifest["bytes"].get(name)) for name in _COLUMNS}

    @classmethod
    def of(cls, labels: LabelSet, folder: str | Path | None = None, *, progress: Progress | None = None) -> LabelStore:
        """The store of a label set; made if there is none yet, one shard in memory at a time.

        Args:
            folder: where stores are kept; None takes ``store`` in the label set's folder.
            progress: is told of each image while the store is made.

        Raises:
            InputError: a label set without images or without masks, or a folder that cannot be written to.
            FormatError: damaged shards, or a damaged store.
        """
        images, masks = len(labels), sum(shard["masks"] for shard in labels.index["shards"])
        if images == 0 or masks == 0:
            raise InputError(
                f"expected a label set with masks to learn from; got {images} images and {masks} masks in "
                f"{labels.folder}; see its failures.json and card.md"
            )
        key, home = _key(labels), labels.folder / "store" if folder is None else Path(folder)
        if not (home / key / "store.json").exists():
            with _sole_maker(home):
                if not (home / key / "store.json").exists():
                    _make(labels, home / key, progress or NoProgress())
                    for other in home.iterdir():
                        if _KEY.fullmatch(other.name) and other.name != key:
                            shutil.rmtree(other, ignore_errors=True)
        return cls(home / key)

    def __len__(self) -> int:
        """Number of photographs, those without masks among them."""
        return self._length

    def filled(self) -> np.ndarray:
        """(k,) int64 numbers of the photographs that have at least one mask, ascending."""
        return np.flatnonzero(np.diff(self._columns["mask_starts"]))

    def __getitem__(self, number: int) -> ImageLabels:
        """Photograph ``number``, 0 <= number < len.

        Raises:
            InputError: no such number.
            FormatError: the files were damaged after they were written.
        """
        if not 0 <= number < len(self):
            raise InputError(f"expected a photograph's number in 0 ... {len(self) - 1}; got {number}")
        columns = self._columns
        try:
            name = os.fsdecode(_slice(columns["names"], columns["name_starts"], number).tobytes())
            first, last = (int(v) for v in columns["mask_starts"][number : number + 2])
            starts = columns["rle_starts"][first : last + 1].astype(np.int64)
            text = columns["rles"][starts[0] : starts[-1]].tobytes()
            height, width = (int(v) for v in columns["sizes"][2 * number : 2 * number + 2])
            record = ImageLabels(
                name=name,
                size=(height, width),
                rles=tuple(text[a:b] for a, b in zip(starts[:-1] - starts[0], starts[1:] - starts[0], strict=True)),
                parents=np.array(columns["parents"][first:last]),
                levels=np.array(columns["levels"][first:last]),
                scores=np.array(columns["scores"][first:last]),
            )
            intact = record.check_sum() == columns["checks"][number]
        except (IndexError, ValueError, OverflowError, MemoryError):
            intact = False
        if not intact:
            raise FormatError(f"{self.folder}: photograph {number} differs from what was written; {self._remedy}")
        return record

    def __reduce__(self) -> tuple[type[LabelStore], tuple[Path]]:
        return LabelStore, (self.folder,)

    @property
    def _remedy(self) -> str:
        return f"delete {self.folder}, it is made again from the label set"

    def _map(self, name: str, size: object) -> np.memmap:
        path = self.folder / f"{name}.bin"
        got = path.stat().st_size if path.exists() else None
        if got is None or got != size or got % np.dtype(_COLUMNS[name]).itemsize:
            raise FormatError(f"{path}: expected {size} bytes; got {got or 'none'}; {self._remedy}")
        return np.memmap(path, _COLUMNS[name], "r")


def _slice(values: np.ndarray, starts: np.ndarray, number: int) -> np.ndarray:
    return values[int(starts[number]) : int(starts[number + 1])]


def _key(labels: LabelSet) -> str:
    shards = [[shard["file"], shard["sha256"]] for shard in labels.index["shards"]]
    return hashlib.sha256(json.dumps([_VERSION, shards]).encode()).hexdigest()[:16]


@contextmanager
def _sole_maker(home: Path) -> Iterator[None]:
    """Wait until no other process makes a store there; the processes of a run come here at the same time."""
    from filelock import FileLock

    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / ".lock"):
            yield
    except OSError as error:
        raise InputError(
            f"expected room for a copy of the labels in {home}; got {error}; free some, or choose another folder"
        ) from error


def _make(labels: LabelSet, path: Path, progress: Progress) -> None:
    """Write all columns beside ``path``, then rename: a store that has its name is complete."""
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
        write_json(temporary / "store.json", manifest | {"bytes": sizes})
        shutil.rmtree(path, ignore_errors=True)  # without a manifest, so no store
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_columns(labels: LabelSet, files: Mapping[str, IO[bytes]], progress: Progress) -> tuple[int, int]:
    """Images and masks written."""

    def put(name: str, values: object) -> None:
        files[name].write(np.asarray(values, _COLUMNS[name]).tobytes())

    images = masks = at_name = at_rle = 0
    for name in ("name_starts", "mask_starts", "rle_starts"):
        put(name, 0)
    for image, tree in labels:
        record = _record(image["file_name"], tree)
        encoded = os.fsencode(record.name)
        files["names"].write(encoded)
        files["rles"].write(b"".join(record.rles))
        ends = at_rle + np.cumsum([len(r) for r in record.rles], dtype=np.int64)
        at_name, at_rle = at_name + len(encoded), int(ends[-1]) if len(ends) else at_rle
        images, masks = images + 1, masks + len(record.rles)
        put("name_starts", at_name)
        put("mask_starts", masks)
        put("rle_starts", ends)
        put("sizes", record.size)
        put("checks", record.check_sum())
        for name in ("parents", "levels", "scores"):
            put(name, getattr(record, name))
        progress.advance()
    return images, masks


def _record(name: str, tree: MaskTree) -> ImageLabels:
    """The tree's masks that have pixels.

    Raises:
        FormatError: a run-length string is damaged.
    """
    try:
        full = rle.areas(tree.rles, tree.size) > 0
    except MasktreeError as error:
        raise FormatError(f"{name}: {error}; make the label set again") from error
    return ImageLabels(
        name=name,
        size=tree.size,
        rles=tuple(r for r, keep in zip(tree.rles, full, strict=True) if keep),
        parents=hierarchy.reparent(tree.parents, full).astype("<i4"),
        levels=tree.levels[full].astype("i1"),
        scores=tree.scores[full].astype("<f4"),
    )
