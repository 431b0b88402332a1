"""Pseudo-label data sets on disk: COCO shards with a tree in them, an index, a card.

Layout of a label set::

    LABELS/plan.json                      what is being made: the list of images and the configuration
    LABELS/annotations/00000.json ...     COCO files; annotations carry parent_id, level, score; in a merged set
                                          also source, a position in the index's list of sources
    LABELS/index.json                     manifest, written last: a folder without it is not finished
    LABELS/card.md                        counts, histograms, cost, configuration, hashes, for people
    LABELS/run.json, failures.json        record of the run
"""

from masktree.labels.dataset import LabelSet
from masktree.labels.writer import LabelSetWriter

__all__ = ["LabelSet", "LabelSetWriter"]
