"""One way to evaluate: a protocol, predictions, a ground truth; all images or an error, on all cores.

>>> from masktree.evaluate.harness import evaluate
>>> result = evaluate("ar", "out/", "annotations.json")  # doctest: +SKIP
>>> result.metrics["ar1000"]  # doctest: +SKIP

What one image adds is computed in worker processes; the protocols' modules say what it is and how it is summed up.
Everything that can be found wrong with the set of images is found before the first one is scored.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

import masktree
from masktree.errors import InputError
from masktree.evaluate import bsds, points, recall
from masktree.evaluate import consistency as stability
from masktree.evaluate import hierarchy as nesting
from masktree.evaluate.datasets import read_ground_truth
from masktree.evaluate.ground_truth import GroundTruth, ImageGroundTruth, hash_names
from masktree.evaluate.predictions import (
    ImagePrediction,
    Predictions,
    TreeFolder,
    UcmFolder,
    check_size,
    open_predictions,
    pair,
    without_suffix,
)
from masktree.evaluate.result import EvaluationResult, Metrics, Stats, source_commit
from masktree.io.files import sha256_of
from masktree.io.images import read_image
from masktree.io.photos import find_photos
from masktree.jobs import batch
from masktree.jobs.progress import progress_bar
from masktree.predict import Segmenter, load
from masktree.prompt import Predictor

ProtocolName = Literal["ar", "points", "bsds", "hierarchy", "consistency"]
Kind = Literal["masks", "boxes"]

_FEW = 4  # up to this many images a process pool costs more to start than it saves (our choice)


@dataclass(frozen=True)
class Case:
    """One image to be scored.

    Attributes:
        name: of the image, as in the ground truth.
        prediction: what was predicted.
        ground_truth: None for the protocol consistency.
        photo: the image file, where it is known.
        segmentations: BSDS500 file of the human segmentations, for the protocol bsds.
        header: image record of the tree file, for the protocol consistency.
    """

    name: str
    prediction: ImagePrediction
    ground_truth: ImageGroundTruth | None = None
    photo: Path | None = None
    segmentations: Path | None = None
    header: dict[str, Any] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        if self.ground_truth is not None:
            return self.ground_truth.size
        assert self.header is not None
        return self.header["height"], self.header["width"]


@dataclass(frozen=True)
class Protocol:
    """What an evaluation computes: ``main`` is the metric by which reports sort images."""

    title: str
    main: str
    score: Callable[[Case, ScoreJob], Stats]
    summarise: Callable[[Sequence[Stats]], Metrics]


class ScoreJob:
    """Scores one case; picklable. The segmenter of the protocol consistency is loaded once per process, on first
    use."""

    def __init__(self, protocol: str, settings: dict[str, Any], origin: dict[str, Any]) -> None:
        self.protocol = protocol
        self.settings = settings
        self.origin = origin
        self._segmenter: Segmenter | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_segmenter": None}  # networks do not travel between processes

    def __call__(self, case: Case) -> Stats:
        return PROTOCOLS[self.protocol].score(case, self)

    @property
    def segmenter(self) -> Segmenter:
        """The segmenter that made the trees, from the record of their run.

        Raises:
            InputError: there is no record, or weights or version of today are not those of the run.
        """
        if self._segmenter is None:
            self._segmenter = _recorded_segmenter(self.origin)
        return self._segmenter


@dataclass(frozen=True, eq=False)
class Evaluation:
    """An evaluation that is ready to run: every image has its prediction. Made by ``open``."""

    protocol: str
    dataset: str
    settings: dict[str, Any]
    predictions: Predictions
    cases: tuple[Case, ...]
    empty: tuple[str, ...]
    source: dict[str, Any]  # of the ground truth, for the record

    @classmethod
    def open(
        cls,
        protocol: ProtocolName,
        predictions: str | Path,
        ground_truth: str | Path | None = None,
        *,
        dataset: str = "auto",
        split: str | None = None,
        kind: Kind = "masks",
        boundaries: bool = True,
        only: Sequence[str] | None = None,
        images: str | Path | None = None,
        allow_empty: bool = False,
        check_counts: bool = True,
    ) -> Evaluation:
        """Find every image's prediction; arguments as in :func:`evaluate`."""
        for what, value, choices in (("protocol", protocol, get_args(ProtocolName)), ("kind", kind, get_args(Kind))):
            if value not in choices:
                raise InputError(f"expected {what} to be one of {', '.join(choices)}; got {value!r}")
        if kind == "boxes" and protocol != "ar":
            raise InputError(f"expected boxes for the protocol ar only; got {protocol}")
        found = open_predictions(predictions)
        if isinstance(found, UcmFolder) and protocol != "bsds":
            raise InputError(f"{found.path}: expected masks for the protocol {protocol}; got contour maps, for bsds")
        if protocol == "consistency":
            if ground_truth is not None:
                raise InputError(
                    "expected no ground truth for the protocol consistency; got one; choose another protocol"
                )
            cases, empty = _consistency_cases(found, only, images, allow_empty)
            return cls(protocol, "no ground truth", {}, found, tuple(cases), tuple(empty), {})
        if ground_truth is None:
            raise InputError(f"expected ground truth for the protocol {protocol}; got none; give --gt")
        path = Path(ground_truth)
        dataset, split = _choose(protocol, path, dataset, split)
        known = read_ground_truth(dataset, path, split=split, check_counts=check_counts, only=only)
        predicted, empty = pair(found, known.images, ignore_extra=only is not None, allow_empty=allow_empty)
        photos, segmentations = _folders(path, dataset, split, images)
        cases = [
            Case(
                image.name,
                prediction,
                ground_truth=image,
                photo=None if photos is None else photos / image.name,
                segmentations=None if segmentations is None else segmentations / f"{without_suffix(image.name)}.mat",
            )
            for image, prediction in zip(known.images, predicted, strict=True)
        ]
        settings: dict[str, Any] = {"split": split} if split else {}
        settings |= {"kind": kind} if protocol == "ar" else {}
        settings |= {"boundaries": boundaries} if protocol == "bsds" else {}
        source = {
            "ground_truth": "/".join(path.resolve().parts[-2:]),
            "ground_truth_sha256": sha256_of(path) if path.is_file() else None,
            "licence": known.licence,
        }
        return cls(protocol, known.dataset, settings, found, tuple(cases), tuple(empty), source)

    def run(self, *, workers: int = 0, show_progress: bool = False) -> EvaluationResult:
        """Score all images.

        Raises:
            InputError: an image that cannot be scored ends the evaluation; the message names it.
        """
        job = ScoreJob(self.protocol, self.settings, self.predictions.origin)
        stats = _score_all(self.cases, job, workers, f"evaluate {self.protocol}", show_progress)
        found = self.predictions
        origin = {
            "predictions": found.path.resolve().name,
            "kind": found.kind,
            "configuration": found.origin.get("config"),
            "weights": found.origin.get("weights"),
            "empty": len(self.empty),
            **self.source,
        }
        names = [case.name for case in self.cases]
        return _result(self.protocol, self.dataset, self.settings, names, stats, origin)


def evaluate(
    protocol: ProtocolName,
    predictions: str | Path,
    ground_truth: str | Path | None = None,
    *,
    dataset: str = "auto",
    split: str | None = None,
    kind: Kind = "masks",
    boundaries: bool = True,
    only: Sequence[str] | None = None,
    images: str | Path | None = None,
    allow_empty: bool = False,
    check_counts: bool = True,
    workers: int = 0,
    show_progress: bool = False,
) -> EvaluationResult:
    """Score predictions against a ground truth, or, for the protocol consistency, without any.

    Args:
        protocol: ar (recall and precision of masks or boxes), points (clicks), bsds (regions and contours of
            BSDS500), hierarchy (of parents and children), consistency (stability and structure; no ground truth).
        predictions: folder of trees, label set, COCO file, or folder of ``ucm2`` files (protocol bsds).
        ground_truth: COCO file, or what the data set's layout says.
        dataset: name in ``masktree.evaluate.datasets.DATASETS``; auto takes a file for COCO json and a folder with
            ``groundTruth`` for BSDS500 (with its only split, if ``split`` is None and there is one).
        split: of the data set.
        kind: masks or boxes (protocol ar).
        boundaries: whether bsds scores boundary F, which takes most of its time.
        only: names of the images to evaluate; ground truth and predictions are restricted to them.
        images: folder of the photographs, for the protocol consistency (by default where they were when the trees
        were made).
        allow_empty: count images without predictions as images in which nothing was found, instead of refusing them.
        check_counts: refuse a benchmark with other counts of images and annotations than published.
        workers: processes; 0 means one per core.
        show_progress: a bar on standard error.

    Raises:
        InputError: the sets of images differ, an image cannot be scored, or an argument is wrong. No image is skipped.
        FormatError: a damaged file.
    """
    ready = Evaluation.open(
        protocol,
        predictions,
        ground_truth,
        dataset=dataset,
        split=split,
        kind=kind,
        boundaries=boundaries,
        only=only,
        images=images,
        allow_empty=allow_empty,
        check_counts=check_counts,
    )
    return ready.run(workers=workers, show_progress=show_progress)


def evaluate_predictor(
    predictor: points.Predictor,
    ground_truth: GroundTruth,
    images: str | Path,
    *,
    name: str = "predictor",
    show_progress: bool = False,
) -> EvaluationResult:
    """Point prompts answered by any object with segment-anything's ``set_image`` and ``predict``, in this process.

    Args:
        predictor: gets each image once, then clicks.
        ground_truth: from ``masktree.evaluate.datasets.read_ground_truth``.
        images: folder of the photographs.
        name: what the result calls the predictor.
        show_progress: a bar on standard error.

    Raises:
        InputError: a photograph is missing or of another size than its ground truth, or an answer cannot be scored.
    """
    stats = []
    with progress_bar("evaluate points", len(ground_truth), 0, show=show_progress) as progress:
        for image in ground_truth.images:
            path = Path(images) / image.name
            if not path.is_file():
                raise InputError(f"expected the photograph of {image.name}; got no {path}")
            photo = read_image(path)
            check_size(path, photo.shape[:2], image.size)
            stats.append(click(predictor, photo, image))
            progress.advance()
    origin = {"predictions": name, "kind": "predictor"}
    return _result("points", ground_truth.dataset, {}, [image.name for image in ground_truth.images], stats, origin)


def click(predictor: points.Predictor, image: np.ndarray | None, ground_truth: ImageGroundTruth) -> Stats:
    """Stats of ``points.score_image``, and clicks and failures with oracle granularity, as ``noc80_oracle`` ..."""
    oracle = points.score_image(predictor, image, ground_truth, granularity="oracle")
    again = {f"{name}_oracle": value for name, value in oracle.items() if name.startswith(("noc", "nof"))}
    return points.score_image(predictor, image, ground_truth) | again


# --- the ground truth and its images ----------------------------------------------------------------------------------


def _choose(protocol: str, path: Path, dataset: str, split: str | None) -> tuple[str, str | None]:
    """Data set and split, as far as the path tells them."""
    if dataset == "auto":
        if path.is_file() or (path / "annotations.json").is_file():
            dataset = "json"
        elif _bsds_folder(path) is not None:
            dataset = "bsds500"
        elif not path.exists():
            raise InputError(f"expected ground truth, a COCO json file or a folder; got no {path}")
        else:
            raise InputError(f"{path}: expected a COCO json file or the folder of BSDS500; got another; add --dataset")
    if protocol == "bsds" and dataset != "bsds500":
        raise InputError(f"{path}: expected the folder of BSDS500 for the protocol bsds; got the data set {dataset}")
    if dataset == "bsds500" and split is None and (folder := _bsds_folder(path)) is not None:
        there = sorted(inner.name for inner in (folder / "groundTruth").iterdir() if inner.is_dir())
        if len(there) != 1:
            raise InputError(f"{path}: expected --split, one of {', '.join(there)}; got none")
        split = there[0]
    return dataset, split


def _bsds_folder(path: Path) -> Path | None:
    """The folder with ``images`` and ``groundTruth``, in the official layouts."""
    layouts = (path, path / "data", path / "BSDS500" / "data")
    return next((folder for folder in layouts if (folder / "groundTruth").is_dir()), None)


def _folders(path: Path, dataset: str, split: str | None, images: str | Path | None) -> tuple[Path | None, Path | None]:
    """Where the photographs are, and for BSDS500 the human segmentations; None for photographs that are not there."""
    usual, segmentations = (path if path.is_dir() else path.parent) / "images", None
    if dataset == "bsds500" and (folder := _bsds_folder(path)) is not None:
        usual, segmentations = folder / "images" / str(split), folder / "groundTruth" / str(split)
    if images is not None:
        return Path(images), segmentations
    return usual if usual.is_dir() else None, segmentations


# --- without a ground truth -------------------------------------------------------------------------------------------


def _consistency_cases(
    predictions: Predictions, only: Sequence[str] | None, images: str | Path | None, allow_empty: bool
) -> tuple[list[Case], list[str]]:
    """A case for each tree, with its photograph, and the names of trees without masks."""
    if not isinstance(predictions, TreeFolder):
        raise InputError(f"{predictions.path}: expected a folder of masktree segment; got {predictions.kind}")
    path, names = predictions.path, list(predictions.names())
    if only is not None:
        wanted = {name if name in predictions.headers else without_suffix(name) for name in only}
        unknown = sorted(wanted - set(names))
        if unknown:
            raise InputError(f"{path}: expected trees of all images in the list; got none for {unknown[0]}")
        names = [name for name in names if name in wanted]
    empty = [name for name in names if predictions.is_empty(name)]
    if empty and not allow_empty:
        raise InputError(
            f"{path}: expected masks in every image; got none in {empty[0]} ({len(empty)} in all); with --allow-empty "
            "they count as images in which nothing was found"
        )
    photos = {} if images is None else {photo.name: photo.path for photo in find_photos([images])[0]}
    cases = []
    for name in names:
        header = predictions.headers[name]
        photo = photos.get(name) if images is not None else Path(str(header.get("file_name")))
        if photo is None or not photo.is_file():
            raise InputError(
                f"{path}: expected the photograph of {name}; got no {photo or Path(str(images)) / name}; give the "
                "folder of the photographs with --images"
            )
        cases.append(Case(name, predictions.image(name), photo=photo, header=header))
    return cases, empty


def _recorded_segmenter(origin: dict[str, Any]) -> Segmenter:
    config, weights = origin.get("config"), origin.get("weights")
    if config is None or weights is None:
        raise InputError("expected run.json beside the trees, which says how to make them again; got none")
    version = origin.get("versions", {}).get("masktree")
    if version != masktree.__version__:
        raise InputError(f"expected trees of this version {masktree.__version__}; got {version}; segment again")
    segmenter = load(
        config.get("model") or config["backbone"],
        device=config["device"],
        dtype=config["dtype"],
        method=config["method"],
        quality=config["quality"],
        min_area=config["min_area"],
        **config["options"],
    )
    now = segmenter.provenance.sha256
    if now != weights.get("sha256"):
        raise InputError(f"expected the weights of the run, sha256 {weights.get('sha256')}; got {now}")
    return segmenter


# --- scoring ----------------------------------------------------------------------------------------------------------


def _score_all(
    cases: Sequence[Case], job: ScoreJob, workers: int, description: str, show_progress: bool
) -> list[Stats]:
    """The stats of all cases, in their order."""
    # The device of a segmenter loads its weights: what fails for every image fails here.
    accelerated = job.protocol == "consistency" and job.segmenter.device != "cpu"
    workers = batch.resolve_workers(workers, single=accelerated or len(cases) <= _FEW)
    place = {case.name: index for index, case in enumerate(cases)}
    stats: list[Stats | None] = [None] * len(cases)
    with progress_bar(description, len(cases), 0, show=show_progress) as progress:
        for outcome in batch.run(cases, job, workers=workers):
            if outcome.error is not None:
                named = outcome.item.name in outcome.error
                raise InputError(outcome.error if named else f"{outcome.item.name}: {outcome.error}")
            stats[place[outcome.item.name]] = outcome.value
            progress.advance()
    return cast(list[Stats], stats)


def _result(
    protocol: str,
    dataset: str,
    settings: dict[str, Any],
    names: Sequence[str],
    stats: Sequence[Stats],
    origin: dict[str, Any],
) -> EvaluationResult:
    return EvaluationResult(
        protocol=protocol,
        dataset=dataset,
        settings=settings,
        metrics=PROTOCOLS[protocol].summarise(stats),
        names=tuple(names),
        stats=tuple(stats),
        provenance={
            "masktree": masktree.__version__,
            "commit": source_commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "images": len(names),
            "list_sha256": hash_names(names),
            **origin,
        },
    )


def _ar(case: Case, job: ScoreJob) -> Stats:
    ground_truth = _ground_truth(case)
    return recall.score_image(ground_truth, case.prediction.detections(ground_truth.size), kind=job.settings["kind"])


def _points(case: Case, job: ScoreJob) -> Stats:
    ground_truth = _ground_truth(case)
    predictor = Predictor(case.prediction.tree(ground_truth.size, nested=False))
    return click(predictor, None, ground_truth)


def _bsds(case: Case, job: ScoreJob) -> Stats:
    assert case.segmentations is not None
    annotations = bsds.read_annotations(case.segmentations)
    return bsds.score(case.prediction.contours(case.size), annotations, boundaries=job.settings["boundaries"])


def _hierarchy(case: Case, job: ScoreJob) -> Stats:
    ground_truth = _ground_truth(case)
    return nesting.score_image(ground_truth, case.prediction.tree(ground_truth.size))


def _consistency(case: Case, job: ScoreJob) -> Stats:
    assert case.photo is not None
    assert case.header is not None
    recorded = case.header.get("sha256")
    if recorded is not None and sha256_of(case.photo) != recorded:
        raise InputError(f"{case.photo}: expected the photograph that was segmented; got a changed one; segment again")
    seed = int(job.origin["config"].get("seed", 0))

    def segment(image: np.ndarray) -> masktree.MaskTree:
        np.random.seed(seed)  # as the run did before each image
        return job.segmenter(image)

    tree = case.prediction.tree(case.size, nested=False)
    own = zlib.crc32(case.name.encode("utf-8", "surrogateescape"))  # each image has its own crop and noise
    return stability.score_image(read_image(case.photo), segment, tree, seed=own)


def _ground_truth(case: Case) -> ImageGroundTruth:
    assert case.ground_truth is not None
    return case.ground_truth


PROTOCOLS: dict[str, Protocol] = {
    "ar": Protocol("Average recall and precision", "ar1000", _ar, recall.summarise),
    "points": Protocol("Point prompts", "max_iou", _points, points.summarise),
    "bsds": Protocol("BSDS500 regions and boundaries", "covering_ois", _bsds, bsds.summarise),
    "hierarchy": Protocol("Hierarchy", "parent_child_f1", _hierarchy, nesting.summarise),
    "consistency": Protocol("Without any ground truth", "stability", _consistency, stability.summarise),
}
