from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from masktree.backbones.texture import NUM_CUES, boundary_cues
from masktree.errors import FormatError, ImageError, InputError
from masktree.labels import LabelSet
from masktree.models.structures import Batch
from masktree.train import photo_dataset as photographs
from masktree.train.augmentation import Augmentation
from masktree.train.label_store import LabelStore
from masktree.train.labelled_dataset import LabelledDataset
from masktree.train.photo_dataset import RandomStream
from masktree.trees import hierarchy, rle
from masktree.trees.masktree import MaskTree
from tests.train.independence import check_independence
from tests.train.labelled import random_tree, write_collection, write_labels

SIZES = {"a.png": (40, 56), "b/ü.png": (64, 64), "b/c.png": (100, 30), "d.png": (200, 260), "e.png": (64, 48)}
LIVELY = Augmentation(crop_size=64, scale=(0.3, 2.0), paste_prob=0.7, max_masks=5).strong()
PLAIN = Augmentation(crop_size=64, scale=(1.0, 1.0), flip_prob=0.0)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five photographs of various sizes, with six rectangles each."""
    write_collection(tmp_path, SIZES)
    return tmp_path


def open_data(folder: Path, settings: Augmentation = LIVELY, seed: int = 3, **options: bool) -> LabelledDataset:
    return LabelledDataset(
        LabelStore.of(LabelSet.open(folder / "labels")), folder / "photos", settings, seed, **options
    )


def flat(batches: list[Batch]) -> list[tuple]:
    """Everything about each image, in order, ready to be compared."""
    return [
        (
            batch.names[i],
            int(batch.seeds[i]),
            batch.images[i].numpy().tobytes(),
            b"" if batch.cues is None else batch.cues[i].numpy().tobytes(),
            batch.targets[i].masks.numpy().tobytes(),
            tuple(batch.targets[i].parents.tolist()),
            tuple(batch.targets[i].levels.tolist()),
        )
        for batch in batches
        for i in range(len(batch.names))
    ]


def test_batches_keep_to_the_contract(folder):
    seen_masks = 0
    for batch in open_data(folder, replace(LIVELY, cues=True)).loader(0, 10, 4):
        assert batch.images.shape == (4, 3, 64, 64)
        assert batch.images.dtype == torch.float32
        assert 0 <= batch.images.min() <= batch.images.max() <= 1
        assert batch.cues is not None
        assert batch.cues.shape == (4, NUM_CUES, 32, 32)
        assert batch.cues.dtype == torch.float32
        assert batch.seeds.dtype == torch.int64
        assert len(batch.names) == len(batch.targets) == 4
        for image, targets in zip(batch.images, batch.targets, strict=True):
            n = len(targets.masks)
            assert n <= 5
            assert targets.masks.shape == (n, 64, 64)
            assert targets.masks.dtype == torch.bool
            assert targets.masks.is_contiguous()
            assert (targets.masks.sum((1, 2)) >= 16).all()
            assert targets.parents.dtype == targets.levels.dtype == torch.int64
            assert targets.parents.shape == targets.levels.shape == (n,)
            hierarchy.depths(targets.parents.numpy().astype(np.int32))
            assert set(targets.levels.tolist()) <= {0, 1, 2}
            padding = ~(image > 0).any(0)  # photographs of noise have hardly a black pixel
            assert (targets.masks & padding).sum() <= 0.02 * max(1, targets.masks.sum())
            seen_masks += n
    assert seen_masks > 80


def test_without_randomness_an_example_is_the_photograph_with_its_masks(folder):
    data = open_data(folder, PLAIN)
    names = set()
    for k in range(5):
        batch = next(data.loader(k, k + 1, 1))
        name = batch.names[0]
        names.add(name)
        height, width = (round(side * 64 / max(SIZES[name])) for side in SIZES[name])
        assert not batch.images[0, :, height:].any()
        assert not batch.images[0, :, :, width:].any()
        assert not batch.targets[0].masks[:, height:].any()
        if max(SIZES[name]) != 64:
            continue
        photograph = np.asarray(Image.open(folder / "photos" / name))
        np.testing.assert_array_equal(
            (batch.images[0] * 255).round().byte()[:, :height, :width].permute(1, 2, 0).numpy(), photograph
        )
        record = next(r for r in map(data.store.__getitem__, range(5)) if r.name == name)
        wanted = np.stack([rle.decode(r, record.size) for r in record.rles])
        big = wanted.sum((1, 2)) >= 16
        np.testing.assert_array_equal(batch.targets[0].masks[:, :height, :width].numpy(), wanted[big])
        np.testing.assert_array_equal(batch.targets[0].parents.numpy(), hierarchy.reparent(record.parents, big))
        np.testing.assert_array_equal(batch.targets[0].levels.numpy(), record.levels[big])
        assert batch.cues is None
    assert names == set(SIZES)


def test_every_epoch_has_each_photograph_once_in_another_order(folder):
    data = open_data(folder)
    assert len(data) == 5
    epochs = [[data.example(5 * epoch + place).name for place in range(5)] for epoch in range(6)]
    assert all(sorted(epoch) == sorted(SIZES) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 3
    examples = [data.example(k) for k in range(60)]
    assert len({e.seed for e in examples}) == 60
    assert all(0 <= e.seed < 2**63 for e in examples)
    assert len({e.image.tobytes() for e in examples}) == 60
    assert open_data(folder, seed=4).example(0).seed != examples[0].seed


def test_examples_do_not_depend_on_where_the_run_stands_or_how_many_share_it(folder):
    data = open_data(folder)
    check_independence(lambda: open_data(folder), flat)
    assert list(data.loader(3, 3, 4)) == []


def test_workers_give_the_same_then_the_same_error_and_end_with_the_loader(folder):
    settings = replace(LIVELY, paste_prob=0.0, cues=True)
    data = open_data(folder, settings)
    last = data.example(4).name  # of the first epoch: steps 0 and 1 are without it
    (folder / "photos" / last).write_bytes(b"no image")
    here, wanted = data.loader(0, 1000, 2), []
    with pytest.raises(ImageError) as error_here:
        wanted.extend(here)
    assert len(wanted) == 2
    own, environment = psutil.Process(), dict(os.environ)
    others = set(own.children(recursive=True))
    there = data.loader(0, 1000, 2, workers=2)
    got = [next(there), next(there)]
    assert flat(got) == flat(wanted)
    workers = [c for c in own.children(recursive=True) if c not in others and "spawn_main" in " ".join(c.cmdline())]
    assert len(workers) == 2
    assert dict(os.environ) == environment
    with pytest.raises(ImageError) as error_there:
        next(there)
    assert str(error_there.value) == str(error_here.value)
    assert str(error_here.value).startswith(f"{folder / 'photos' / last}: expected an image file")
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []


def test_cues_are_those_of_the_photograph_without_its_padding(folder):
    data = open_data(folder, replace(PLAIN, cues=True, scale=(0.9, 0.9)))
    for k in range(5):
        batch = next(data.loader(k, k + 1, 1))
        height, width = (round(side * 0.9 * 64 / max(SIZES[batch.names[0]])) for side in SIZES[batch.names[0]])
        pixels = (batch.images[0] * 255).round().byte().permute(1, 2, 0).numpy()[:height, :width]
        cues = batch.cues[0].numpy()
        h, w = -(-height // 2), -(-width // 2)
        np.testing.assert_array_equal(cues[:, :h, :w], boundary_cues(np.ascontiguousarray(pixels)).maps)
        assert not cues[:, h:].any()
        assert not cues[:, :, w:].any()


def test_pasted_objects_take_at_most_half_of_the_masks(folder):
    settings = Augmentation(crop_size=64, scale=(1.0, 1.0), flip_prob=0.0, max_masks=4, min_area=4)
    without, with_ = (open_data(folder, replace(settings, paste_prob=p)) for p in (0.0, 1.0))
    changed = 0
    for k in range(20):
        a, b = without.example(k), with_.example(k)
        assert a.name == b.name
        assert len(b.masks) <= 4
        changed += (a.image != b.image).any()
    assert changed > 5


def test_photographs_of_any_kind_are_read(tmp_path):
    photos, rng = tmp_path / "photos", np.random.default_rng(0)
    photos.mkdir()
    pixels = rng.integers(0, 256, (48, 64, 4)).astype(np.uint8)
    Image.fromarray(pixels[..., 0]).save(photos / "grey.png")
    Image.fromarray(pixels).save(photos / "alpha.png")
    Image.fromarray(pixels[..., :3]).quantize(16).save(photos / "palette.gif")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(photos / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels[..., :3].transpose(1, 0, 2).copy()).save(photos / "turned.jpg", exif=turned)
    tree = random_tree((48, 64), 4, rng)
    write_labels(tmp_path / "labels", photos, {path.name: tree for path in photos.iterdir()})
    batch = next(open_data(tmp_path, PLAIN).loader(0, 1, 5))
    assert set(batch.names) == {"grey.png", "alpha.png", "palette.gif", "deep.png", "turned.jpg"}
    assert all(len(t.masks) > 0 for t in batch.targets)
    grey = batch.images[list(batch.names).index("grey.png")]
    torch.testing.assert_close(grey[0], grey[2])


def test_images_without_masks_are_left_out_and_crops_without_masks_are_not(tmp_path):
    rng = np.random.default_rng(0)
    write_collection(tmp_path, {"a.png": (64, 64), "b.png": (64, 64), "c.png": (64, 64)})
    edge = np.zeros((1, 64, 64), bool)
    edge[0, :, :10] = True
    trees = {
        "a.png": random_tree((64, 64), 3, rng),
        "b.png": random_tree((64, 64), 0, rng),
        "c.png": MaskTree.from_masks(edge),
    }
    write_labels(tmp_path / "labels", tmp_path / "photos", trees)
    data = open_data(tmp_path, Augmentation(crop_size=64, scale=(2.0, 2.0)))
    batches = list(data.loader(0, 12, 4))
    counts = {len(t.masks) for b in batches for n, t in zip(b.names, b.targets, strict=True) if n == "c.png"}
    assert counts == {0, 1}
    assert {name for b in batches for name in b.names} == {"a.png", "c.png"}


def test_a_missing_or_changed_photograph_is_named(folder):
    (folder / "photos" / "a.png").unlink()
    with pytest.raises(ImageError, match=r"a\.png: cannot read.*--root"):
        list(open_data(folder).loader(0, 1, 5))
    Image.new("RGB", (56, 41)).save(folder / "photos" / "a.png")
    with pytest.raises(InputError, match=r"a\.png: expected the 40 x 56 pixels .* got 41 x 56; .*--root"):
        list(open_data(folder).loader(0, 1, 5))


def test_broken_photographs_can_be_skipped(folder):
    wanted = [open_data(folder, PLAIN).example(k).name for k in range(10)]
    (folder / "photos" / "d.png").write_bytes((folder / "photos" / "d.png").read_bytes()[:300])
    reports: list[tuple[str, str]] = []
    data = open_data(folder, PLAIN, skip_broken=True)
    names = [
        name
        for batch in data.loader(0, 5, 2, on_broken=lambda name, error: reports.append((name, error)))
        for name in batch.names
    ]
    assert [name for name, _ in reports] == ["d.png"]
    assert "cannot read the image" in reports[0][1]
    for k, name in enumerate(wanted):
        next_place = k // 5 * 5 + (k + 1) % 5
        assert names[k] == (wanted[next_place] if name == "d.png" else name)
    for path in (folder / "photos").rglob("*.png"):
        path.unlink()
    with pytest.raises(ImageError, match=r"got 5 broken ones in a row, the first: .*--root"):
        data.example(0)


def test_a_damaged_store_is_an_error_even_where_photographs_may_be_skipped(folder):
    data = open_data(folder, skip_broken=True)
    path = data.store.folder / "rles.bin"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(FormatError, match="delete"):
        list(open_data(folder, skip_broken=True).loader(0, 1, 2))


def test_the_preview_shows_whole_photographs(folder):
    data = open_data(folder)
    batch, valid_sizes = data.preview(3)
    assert batch.names == [data.store[i].name for i in range(3)]
    assert batch.images.shape == (3, 3, 64, 64)
    for i, (name, (height, width)) in enumerate(zip(batch.names, valid_sizes, strict=True)):
        assert (height, width) == tuple(max(1, round(side * 64 / max(SIZES[name]))) for side in SIZES[name])
        assert batch.images[i, :, height - 1, width - 1].any()
        assert not batch.images[i, :, height:].any()
        assert not batch.images[i, :, :, width:].any()
        assert 0 < len(batch.targets[i].masks) <= 5
    again, _ = open_data(folder).preview(3)
    assert flat([again]) == flat([batch])
    assert len(data.preview(100)[1]) == 5
    with pytest.raises(InputError, match="at least one image"):
        data.preview(0)


def test_impossible_shares_are_refused(folder):
    data = open_data(folder)
    with pytest.raises(InputError, match="divisible by 3 processes; got 4"):
        data.loader(0, 1, 4, 0, 3)
    with pytest.raises(InputError, match="rank 2 of 2"):
        data.loader(0, 1, 4, 2, 2)
    with pytest.raises(InputError, match="steps 3, 2"):
        data.loader(3, 2, 4)
    with pytest.raises(InputError, match="got 0"):
        data.loader(0, 1, 0)
    with pytest.raises(InputError, match="seed of 0 or more"):
        LabelledDataset(data.store, folder / "photos", LIVELY, -1)
    with pytest.raises(InputError, match=r"folder of the images.*--root"):
        LabelledDataset(data.store, folder / "nowhere", LIVELY, 0)


def test_orders_are_kept_since_they_are_long():
    order = photographs._epoch_order(0, RandomStream.ORDER, 1, 100)
    assert photographs._epoch_order(0, RandomStream.ORDER, 1, 100) is order
    assert sorted(order) == list(range(100))


def test_padding_to_the_largest_of_a_batch_adds_nothing_but_zeros(folder):
    sides = Augmentation(crop_size=96, padding="batch", short_sides=(20, 30), max_side=64, paste_prob=0.5, cues=True)
    to_crop, to_batch = (open_data(folder, replace(sides, padding=padding)) for padding in ("crop", "batch"))
    shapes = set()
    for one, other in zip(to_crop.loader(0, 6, 2), to_batch.loader(0, 6, 2), strict=True):
        height, width = other.images.shape[-2:]
        shapes.add((height, width))
        assert height % 32 == width % 32 == 0
        assert one.images.shape[-2:] == (96, 96)
        assert torch.equal(one.images[..., :height, :width], other.images)
        assert not one.images[..., height:, :].any()
        assert not one.images[..., width:].any()
        assert torch.equal(one.cues[..., : height // 2, : width // 2], other.cues)
        for a, b in zip(one.targets, other.targets, strict=True):
            assert torch.equal(a.masks[:, :height, :width], b.masks)
            assert a.masks.sum() == b.masks.sum()
    assert len(shapes) > 1
