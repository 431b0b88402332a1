"""The two files of a promptable model against the model, in onnxruntime, called as tools for segment-anything do."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from masktree import cli
from masktree.backbones.texture import NUM_CUES
from masktree.io.images import resize_image
from masktree.models.build import build_model, save_pretrained
from masktree.models.config import PromptableConfig
from masktree.models.inputs import collate_inputs, prepare_image
from masktree.models.onnx.export import export_onnx
from masktree.models.promptable.model import Promptable
from masktree.models.promptable.prompt_encoder import Prompts
from masktree.prompt.candidates import Candidates, click_costs, rank_candidates
from masktree.prompt.prompt import Prompt
from tests.models.mask2former.test_model import TinyPyramid

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx.")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime.")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install onnxscript.")
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed.")

from masktree.models.onnx.promptable import FRAME_SIZE, ImageEncoderOnnxModel, export_encoder  # noqa: E402

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


def session(path):
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def ask(decoder, embeddings, points, labels, size=(90, 120), **more) -> tuple[np.ndarray, ...]:
    """Masks, expected IoUs and small masks."""
    inputs = {
        "image_embeddings": embeddings,
        "point_coords": np.array([points], np.float32),
        "point_labels": np.array([labels], np.float32),
        "orig_im_size": np.array(size, np.float32),
        **NOTHING,
        **more,
    }
    return decoder.run(["masks", "iou_predictions", "low_res_masks"], inputs)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model without cues, and the files that tools load."""
    torch.manual_seed(0)
    model = Promptable(PromptableConfig(**SMALL), TinyPyramid()).eval()
    torch.nn.init.normal_(model.iou_head[-1].weight, std=0.5)  # so that expected IoUs differ
    return model, export_onnx(model, tmp_path_factory.mktemp("pair") / "my model.onnx")


@pytest.fixture(scope="module")
def pair(exported):
    """The model, and its decoder's session."""
    model, files = exported
    return model, session(files[1])


@pytest.fixture(scope="module")
def seen(pair):
    """The embedding of an image, and the same as the array that the decoder takes."""
    model, _ = pair
    image = resize_image(np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8), (90, 120))
    images, _ = collate_inputs([prepare_image(image, SIDE, cues=False)], "cpu")
    images = functional.pad(images, (0, SIDE - images.shape[3], 0, SIDE - images.shape[2]))
    with torch.inference_mode():
        return model.encode(images), ImageEncoderOnnxModel(model)(images).numpy()


def answers(model, embedding, points, labels, granularity=None, masks=None):
    g = None if granularity is None else torch.tensor([granularity])
    places = torch.tensor([points], dtype=torch.float32) * SIDE / FRAME_SIZE
    with torch.inference_mode():
        found = model.decode(embedding, Prompts(places, torch.tensor([labels]), None, masks, g))
    return found.logits()[0].numpy(), found.ious[0].numpy()


def test_an_ambiguous_click_ranks_masks_like_the_prompter(pair, seen):
    model, decoder = pair
    logits, ious = answers(model, seen[0], [(300, 400)], [1])
    inside = logits[1:, :12].reshape(6, -1) > 0  # 90 of 120 pixels are 12 of 16 rows
    click = Prompt.read((90, 120), [[35, 46]], [1])
    costs = click_costs(click, inside.sum(1)) - np.log(ious[1:])
    known = Candidates(inside, np.ones(inside.shape[1]), costs, ious[1:].astype(np.float64))
    order, scores = rank_candidates(known, 3, None)
    assert sorted(order) != [0, 1, 2]
    order = order + 1
    # tools add a point that is none
    _, got, low = ask(decoder, seen[1], [(300, 400), (0, 0)], [1, -1])
    np.testing.assert_allclose(got[0], scores, atol=1e-5)
    expected = functional.interpolate(torch.from_numpy(logits[order])[None], (256, 256), mode="bilinear")
    np.testing.assert_allclose(low[0], expected[0], atol=1e-3)


@pytest.mark.parametrize("how", ["granularity", "two clicks", "box", "mask"])
def test_unambiguous_prompts_have_mask_0_first(pair, seen, how):
    model, decoder = pair
    points, labels, g, masks, more = [(300, 400)], [1], None, None, {}
    if how == "granularity":
        g, more = 0.4, {"granularity": np.array([0.4], np.float32)}
    elif how == "two clicks":
        points, labels = [(300, 400), (700, 200)], [1, 0]
    elif how == "box":
        points, labels = [(100, 200), (500, 600)], [2, 3]
    else:
        small = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
        masks = functional.interpolate(small, (SIDE // 4, SIDE // 4), mode="bilinear")[:, 0]
        more = {"mask_input": small.numpy(), "has_mask_input": np.ones(1, np.float32)}
    logits, ious = answers(model, seen[0], points, labels, g, masks)
    order = [0, *(1 + np.argsort(-ious[1:], kind="stable")[:2])]
    _, got, low = ask(decoder, seen[1], points, labels, **more)
    np.testing.assert_allclose(got[0], ious[order], atol=1e-5)
    expected = functional.interpolate(torch.from_numpy(logits[order])[None], (256, 256), mode="bilinear")
    np.testing.assert_allclose(low[0], expected[0], atol=1e-3)


@pytest.mark.parametrize("size", [(90, 120), (120, 90), (37, 37), (1, 50), (500, 333)])
def test_masks_have_the_requested_size(pair, seen, size):
    """They are the small masks, of which the square of the longer side is enlarged and the photograph cut out."""
    _, decoder = pair
    masks, _, low = ask(decoder, seen[1], [(300, 400)], [1], size)
    assert masks.shape == (1, 3, *size)
    longer = max(size)
    model_cells = functional.interpolate(torch.from_numpy(low), (SIDE // 4, SIDE // 4), mode="area")
    whole = functional.interpolate(model_cells, (longer, longer), mode="bilinear")[:, :, : size[0], : size[1]].numpy()
    if longer >= 90:  # larger than the cells, where the two ways to resize are close
        clear = np.abs(whole) > 0.2 * np.abs(whole).mean()  # not on the border of a mask
        assert clear.mean() > 0.8
        assert ((masks > 0) == (whole > 0))[clear].mean() > 0.99


def test_existing_files_are_refused_before_writing(tmp_path, capsys):
    model = Promptable(PromptableConfig(**SMALL), TinyPyramid())
    save_pretrained(model, tmp_path / "run")
    (tmp_path / "m.decoder.onnx").write_text("mine")
    assert cli.main(["export", str(tmp_path / "run"), "--onnx", str(tmp_path / "m.onnx")]) == 2
    assert "m.decoder.onnx, which exists; add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "m.decoder.onnx").read_text() == "mine"
    assert not (tmp_path / "m.encoder.onnx").exists()


def test_metadata_describe_inputs(pair):
    _, decoder = pair
    assert {i.name for i in decoder.get_inputs()} == {
        "image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size",
    }  # fmt: skip
    assert [i.name for i in decoder.get_overridable_initializers()] == ["granularity"]
    about = json.loads(decoder.get_modelmeta().custom_metadata_map["masktree"])
    assert set(about["inputs"]) == {i.name for i in decoder.get_inputs()} | {"granularity"}
    assert about["image_size"] == SIDE
    assert about["model"]["kind"] == "promptable"


def test_encoder_with_cues_equals_the_model(tmp_path):
    torch.manual_seed(0)
    model = build_model(PromptableConfig(backbone="embedded", **SMALL), weights=True).eval()
    assert isinstance(model, Promptable)
    export_encoder(model, SIDE, tmp_path / "encoder.onnx")
    images, cues = torch.rand(1, 3, SIDE, SIDE), torch.rand(1, NUM_CUES, SIDE // 2, SIDE // 2)
    got = session(tmp_path / "encoder.onnx").run(None, {"image": images.numpy(), "cues": cues.numpy()})[0]
    with torch.inference_mode():
        np.testing.assert_allclose(got, ImageEncoderOnnxModel(model)(images, cues), atol=1e-4)


def test_encoder_without_cues_takes_images_of_any_size(exported):
    model, files = exported
    assert [file.name for file in files] == ["my model.encoder.onnx", "my model.decoder.onnx", "my model.yaml"]
    settings = yaml.safe_load(files[2].read_text())
    assert settings["type"] == "segment_anything"
    assert [settings[key] for key in ("encoder_model_path", "decoder_model_path", "input_size")] == [
        files[0].name, files[1].name, 1024,
    ]  # fmt: skip
    encoder = session(files[0])
    assert len(encoder.get_inputs()) == 1
    smooth = resize_image(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8), (684, 1024))
    for image in (smooth, smooth[:, :300], smooth[:100, :80]):
        got = encoder.run(None, {"image": image.astype(np.float32)})[0]
        prepared = prepare_image(np.ascontiguousarray(image), SIDE, cues=False).pixels[None]
        square = functional.pad(prepared, (0, SIDE - prepared.shape[3], 0, SIDE - prepared.shape[2]))
        with torch.inference_mode():
            embedding = model.encode(square)
        expected = torch.cat([functional.pixel_unshuffle(embedding.pixels, 2), embedding.cells], 1).numpy()
        # two ways to make a photograph smaller: nearly the same pixels, and so nearly the same vectors
        assert got.shape == expected.shape
        assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.99
