"""What one image adds to the metrics of a data set, and sums of it."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from masktree.errors import InputError

ImageStats = dict[str, Any]  # plain data for JSON; the protocols say which keys it has
Metrics = dict[str, float | None]  # None where a metric is undefined


def column_arrays(stats: Sequence[ImageStats], names: Sequence[str]) -> np.ndarray:
    """(images, names) float64 of the named counts. Raises InputError without images."""
    if not stats:
        raise InputError("expected scores of at least one image; got none; check the list of images")
    get = itemgetter(*names)
    return np.array([get(one) for one in stats], np.float64).reshape(len(stats), len(names))


def ratio(part: float, whole: float) -> float | None:
    """part / whole; None where the whole is 0."""
    return float(part / whole) if whole else None
