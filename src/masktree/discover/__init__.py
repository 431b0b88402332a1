"""Phase 1: one image to one tree of masks, by the three published methods and by our own.

``hassod``, ``sohes`` and ``unsam`` take ``(image, backbone, ...)`` and return a ``MaskTree`` of overlapping masks;
``build_dendrogram`` (method ``masktree``) returns the full dendrogram of the image.
"""

from masktree.discover.hassod import hassod
from masktree.discover.masktree import build_dendrogram
from masktree.discover.sohes import sohes
from masktree.discover.unsam import unsam

__all__ = ["build_dendrogram", "hassod", "sohes", "unsam"]
