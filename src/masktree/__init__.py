"""masktree: every entity in an image, its parts and their parts, as one tree of masks, without human labels.

>>> import masktree
>>> segmenter = masktree.load("embedded")
>>> tree = segmenter("photo.jpg")  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from masktree.backbones import load_backbone
    from masktree.masks import MaskTree
    from masktree.predict import LearnedSegmenter, Segmenter, load
    from masktree.prompt.generator import AutomaticMaskGenerator
    from masktree.prompt.predictor import Predictor
    from masktree.regions import redraw
    from masktree.tree import PartitionTree
    from masktree.visualize import overlay

__all__ = [
    "AutomaticMaskGenerator",
    "LearnedSegmenter",
    "MaskTree",
    "PartitionTree",
    "Predictor",
    "Segmenter",
    "__version__",
    "load",
    "load_backbone",
    "overlay",
    "redraw",
]

_HOMES = {
    "AutomaticMaskGenerator": "masktree.prompt.generator",
    "LearnedSegmenter": "masktree.predict",
    "MaskTree": "masktree.masks",
    "PartitionTree": "masktree.tree",
    "Predictor": "masktree.prompt.predictor",
    "Segmenter": "masktree.predict",
    "load": "masktree.predict",
    "load_backbone": "masktree.backbones",
    "overlay": "masktree.visualize",
    "redraw": "masktree.regions",
}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that ``import masktree`` and ``--help`` stay quick."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'masktree' has no attribute {name!r}")
