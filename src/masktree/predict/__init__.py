"""From an image to its tree of masks: ``load`` a segmenter and call it."""

from masktree.predict.config import SegmenterConfig
from masktree.predict.discovery import DiscoverySegmenter
from masktree.predict.loading import load, load_model
from masktree.predict.model import ModelSegmenter
from masktree.predict.segmenter import Segmenter

__all__ = ["DiscoverySegmenter", "ModelSegmenter", "Segmenter", "SegmenterConfig", "load", "load_model"]
