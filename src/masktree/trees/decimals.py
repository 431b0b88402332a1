"""Scores and granularities as float32 in memory and as decimals in files, so that neither is lower than the value."""

from __future__ import annotations

import numpy as np

DECIMALS = 5  # of scores and granularities in files


def ceil_float32(values: np.ndarray) -> np.ndarray:
    """float64 ``values`` rounded up to float32, such that their decimals in files are not below ``values`` either."""
    up = values.astype(np.float32)
    up = np.where(up < values, np.nextafter(up, np.float32(np.inf)), up)
    # If the decimal of ``up`` is just below the value and rounds to ``up`` again, take the next float32.
    decimal = np.round(up.astype(np.float64), DECIMALS)
    too_low = (decimal < values) & (decimal > np.nextafter(up, np.float32(-np.inf)))
    return np.where(too_low, np.nextafter(up, np.float32(np.inf)), up)


def ceil_decimals(values: np.ndarray) -> list[float]:
    """The smallest decimals of five digits that ``ceil_float32`` maps to at least the float32 ``values``, so that a
    file that is read and written again does not change."""
    decimals = [round(value, DECIMALS) for value in values.tolist()]
    too_low = np.flatnonzero(ceil_float32(np.array(decimals, np.float64)) < values)
    for index in too_low.tolist():
        decimals[index] = round(decimals[index] + 10.0**-DECIMALS, DECIMALS)
    return decimals
