"""Planted images: what the range of values keeps, and what it leaves out."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.errors import ImageError, InputError
from masktree.io.images import as_rgb, read_image
from masktree.io.read_options import ReadOptions
from masktree.io.value_range import ValueRange, find_value_ranges, to_bytes


def ranges(values, valid=None, **options):
    found = find_value_ranges(values[..., None] if values.ndim == 2 else values, valid, **options)
    return [(r.low, r.high) for r in found.ranges]


@pytest.fixture
def ground(rng) -> np.ndarray:
    """Dark ground with noise, (100, 120) uint16 from 900 to 1100."""
    return rng.integers(900, 1101, (100, 120)).astype(np.uint16)


@pytest.mark.parametrize("brightness", [3000, 20_000, 65_535])
def test_small_bright_cells_keep_the_whole_range(ground, brightness):
    """Two cells of 4 x 4 pixels: .27 % of the image, also where they are saturated."""
    ground[10:14, 20:24] = brightness
    ground[70:74, 90:94] = brightness // 2
    assert ranges(ground) == [(900, brightness)]


def test_hot_pixels_and_data_errors_change_nothing(ground):
    clean = ranges(ground.astype(np.float32))
    for value in (np.nan, np.inf, -np.inf, 65_000, -40_000):
        image = ground.astype(np.float32)
        image[5, 5] = image[50, 60] = value
        assert ranges(image) == clean
        assert to_bytes(image[..., None], [ValueRange(*clean[0])])[5, 5, 0] == (255 if value == 65_000 else 0)


@pytest.mark.parametrize("value", [-9999, -32768, -99999, 1e20, 3.4e38, -3.4028234663852886e38])
def test_values_for_no_data_change_nothing(ground, value):
    image = ground.astype(np.float32)
    image[:, :40] = value
    found = find_value_ranges(image[..., None])
    assert [(r.low, r.high) for r in found.ranges] == [(900, 1100)]
    assert found.void_values == (float(np.float32(value)),)
    assert ranges(image, image != np.float32(value)) == [(900, 1100)]


def test_pixels_that_look_like_no_data_stay(ground):
    zero = ground * (ground > 1000)  # 0 is a pixel
    assert ranges(zero) == [(0, 1100)]
    deep = np.linspace(-11_000, 8000, 12_000).reshape(100, 120).astype(np.float32)
    deep[3, 3] = -9999  # a depth among others
    assert ranges(deep) == [(-11_000, 8000)]


def test_a_saturated_background_leaves_the_objects(ground):
    image = np.full_like(ground, 65_535)
    image[30:60, 30:60] = ground[30:60, 30:60]
    assert ranges(image)[0][1] == 65_535
    shown = to_bytes(image[..., None], [ValueRange(*ranges(image)[0])])
    assert shown[0, 0, 0] == 255
    assert shown[40, 40, 0] < 5


def test_constant_and_empty_images(ground):
    assert ranges(np.full((5, 6), 700, np.uint16)) == [(700, 700)]
    assert to_bytes(np.full((5, 6, 1), 700, np.uint16), [ValueRange(700, 700)]).max() == 0
    with pytest.raises(ImageError, match="finite pixel values"):
        ranges(np.full((5, 6), np.nan))
    with pytest.raises(ImageError, match="finite pixel values"):
        ranges(ground, np.zeros(ground.shape, bool))


def test_colours_share_a_range_and_keep_their_scale(ground):
    photo = np.stack([ground * 50, ground * 40, ground * 30], axis=2)
    assert ranges(photo, is_colour=True) == [(0, 65_535)] * 3
    assert len(set(ranges(ground[..., None] * np.array([1, 2, 3], np.uint16), is_colour=True))) == 1
    assert len(set(ranges(photo))) == 3
    assert ranges(photo / 65_535, is_colour=True) == [(0, 1)] * 3
    assert ranges(photo.astype(np.uint8), is_colour=True) == [(0, 255)] * 3


def test_percentiles_are_those_of_the_pixels_that_count(ground):
    image = ground.astype(np.float64)
    expected = np.percentile(image, (1, 99))
    assert ranges(image, percentiles=(1, 99)) == [pytest.approx(expected)]
    image[:50] = np.nan
    assert ranges(image, percentiles=(0, 100)) == [(np.nanmin(image), np.nanmax(image))]
    assert ranges((ground // 5).astype(np.uint8), percentiles=(0, 100)) == [(180, 220)]


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int16", ">u2", "int32", "uint64", "f2", "f4", "f8"]
)
def test_tables_give_what_the_formula_gives(rng, dtype):
    values = (rng.random((40, 50, 2)) * 100).astype(dtype)
    limits = [ValueRange(10, 60), ValueRange(0, 99)]
    expected = [
        np.clip(np.rint((values[..., c].astype(float) - r.low) * (255 / (r.high - r.low))), 0, 255)
        for c, r in enumerate(limits)
    ]
    np.testing.assert_array_equal(to_bytes(values, limits), np.stack(expected, axis=2))


def test_arrays_are_read_with_options(ground):
    bands = np.stack([ground + np.uint16(1000 * k) for k in range(5)], axis=2)
    image = as_rgb(bands, read_options=ReadOptions((4, 2, 0)))
    np.testing.assert_array_equal(image[..., 2], to_bytes(ground[..., None], [ValueRange(900, 1100)])[..., 0])
    masked = np.ma.masked_less(ground.astype(np.float64), 1000)
    assert as_rgb(masked, read_options=ReadOptions())[ground < 1000].max() == 0
    holes = ground.astype(np.float32)
    holes[0, 0] = np.nan
    assert as_rgb(holes, read_options=ReadOptions()).max() == 255
    with pytest.raises(InputError, match="no page with an array"):
        as_rgb(bands, read_options=ReadOptions(page=1))
    with pytest.raises(ImageError, match="got '7'"):
        as_rgb(bands, read_options=ReadOptions((7,)))


@pytest.mark.parametrize(
    "options",
    [
        {"channels": ()},
        {"channels": (0, 1, 2, 3)},
        {"channels": (-1,)},
        {"channels": (True,)},
        {"channels": (0.5,)},
        {"page": -1},
        {"page": "0"},
        {"nodata": "x"},
        {"value_range": (99, 1)},
        {"value_range": (1,)},
        {"value_range": (0, 101)},
        {"value_range": (float("nan"), 99)},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=r"^expected .*; got "):
        ReadOptions(**options)


def test_wrong_channels_of_a_file_are_an_input_error(tmp_path):
    for channels in (5.0, object(), [[0]], {0}):
        with pytest.raises(InputError, match="one, two or three channels"):
            read_image(tmp_path / "none.png", channels=channels)


def test_options_come_back_from_a_record():
    for options in (ReadOptions(), ReadOptions(("nir", 1), 3, float("nan"), (1, 99)), ReadOptions(nodata=-9999)):
        again = ReadOptions.from_record(options.record())
        assert again.record() == options.record()
    for damaged in ([], {"colour": 1}, {"page": "x"}, {"channels": 5.5}):
        with pytest.raises(InputError):
            ReadOptions.from_record(damaged)
