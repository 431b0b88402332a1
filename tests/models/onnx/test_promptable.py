"""The two files of a promptable model against ``Predictor``, called in onnxruntime as tools for segment-anything do."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from masktree import Predictor, cli, load
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.models.build import build_model, save_pretrained
from masktree.models.config import PromptableConfig
from masktree.models.onnx.export import export_onnx
from masktree.models.promptable.model import Promptable
from tests.models.mask2former.test_model import TinyPyramid
from tests.models.onnx.conftest import EXAMPLE

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx.")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime.")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install onnxscript.")
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed.")

from masktree.models.onnx.graph import PHOTOGRAPH  # noqa: E402
from masktree.models.onnx.promptable import FRAME_SIZE  # noqa: E402

SIDE = 64
SMALL = {
    "image_size": SIDE,
    "hidden_dim": 32,
    "num_heads": 2,
    "feedforward_dim": 32,
    "pixel_decoder_layers": 1,
    "embedding_stride": 8,
}
NOTHING = {"mask_input": np.zeros((1, 1, 256, 256), np.float32), "has_mask_input": np.zeros(1, np.float32)}
SIZE = (90, 120)  # height and width of the photograph
SQUARE = (slice(40, 44), slice(50, 54))  # rows and columns of a small object in it


def session(path):
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


class Pair:
    """The two graphs, and ``predict`` with the arguments and results of ``Predictor.predict``."""

    def __init__(self, encoder, decoder) -> None:
        self.encoder, self.decoder = encoder, decoder

    def set_image(self, image: np.ndarray) -> None:
        self.size = image.shape[:2]
        (self.embeddings,) = self.encoder.run(None, {"image": image.astype(np.float32)})

    def predict(self, points=(), labels=(), box=None, mask=None, granularity=None):
        corners = [] if box is None else [box[:2], box[2:]]
        coords = np.array([[*points, *corners, (0, 0)]]) * FRAME_SIZE / max(self.size)  # tools add a point that is none
        inputs = {
            "image_embeddings": self.embeddings,
            "point_coords": coords.astype(np.float32),
            "point_labels": np.array([[*labels, *(() if box is None else (2, 3)), -1]], np.float32),
            "orig_im_size": np.array(self.size, np.float32),
            **NOTHING,
        }
        if mask is not None:
            inputs |= {"mask_input": mask[None], "has_mask_input": np.ones(1, np.float32)}
        if granularity is not None:
            inputs["granularity"] = np.array([granularity], np.float32)
        masks, scores, low_res = self.decoder.run(["masks", "iou_predictions", "low_res_masks"], inputs)
        return masks[0] > 0, scores[0], low_res[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A predictor with an untrained model, and the files that tools load."""
    torch.manual_seed(0)
    model = build_model(PromptableConfig(backbone="embedded", **SMALL), weights=True).eval()
    assert isinstance(model, Promptable)
    torch.nn.init.normal_(model.iou_head[-1].weight, std=0.5)  # so that expected IoUs differ
    folder = tmp_path_factory.mktemp("pair")
    save_pretrained(model, folder / "run")
    predictor = Predictor(load(folder / "run", device="cpu"), num_multimask_outputs=3)
    return predictor, export_onnx(model, folder / "my model.onnx")


@pytest.fixture(scope="module")
def photo(photos):
    """A photograph with a small bright square."""
    image = resize_image(read_image(photos[2]), SIZE).copy()
    image[SQUARE] = (255, 0, 255)
    return image


@pytest.fixture(scope="module")
def pair(exported, photo):
    """The predictor and the graphs, with the photograph set."""
    predictor, files = exported
    graphs = Pair(session(files[0]), session(files[1]))
    for one in (predictor, graphs):
        one.set_image(photo)
    return predictor, graphs


def assert_same(got, expected) -> None:
    """Masks, scores and low-resolution logits, up to rounding."""
    masks, scores, low_res = got
    count = len(expected[0])  # one for a granularity
    np.testing.assert_allclose(scores[:count], expected[1], atol=1e-4)
    np.testing.assert_allclose(low_res[:count], expected[2], atol=0.02)
    assert masks.shape[1:] == expected[0].shape[1:]
    assert (masks[:count] == expected[0]).mean() > 0.99


def clicks_on_the_border() -> list[tuple[int, int]]:
    """Column and row of pixels just inside and just outside the square, on each side."""
    rows, columns = SQUARE
    x, y = columns.start + 1, rows.start + 1
    along_x = [(column, y) for column in (columns.start - 1, columns.start, columns.stop - 1, columns.stop)]
    return along_x + [(x, row) for row in (rows.start - 1, rows.start, rows.stop - 1, rows.stop)]


@pytest.mark.parametrize("click", [*clicks_on_the_border(), (0, 0), (SIZE[1] - 1, SIZE[0] - 1)])
def test_a_click_is_one_on_the_same_pixel(pair, click):
    """Half a pixel beside it, scores would differ by more than the tolerance."""
    predictor, graphs = pair
    expected = predictor.predict(np.array([click]), np.array([1]))
    got = graphs.predict([click], [1])
    assert_same(got, expected)
    assert np.abs(graphs.predict([(click[0] - 1, click[1] + 1)], [1])[1] - got[1]).max() > 1e-3


def test_a_click_anywhere_in_a_pixel_is_the_same(pair):
    predictor, graphs = pair
    centre, corner = ([(x, y)] for x, y in ((50, 41), (50.9, 41.9)))
    for predict in (predictor.predict, graphs.predict):
        np.testing.assert_array_equal(predict(corner, [1])[1], predict(centre, [1])[1])


@pytest.mark.parametrize("how", ["granularity", "two clicks", "box", "mask"])
def test_unambiguous_prompts_are_those_of_the_predictor(pair, how):
    predictor, graphs = pair
    points, labels = np.array([(35, 46)]), np.array([1])
    more: dict[str, Any] = {}
    if how == "granularity":
        more = {"granularity": 0.4}
    elif how == "two clicks":
        points, labels = np.array([(35, 46), (80, 20)]), np.array([1, 0])
    elif how == "box":
        points, labels, more = np.zeros((0, 2)), np.zeros(0), {"box": np.array([49.5, 40, 54, 44.5])}
    given = {} if len(points) == 0 else {"point_coords": points, "point_labels": labels}
    if how == "mask":
        earlier = predictor.predict(**given)[2][1][None]
        assert_same(graphs.predict(points, labels, mask=earlier), predictor.predict(**given, mask_input=earlier))
    else:
        assert_same(graphs.predict(points, labels, **more), predictor.predict(**given, **more))


@pytest.mark.parametrize("size", [(120, 90), (64, 64), (33, 50), (20, 9)])
def test_photographs_of_any_size(exported, pair, photo, size):
    """Of other shapes, of the network's size, smaller than it."""
    predictor, graphs = Predictor(exported[0].model, num_multimask_outputs=3), Pair(pair[1].encoder, pair[1].decoder)
    image = resize_image(photo, size)
    click = (size[1] - 1, size[0] // 2)
    for one in (predictor, graphs):
        one.set_image(image)
    masks, scores, _ = graphs.predict([click], [1])
    expected, expected_scores, _ = predictor.predict(np.array([click]), np.array([1]))
    np.testing.assert_allclose(scores, expected_scores, atol=1e-4)
    assert (masks == expected).mean() > 0.97  # the predictor aligns masks to within half a pixel


def test_the_example_clicks_without_masktree(exported, pair, photo, tmp_path):
    """In a process that has numpy, onnxruntime and Pillow; the photograph is a file."""
    predictor, _ = pair
    Image.fromarray(photo).save(tmp_path / "photo.png")
    program = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {"masktree", "torch", "onnx", "scipy", "numba"} & set(sys.modules)
"""
    encoder, decoder, _ = exported[1]
    files = [str(path) for path in (encoder, tmp_path / "photo.png", tmp_path / "masks.npz", "--decoder", decoder)]
    command = [sys.executable, "-c", program, str(EXAMPLE), *files, "--click", "51", "42"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    expected, scores, _ = predictor.predict(np.array([(51, 42)]), np.array([1]))
    with np.load(tmp_path / "masks.npz") as output:
        np.testing.assert_allclose(output["scores"], scores, atol=1e-4)
        assert (output["masks"] == expected).mean() > 0.99


def test_existing_files_are_refused_before_writing(tmp_path, capsys):
    model = Promptable(PromptableConfig(**SMALL), TinyPyramid())
    save_pretrained(model, tmp_path / "run")
    (tmp_path / "m.decoder.onnx").write_text("mine")
    assert cli.main(["export", str(tmp_path / "run"), "--to", "onnx", "-o", str(tmp_path / "m.onnx")]) == 2
    assert "m.decoder.onnx, which exists; add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "m.decoder.onnx").read_text() == "mine"
    assert not (tmp_path / "m.encoder.onnx").exists()


def test_metadata_describe_inputs(exported, pair):
    graphs = pair[1]
    assert {i.name for i in graphs.decoder.get_inputs()} == {
        "image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size",
    }  # fmt: skip
    assert [i.name for i in graphs.decoder.get_overridable_initializers()] == ["granularity"]
    about = json.loads(graphs.decoder.get_modelmeta().custom_metadata_map["masktree"])
    assert set(about["inputs"]) == {i.name for i in graphs.decoder.get_inputs()} | {"granularity"}
    assert (about["image_size"], about["model"]["kind"], about["class_agnostic"]) == (SIDE, "promptable", True)
    assert [(i.name, i.type, i.shape) for i in graphs.encoder.get_inputs()] == [
        ("image", "tensor(float)", ["height", "width", 3])
    ]
    about = json.loads(graphs.encoder.get_modelmeta().custom_metadata_map["masktree"])
    assert about["inputs"] == {"image": PHOTOGRAPH.format(type="float32")}


def test_annotation_tools_find_both_files(exported):
    files = exported[1]
    assert [file.name for file in files] == ["my model.encoder.onnx", "my model.decoder.onnx", "my model.yaml"]
    settings = yaml.safe_load(files[2].read_text())
    assert settings["type"] == "segment_anything"
    assert [settings[key] for key in ("encoder_model_path", "decoder_model_path", "input_size")] == [
        files[0].name, files[1].name, 1024,
    ]  # fmt: skip
