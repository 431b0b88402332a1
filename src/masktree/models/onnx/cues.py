"""Boundary cues (``masktree.backbones.texture``) in ONNX operators, as torch has no eigenvectors that it can export.

The same computation with the same constants, so that an exported model needs only the photograph. Sums are rounded
differently: a pixel that lies halfway between two words may get the other one. Maps are (1, channels, h, w) float32 at
half the resolution of the image, whose size is known only when the graph runs.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from masktree.backbones import texture
from masktree.backbones.texture import gradients, pmi, words
from masktree.backbones.texture.words import NUM_WORDS
from masktree.models.onnx.nodes import Nodes, Value

_DOUBLE, _FLOAT, _INT64 = TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.INT64
_END = np.iinfo(np.int64).max
_RGB_TO_XYZ = np.array(  # of linear sRGB, divided by the white point D65
    [
        [0.412453 / 0.95047, 0.357580 / 0.95047, 0.180423 / 0.95047],
        [0.212671, 0.715160, 0.072169],
        [0.019334 / 1.08883, 0.119193 / 1.08883, 0.950227 / 1.08883],
    ],
    np.float32,
)
_DARK = np.float32(0.008856452)  # below it the cube root of CIE Lab is a line
# Squared distance up to which two feature vectors are one (our choice): ten times what rounding makes of equal ones.
# Without it an image of one colour would be divided into words by rounding errors.
_SAME = 1e-8
_JACOBI_SWEEPS = 10  # 32 eigenvalues are exact up to rounding after 6 to 8 (our choice: a margin)


def add_boundary_cues(op: Nodes, image: Value) -> Value:
    """(1, NUM_CUES, ceil(H/2), ceil(W/2)) float32: ``boundary_cues(image).maps`` of a (1, 3, H, W) uint8 image."""
    lab = _lab(op, image)
    half = _halve(op, lab)
    colours = op.Mul(_window_means(op, half, 3, texture.COLOUR_SIGMA), _per_channel(texture.LAB_WEIGHTS))
    colour_words = _quantise(op, colours)
    textons = _quantise(op, _texture_features(op, _slice(op, lab, 1, 0, 1)))
    planes = {"colour": _one_hot(op, colour_words), "texture": _one_hot(op, textons)}
    responses = []
    for cue in ("colour", "texture"):
        for radius in texture.CUE_SCALES[cue]:
            histograms = _window_means(op, planes[cue], NUM_WORDS, 0.32 * radius)
            responses.append(_chi_distance(op, histograms, 0.4 * radius))
    embedding = _pmi_embedding(op, planes["colour"])
    vectors = op.Unsqueeze(op.Transpose(op.Gather(embedding, colour_words), perm=[2, 0, 1]), np.array([0]))
    for radius in texture.CUE_SCALES["pmi"]:
        means = _window_means(op, vectors, pmi.PMI_DIM, 0.32 * radius)
        responses.append(_euclidean_distance(op, means, 0.4 * radius))
    for radius, sigma in texture.LAB_SIGMAS.items():
        responses.append(_euclidean_distance(op, _window_means(op, half, 3, sigma), 0.25 * radius))
    scales = np.array([scale for scales in texture.CUE_SCALES.values() for scale in scales.values()], np.float32)
    return op.Mul(op.Concat(*responses, axis=1), _per_channel(1 / scales))


def _lab(op: Nodes, image: Value) -> Value:
    """``words.lab``: (1, 3, H, W) float32."""
    linear = op.Gather(words.LINEAR, op.Cast(image, to=TensorProto.INT32))
    xyz = op.Conv(linear, _RGB_TO_XYZ[..., None, None])
    root = op.Pow(op.Max(xyz, _DARK), np.float32(1 / 3))
    root = op.Where(op.Greater(xyz, _DARK), root, op.Add(op.Mul(xyz, np.float32(7.787037)), np.float32(0.13793103)))
    x, y, z = op.add("Split", [root], 3, axis=1, num_outputs=3)
    lightness = op.Sub(op.Mul(y, 116.0), 16.0)
    return op.Concat(lightness, op.Mul(op.Sub(x, y), 500.0), op.Mul(op.Sub(y, z), 200.0), axis=1)


def _halve(op: Nodes, maps: Value) -> Value:
    """``words.halve``."""
    odd = op.Mod(_slice(op, op.Shape(maps), 0, 2, 4), np.array([2, 2]))
    padded = op.Pad(maps, op.Concat(np.zeros(6, np.int64), odd, axis=0), mode="edge")
    return op.AveragePool(padded, kernel_shape=[2, 2], strides=[2, 2])


def _texture_features(op: Nodes, lightness: Value) -> Value:
    """Responses of the filters at every second pixel of (1, 1, H, W) lightness, whose contrast is normalised."""
    radius = int(words.CONTRAST_TRUNCATE * words.CONTRAST_SIGMA + 0.5)  # scipy's
    window = np.exp(-0.5 * (np.arange(-radius, radius + 1) / words.CONTRAST_SIGMA) ** 2)
    window = (window / window.sum()).astype(np.float32)
    centred = op.Sub(lightness, _blur(op, lightness, 1, window))
    variance = _blur(op, op.Mul(centred, centred), 1, window)
    normalised = op.Div(centred, op.Sqrt(op.Add(variance, words.CONTRAST_NOISE)))
    radius = len(words.FILTERS) // 2
    filters = np.ascontiguousarray(words.FILTERS.transpose(2, 0, 1)[:, None])
    return op.Conv(_pad_edges(op, normalised, radius, radius), filters, strides=[2, 2])


def _quantise(op: Nodes, features: Value) -> Value:
    """(h, w) int64 word of each pixel by k-means: ``words.fit_words`` and ``assign_words`` of (1, d, h, w) features."""
    size = _slice(op, op.Shape(features), 0, 2, 4)
    pixels = op.Cast(op.ReduceProd(size), to=_DOUBLE)
    step = op.Floor(op.Sqrt(op.Floor(op.Div(pixels, np.float64(words.KMEANS_SAMPLES)))))
    step = op.Max(op.Cast(step, to=_INT64), np.array([1]))
    first, steps = op.Div(step, np.array([2])), op.Concat(step, step, axis=0)
    sample = op.Slice(features, op.Concat(first, first, axis=0), np.array([_END, _END]), np.array([2, 3]), steps)
    centres = _kmeans(op, _as_points(op, sample))
    return op.Reshape(_nearest(op, op.Cast(_as_points(op, features), to=_DOUBLE), centres), size)


def _as_points(op: Nodes, features: Value) -> Value:
    """(n, d) of (1, d, h, w)."""
    flat = op.Flatten(op.Squeeze(features, np.array([0])), axis=1)
    return op.Transpose(flat, perm=[1, 0])


def _kmeans(op: Nodes, points: Value) -> Value:
    """(NUM_WORDS, d) float32 centres of (n, d) points: k-means++, then Lloyd's iterations."""
    count = _slice(op, op.Shape(points), 0, 0, 1)
    last = op.Sub(count, np.array([1]))
    all_points = op.Cast(points, to=_DOUBLE)

    def pick_centre(number: Value, nearest: Value, pick: Value) -> tuple[list[Value], list[Value]]:
        centre = op.Gather(points, pick)
        differences = op.Sub(points, centre)
        distances = op.ReduceSum(op.Mul(differences, differences), np.array([1]), keepdims=0)
        nearest = op.Min(nearest, op.Where(op.Less(distances, _SAME), 0.0, distances))
        sums = op.CumSum(op.Cast(nearest, to=_DOUBLE), np.array(0))
        goal = op.Mul(op.Gather(words.KMEANS_DRAWS, number), op.Gather(sums, last))
        pick = op.ReduceSum(op.Cast(op.Less(sums, goal), to=_INT64), np.array([0]), keepdims=1)
        return [nearest, op.Min(pick, last)], [op.Squeeze(centre, np.array([0]))]

    far = op.Expand(np.float32(1e30), count)
    centres = op.loop(NUM_WORDS, [far, op.Div(count, np.array([2]))], pick_centre)[-1]

    def move_centres(_: Value, centres: Value) -> tuple[list[Value], list[Value]]:
        is_member = op.Equal(np.arange(NUM_WORDS)[:, None], _nearest(op, all_points, centres))
        members = op.Cast(is_member, to=_DOUBLE)
        sizes = op.ReduceSum(members, np.array([1]))
        means = op.Div(op.MatMul(members, all_points), op.Max(sizes, np.float64(1)))
        return [op.Where(op.Greater(sizes, np.float64(0)), op.Cast(means, to=_FLOAT), centres)], []

    return op.loop(words.KMEANS_ITERATIONS, [centres], move_centres)[0]


def _nearest(op: Nodes, points: Value, centres: Value) -> Value:
    """(n,) int64: first of the (k, d) centres that is nearest to each of (n, d) float64 points."""
    centres = op.Cast(centres, to=_DOUBLE)
    lengths = op.ReduceSum(op.Mul(centres, centres), np.array([1]), keepdims=0)
    products = op.MatMul(points, op.Transpose(op.Mul(centres, np.float64(-2)), perm=[1, 0]))
    distances = op.Add(products, lengths)  # less the squared length of the point
    limit = op.Add(op.ReduceMin(distances, np.array([1])), np.float64(_SAME))
    return op.ArgMax(op.Cast(op.LessOrEqual(distances, limit), to=TensorProto.INT32), axis=1, keepdims=0)


def _pmi_embedding(op: Nodes, planes: Value) -> Value:
    """``pmi.pmi_embedding``: (NUM_WORDS, PMI_DIM) float32 of (1, NUM_WORDS, h, w) planes of colour words."""
    radius = pmi.MAX_DISTANCE
    squared = np.sum(np.square(np.mgrid[-radius : radius + 1, -radius : radius + 1]), axis=0)
    weights = np.exp(-0.5 * squared / (0.5 * radius) ** 2) * ((squared > 0) & (squared <= radius**2))
    weights = np.tile(weights.astype(np.float32), (NUM_WORDS, 1, 1, 1))
    near = op.Conv(planes, weights, pads=[radius] * 4, group=NUM_WORDS)
    pairs = op.MatMul(
        op.Cast(op.Transpose(_as_points(op, planes), perm=[1, 0]), to=_DOUBLE),
        op.Cast(_as_points(op, near), to=_DOUBLE),
    )
    total = op.ReduceSum(pairs, keepdims=0)
    pairs = op.Div(pairs, op.Where(op.Greater(total, np.float64(0)), total, np.float64(1)))  # an image of one cell
    marginal = op.ReduceSum(pairs, np.array([1]))
    expected = op.MatMul(marginal, op.Transpose(marginal, perm=[1, 0]))
    is_present = op.Greater(expected, np.float64(0))
    joint = op.Div(op.Add(pairs, op.Mul(expected, np.float64(pmi.PRIOR))), np.float64(1 + pmi.PRIOR))
    joint, expected = (op.Where(is_present, table, np.float64(1)) for table in (joint, expected))
    values, vectors = _eigenvectors(op, op.Sub(op.Mul(op.Log(joint), np.float64(pmi.RHO)), op.Log(expected)))
    values, index = op.add("TopK", [values, np.array([pmi.PMI_DIM])], 2)
    vectors = op.Mul(op.Gather(vectors, index, axis=1), op.Sqrt(op.Max(values, np.float64(0))))
    lengths = op.Sqrt(op.ReduceSum(op.Mul(vectors, vectors), np.array([1])))
    return op.Cast(op.Div(vectors, op.Max(lengths, np.float64(1e-6))), to=_FLOAT)


def _eigenvectors(op: Nodes, matrix: Value) -> tuple[Value, Value]:
    """(n,) eigenvalues and (n, n) columns of eigenvectors of a symmetric (n, n) float64 matrix, n = NUM_WORDS.

    Jacobi's method with the parallel order of Brent and Luk (1985, doi 10.1137/0906007): each iteration makes n/2
    elements 0, those of rows k and k + n/2, and then permutes rows and columns so that all meet within n - 1
    iterations.
    """
    n, half = NUM_WORDS, NUM_WORDS // 2
    swap = np.roll(np.eye(n), half, axis=0)
    sign = np.repeat([1.0, -1.0], half)
    top, bottom = np.arange(half), np.arange(half, n)
    order = np.concatenate([top[:1], bottom[:1], top[1:-1], bottom[1:], top[-1:]])

    def rotate(_: Value, matrix: Value, vectors: Value) -> tuple[list[Value], list[Value]]:
        diagonal = op.ReduceSum(op.Mul(matrix, np.eye(n)), np.array([1]), keepdims=0)
        opposite = op.ReduceSum(op.Mul(matrix, swap), np.array([1]), keepdims=0)
        difference = op.Sub(op.MatMul(swap, diagonal), diagonal)
        double = op.Mul(opposite, np.float64(2))
        root = op.Sqrt(op.Add(op.Mul(difference, difference), op.Mul(double, double)))
        is_positive = op.Or(
            op.Greater(difference, np.float64(0)), op.And(op.Equal(difference, np.float64(0)), sign > 0)
        )
        divisor = op.Add(difference, op.Where(is_positive, root, op.Neg(root)))
        tangent = op.Div(double, op.Where(op.Equal(opposite, np.float64(0)), np.float64(1), divisor))
        cosine = op.Reciprocal(op.Sqrt(op.Add(op.Mul(tangent, tangent), np.float64(1))))
        columns = [op.Unsqueeze(weights, np.array([1])) for weights in (cosine, op.Mul(cosine, tangent))]
        rotation = op.Add(op.Mul(columns[0], np.eye(n)), op.Mul(columns[1], swap))
        rotation = op.Gather(rotation, order, axis=1)
        matrix = op.MatMul(op.MatMul(op.Transpose(rotation, perm=[1, 0]), matrix), rotation)
        return [matrix, op.MatMul(vectors, rotation)], []

    matrix, vectors = op.loop(_JACOBI_SWEEPS * (n - 1), [matrix, op.Identity(np.eye(n))], rotate)
    return op.ReduceSum(op.Mul(matrix, np.eye(n)), np.array([1]), keepdims=0), vectors


def _one_hot(op: Nodes, labels: Value) -> Value:
    """(1, NUM_WORDS, h, w) float32 planes of (h, w) words."""
    planes = op.OneHot(labels, np.array(NUM_WORDS), np.array([0, 1], np.float32), axis=0)
    return op.Unsqueeze(planes, np.array([0]))


def _window_means(op: Nodes, maps: Value, channels: int, sigma: float) -> Value:
    """``gradients.window_means``, and of planes of words ``gradients.window_histograms``."""
    return _blur(op, maps, channels, gradients.gaussian_taps(sigma))


def _blur(op: Nodes, maps: Value, channels: int, taps: np.ndarray) -> Value:
    """(1, channels, h, w) maps convolved with (2 r + 1,) taps in x and in y; values beyond the edges are repeated."""
    radius = len(taps) // 2
    along_x = np.tile(taps, (channels, 1, 1, 1))
    blurred = op.Conv(_pad_edges(op, maps, radius, radius), along_x, group=channels)
    return op.Conv(blurred, np.ascontiguousarray(along_x.transpose(0, 1, 3, 2)), group=channels)


def _chi_distance(op: Nodes, histograms: Value, distance: float) -> Value:
    """``gradients.chi_distance``: (1, 1, h, w)."""
    distances = []
    for a, b in _sides(op, histograms, distance):
        difference = op.Sub(a, b)
        ratio = op.Div(op.Mul(difference, difference), op.Add(op.Add(a, b), np.float32(1e-9)))
        distances.append(op.Sqrt(op.Mul(op.ReduceSum(ratio, np.array([1])), 0.5)))
    return op.Mean(*distances)


def _euclidean_distance(op: Nodes, maps: Value, distance: float) -> Value:
    """``gradients.euclidean_distance``: (1, 1, h, w)."""
    return op.Mean(*(op.Sqrt(op.ReduceL2(op.Sub(a, b), np.array([1]))) for a, b in _sides(op, maps, distance)))


def _sides(op: Nodes, maps: Value, distance: float) -> list[tuple[Value, Value]]:
    """For each orientation, the maps ``distance`` pixels to either side of each pixel."""
    steps = gradients.offsets(distance)
    margin = int(np.abs(steps).max())
    padded = _pad_edges(op, maps, margin, margin)

    def shifted(dy: int, dx: int) -> Value:
        ends = [step - margin if step < margin else _END for step in (dy, dx)]
        return op.Slice(padded, np.array([margin + dy, margin + dx]), np.array(ends), np.array([2, 3]))

    return [(shifted(-dy, -dx), shifted(dy, dx)) for dy, dx in steps.tolist()]


def _pad_edges(op: Nodes, maps: Value, rows: int, columns: int) -> Value:
    return op.Pad(maps, np.array([0, 0, rows, columns] * 2), mode="edge")


def _slice(op: Nodes, value: Value, axis: int, start: int, stop: int) -> Value:
    return op.Slice(value, np.array([start]), np.array([stop]), np.array([axis]))


def _per_channel(values: np.ndarray) -> np.ndarray:
    return values[None, :, None, None]
