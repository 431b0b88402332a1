"""The discovery methods: what each is called, how it is described, and how it is run.

To add a method, write its module, with a function ``(image, backbone, *, ...) -> MaskTree``, and add an entry to
``METHODS``. Command line, configuration and ``load`` derive choices, help texts and options from this dictionary.
Nothing is compiled or loaded before a method is first run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from masktree.discover import calibrations
from masktree.errors import InputError

if TYPE_CHECKING:
    from masktree.backbones.base import Backbone
    from masktree.discover.calibrations import Knots
    from masktree.trees.masktree import MaskTree
    from masktree.trees.scores import ScoreCalibration
    from masktree.types import RGB

Quality = Literal["fast", "best"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)


@dataclass(frozen=True)
class Method:
    """A discovery method.

    Attributes:
        summary: what it finds, for help texts.
        citation: paper.
        load: imports and returns the function, ``(image, backbone, **options) -> MaskTree``.
        quality_sets: effect of the quality: ``argument`` passes it to the function as ``quality``; ``refiner`` refines
            with the guided filter at ``fast`` and the function's own refiner, the dense CRF, at ``best``; None has one
            quality.
        score_knots: of the map from the method's scores to those of a segmenter, made by ``recipes/scores.py``. The
            default leaves scores as they are.
    """

    summary: str
    citation: str
    load: Callable[[], Callable[..., MaskTree]]
    quality_sets: Literal["argument", "refiner"] | None = None
    score_knots: Knots = ((0.0, 1.0), (0.0, 1.0))

    def __call__(self, image: RGB, backbone: Backbone, *, quality: Quality = "fast", **options: Any) -> MaskTree:
        """Tree of masks of one image; ``options`` as in :meth:`options`.

        Raises:
            InputError: unknown quality, or a value out of range.
        """
        if quality not in QUALITIES:
            raise InputError(f"expected quality to be one of {', '.join(QUALITIES)}; got {quality!r}")
        if self.quality_sets == "argument":
            options["quality"] = quality
        elif self.quality_sets == "refiner" and quality == "fast":
            from masktree.refine.guided import guided

            options.setdefault("refiner", guided)
        return self.load()(image, backbone, **options)

    @property
    def calibration(self) -> ScoreCalibration:
        """From the method's scores to the agreement to expect, see ``masktree.trees.scores``."""
        from masktree.trees.scores import ScoreCalibration

        return ScoreCalibration(*self.score_knots)

    def options(self) -> dict[str, Any]:
        """Names and defaults of the keyword arguments of the method, without the quality."""
        parameters = inspect.signature(self.load()).parameters.values()
        return {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY and p.name != "quality"}


def _masktree() -> Callable[..., MaskTree]:
    from masktree.discover.masktree import discover_masks

    return discover_masks


def _hassod() -> Callable[..., MaskTree]:
    from masktree.discover.hassod import hassod

    return hassod


def _sohes() -> Callable[..., MaskTree]:
    from masktree.discover.sohes import sohes

    return sohes


def _unsam() -> Callable[..., MaskTree]:
    from masktree.discover.unsam import unsam

    return unsam


def _maskcut() -> Callable[..., MaskTree]:
    from masktree.discover.maskcut import maskcut

    return maskcut


METHODS: dict[str, Method] = {
    "masktree": Method(
        summary="one dendrogram, whose cuts cover every pixel",
        citation="this package",
        load=_masktree,
        score_knots=calibrations.MASKTREE,
        quality_sets="argument",
    ),
    "hassod": Method(
        summary="hierarchical adaptive clustering in three levels",
        citation="Cao et al., NeurIPS 2023, arXiv 2402.03311",
        load=_hassod,
        score_knots=calibrations.HASSOD,
    ),
    "sohes": Method(
        summary="clustering, and again in crops of small regions",
        citation="Cao et al., ICLR 2024, arXiv 2404.12386",
        load=_sohes,
        score_knots=calibrations.SOHES,
        quality_sets="refiner",
    ),
    "unsam": Method(
        summary="objects of MaskCut, and clustering in these",
        citation="Wang et al., NeurIPS 2024, arXiv 2406.20081",
        load=_unsam,
        score_knots=calibrations.UNSAM,
        quality_sets="refiner",
    ),
    "maskcut": Method(
        summary="up to three objects by normalised cuts",
        citation="Wang et al., CVPR 2023, arXiv 2301.11320",
        load=_maskcut,
    ),
}
