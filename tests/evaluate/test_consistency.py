"""Scores without ground truth: views map masks exactly, planted segmenters, contrast against its definition."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from skimage.color import rgb2lab

from masktree.errors import InputError
from masktree.evaluate import structure, views
from masktree.evaluate.consistency import score_image, summarise
from masktree.evaluate.contrast import boundary_contrasts
from masktree.evaluate.recall import count_thresholds
from masktree.trees import rle
from masktree.trees.masktree import MaskTree
from tests.oracles import mask_hierarchy as oracle


def colours(image):
    """A planted segmenter: one mask for each colour, whatever the view; noise is rounded away."""
    rough = (image.astype(np.int32) + 32) // 64
    codes = rough @ np.array([25, 5, 1])
    return MaskTree.from_masks(np.stack([codes == code for code in np.unique(codes)]))


def planted():
    """Three flat areas of 64 x 64 pixels in multiples of 64 levels."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :24] = (64, 128, 64)
    image[40:, 20:50] = (192, 64, 128)
    return image


def nothing(image):
    return MaskTree.from_rles([], image.shape[:2], np.zeros(0, np.int32))


def left_half(image):
    """A segmenter that does not look: the left half of whatever it is given."""
    mask = np.zeros((1, *image.shape[:2]), bool)
    mask[:, :, : image.shape[1] // 2] = True
    return MaskTree.from_masks(mask)


@pytest.mark.parametrize("shape", [(7, 9), (1, 5), (6, 1), (1, 1), (20, 16)])
def test_views_map_masks_exactly(rng, shape):
    masks = np.concatenate(
        [rng.random((6, *shape)) < np.linspace(0.1, 1, 6)[:, None, None], np.zeros((1, *shape), bool)]
    )
    masks[4] = True
    rles = [rle.encode(mask) for mask in masks]
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    flipped = views.flip(image, rng)
    assert (flipped.image == image[:, ::-1]).all()
    assert [rle.decode(r, shape).tolist() for r in flipped.transform_masks(rles, shape)] == masks[:, :, ::-1].tolist()
    window = views.crop(image, rng)
    h, w = window.size
    assert (h, w) == (max(1, round(0.8 * shape[0])), max(1, round(0.8 * shape[1])))
    rows, columns = slice(window.top, window.top + h), slice(window.left, window.left + w)
    assert (window.image == image[rows, columns]).all()
    assert [rle.decode(r, (h, w)).tolist() for r in window.transform_masks(rles, shape)] == masks[
        :, rows, columns
    ].tolist()
    both = views.View(image[rows, columns][:, ::-1], window.top, window.left, mirrored=True)
    assert both.transform_masks(rles, shape) == [rle.encode(m) for m in masks[:, rows, columns][:, :, ::-1].copy()]
    assert views.noise(image, rng).transform_masks(rles, shape) == rles


def test_crops_are_anywhere_and_noise_has_its_sigma():
    image = np.full((50, 40, 3), 128, np.uint8)
    crops = [views.crop(image, np.random.default_rng(seed)) for seed in range(200)]
    assert {c.top for c in crops} == set(range(11))
    assert {c.left for c in crops} == set(range(9))
    noisy = views.noise(image, np.random.default_rng(0)).image.astype(float)
    assert noisy.std() == pytest.approx(5, rel=0.05)
    assert noisy.mean() == pytest.approx(128, abs=0.5)
    black = views.noise(np.zeros_like(image), np.random.default_rng(0)).image
    assert 0 < black.max() < 40  # nothing wraps around below 0


def test_overlaps_match_the_definition(rng):
    a, b = rng.random((5, 6, 7)) < 0.4, rng.random((4, 6, 7)) < 0.6
    a[0] = b[0] = False
    first, second = ([rle.encode(m) for m in masks] for masks in (a, b))
    expected = np.array([[oracle.iou(x, y) for y in b] for x in a])
    assert rle.iou(first, second, (6, 7)) == pytest.approx(expected)
    assert rle.iou(first, second, (6, 7)).max(1) == pytest.approx(expected.max(1))
    assert rle.iou(first, [], (6, 7)).shape == (5, 0)
    assert count_thresholds(np.array([0.0, 0.499, 0.5, 0.72, 0.95, 1.0])).tolist() == [0, 0, 1, 5, 10, 10]


def test_a_segmenter_that_follows_the_image_is_stable():
    image = planted()
    stats = score_image(image, colours)
    scores = summarise([stats])
    for name in ("stability", "stability_flip", "stability_crop", "stability_noise", "stability_per_image"):
        assert scores[name] == 1, name
    assert scores["masks_per_image"] == scores["stable_masks"] == 3
    assert scores["coverage"] == 1
    assert scores["boundary_contrast"] == 1  # flat areas
    assert json.loads(json.dumps(stats, allow_nan=False)) == stats


def test_a_segmenter_that_ignores_the_image_is_not_stable_under_flips():
    image = np.zeros((10, 10, 3), np.uint8)
    seeds = [summarise([score_image(image, left_half, seed=seed)]) for seed in range(20)]
    assert {scores["stability_flip"] for scores in seeds} == {0}
    assert {scores["stability_noise"] for scores in seeds} == {1}
    # a crop of 8 columns from 0, from 1, from 2: it shows 5, 4, 3 columns of the half, the last too few
    assert {scores["stability_crop"] for scores in seeds} == {0.8, 1.0, None}


def test_masks_cut_off_by_a_crop_are_not_matched(monkeypatch):
    monkeypatch.setitem(views.VIEWS, "crop", lambda image, rng: views.View(image[:8, :8].copy()))
    masks = np.zeros((3, 10, 10), bool)
    masks[0, :4, :4] = True  # all in the view
    masks[1, :4, 7:] = True  # a third of it
    masks[2, 5:9, 7:9] = True  # 3 of 8 pixels
    whole = MaskTree.from_masks(masks)
    image = np.zeros((10, 10, 3), np.uint8)

    def segment(view):
        return MaskTree.from_masks(masks[:, : view.shape[0], : view.shape[1]])

    stats = score_image(image, segment, whole, views=("crop",))
    assert (stats["crop_masks"], stats["crop_iou"], stats["crop_thresholds"]) == (1, 1, 10)
    masks[2, 5:9, 7:9] = False
    masks[2, 4:8, 7:9] = True  # half of it
    assert score_image(image, segment, MaskTree.from_masks(masks), views=("crop",))["crop_masks"] == 2


def test_means_over_masks_and_over_images():
    one = score_image(planted(), colours, views=("flip",))
    other = score_image(np.zeros((8, 8, 3), np.uint8), left_half, views=("flip",))
    scores = summarise([one, other])
    assert scores["stability"] == scores["stability_flip"] == pytest.approx(3 / 4)
    assert scores["stability_per_image"] == pytest.approx(1 / 2)
    assert scores["stable_masks"] == pytest.approx(3 / 2)
    assert scores["stability_crop"] is scores["stability_noise"] is None
    assert summarise([one, other] * 5) == pytest.approx(scores)


def test_stability_counts_by_the_thresholds_it_reaches():
    image = np.zeros((10, 10, 3), np.uint8)
    masks = np.zeros((1, 10, 10), bool)
    masks[0, :, :8] = True  # mirrored: IoU 6 / 10
    stats = score_image(image, lambda view: MaskTree.from_masks(masks), views=("flip",))
    assert stats["flip_iou"] == pytest.approx(0.6)
    assert stats["flip_thresholds"] == 3


def test_same_seed_same_score_and_views_do_not_change_each_other(rng):
    image = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    stats = score_image(image, colours, seed=3)
    assert score_image(image, colours, seed=3) == stats
    crop_alone = score_image(image, colours, colours(image), seed=3, views=("crop",))
    assert crop_alone["crop_iou"] == stats["crop_iou"]
    assert score_image(image, colours, seed=4)["crop_iou"] != stats["crop_iou"]


def test_without_masks_or_views_stability_is_undefined():
    image = planted()
    empty = score_image(image, nothing)
    scores = summarise([empty])
    assert scores["stability"] is scores["stability_flip"] is scores["stability_per_image"] is None
    assert scores["boundary_contrast"] is scores["nesting"] is scores["redundancy"] is None
    assert scores["stable_masks"] is None
    assert scores["masks_per_image"] == scores["coverage"] == 0
    both = summarise([empty, score_image(image, colours)])
    assert both["stability"] == both["stability_per_image"] == 1
    assert both["stable_masks"] == both["masks_per_image"] == 1.5
    no_views = summarise([score_image(image, colours, views=())])
    assert no_views["stability"] is no_views["stable_masks"] is no_views["stability_per_image"] is None
    assert no_views["boundary_contrast"] == 1


def test_masks_that_vanish_in_a_view_count_as_lost():
    image = planted()
    scores = summarise([score_image(image, nothing, colours(image))])
    assert scores["stability"] == scores["stable_masks"] == 0
    assert scores["masks_per_image"] == 3


def test_uniform_and_tiny_images_are_scored():
    for shape in ((1, 1), (1, 7), (30, 20)):
        scores = summarise([score_image(np.full((*shape, 3), 77, np.uint8), colours)])
        assert scores["stability"] == scores["coverage"] == 1
        assert scores["boundary_contrast"] is None  # one mask over all: no border in the image


def test_structure_counts_by_level():
    masks = np.zeros((4, 6, 6), bool)
    masks[0, :5] = masks[1, :4] = masks[2, :2] = masks[3, 5:] = True
    tree = MaskTree.from_masks(masks)
    scores = structure.summarise([structure.score_image(tree), structure.score_image(nothing(masks[0]))])
    assert (scores["whole_per_image"], scores["part_per_image"], scores["subpart_per_image"]) == (1, 0.5, 0.5)
    assert scores["coverage"] == 0.5
    assert scores["redundancy"] == 0  # 24 of 30 pixels are an IoU of .8, which is no copy yet
    assert scores["masks_per_pixel"] == pytest.approx((30 + 24 + 12 + 6) / 36 / 2)


@pytest.mark.parametrize("shape", [(12, 15), (4, 30), (1, 9), (3, 3)])
def test_contrast_matches_the_definition(rng, shape):
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    masks = np.zeros((8, *shape), bool)
    for mask in masks:
        y, x = rng.integers(shape[0]), rng.integers(shape[1])
        mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 12)] = True
        mask ^= rng.random(shape) < 0.02
    masks[0], masks[1] = True, False
    got = boundary_contrasts(image, MaskTree.from_rles([rle.encode(m) for m in masks], shape, np.full(8, -1, np.int32)))
    lab = rgb2lab(image).astype(np.float32)
    assert got == pytest.approx([oracle.contrast(lab, mask) for mask in masks], rel=1e-5, nan_ok=True)
    assert np.isnan(got[:2]).all()
    assert (shape[0] < 4 or shape[1] < 4) or np.isfinite(got).sum() > 2


def test_contrast_tells_borders_from_other_lines_whatever_the_scale(rng):
    noise = rng.normal(0, 4, (80, 80, 1))
    image = np.full((80, 80, 3), 100.0) + noise
    image[20:60, 20:60] += 60
    mask = np.zeros((2, 80, 80), bool)
    mask[0, 20:60, 20:60] = True
    mask[1, 30:70, 5:45] = True  # another square
    tree = MaskTree.from_masks(mask)
    right, wrong = boundary_contrasts(np.clip(image, 0, 255).astype(np.uint8), tree)
    assert right > 0.8
    assert right > wrong + 0.2
    pure = np.clip(100 + noise.repeat(3, axis=2), 0, 255).astype(np.uint8)
    assert boundary_contrasts(pure, tree) == pytest.approx([0.5, 0.5], abs=0.05)
    flat = boundary_contrasts(np.full((80, 80, 3), 9, np.uint8), tree)
    assert flat.tolist() == [0.5, 0.5]


def test_contrast_of_large_masks_is_sampled(rng):
    image = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    mask = np.zeros((300, 400), bool)
    mask[5:-5, 5:-5] = True
    (got,) = boundary_contrasts(image, MaskTree.from_masks(mask[None]))
    assert got == pytest.approx(oracle.contrast(rgb2lab(image).astype(np.float32), mask), abs=0.005)


def test_bad_input_raises_an_input_error():
    image = planted()
    with pytest.raises(InputError, match=r"views of flip, crop, noise; got 'zoom'"):
        score_image(image, colours, views=("zoom",))
    with pytest.raises(InputError, match=r"tree of the image's 64 x 64 pixels; got 32 x 64"):
        score_image(image, colours, colours(image[:32]))
    with pytest.raises(InputError, match=r"tree of the image's 51 x 51 pixels; got 64 x 64"):
        score_image(image, lambda view: colours(image), views=("crop",))
    with pytest.raises(InputError, match="masks of 64 x 64 pixels"):
        boundary_contrasts(image, colours(image[:32]))
    with pytest.raises(InputError, match="at least one image"):
        summarise([])


def test_the_default_method_is_stable_on_a_photograph(photos):
    from masktree.discover.masktree import build_dendrogram
    from masktree.io.images import read_image

    image = read_image(photos[0])[::2, ::2].copy()
    find = partial(MaskTree.from_dendrogram, max_masks=50)
    scores = summarise([score_image(image, lambda view: find(build_dendrogram(view)))])
    assert 0.3 < scores["stability"] <= 1
    assert scores["nesting"] in (None, 1.0)
    assert scores["boundary_contrast"] > 0.55
    assert 0 < scores["stable_masks"] <= scores["masks_per_image"] <= 50
