"""Trained models where methods go: ``load``, stages, commands. The models are small and have learned nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import masktree
from masktree import AutomaticMaskGenerator, MaskTree, cli
from masktree.errors import FormatError, InputError, WeightsError
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.labels import LabelSet
from masktree.models import saved
from masktree.models.build import build_model, save_pretrained
from masktree.models.config import Mask2FormerConfig
from masktree.predict import DiscoverySegmenter, ModelSegmenter, SegmenterConfig
from masktree.stages import calibration as calibration_stage
from masktree.stages.calibration import calibrate_run
from masktree.stages.discover import discover
from masktree.stages.pictures import NO_PICTURES
from masktree.stages.segment import segment
from masktree.trees import rle

CONFIG = Mask2FormerConfig(
    kind="sohes",
    backbone="embedded",
    image_size=96,
    hidden_dim=32,
    num_heads=2,
    feedforward_dim=32,
    pixel_decoder_layers=1,
    decoder_layers=2,
    num_queries=12,
    max_detections=10,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Folder of a model, as a training run leaves it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "run"
    save_pretrained(build_model(CONFIG, weights=True), folder)
    header = json.loads((folder / "config.json").read_text())
    header |= {"training": {"preset": "sohes", "steps": 7, "stopped": None}, "labels": {"sha256": "ab" * 32}}
    (folder / "config.json").write_text(json.dumps(header))
    return folder


@pytest.fixture(scope="module")
def segmenter(run) -> ModelSegmenter:
    loaded = masktree.load(run)
    assert isinstance(loaded, ModelSegmenter)
    return loaded


@pytest.fixture
def collection(tmp_path, photos) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, path in enumerate(photos[:3]):
        Image.open(path).convert("RGB").resize((80 + 8 * index, 60)).save(folder / f"{index}.png")
    return folder


def same(a: MaskTree, b: MaskTree) -> bool:
    return a.rles == b.rles and all((getattr(a, n) == getattr(b, n)).all() for n in ("parents", "scores", "levels"))


# --- load -----------------------------------------------------------------------------------------------------------


def test_a_run_is_loaded_and_segments_images(run, segmenter, photos, tmp_path):
    assert isinstance(segmenter, ModelSegmenter)
    assert isinstance(segmenter.device, str)
    assert segmenter.provenance.name == "run"
    assert len(segmenter.provenance.sha256) == 64
    image = resize_image(read_image(photos[0]), (90, 140))
    tree = segmenter(image)
    assert tree.size == (90, 140)
    assert 1 <= len(tree) <= 10
    Image.fromarray(image).save(tmp_path / "photo.png")
    for other in (tmp_path / "photo.png", str(tmp_path / "photo.png"), Image.fromarray(image)):
        assert same(segmenter(other), tree)
    assert same(masktree.load(str(run), device="cpu")(image), tree)
    records = AutomaticMaskGenerator(segmenter).generate(image)
    assert len(records) == len(tree)
    assert records[0]["segmentation"].shape == (90, 140)


def test_batches_give_what_single_images_give(segmenter, rng):
    images = [rng.integers(0, 256, size, np.uint8) for size in ((60, 80, 3), (80, 60, 3), (60, 80, 3), (1, 2, 3))]
    for image in images:
        image[: len(image) // 2] //= 3  # noise alone would be blank
    trees = segmenter.segment_batch(images)
    assert [tree.size for tree in trees] == [image.shape[:2] for image in images]
    for tree, image in zip(trees, images, strict=True):
        alone = segmenter(image)
        assert len(alone) == len(tree)
        np.testing.assert_allclose(alone.areas, tree.areas, rtol=0.02, atol=3)


def test_minimum_area_minimum_score_and_precision_are_applied(run, segmenter, photos):
    image = resize_image(read_image(photos[1]), (90, 140))
    everything = dataclasses.replace(segmenter, min_area=1)(image)
    middle = float(np.median(everything.scores))
    assert (masktree.load(run, min_area=1, min_score=middle)(image).scores >= middle).all()
    assert len(masktree.load(run, min_area=1, min_score=middle)(image)) < len(everything)
    assert len(masktree.load(run, min_area=90 * 140)(image)) == (everything.areas == 90 * 140).sum()
    assert masktree.load(run, dtype="bfloat16")(image).size == (90, 140)


def test_options_that_models_do_not_have_are_refused(run):
    with pytest.raises(InputError, match=r"a trained model without method and quality; got .*with 'sohes', 'best'"):
        masktree.load(run, method="sohes", quality="best")
    with pytest.raises(
        InputError,
        match=r"trained model: min_area, .*, snap, pool, regroup, calibrated, score, image_size, short_side; got",
    ):
        masktree.load(run, thresholds=(0.5,))
    with pytest.raises(InputError, match="dtype 'float32', 'bfloat16', 'float16'; got 'int8'"):
        masktree.load(run, dtype="int8")
    with pytest.raises(InputError, match="min_area of at least 1 pixel; got 0"):
        masktree.load(run, min_area=0)
    with pytest.raises(InputError, match=r"min_score in \[0, 1\]; got 2"):
        masktree.load(run, min_score=2)


def test_the_size_at_test_is_that_of_the_model_or_a_given_one(run, photos):
    image = resize_image(read_image(photos[1]), (90, 140))
    seen: list[tuple[int, int]] = []

    def sizes(**options: int) -> tuple[int, int]:
        segmenter = masktree.load(run, device="cpu", **options)
        assert isinstance(segmenter, ModelSegmenter)
        pyramid = segmenter.model.pyramid  # type: ignore[attr-defined]
        handle = pyramid.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
        assert segmenter(image).size == (90, 140)
        handle.remove()
        return seen[-1]

    assert sizes() == (64, 96)  # 62 x 96, padded to multiples of 32
    assert sizes(image_size=160) == (128, 160)  # 103 x 160
    assert sizes(image_size=320, short_side=128) == (128, 224)  # 128 x 199
    assert sizes(image_size=160, short_side=128) == (128, 160)  # 103 x 160: the longer side limits
    assert sizes(short_side=32) == (32, 64)  # 32 x 50
    with pytest.raises(InputError, match="short_side of at most the longer side, 96 pixels; got 128; give image_size"):
        masktree.load(run, short_side=128)
    with pytest.raises(InputError, match="image_size from 1 to 16384 pixels; got 0"):
        masktree.load(run, image_size=0)
    with pytest.raises(InputError, match="image_size as Integral; got 'large'"):
        masktree.load(run, image_size="large")


def test_precisions_that_a_device_lacks_are_refused(run):
    for model in (run, "embedded"):
        with pytest.raises(InputError, match="float16 on a GPU; got the CPU; use bfloat16, or float32"):
            masktree.load(model, device="cpu", dtype="float16")


def test_folders_of_backbones_stay_backbones(tmp_path, run):
    import timm
    from safetensors.torch import save_file

    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    folder = tmp_path / "vit"
    folder.mkdir()
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, **arguments)
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
    assert isinstance(masktree.load(str(folder)), DiscoverySegmenter)
    with pytest.raises(FormatError, match="no proper format, version, model"):
        SegmenterConfig(model=str(folder)).load()


def test_names_without_a_model_are_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"'someone/model'.*no cached file while HF_HUB_OFFLINE is set"):
        masktree.load("someone/model")
    with pytest.raises(WeightsError, match=r"got 'embedded'; .*backbones are given by --backbone"):
        SegmenterConfig(model="embedded").load()


# --- stages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["method", "backbone", "quality"])
def test_configurations_hold_either_a_model_or_a_method(name):
    value = {"method": "sohes", "backbone": "texture", "quality": "fast"}[name]
    with pytest.raises(InputError, match=f"--model without --{name}, .*got '{value}'"):
        SegmenterConfig(model="run", **{name: value})
    plain = SegmenterConfig()
    assert (plain.backbone, plain.method, plain.quality, plain.model) == ("embedded", "masktree", "fast", None)
    assert "model" not in plain.record()  # so that the runs of earlier versions go on
    assert SegmenterConfig(model="run").record()["model"] == "run"


def test_segment_with_a_model_goes_on_and_knows_other_models(run, collection, tmp_path):
    out, config = tmp_path / "out", SegmenterConfig(model=str(run))
    assert segment([collection], out, config, pictures=NO_PICTURES).completed == 3
    record = json.loads((out / "run.json").read_text())
    assert record["config"]["model"] == str(run)
    assert record["config"]["method"] is None
    assert record["weights"]["kind"] == "sohes"
    assert record["weights"]["sha256"]
    tree = MaskTree.load(out / "0.json")
    assert tree.size == (60, 80)
    (out / "0.json").unlink()
    again = segment([collection], out, config, pictures=NO_PICTURES)
    assert (again.completed, again.skipped) == (1, 2)
    assert same(MaskTree.load(out / "0.json"), tree)
    with pytest.raises(InputError, match="min_area"):
        segment([collection], out, SegmenterConfig(model=str(run), min_area=5), pictures=NO_PICTURES)
    with pytest.raises(InputError, match="other values for backbone"):
        segment([collection], out, SegmenterConfig(), pictures=NO_PICTURES)


@pytest.mark.parametrize("workers", [1, 2])
def test_photographs_in_batches_have_the_masks_of_single_ones(run, photos, tmp_path, workers):
    """Five photographs of two shapes and a broken one, which is told of alone."""
    folder, config = tmp_path / "photos", SegmenterConfig(model=str(run), device="cpu", min_area=1)
    folder.mkdir()
    for index in range(5):
        size = (80, 60) if index % 2 else (60, 80)
        Image.open(photos[index]).convert("RGB").resize(size).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    segment([folder], tmp_path / "single", config, batch_size=1, workers=1)
    outcome = segment([folder], tmp_path / "batches", config, batch_size=3, workers=workers)
    assert (outcome.completed, [Path(f["path"]).name for f in outcome.failures]) == (5, ["broken.png"])
    for index in range(5):
        alone, together = (MaskTree.load(tmp_path / name / f"{index}.json") for name in ("single", "batches"))
        assert len(alone) == len(together) >= 2
        np.testing.assert_allclose(alone.scores, together.scores, atol=1e-4)
        assert (np.diag(iou_of(alone, together)) > 0.98).all()
        assert (tmp_path / "batches" / f"{index}.png").exists()
    again = segment([folder], tmp_path / "batches", config, batch_size=1, workers=1)  # the same run
    assert (again.completed, again.skipped) == (0, 5)
    with pytest.raises(InputError, match="batch_size >= 0; got -1"):
        segment([folder], tmp_path / "more", config, batch_size=-1)


def iou_of(a: MaskTree, b: MaskTree) -> np.ndarray:
    return rle.iou(list(a.rles), list(b.rles), a.size)


def test_discover_with_a_model_makes_a_label_set(run, collection, tmp_path):
    everything = SegmenterConfig(model=str(run), min_area=1)
    assert discover(collection, tmp_path / "all", everything).completed == 3
    most = LabelSet.open(tmp_path / "all").index["summary"]["masks"]
    discover(collection, tmp_path / "two", everything, average_labels=2)
    labels = LabelSet.open(tmp_path / "two")
    assert 3 <= labels.index["summary"]["masks"] <= 6 < most
    assert labels.index["config"]["model"] == str(run)
    with pytest.raises(InputError, match=r"at most .* labels per image, all that is found here; got 99"):
        discover(collection, tmp_path / "many", everything, average_labels=99)


def test_stability_is_measured_with_the_recorded_model(run, collection, tmp_path):
    from masktree.evaluate.harness import Evaluation
    from masktree.evaluate.options import EvaluationOptions

    segment([collection], tmp_path / "out", SegmenterConfig(model=str(run)), pictures=NO_PICTURES)
    result = Evaluation.open("consistency", tmp_path / "out", None, EvaluationOptions(images=collection)).run(workers=1)
    assert 0 <= result.metrics["stability"] <= 1


# --- commands -------------------------------------------------------------------------------------------------------


def test_commands_take_a_model(run, collection, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["segment", str(collection), "-o", str(out), "--model", str(run), "--min-score", "0.01"]) == 0
    assert "3 done" in capsys.readouterr().out
    assert (out / "0.png").is_file()
    assert json.loads((out / "run.json").read_text())["config"]["options"] == {"min_score": 0.01}
    assert cli.main(["discover", str(collection), "-o", str(tmp_path / "labels"), "--model", str(run)]) == 0
    assert LabelSet.open(tmp_path / "labels").index["config"]["method"] is None
    assert cli.main(["segment", str(collection), "-o", str(out), "--model", str(run), "--method", "sohes"]) == 2
    assert "--model without --method" in capsys.readouterr().err
    assert cli.main(["segment", str(collection), "-o", str(out), "--model", str(tmp_path)]) == 2
    assert "with config.json; got " in capsys.readouterr().err


def test_info_describes_a_model(run, capsys):
    assert cli.main(["info", "model", str(run)]) == 0
    text = capsys.readouterr().out
    for wanted in ("kind        sohes", "sha256", "parameters", "queries", "labels.sha256    " + "ab" * 32):
        assert wanted in text
    assert "training.steps" in text
    assert "stopped" not in text
    assert cli.main(["info", "model"]) == 2
    assert cli.main(["info", "model", "none"]) == 2
    assert "folder of a trained model" in capsys.readouterr().err


def test_export_refuses_to_replace_a_file(run, tmp_path, capsys):
    (tmp_path / "model.onnx").write_text("mine")
    assert cli.main(["export", str(run), "--to", "onnx", "-o", str(tmp_path / "model.onnx")]) == 2
    assert "--overwrite to replace it" in capsys.readouterr().err
    assert cli.main(["export", str(run), "--to", "onnx", "-o", str(tmp_path / "b.onnx"), "--image-size", "50"]) == 2
    assert (tmp_path / "model.onnx").read_text() == "mine"


@pytest.mark.parametrize("told", [True, False, None])
def test_models_record_whether_they_are_label_free(run, tmp_path, told):
    shutil.copytree(run, tmp_path / "run")
    header = json.loads((run / "config.json").read_text())
    header["record"] = {"label_weights": {"name": "x"} if told is None else {"name": "x", "label_free": told}}
    (tmp_path / "run/config.json").write_text(json.dumps(header))
    assert saved.provenance(tmp_path / "run", "run").label_free is told


def test_segmenting_crops_is_a_recorded_option(run, segmenter, collection, tmp_path, monkeypatch, capsys):
    from masktree.predict import model as predict_model

    def first_alone(image, tree, segment):
        """Masks of a model that has learned nothing fill their crops: what is looked at closer shows the same."""
        assert image.shape[:2] == tree.size
        assert same(segment([image])[0], tree)
        return tree[np.arange(len(tree)) == 0]

    monkeypatch.setattr(predict_model, "segment_crops", first_alone)
    image = read_image(collection / "0.png")
    assert masktree.load(run, crops=True)(image).rles == segmenter(image).rles[:1]
    out = tmp_path / "out"
    assert (
        cli.main(["segment", str(collection), "-o", str(out), "--model", str(run), "--crops", "--picture", "none"]) == 0
    )
    assert json.loads((out / "run.json").read_text())["config"]["options"] == {"crops": True}
    assert cli.main(["segment", str(collection), "-o", str(out), "--crops"]) == 2
    assert "expected --crops with --model" in capsys.readouterr().err


def test_snapped_masks_are_unions_of_the_default_methods_regions(run, segmenter, photos, collection, tmp_path, capsys):
    image = resize_image(read_image(photos[0]), (96, 128))
    leaves = masktree.load("embedded")(image).dendrogram.leaves
    rough, drawn = segmenter(image), masktree.load(run, snap=True)(image)
    assert 0 < len(drawn) <= len(rough)
    new = [k for k, text in enumerate(drawn.rles) if text not in rough.rles]
    assert new
    for k in new:
        mask = drawn.mask(k)
        np.testing.assert_array_equal(mask, np.isin(leaves, leaves[mask]))
    out = tmp_path / "out"
    assert (
        cli.main(["segment", str(collection), "-o", str(out), "--model", str(run), "--snap", "--picture", "none"]) == 0
    )
    assert json.loads((out / "run.json").read_text())["config"]["options"] == {"snap": True}
    assert cli.main(["segment", str(collection), "-o", str(out), "--snap"]) == 2
    assert "expected --snap with --model" in capsys.readouterr().err


def test_pooled_masks_are_those_of_the_method_and_of_the_model(run, photos, collection, tmp_path, capsys):
    image = resize_image(read_image(photos[0]), (96, 128))
    method, snapped = masktree.load("embedded")(image), masktree.load(run, snap=True)(image)
    pooled = masktree.load(run, pool=True, max_masks=None)(image)
    assert pooled.rles[: len(method)] == method.rles
    assert pooled.kinds.tolist() == [*method.kinds.tolist(), *[2] * (len(pooled) - len(method))]
    assert set(pooled.rles[len(method) :]) <= set(snapped.rles)
    np.testing.assert_allclose(pooled.scores[: len(method)], method.scores, rtol=1e-6)
    assert pooled.dendrogram.parents.tolist() == method.dendrogram.parents.tolist()
    regrouped = masktree.load(run, pool=True, regroup=True)(image)
    np.testing.assert_array_equal(regrouped.dendrogram.leaves, method.dendrogram.leaves)
    np.testing.assert_array_equal(regrouped.dendrogram.altitudes, method.dendrogram.altitudes)
    assert regrouped.dendrogram.parents.tolist() != method.dendrogram.parents.tolist()
    assert len(masktree.load(run, pool=True, max_masks=5)(image)) == 5
    out = tmp_path / "out"
    command = ["segment", str(collection), "-o", str(out), "--picture", "none"]
    assert cli.main([*command, "--model", str(run), "--pool", "--regroup"]) == 0
    assert json.loads((out / "run.json").read_text())["config"]["options"] == {"pool": True, "regroup": True}
    trees = [MaskTree.load(path) for path in sorted(out.glob("[0-9].json"))]
    assert all(tree.dendrogram is not None for tree in trees)
    for arguments, message in (
        (["--pool"], "expected --pool with --model"),
        (["--model", str(run), "--regroup"], "expected --regroup with --model and --pool"),
    ):
        assert cli.main([*command, *arguments]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(InputError, match="expected regroup together with pool"):
        masktree.load(run, regroup=True)


def test_labels_of_a_pool_have_the_asked_for_number_of_masks(run, collection, tmp_path):
    options = {"pool": True, "regroup": True}
    outcome = discover(
        [collection], tmp_path / "labels", SegmenterConfig(model=str(run), options=options), average_labels=6, workers=1
    )
    assert not outcome.failures
    config = LabelSet.open(tmp_path / "labels").index["config"]
    assert config["options"].keys() == {"pool", "regroup", "min_score", "max_masks"}


def test_blank_images_give_one_mask(run, rng):
    segmenter = masktree.load(run, device="cpu", crops=True, pool=True)
    noise = rng.integers(0, 256, (90, 140, 3), dtype=np.uint8)
    stripes = noise.copy()
    stripes[::2] = 0
    trees = segmenter.segment_batch([noise, stripes, np.zeros((40, 50, 3), np.uint8)])
    assert [tree.size for tree in trees] == [(90, 140), (90, 140), (40, 50)]
    for blank in (trees[0], trees[2], segmenter(noise), AutomaticMaskGenerator(segmenter).tree(noise)):
        assert len(blank) == 1
        assert blank.mask(0).all()
    assert same(trees[1], segmenter(stripes))


# --- calibration ----------------------------------------------------------------------------------------------------


def test_a_calibrated_model_keeps_its_masks_and_their_order(run, collection, tmp_path):
    labels, own = tmp_path / "labels", tmp_path / "run"
    discover(collection, labels, SegmenterConfig(backbone="texture", min_area=20))
    shutil.copytree(run, own)
    calibration = calibrate_run(own, labels)
    assert calibration is not None
    assert calibrate_run(own, labels) is None  # it has one already
    raw, calibrated = (masktree.load(own, calibrated=flag)(collection / "0.png") for flag in (False, True))
    assert calibrated.rles == raw.rles
    np.testing.assert_allclose(
        calibrated.scores, np.interp(raw.scores, calibration.raw, calibration.agreement), atol=1e-6
    )
    middle = float(np.median(calibrated.scores))
    assert 0 < len(masktree.load(own, min_score=middle)(collection / "0.png")) < len(raw)

    config = own / "config.json"
    header = json.loads(config.read_text())
    for damaged in (
        [],
        {"raw": [0, 1]},
        {"raw": [0, 1], "agreement": [0.5, "x"]},
        {"raw": [0, 1], "agreement": [1, 0]},
    ):
        config.write_text(json.dumps(header | {"score_calibration": damaged}))
        with pytest.raises(FormatError, match=r"config\.json: .*score_calibration"):
            masktree.load(own)


def test_a_model_without_masks_is_not_calibrated(run, collection, tmp_path, monkeypatch):
    labels, own = tmp_path / "labels", tmp_path / "run"
    discover(collection, labels, SegmenterConfig(backbone="texture", min_area=20))
    shutil.copytree(run, own)
    before = (own / "config.json").read_bytes()
    empty = np.zeros(0)
    monkeypatch.setattr(calibration_stage, "measure_agreement", lambda image, segment, seed: (empty, empty))
    assert calibrate_run(own, labels) is None
    assert (own / "config.json").read_bytes() == before
