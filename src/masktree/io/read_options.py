"""How image files and arrays become RGB, where there is a choice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from masktree.errors import InputError


@dataclass(frozen=True)
class ReadOptions:
    """What is read of an image, and how its values become 8 bits. The defaults suit photographs.

    Attributes:
        channels: numbers from 0, or names, of one channel (shown in grey), two (green and magenta) or three (red, green
            and blue). Names are those of OME-TIFF, the band descriptions of GeoTIFF, and red, green, blue. None: see
            ``masktree.io.channels.choose_channels``.
        page: number from 0 of the page; of a stack of time points and z planes the number of the plane.
        nodata: value that means "no data", beside the one that the file names.
        value_range: percentiles, from 0 to 100, of the values that are shown black and white. None: see
            ``masktree.io.value_range.find_value_ranges``.

    Raises:
        InputError: a value out of range or of another type.
    """

    channels: tuple[int | str, ...] | None = None
    page: int = 0
    nodata: float | None = None
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.channels is not None:
            object.__setattr__(self, "channels", _check_channels(self.channels))
        if not isinstance(self.page, Integral) or isinstance(self.page, bool) or not 0 <= self.page < 2**31:
            raise InputError(f"expected the number of a page, from 0; got {self.page!r}")
        if self.nodata is not None:
            if not isinstance(self.nodata, Real) or isinstance(self.nodata, bool):
                raise InputError(f"expected nodata as a number; got {self.nodata!r}")
            object.__setattr__(self, "nodata", float(self.nodata))
        if self.value_range is not None:
            object.__setattr__(self, "value_range", _check_percentiles(self.value_range))

    def record(self) -> dict[str, Any]:
        """Plain values of what differs from the defaults, for the record of a run."""
        given: dict[str, Any] = {}
        if self.channels is not None:
            given["channels"] = list(self.channels)
        if self.page:
            given["page"] = int(self.page)
        if self.nodata is not None:
            given["nodata"] = self.nodata if math.isfinite(self.nodata) else str(self.nodata)
        if self.value_range is not None:
            given["value_range"] = list(self.value_range)
        return given

    @classmethod
    def from_record(cls, given: object) -> ReadOptions:
        """The options of ``record``.

        Raises:
            InputError: of something else.
        """
        if not isinstance(given, dict) or not given.keys() <= {"channels", "page", "nodata", "value_range"}:
            raise InputError(f"expected the options that an image was read with; got {str(given)[:60]}")
        values = dict(given)
        for name in ("channels", "value_range"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        if values.get("nodata") in ("nan", "inf", "-inf"):
            values["nodata"] = float(values["nodata"])
        return cls(**values)


DEFAULT_OPTIONS = ReadOptions()


def _check_channels(channels: Any) -> tuple[int | str, ...]:
    if isinstance(channels, (str, int)) and not isinstance(channels, bool):
        channels = (channels,)
    is_list = isinstance(channels, (tuple, list)) and all(_is_channel(channel) for channel in channels)
    if not is_list or not 1 <= len(channels) <= 3:
        raise InputError(f"expected one, two or three channels, as numbers from 0 or names; got {channels!r}")
    return tuple(channel if isinstance(channel, str) else int(channel) for channel in channels)


def _is_channel(channel: Any) -> bool:
    is_number = isinstance(channel, (int, np.integer)) and not isinstance(channel, bool)
    return isinstance(channel, str) or bool(is_number and channel >= 0)


def _check_percentiles(pair: Any) -> tuple[float, float]:
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not is_pair or not all(isinstance(value, Real) and not isinstance(value, bool) for value in pair):
        raise InputError(f"expected value_range as two percentiles, such as (1, 99); got {pair!r}")
    low, high = float(pair[0]), float(pair[1])
    if not 0 <= low < high <= 100:
        raise InputError(f"expected percentiles 0 <= low < high <= 100; got {low:g} and {high:g}")
    return low, high
