"""Evaluation of predictions: a protocol, predictions and ground truth in, metrics out.

>>> from masktree.evaluate.harness import evaluate
>>> result = evaluate("ar", "out/", "annotations.json")  # doctest: +SKIP
>>> result.metrics["ar1000"]  # doctest: +SKIP

Images are scored in worker processes. Whatever is wrong with the set of images is reported before the first one is
scored, and no image is skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from masktree.errors import InputError
from masktree.evaluate.case import EvaluationCase
from masktree.evaluate.datasets import read_list
from masktree.evaluate.find_cases import FoundCases, find_annotated_cases, find_photo_cases
from masktree.evaluate.image_stats import ImageStats
from masktree.evaluate.options import EvaluationOptions, IouType, ProtocolName
from masktree.evaluate.predictions import Predictions, UcmFolder, open_predictions
from masktree.evaluate.protocol import ScoringContext
from masktree.evaluate.protocols import PROTOCOLS
from masktree.evaluate.result import EvaluationResult
from masktree.io.contents import check_photo_folder
from masktree.jobs import batch
from masktree.jobs.progress import progress_bar

_MAX_IMAGES_SINGLE = 4  # up to which a process pool costs more to start than it saves (our choice)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """An evaluation that is ready to run: every image has its prediction. Made by ``open``.

    Attributes:
        protocol: name in ``PROTOCOLS``.
        settings: options that decide the metrics.
        predictions: what is evaluated.
        found: the images to be scored.
    """

    protocol: str
    settings: dict[str, Any]
    predictions: Predictions
    found: FoundCases

    @property
    def cases(self) -> tuple[EvaluationCase, ...]:
        return self.found.cases

    @classmethod
    def open(
        cls,
        protocol: ProtocolName,
        predictions: str | Path,
        ground_truth: str | Path | None = None,
        options: EvaluationOptions | None = None,
    ) -> Evaluation:
        """Find the prediction of every image; arguments and errors as in :func:`evaluate`."""
        options = options or EvaluationOptions()
        for what, value, choices in (
            ("protocol", protocol, tuple(PROTOCOLS)),
            ("iou_type", options.iou_type, get_args(IouType)),
        ):
            if value not in choices:
                raise InputError(f"expected {what} to be one of {', '.join(choices)}; got {value!r}")
        if options.iou_type == "boxes" and protocol != "ar":
            raise InputError(f"expected boxes for the protocol ar only; got {protocol}")
        if options.images is not None:
            check_photo_folder(options.images)
        only = None if options.only is None else read_list(options.only)
        opened = open_predictions(predictions)
        if isinstance(opened, UcmFolder) and protocol != "bsds":
            raise InputError(f"{opened.path}: expected masks for the protocol {protocol}; got contour maps, for bsds")
        if protocol == "consistency":
            if ground_truth is not None:
                raise InputError(
                    "expected no ground truth for the protocol consistency; got one; choose another protocol"
                )
            return cls(protocol, {}, opened, find_photo_cases(opened, only, options))
        if ground_truth is None:
            raise InputError(f"expected ground truth for the protocol {protocol}; got none; give --gt")
        found = find_annotated_cases(opened, Path(ground_truth), protocol, only, options)
        settings: dict[str, Any] = {"split": found.split} if found.split else {}
        settings |= {"iou_type": options.iou_type} if protocol == "ar" else {}
        settings |= {"boundaries": options.boundaries} if protocol == "bsds" else {}
        return cls(protocol, settings, opened, found)

    def run(self, *, workers: int = 0, show_progress: bool = False) -> EvaluationResult:
        """Score all images.

        Args:
            workers: processes; 0 means one per core, or one for a few images and on an accelerator.
            show_progress: a bar on standard error.

        Raises:
            InputError: an image cannot be scored; the message names it.
        """
        stats = self._score(workers, show_progress)
        recorded = self.predictions.origin
        origin = {
            "predictions": self.predictions.path.resolve().name,
            "kind": self.predictions.kind,
            "configuration": recorded.get("config"),
            "weights": recorded.get("weights"),
            "empty": len(self.found.empty),
            **self.found.source,
        }
        names = [case.name for case in self.cases]
        metrics = PROTOCOLS[self.protocol].summarise(stats)
        return EvaluationResult.from_stats(
            self.protocol, self.found.dataset, self.settings, metrics, names, stats, origin
        )

    def _score(self, workers: int, show_progress: bool) -> list[ImageStats]:
        """The stats of all images, in their order."""
        context = ScoringContext(self.settings, self.predictions.origin)
        # Loading the segmenter here reports at once what would fail for every image.
        on_accelerator = self.protocol == "consistency" and context.segmenter.device != "cpu"
        workers = batch.resolve_workers(workers, single=on_accelerator or len(self.cases) <= _MAX_IMAGES_SINGLE)
        job = partial(_score_case, self.protocol, context)
        stats: dict[str, ImageStats] = {}
        with progress_bar(f"evaluate {self.protocol}", len(self.cases), 0, show=show_progress) as progress:
            for outcome in batch.run(self.cases, job, workers=workers):
                name = outcome.item.name
                if outcome.error is not None:
                    raise InputError(outcome.error if name in outcome.error else f"{name}: {outcome.error}")
                stats[name] = outcome.value
                progress.advance()
        return [stats[case.name] for case in self.cases]


def evaluate(
    protocol: ProtocolName,
    predictions: str | Path,
    ground_truth: str | Path | None = None,
    options: EvaluationOptions | None = None,
    *,
    workers: int = 0,
    show_progress: bool = False,
) -> EvaluationResult:
    """Score predictions against a ground truth or, for the protocol consistency, without one.

    Args:
        protocol: ar (average recall and precision of masks or boxes), points (clicks), bsds (regions and boundaries
            of BSDS500), hierarchy (parents and children), consistency (stability and structure).
        predictions: folder of trees, label set, COCO file, or folder of ``ucm2`` files (protocol bsds).
        ground_truth: COCO file, or what the data set's layout says.
        options: data set and other options.
        workers: processes; 0 means one per core, or one for a few images and on an accelerator.
        show_progress: a bar on standard error.

    Raises:
        InputError: the sets of images differ, an image cannot be scored, or an argument is wrong. No image is skipped.
        FormatError: a damaged file.
    """
    evaluation = Evaluation.open(protocol, predictions, ground_truth, options)
    return evaluation.run(workers=workers, show_progress=show_progress)


def _score_case(protocol: str, context: ScoringContext, case: EvaluationCase) -> ImageStats:
    return PROTOCOLS[protocol].score(case, context)
