"""The default method: planted objects are nodes at any size, and altitudes are granularities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from masktree.backbones.texture import TextureBackbone
from masktree.discover import masktree as method
from masktree.discover.masktree import build_dendrogram, costs_to_granularities
from masktree.errors import InputError


def scene(rng, H=120, W=160, noise=6.0):
    """A red disc and a striped square on a green ground; and the truth."""
    y, x = np.mgrid[:H, :W] * (120 / H)
    truth = np.zeros((H, W), np.int32)
    truth[(y - 60) ** 2 + (x - 45) ** 2 < 30**2] = 1
    truth[(abs(y - 60) < 25) & (abs(x - 115) < 25)] = 2
    image = np.array([[60, 140, 70], [190, 50, 40], [150, 150, 150]])[truth].astype(float)
    image += np.where(truth == 2, 60 * np.sign(np.sin(x * 1.3)), 0)[..., None]
    return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8), truth


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def best_overlaps(tree, truth):
    """Highest IoU of any node with each truth region."""
    masks = [tree.mask(node) for node in range(len(tree.parents))]
    return [max(overlap(mask, truth == region) for mask in masks) for region in range(truth.max() + 1)]


@pytest.mark.parametrize("quality", ["fast", "best"])
def test_planted_objects_are_nodes(rng, quality):
    image, truth = scene(rng)
    tree = build_dendrogram(image, quality=quality)
    assert tree.size == truth.shape
    assert min(best_overlaps(tree, truth)) > 0.85
    assert min(overlap(tree.cut_count(3) == k, truth == truth[tree.cut_count(3) == k][0]) for k in range(3)) > 0.8


def test_altitudes_are_granularities(rng):
    image, _ = scene(rng, noise=20)
    tree = build_dendrogram(image)
    assert tree.altitudes.min() == 0
    assert tree.altitudes.max() <= 1
    assert tree.cut(1.0 - 1.0).max() == 0  # g = 1: one region


@pytest.mark.parametrize(("learned", "highest"), [(False, 1.6), (True, 2.0)])
def test_granularities_increase_from_0_to_1_with_the_cost(learned, highest):
    values = costs_to_granularities(np.linspace(0, highest, 500), learned=learned)
    assert values[0] == 0
    assert values[-1] == 1
    assert np.all(np.diff(values) > 0)
    assert costs_to_granularities(np.array([9.0]), learned=learned) == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (5, 31)])
@pytest.mark.parametrize("flat", [True, False])
def test_tiny_and_flat_images_give_trees(rng, shape, flat):
    image = np.full((*shape, 3), 200, np.uint8) if flat else rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    tree = build_dendrogram(image)
    assert tree.size == shape
    if flat:
        assert tree.n_leaves == 1


def test_large_images_are_segmented_at_full_size(rng, monkeypatch):
    monkeypatch.setattr(method, "WORKING_SIDE", 160)
    image, truth = scene(rng, 480, 640)
    tree = build_dendrogram(image)
    assert tree.size == (480, 640)
    assert np.bincount(tree.leaves.ravel(), minlength=tree.n_leaves).min() > 0
    assert min(best_overlaps(tree, truth)) > 0.9


def test_flat_graphics_have_borders_to_the_pixel_at_any_size(monkeypatch):
    monkeypatch.setattr(method, "WORKING_SIDE", 120)
    image = np.full((200, 300, 3), 240, np.uint8)
    truth = np.zeros((200, 300), np.int32)
    for k, (rows, columns, colour) in enumerate(
        [
            (slice(21, 93), slice(17, 131), 60),
            (slice(30, 50), slice(190, 260), 120),
            (slice(150, 157), slice(40, 51), 0),
        ]
    ):
        image[rows, columns], truth[rows, columns] = (colour, 90, 160), k + 1
    assert min(best_overlaps(build_dendrogram(image), truth)) == 1


class Painted:
    """A network with one-hot features of a given label map."""

    name, stride, dim, device = "painted", 8, 2, "cpu"
    provenance = replace(TextureBackbone.provenance, name="painted", dim=2)

    def __init__(self, truth):
        self.truth = truth

    def input_size(self, H, W):
        return H, W

    def __call__(self, images):
        return np.eye(2, dtype=np.float32)[self.truth[None, 4::8, 4::8]]


def test_network_features_decide_where_pixels_are_ambiguous(rng):
    image = rng.integers(100, 156, (96, 128, 3), dtype=np.uint8)
    truth = np.zeros((96, 128), int)
    truth[:, 64:] = 1
    expected = truth == 1

    def score(tree):
        return max(overlap(tree.cut_count(2) == k, expected) for k in range(2))

    assert score(build_dendrogram(image, backbone=Painted(truth))) > 0.8
    assert score(build_dendrogram(image)) < 0.7


def test_texture_backbone_adds_nothing(rng):
    image, _ = scene(rng)
    assert np.array_equal(build_dendrogram(image).parents, build_dendrogram(image, backbone=TextureBackbone()).parents)


def test_empty_images_are_refused(rng):
    with pytest.raises(InputError, match="non-empty"):
        build_dendrogram(np.zeros((0, 5, 3), np.uint8))


def test_the_same_image_gives_the_same_tree(rng):
    image, _ = scene(rng)
    first, second = build_dendrogram(image), build_dendrogram(image)
    assert np.array_equal(first.leaves, second.leaves)
    assert np.array_equal(first.altitudes, second.altitudes)
