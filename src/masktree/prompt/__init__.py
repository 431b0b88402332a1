"""Prompts by clicks, boxes and masks: segment-anything's predictor, on trees, dendrograms and networks."""

from masktree.prompt.predictor import Predictor
from masktree.prompt.prompt import Prompt

__all__ = ["Predictor", "Prompt"]
