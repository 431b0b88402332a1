"""The part of every exported model that comes before the network, against the functions that it repeats."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.backbones.texture import NUM_CUES
from masktree.backbones.texture.pmi import pmi_embedding
from masktree.backbones.texture.words import NUM_WORDS
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.models.inputs import prepare_image

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install masktree[onnx].")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install masktree[onnx].")

from masktree.models.onnx.nodes import Nodes  # noqa: E402
from masktree.models.onnx.preprocessing import INPUT, preprocessing_nodes  # noqa: E402

SIDE = 128
FLOAT, INT64, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.UINT8
TYPES = {
    "pixels": (FLOAT, [1, 3, "h", "w"]),
    "cues": (FLOAT, [1, NUM_CUES, "rows", "columns"]),
    "valid_size": (INT64, [2]),
    "size": (INT64, [2]),
}
# height and width: smaller and larger than SIDE, in either direction, odd, a side that stays, one that vanishes
SIZES = [(100, 150), (150, 100), (40, 61), (128, 96), (333, 500), (7, 33), (1, 400), (1, 1)]


def session_of(op: Nodes, inputs: dict, outputs: dict):
    """An onnxruntime session of nodes whose inputs and outputs have the given types and shapes."""
    infos = [[onnx.helper.make_tensor_value_info(n, *t) for n, t in values.items()] for values in (inputs, outputs)]
    graph = onnx.helper.make_graph(op.nodes, "graph", *infos, op.initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def preprocessing():
    nodes = preprocessing_nodes(list(TYPES), SIDE)
    return session_of(nodes, {INPUT: (UINT8, ["height", "width", 3])}, TYPES)


@pytest.fixture(scope="module")
def photo(photos):
    return read_image(photos[0])


@pytest.mark.parametrize("size", SIZES)
def test_inputs_are_those_of_prepare_image(preprocessing, photo, size):
    image = resize_image(photo, size)
    pixels, cues, valid_size, original_size = preprocessing.run(list(TYPES), {INPUT: image})
    expected = prepare_image(image, SIDE, cues=True)
    assert expected.cues is not None
    assert (tuple(valid_size), tuple(original_size)) == (expected.valid_size, expected.size)
    np.testing.assert_array_equal(pixels[0], expected.pixels)
    np.testing.assert_allclose(cues[0], expected.cues, atol=1e-3)  # of about 1 at a clear boundary


def test_cues_of_photographs_differ_in_few_pixels(preprocessing, photos):
    """Where a pixel is as near to one word as to another, rounding decides."""
    for path in photos:
        image = read_image(path)
        (cues,) = preprocessing.run(["cues"], {INPUT: image})
        expected = prepare_image(image, SIDE, cues=True).cues
        assert expected is not None
        differences = np.abs(cues[0] - expected.numpy())
        assert differences.mean() < 0.005, path
        assert (differences > 0.01).mean() < 0.05, path


@pytest.mark.parametrize("level", [0, 117, 255])
def test_an_image_of_one_colour_has_no_boundary(preprocessing, level):
    (cues,) = preprocessing.run(["cues"], {INPUT: np.full((90, 61, 3), level, np.uint8)})
    valid = prepare_image(np.full((90, 61, 3), level, np.uint8), SIDE, cues=False).valid_size
    assert np.abs(cues[..., : valid[0] // 2, : valid[1] // 2]).max() < 1e-3


def test_float_photographs_are_rounded_to_whole_grey_levels(photo):
    nodes = preprocessing_nodes(["pixels"], SIDE)
    session = session_of(nodes, {INPUT: (FLOAT, ["height", "width", 3])}, {"pixels": TYPES["pixels"]})
    image = resize_image(photo, (50, 70))
    noisy = image + np.random.default_rng(0).uniform(-0.4, 0.4, image.shape)
    (pixels,) = session.run(None, {INPUT: noisy.astype(np.float32)})
    np.testing.assert_array_equal(pixels[0], prepare_image(image, SIDE, cues=False).pixels)


def test_embedding_of_words_spans_that_of_numpy():
    """Eigenvectors have either sign: the products of the words' vectors are compared."""
    from masktree.models.onnx.cues import _one_hot, _pmi_embedding

    words = np.random.default_rng(0).integers(0, 5, (12, 17)) ** 2 + np.arange(17) // 6
    op = Nodes()
    op.name_value(_pmi_embedding(op, _one_hot(op, "words")), "embedding")
    session = session_of(op, {"words": (INT64, ["h", "w"])}, {"embedding": (FLOAT, ["words", "dim"])})
    (got,) = session.run(None, {"words": words})
    expected = pmi_embedding([words.astype(np.int32)], NUM_WORDS)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=1e-5)


def test_loops_stack_what_the_body_returns():
    op = Nodes()

    def body(number, so_far):
        return [op.Add(so_far, number)], [op.Mul(number, number)]

    total, squares = op.loop(3, [op.Identity(np.array(0))], body)
    op.name_value(total, "total")
    op.name_value(squares, "squares")
    session = session_of(op, {}, {"total": (INT64, []), "squares": (INT64, [3])})
    got = session.run(None, {})
    assert got[0] == 3
    assert got[1].tolist() == [0, 1, 4]
    assert not hasattr(op, "no_operator")
