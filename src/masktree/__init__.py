"""Every entity in an image, its parts and their parts, as one tree of masks, without human labels.

>>> import masktree
>>> segmenter = masktree.load("embedded")
>>> tree = segmenter("photo.jpg")  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from masktree import fork

__version__ = "0.2.0"

if TYPE_CHECKING:
    from masktree.backbones import load_backbone
    from masktree.io.images import read_image
    from masktree.io.read_options import ReadOptions
    from masktree.large.segment import segment_large
    from masktree.predict import DiscoverySegmenter, ModelSegmenter
    from masktree.predict.loading import load
    from masktree.prompt.generator import AutomaticMaskGenerator
    from masktree.prompt.predictor import Predictor
    from masktree.stages.hub import push_to_hub
    from masktree.trees.dendrogram import PartitionTree
    from masktree.trees.draw import overlay, show
    from masktree.trees.masktree import MaskTree
    from masktree.trees.snap import snap_to_regions
    from masktree.trees.tiled import TiledTree
    from masktree.trees.tiled_masks import TiledMasks

__all__ = [
    "AutomaticMaskGenerator",
    "DiscoverySegmenter",
    "MaskTree",
    "ModelSegmenter",
    "PartitionTree",
    "Predictor",
    "ReadOptions",
    "TiledMasks",
    "TiledTree",
    "__version__",
    "load",
    "load_backbone",
    "overlay",
    "push_to_hub",
    "read_image",
    "segment_large",
    "show",
    "snap_to_regions",
]

_HOMES = {
    "AutomaticMaskGenerator": "masktree.prompt.generator",
    "ModelSegmenter": "masktree.predict",
    "MaskTree": "masktree.trees.masktree",
    "PartitionTree": "masktree.trees.dendrogram",
    "Predictor": "masktree.prompt.predictor",
    "TiledMasks": "masktree.trees.tiled_masks",
    "TiledTree": "masktree.trees.tiled",
    "ReadOptions": "masktree.io.read_options",
    "DiscoverySegmenter": "masktree.predict",
    "load": "masktree.predict",
    "load_backbone": "masktree.backbones",
    "overlay": "masktree.trees.draw",
    "push_to_hub": "masktree.stages.hub",
    "segment_large": "masktree.large.segment",
    "read_image": "masktree.io.images",
    "show": "masktree.trees.draw",
    "snap_to_regions": "masktree.trees.snap",
}


fork.register()


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that ``import masktree`` and ``--help`` stay quick."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'masktree' has no attribute {name!r}")
