"""Flat graphics: every planted shape is a leaf to the pixel, antialiased or not; photographs are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, label

from masktree.cluster import flat
from masktree.cluster.flat import FlatLeaves, flat_leaves
from masktree.cluster.flat_shapes import flat_shapes
from masktree.cluster.merge import merge_regions

SHAPES = [  # kind, box, colour; each in the one before, or on the ground
    ("rectangle", (10, 12, 100, 88), (225, 230, 240)),
    ("rectangle", (20, 20, 60, 40), (200, 60, 60)),
    ("ellipse", (24, 50, 58, 82), (60, 160, 80)),
    ("ellipse", (120, 30, 170, 80), (90, 170, 220)),
]


def draw(kind, box, colour, mode, canvas, factor):
    image = Image.new(mode, (180 * factor, 100 * factor)) if canvas is None else canvas
    getattr(ImageDraw.Draw(image), kind)([side * factor for side in box], fill=colour)
    return image


def scene(factor=1):
    """Shapes on a pale ground and the masks of their pixels; antialiased where drawn ``factor`` times larger."""
    canvas, masks = Image.new("RGB", (180 * factor, 100 * factor), (245, 245, 245)), []
    for kind, box, colour in SHAPES:
        draw(kind, box, colour, "RGB", canvas, factor)
        coverage = draw(kind, box, 255, "L", None, factor).resize((180, 100), Image.Resampling.BOX)
        masks.append(np.asarray(coverage) >= 128)
    return np.asarray(canvas.resize((180, 100), Image.Resampling.BOX)), masks


def leaves_of(image, basins=None) -> FlatLeaves | None:
    shapes = flat_shapes(image)
    if shapes is None:
        return None
    return flat_leaves(image, shapes, image, np.zeros(image.shape[:2], np.int32) if basins is None else basins)


def best_overlap(labels, mask):
    inside, all_pixels = np.bincount(labels[mask], minlength=labels.max() + 1), np.bincount(labels.ravel())
    return (inside / (all_pixels + mask.sum() - inside)).max()


@pytest.mark.parametrize(("factor", "lowest"), [(1, 1.0), (5, 0.97)])
def test_planted_shapes_are_leaves_to_the_pixel(factor, lowest):
    image, masks = scene(factor)
    leaves = leaves_of(image)
    assert leaves is not None
    assert len(leaves.colours) == 5  # no slivers along antialiased borders
    assert not leaves.textured.any()
    masks[0] &= ~(masks[1] | masks[2])
    assert min(best_overlap(leaves.labels, mask) for mask in masks) >= lowest


@pytest.mark.parametrize("antialiased", [False, True])
def test_letters_are_leaves(antialiased):
    image, coverage = Image.new("RGB", (300, 80), "white"), Image.new("L", (300, 80))
    font = ImageFont.load_default(size=22)
    for canvas, colour in ((image, (20, 20, 40)), (coverage, 255)):
        drawing = ImageDraw.Draw(canvas)
        drawing.fontmode = "L" if antialiased else "1"
        drawing.text((8, 8), "Has tree of masks", fill=colour, font=font)
        drawing.text((8, 40), "MENU 2468", fill=colour, font=font)
    truth, count = label(np.asarray(coverage) >= 128, np.ones((3, 3)))
    leaves = leaves_of(np.asarray(image))
    assert leaves is not None
    overlaps = [best_overlap(leaves.labels, truth == k) for k in range(1, count + 1) if (truth == k).sum() >= 32]
    assert len(overlaps) > 18
    assert np.mean(overlaps) > 0.85


def test_a_region_is_merged_with_its_contents_first():
    image, masks = scene()
    leaves = leaves_of(image)
    assert leaves is not None
    edges, strengths, lengths = leaves.adjacency(np.zeros(image.shape[:2], np.float32))
    areas = np.bincount(leaves.labels.ravel())
    tree = merge_regions(leaves.labels, edges, areas, boundary=strengths, lengths=lengths, size_power=0.05)
    # The panel differs less from the ground than from what is on it.
    assert any(np.array_equal(tree.mask(node), masks[0]) for node in range(len(tree.parents)))


def test_a_photograph_on_a_page_keeps_the_basins_of_the_boundary_map(rng):
    image = scene()[0].copy()
    image[:64, 116:] = gaussian_filter(rng.random((64, 64, 3)) * 255, (1, 1, 0))
    basins = np.zeros(image.shape[:2], np.int32)
    basins[:, 113:] = 1  # three pixels beyond the border
    basins[32:67, 113:] = 2
    basins[67:] = 0
    leaves = leaves_of(np.tile(image, (2, 2, 1)), np.tile(basins, (2, 2)))
    assert leaves is not None
    labels = leaves.labels[:100, :180]
    in_photograph = leaves.textured[labels]
    assert in_photograph[:64, 116:].mean() > 0.99
    assert not in_photograph[:, :116].any()
    assert len(np.unique(labels[in_photograph])) == 2


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_photographs_have_no_flat_leaves(rng, sigma):
    image = gaussian_filter(rng.normal(128, 60, (120, 160, 3)), (sigma, sigma, 0))
    image[:50] = 300  # an overexposed sky
    image = gaussian_filter(image, (1, 1, 0))
    assert leaves_of(np.clip(image, 0, 255).astype(np.uint8)) is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (70, 70)])
def test_images_of_one_colour_have_no_flat_leaves(shape):
    assert leaves_of(np.full((*shape, 3), 7, np.uint8)) is None


def test_the_number_of_leaves_is_bounded(monkeypatch):
    monkeypatch.setattr(flat, "MAX_LEAVES", 9)
    image = np.full((96, 96, 3), 255, np.uint8)
    for k in range(36):
        y, x = divmod(k, 6)
        image[16 * y + 4 : 16 * y + 10 + y, 16 * x + 4 : 16 * x + 10] = 10 * y
    leaves = leaves_of(image)
    assert leaves is not None
    assert len(leaves.colours) == 9
    assert np.bincount(leaves.labels.ravel()).min() >= 60  # the largest ones are left
