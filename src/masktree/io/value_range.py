"""Which pixel values are shown black and white: values of any type as bytes, in blocks, so that little memory is
needed beside the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from masktree.errors import ImageError

MAX_ISOLATED = 1e-3  # largest fraction of the pixels that may be hot or dead ones (our choice)
_BLOCK_PIXELS = 2**20  # converted at once: 8 MB of float64 (our choice)
_MAX_RANKED = 2**22  # values that a percentile is taken of; of larger images every k-th row and column (our choice)
# Numbers that programs write where they have no data, and that no measurement gives by chance. Others, such as 0 or
# 65535, are also pixels, and are no data only where the file or the user says so.
_VOID_VALUES = (-9999.0, -99999.0, -32768.0, -32767.0, -2147483648.0)
_VOID_MAGNITUDE = 1e20  # floats from here on, such as 1e20 and 3.4e38
_FLOAT_TOLERANCE = 1e-3  # outside [0, 1], from rounding: a quarter of a grey level (our choice)


@dataclass(frozen=True)
class ValueRange:
    """The value that is shown black and the one that is shown white; values beyond them are clipped."""

    low: float
    high: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))


@dataclass(frozen=True)
class FoundRanges:
    """The ranges of the channels of an image.

    Attributes:
        ranges: one per channel.
        void_values: values that were taken for "no data" though nothing says so, see ``find_value_ranges``.
    """

    ranges: tuple[ValueRange, ...]
    void_values: tuple[float, ...] = ()


def find_value_ranges(
    values: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    bits: int | None = None,
    is_colour: bool = False,
    percentiles: tuple[float, float] | None = None,
) -> FoundRanges:
    """The range of each channel that loses nothing but what is no picture.

    Types of at most 8 bits keep their scale, and so do whole numbers from 0 to 255 in a wider type. Of all others black
    is the lowest value and white the highest one; a small bright object is never clipped, whatever its share of the
    pixels. Not counted are:

    - NaN and infinities, and pixels that are not ``valid``;
    - hot and dead pixels: isolated ones that exceed the range of all 2 x 2 blocks by more than its width, if they are
      at most ``MAX_ISOLATED`` of the image;
    - values that programs write for "no data" (-9999, -99999, -32768, -32767, -2147483648, and floats from 1e20 on),
      if they are the lowest or highest value and are farther from all others than these are from each other.

    Channels of one colour share a range, which keeps hues. Colours of which a value is in the upper half of the type
    keep the scale of the type, as a photograph of 16 bits then looks like its copy of 8 bits; so do floats in [0, 1].

    Args:
        values: (H, W, C).
        valid: (H, W), pixels that count; None: all.
        bits: significant bits of a value; None: those of the type.
        is_colour: whether the channels are red, green and blue of one photograph, not channels of their own.
        percentiles: take these percentiles, from 0 to 100, of the pixels that count instead, of any type.

    Raises:
        ImageError: no pixel counts.
    """
    bits = values.dtype.itemsize * 8 if bits is None else bits
    if percentiles is None and values.dtype.kind in "bu" and bits <= 8:
        return FoundRanges((ValueRange(0, 1 if values.dtype.kind == "b" else 2**bits - 1),) * values.shape[2])
    if values.dtype == np.float16:  # twice the range of its values would overflow
        values = values.astype(np.float32)
    if percentiles is not None:
        found = [_rank_values(values[..., c], valid, percentiles) for c in range(values.shape[2])]
        void: tuple[float, ...] = ()
    else:
        found, void = [], ()
        for channel in range(values.shape[2]):
            ends, channel_void = _find_ends(values[..., channel], valid)
            found.append(ends)
            void += tuple(value for value in channel_void if value not in void)
    known = [ends for ends in found if ends is not None]
    if not known:
        raise ImageError("expected finite pixel values; got none")
    ranges = [ValueRange(0, 0) if ends is None else ValueRange(*ends) for ends in found]  # an empty channel is black
    if is_colour:
        ranges = [ValueRange(min(low for low, _ in known), max(high for _, high in known))] * len(ranges)
    if percentiles is None:
        widest = ValueRange(min(low for low, _ in known), max(high for _, high in known))
        natural = _natural_range(widest, values.dtype, bits, is_colour=is_colour)
        ranges = ranges if natural == widest else [natural] * len(ranges)
    return FoundRanges(tuple(ranges), void)


def to_bytes(
    values: np.ndarray, ranges: Sequence[ValueRange], valid: np.ndarray | None = None
) -> UInt8[np.ndarray, "H W C"]:
    """(H, W, C) values as bytes: 0 at the low end of their channel's range, 255 at its high end, linear between.

    Pixels that are NaN, infinite or not ``valid`` (H, W) become 0. Bytes in the range 0 to 255 are returned as they
    are. Takes the memory of the result and of a block of ``2**20`` pixels.
    """
    if values.dtype == np.uint8 and all(r == ValueRange(0, 255) for r in ranges):
        result = values if valid is None else np.where(valid[..., None], values, np.uint8(0))
        return np.ascontiguousarray(result)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    result = np.empty(values.shape, np.uint8)
    for channel, value_range in enumerate(ranges):
        table = _table(values.dtype, value_range)
        for rows in _row_blocks(values.shape[:2]):
            block = values[rows, :, channel]
            if table is not None:
                unsigned = block.view(np.dtype(f"u{block.dtype.itemsize}")) if block.dtype.kind in "bi" else block
                result[rows, :, channel] = table[unsigned]
            else:
                result[rows, :, channel] = _scale(block, value_range)
    if valid is not None:
        result[~valid] = 0
    return result


def _scale(values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    width = value_range.high - value_range.low
    if width <= 0:
        # All values that count are one: it is black, and what is clipped above it is white.
        return np.where(np.isfinite(values) & (values > value_range.low), np.uint8(255), np.uint8(0))
    with np.errstate(all="ignore"):  # infinities and NaN, which are replaced
        scaled = (np.asarray(values, np.float64) - value_range.low) * (255.0 / max(width, 1e-300))
    scaled = np.where(np.isfinite(values), scaled, 0.0)
    clipped: np.ndarray = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return clipped


def _table(dtype: np.dtype, value_range: ValueRange) -> np.ndarray | None:
    """The byte of each value of a type of up to 16 bits, by its bits as an unsigned number."""
    if dtype.kind not in "bui" or dtype.itemsize > 2:
        return None
    if dtype.kind == "b":
        return _scale(np.arange(2), value_range)
    return _scale(np.arange(2 ** (8 * dtype.itemsize)).astype(f"u{dtype.itemsize}").view(dtype), value_range)


def _natural_range(found: ValueRange, dtype: np.dtype, bits: int, *, is_colour: bool) -> ValueRange:
    """The scale that values have by themselves where they fill it, else the range that was found."""
    if dtype.kind in "ui":
        if found.low >= 0 and found.high <= 255:
            return ValueRange(0, 255)
        if is_colour and dtype.kind == "u" and found.high >= 2 ** (bits - 1):
            return ValueRange(0, 2**bits - 1)
    elif is_colour and found.low >= -_FLOAT_TOLERANCE and 1 / 255 < found.high <= 1 + _FLOAT_TOLERANCE:
        return ValueRange(0, 1)
    return found


def _find_ends(values: np.ndarray, valid: np.ndarray | None) -> tuple[tuple[float, float] | None, tuple[float, ...]]:
    """(lowest and highest value that count, values taken for "no data"); None if no pixel counts."""
    void: tuple[float, ...] = ()
    for _ in range(3):  # at most one such value at each end, and a last look without them
        ends = _ends(values, valid, void)
        if ends is None:
            return None, ()
        candidate = next((end for end in ends if _is_void_value(end, values.dtype)), None)
        if candidate is None:
            break
        rest = _ends(values, valid, (*void, candidate))
        if rest is None or min(abs(candidate - rest[0]), abs(candidate - rest[1])) <= rest[1] - rest[0]:
            break
        void += (candidate,)
    assert ends is not None
    return _without_isolated(values, valid, void, *ends), void


def _is_void_value(value: float, dtype: np.dtype) -> bool:
    if dtype.kind == "f" and abs(value) >= _VOID_MAGNITUDE:
        return True
    return dtype.kind in "if" and value in _VOID_VALUES


def _counts(values: np.ndarray, valid: np.ndarray | None, void: Sequence[float]) -> np.ndarray | None:
    """Which pixels of a block count; None: all of them."""
    counts = None
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        counts = None if finite.all() else finite
    if valid is not None:
        counts = valid if counts is None else counts & valid
    for value in void:
        counts = values != value if counts is None else counts & (values != value)
    return counts


def _ends(values: np.ndarray, valid: np.ndarray | None, void: Sequence[float]) -> tuple[float, float] | None:
    low, high = np.inf, -np.inf
    for rows in _row_blocks(values.shape):
        block = values[rows]
        counts = _counts(block, None if valid is None else valid[rows], void)
        block = block if counts is None else block[counts]
        if block.size:
            low, high = min(low, float(block.min())), max(high, float(block.max()))
    return None if low > high else (low, high)


def _without_isolated(
    values: np.ndarray, valid: np.ndarray | None, void: Sequence[float], low: float, high: float
) -> tuple[float, float]:
    """The range ``low`` to ``high`` of the values without hot and dead pixels; see ``find_value_ranges``."""
    if min(values.shape) < 2:
        return low, high
    # A bright block is one whose darkest pixel is bright, so single pixels and lines of one pixel do not make any.
    darkest, brightest = np.inf, -np.inf
    for rows in _row_blocks(values.shape, overlap=1):
        block = values[rows]
        counts = _counts(block, None if valid is None else valid[rows], void)
        if block.shape[0] < 2:
            continue
        darkest = min(darkest, float(_blocks(_fill(block, counts, high), np.maximum).min()))
        brightest = max(brightest, float(_blocks(_fill(block, counts, low), np.minimum).max()))
    width = brightest - darkest
    if width <= 0 or (low >= darkest - width and high <= brightest + width):
        return low, high
    others_low, others_high, isolated = np.inf, -np.inf, 0
    for rows in _row_blocks(values.shape):
        block = values[rows]
        counts = _counts(block, None if valid is None else valid[rows], void)
        block = block.ravel() if counts is None else block[counts]
        kept = block[(block >= darkest - width) & (block <= brightest + width)]
        isolated += block.size - kept.size
        if kept.size:
            others_low, others_high = min(others_low, float(kept.min())), max(others_high, float(kept.max()))
    if not 0 < isolated <= MAX_ISOLATED * values.size:
        return low, high
    return others_low, others_high


def _fill(block: np.ndarray, counts: np.ndarray | None, value: float) -> np.ndarray:
    return block if counts is None else np.where(counts, block, block.dtype.type(value))


def _blocks(values: np.ndarray, reduce: np.ufunc) -> np.ndarray:
    """The minimum or maximum of every 2 x 2 block."""
    rows = reduce(values[:-1], values[1:])
    blocks: np.ndarray = reduce(rows[:, :-1], rows[:, 1:])
    return blocks


def _rank_values(
    values: np.ndarray, valid: np.ndarray | None, percentiles: tuple[float, float]
) -> tuple[float, float] | None:
    step = max(1, int(np.ceil(np.sqrt(values.size / _MAX_RANKED))))
    sample = values[::step, ::step]
    counts = _counts(sample, None if valid is None else valid[::step, ::step], ())
    sample = sample.ravel() if counts is None else sample[counts]
    if not sample.size:
        return None
    low, high = np.percentile(sample.astype(np.float64), percentiles)
    return float(low), float(high)


def _row_blocks(shape: Sequence[int], overlap: int = 0) -> Iterator[slice]:
    """Slices of rows of about ``_BLOCK_PIXELS`` pixels, each with ``overlap`` rows of the next one."""
    step = max(1, _BLOCK_PIXELS // max(shape[1], 1))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step + overlap, shape[0]))
