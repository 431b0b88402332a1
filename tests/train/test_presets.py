"""The published numbers, and what may be changed of them."""

from __future__ import annotations

from typing import get_args

import pytest

from masktree.errors import InputError
from masktree.models.config import CascadeConfig, from_json, to_json
from masktree.train.presets import PRESETS, Size, find_preset


def test_the_base_presets_have_the_published_numbers():
    sohes, unsam, hassod = (PRESETS[kind] for kind in ("sohes", "unsam", "hassod"))
    for preset in (sohes, unsam):
        o = preset.optimisation
        assert (o.optimiser, o.lr, o.weight_decay, o.backbone_lr_factor, o.batch_size) == ("adamw", 5e-5, 0.05, 0.1, 16)
        assert preset.augmentation.crop_size == preset.model.image_size == 1024
        assert preset.augmentation.max_masks == 200
    assert (sohes.model.kind, sohes.model.backbone) == ("sohes", "dino-vitb8")
    assert (unsam.model.backbone, unsam.model.num_queries, unsam.model.max_detections) == ("dino-resnet50", 2000, 1000)
    o = hassod.optimisation
    assert (o.optimiser, o.lr, o.weight_decay, o.steps, o.warmup_steps, o.batch_size) == (
        "sgd",
        0.01,
        5e-5,
        40_000,
        1000,
        16,
    )
    assert o.schedule == "constant"
    assert isinstance(hassod.model, CascadeConfig)
    assert (hassod.model.train_proposals, hassod.model.roi_batch_size) == (4000, 512)
    assert hassod.augmentation.short_side == (240, 1024)
    assert hassod.augmentation.paste_scale == (0.3, 1.0)


@pytest.mark.parametrize("kind", ["sohes", "unsam", "hassod"])
def test_every_size_is_a_whole_preset(kind):
    sizes = [find_preset(kind, size) for size in get_args(Size)]
    assert [preset.model.image_size for preset in sizes] == [256 if kind == "hassod" else 192, 512, 1024]
    for preset in sizes:
        assert preset.model.kind == kind
        assert from_json(to_json(preset.model)) == preset.model
    assert {preset.model.backbone for preset in sizes[:2]} == {"embedded"}
    assert sizes[2] == PRESETS[kind]


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
    expected = "expected a preset sohes, unsam, hassod, promptable of size tiny, small, base; got 'sam'"
    with pytest.raises(InputError, match=expected):
        find_preset("sam", "tiny")
    with pytest.raises(InputError, match="batch_size of at least 1"):
        find_preset("unsam", "tiny", batch_size=0)
    with pytest.raises(InputError, match="multiple of 32"):
        find_preset("unsam", "tiny", image_size=100)
