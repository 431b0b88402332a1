from __future__ import annotations

import colorsys
import contextlib
import inspect
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageShow

import masktree
from masktree.errors import InputError
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.draw import colour_labels, overlay
from masktree.trees.masktree import MaskTree

SIZE = (40, 60)


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def image(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def interior(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask whose right and lower neighbours are in it too: never on a border."""
    inner = mask.copy()
    inner[:-1] &= mask[1:]
    inner[:, :-1] &= mask[:, 1:]
    return inner


def hue(colour: np.ndarray) -> float:
    return colorsys.rgb_to_hsv(*(colour / 255.0))[0]


def test_images_of_another_size_are_refused(rng):
    tree = MaskTree.from_masks(box(5, 20, 5, 20)[None])
    with pytest.raises(InputError, match="expected an image of 40 x 60 pixels"):
        overlay(image(rng)[:, 1:], tree)
    with pytest.raises(InputError, match="granularity in"):
        overlay(image(rng), tree, granularity=1.5)
    with pytest.raises(InputError, match="opacity in"):
        overlay(image(rng), tree, opacity=-0.1)


def test_other_images_are_refused_without_run_time_checks_too(rng):
    tree = MaskTree.from_masks(box(5, 20, 5, 20)[None])
    plain = inspect.unwrap(overlay)
    assert plain is not overlay  # else the checks are off, and this tests nothing
    for wrong, got in (
        (image(rng) * 1.0, r"floats from 0 to 255, not in \[0, 1\]"),
        (image(rng)[..., :2], "2 channels"),
        (None, "NoneType"),
    ):
        with pytest.raises(InputError, match=rf"expected an image: .*got {got}"):
            plain(wrong, tree)


def test_what_no_mask_covers_is_greyed(rng):
    mask = box(10, 30, 10, 50)
    picture = overlay(image(rng), MaskTree.from_masks(mask[None]), granularity=1.0).astype(int)
    outside = picture[interior(~mask)]
    assert (outside.max(axis=1) == outside.min(axis=1)).all()
    assert len(np.unique(outside)) > 20  # the photograph is still there
    inside = picture[interior(mask)]
    assert (np.ptp(inside, axis=1) > 0).mean() > 0.95


def test_borders_are_drawn_where_labels_change_and_nowhere_else():
    flat = np.full((*SIZE, 3), 100, np.uint8)
    mask = box(10, 30, 10, 50)
    tree = MaskTree.from_masks(mask[None])
    picture = overlay(flat, tree, granularity=1.0)
    labels = tree.cut(1.0)
    changes = np.zeros(SIZE, bool)
    changes[:-1] |= labels[:-1] != labels[1:]
    changes[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    bright = picture.min(axis=2) > 200
    np.testing.assert_array_equal(bright, changes)


def test_borders_between_parts_are_fainter():
    whole, part = box(5, 35, 5, 55), box(5, 35, 5, 30)
    flat = np.full((*SIZE, 3), 100, np.uint8)
    picture = overlay(flat, MaskTree.from_masks(np.stack([whole, part])), granularity=1.0, part_granularity=0.6).astype(
        int
    )
    inner, outer = picture[20, 29], picture[20, 54]
    assert outer.min() > inner.min() > picture[20, 20].min()


def test_every_entity_has_one_hue_and_its_parts_are_shades_of_it():
    masks = np.stack([box(2, 38, 2, 28), box(2, 20, 2, 28), box(2, 38, 30, 58), box(22, 38, 30, 58)])
    photo = np.zeros((*SIZE, 3), np.uint8)
    photo[masks[1] | masks[3]] = 255  # parts differ in brightness as far as they can
    tree = MaskTree.from_masks(masks)
    picture = overlay(photo, tree, granularity=1.0, part_granularity=0.55, opacity=1.0)
    hues = []
    for whole, part in ((masks[0], masks[1]), (masks[2], masks[3])):
        rest = interior(whole & ~part)
        colours = [picture[interior(part)], picture[rest]]
        assert all((c == c[0]).all() for c in colours)
        assert colours[0][0].tolist() != colours[1][0].tolist()
        first, second = hue(colours[0][0]), hue(colours[1][0])
        assert abs(first - second) < 0.006
        hues.append(first)
    assert abs(hues[0] - hues[1]) > 0.1


def test_opacity_none_keeps_the_photograph(rng):
    photo = image(rng)
    mask = box(10, 30, 10, 50)
    picture = overlay(photo, MaskTree.from_masks(mask[None]), granularity=1.0, opacity=0.0)
    np.testing.assert_array_equal(picture[interior(mask)], photo[interior(mask)])


def test_same_input_same_picture_and_the_image_is_not_changed(rng):
    photo = image(rng)
    before = photo.copy()
    tree = MaskTree.from_masks(np.stack([box(5, 20, 5, 20), box(10, 35, 10, 50)]))
    np.testing.assert_array_equal(overlay(photo, tree), overlay(photo, tree))
    np.testing.assert_array_equal(photo, before)


def test_drawing_in_strips_gives_the_same_picture(rng, monkeypatch):
    photo = image(rng)
    tree = MaskTree.from_masks(np.stack([box(5, 20, 5, 20), box(10, 35, 10, 50)]))
    whole = overlay(photo, tree)
    monkeypatch.setattr("masktree.trees.draw._STRIP_PIXELS", 7 * SIZE[1])
    np.testing.assert_array_equal(overlay(photo, tree), whole)


def test_an_empty_tree_gives_a_grey_photograph(rng):
    tree = MaskTree.from_rles([], SIZE, np.zeros(0, np.int32))
    picture = overlay(image(rng), tree).astype(int)
    assert picture.shape == (*SIZE, 3)
    assert (picture.max(axis=2) == picture.min(axis=2)).all()


def test_a_picture_of_masks_shows_no_region_that_is_no_mask():
    """The cut covers every pixel; a tree without masks has nothing to show."""
    leaves = (box(0, 40, 30, 60) + 0).astype(np.int32)
    dendrogram = PartitionTree(leaves, np.array([2, 2, 2], np.int32), np.array([0.0, 0.0, 0.8]))
    tree = MaskTree.from_dendrogram(dendrogram)
    photo = np.full((*SIZE, 3), 128, np.uint8)
    assert len(tree) == 2
    only_left = tree[np.array([True, False])]
    picture = overlay(photo, only_left).astype(int)
    assert (np.ptp(picture[5:35, 2:28], axis=2) > 0).all()
    assert (np.ptp(picture[5:35, 32:58], axis=2) == 0).all()
    np.testing.assert_array_equal(overlay(photo, only_left, shows="cut"), overlay(photo, tree, shows="cut"))
    with pytest.raises(InputError, match="masks or cut; got 'both'"):
        inspect.unwrap(overlay)(photo, tree, shows="both")


@pytest.mark.parametrize("opened", [True, False])
def test_show_opens_the_viewer_or_says_that_there_is_none(rng, monkeypatch, opened):
    tree, photo = MaskTree.from_masks(box(5, 20, 5, 20)[None]), image(rng)
    shown = []

    def view(picture: Image.Image, title: str) -> bool:
        shown.append(picture)
        return opened

    monkeypatch.setattr(ImageShow, "show", view)
    with contextlib.nullcontext() if opened else pytest.warns(UserWarning, match="no viewer"):
        picture = masktree.show(photo, tree, granularity=0.8)
    np.testing.assert_array_equal(np.asarray(picture), overlay(photo, tree, granularity=0.8))
    assert shown == [picture]


def test_a_notebook_displays_the_picture_itself(rng, monkeypatch):
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setattr(ImageShow, "show", lambda *_, **__: pytest.fail("opened a window"))
    assert masktree.show(image(rng), MaskTree.from_masks(box(5, 20, 5, 20)[None])).size == SIZE[::-1]


def test_a_partition_leaves_nothing_grey():
    leaves = (box(0, 40, 30, 60) + 0).astype(np.int32)
    tree = MaskTree.from_dendrogram(PartitionTree(leaves, np.array([2, 2, 2], np.int32), np.array([0.0, 0.0, 0.8])))
    picture = overlay(np.full((*SIZE, 3), 128, np.uint8), tree, granularity=0.5, shows="cut").astype(int)
    assert (np.ptp(picture[5:35, 2:28], axis=2) > 0).all()
    assert hue(picture[20, 10]) != hue(picture[20, 50])
    coarse = overlay(np.full((*SIZE, 3), 128, np.uint8), tree, granularity=0.9, shows="cut")
    assert hue(coarse[20, 10]) == hue(coarse[20, 50])


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1)])
def test_thin_images_are_drawn(size):
    mask = np.zeros((1, *size), bool)
    mask.ravel()[: mask.size // 2] = True
    assert overlay(np.zeros((*size, 3), np.uint8), MaskTree.from_masks(mask)).shape == (*size, 3)


def test_label_colours_are_distinct():
    labels = np.arange(24, dtype=np.int32).reshape(4, 6)
    colours = colour_labels(labels)
    assert colours.dtype == np.uint8
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 24


def test_a_tree_draws_itself(rng):
    tree, photo = MaskTree.from_masks(box(5, 20, 5, 20)[None]), image(rng)
    np.testing.assert_array_equal(tree.draw(photo, granularity=0.8), overlay(photo, tree, granularity=0.8))
