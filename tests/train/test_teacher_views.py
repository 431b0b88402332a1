from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomErasing

from masktree.backbones.texture import NUM_CUES, boundary_cues
from masktree.errors import ImageError, InputError
from masktree.labels import LabelSet
from masktree.models.structures import interleave
from masktree.train import teacher_views as module
from masktree.train.augmentation import Augmentation
from masktree.train.color_jitter import ColorJitter
from masktree.train.label_store import LabelStore
from masktree.train.labelled_dataset import LabelledDataset
from masktree.train.teacher_views import ERASINGS, Erasing, TwoViewDataset, ViewBatch, draw_erasings
from masktree.trees.masktree import MaskTree
from tests.train.independence import check_independence
from tests.train.labelled import random_tree, write_collection, write_labels

SIZES = {"a.png": (40, 56), "b/ü.png": (64, 64), "b/c.png": (100, 30), "d.png": (200, 260), "e.png": (64, 48)}
LIVELY = Augmentation(crop_size=64, scale=(0.3, 2.0), paste_prob=0.7)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five photographs of noise, the last without any label."""
    write_collection(tmp_path, SIZES)
    rng = np.random.default_rng(2)
    trees = {name: random_tree(size, 4, rng) for name, size in SIZES.items()}
    trees["e.png"] = MaskTree.from_masks(np.zeros((0, 64, 48), bool))
    write_labels(tmp_path / "labels", tmp_path / "photos", trees)
    return tmp_path


def open_views(folder: Path, settings: Augmentation = LIVELY, seed: int = 3, **options: bool) -> TwoViewDataset:
    return TwoViewDataset(LabelStore.of(LabelSet.open(folder / "labels")), folder / "photos", settings, seed, **options)


def flat(steps: list[ViewBatch]) -> list[tuple]:
    """Everything about each photograph, in order, ready to be compared."""
    return [
        (
            views.weak.names[i],
            int(views.weak.seeds[i]),
            *(batch.images[i].numpy().tobytes() for batch in (views.weak, views.strong)),
            *(b"" if b.cues is None else b.cues[i].numpy().tobytes() for b in (views.weak, views.strong)),
            views.valid_sizes[i],
            views.weak_geometries[i],
            views.strong_geometries[i],
        )
        for views in steps
        for i in range(len(views.weak.names))
    ]


def pixels(image: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) uint8 of what an image has within its padding."""
    return (image * 255).round().byte().permute(1, 2, 0).numpy()[: size[0], : size[1]]


# --- views ----------------------------------------------------------------------------------------------------------


def test_views_keep_to_the_contract(folder):
    flipped = set()
    for views in open_views(folder, replace(LIVELY, cues=True)).loader(0, 8, 4):
        assert len(views.valid_sizes) == len(views.weak_geometries) == len(views.strong_geometries) == 4
        assert views.weak.names == views.strong.names
        assert torch.equal(views.weak.seeds, views.strong.seeds)
        for batch in (views.weak, views.strong):
            assert batch.images.shape == (4, 3, 64, 64)
            assert batch.images.dtype == torch.float32
            assert 0 <= batch.images.min() <= batch.images.max() <= 1
            assert batch.cues is not None
            assert batch.cues.shape == (4, NUM_CUES, 32, 32)
            assert batch.seeds.dtype == torch.int64
            assert [t.masks.shape for t in batch.targets] == [(0, 64, 64)] * 4
            assert [len(t.parents) + len(t.levels) for t in batch.targets] == [0] * 4
        for i, name in enumerate(views.weak.names):
            weak, strong = views.weak_geometries[i], views.strong_geometries[i]
            assert weak.size == strong.size == SIZES[name]
            assert views.valid_sizes[i] == weak.window == weak.resized
            assert max(weak.window) == 64
            assert weak.offset == (0, 0)
            flipped.add((weak.flipped, strong.flipped))
    assert len(flipped) == 4  # each by itself


def test_the_weak_view_is_the_photograph_and_the_strong_one_too_but_for_light_and_erasings(folder, monkeypatch):
    plain = open_views(folder)
    light, erasings = Augmentation.draw_color_jitter, module.draw_erasings
    changed = 0
    for k in range(10):
        views = next(plain.loader(k, k + 1, 1))
        photograph = np.asarray(Image.open(folder / "photos" / views.weak.names[0]))
        weak, strong = views.weak_geometries[0], views.strong_geometries[0]
        np.testing.assert_array_equal(pixels(views.weak.images[0], weak.window), weak.apply(photograph))
        for image, (height, width) in ((views.weak.images[0], weak.window), (views.strong.images[0], strong.window)):
            assert not image[:, height:].any()
            assert not image[:, :, width:].any()
        seen = pixels(views.strong.images[0], strong.window)
        changed += (seen != strong.apply(photograph)).any()
        monkeypatch.setattr(Augmentation, "draw_color_jitter", lambda *_: ColorJitter())
        monkeypatch.setattr(module, "draw_erasings", lambda *_: [])
        bare = next(plain.loader(k, k + 1, 1))
        assert bare.strong_geometries == views.strong_geometries
        np.testing.assert_array_equal(pixels(bare.strong.images[0], strong.window), strong.apply(photograph))
        monkeypatch.setattr(Augmentation, "draw_color_jitter", light)
        monkeypatch.setattr(module, "draw_erasings", erasings)
    assert changed >= 8


def test_views_of_whole_images_differ_in_colours_alone(folder):
    """As in the released code, where the short side is one of a list."""
    settings = Augmentation(crop_size=64, short_sides=(20, 30), max_side=64)
    for views in open_views(folder, settings).loader(0, 4, 2):
        assert views.weak_geometries == views.strong_geometries


def test_the_strong_view_of_a_labelled_image_has_its_masks_in_other_colours(folder):
    store, photos = LabelStore.of(LabelSet.open(folder / "labels")), folder / "photos"
    settings = Augmentation(crop_size=64, scale=(0.5, 1.5))
    plain, strong = (kind(store, photos, settings, 3) for kind in (LabelledDataset, module.StrongLabelledDataset))
    changed = 0
    for a, b in zip(plain.loader(0, 4, 2), strong.loader(0, 4, 2), strict=True):
        assert a.names == b.names
        assert not torch.equal(a.seeds, b.seeds)
        for one, other in zip(a.targets, b.targets, strict=True):
            assert torch.equal(one.masks, other.masks)
        changed += sum(not torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))
        both = interleave(a, b)
        assert both.names == [name for name in a.names for _ in range(2)]
        assert torch.equal(both.images[0::2], a.images)
        assert torch.equal(both.images[1::2], b.images)
        assert torch.equal(both.seeds[1::2], b.seeds)
    assert changed >= 7


def test_every_epoch_has_all_photographs_in_another_order_than_the_labels(folder):
    views = open_views(folder)
    assert len(views) == 5
    epochs = [[views.example(5 * epoch + place).name for place in range(5)] for epoch in range(6)]
    assert all(sorted(epoch) == sorted(SIZES) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 3
    labelled = LabelledDataset(views.store, views.root, LIVELY, 3)
    assert len(labelled) == 4
    own = [[labelled.example(4 * epoch + place).name for place in range(4)] for epoch in range(6)]
    without = [[name for name in epoch if name != "e.png"] for epoch in epochs]
    assert sum(a == b for a, b in zip(own, without, strict=True)) < 4
    seeds = {views.example(k).seed for k in range(30)}
    assert len(seeds | {labelled.example(k).seed for k in range(30)}) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_views_do_not_depend_on_where_the_run_stands_or_how_many_share_it(folder):
    check_independence(lambda: open_views(folder), flat)
    assert flat(list(open_views(folder, seed=4).loader(0, 4, 4))) != flat(list(open_views(folder).loader(0, 4, 4)))


def test_workers_give_the_same(folder):
    settings = replace(LIVELY, cues=True)
    here, environment = flat(list(open_views(folder, settings).loader(0, 2, 2))), dict(os.environ)
    assert flat(list(open_views(folder, settings).loader(0, 2, 2, workers=1))) == here
    assert dict(os.environ) == environment


def test_cues_are_those_of_each_view_without_its_padding(folder):
    views = next(open_views(folder, replace(LIVELY, cues=True)).loader(0, 1, 4))
    for batch, geometries in ((views.weak, views.weak_geometries), (views.strong, views.strong_geometries)):
        for image, cues, geometry in zip(batch.images, batch.cues, geometries, strict=True):
            height, width = (-(-side // 2) for side in geometry.window)
            seen = np.ascontiguousarray(pixels(image, geometry.window))
            np.testing.assert_array_equal(cues[:, :height, :width].numpy(), boundary_cues(seen).maps)
            assert not cues[:, height:].any()
            assert not cues[:, :, width:].any()


def test_broken_photographs_are_errors_or_skipped(folder):
    (folder / "photos" / "d.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"d\.png: expected an image file"):
        list(open_views(folder).loader(0, 1, 5))
    reports: list[tuple[str, str]] = []
    skipping = open_views(folder, skip_broken=True)
    names = [
        name
        for views in skipping.loader(0, 2, 5, on_broken=lambda name, error: reports.append((name, error)))
        for name in views.weak.names
    ]
    assert [name for name, _ in reports] == ["d.png"]
    assert len(names) == 10
    assert "d.png" not in names
    with pytest.raises(InputError, match="seed of 0 or more"):
        open_views(folder, seed=-1)
    with pytest.raises(InputError, match="divisible by 2 processes; got 3"):
        skipping.loader(0, 1, 3, 0, 2)


def test_a_photograph_of_one_pixel_has_two_views(tmp_path):
    write_collection(tmp_path, {"a.png": (1, 1), "b.png": (1, 300), "c.png": (300, 1)}, count=1)
    for views in open_views(tmp_path, replace(LIVELY, cues=True)).loader(0, 8, 3):
        assert all(max(content) == 64 and min(content) >= 1 for content in views.valid_sizes)
        assert torch.isfinite(views.strong.images).all()


# --- erasings -------------------------------------------------------------------------------------------------------


def test_erasings_are_as_often_and_as_large_as_published(rng):
    """Compared with torchvision's, which the authors use: mean and spread of height, width, top and left."""
    size, many = (240, 320), 3000
    torch.manual_seed(0)
    blank = torch.zeros(1, *size)
    for index, (probability, area, ratio) in enumerate(ERASINGS):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "ERASINGS", (ERASINGS[index],))
            drawn = [draw_erasings(size, rng) for _ in range(many)]
        found = np.array([[e.height, e.width, e.top, e.left] for own in drawn for e in own])
        assert len(found) / many == pytest.approx(probability, abs=0.03)
        theirs = [RandomErasing.get_params(blank, area, ratio, value=[0.0]) for _ in range(len(found))]
        wanted = np.array([[height, width, top, left] for top, left, height, width, _ in theirs])
        np.testing.assert_allclose(found.mean(0), wanted.mean(0), rtol=0.08)
        np.testing.assert_allclose(found.std(0), wanted.std(0), rtol=0.08)
        shares = found[:, 0] * found[:, 1] / (size[0] * size[1])
        assert area[0] * 0.95 <= shares.min() <= shares.max() <= area[1] * 1.05
    counts = [len(draw_erasings(size, rng)) for _ in range(1000)]
    assert np.mean(counts) == pytest.approx(1.5, abs=0.1)


def test_an_erasing_puts_noise_into_its_rectangle_and_nothing_elsewhere():
    image = np.full((60, 80, 3), 7, np.uint8)
    erasing = Erasing(top=10, left=20, height=30, width=40, seed=5)
    erased = erasing.apply(image)
    outside = np.ones((60, 80), bool)
    outside[10:40, 20:60] = False
    assert (erased[outside] == 7).all()
    assert (image == 7).all()
    noise = erased[10:40, 20:60]
    assert np.histogram(noise, 8, (0, 256))[0] == pytest.approx([noise.size / 8] * 8, rel=0.2)
    np.testing.assert_array_equal(erasing.apply(image), erased)
    assert (replace(erasing, seed=6).apply(image) != erased).any()


def test_tiny_pictures_are_not_erased_altogether(rng):
    assert all(draw_erasings((1, 1), rng) == [] for _ in range(50))
    for size in ((1, 400), (400, 1)):
        assert all(draw_erasings(size, rng) == [] for _ in range(50))
    for _ in range(200):
        for erasing in draw_erasings((5, 7), rng):
            assert erasing.top + erasing.height <= 5
            assert erasing.left + erasing.width <= 7
            assert (erasing.height, erasing.width) != (5, 7)
