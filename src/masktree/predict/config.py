"""Segmenters as recorded configuration."""

from __future__ import annotations

import random
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from masktree.discover.methods import METHODS, Quality
from masktree.errors import FormatError, InputError
from masktree.labels import LabelSet
from masktree.models.saved import is_model
from masktree.predict.discovery import DiscoverySegmenter
from masktree.predict.loading import load, load_model
from masktree.predict.model import ModelSegmenter


@dataclass(frozen=True)
class SegmenterConfig:
    """Everything that determines a segmenter's results; recorded beside them.

    Attributes:
        backbone, method, quality: see ``masktree.load``; default embedded, masktree, fast.
        model: a trained model instead of these three; see ``masktree.predict.load_model``.
        positions, min_area, device, dtype: see ``masktree.load``.
        seed: of every random generator; reset for each image, so that results do not depend on order or workers.
        options: further keyword arguments of the method or the model.

    Raises:
        InputError: a seed out of range, or a model together with a backbone, method, quality or positions.
    """

    backbone: str | None = None
    method: str | None = None
    quality: Quality | None = None
    min_area: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    positions: Literal["timm", "dino"] = "timm"

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise InputError(f"expected a seed from 0 to {2**32 - 1}; got {self.seed}")
        for name, default in (("backbone", "embedded"), ("method", "masktree"), ("quality", "fast")):
            if self.model is None and getattr(self, name) is None:
                object.__setattr__(self, name, default)
            elif self.model is not None and getattr(self, name) is not None:
                raise InputError(
                    f"expected --model without --{name}, which a trained model does not take; got "
                    f"{getattr(self, name)!r}; leave out one of the two"
                )
        if self.model is not None and self.positions != "timm":
            raise InputError("expected --model without --positions, which a trained model does not take; got both")

    def record(self) -> dict[str, Any]:
        """Plain values for the record of a run; ``model`` and ``positions`` only if they are not the default."""
        optional = {"model": None, "positions": "timm"}
        return {name: value for name, value in asdict(self).items() if name not in optional or value != optional[name]}

    @classmethod
    def from_folder(cls, folder: Path) -> SegmenterConfig:
        """The configuration of a trained model, or the one that made a label set, with its thresholds.

        Raises:
            FormatError: no finished label set, or one that no segmenter made, such as that of ``masktree merge``.
        """
        if is_model(folder):
            return cls(model=str(folder))
        recorded = LabelSet.open(folder).index["config"]
        known = {name: recorded[name] for name in cls.__dataclass_fields__ if name in recorded}
        if recorded.get("method") not in METHODS and "model" not in known:
            raise FormatError(
                f"{folder}: expected labels of a method or a model; got those of {recorded.get('method')!r}; give "
                "the label sets or runs that they were made from"
            )
        return cls(**known)

    def load(self) -> DiscoverySegmenter | ModelSegmenter:
        """Load the segmenter; raises everything that would fail for every image."""
        if self.model is not None:
            return load_model(self.model, device=self.device, dtype=self.dtype, min_area=self.min_area, **self.options)
        assert self.backbone is not None
        return load(
            self.backbone,
            device=self.device,
            dtype=self.dtype,
            method=self.method,
            quality=self.quality,
            positions=self.positions,
            min_area=self.min_area,
            **self.options,
        )

    def seed_generators(self) -> None:
        """Reset the global generators of random numbers; masktree's own code passes generators explicitly."""
        random.seed(self.seed)
        np.random.seed(self.seed)
        if "torch" in sys.modules:
            sys.modules["torch"].manual_seed(self.seed)
