"""Arrays as people have them: what is unambiguous is converted, the rest is refused with the conversion to write."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from masktree.errors import ImageError, InputError
from masktree.io.images import as_rgb, list_images, read_image
from masktree.io.pixels import scale_grey


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def grey_as_rgb(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def test_grey_arrays_become_rgb(rgb):
    grey = rgb[..., 0]
    for array in (grey, grey[..., None], grey.astype(np.int64), np.asfortranarray(grey), grey.astype(">u2")):
        np.testing.assert_array_equal(as_rgb(array), grey_as_rgb(grey))
    np.testing.assert_array_equal(as_rgb(grey > 99), grey_as_rgb(np.where(grey > 99, 255, 0).astype(np.uint8)))


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(1000, 5000, 54).reshape(6, 9).astype(np.uint16),
        np.linspace(-2, 3, 54).reshape(6, 9).astype(np.float32),
        np.linspace(0.2, 0.7, 54).reshape(6, 9).astype(np.float32),
        np.linspace(-500, 9000, 54).reshape(6, 9).astype(np.int32),
    ],
    ids=["uint16", "float", "float in [0, 1]", "int32"],
)
def test_grey_arrays_are_scaled_as_their_file_is(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "grey.tiff")
    image = as_rgb(values)
    np.testing.assert_array_equal(image, read_image(tmp_path / "grey.tiff"))
    assert (image.min(), image.max()) == (0, 255)


def test_colour_arrays_of_other_types_become_bytes(rgb):
    for array in (rgb.astype(np.int64), rgb.astype(np.uint16), (rgb.astype(np.uint16) << 8) + 77):
        np.testing.assert_array_equal(as_rgb(array), rgb)
    for dtype in (np.float64, np.float32):
        np.testing.assert_array_equal(as_rgb((rgb / 255).astype(dtype)), rgb)
    nearly = rgb / 255
    nearly[0, 0] = 1 + 1e-6  # rounding of a resize
    assert as_rgb(nearly)[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(as_rgb(rgb > 99), np.where(rgb > 99, 255, 0))


def test_transparent_pixels_lie_over_white_as_in_files(tmp_path, rgb, rng):
    rgba = np.concatenate([rgb, rng.integers(0, 256, (6, 9, 1), dtype=np.uint8)], axis=2)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    expected = read_image(tmp_path / "rgba.png")
    np.testing.assert_array_equal(as_rgb(rgba), expected)
    np.testing.assert_array_equal(as_rgb(rgba / 255), expected)
    np.testing.assert_array_equal(as_rgb(rgba[..., [2, 1, 0, 3]], "BGR"), expected)


def test_bgr_is_an_option_of_arrays_only(tmp_path, rgb):
    np.testing.assert_array_equal(as_rgb(rgb[..., ::-1], "BGR"), rgb)
    np.testing.assert_array_equal(as_rgb(rgb[..., 0], "BGR"), as_rgb(rgb[..., 0]))
    np.testing.assert_array_equal(as_rgb(Image.fromarray(rgb), "BGR"), rgb)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    np.testing.assert_array_equal(as_rgb(tmp_path / "a.png", "BGR"), rgb)
    with pytest.raises(InputError, match="image_format 'RGB' or 'BGR'; got 'HSV'"):
        as_rgb(rgb, "HSV")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((6, 9, 3), 200.0), r"floats from 200 to 200, not in \[0, 1\].* np.clip\(image, 0, 255\)"),
        (np.full((6, 9, 3), 1.2), r"not in \[0, 1\] in a float64 .*; write np.clip\(image, 0, 1\)"),
        (np.full((6, 9, 3), -0.5), r"floats from -0.5"),
        (np.full((6, 9, 3), np.nan), "NaN or infinity"),
        (np.full((6, 9), np.inf, np.float32), "NaN or infinity"),
        (np.full((6, 9, 3), 4000, np.uint16), r"values of 12 bits in 16 .* write \(image >> 4\).astype\(np.uint8\)"),
        (np.full((6, 9, 3), 300, np.int32), "values from 300 to 300"),
        (np.full((6, 9, 3), -1), "values from -1 to -1"),
        (np.zeros((3, 6, 9), np.uint8), r"the channels first .*; write np.moveaxis\(image, 0, -1\)"),
        (np.zeros((1, 6, 9), np.uint8), r"; write image\[0\]"),
        (np.zeros((1, 6, 9, 3), np.uint8), r"; write image\[0\]"),
        (np.zeros((2, 6, 9, 3), np.uint8), r"several images at once .*segment_batch\(list\(images\)\)"),
        (np.zeros((6, 9, 2), np.uint8), "2 channels .* choose one"),
        (np.zeros((6, 9, 12), np.uint16), "12 channels"),
        (np.zeros(9, np.uint8), "1 axes"),
        (np.zeros((6, 9, 3), complex), "complex128 values"),
        (np.zeros((6, 9), object), "object values"),
        (np.ma.masked_less(np.arange(54).reshape(6, 9), 9), r"masked pixels .* image.filled\(0\)"),
    ],
)
def test_ambiguous_arrays_are_refused_with_the_conversion_to_write(array, message):
    with pytest.raises(InputError, match=f"^expected .*; got .*{message}"):
        as_rgb(array)


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (
            torch.zeros(3, 6, 9),
            r"a torch tensor of shape \(3, 6, 9\); write image.permute\(1, 2, 0\).cpu\(\).numpy\(\)",
        ),
        (torch.zeros(2, 3, 6, 9), r"segment_batch\(\[image.permute"),
        (torch.zeros(6, 9, 3), r"write image.cpu\(\).numpy\(\)"),
        (b"\x89PNG", r"got bytes; write PIL.Image.open\(io.BytesIO\(image\)\)"),
        ([[1, 2], [3, 4]], r"got list; write np.asarray\(image\)"),
        (None, "got NoneType"),
    ],
)
def test_other_objects_are_refused_with_the_conversion_to_write(thing, message):
    with pytest.raises(InputError, match=f"^expected an image: .*{message}"):
        as_rgb(thing)


def test_one_image_is_not_taken_for_several(rgb):
    for one in (rgb, rgb[..., 0], "photo.jpg", Image.fromarray(rgb), 7):
        with pytest.raises(InputError, match="expected a list of images; got"):
            list_images(one)
    assert len(list_images(np.stack([rgb, rgb]))) == 2


# --- the range of grey ----------------------------------------------------------------------------------------------


def cells(rng) -> np.ndarray:
    """Three discs of different brightness on a dark ground with noise, 16 bits."""
    y, x = np.mgrid[:60, :80]
    image = 100 + rng.normal(0, 2, (60, 80))
    for cx, value in ((15, 140), (40, 180), (65, 230)):
        image[(x - cx) ** 2 + (y - 30) ** 2 < 64] = value
    return image.astype(np.uint16)


@pytest.mark.parametrize("value", [0, 65535])
def test_hot_and_dead_pixels_do_not_take_the_range_of_grey(tmp_path, rng, value):
    clean = cells(rng) + np.uint16(3000)
    clean[5, 7] = clean[50, 20] = 3100
    image = clean.copy()
    image[5, 7] = image[50, 20] = value
    hot = scale_grey(image)
    others = image != value
    np.testing.assert_array_equal(hot[others], scale_grey(clean)[others])
    assert (hot[~others] == (255 if value else 0)).all()
    Image.fromarray(image).save(tmp_path / "hot.png")
    np.testing.assert_array_equal(read_image(tmp_path / "hot.png")[..., 0], hot)


def test_small_bright_objects_and_thin_lines_keep_the_whole_range(rng):
    dark = rng.integers(90, 110, (60, 80)).astype(np.uint16)
    for rows, columns in ((slice(5, 7), slice(9, 11)), (slice(30, 31), slice(None))):
        image = dark.copy()
        image[rows, columns] = 4000
        grey = scale_grey(image)
        assert grey[rows, columns].min() == 255
        assert np.delete(grey, rows, axis=0).max() <= 2
    single = np.full((20, 30), 500, np.uint16)
    single[3, 4] = 900
    assert scale_grey(single).max() == 255  # all else is constant: the pixel is all there is to see


def test_grey_of_any_range_and_size_is_scaled():
    assert scale_grey(np.array([[7.0]])).tolist() == [[0]]
    assert scale_grey(np.array([[300, 400, 555]])).tolist() == [[0, 100, 255]]
    assert scale_grey(np.array([[0, 60000]], np.float16)).tolist() == [[0, 255]]
    assert scale_grey(np.array([[0.0, 1.0], [np.nan, 4.0]])).tolist() == [[0, 64], [0, 255]]
    with pytest.raises(ImageError, match="finite pixel values"):
        scale_grey(np.full((4, 4), np.nan))
