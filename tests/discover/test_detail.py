"""The working size: chosen by looking at the image, and masks of several sizes in one tree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import masktree
from masktree.cluster.volume import merge_by_volume
from masktree.discover import detail as rule
from masktree.discover import masktree as method
from masktree.discover import pooling
from masktree.discover.masktree import build_dendrogram, discover_masks
from masktree.discover.pieces import CENTRE
from masktree.discover.pooling import COMBINED_SHARE, divide_leaves, unite_leaves
from masktree.errors import InputError
from masktree.io.images import read_image
from masktree.trees import rle
from masktree.trees.dendrogram import PartitionTree
from masktree.trees.hierarchy import depths
from masktree.trees.masktree import MaskTree


def disc_grid(side: int, count: int, first: int, step: int, squared_radius: int) -> np.ndarray:
    """(count^2, side, side) bool masks of discs in rows and columns, their centres ``step`` pixels apart."""
    y, x = np.mgrid[:side, :side]
    centres = [(first + step * i, first + step * j) for i in range(count) for j in range(count)]
    return np.stack([(y - row) ** 2 + (x - column) ** 2 <= squared_radius for row, column in centres])


def photographed(values: np.ndarray, noise: float) -> np.ndarray:
    """(H, W) or (H, W, 3) values, slightly blurred and with noise of a standard deviation, as uint8."""
    blurred = ndimage.gaussian_filter(values, 0.8, axes=(0, 1))
    return (blurred + np.random.default_rng(0).normal(0, noise, values.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def dots() -> tuple[np.ndarray, np.ndarray]:
    """(112, 112, 3) image of 121 coloured discs of radius 3 on one noisy ground, and their (121, H, W) masks."""
    masks = disc_grid(112, 11, 6, 10, 9)
    image = np.full((112, 112, 3), (90, 120, 90), np.float64)
    image[masks.any(axis=0)] = (190, 150, 60)
    return photographed(image, 5), masks


@pytest.fixture(scope="module")
def dots_tree(dots) -> MaskTree:
    return discover_masks(dots[0], detail="fine", min_area=12)


def recall(tree: MaskTree, masks: np.ndarray) -> float:
    """Share of the masks that one of the tree has an IoU above .75 with."""
    overlap = rle.iou(list(tree.rles), [rle.encode(mask) for mask in masks], tree.size)
    return float((overlap.max(axis=0) > 0.75).mean())


@pytest.fixture(scope="module")
def packed_discs() -> tuple[np.ndarray, np.ndarray]:
    """(120, 120, 3) grey image of 36 striped discs, one pixel apart, on a shaded ground, and their (36, H, W) masks."""
    masks = disc_grid(120, 6, 10, 20, 90)
    y, x = np.mgrid[:120, :120]
    stripes = 60 + 12 * np.sin(2 * np.pi * (x + y) / 5)
    image = 40 + 90 * x / 119 + 40 * y / 119 + np.where(masks.any(axis=0), stripes, 0)
    return photographed(image, 4)[..., None].repeat(3, axis=2), masks


@pytest.fixture(scope="module")
def packed_tree(packed_discs) -> MaskTree:
    return discover_masks(packed_discs[0])


def best_cut_f1(tree: PartitionTree, masks: np.ndarray, granularities: Iterable[float] | None = None) -> float:
    """Highest F1 of the regions of one cut, matched with an IoU above .5."""
    values = []
    for granularity in np.linspace(0, 1, 51) if granularities is None else granularities:
        labels = tree.cut_at(granularity)
        areas = np.bincount(labels.ravel())
        shared = np.stack([np.bincount(labels[mask], minlength=len(areas)) for mask in masks])
        found = (shared > 0.5 * (areas + masks.sum(axis=(1, 2))[:, None] - shared)).sum()
        values.append(2 * found / (len(areas) + len(masks)))
    return max(values)


def test_small_things_on_one_ground_are_recognised(dots):
    assert rule.ground_share(dots[0]) > rule.GROUND_SHARE
    assert rule.shows_small_things(dots[0])


def test_images_without_colour_count_as_well():
    grey = np.random.default_rng(0).integers(0, 256, (60, 80, 1), np.uint8).repeat(3, axis=2)
    assert rule.ground_share(grey) < rule.GROUND_SHARE
    assert rule.shows_small_things(grey)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (5, 4)])
def test_tiny_images_have_a_ground(size):
    assert rule.ground_share(np.full((*size, 3), 7, np.uint8)) == 1


def test_photographs_are_told_from_fields_of_small_things(photos):
    small = {path.stem: rule.shows_small_things(read_image(path)) for path in photos}
    assert small["galaxies"]
    assert not any(small[name] for name in ("astronaut", "cat", "coffee", "rocket"))


def test_more_small_things_are_found_at_finer_sizes(dots, dots_tree):
    assert recall(discover_masks(dots[0], detail=640, min_area=12), dots[1]) < 0.3
    assert recall(dots_tree, dots[1]) > 0.9


def test_dense_things_are_grey_and_on_no_one_ground(dots, packed_discs, photos):
    assert rule.shows_small_things(packed_discs[0])
    assert rule.shows_dense_things(packed_discs[0])
    assert not rule.shows_dense_things(dots[0])
    assert not rule.shows_dense_things(dots[0][..., :1].repeat(3, axis=2))
    assert not any(rule.shows_dense_things(read_image(path)) for path in photos if path.stem in ("cat", "rocket"))


def test_one_cut_separates_dense_things(packed_discs, packed_tree, monkeypatch):
    assert best_cut_f1(packed_tree.dendrogram, packed_discs[1]) > 0.8
    assert best_cut_f1(packed_tree.dendrogram, packed_discs[1], [CENTRE]) > 0.8
    monkeypatch.setattr(method, "shows_dense_things", lambda image: False)
    assert best_cut_f1(build_dendrogram(packed_discs[0]), packed_discs[1]) < 0.5


def test_cuts_of_grey_things_on_one_ground_go_by_energy(dots, monkeypatch):
    image = dots[0][..., :1].repeat(3, axis=2)
    assert rule.shows_faint_things(image)
    assert not rule.shows_faint_things(dots[0])
    analysis = method._analyse_at(image, None, None, (1.0,), 336)
    expected = merge_by_volume(analysis.tree, analysis.edges, analysis.strengths, attribute="energy")
    assert np.array_equal(build_dendrogram(image).parents, expected.parents)
    assert not np.array_equal(analysis.tree.parents, expected.parents)


def test_dark_images_without_colour_are_stretched():
    """A disc of level 40 on black, of 60 where it is noisy, and a hot pixel: white is what 5 x 5 pixels reach."""
    y, x = np.mgrid[:60, :80]
    grey = np.where((y - 30) ** 2 + (x - 30) ** 2 <= 100, 40, 4).astype(np.uint8)
    grey[28:30, 28:30], grey[5, 70] = 60, 255
    image = grey[..., None].repeat(3, axis=2)
    bright = rule.brighten(image)
    assert bright[30, 35].tolist() == [255] * 3
    assert bright[0, 0].tolist() == [round(4 * 255 / 40)] * 3
    assert bright[5, 70].tolist() == bright[28, 28].tolist() == [255] * 3
    assert image.max() == 255
    assert image[30, 35, 0] == 40
    faint = rule.brighten(image // 20)  # two grey levels at most
    assert faint[30, 35].tolist() == [2 * 16] * 3
    assert rule.brighten(np.zeros((1, 7, 3), np.uint8)).max() == 0


def test_bright_and_coloured_images_are_not_stretched(dots):
    grey = dots[0][..., :1].repeat(3, axis=2)
    assert rule.brighten(grey) is grey
    coloured = dots[0] // 4
    assert rule.brighten(coloured) is coloured


def test_dark_images_are_analysed_as_if_they_were_bright(dots):
    dark = dots[0][..., :1].repeat(3, axis=2) // 8
    tree, expected = (build_dendrogram(one, detail=112) for one in (dark, rule.brighten(dark)))
    for name in ("leaves", "parents", "altitudes"):
        assert np.array_equal(getattr(tree, name), getattr(expected, name))


def test_masks_know_the_granularity_of_the_most_similar_region(packed_tree):
    dendrogram = packed_tree.dendrogram
    childless = np.setdiff1d(np.arange(len(packed_tree)), packed_tree.parents)  # others may be raised to a child's
    for index in childless[::40]:
        mask = packed_tree.mask(index)
        regions = [dendrogram.mask(node) for node in range(len(dendrogram.parents))]
        ious = [(region & mask).sum() / (region | mask).sum() for region in regions]
        assert packed_tree.granularities[index] == pytest.approx(dendrogram.altitudes[np.argmax(ious)], abs=1e-6)


def test_cuts_do_not_change_what_is_found(packed_discs, packed_tree, monkeypatch):
    monkeypatch.setattr(method, "shows_dense_things", lambda image: False)
    other = discover_masks(packed_discs[0])
    assert other.rles == packed_tree.rles
    assert np.array_equal(other.scores, packed_tree.scores)
    assert not np.array_equal(other.granularities, packed_tree.granularities)


@pytest.fixture(scope="module")
def two_tone_discs() -> tuple[np.ndarray, np.ndarray]:
    """(160, 160, 3) image of 16 discs, each half violet and half yellow, on one green ground, and their masks."""
    masks = disc_grid(160, 4, 20, 40, 121)
    x = np.arange(160)
    image = np.full((160, 160, 3), (110, 130, 110), np.float64)
    image[masks.any(axis=0) & (x % 40 < 20)] = (130, 60, 160)
    image[masks.any(axis=0) & (x % 40 >= 20)] = (190, 190, 60)
    return photographed(image, 4), masks


def test_things_of_several_colours_are_combinations(two_tone_discs):
    image, masks = two_tone_discs
    assert rule.shows_small_things(image)
    nodes, tree = discover_masks(image, masks="nodes"), discover_masks(image)
    assert not nodes.kinds.any()
    assert recall(nodes, masks) < 0.5
    assert recall(tree, masks) > 0.9
    assert 0 < tree.kinds.sum() <= COMBINED_SHARE * 1000
    regions = [tree.dendrogram.mask(node) for node in range(len(tree.dendrogram.parents))]
    for index in np.flatnonzero(tree.kinds)[::20]:
        mask = tree.mask(index)
        ious = [(region & mask).sum() / (region | mask).sum() for region in regions]
        assert tree.granularities[index] == pytest.approx(tree.dendrogram.altitudes[np.argmax(ious)], abs=1e-6)
        parent = tree.parents[index]
        assert parent < 0 or not (mask & ~tree.mask(parent)).any()


def test_things_that_differ_come_before_larger_faint_patches_of_the_ground(monkeypatch):
    masks = disc_grid(120, 4, 15, 30, 16)
    patches = np.random.default_rng(1).normal(0, 12, (10, 10)).repeat(12, axis=0).repeat(12, axis=1)
    image = photographed(90 + patches + 60 * masks.any(axis=0), 2)[..., None].repeat(3, axis=2)
    found = recall(discover_masks(image, max_masks=16), masks)
    monkeypatch.setattr(pooling, "node_contrasts", lambda tree, colours: np.full(len(tree.parents), 12.0))
    assert found > 0.75 > 0.5 > recall(discover_masks(image, max_masks=16), masks)


def test_things_without_colour_are_nodes(packed_tree):
    assert not packed_tree.kinds.any()


def test_auto_is_fine_for_small_things(dots, dots_tree):
    assert discover_masks(dots[0], min_area=12).rles == dots_tree.rles


@pytest.mark.parametrize("scene", ["dots_tree", "packed_tree"])
def test_children_lie_inside_their_parents_and_granularities_grow(scene, request):
    tree = request.getfixturevalue(scene)
    children = np.flatnonzero(tree.parents >= 0)
    parents = tree.parents[children]
    shared = rle.intersections(list(tree.rles), tree.size)
    assert len(children) > 20
    assert np.array_equal(shared[children, parents], tree.areas[children])
    assert (tree.granularities[parents] >= tree.granularities[children]).all()
    assert depths(tree.parents).max() >= 1


def test_masks_of_all_sizes_are_unions_of_the_leaves(dots_tree):
    leaves = dots_tree.dendrogram.leaves
    areas = np.bincount(leaves.ravel())
    for index in range(len(dots_tree)):
        inside = np.bincount(leaves[dots_tree.mask(index)], minlength=len(areas))
        assert np.isin(inside / np.maximum(areas, 1), (0, 1)).all()


@pytest.mark.parametrize(("scene", "tree"), [("dots", "dots_tree"), ("packed_discs", "packed_tree")])
def test_the_finest_dendrogram_is_that_of_the_tree(scene, tree, request):
    image, expected = request.getfixturevalue(scene)[0], request.getfixturevalue(tree).dendrogram
    dendrogram = build_dendrogram(image, detail="fine")
    for name in ("leaves", "parents", "altitudes"):
        assert np.array_equal(getattr(dendrogram, name), getattr(expected, name))


def test_maximum_of_masks_holds_over_all_sizes(dots, dots_tree):
    few = discover_masks(dots[0], detail="fine", min_area=12, max_masks=10)
    assert len(few) == 10
    assert few.omitted >= len(dots_tree.nodes) - 10


@pytest.fixture
def analysed(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of the images whose boundaries are computed, in order."""
    shapes: list[tuple[int, ...]] = []

    def record_shape(image: np.ndarray, *rest: Any) -> method.MergeFeatures:
        shapes.append(image.shape)
        return compute(image, *rest)

    compute = method.merge_features
    monkeypatch.setattr(method, "merge_features", record_shape)
    return shapes


def test_flat_graphics_need_no_further_size(analysed):
    chart = np.full((120, 160, 3), 255, np.uint8)
    chart[20:60, 20:50], chart[30:90, 80:140], chart[70:100, 10:60] = 30, 120, 200
    assert rule.shows_small_things(chart)
    build_dendrogram(chart)
    assert analysed == [(120, 160, 3)]


def test_shapes_of_flat_graphics_are_looked_for_once(dots, monkeypatch):
    sizes: list[tuple[int, ...]] = []
    monkeypatch.setattr(method, "flat_shapes", lambda image: sizes.append(image.shape))
    discover_masks(dots[0], detail="fine")
    assert sizes == [dots[0].shape]


def test_a_number_is_the_longer_side_of_the_analysis(dots, analysed):
    build_dendrogram(dots[0], detail=64)
    build_dendrogram(dots[0], detail=5000)
    assert analysed == [(64, 64, 3), (112, 112, 3)]


def test_large_images_are_seen_at_two_sizes(dots, analysed, monkeypatch):
    monkeypatch.setattr(method, "shows_small_things", lambda image: False)
    monkeypatch.setattr(method, "LARGE_SIDE", 112)
    monkeypatch.setattr(method, "WORKING_SIDE", 32)
    assert build_dendrogram(dots[0]).size == (112, 112)
    assert analysed == [(32, 32, 3), (64, 64, 3)]


@pytest.mark.parametrize("detail", ["coarse", 0, 31, -5, 3.5, True, None])
def test_wrong_detail_is_an_input_error(dots, detail):
    with pytest.raises(InputError, match="expected detail as auto, fine or a number of pixels"):
        rule.check_detail(detail)


def test_leaves_go_to_the_region_that_they_share_most_pixels_with():
    leaves = np.array([[0, 0, 0, 2], [2, 2, 3, 3]], np.int32)  # no pixel has label 1
    coarse = PartitionTree.from_merges(np.array([[0, 0, 1, 1], [1, 1, 1, 1]], np.int32), np.array([[0, 1]]), np.ones(1))
    assert unite_leaves(leaves, coarse).leaves.tolist() == [[0, 0, 0, 1], [1, 1, 1, 1]]


def test_a_coarser_dendrogram_on_finer_leaves_has_the_same_cuts():
    rng = np.random.default_rng(0)
    coarse = PartitionTree.from_merges(
        rng.permutation(np.repeat(np.arange(5, dtype=np.int32), 20)).reshape(10, 10),
        np.array([[0, 3], [1, 2], [4, 5], [6, 7]]),
        np.array([0.1, 0.3, 0.3, 0.8]),
    )
    leaves = np.arange(100, dtype=np.int32).reshape(10, 10) // 3  # the last one of a single pixel; none is empty
    united, divided = unite_leaves(leaves, coarse), divide_leaves(leaves, coarse)
    assert divided.n_leaves == 34
    assert divided.areas.min() > 0
    for altitude in (0, 0.1, 0.2, 0.3, 0.8):
        assert np.array_equal(divided.cut_at(altitude), united.cut_at(altitude))


def test_a_ground_that_leaves_room_for_large_things_has_the_cuts_of_the_working_size():
    rng = np.random.default_rng(0)
    image = np.full((96, 96, 3), (90, 120, 90), np.float64)
    image[:, np.arange(96) % 16 < 7] = (190, 150, 60)
    image = (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
    assert rule.shows_small_things(image)
    assert rule.may_show_large_things(image)
    cuts, coarse = build_dendrogram(image), build_dendrogram(image, detail=96)
    assert cuts.n_leaves > coarse.n_leaves
    assert np.array_equal(cuts.leaves, build_dendrogram(image, detail="fine").leaves)
    for granularity in (0.2, 0.4, 0.6, 0.8):
        labels, expected = cuts.cut_at(granularity), coarse.cut_at(granularity)
        assert labels.max() == expected.max()
        shared = np.bincount((expected * (labels.max() + 1) + labels).ravel(), minlength=(labels.max() + 1) ** 2)
        assert shared.reshape(labels.max() + 1, -1).max(axis=1).sum() > 0.9 * labels.size  # all but borders
    tree = discover_masks(image)
    assert np.array_equal(tree.dendrogram.parents, cuts.parents)
    assert not rule.may_show_large_things(image[..., :1].repeat(3, axis=2))  # without colour


def test_details_are_read_from_text():
    assert [rule.parse_detail(text) for text in ("auto", "fine", "640")] == ["auto", "fine", 640]
    with pytest.raises(InputError, match=r"got '31\.5'"):
        rule.parse_detail("31.5")


def test_segmenters_refuse_a_wrong_detail_at_once():
    with pytest.raises(InputError, match="expected detail as auto"):
        masktree.load("texture", detail="coarse")
