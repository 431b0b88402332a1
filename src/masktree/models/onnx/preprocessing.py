"""A photograph as a network's input (``masktree.models.inputs.prepare_image``) in ONNX operators.

Resizing is Pillow's bilinear one to the bit, in whole numbers. ONNX's ``Resize`` is off by one grey level in one pixel
of a thousand, which is enough for other centres of k-means, and so for other cues.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from onnx import TensorProto

from masktree.models.onnx.cues import add_boundary_cues
from masktree.models.onnx.nodes import Nodes, Value
from masktree.models.pyramid.base import SIZE_DIVISOR

INPUT = "image"  # name of the photograph
_WEIGHT_BITS = 22  # of Pillow's whole-number weights


def preprocessing_nodes(outputs: Collection[str], image_size: int, short_side: int = 0) -> Nodes:
    """Nodes from the photograph, (H, W, 3) uint8 or float32 RGB from 0 to 255, named ``INPUT``, to the ``outputs``.

    Args:
        outputs: ``pixels`` (1, 3, h, w) float32 in [0, 1], resized and padded with zeros to multiples of 32; ``cues``
            (1, NUM_CUES, h/2, w/2) float32; ``valid_size`` (2,) int64, the height and width of the image within the
            padding; ``size`` (2,) int64, those of the photograph.
        image_size, short_side: of the network's input, as in ``prepare_image``.
    """
    op = Nodes()
    # Programs for segment-anything give float32.
    photograph = op.Cast(op.Round(op.Clip(op.Cast(INPUT, to=TensorProto.FLOAT), 0.0, 255.0)), to=TensorProto.UINT8)
    size = op.Slice(op.Shape(photograph), np.array([0]), np.array([2]))
    valid_size = _valid_size(op, size, image_size, short_side)
    resized = op.Unsqueeze(op.Transpose(_resize(op, photograph, size, valid_size), perm=[2, 0, 1]), np.array([0]))
    missing = op.Mod(op.Neg(valid_size), np.array([SIZE_DIVISOR, SIZE_DIVISOR]))
    padded_size = op.Add(valid_size, missing)
    values = {"valid_size": valid_size, "size": size}
    if "pixels" in outputs:
        values["pixels"] = _pad(op, op.Div(op.Cast(resized, to=TensorProto.FLOAT), 255.0), padded_size)
    if "cues" in outputs:
        values["cues"] = _pad(op, add_boundary_cues(op, resized), op.Div(padded_size, np.array([2, 2])))
    for name in outputs:
        op.name_value(values[name], name)
    return op


def _valid_size(op: Nodes, size: Value, image_size: int, short_side: int) -> Value:
    """Height and width whose longer one is ``image_size``, rounded half to even as in Python; with a ``short_side``
    those of ``shortest_edge_size``."""
    sides = op.Cast(size, to=TensorProto.DOUBLE)
    longer = op.ReduceMax(sides)
    if short_side:
        by_shorter = op.Div(np.float64(short_side), op.ReduceMin(sides))
        factor = op.Min(by_shorter, op.Div(np.float64(image_size), longer))
        scaled = op.Floor(op.Add(op.Mul(sides, factor), np.float64(0.5)))
        return op.Cast(op.Max(scaled, np.float64(1)), to=TensorProto.INT64)
    scaled = op.Round(op.Div(op.Mul(sides, np.float64(image_size)), longer))
    return op.Cast(op.Max(scaled, np.float64(1)), to=TensorProto.INT64)


def _resize(op: Nodes, photograph: Value, size: Value, new_size: Value) -> Value:
    """(h, w, 3) uint8 of (H, W, 3) uint8: columns first, then rows, each rounded to whole grey levels."""
    pixels = op.Cast(photograph, to=TensorProto.INT32)
    for axis in (1, 0):  # always along the first axis, where a pixel's neighbours are contiguous
        pixels = op.Transpose(pixels, perm=[1, 0, 2])
        lengths = [op.Gather(sides, np.array(axis)) for sides in (size, new_size)]
        pixels = _resize_rows(op, pixels, *lengths)
    return op.Cast(pixels, to=TensorProto.UINT8)


def _resize_rows(op: Nodes, pixels: Value, length: Value, new_length: Value) -> Value:
    """(new_length, m, 3) int32 of (length, m, 3): Pillow's ``ImagingResample`` with its triangle filter."""
    last = op.Sub(length, np.array(1))
    old, new = (op.Cast(value, to=TensorProto.DOUBLE) for value in (length, new_length))
    scale = op.Div(old, new)
    radius = op.Max(scale, np.float64(1))
    count = op.Add(op.Mul(op.Ceil(radius), np.float64(2)), np.float64(1))
    centres = op.Mul(op.Add(op.Range(np.float64(0), new, np.float64(1)), np.float64(0.5)), scale)
    first = op.Max(op.Floor(op.Add(op.Sub(centres, radius), np.float64(0.5))), np.float64(0))
    stop = op.Floor(op.Add(op.Add(centres, radius), np.float64(0.5)))
    taps = op.Unsqueeze(op.Range(np.float64(0), count, np.float64(1)), np.array([1]))
    rows = op.Add(taps, first)  # (count, new_length)
    distances = op.Abs(op.Div(op.Add(op.Sub(rows, centres), np.float64(0.5)), radius))
    weights = op.Max(op.Sub(np.float64(1), distances), np.float64(0))
    weights = op.Where(op.And(op.Less(rows, stop), op.Less(rows, old)), weights, np.float64(0))
    weights = op.Div(weights, op.ReduceSum(weights, np.array([0])))
    weights = op.Floor(op.Add(op.Mul(weights, np.float64(1 << _WEIGHT_BITS)), np.float64(0.5)))
    weights = op.Unsqueeze(op.Cast(weights, to=TensorProto.INT32), np.array([2, 3]))
    rows = op.Min(op.Cast(rows, to=TensorProto.INT64), last)

    def add_tap(tap: Value, total: Value) -> tuple[list[Value], list[Value]]:
        return [op.Add(total, op.Mul(op.Gather(pixels, op.Gather(rows, tap)), op.Gather(weights, tap)))], []

    half = np.array(1 << (_WEIGHT_BITS - 1), np.int32)  # so that the division rounds
    shape = op.Concat(op.Unsqueeze(new_length, np.array([0])), op.Shape(pixels, start=1), axis=0)
    (total,) = op.loop(op.Cast(count, to=TensorProto.INT64), [op.Expand(half, shape)], add_tap)
    return op.Div(total, np.array(1 << _WEIGHT_BITS, np.int32))


def _pad(op: Nodes, maps: Value, size: Value) -> Value:
    """(1, channels, h, w) maps with zeros right of and below them up to ``size``."""
    missing = op.Sub(size, op.Slice(op.Shape(maps), np.array([2]), np.array([4])))
    return op.Pad(maps, op.Concat(np.zeros(6, np.int64), missing, axis=0))
