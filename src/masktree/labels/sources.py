"""What can be merged: label sets of masktree, COCO files and folders of SA-1B files, image by image.

A source knows its images by name; the masks of an image are read from its file when they are asked for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from masktree.coco.annotations import read_crowd
from masktree.coco.file import CocoFile, CocoImage, open_sa1b
from masktree.coco.json_entries import read_entries
from masktree.coco.masks import REMEDY, has_segmentation, read_mask
from masktree.coco.sa1b_pack import find_packs, read_pack
from masktree.errors import FormatError, InputError
from masktree.io.contents import describe_contents, name_file
from masktree.io.files import sha256_of
from masktree.labels.dataset import LabelSet
from masktree.labels.merge import MaskPool
from masktree.trees import rle

SourceKind = Literal["labels", "coco", "sa1b"]
_OUTPUT_RECORDS = ("merge.json", "run.json", "failures.json", "missing.json")  # masktree's, beside files of SA-1B


@dataclass(frozen=True)
class SourceMasks:
    """The masks of one image of a source.

    Attributes:
        size: (height, width) of the image.
        pool: the masks.
        left_out: number of annotations that were left out, by reason: ``crowd``: regions of many entities;
            ``empty``: without a pixel or without a segmentation.
    """

    size: tuple[int, int]
    pool: MaskPool
    left_out: Counter[str]


@dataclass(frozen=True)
class LabelSource:
    """A source of masks.

    Attributes:
        path: its file or folder.
        kind: labels, coco or sa1b.
        sha256: of its content; equal for copies elsewhere.
        root: folder of the photographs, where the source states it.
        label_free: whether masktree made it and no human label stands behind the weights; False if unknown.
        images: by file name, a POSIX path.
    """

    path: Path
    kind: SourceKind
    sha256: str
    root: Path | None
    label_free: bool
    images: Mapping[str, CocoImage] = field(repr=False)

    def read(self, name: str, number: int) -> SourceMasks:
        """The masks of an image of ``images``, with ``number`` as their source.

        Masks have the score that the file gives them, or 1, as human annotations have none.

        Raises:
            FormatError: an annotation is damaged.
        """
        image = self.images[name]
        left_out: Counter[str] = Counter()
        rles, scores, stabilities = [], [], []
        for index, annotation in enumerate(image.annotations()):
            where = f"{image}, annotation {annotation.get('id', f'number {index}')}"
            if read_crowd(annotation, where):
                left_out["crowd"] += 1
                continue
            mask = read_mask(annotation, image.size, where) if has_segmentation(annotation) else b""
            if not mask or rle.areas([mask], image.size)[0] == 0:
                left_out["empty"] += 1
                continue
            rles.append(mask)
            scores.append(_read_score(annotation, ("score", "predicted_iou"), where))
            stabilities.append(_read_score(annotation, ("stability", "stability_score"), where))
        pool = MaskPool(tuple(rles), np.array(scores), np.array(stabilities), np.full(len(rles), number, np.int64))
        return SourceMasks(image.size, pool, left_out)

    def record(self) -> dict[str, Any]:
        """Plain values that identify the source."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "sha256": self.sha256,
            "label_free": self.label_free,
        }


def open_source(path: str | Path) -> LabelSource:
    """The source at a path: a COCO file, the folder of a label set, a folder with SA-1B files, or packs of them (a tar
    file, or a folder of tar files). Reads all of it once.

    Raises:
        InputError: nothing there, or something else.
        FormatError: damaged, or an unfinished label set.
    """
    path = Path(path)
    if path.is_file() and name_file(path) is not None:
        raise _no_source(path)
    packs = find_packs(path)
    if packs and not (path / "index.json").exists() and next(path.rglob("*.json"), None) is None:
        return _open_sa1b_packs(path, packs)
    if path.is_file():
        return LabelSource(path, "coco", sha256_of(path), None, False, _coco_images([path]))
    if (path / "index.json").exists() or (path / "plan.json").exists():
        labels = LabelSet.open(path, verify=True)
        digests = "".join(shard["sha256"] for shard in labels.index["shards"])
        return LabelSource(
            path,
            "labels",
            hashlib.sha256(digests.encode()).hexdigest(),
            root=Path(labels.index["root"]),
            label_free=labels.index["weights"].get("label_free") is True,
            images=_coco_images([path / shard["file"] for shard in labels.index["shards"]]),
        )
    if path.is_dir():
        return _open_sa1b_folder(path)
    raise _no_source(path)


def _no_source(path: Path) -> InputError:
    return InputError(
        f"expected a label set of masktree discover, a COCO file or a folder of SA-1B files; got "
        f"{describe_contents(path)}; check the path, or run masktree discover on the photographs first"
    )


def _coco_images(files: Sequence[Path]) -> dict[str, CocoImage]:
    images: dict[str, CocoImage] = {}
    for path in files:
        file = CocoFile.open(path)
        if file.is_results:
            raise FormatError(
                f"{path}: expected a COCO file with images and annotations; got a list of results; give the "
                "annotations that it belongs to, or add images to it"
            )
        for image in file.images:
            if image.file_name in images:
                raise FormatError(f"{path}: expected each image once; got {image.file_name} twice; {REMEDY}")
            images[image.file_name] = image
    return images


def _open_sa1b_folder(folder: Path) -> LabelSource:
    images: dict[str, CocoImage] = {}
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*.json") if not file.name.startswith(".")):
        header = next((entry for entry in read_entries(file) if entry.key in ("image", "format")), None)
        if header is not None and (header.key, header.value) == ("format", "masktree"):
            raise InputError(
                f"{folder}: expected a label set, or files of SA-1B; got trees of masktree segment ({file}); "
                "use masktree discover, which makes label sets"
            )
        if header is None or header.key != "image":
            if file.name in _OUTPUT_RECORDS:
                continue
            raise InputError(
                f"{folder}: expected a label set, or files of SA-1B with an image and its annotations; got {file}; "
                "give a COCO file by its own name, and a label set by its folder"
            )
        image = open_sa1b(file)
        name = (file.parent.relative_to(folder) / image.file_name).as_posix()
        if name in images:
            raise FormatError(f"{folder}: expected each image once; got {name} twice; {REMEDY}")
        images[name] = image
        digest.update(f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n".encode("utf-8", "surrogateescape"))
    if not images:
        raise _no_source(folder)
    has_photographs = any((folder / name).is_file() for name in list(images)[:100])
    return LabelSource(folder, "sa1b", digest.hexdigest(), folder if has_photographs else None, False, images)


def _open_sa1b_packs(path: Path, packs: Sequence[Path]) -> LabelSource:
    images: dict[str, CocoImage] = {}
    digest = hashlib.sha256()
    for pack in packs:
        images |= dict(read_pack(pack))
        digest.update(f"{pack.name} {sha256_of(pack)}\n".encode("utf-8", "surrogateescape"))
    if not images:
        raise _no_source(path)
    return LabelSource(path, "sa1b", digest.hexdigest(), packs[0].parent, False, images)


def match_images(images: Iterable[str], names: Iterable[str], where: str) -> tuple[dict[str, str], list[str]]:
    """Which of a source's ``images`` belong to which photographs, by their names.

    The same path; else one path is the end of the other, of several photographs at the end of it the one with the
    longest path, with the suffix or, failing that, without: ``val/7.jpg`` in a file is the photograph ``7.jpg``, and
    ``7.png`` of a labelling tool is it too, but ``b/7.jpg`` is not ``a/7.jpg``.

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


def _by_last_part(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(PurePosixPath(key(name)).name, []).append(name)
    return groups


def _ends(image: str, groups: Mapping[str, list[str]], key: Callable[[str], str]) -> list[str]:
    """Photographs of which the image's path is the end; else the one that is the longest end of the image's path."""
    parts = PurePosixPath(key(image)).parts
    longer, inside = [], []
    for name in groups.get(parts[-1], []):
        other = PurePosixPath(key(name)).parts
        if len(other) > len(parts) and other[-len(parts) :] == parts:
            longer.append(name)
        elif parts[-len(other) :] == other:
            inside.append(name)
    most = max((len(PurePosixPath(name).parts) for name in inside), default=0)
    return longer or [name for name in inside if len(PurePosixPath(name).parts) == most]


def _without_suffix(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def _read_score(annotation: dict[str, Any], keys: tuple[str, str], where: str) -> float:
    """masktree's value in [0, 1], or SA-1B's estimate, which may lie above 1 and is cut there; else 1."""
    for key, highest in zip(keys, (1, 2), strict=True):
        value = annotation.get(key)
        if value is None:
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= highest:
            raise FormatError(f"{where}: expected {key} in [0, 1]; got {value!r}; {REMEDY}")
        return min(float(value), 1.0)
    return 1.0
