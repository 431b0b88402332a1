"""Phase 1: one image to one tree of masks, by the three published methods and by our own.

``hassod``, ``sohes`` and ``unsam`` take ``(image, backbone, ...)`` and return a ``MaskTree`` of overlapping masks;
``partition`` (method ``masktree``) returns the full dendrogram of the image.
"""

from masktree.discover.hassod import hassod
from masktree.discover.masktree import partition
from masktree.discover.sohes import sohes
from masktree.discover.unsam import unsam

__all__ = ["hassod", "partition", "sohes", "unsam"]
