"""Exported files against the models that they were made of, in onnxruntime."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import masktree
from masktree.backbones.texture import NUM_CUES
from masktree.errors import InputError
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.models.build import build_model
from masktree.models.cascade.model import CascadeMaskRCNN
from masktree.models.config import CascadeConfig, Mask2FormerConfig
from masktree.models.inputs import collate_inputs, prepare_image
from masktree.models.onnx.export import export_onnx
from masktree.models.structures import Model, ModelDetections
from tests.models.onnx.conftest import EXAMPLE

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx.")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime.")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install onnxscript.")

from masktree.models.onnx.detectors import CascadeOnnxModel, Mask2FormerOnnxModel  # noqa: E402
from masktree.models.onnx.graph import PHOTOGRAPH, export_graph  # noqa: E402

SIDE = 64
SIZES = [(100, 150), (40, 23)]  # height and width of photographs
SMALL = {"backbone": "embedded", "image_size": SIDE, "hidden_dim": 32}
QUERIES = {"num_heads": 2, "feedforward_dim": 32, "pixel_decoder_layers": 1, "decoder_layers": 1, "num_queries": 12}


def spread_out(model: CascadeMaskRCNN) -> CascadeMaskRCNN:
    """Larger weights make the predictions of untrained heads differ."""
    for stage in model.box_heads:
        for last in (stage.cls_score, stage.bbox_pred, stage.level_score):
            torch.nn.init.normal_(last.weight, std=0.3)
    for layer in (model.mask_head.predictor, model.rpn.head.cls_logits, model.rpn.head.bbox_pred):
        torch.nn.init.normal_(layer.weight, std=0.2)
    return model


def about(path) -> dict:
    return json.loads({prop.key: prop.value for prop in onnx.load(path).metadata_props}["masktree"])


def detections(model: Model, image: np.ndarray) -> Any:
    """Those of the model in an image."""
    inputs = prepare_image(image, SIDE, cues=True)
    pixels, cues = collate_inputs([inputs], "cpu")
    with torch.inference_mode():
        return model.detect(pixels, cues, [inputs.valid_size])[0]


def assert_same(found: ModelDetections, masks: np.ndarray, scores: np.ndarray) -> None:
    """Scores are equal, and every mask of a photograph is among those of the model."""
    np.testing.assert_allclose(scores, found.scores[: len(scores)], atol=1e-4)
    expected = found.render(0, len(found.scores), masks.shape[1:]).numpy()
    assert 5 < len(masks) <= len(expected)
    assert expected.any()
    intersections = np.einsum("ahw,bhw->ab", masks.astype(np.float32), expected.astype(np.float32))
    unions = masks.sum((1, 2))[:, None] + expected.sum((1, 2)) - intersections
    differences = unions - intersections
    assert (differences <= 1 + 0.01 * unions).any(1).all()  # a pixel may lie on the border of a mask


@pytest.fixture(scope="module")
def photo(photos):
    return read_image(photos[2])


@pytest.fixture(scope="module")
def exported_sohes(tmp_path_factory):
    torch.manual_seed(0)
    model = build_model(Mask2FormerConfig(kind="sohes", **SMALL, **QUERIES), weights=True).eval()
    return model, export_onnx(model, tmp_path_factory.mktemp("sohes") / "model.onnx")[0]


@pytest.fixture(scope="module")
def exported_hassod(tmp_path_factory):
    torch.manual_seed(0)
    config = CascadeConfig(box_head_dim=32, mask_head_layers=1, test_proposals=60, max_detections=20, **SMALL)
    model = spread_out(build_model(config, weights=True)).eval()
    return model, export_onnx(model, tmp_path_factory.mktemp("hassod") / "model.onnx")[0]


@pytest.mark.parametrize("size", SIZES)
def test_a_photograph_is_all_that_mask2former_needs(exported_sohes, example, photo, size):
    model, path = exported_sohes
    image = resize_image(photo, size)
    found = detections(model, image)
    assert_same(found, *example["segment"](str(path), image, 0.0, 100))
    got = example["run"](str(path), {"image": image})
    assert {name: array.shape for name, array in got.items()} == {
        "scores": (1, 12),
        "logits": (1, *found.logits(0, 12).shape),
        "resized_size": (2,),
        "ancestors": (1, 12, 12),
    }
    np.testing.assert_allclose(got["ancestors"][0], found.ancestors, atol=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_a_photograph_is_all_that_the_cascade_needs(exported_hassod, example, photo, size):
    model, path = exported_hassod
    image = resize_image(photo, size)
    found = detections(model, image)
    assert_same(found, *example["segment"](str(path), image, 0.0, 100))
    got = example["run"](str(path), {"image": image})
    meant = got["scores"][0] > 0
    scale = np.array(size)[::-1] / found.valid_size[::-1]
    np.testing.assert_allclose(got["boxes"][0][meant], found.boxes.numpy() * np.tile(scale, 2), atol=0.01)
    np.testing.assert_allclose(got["levels"][0][meant], found.levels, atol=1e-3)


def test_the_example_runs_without_masktree(exported_sohes, photos, tmp_path):
    """In a process that has numpy, onnxruntime and Pillow; the photograph is a file."""
    model, path = exported_sohes
    program = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {"masktree", "torch", "onnx", "scipy", "numba"} & set(sys.modules)
"""
    arguments = [str(path), str(photos[2]), str(tmp_path / "masks.npz"), "--min-score", "0"]
    done = subprocess.run([sys.executable, "-c", program, str(EXAMPLE), *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    with np.load(tmp_path / "masks.npz") as output:
        assert_same(detections(model, read_image(photos[2])), output["masks"], output["scores"])


def test_metadata_say_what_the_input_is(exported_sohes, exported_hassod):
    for kind, (_, path) in {"sohes": exported_sohes, "hassod": exported_hassod}.items():
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
            ("image", "tensor(uint8)", ["height", "width", 3])
        ]
        metadata = about(path)
        assert metadata["inputs"] == {"image": PHOTOGRAPH.format(type="uint8")}
        assert set(metadata["outputs"]) == {output.name for output in session.get_outputs()}
        assert metadata["class_agnostic"] is True
        assert (metadata["model"]["kind"], metadata["image_size"]) == (kind, SIDE)
        assert metadata["versions"] == {
            "masktree": masktree.__version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
        }


def test_graphs_of_one_size_are_not_written():
    """torch makes a size constant that a module asks for, with no more than a log message."""

    class OneSize(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * int(x.shape[1])

    dims = {1: torch.export.Dim("length")}
    with pytest.raises(AssertionError, match="a size of x is constant"):
        export_graph(OneSize(), {"x": (torch.rand(1, 3), dims)}, ["y"])


def test_onnx_modules_equal_detect():
    """With other numbers of proposals and detections, without the cost of an export."""
    torch.manual_seed(0)
    seen = torch.rand(1, 3, SIDE, SIDE), torch.rand(1, NUM_CUES, SIDE // 2, SIDE // 2)
    size = (SIDE - 5, SIDE)
    valid_size = torch.tensor(size)
    unsam = build_model(Mask2FormerConfig(kind="unsam", **SMALL, **QUERIES), weights=True).eval()
    wrapped = Mask2FormerOnnxModel(unsam)
    assert list(wrapped.outputs) == ["scores", "logits", "resized_size"]
    with torch.inference_mode():
        scores, *_ = wrapped(seen[0], valid_size, seen[1])
        assert torch.allclose(scores[0], unsam.detect(*seen, [size])[0].scores)
    for count, kept in ((5, 3), (300, 200)):
        config = CascadeConfig(box_head_dim=32, mask_head_layers=1, test_proposals=count, max_detections=kept, **SMALL)
        hassod = spread_out(build_model(config, weights=True)).eval()
        with torch.inference_mode():
            boxes, scores, levels, masks = CascadeOnnxModel(hassod)(seen[0], valid_size, 2 * valid_size, seen[1])
            (found,) = hassod.detect(*seen, [size])
        meant = scores[0] > 0
        assert len(scores[0]) == min(count, kept)
        assert meant.sum() == len(found.scores)
        assert torch.allclose(boxes[0][meant], 2 * found.boxes, atol=1e-3)
        assert torch.allclose(levels[0][meant], found.levels, atol=1e-5)
        assert torch.allclose(masks[0][meant], found.masks, atol=1e-4)


@pytest.mark.parametrize("side", [0, 50, 100])
def test_invalid_image_sizes_are_refused(side, tmp_path):
    model = build_model(Mask2FormerConfig(kind="unsam", **SMALL, **QUERIES), weights=False)
    with pytest.raises(InputError, match=f"a multiple of 32; got {side}; (32|64|96) is near"):
        export_onnx(model, tmp_path / "model.onnx", side)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    model = build_model(Mask2FormerConfig(kind="unsam", **SMALL, **QUERIES), weights=False)
    with pytest.raises(InputError, match=r"expected onnx and onnxscript; got .*; pip install onnx onnxruntime"):
        export_onnx(model, tmp_path / "model.onnx")
