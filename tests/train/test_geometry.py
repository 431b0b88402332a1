from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from masktree.errors import InputError
from masktree.train.geometry import Geometry
from masktree.trees import rle
from tests.oracles.geometry import seen_mask, seen_pixel, seen_through


def random_geometry(rng: np.random.Generator) -> Geometry:
    size, resized, window = (tuple(int(v) for v in rng.integers(1, 28, 2)) for _ in range(3))
    offset = tuple(int(rng.integers(-8, side + 3)) for side in resized)
    return Geometry(size, resized, offset, window, bool(rng.random() < 0.5))


def random_masks(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Noise of several densities, so that runs go over the foot of columns, and an empty and a full mask."""
    return rng.random((5, *size)) < np.array([0.0, 0.1, 0.5, 0.95, 1.0])[:, None, None]


def test_masks_are_those_under_the_pixels_centres(rng):
    for _ in range(60):
        geometry = random_geometry(rng)
        masks = random_masks(geometry.size, rng)
        rles = [rle.encode(mask) for mask in masks]
        wanted = np.stack([seen_mask(mask, geometry) for mask in masks])
        np.testing.assert_array_equal(geometry.apply_masks(rles), wanted)
        np.testing.assert_array_equal(geometry.mask_areas(rles), wanted.sum((1, 2)))


def test_a_planted_rectangle_is_mirrored_doubled_and_cut_exactly():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 3:9] = True
    geometry = Geometry((10, 20), (20, 40), (3, 18), (12, 16), flipped=True)
    wanted = np.zeros((20, 40), bool)
    wanted[4:10, 22:34] = True  # doubled: rows 4-9, columns 6-17; flipped: 40 - 18 ... 40 - 6
    np.testing.assert_array_equal(geometry.apply_masks([rle.encode(mask)])[0], wanted[3:15, 18:34])


def test_content_is_where_the_photograph_is_seen(rng):
    for _ in range(100):
        geometry = random_geometry(rng)
        seen = np.array(
            [
                [seen_pixel(geometry, y, x) is not None for x in range(geometry.window[1])]
                for y in range(geometry.window[0])
            ]
        )
        wanted = np.zeros(geometry.window, bool)
        wanted[geometry.valid_region] = True
        np.testing.assert_array_equal(seen, wanted)
        image = geometry.apply(np.full((*geometry.size, 3), 255, np.uint8))
        np.testing.assert_array_equal(image == 255, np.repeat(seen[..., None], 3, axis=2))
        assert set(np.unique(image)) <= {0, 255}


def test_image_and_masks_lie_on_each_other(rng):
    mask = np.zeros((48, 64), bool)
    mask[8:40, 12:50] = True
    image = np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    for resized in ((48, 64), (96, 128), (24, 32), (33, 47), (5, 7)):
        for flipped in (False, True):
            geometry = Geometry((48, 64), resized, (resized[0] // 5, -2), (30, 41), flipped)
            view = geometry.apply(image)[..., 0]
            seen = geometry.apply_masks([rle.encode(mask)])[0]
            far = np.abs(view.astype(int) - 127) > 80  # off the border, where pixels are mixed
            np.testing.assert_array_equal(view[far] > 127, seen[far])
            assert far.mean() > 0.6
            if resized == (48, 64):
                np.testing.assert_array_equal(view > 127, seen)


def test_at_its_own_size_an_image_keeps_its_pixels(rng):
    image = rng.integers(0, 256, (30, 50, 3)).astype(np.uint8)
    same = Geometry((30, 50), (30, 50), (4, 9), (16, 16))
    np.testing.assert_array_equal(same.apply(image), image[4:20, 9:25])
    flipped = Geometry((30, 50), (30, 50), (4, 9), (16, 16), flipped=True)
    np.testing.assert_array_equal(flipped.apply(image), image[:, ::-1][4:20, 9:25])


def test_a_window_shows_what_the_whole_resized_photograph_does(rng):
    noise = np.repeat(rng.integers(0, 256, (20, 25, 3)), 8, axis=0).repeat(8, axis=1).astype(np.uint8)
    for resized in ((320, 400), (111, 149)):
        whole = Geometry((160, 200), resized, (0, 0), resized).apply(noise)
        part = Geometry((160, 200), resized, (3, 5), (12, 17)).apply(noise)
        assert np.abs(part.astype(int) - whole[3:15, 5:22]).max() <= 1
    # Far smaller ones are averaged in blocks that begin at the window, so the same only for smooth pictures
    ramp = np.add.outer(np.arange(160) * 0.5, np.arange(200) * 0.8).astype(np.uint8)[..., None].repeat(3, axis=2)
    whole = Geometry((160, 200), (16, 20), (0, 0), (16, 20)).apply(ramp)
    part = Geometry((160, 200), (16, 20), (3, 5), (8, 9)).apply(ramp)
    assert np.abs(part.astype(int) - whole[3:11, 5:14]).max() <= 2


def test_no_masks_and_extreme_sizes():
    geometry = Geometry((1, 5000), (1, 40), (0, 0), (32, 32))
    assert geometry.apply_masks([]).shape == (0, 32, 32)
    assert geometry.mask_areas([]).shape == (0,)
    full = rle.encode(np.ones((1, 5000), bool))
    assert geometry.mask_areas([full]).tolist() == [32]
    assert geometry.apply(np.full((1, 5000, 3), 7, np.uint8)).sum() == 32 * 3 * 7
    point = Geometry((1, 1), (3000, 3000), (1500, 1500), (64, 64))
    assert point.apply_masks([rle.encode(np.ones((1, 1), bool))]).all()
    assert (point.apply(np.full((1, 1, 3), 9, np.uint8)) == 9).all()
    outside = Geometry((10, 10), (10, 10), (20, 0), (8, 8))
    assert not outside.apply(np.full((10, 10, 3), 9, np.uint8)).any()


def test_what_does_not_fit_is_refused():
    geometry = Geometry((10, 12), (10, 12), (0, 0), (8, 8))
    with pytest.raises(InputError, match=r"expected an image of \(10, 12\)"):
        geometry.apply(np.zeros((12, 10, 3), np.uint8))
    with pytest.raises(InputError, match="expected run lengths of 10 x 12"):
        geometry.apply_masks([rle.encode(np.ones((5, 5), bool))])
    with pytest.raises(InputError, match="expected run lengths of 10 x 12"):
        geometry.mask_areas([b"\x7f\x7f"])
    with pytest.raises(InputError, match="at least 1 x 1"):
        Geometry((10, 12), (0, 12), (0, 0), (8, 8))


def whole_of(size: tuple[int, int], rng: np.random.Generator) -> Geometry:
    resized = tuple(int(v) for v in rng.integers(1, 28, 2))
    return Geometry(size, resized, (0, 0), resized, bool(rng.random() < 0.5))


def test_a_view_relative_to_another_is_what_lies_under_its_pixels(rng):
    for _ in range(60):
        view = random_geometry(rng)
        whole = whole_of(view.size, rng)
        masks = random_masks(whole.window, rng)
        got = view.relative_to(whole).apply_masks([rle.encode(mask) for mask in masks])
        np.testing.assert_array_equal(got, np.stack([seen_through(mask, whole, view) for mask in masks]))


def test_masks_of_a_coarse_view_lie_where_the_images_own_masks_do(rng):
    yy, xx = np.mgrid[:150, :200]
    discs = np.stack([(yy - 70) ** 2 + (xx - x) ** 2 < r**2 for x, r in ((60, 40), (140, 55), (100, 20))])
    for _ in range(20):
        full_view = Geometry((150, 200), (96, 128), (0, 0), (96, 128), bool(rng.random() < 0.5))
        height = int(rng.integers(48, 192))
        resized = (height, height * 4 // 3)
        view = Geometry((150, 200), resized, (5, 9), (40, 38), bool(rng.random() < 0.5))
        coarse = full_view.apply_masks([rle.encode(disc) for disc in discs])
        mapped = view.relative_to(full_view).apply_masks([rle.encode(mask) for mask in coarse])
        direct = view.apply_masks([rle.encode(disc) for disc in discs])
        side = max(2, round(height / 96) + 1)  # a pixel of each grid
        for a, b in zip(mapped, direct, strict=True):
            square = np.ones((3, 3))
            border = ndimage.binary_dilation(a, square, side) & ~ndimage.binary_erosion(a, square, side, border_value=1)
            assert not ((a != b) & ~border).any()
        assert (mapped != direct).mean() < 0.02


def test_relative_to_a_view_of_the_same_scale_nothing_changes(rng):
    masks = random_masks((30, 40), rng)
    rles = [rle.encode(mask) for mask in masks]
    for flipped in (False, True):
        whole = Geometry((30, 40), (30, 40), (0, 0), (30, 40), flipped)
        seen = [rle.encode(mask) for mask in whole.apply_masks(rles)]
        for other in (False, True):
            view = Geometry((30, 40), (30, 40), (4, 7), (20, 25), other)
            np.testing.assert_array_equal(view.relative_to(whole).apply_masks(seen), view.apply_masks(rles))


def test_a_view_of_a_part_is_refused():
    view = Geometry((10, 12), (20, 24), (3, 3), (8, 8))
    for other in (view, Geometry((12, 10), (12, 10), (0, 0), (12, 10)), Geometry((10, 12), (5, 6), (0, 1), (5, 6))):
        with pytest.raises(InputError, match=r"whole image of \(10, 12\)"):
            view.relative_to(other)
