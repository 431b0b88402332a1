"""Images of one colour and of noise give one mask; whatever has structure is segmented."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

import masktree
from masktree.discover.masktree import discover_masks
from masktree.predict.blank import is_blank

SIZE = (200, 180)
Y, X = np.mgrid[: SIZE[0], : SIZE[1]]


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def noise(kind: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    if kind == "uniform":
        return rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    if kind == "salt and pepper":
        return grey(rng.choice([0.0, 128.0, 255.0], size, p=[0.05, 0.9, 0.05]))
    sigma = float(kind.split()[1])
    values = rng.normal(128, sigma, (*size, 3))
    return grey(values[..., 0]) if kind.endswith("grey") else np.clip(values, 0, 255).astype(np.uint8)


KINDS = ("uniform", "salt and pepper", "gauss 10 grey", "gauss 25", "gauss 120 grey")


@pytest.mark.parametrize("size", [(32, 32), SIZE, (2000, 2000)])
@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_blank_also_from_jpeg(kind, size, rng):
    image = noise(kind, size, rng)
    assert is_blank(image)
    if size == SIZE:
        assert all(is_blank(through_jpeg(image, quality)) for quality in (75, 85, 95))


def test_one_colour_is_blank_up_to_rounding(rng):
    assert is_blank(np.zeros((96, 128, 3), np.uint8))
    assert is_blank(np.full((1, 1, 3), 200, np.uint8))
    assert is_blank(rng.integers(99, 101, (*SIZE, 3), dtype=np.uint8))
    assert not is_blank(grey(100 + 2.0 * (X > 90)))


def stripes(period: int, shift: int) -> np.ndarray:
    """Vertical stripes beside horizontal ones."""
    position = np.where(X < 90, X, Y) + shift
    return 200.0 * (position % period < period / 2)


@pytest.mark.parametrize("period", [2, 3, 4, 8])
def test_textures_beside_each_other_are_structure(period, rng):
    for shift in (0, 1):
        assert not is_blank(grey(stripes(period, shift)))
        assert not is_blank(grey(stripes(period, shift) + rng.normal(0, 20, SIZE)))


def test_noise_of_two_strengths_is_structure(rng):
    assert not is_blank(grey(128 + rng.normal(0, 1, SIZE) * np.where(X < 90, 10, 40)))


def test_objects_under_heavy_noise_are_structure(rng):
    disc = (X - 60) ** 2 + (Y - 70) ** 2 < 20**2
    assert not is_blank(grey(100 + 40 * disc + rng.normal(0, 60, SIZE)))
    speck = (X - 60) ** 2 + (Y - 70) ** 2 < 5**2
    assert not is_blank(grey(100 + 80 * speck + rng.normal(0, 30, SIZE)))
    red = np.where(disc, 60, 0)  # of the same lightness as the ground
    channels = [red, -red * 0.299 / 0.587, np.zeros(SIZE)]
    assert not is_blank(
        np.stack([grey(100 + rng.normal(0, 1, SIZE))[..., 0] + c for c in channels], 2).astype(np.uint8)
    )


def test_ramps_and_photographs_are_structure(photos):
    assert not is_blank(grey(X.astype(float)))
    assert not is_blank(grey(100 + X / 60))
    for path in photos:
        assert not is_blank(np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("method", ["masktree", "hassod", "sohes", "unsam"])
def test_every_method_gives_one_mask_for_blank_images(method, rng):
    segmenter = masktree.load(method=method)
    for image in (np.zeros((96, 128, 3), np.uint8), noise("uniform", SIZE, rng), noise("gauss 25", (32, 32), rng)):
        tree = segmenter(image)
        assert len(tree) == 1
        assert tree.mask(0).all()
        assert (tree.cut(0.3) == 0).all()
    assert len(dataclasses.replace(segmenter, min_area=2000)(noise("uniform", (32, 32), rng))) == 0


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 0, 0), (10, 200, 90)])
def test_the_embedded_network_finds_no_boundaries_in_one_colour(colour):
    """Its predictions there are small but not equal: they made 40 masks of score 0."""
    image = np.full((96, 128, 3), colour, np.uint8)
    tree = discover_masks(image, masktree.load_backbone("embedded"))
    assert len(tree) == 1
    assert tree.mask(0).all()
    image[30:60, 40:80] += np.uint8(1)
    changed = discover_masks(image, masktree.load_backbone("embedded"))
    assert len(changed) > 0
    assert not changed.mask(0).all()
