"""What can be merged: label sets of masktree, COCO files and folders of SA-1B, image by image.

A source knows its images by name and reads the masks of one at a time; places in files are all that is kept.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from masktree.coco.masks import REMEDY, pack_polygons, read_mask
from masktree.coco.stream import read_records
from masktree.errors import FormatError, InputError
from masktree.io.files import sha256_of
from masktree.labels.dataset import LabelSet
from masktree.labels.merge import MaskPool
from masktree.trees import rle

Kind = Literal["labels", "coco", "sa1b"]
_RECORDS = ("merge.json", "run.json", "failures.json", "missing.json")  # masktree's, beside files of SA-1B
Size = tuple[int, int]


@dataclass(frozen=True)
class SourceMasks:
    """The masks of an image of (height, width) ``size``, and how many annotations were left out, by reason:
    ``crowd``: regions of many entities; ``empty``: no pixel, or no mask."""

    size: Size
    pool: MaskPool
    left_out: Counter[str]


@dataclass(frozen=True)
class LabelSource:
    """A source of masks.

    Attributes:
        path: its file or folder.
        kind: labels, coco or sa1b.
        sha256: of its content; equal for copies at other places.
        root: folder of the photographs, where the source says so.
        label_free: whether masktree made it and no human label stands behind the weights; False if that is not known.
        images: for each image's name, a POSIX path, where its annotations are; used by ``read``.
    """

    path: Path
    kind: Kind
    sha256: str
    root: Path | None
    label_free: bool
    images: Mapping[str, Any] = field(repr=False)

    def read(self, name: str, number: int) -> SourceMasks:
        """The masks of an image of ``images``, with ``number`` as their source.

        Masks have the score that the file gives them; without one, as people's have none, it is 1.

        Raises:
            FormatError: an annotation is damaged.
        """
        raise NotImplementedError

    def record(self) -> dict[str, Any]:
        """Plain values that say what this is."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "sha256": self.sha256,
            "label_free": self.label_free,
        }


def open_source(path: str | Path) -> LabelSource:
    """The source at a path: a COCO file, the folder of a label set, or a folder with the files of SA-1B.

    Reads all of it once.

    Raises:
        InputError: nothing there, or something else.
        FormatError: damaged, or a label set that is not finished.
    """
    path = Path(path)
    if path.is_file():
        return CocoSource.of(path, "coco", [path], sha256_of(path), root=None, label_free=False)
    if (path / "index.json").exists() or (path / "plan.json").exists():
        labels = LabelSet.open(path, verify=True)
        digests = "".join(shard["sha256"] for shard in labels.index["shards"])
        return CocoSource.of(
            path,
            "labels",
            [path / shard["file"] for shard in labels.index["shards"]],
            hashlib.sha256(digests.encode()).hexdigest(),
            root=Path(labels.index["root"]),
            label_free=labels.index["weights"].get("label_free") is True,
        )
    if path.is_dir():
        return Sa1bSource.of(path)
    raise InputError(f"expected a label set, a COCO file or a folder of SA-1B; got nothing at {str(path)!r}")


@dataclass(frozen=True)
class CocoSource(LabelSource):
    """One COCO file, or the files of a label set. Its images: file, id and size of each."""

    files: tuple[_Places, ...] = ()

    @classmethod
    def of(
        cls, path: Path, kind: Kind, files: Sequence[Path], sha256: str, *, root: Path | None, label_free: bool
    ) -> CocoSource:
        places = tuple(_Places(file) for file in files)
        images: dict[str, tuple[int, int, Size]] = {}
        for number, place in enumerate(places):
            for name, (image_id, size) in place.read().items():
                if name in images:
                    raise FormatError(f"{place.path}: expected each image once; got {name} twice; {REMEDY}")
                images[name] = number, image_id, size
        return cls(path, kind, sha256, root, label_free, images, places)

    def read(self, name: str, number: int) -> SourceMasks:
        place, image_id, size = self.images[name]
        places = self.files[place]
        where = f"{places.path}, image {image_id} ({name})"
        return _found(places.annotations(image_id), size, where, number)


class _Places:
    """Where in a COCO file the annotations of each image stand: 24 bytes for each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids = self._starts = self._ends = np.zeros(0, np.int64)

    def read(self) -> dict[str, tuple[int, Size]]:
        """Find the places; id and (height, width) of each image by name.

        Raises:
            FormatError: damaged, no images or no annotations, an image twice, annotations of unknown images.
        """
        columns = (array("q"), array("q"), array("q"))
        images: dict[str, tuple[int, Size]] = {}
        lists = set()
        with self.path.open("rb") as handle:
            for record in read_records(self.path):
                if record.key not in ("images", "annotations"):
                    continue
                if record.place is not None or record.value == []:
                    lists.add(record.key)
                if record.place is None:
                    continue
                if record.key == "annotations":
                    self._note(record.value, record.place, columns, record.start, record.end)
                    continue
                handle.seek(record.start)
                name, image_id, size = _image_record(handle.read(record.end - record.start), f"{self.path}, image")
                if name in images:
                    raise FormatError(f"{self.path}: expected each image once; got {name} twice; {REMEDY}")
                images[name] = image_id, size
        if "images" not in lists:
            raise FormatError(f"{self.path}: expected a COCO file with images and annotations; got none; {REMEDY}")
        self._sort(columns, [image_id for image_id, _ in images.values()])
        return images

    def annotations(self, image_id: int) -> list[dict[str, Any]]:
        """The records of an image, in the file's order.

        Raises:
            FormatError: the file was changed since it was read.
        """
        first, last = np.searchsorted(self._ids, [image_id, image_id + 1])
        records = []
        with self.path.open("rb") as handle:
            for start, end in zip(self._starts[first:last].tolist(), self._ends[first:last].tolist(), strict=True):
                handle.seek(start)
                record = _loads(handle.read(end - start), str(self.path))
                if record.get("image_id") != image_id:
                    raise FormatError(f"{self.path}: expected the file as it was at the start; got another; try again")
                records.append(record)
        return records

    def _note(self, value: Any, index: int, columns: tuple[array[int], ...], *place: int) -> None:
        image_id = value.get("image_id") if isinstance(value, dict) else None
        if not isinstance(image_id, int) or isinstance(image_id, bool) or not 0 <= image_id < 2**62:
            raise FormatError(
                f"{self.path}, entry {index} of annotations: expected image_id as a whole number; got {image_id!r}; "
                f"{REMEDY}"
            )
        for column, number in zip(columns, (image_id, *place), strict=True):
            column.append(number)

    def _sort(self, columns: tuple[array[int], ...], known: Sequence[int]) -> None:
        ids, starts, ends = (np.frombuffer(column, np.int64) if column else np.zeros(0, np.int64) for column in columns)
        known_ids = np.array(known, np.int64)
        if len(np.unique(known_ids)) < len(known_ids):
            raise FormatError(f"{self.path}: expected each image id once; got one twice; {REMEDY}")
        strangers = np.setdiff1d(ids, known_ids)
        if len(strangers):
            raise FormatError(
                f"{self.path}: expected annotations of its own images; got image_id {strangers[0]}, which is none; "
                f"{REMEDY}"
            )
        order = np.argsort(ids, kind="stable")
        self._ids, self._starts, self._ends = ids[order], starts[order], ends[order]


@dataclass(frozen=True)
class Sa1bSource(LabelSource):
    """A folder with one file per image; github.com/facebookresearch/segment-anything, "Dataset". Its images: the file
    of each. Photographs may stand beside the files."""

    @classmethod
    def of(cls, folder: Path) -> Sa1bSource:
        files = sorted(file for file in folder.rglob("*.json") if not file.name.startswith("."))
        images: dict[str, Path] = {}
        digest = hashlib.sha256()
        for file in files:
            header = next((r for r in read_records(file) if r.key in ("image", "format")), None)
            if header is not None and (header.key, header.value) == ("format", "masktree"):
                raise InputError(
                    f"{folder}: expected a label set, or files of SA-1B; got trees of masktree segment ({file}); "
                    "use masktree discover, which makes label sets"
                )
            if header is None or header.key != "image":
                if file.name in _RECORDS:
                    continue
                raise InputError(
                    f"{folder}: expected a label set, or files of SA-1B with an image and its annotations; got {file}"
                )
            with file.open("rb") as handle:
                handle.seek(header.start)
                record = handle.read(header.end - header.start)
            below = file.parent.relative_to(folder)
            name = (below / _image_record(record, str(file), id_key="image_id")[0]).as_posix()
            if name in images:
                raise FormatError(f"{folder}: expected each image once; got {name} twice; {REMEDY}")
            images[name] = file
            digest.update(
                f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n".encode("utf-8", "surrogateescape")
            )
        if not images:
            raise InputError(f"{folder}: expected a label set or a folder with files of SA-1B; got no such files")
        beside = any((folder / name).is_file() for name in list(images)[:100])
        return cls(folder, "sa1b", digest.hexdigest(), folder if beside else None, False, images)

    def read(self, name: str, number: int) -> SourceMasks:
        file = self.images[name]
        document = _loads(file.read_bytes(), str(file))
        annotations = document.get("annotations")
        if not isinstance(document.get("image"), dict) or not isinstance(annotations, list):
            raise FormatError(f"{file}: expected image and annotations as SA-1B has them; got others; {REMEDY}")
        _, _, size = _image_of(document["image"], str(file), "image_id")
        return _found(annotations, size, str(file), number)


def match_images(images: Iterable[str], names: Iterable[str], where: str) -> tuple[dict[str, str], list[str]]:
    """Which of a source's ``images`` belong to which photographs, by their names.

    The same path; else one path is the end of the other, with the suffix or, failing that, without: ``val/7.jpg`` in a
    file is the photograph ``7.jpg``, and ``7.png`` of a labelling tool is it too, but ``b/7.jpg`` is not ``a/7.jpg``.

    Args:
        names: the photographs' POSIX paths in their folder.
        where: the source, for messages.

    Returns:
        The image of each photograph that has one, and the images whose photograph is missing.

    Raises:
        InputError: an image could be one of several photographs, or two images one photograph.
    """
    whole, stems = _by_last_part(names, str), _by_last_part(names, _without_suffix)
    known = {name for group in whole.values() for name in group}
    found: dict[str, str] = {}
    missing = []
    for image in images:
        fits = [image] if image in known else _ends(image, whole, str) or _ends(image, stems, _without_suffix)
        if not fits:
            missing.append(image)
            continue
        if len(fits) > 1 or fits[0] in found:
            several = f"{image} could be {fits[0]} or {fits[1]}" if len(fits) > 1 else f"{found[fits[0]]} and {image}"
            raise InputError(
                f"{where}: expected one photograph for each image and the reverse; got {several}; use the paths below "
                "the photographs' folder as names"
            )
        found[fits[0]] = image
    return found, missing


def _by_last_part(names: Iterable[str], form: Any) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(PurePosixPath(form(name)).name, []).append(name)
    return groups


def _ends(image: str, groups: Mapping[str, list[str]], form: Any) -> list[str]:
    """Photographs of which the image's path is the end, or the reverse."""
    own = PurePosixPath(form(image)).parts
    fits = []
    for name in groups.get(own[-1], []):
        other = PurePosixPath(form(name)).parts
        shorter = min(len(own), len(other))
        if own[-shorter:] == other[-shorter:]:
            fits.append(name)
    return fits


def _without_suffix(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def _found(annotations: Sequence[Any], size: Size, where: str, number: int) -> SourceMasks:
    left_out: Counter[str] = Counter()
    rles, scores, stabilities = [], [], []
    for index, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            raise FormatError(f"{where}: expected records as annotations; got {annotation!r:.40}; {REMEDY}")
        place = f"{where}, annotation {annotation.get('id', f'number {index}')}"
        if annotation.get("iscrowd", 0) not in (0, 1):
            raise FormatError(f"{place}: expected iscrowd 0 or 1; got {annotation['iscrowd']!r}; {REMEDY}")
        if annotation.get("iscrowd"):
            left_out["crowd"] += 1
            continue
        text = read_mask(annotation, size, place) if annotation.get("segmentation") else b""
        if not text or rle.areas([text], size)[0] == 0:
            left_out["empty"] += 1
            continue
        rles.append(text)
        scores.append(_share(annotation, ("score", "predicted_iou"), place))
        stabilities.append(_share(annotation, ("stability", "stability_score"), place))
    pool = MaskPool(tuple(rles), np.array(scores), np.array(stabilities), np.full(len(rles), number, np.int64))
    return SourceMasks(size, pool, left_out)


def _share(annotation: dict[str, Any], keys: tuple[str, str], where: str) -> float:
    """Our value in [0, 1], or SA-1B's estimate, which may lie above 1; else 1."""
    for key in keys:
        value = annotation.get(key)
        if value is None:
            continue
        most = 1 if key == keys[0] else 2
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= most:
            raise FormatError(f"{where}: expected {key} in [0, 1]; got {value!r}; {REMEDY}")
        return min(float(value), 1.0)
    return 1.0


def _image_record(text: bytes, where: str, id_key: str = "id") -> tuple[str, int, Size]:
    """Name, id and (height, width) of an image record in JSON."""
    return _image_of(_loads(text, where), where, id_key)


def _image_of(image: dict[str, Any], where: str, id_key: str) -> tuple[str, int, Size]:
    name = image.get("file_name")
    if not isinstance(name, str) or not PurePosixPath(name).name or ".." in PurePosixPath(name).parts:
        raise FormatError(f"{where}: expected a file_name below some folder; got {name!r}; {REMEDY}")
    values = [image[key] for key in (id_key, "height", "width") if type(image.get(key)) is int]
    if len(values) < 3 or not all(0 <= value < 2**62 for value in values):
        raise FormatError(
            f"{where} {name}: expected {id_key}, height and width as whole numbers; got {image!r:.80}; {REMEDY}"
        )
    image_id, height, width = values
    if height < 1 or width < 1 or height * width >= 2**31:  # the reach of run lengths
        raise FormatError(f"{where} {name}: expected 1 to 2^31 - 1 pixels; got {height} x {width}; {REMEDY}")
    return PurePosixPath(name).as_posix(), image_id, (height, width)


def _loads(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_hook=pack_polygons)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: expected JSON; got a damaged record ({error}); {REMEDY}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected a record; got {value!r:.40}; {REMEDY}")
    return value
