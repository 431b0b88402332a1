"""Which of the teacher's masks are taught: thresholds on their scores, and a watch that ends a run gone blind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from masktree.train.store import LabelStore

FIXED = 0.7  # least score of a mask that HASSOD's teacher keeps (arXiv 2402.03311, code)


class Thresholds:
    """Least score of a mask that is kept, for small, medium and large ones."""

    def __init__(self, wanted: Sequence[float] | None = None, fixed: float = FIXED) -> None:
        self.wanted, self.score = wanted, fixed

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        raise NotImplementedError


class Watch:
    """Ends a run whose teacher finds nothing any more, or one mask per image."""

    def __init__(self, window: int = 100) -> None:
        self.window = window

    def news(self) -> str | None:
        """A warning for the one who watches, told once; None for none."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        raise NotImplementedError


def labels_per_image(store: LabelStore) -> tuple[float, float, float]:
    """Small, medium and large masks of a label set per photograph: what ``Thresholds(wanted=...)`` takes."""
    raise NotImplementedError
