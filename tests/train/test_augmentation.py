from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from masktree.errors import InputError
from masktree.train.augmentation import Augmentation
from masktree.train.color_jitter import ColorJitter
from masktree.train.geometry import Geometry
from masktree.train.label_store import ImageLabels
from masktree.train.samples import (
    MIN_VISIBLE_FRACTION,
    Sample,
    apply_view,
    choose_masks,
    choose_objects,
    choose_released,
    paste,
    paste_released,
    random_subset,
)
from masktree.trees import hierarchy, rle
from tests.oracles import released
from tests.train.labelled import random_tree


def scene_of(masks: np.ndarray, value: int, cover: float = 0.9) -> Sample:
    parents = hierarchy.parents_by_coverage([rle.encode(m) for m in masks], masks.shape[1:], min_coverage=cover)
    image = np.full((*masks.shape[1:], 3), value, np.uint8)
    return Sample(image, masks, parents, hierarchy.levels(parents))


def rectangles(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Masks of (top, bottom, left, right)."""
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (top, bottom, left, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


# --- decisions ------------------------------------------------------------------------------------------------------


def test_scales_fill_their_range_and_windows_lie_inside(rng):
    settings = Augmentation(crop_size=128, scale=(0.1, 2.0))
    drawn = [settings.draw_geometry((300, 400), rng) for _ in range(500)]
    scales = np.array([max(g.resized) / 128 for g in drawn])
    assert scales.min() >= 0.095
    assert scales.max() <= 2.005
    assert np.histogram(scales, 4, (0.1, 2.0))[0].min() > 80
    for geometry in drawn:
        assert geometry.resized[0] / geometry.resized[1] == pytest.approx(0.75, abs=1 / min(geometry.resized))
        for room, side, first in zip(geometry.window, geometry.resized, geometry.offset, strict=True):
            assert room == min(side, 128)
            assert 0 <= first <= side - room
    assert 0.4 < np.mean([g.flipped for g in drawn]) < 0.6
    large = [g for g in drawn if min(g.resized) > 160]
    assert min(g.offset[0] for g in large) < 8
    assert max(g.offset[0] / (g.resized[0] - 128) for g in large) > 0.9


def test_the_short_side_can_be_drawn_instead(rng):
    settings = Augmentation(crop_size=128, short_side=(60, 256))
    sides = [min(settings.draw_geometry((300, 200), rng).resized) for _ in range(300)]
    assert min(sides) >= 60
    assert max(sides) <= 256
    assert max(sides) - min(sides) > 180


def test_short_sides_are_those_of_the_released_detector(rng):
    sides = (240, 320, 480, 640, 1024)
    settings = Augmentation(crop_size=1344, short_sides=sides, max_side=1333)
    for size in ((480, 640), (333, 500), (427, 640), (100, 900), (1024, 1024), (37, 23)):
        drawn = [settings.draw_geometry(size, rng) for _ in range(60)]
        assert {g.resized for g in drawn} == {released.shortest_edge(size, side, 1333) for side in sides}
        assert all(g.window == g.resized and g.offset == (0, 0) for g in drawn)  # nothing is cut off
    with pytest.raises(InputError, match="short sides up to max_side"):
        Augmentation(short_sides=(240,), max_side=100)


def test_released_pastes_have_the_shape_of_the_view_and_lie_inside(rng):
    settings = Augmentation(paste_rule="released", paste_scale=(0.3, 1.0))
    drawn = [settings.draw_paste((300, 200), (100, 160), rng) for _ in range(200)]
    for geometry in drawn:
        height, width = geometry.resized
        assert abs(height / 100 - width / 160) < 0.011  # both rounded down
        assert 0 <= -geometry.offset[0] <= 100 - height
        assert 0 <= -geometry.offset[1] <= 160 - width
    assert min(g.resized[0] for g in drawn) < 35
    assert max(g.resized[0] for g in drawn) > 95


def test_copy_paste_is_that_of_the_released_code(rng):
    for _ in range(20):
        masks, donor_masks = (rng.random((4, 12, 16)) < rng.uniform(0.05, 0.5, (4, 1, 1)) for _ in range(2))
        masks[:, 0, 0] = donor_masks[:, 5, 5] = True  # none is empty
        image, donor_image = (rng.integers(0, 256, (12, 16, 3)).astype(np.uint8) for _ in range(2))
        none, whole = np.full(4, -1, np.int32), np.zeros(4, np.int8)
        found = paste_released(Sample(image, masks, none, whole), Sample(donor_image, donor_masks, none, whole))
        expected_image, expected_masks = released.copy_paste(image, masks, donor_image, donor_masks)
        np.testing.assert_array_equal(found.image, expected_image)
        np.testing.assert_array_equal(found.masks, expected_masks)


def test_numbers_of_pasted_masks_are_those_of_the_released_code(rng):
    areas = np.array([50, 3, 50, 50, 50])
    counts = [int(choose_released(areas, 10, rng).sum()) for _ in range(300)]
    assert set(counts) == {1, 2, 3}
    assert not any(choose_released(areas, 10, rng)[1] for _ in range(20))
    assert choose_released(areas[:1], 10, rng).tolist() == [True]
    assert choose_released(areas[1:2], 10, rng).tolist() == [False]


def test_all_of_a_photograph_fits_the_crop():
    for size in ((300, 400), (20, 10), (1, 5000), (128, 128)):
        geometry = Augmentation(crop_size=128).full_image(size)
        assert max(geometry.window) == 128
        assert geometry.window == geometry.resized
        assert geometry.offset == (0, 0)
        assert not geometry.flipped


def test_pasted_photographs_lie_inside_or_over_the_scene(rng):
    settings = Augmentation(crop_size=128, paste_scale=(0.3, 1.0))
    for onto in ((128, 128), (40, 128), (128, 3)):
        drawn = [settings.draw_paste((300, 200), onto, rng) for _ in range(200)]
        ratios = [max(g.resized) / max(onto) for g in drawn]
        assert 0.29 < min(ratios) < 0.4
        assert 0.9 < max(ratios) <= 1.0
        for geometry in drawn:
            assert geometry.window == onto
            rows, columns = geometry.valid_region
            assert rows.stop - rows.start == min(onto[0], geometry.resized[0])
            assert columns.stop - columns.start == min(onto[1], geometry.resized[1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop_size": 100}, "multiple of 32 pixels; got 100"),
        ({"crop_size": 0}, "multiple of 32"),
        ({"flip_prob": 1.5}, "flip_prob in"),
        ({"paste_prob": -0.1}, "paste_prob in"),
        ({"scale": (2.0, 0.1)}, "range scale"),
        ({"scale": (0.0, 1.0)}, "range scale"),
        ({"short_side": (1024, 240)}, "range short_side"),
        ({"jitter_strength": (0.4, 0.4, 0.4, 0.6)}, "four jitter strengths"),
        ({"max_masks": 0}, "max_masks and min_area"),
        ({"min_area": 0}, "max_masks and min_area"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**values)


# --- colours --------------------------------------------------------------------------------------------------------


def test_light_changes_what_it_says(rng):
    image = rng.integers(40, 120, (16, 20, 3)).astype(np.uint8)
    assert ColorJitter().apply(image) is image
    np.testing.assert_allclose(ColorJitter(brightness=1.5).apply(image), image * 1.5, atol=1)
    assert ColorJitter(contrast=0.5).apply(image).std() == pytest.approx(image.std() / 2, rel=0.1)
    grey = ColorJitter(grayscale=True).apply(image)
    assert (grey == grey[..., :1]).all()
    np.testing.assert_array_equal(ColorJitter(saturation=0.0).apply(image)[..., 0], grey[..., 0])
    assert ColorJitter(blur_sigma=1.5).apply(image).std() < image.std() / 2
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    np.testing.assert_allclose(ColorJitter(hue=1 / 3).apply(red)[0, 0], [0, 200, 0], atol=6)
    np.testing.assert_allclose(ColorJitter(hue=-1 / 3).apply(red)[0, 0], [0, 0, 200], atol=6)


def test_light_is_drawn_as_often_and_as_far_as_set(rng):
    settings = Augmentation().strong()
    drawn = [settings.draw_color_jitter(rng) for _ in range(1000)]
    jittered = [light for light in drawn if light.hue != 0]
    assert 0.75 < len(jittered) / 1000 < 0.85
    assert 0.15 < np.mean([light.grayscale for light in drawn]) < 0.25
    assert 0.45 < np.mean([light.blur_sigma > 0 for light in drawn]) < 0.55
    for name, middle, most in (("brightness", 1, 0.4), ("contrast", 1, 0.4), ("saturation", 1, 0.4), ("hue", 0, 0.1)):
        spread = np.array([getattr(light, name) for light in jittered]) - middle
        assert -most <= spread.min() < -0.95 * most
        assert 0.95 * most < spread.max() <= most
    assert {Augmentation().draw_color_jitter(rng) for _ in range(20)} == {ColorJitter()}


# --- masks ----------------------------------------------------------------------------------------------------------


def test_masks_that_are_left_out_hand_their_children_up():
    masks = rectangles((32, 32), (0, 30, 0, 30), (2, 20, 2, 20), (4, 10, 4, 10))
    record = ImageLabels(
        "a.png",
        (32, 32),
        tuple(rle.encode(m) for m in masks),
        np.array([-1, 0, 1], np.int32),
        np.array([0, 1, 2], np.int8),
        np.ones(3, np.float32),
    )
    geometry = Geometry((32, 32), (32, 32), (0, 0), (32, 32))
    scene = apply_view(np.zeros((32, 32, 3), np.uint8), record, geometry, np.array([True, False, True]))
    assert scene.parents.tolist() == [-1, 0]
    assert scene.levels.tolist() == [0, 2]
    np.testing.assert_array_equal(scene.masks, masks[[0, 2]])
    none = apply_view(np.zeros((32, 32, 3), np.uint8), record, geometry, np.zeros(3, bool))
    assert none.masks.shape == (0, 32, 32)
    assert none.parents.shape == (0,)


def test_too_many_masks_are_chosen_from_at_random(rng):
    areas = np.arange(300)
    keep = choose_masks(areas, 16, 50, rng)
    assert keep.sum() == 50
    assert not keep[:16].any()
    assert (choose_masks(areas, 16, 50, rng) != keep).any()
    np.testing.assert_array_equal(choose_masks(areas, 16, 300, rng), areas >= 16)
    counts = sum(random_subset(np.ones(10, bool), 3, rng).astype(int) for _ in range(1000))
    assert counts.min() > 230  # of 300
    assert counts.max() < 370


def test_objects_are_small_topmost_and_come_with_all_below(rng):
    for _ in range(60):
        tree = random_tree((40, 40), 30, rng)
        areas, above = tree.areas, hierarchy.ancestors(tree.parents)
        keep = choose_objects(tree.parents, areas, 16, 400, 1000, rng)
        small = (areas >= 16) & (areas <= 400)
        tops = small & ~(above & small).any(axis=1)
        chosen = keep & tops
        assert chosen.any() == tops.any()
        np.testing.assert_array_equal(keep, chosen | ((above & chosen).any(axis=1) & (areas >= 16)))
        parents = hierarchy.reparent(tree.parents, keep)
        np.testing.assert_array_equal(parents < 0, tops[keep])
        few = choose_objects(tree.parents, areas, 16, 400, 3, rng)
        assert few.sum() <= 3
        assert (few & tops).any() == tops.any()
    assert not choose_objects(np.full(5, -1, np.int32), np.full(5, 900), 16, 400, 10, rng).any()
    assert choose_objects(np.empty(0, np.int32), np.empty(0, np.int64), 16, 400, 10, rng).shape == (0,)


# --- copy-paste -----------------------------------------------------------------------------------------------------


def test_a_pasted_object_hides_what_is_behind_it():
    size = (40, 40)
    scene = scene_of(rectangles(size, (0, 30, 0, 30), (5, 15, 5, 15), (20, 28, 20, 28)), 10)
    donor = scene_of(rectangles(size, (4, 17, 4, 17), (6, 12, 6, 12)), 200)
    both = paste(scene, donor, 16)
    inside = donor.masks[0]
    assert (both.image[inside] == 200).all()
    assert (both.image[~inside] == 10).all()
    # the second mask of the scene is hidden altogether, the first has a hole, the third is as it was
    np.testing.assert_array_equal(both.masks[0], scene.masks[0] & ~inside)
    np.testing.assert_array_equal(both.masks[1], scene.masks[2])
    np.testing.assert_array_equal(both.masks[2:], donor.masks)
    assert both.parents.tolist() == [-1, 0, -1, 2]
    assert both.levels.tolist() == [0, 1, 0, 1]


def test_a_mask_with_little_left_is_dropped_and_its_children_go_up():
    size = (40, 40)
    scene = scene_of(rectangles(size, (0, 40, 0, 40), (0, 20, 0, 20), (16, 20, 0, 19)), 10)
    assert scene.parents.tolist() == [-1, 0, 1]
    donor = scene_of(rectangles(size, (0, 16, 0, 40), (16, 20, 19, 40)), 200)
    grown = replace(scene, masks=scene.masks.copy())
    grown.masks[1, :16, 20:] = True  # 720 pixels, of which 10 % are left: 76 of them under the third mask
    both = paste(grown, donor, 16)
    assert len(both.masks) == 5
    both = paste(replace(grown, masks=grown.masks & ~rectangles(size, (18, 20, 0, 20))[0]), donor, 16)
    assert len(both.masks) == 4  # now 38 of 680
    assert both.parents.tolist() == [-1, 0, -1, -1]


def test_copy_paste_keeps_trees_and_overlaps_right(rng):
    size = (32, 40)
    for _ in range(60):
        scenes = []
        for value in (10, 200):
            tree = random_tree(size, 12, rng)
            masks = np.stack([tree.mask(i) for i in range(12)])
            scenes.append(Sample(np.full((*size, 3), value, np.uint8), masks, tree.parents, tree.levels))
        scene, other = scenes
        keep = choose_objects(other.parents, other.masks.sum((1, 2)), 16, 400, 8, rng)
        donor = other[keep]
        before = [s.masks.copy() for s in (scene, donor)]
        both = paste(scene, donor, 16)
        np.testing.assert_array_equal(scene.masks, before[0])
        np.testing.assert_array_equal(donor.masks, before[1])
        objects = donor.masks[donor.parents < 0].any(axis=0)
        np.testing.assert_array_equal((both.image == 200).all(-1), objects)
        areas = both.masks.sum((1, 2))
        assert areas.min(initial=16) >= 16
        pasted = (both.masks & objects).any((1, 2))
        assert not (both.masks[pasted] & ~objects).any()  # a mask is in front or behind, never both
        assert (both.parents[pasted] < 0).sum() == (donor.parents < 0).sum()
        linked = both.parents >= 0
        assert (pasted[linked] == pasted[both.parents[linked]]).all()
        hierarchy.depths(both.parents)
        left = (scene.masks & ~objects).sum((1, 2))
        stays = (left >= 16) & (left >= MIN_VISIBLE_FRACTION * scene.masks.sum((1, 2)))
        assert (~pasted).sum() == stays.sum()
        np.testing.assert_array_equal(both.parents[: stays.sum()], hierarchy.reparent(scene.parents, stays))
        nested = scene.masks[scene.parents] & scene.masks  # what was inside its parent still is
        kept_parents = both.parents[: stays.sum()]
        for child, old in enumerate(np.flatnonzero(stays)):
            if kept_parents[child] >= 0 and (nested[old] == scene.masks[old]).all() and stays[scene.parents[old]]:
                assert (both.masks[child] <= both.masks[kept_parents[child]]).all()


def test_nothing_to_paste_leaves_the_scene():
    scene = scene_of(rectangles((32, 32), (0, 20, 0, 20)), 10)
    assert paste(scene, scene[np.zeros(1, bool)], 16) is scene
    onto_nothing = paste(scene[np.zeros(1, bool)], scene, 16)
    np.testing.assert_array_equal(onto_nothing.masks, scene.masks)
