"""A promptable network behind the predictor and the generator. It is small and has learned nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import masktree
from masktree import AutomaticMaskGenerator, Predictor
from masktree.errors import InputError, MasktreeWarning
from masktree.io.images import read_image
from masktree.io.resize import resize_image
from masktree.models.build import build_model, save_pretrained
from masktree.models.config import PromptableConfig
from masktree.prompt.model_prompter import ModelPrompter, _snap_logits, upscale_logits
from masktree.prompt.prompt import Prompt
from tests.prompt.test_predictor import published_script
from tests.trees.test_snap import quarters

CONFIG = PromptableConfig(
    backbone="embedded",
    image_size=96,
    hidden_dim=32,
    num_heads=2,
    feedforward_dim=32,
    pixel_decoder_layers=1,
    prompt_decoder_layers=1,
    embedding_stride=8,
    prompts_per_image=4,
    max_correction_clicks=1,
    points_per_side=6,
    max_detections=40,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "run"
    save_pretrained(build_model(CONFIG, weights=False), folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(run):
    return masktree.load(run, device="cpu")


@pytest.fixture(scope="module")
def photo(photos):
    return resize_image(read_image(photos[0]), (120, 160))


@pytest.fixture(scope="module")
def predictor(segmenter, photo):
    predictor = Predictor(segmenter, num_multimask_outputs=6)
    predictor.set_image(photo)
    return predictor


def test_a_script_for_segment_anything_reaches_the_network(segmenter, photo):
    predictor = Predictor(segmenter)
    published_script(predictor, AutomaticMaskGenerator(segmenter), photo, obeyed=False)  # it has learned nothing
    assert isinstance(predictor._prompter, ModelPrompter)


def test_a_click_has_six_masks_and_any_other_prompt_one_before_them(predictor):
    click = {"point_coords": [[80, 60]], "point_labels": [1]}
    masks, scores, low = predictor.predict(**click)
    assert masks.shape == (6, 120, 160)
    assert masks.dtype == np.bool_
    assert low.shape == (6, 256, 256)
    assert (np.diff(scores) <= 0).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    one, score, _ = predictor.predict(**click, multimask_output=False)
    assert np.array_equal(one, masks[:1])
    assert score[0] == scores[0]
    for prompt in (
        {**click, "granularity": 0.4},
        {"box": [30, 20, 100, 90], "multimask_output": False},
        {"point_coords": [[80, 60], [10, 10]], "point_labels": [1, 0], "multimask_output": False},
        {**click, "mask_input": low[:1], "multimask_output": False},
        {"mask_input": low[:1], "multimask_output": False},
    ):
        assert predictor.predict(**prompt)[0].shape == (1, 120, 160)
    assert len(predictor.predict(**{"box": [30, 20, 100, 90]})[0]) == 6


def test_masks_of_a_single_click_are_ordered_by_probability(segmenter, photo):
    prompter = ModelPrompter(segmenter, photo)  # 72 x 96 pixels of it are seen: 18 of 24 rows of cells
    logits = torch.full((7, 24, 24), -1.0)
    for number, side in enumerate((18, 3, 6, 6, 16, 12)):
        logits[number, :side, :side] = 1
    logits[6, 18:] = 1  # in the padding
    click = Prompt.read((120, 160), [[3, 3]], [1])
    ious = np.array([0.9, 0.5, 0.5, 0.45, 0.5, 0.5, 0.9], np.float32)
    order, scores = prompter._rank(click, logits, ious, 6)
    assert order[0] == 2  # of a chance of 1/6 as 3 is, but near to 1, 3 and 5
    assert set(order.tolist()) == {1, 2, 4, 5}  # 3 is a copy, 6 is nowhere, 0 not for clicks alone
    assert (np.diff(scores) <= 0).all()
    areas = np.array([9, 36, 36, 256, 144])
    chances = ious[1:6] / np.sqrt(areas)
    overlaps = np.minimum(areas[1], areas) / np.maximum(areas[1], areas)
    assert scores[0] == pytest.approx(0.5 * (overlaps @ chances) / chances.sum())
    assert prompter._rank(click, -torch.ones(7, 24, 24), ious, 6)[1].tolist() == [0]
    for more in ({"granularity": 0.5}, {"box": [0, 0, 50, 50]}, {"mask_input": np.ones((1, 256, 256), np.float32)}):
        prompt = Prompt.read((120, 160), [[3, 3]], [1], **more)
        order, scores = prompter._rank(prompt, logits, ious, 3)
        assert (order.tolist(), scores.tolist()) == ([0, 6, 1], ious[[0, 6, 1]].tolist())


def test_every_part_of_a_prompt_reaches_the_network(predictor):
    def logits(**prompt):
        return predictor.predict([[80, 60]], [1], multimask_output=False, return_logits=True, **prompt)[0]

    _, _, low = predictor.predict([[80, 60]], [1])
    plain = logits(granularity=0.1)
    others = [
        logits(granularity=0.9),
        logits(granularity=0.1, box=[30, 20, 100, 90]),
        logits(granularity=0.1, mask_input=low[:1]),
        predictor.predict([[20, 20]], [1], granularity=0.1, return_logits=True)[0],
    ]
    assert all(not np.array_equal(plain, other) for other in others)
    assert np.array_equal(plain, logits(granularity=0.1))


def test_points_are_scaled_to_the_input_size(segmenter, photo):
    prompter = ModelPrompter(segmenter, photo)  # 120 x 160 is seen as 72 x 96, padded to 96 x 96
    asked = prompter._to_network_input(Prompt.read((120, 160), [[79.5, 59.5]], [1], [0, 0, 160, 120], granularity=0.5))
    np.testing.assert_allclose(asked.points, [[[79.5 * 0.6, 59.5 * 0.6]]], rtol=1e-6)  # the centre of that pixel
    assert asked.boxes.tolist() == [[0, 0, 96, 72]]
    assert asked.granularity.tolist() == [0.5]
    mask = np.full((256, 256), -10, np.float32)
    mask[:96, :128] = 10  # the upper left quarter of the photograph
    cells = prompter._from_low_res(torch.from_numpy(mask))
    assert cells.shape == (24, 24)
    assert (cells[:8, :11] > 0).all()
    assert (cells[:, 13:] < 0).all()
    assert (cells[10:] < 0).all()
    back = prompter._to_low_res(cells[None])
    assert back.shape == (1, 256, 256)
    assert ((back[0].numpy() > 0) == (mask > 0)).mean() > 0.98


def test_logits_are_enlarged_in_place():
    ramp = torch.arange(24.0)[None, None, :].expand(1, 18, 24)  # 70 x 96 pixels of content
    big = upscale_logits(ramp, (70, 96), (140, 192))
    assert big.shape == (1, 140, 192)
    centres = (np.arange(192) + 0.5) / 2 / 4 - 0.5
    np.testing.assert_allclose(big[0, 50, 8:-8], centres[8:-8], atol=0.1)
    assert upscale_logits(ramp, (70, 96), (1, 1)).shape == (1, 1, 1)


def test_snapped_masks_follow_the_regions_of_the_default_method(run, segmenter, photo):
    plain, snapped = Predictor(segmenter), Predictor(masktree.load(run, device="cpu", snap=True))
    leaves = masktree.load("embedded", device="cpu")(photo).dendrogram.leaves
    changed = 0
    for predictor in (plain, snapped):
        predictor.set_image(photo)
    for x, y in ((20, 30), (60, 40), (80, 80)):
        rough, scores, low = plain.predict([(x, y)], [1])
        masks, same_scores, same_low = snapped.predict([(x, y)], [1])
        np.testing.assert_array_equal(scores, same_scores)
        np.testing.assert_array_equal(low, same_low)
        for raw, mask in zip(rough, masks, strict=True):
            if not np.array_equal(raw, mask):
                np.testing.assert_array_equal(mask, np.isin(leaves, leaves[mask]))
                assert mask[y, x]
                changed += 1
    assert changed


def test_the_generator_snaps_masks_too(run, segmenter, photo):
    leaves = masktree.load("embedded", device="cpu")(photo).dendrogram.leaves
    limits = {"points_per_side": 5, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": None}
    rough = AutomaticMaskGenerator(segmenter, **limits).tree(photo)
    snapped = AutomaticMaskGenerator(masktree.load(run, device="cpu", snap=True), **limits).tree(photo)
    new = [k for k, text in enumerate(snapped.rles) if text not in rough.rles]
    assert new
    for k in new:
        mask = snapped.mask(k)
        np.testing.assert_array_equal(mask, np.isin(leaves, leaves[mask]))


def test_snapped_logits_satisfy_clicks_that_agree_within_a_region():
    dendrogram = quarters()
    logits = np.full((1, 40, 40), -3.0, np.float32)
    logits[:, :19, :39] = 5.0
    upper, left = dendrogram.leaves < 2, dendrogram.leaves == 0

    def predict_logits(clicks, labels):
        prompt = Prompt.read((40, 40), clicks, labels, None, None, None)
        return _snap_logits(logits.copy(), dendrogram, prompt)[0]

    np.testing.assert_array_equal(predict_logits([(5, 5)], [1]) > 0, upper)
    np.testing.assert_array_equal(predict_logits([(5, 5), (30, 5)], [1, 0]) > 0, left)
    np.testing.assert_array_equal(predict_logits([(5, 5), (5, 30)], [1, 1]) > 0, upper | (dendrogram.leaves == 2))
    np.testing.assert_array_equal(predict_logits([(5, 5), (30, 5), (35, 5)], [1, 0, 1]) > 0, upper)
    single_click = predict_logits([(5, 5)], [1])
    assert single_click[19, 5] == single_click[10, 39] == 1
    assert single_click[5, 5] == 5
    assert single_click[30, 30] == -3


def test_a_bfloat16_model_returns_float32_scores_and_logits(segmenter, photo):
    predictor = Predictor(dataclasses.replace(segmenter, dtype="bfloat16"))
    predictor.set_image(photo)
    masks, scores, low = predictor.predict([[80, 60]], [1])
    assert masks.shape == (3, 120, 160)
    assert scores.dtype == low.dtype == np.float32


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7)])
def test_images_of_any_size_can_be_prompted(segmenter, size):
    predictor = Predictor(segmenter)
    predictor.set_image(np.zeros((*size, 3), np.uint8))
    _, _, low = predictor.predict([[0, 0]], [1])
    assert predictor.predict([[0, 0]], [1], mask_input=low[:1], multimask_output=False)[0].shape == (1, *size)


def test_a_grid_of_clicks_gives_a_tree(segmenter, photo):
    tree = AutomaticMaskGenerator(segmenter, points_per_side=4, points_per_batch=3).tree(photo)
    other = AutomaticMaskGenerator(segmenter, points_per_side=4, points_per_batch=100).tree(photo)
    assert tree.size == (120, 160)
    assert 1 <= len(tree) <= CONFIG.max_detections
    assert (np.diff(tree.scores) <= 0).all()
    assert ((tree.stabilities >= 0) & (tree.stabilities <= 1)).all()
    assert len(tree) == len(other)
    np.testing.assert_allclose(tree.scores, other.scores, atol=1e-5)


def test_thresholds_and_the_grid_of_points_are_applied(segmenter, photo):
    everything = AutomaticMaskGenerator(segmenter).tree(photo)
    middle = float(np.median(everything.scores))
    assert (AutomaticMaskGenerator(segmenter, pred_iou_thresh=middle).tree(photo).scores >= middle).all()
    stable = float(np.median(everything.stabilities))
    assert (AutomaticMaskGenerator(segmenter, stability_score_thresh=stable).tree(photo).stabilities >= stable).all()
    with pytest.warns(MasktreeWarning, match=r"reaches pred_iou_thresh 1: their scores go up to 0\.\d+; set 0\.\d"):
        assert len(AutomaticMaskGenerator(segmenter, pred_iou_thresh=1.0).tree(photo)) == 0
    point = [np.array([[0.5, 0.5]])]
    assert len(AutomaticMaskGenerator(segmenter, point_grids=point).tree(photo)) <= 6
    wide = AutomaticMaskGenerator(segmenter, stability_score_offset=5.0).tree(photo)
    assert wide.stabilities.mean() < everything.stabilities.mean()
    with pytest.raises(InputError, match="stability_score_offset, above 0"):
        AutomaticMaskGenerator(segmenter, stability_score_offset=-1.0)
