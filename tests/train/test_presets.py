"""The published numbers, and what may be changed of them."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from masktree.errors import InputError
from masktree.models.config import LATER_VALUES, CascadeConfig, Mask2FormerConfig, from_json, to_json
from masktree.train.presets import PRESETS, Size, find_preset


def test_the_base_presets_of_mask2former_have_the_published_numbers():
    sohes, unsam = PRESETS["sohes"], PRESETS["unsam"]
    for preset in (sohes, unsam):
        o = preset.optimisation
        assert (o.optimiser, o.lr, o.weight_decay, o.backbone_lr_factor, o.batch_size) == ("adamw", 5e-5, 0.05, 0.1, 16)
        assert (o.warmup_steps, o.decay_biases, o.result) == (0, True, "last")
        model = preset.model
        assert isinstance(model, Mask2FormerConfig)
        assert (model.short_side, model.image_size, model.min_area) == (1024, 2048, 1)
        assert (model.feedforward_dim, model.decoder_feedforward_dim, model.score) == (1024, 2048, "published")
        assert (preset.augmentation.crop_size, preset.augmentation.max_masks) == (1024, 500)
    assert (sohes.model.kind, sohes.model.backbone) == ("sohes", "dino-vitb8")
    assert isinstance(unsam.model, Mask2FormerConfig)
    assert (unsam.model.backbone, unsam.model.num_queries, unsam.model.max_detections) == ("dino-resnet50", 2000, 1000)


@pytest.mark.parametrize("kind", ["hassod", "cutler"])
def test_the_base_presets_of_the_cascade_have_the_released_numbers(kind):
    preset = PRESETS[kind]
    o, model, augmentation = preset.optimisation, preset.model, preset.augmentation
    assert isinstance(model, CascadeConfig)
    assert (o.optimiser, o.lr, o.weight_decay, o.warmup_steps, o.batch_size) == ("sgd", 0.01, 5e-5, 1000, 16)
    assert (o.decay_biases, o.clip_norm, o.clip_per_parameter, o.result) == (True, 1.0, True, "last")
    assert (model.short_side, model.image_size, model.min_area) == (800, 1333, 1)
    assert (model.norm, model.roi_sampling, model.roi_mean, model.drop_loss) == ("batch", "adaptive", "batch", True)
    assert (model.train_proposals, model.roi_batch_size) == (4000, 512)
    assert augmentation.short_sides == (240, 320, 480, 640, 672, 704, 736, 768, 800, 1024)
    assert (augmentation.max_side, augmentation.crop_size, augmentation.padding) == (1333, 1344, "batch")
    assert (augmentation.paste_prob, augmentation.paste_scale, augmentation.paste_rule) == (1.0, (0.3, 1.0), "released")
    if kind == "hassod":
        assert (o.steps, o.schedule) == (40_000, "constant")
        assert (model.roi_positive_fraction, model.max_detections) == (0.5, 1000)
    else:
        assert (o.steps, o.schedule, o.milestones, o.gamma) == (160_000, "step", (0.5,), 0.02)
        assert (model.roi_positive_fraction, model.max_detections) == (0.25, 100)


@pytest.mark.parametrize("kind", ["sohes", "unsam", "hassod", "cutler"])
def test_every_size_is_a_whole_preset(kind):
    sizes = [find_preset(kind, size) for size in get_args(Size)]
    cascade = kind in ("hassod", "cutler")
    expected = [256 if cascade else 192, 512, 1333 if cascade else 2048]
    assert [preset.model.image_size for preset in sizes] == expected
    for preset in sizes:
        assert preset.model.kind == ("hassod" if cascade else kind)
        assert from_json(to_json(preset.model)) == preset.model
    assert {preset.model.backbone for preset in sizes[:2]} == {"embedded"}
    assert sizes[2] == PRESETS[kind]
    for preset in sizes[:2]:  # what is ours
        assert preset.model.short_side == 0
        assert not preset.augmentation.short_sides
        assert (preset.optimisation.decay_biases, preset.optimisation.result) == (False, "average")
        changed = from_json({k: v for k, v in to_json(preset.model).items() if k not in LATER_VALUES})
        assert changed == replace(preset.model, roi_positive_fraction=0.5) if cascade else changed == preset.model


def test_an_image_size_is_that_of_crops_and_of_whole_images():
    for kind in ("unsam", "hassod"):
        preset = find_preset(kind, "base", image_size=640)
        assert (preset.model.image_size, preset.model.short_side, preset.augmentation.crop_size) == (640, 0, 640)


def test_only_what_is_given_changes():
    preset = find_preset(
        "sohes", "tiny", backbone="dino-vits8", image_size=128, num_queries=20, steps=7, lr=None, batch_size=2
    )
    before = find_preset("sohes", "tiny")
    assert (preset.model.backbone, preset.model.image_size, preset.augmentation.crop_size) == ("dino-vits8", 128, 128)
    assert (preset.model.num_queries, preset.model.max_detections) == (20, 20)
    assert (preset.optimisation.steps, preset.optimisation.batch_size) == (7, 2)
    assert preset.optimisation.lr == before.optimisation.lr
    assert preset.model.hidden_dim == before.model.hidden_dim


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="no number of queries for hassod"):
        find_preset("hassod", "tiny", num_queries=10)
    expected = "expected a preset sohes, unsam, hassod, cutler, promptable of size tiny, small, base; got 'sam'"
    with pytest.raises(InputError, match=expected):
        find_preset("sam", "tiny")
    with pytest.raises(InputError, match="batch_size of at least 1"):
        find_preset("unsam", "tiny", batch_size=0)
    with pytest.raises(InputError, match="multiple of 32"):
        find_preset("unsam", "tiny", image_size=100)
