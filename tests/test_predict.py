from __future__ import annotations

import dataclasses
import importlib

import numpy as np
import pytest
from PIL import Image

import masktree
from masktree import DiscoverySegmenter, MaskTree
from masktree.discover.hassod import hassod
from masktree.discover.methods import METHODS as METHODS_BY_NAME
from masktree.errors import ImageError, InputError, WeightsError
from masktree.io.images import as_rgb, read_image
from masktree.io.resize import resize_image
from tests.oracles.discover import BLUE, GREEN, RED, WHITE, PaintedBackbone, cells, paint, unchanged

METHODS = ("masktree", "hassod", "sohes", "unsam", "maskcut")
# Small working sizes: the invariants do not depend on them.
QUICK = {
    "masktree": {},
    "hassod": {"side": 160},
    "sohes": {"side": 160, "crop_side": 64, "max_crops": 8},
    "unsam": {"side": 160, "crop_side": 96},
    "maskcut": {"side": 160},
}
PAINTED = PaintedBackbone({colour: np.eye(4)[i] for i, colour in enumerate((GREEN, RED, BLUE, WHITE))})


def scene() -> np.ndarray:
    return paint(GREEN, [(cells(12, 12, 2, 6, 1, 6), RED), (cells(12, 12, 7, 10, 5, 11), BLUE)])


def painted(**options) -> DiscoverySegmenter:
    return DiscoverySegmenter(PAINTED, "hassod", options={"side": 96, "refiner": unchanged} | options)


def same(a: MaskTree, b: MaskTree) -> bool:
    arrays = ("parents", "scores", "granularities", "stabilities", "levels")
    return a.rles == b.rles and all((getattr(a, name) == getattr(b, name)).all() for name in arrays)


# --- the methods on photographs ------------------------------------------------------------------------------------


def check_tree(tree: MaskTree, size: tuple[int, int]) -> None:
    assert tree.size == size
    masks = [tree.mask(i) for i in range(len(tree))]
    for child, parent in enumerate(tree.parents):
        assert masks[child].any()
        if parent >= 0:
            assert (masks[child] & masks[parent]).sum() >= 0.9 * masks[child].sum()
            assert masks[parent].sum() > masks[child].sum()
            assert tree.granularities[parent] >= tree.granularities[child]
    for granularity in (0.0, 0.3, 0.7, 1.0):
        labels = tree.cut(granularity)
        assert labels.shape == size
        assert np.unique(labels).tolist() == list(range(labels.max() + 1))
    assert ((tree.scores >= 0) & (tree.scores <= 1)).all()


@pytest.mark.parametrize(("backbone", "least"), [("texture", 3), ("embedded", 1)])
@pytest.mark.parametrize("method", METHODS)
def test_trees_of_photographs_are_nested_repeatable_and_cover(photos, method, backbone, least):
    segmenter = masktree.load(backbone, method=method, **QUICK[method])
    for path in photos[:3]:
        image = read_image(path)
        scale = 160 / max(image.shape)
        image = resize_image(image, (round(image.shape[0] * scale), round(image.shape[1] * scale)))
        tree = segmenter(image)
        assert len(tree) >= (1 if method == "maskcut" else least)
        check_tree(tree, image.shape[:2])
    assert same(segmenter(image), tree)


@pytest.mark.parametrize("method", METHODS)
def test_grey_uniform_and_tiny_images_give_trees(method, photos):
    segmenter = masktree.load(method=method, **QUICK[method])
    grey = np.asarray(Image.open(photos[0]).convert("L").resize((90, 70)))
    for image in (
        np.repeat(grey[..., None], 3, axis=2),
        np.full((40, 60, 3), 77, np.uint8),
        np.full((1, 1, 3), 200, np.uint8),
        np.arange(45, dtype=np.uint8).reshape(3, 5, 3),
    ):
        check_tree(segmenter(image), image.shape[:2])


# --- DiscoverySegmenter ---------------------------------------------------------------------------------------------


def test_paths_arrays_and_pillow_images_are_the_same(tmp_path):
    image, segmenter = scene(), painted()
    expected = segmenter(image)
    assert len(expected) == 2
    path = tmp_path / "scene.png"
    Image.fromarray(image).save(path)
    assert same(segmenter(path), expected)
    assert same(segmenter(str(path)), expected)
    assert same(segmenter(Image.open(path)), expected)
    assert same(segmenter(np.asfortranarray(image)), expected)


def test_pillow_modes_become_rgb():
    grey = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48) * 20
    rgba = np.zeros((4, 5, 4), np.uint8)
    rgba[..., 0], rgba[:2, :, 3] = 255, 255
    for picture in (
        Image.fromarray((grey // 256).astype(np.uint8)),
        Image.fromarray(grey),
        Image.fromarray(rgba),
        Image.fromarray(rgba).convert("LA"),
        Image.fromarray(rgba[..., :3]).convert("CMYK"),
        Image.fromarray(rgba[..., :3]).convert("P"),
        Image.fromarray(rgba[..., 0] > 0),
    ):
        rgb = as_rgb(picture)
        assert rgb.shape == (picture.height, picture.width, 3)
        assert rgb.dtype == np.uint8
    assert as_rgb(Image.fromarray(rgba)).tolist()[0][0] == [255, 0, 0]
    assert as_rgb(Image.fromarray(rgba)).tolist()[3][0] == [255, 255, 255]  # transparent: over white
    deep = as_rgb(Image.fromarray(grey))
    assert deep.min() == 0
    assert deep.max() == 255


def test_images_of_every_kind_reach_every_entry(monkeypatch, rng):
    image = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image[:15] = 9
    bgr = image[..., ::-1]
    opaque = np.concatenate([bgr, np.full((30, 40, 1), 255, np.uint8)], axis=2)
    segmenter, seen, tree = painted(), [], MaskTree.from_masks(np.ones((1, 30, 40), np.bool_))

    def method(image, backbone, **options):
        seen.append(image)
        return tree

    named = dataclasses.replace(METHODS_BY_NAME["hassod"], load=lambda: method)
    monkeypatch.setitem(METHODS_BY_NAME, "hassod", named)
    segmenter(bgr, "BGR")
    segmenter(image / 255)
    segmenter(opaque, image_format="BGR")
    segmenter.segment_batch([bgr, opaque], image_format="BGR")
    segmenter.segment_batch(np.stack([image, image]))
    generator = masktree.AutomaticMaskGenerator(segmenter)
    generator.generate(bgr, image_format="BGR")
    generator.generate(Image.fromarray(image))
    assert len(seen) == 9
    for picture in seen:
        np.testing.assert_array_equal(picture, image)
    picture = masktree.overlay(image, tree)
    np.testing.assert_array_equal(masktree.overlay(bgr, tree, image_format="BGR"), picture)
    np.testing.assert_array_equal(tree.draw(Image.fromarray(image)), picture)


def test_other_images_are_refused_at_every_entry():
    segmenter = painted()
    generator, predictor = masktree.AutomaticMaskGenerator(segmenter), masktree.Predictor(segmenter)
    tree = segmenter(scene())
    for entry in (segmenter, generator.generate, predictor.set_image, lambda image: masktree.overlay(image, tree)):
        with pytest.raises(InputError, match=r"expected an image: .*; got the channels first"):
            entry(np.zeros((3, 8, 9), np.uint8))
    with pytest.raises(InputError, match="expected a list of images"):
        segmenter.segment_batch(scene())


def test_empty_arrays_and_unreadable_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least one pixel"):
        painted()(np.zeros((0, 4, 3), np.uint8))
    (tmp_path / "words.jpg").write_bytes(b"words")
    with pytest.raises(ImageError, match="expected an image file"):
        painted()(tmp_path / "words.jpg")
    with pytest.raises(ImageError):
        painted()(tmp_path / "missing.jpg")


def test_options_reach_the_method():
    image = scene()
    assert same(painted(min_area=1400)(image), hassod(image, PAINTED, side=96, refiner=unchanged, min_area=1400))
    assert len(painted(min_area=1400)(image)) == 0
    assert len(dataclasses.replace(painted(), min_area=1200)(image)) == 1
    assert len(dataclasses.replace(painted(min_area=5), min_area=1400)(image)) == 2  # the nearer word counts


def test_quality_chooses_the_refiner(monkeypatch):
    from masktree import refine

    given = {}

    def discover(image, backbone, **options):
        given.update(options)
        return MaskTree.from_masks(np.ones((1, *image.shape[:2]), np.bool_))

    for method in ("sohes", "unsam"):
        module = importlib.import_module(f"masktree.discover.{method}")
        monkeypatch.setattr(module, method, discover)
    for method in ("sohes", "unsam"):
        DiscoverySegmenter(PAINTED, method)(scene())
        assert given.pop("refiner") is refine.guided
        DiscoverySegmenter(PAINTED, method, "best")(scene())
        assert "refiner" not in given
        DiscoverySegmenter(PAINTED, method, options={})(scene())
        given.clear()


@pytest.mark.parametrize("method", METHODS)
def test_unknown_options_are_named_at_once(method):
    with pytest.raises(InputError, match=rf"options of the method {method}: .*duplicate_iou.*got threshhold"):
        masktree.load(method=method, threshhold=0.3)


def test_wrong_models_methods_and_values_are_refused():
    with pytest.raises(WeightsError, match="dino-vits9"):
        masktree.load("dino-vits9")
    with pytest.raises(InputError, match="method to be one of masktree, hassod, sohes, unsam, maskcut; got 'sam'"):
        masktree.load(method="sam")
    with pytest.raises(InputError, match="quality to be one of fast, best; got 'good'"):
        masktree.load(quality="good")
    for least in (0, -3, 1.5, float("nan"), "9"):
        with pytest.raises(InputError, match=f"min_area of at least 1 pixel; got {least!r}"):
            masktree.load(min_area=least)
        with pytest.raises(InputError, match=f"min_area of at least 1 pixel; got {least!r}"):
            DiscoverySegmenter(PAINTED, "hassod", options={"min_area": least})
    for model in (None, 5, np.zeros(3)):
        with pytest.raises(InputError, match="the name of a backbone, a file or a folder as text; got"):
            masktree.load(model)
