"""Clustering of dense features: the merge kernel and normalised cuts."""

from masktree.cluster.merge import merge_regions, merge_tree
from masktree.cluster.ncut import maskcut

__all__ = ["maskcut", "merge_regions", "merge_tree"]
