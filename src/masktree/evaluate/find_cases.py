"""Finding the images to be scored: the prediction, the ground truth and the photograph of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masktree.errors import InputError
from masktree.evaluate.case import EvaluationCase
from masktree.evaluate.datasets import read_ground_truth
from masktree.evaluate.options import EvaluationOptions, ProtocolName
from masktree.evaluate.predictions import Predictions, TreeFolder, pair, without_suffix
from masktree.io.contents import describe_contents
from masktree.io.files import sha256_of
from masktree.io.photos import find_photos


@dataclass(frozen=True)
class FoundCases:
    """The images to be scored.

    Attributes:
        dataset: name of the data set.
        cases: the images.
        empty: names of the images without predicted masks.
        split: of the data set, if it has several.
        source: where the ground truth comes from.
    """

    dataset: str
    cases: tuple[EvaluationCase, ...]
    empty: tuple[str, ...]
    split: str | None = None
    source: dict[str, Any] = field(default_factory=dict)


def find_annotated_cases(
    predictions: Predictions,
    ground_truth: Path,
    protocol: str,
    only: Sequence[str] | None,
    options: EvaluationOptions,
) -> FoundCases:
    """Pair predictions with a ground truth.

    Raises:
        InputError: the sets of images differ, or no reader fits the path.
        FormatError: a damaged file.
    """
    dataset, split = _choose_dataset(protocol, ground_truth, options.dataset, options.split)
    known = read_ground_truth(dataset, ground_truth, split=split, check_counts=options.check_counts, only=only)
    predicted, empty = pair(predictions, known.images, ignore_extra=only is not None, allow_empty=options.allow_empty)
    photos, segmentations = _find_folders(ground_truth, dataset, split, options.images)
    cases = tuple(
        EvaluationCase(
            image.name,
            prediction,
            ground_truth=image,
            photo=_find_photo(photos, image.name, predictions),
            segmentations=None if segmentations is None else segmentations / f"{without_suffix(image.name)}.mat",
        )
        for image, prediction in zip(known.images, predicted, strict=True)
    )
    source = {
        "ground_truth": "/".join(ground_truth.resolve().parts[-2:]),
        "ground_truth_sha256": sha256_of(ground_truth) if ground_truth.is_file() else None,
        "licence": known.licence,
    }
    return FoundCases(known.dataset, cases, tuple(empty), split, source)


def _find_photo(folder: Path | None, name: str, predictions: Predictions) -> Path | None:
    """The photograph in a folder or, where it is not there, the one that was segmented."""
    photo = None if folder is None else folder / name
    if isinstance(predictions, TreeFolder) and (photo is None or not photo.is_file()):
        key = next((key for key in (name, without_suffix(name)) if key in predictions.headers), None)
        segmented = None if key is None else predictions.headers[key].get("file_name")
        if isinstance(segmented, str) and Path(segmented).is_file():
            return Path(segmented)
    return photo


def find_photo_cases(predictions: Predictions, only: Sequence[str] | None, options: EvaluationOptions) -> FoundCases:
    """Pair trees with their photographs, for the protocol consistency.

    Raises:
        InputError: no folder of trees, a tree without masks or without its photograph, an unknown name in the list.
    """
    if not isinstance(predictions, TreeFolder):
        raise InputError(f"{predictions.path}: expected a folder of masktree segment; got {predictions.kind}")
    path, names = predictions.path, _select(predictions, only)
    empty = [name for name in names if predictions.is_empty(name)]
    if empty and not options.allow_empty:
        raise InputError(
            f"{path}: expected masks in every image; got none in {empty[0]} ({len(empty)} in all); with --allow-empty "
            "they count as images without detections"
        )
    photos = None if options.images is None else {photo.name: photo.path for photo in find_photos([options.images])[0]}
    cases = []
    for name in names:
        header = predictions.headers[name]
        photo = Path(str(header.get("file_name"))) if photos is None else photos.get(name)
        if photo is None or not photo.is_file():
            raise InputError(
                f"{path}: expected the photograph of {name}; got no {photo or Path(str(options.images)) / name}; give "
                "the folder of the photographs with --images"
            )
        cases.append(EvaluationCase(name, predictions.image(name), photo=photo, header=header))
    return FoundCases("no ground truth", tuple(cases), tuple(empty))


def _select(predictions: TreeFolder, only: Sequence[str] | None) -> Sequence[str]:
    """Names of the trees, or of those in a list of images."""
    if only is None:
        return predictions.names()
    selected = {name if name in predictions.headers else without_suffix(name) for name in only}
    unknown = sorted(selected - set(predictions.names()))
    if unknown:
        raise InputError(f"{predictions.path}: expected trees of all images in the list; got none for {unknown[0]}")
    return [name for name in predictions.names() if name in selected]


def guess_protocol(ground_truth: Path | None, dataset: str) -> ProtocolName:
    """The protocol that a ground truth is most likely for: bsds for BSDS500, consistency without any, else ar."""
    if ground_truth is None:
        return "consistency"
    if dataset == "auto" and not (ground_truth / "annotations.json").is_file():
        dataset = "bsds500" if _bsds_folder(ground_truth) is not None else "json"
    return "bsds" if dataset == "bsds500" else "ar"


def _choose_dataset(protocol: str, path: Path, dataset: str, split: str | None) -> tuple[str, str | None]:
    """Data set and split, where they are not given: from what the path holds."""
    if dataset == "auto":
        if path.is_file() or (path / "annotations.json").is_file():
            dataset = "json"
        elif _bsds_folder(path) is not None:
            dataset = "bsds500"
        else:
            raise InputError(
                f"expected a COCO json file or the folder of BSDS500 as ground truth; got {describe_contents(path)}; "
                "check the path, or add --dataset for another data set"
            )
    if protocol == "bsds" and dataset != "bsds500":
        raise InputError(
            f"{path}: expected the folder of BSDS500 for the protocol bsds; got the data set {dataset}; omit --protocol"
        )
    if dataset == "bsds500" and split is None and (folder := _bsds_folder(path)) is not None:
        splits = sorted(inner.name for inner in (folder / "groundTruth").iterdir() if inner.is_dir())
        if len(splits) != 1:
            raise InputError(f"{path}: expected --split, one of {', '.join(splits)}; got none")
        split = splits[0]
    return dataset, split


def _bsds_folder(path: Path) -> Path | None:
    """The folder with ``images`` and ``groundTruth``, in the official layouts."""
    layouts = (path, path / "data", path / "BSDS500" / "data")
    return next((folder for folder in layouts if (folder / "groundTruth").is_dir()), None)


def _find_folders(path: Path, dataset: str, split: str | None, images: Path | None) -> tuple[Path | None, Path | None]:
    """Folders of the photographs and, for BSDS500, of the human segmentations; None where there is none."""
    default, segmentations = (path if path.is_dir() else path.parent) / "images", None
    if dataset == "bsds500" and (folder := _bsds_folder(path)) is not None:
        default, segmentations = folder / "images" / str(split), folder / "groundTruth" / str(split)
    if images is not None:
        return images, segmentations
    return default if default.is_dir() else None, segmentations
