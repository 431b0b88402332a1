"""Predictions on disk: trees of ours, label sets of ours, COCO files, contour maps of the BSDS500 benchmark.

``open_predictions`` looks at what a path holds. Names, sizes and counts of all images are known after opening, from
headers as far as there are any; the masks themselves are read image by image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from masktree.errors import FormatError, InputError
from masktree.evaluate.coco_predictions import CocoPredictions
from masktree.evaluate.detections import ImageDetections
from masktree.evaluate.ground_truth import ImageGroundTruth
from masktree.evaluate.ucm import read_ucm
from masktree.io.contents import describe_contents
from masktree.jobs.record import read_run
from masktree.trees import file as treefile
from masktree.trees.masktree import MaskTree

RECORDS = frozenset({"run", "failures"})  # run.json and failures.json stand beside trees
_OURS = b'{"format": "masktree-'  # how other JSON files of ours begin, such as a result of an evaluation
_HEAD = 1 << 16  # bytes of a tree file that hold its image record (see ``treefile.read_header``)
_FIRST = 3  # names that a message gives of many


class ImagePrediction(Protocol):
    """What was predicted in one image; picklable, and read from disk when it is asked for.

    Each method raises InputError where this kind of prediction has no such thing, or its size is not ``size``.
    """

    def detections(self, size: tuple[int, int]) -> ImageDetections:
        """Scored masks or boxes of an image of (height, width) pixels."""

    def tree(self, size: tuple[int, int], *, nested: bool = True) -> MaskTree:
        """The masks with their hierarchy; with ``nested=False`` masks without any are roots all."""

    def contours(self, size: tuple[int, int]) -> MaskTree | np.ndarray:
        """What partitions the image: a tree by its cuts, or a contour map (2H+1, 2W+1) in the layout of BSDS500."""


class Predictions(Protocol):
    """The predictions of a set of images.

    Attributes:
        path: file or folder.
        kind: what it is, in a few words.
        origin: ``config``, ``weights`` and ``versions`` of the run that made them, as far as they are recorded.
    """

    @property
    def path(self) -> Path: ...

    @property
    def kind(self) -> str: ...

    @property
    def origin(self) -> dict[str, Any]: ...

    def names(self) -> Sequence[str]:
        """One name per predicted image, by which the other methods are called."""

    def find(self, ground_truth: ImageGroundTruth) -> str | None:
        """The name under which an image of the ground truth was predicted."""

    def size(self, name: str) -> tuple[int, int] | None:
        """(height, width) of the predicted masks; None where nothing tells it."""

    def is_empty(self, name: str) -> bool:
        """Whether nothing was found in the image."""

    def image(self, name: str) -> ImagePrediction:
        """What was predicted."""


@dataclass(frozen=True)
class TreeFile:
    """The file of one tree."""

    path: Path

    def detections(self, size: tuple[int, int]) -> ImageDetections:
        return ImageDetections.from_tree(self.tree(size))

    def tree(self, size: tuple[int, int], *, nested: bool = True) -> MaskTree:
        tree = MaskTree.load(self.path)
        check_size(self.path, tree.size, size)
        return tree

    def contours(self, size: tuple[int, int]) -> MaskTree:
        return self.tree(size)


@dataclass(frozen=True)
class TreeFolder:
    """A folder that ``masktree segment`` has written. Names are relative paths without ``.json``."""

    path: Path
    headers: dict[str, dict[str, Any]]
    without_masks: frozenset[str]
    origin: dict[str, Any]
    kind: str = "trees"

    @classmethod
    def open(cls, path: Path, files: Iterable[Path]) -> TreeFolder:
        """Reads the beginning of each file.

        Raises:
            FormatError: a file that is no tree.
        """
        headers: dict[str, dict[str, Any]] = {}
        without_masks = set()
        for file in files:
            name = file.relative_to(path).as_posix().removesuffix(".json")
            with file.open("rb") as handle:
                head = handle.read(_HEAD)
            if head.startswith(_OURS) or name in RECORDS:
                continue
            header = treefile.read_header(file)
            if header is None or not all(isinstance(header.get(side), int) for side in ("height", "width")):
                raise FormatError(
                    f"{file}: expected a tree of masktree, version {treefile.FORMAT_VERSION}; got another file; give "
                    "the output folder of masktree segment, move the file elsewhere, or segment this image again"
                )
            headers[name] = header
            if head.partition(b', "masks": [')[2].startswith(b"]"):
                without_masks.add(name)
        if not headers:
            raise _no_predictions(path)
        return cls(path, headers, frozenset(without_masks), _recorded_run(path, next(iter(headers))))

    def names(self) -> Sequence[str]:
        return list(self.headers)

    def find(self, ground_truth: ImageGroundTruth) -> str | None:
        return next(
            (name for name in (ground_truth.name, without_suffix(ground_truth.name)) if name in self.headers), None
        )

    def size(self, name: str) -> tuple[int, int] | None:
        return self.headers[name]["height"], self.headers[name]["width"]

    def is_empty(self, name: str) -> bool:
        return name in self.without_masks

    def image(self, name: str) -> TreeFile:
        return TreeFile(self.path / f"{name}.json")


@dataclass(frozen=True)
class UcmFile:
    """One contour map."""

    path: Path

    def detections(self, size: tuple[int, int]) -> ImageDetections:
        raise self._wrong("scored masks")

    def tree(self, size: tuple[int, int], *, nested: bool = True) -> MaskTree:
        raise self._wrong("a tree of masks")

    def contours(self, size: tuple[int, int]) -> np.ndarray:
        contours = read_ucm(self.path)
        check_size(self.path, (contours.shape[0] // 2, contours.shape[1] // 2), size)
        return contours

    def _wrong(self, what: str) -> InputError:
        return InputError(f"{self.path}: expected {what}; got a contour map; evaluate it with --protocol bsds")


@dataclass(frozen=True)
class UcmFolder:
    """A folder of ``ucm2`` .mat files. Names are relative paths without ``.mat``."""

    path: Path
    files: dict[str, Path]
    kind: str = "contour maps"

    @property
    def origin(self) -> dict[str, Any]:
        return {}

    def names(self) -> Sequence[str]:
        return list(self.files)

    def find(self, ground_truth: ImageGroundTruth) -> str | None:
        name = without_suffix(ground_truth.name)
        return name if name in self.files else None

    def size(self, name: str) -> tuple[int, int] | None:
        return None  # checked when the map is scored

    def is_empty(self, name: str) -> bool:
        return False

    def image(self, name: str) -> UcmFile:
        return UcmFile(self.files[name])


def open_predictions(path: str | Path) -> Predictions:
    """What was predicted: a folder of trees, a label set, a COCO file, or a folder of ``ucm2`` files.

    Raises:
        InputError: no such path, a folder with none of these, or with several.
        FormatError: a file that is damaged or something else.
    """
    path = Path(path)
    if path.is_file():
        return CocoPredictions.open(path)
    if not path.is_dir():
        raise _no_predictions(path)
    if (path / "index.json").exists() or (path / "plan.json").exists():
        return CocoPredictions.open_labels(path)
    trees, maps = (sorted(file for file in path.rglob(f"*.{kind}") if file.is_file()) for kind in ("json", "mat"))
    if trees and maps:
        raise InputError(f"{path}: expected trees or contour maps; got both ({trees[0].name}, {maps[0].name})")
    if maps:
        return UcmFolder(path, {file.relative_to(path).as_posix().removesuffix(".mat"): file for file in maps})
    return TreeFolder.open(path, trees)


def pair(
    predictions: Predictions,
    images: Sequence[ImageGroundTruth],
    *,
    ignore_extra: bool = False,
    allow_empty: bool = False,
) -> tuple[list[ImagePrediction], list[str]]:
    """The prediction of each image, and the names of the images in which nothing was found.

    Args:
        ignore_extra: pass over predictions of other images (the ground truth was restricted to a list).
        allow_empty: accept images without any prediction.

    Raises:
        InputError: a prediction is missing, extra, empty or of another size; nothing has been scored by then.
    """
    path, shown = predictions.path, predictions.names()
    found = _find_all(images, predictions)
    missing = [name for name, key in found.items() if key is None]
    if missing:
        raise InputError(
            f"{path}: expected a prediction for each of {len(images)} images; got none for {_some(missing)}; predicted "
            f"are {_some(shown)}; predict these images too, or give --only with a list of those to evaluate"
        )
    extra = sorted(set(shown) - set(found.values()))
    if extra and not ignore_extra:
        what = "names" if predictions.kind != "COCO results" else "image ids"
        raise InputError(
            f"{path}: expected predictions for the {len(images)} images of the ground truth only; got {what} it "
            f"does not "
            f"have: {_some(extra)}; check that both are of one data set, or give --only with a list of images"
        )
    keys = [str(key) for key in found.values()]
    empty = [image.name for image, key in zip(images, keys, strict=True) if predictions.is_empty(key)]
    if empty and not allow_empty:
        raise InputError(
            f"{path}: expected masks in every image; got none in {_some(empty)}; with --allow-empty they count as "
            "images in which nothing was found"
        )
    for image, key in zip(images, keys, strict=True):
        size = predictions.size(key)
        if size is not None:
            check_size(f"{path}, image {image.name}", size, image.size)
    return [predictions.image(key) for key in keys], empty


def _find_all(images: Sequence[ImageGroundTruth], predictions: Predictions) -> dict[str, str | None]:
    """The name of the prediction of each image. Tools write the names of images with folders before them that the
    photographs' own folder does not have: where no name fits, those that all names share are left out."""
    found = {image.name: predictions.find(image) for image in images}
    names = {image.name: PurePosixPath(image.name).parts for image in images}
    levels = zip(*(parts[:-1] for parts in names.values()), strict=False)
    num_shared = len(list(takewhile(lambda folders: len(set(folders)) == 1, levels)))
    for depth in range(1, num_shared + 1):
        if any(key is not None for key in found.values()):
            break
        inner = {image.name: replace(image, name="/".join(names[image.name][depth:])) for image in images}
        found = {name: predictions.find(image) for name, image in inner.items()}
    return found


def _no_predictions(path: Path) -> InputError:
    return InputError(
        f"expected the output folder of masktree segment, a label set or a COCO file of predictions; got "
        f"{describe_contents(path)}; segment the photographs first, or check the path"
    )


def check_size(what: str | Path, got: tuple[int, int], expected: tuple[int, int]) -> None:
    """Raises InputError if two (height, width) differ."""
    if tuple(got) != tuple(expected):
        raise InputError(
            f"{what}: expected masks of {expected[0]} x {expected[1]} pixels (height x width) like the ground "
            f"truth; got "
            f"{got[0]} x {got[1]}; predict on the original image, or scale the masks back to it"
        )


def without_suffix(name: str) -> str:
    """The name of an image without its suffix, as ``masktree segment`` names results."""
    return name.removesuffix(Path(name).suffix)


def _recorded_run(folder: Path, name: str) -> dict[str, Any]:
    """What run.json says about the trees in a folder; the folder may be one below that of the run."""
    for above in (folder, *folder.resolve().parents):
        record = above / "run.json"
        if record.is_file():
            run = read_run(record)
            below = folder.resolve().relative_to(above.resolve()).as_posix()
            if above == folder or f"{below}/{name}" in run["seconds"]:
                return {key: run[key] for key in ("config", "weights", "versions")}
            return {}
    return {}


def _some(names: Sequence[str]) -> str:
    """The first of many names, and how many there are."""
    first = ", ".join(str(name) for name in names[:_FIRST])
    return first if len(names) <= _FIRST else f"{first}, ... ({len(names)} in all)"
