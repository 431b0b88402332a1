"""What an evaluation protocol consists of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from masktree import __version__
from masktree.errors import InputError
from masktree.evaluate.case import EvaluationCase
from masktree.evaluate.image_stats import ImageStats, Metrics
from masktree.predict import Segmenter, SegmenterConfig


@dataclass(frozen=True)
class EvaluationProtocol:
    """A protocol: how an image is scored and how the scores are summed up.

    Attributes:
        title: for reports.
        main_metric: by which reports sort images.
        headline_metrics: that reports show first.
        score: stats of one image; called in worker processes.
        summarise: metrics of a data set, from the stats of its images.
    """

    title: str
    main_metric: str
    headline_metrics: tuple[str, ...]
    score: Callable[[EvaluationCase, ScoringContext], ImageStats]
    summarise: Callable[[Sequence[ImageStats]], Metrics]


class ScoringContext:
    """What all images of an evaluation have in common. Picklable, without the segmenter.

    Attributes:
        settings: options that decide the metrics.
        origin: ``config``, ``weights`` and ``versions`` of the run that made the predictions, as far as recorded.
    """

    def __init__(self, settings: dict[str, Any], origin: dict[str, Any]) -> None:
        self.settings = settings
        self.origin = origin
        self._segmenter: Segmenter | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_segmenter": None}  # networks do not travel between processes

    @property
    def segmenter(self) -> Segmenter:
        """The segmenter that made the predictions, loaded once per process.

        Raises:
            InputError: there is no record of the run, or the weights or the version differ from it.
        """
        if self._segmenter is None:
            self._segmenter = self._load_segmenter()
        return self._segmenter

    @property
    def config(self) -> SegmenterConfig:
        """The recorded configuration of the segmenter. Raises InputError if there is none."""
        recorded = self.origin.get("config")
        if recorded is None or "weights" not in self.origin:
            raise InputError("expected run.json beside the trees, which has the configuration; got none; segment again")
        return SegmenterConfig(
            **{name: recorded[name] for name in SegmenterConfig.__dataclass_fields__ if name in recorded}
        )

    def _load_segmenter(self) -> Segmenter:
        config = self.config
        version = self.origin.get("versions", {}).get("masktree")
        if version != __version__:
            raise InputError(f"expected trees of this version {__version__}; got {version}; segment again")
        segmenter = config.load()
        recorded = self.origin["weights"].get("sha256")
        if segmenter.provenance.sha256 != recorded:
            raise InputError(f"expected the weights of the run, sha256 {recorded}; got {segmenter.provenance.sha256}")
        return segmenter
