"""Exported files against the models that they were made of, in onnxruntime."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from masktree.backbones.texture import NUM_CUES
from masktree.errors import InputError
from masktree.models.build import build_model
from masktree.models.cascade.model import CascadeMaskRCNN
from masktree.models.config import CascadeConfig, Mask2FormerConfig
from masktree.models.onnx.export import export_onnx

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx.")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime.")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install onnxscript.")

from masktree.models.onnx.detectors import CascadeOnnxModel, Mask2FormerOnnxModel  # noqa: E402

SIDE = 64
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


def run(path, images: torch.Tensor, cues: torch.Tensor) -> dict[str, np.ndarray]:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [
        ("image", [1, 3, SIDE, SIDE]),
        ("cues", [1, NUM_CUES, SIDE // 2, SIDE // 2]),
    ]
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images.numpy(), "cues": cues.numpy()}), strict=True))


def about(path) -> dict:
    return json.loads({prop.key: prop.value for prop in onnx.load(path).metadata_props}["masktree"])


@pytest.fixture
def seen() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(1, 3, SIDE, SIDE), torch.rand(1, NUM_CUES, SIDE // 2, SIDE // 2)


def test_exported_mask2former_equals_the_model(tmp_path, seen: tuple[torch.Tensor, torch.Tensor]):
    model = build_model(Mask2FormerConfig(kind="sohes", **SMALL, **QUERIES), weights=True).eval()
    export_onnx(model, tmp_path / "model.onnx")
    got = run(tmp_path / "model.onnx", *seen)
    (found,) = model.detect(*seen, [(SIDE, SIDE)])
    order = np.argsort(-got["scores"][0], kind="stable")
    assert {name: array.shape for name, array in got.items()} == {
        "scores": (1, 12),
        "masks": (1, 12, SIDE // 4, SIDE // 4),
        "ancestors": (1, 12, 12),
    }
    np.testing.assert_allclose(got["scores"][0][order], found.scores, atol=1e-5)
    np.testing.assert_allclose(got["masks"][0][order], found.logits(0, 12), atol=1e-4)
    ancestors = got["ancestors"][0][np.ix_(order, order)]
    np.testing.assert_allclose(ancestors - np.diag(np.diag(ancestors)), found.ancestors, atol=1e-5)
    assert about(tmp_path / "model.onnx")["model"]["kind"] == "sohes"
    assert about(tmp_path / "model.onnx")["image_size"] == SIDE


def test_exported_cascade_equals_the_model(tmp_path, seen: tuple[torch.Tensor, torch.Tensor]):
    config = CascadeConfig(box_head_dim=32, mask_head_layers=1, test_proposals=60, max_detections=20, **SMALL)
    model = spread_out(build_model(config, weights=True)).eval()
    export_onnx(model, tmp_path / "model.onnx")
    got = run(tmp_path / "model.onnx", *seen)
    (found,) = model.detect(*seen, [(SIDE, SIDE)])
    meant = got["scores"][0] > 0
    assert 5 < len(found.scores) == meant.sum() <= 20
    for name in ("scores", "boxes", "levels", "masks"):
        np.testing.assert_allclose(got[name][0][meant], getattr(found, name), atol=1e-3, err_msg=name)
    assert set(about(tmp_path / "model.onnx")["outputs"]) == set(got)


def test_onnx_modules_equal_detect(seen: tuple[torch.Tensor, torch.Tensor]):
    """With other numbers of proposals and detections, without the cost of an export."""
    unsam = build_model(Mask2FormerConfig(kind="unsam", **SMALL, **QUERIES), weights=True).eval()
    wrapped = Mask2FormerOnnxModel(unsam)
    assert list(wrapped.outputs) == ["scores", "masks"]
    with torch.inference_mode():
        scores, _ = wrapped(*seen)
        assert torch.allclose(scores[0].sort(descending=True)[0], unsam.detect(*seen, [(SIDE, SIDE)])[0].scores)
    for count, kept in ((5, 3), (300, 200)):
        config = CascadeConfig(box_head_dim=32, mask_head_layers=1, test_proposals=count, max_detections=kept, **SMALL)
        hassod = spread_out(build_model(config, weights=True)).eval()
        with torch.inference_mode():
            boxes, scores, levels, masks = CascadeOnnxModel(hassod)(*seen)
            (found,) = hassod.detect(*seen, [(SIDE, SIDE)])
        meant = scores[0] > 0
        assert len(scores[0]) == min(count, kept)
        assert meant.sum() == len(found.scores)
        assert torch.allclose(boxes[0][meant], found.boxes, atol=1e-3)
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
