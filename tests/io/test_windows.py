"""Images by window: every layout of a TIFF file gives the pixels of the whole picture."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from masktree.errors import ImageError
from masktree.io.block_grid import BlockGrid
from masktree.io.images import as_rgb, decode_image
from masktree.io.read_options import ReadOptions
from masktree.io.tiff import open_tiff
from masktree.io.tiff_windows import TiffSamples
from masktree.io.windows import TiffWindows, Window, open_windows, read_dimensions

WINDOWS = [Window(0, 0, 70, 90), Window(13, 30, 15, 90), Window(40, 0, 64, 33), Window(69, 89, 70, 90)]


@pytest.fixture
def picture(rng):
    return rng.integers(256, size=(70, 90, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "layout",
    [
        {"tile": (16, 32)},
        {"tile": (16, 32), "compression": "zlib"},
        {"rowsperstrip": 7},
        {"rowsperstrip": 7, "compression": "lzw", "predictor": True},
        {"tile": (32, 16), "planarconfig": "separate"},
        {"rowsperstrip": 9, "planarconfig": "separate", "bigtiff": True},
        {"rowsperstrip": 70},
    ],
    ids=str,
)
def test_windows_of_tiff_files(picture, tmp_path, layout):
    planes = np.moveaxis(picture, 2, 0) if layout.get("planarconfig") == "separate" else picture
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", **layout)
    windows = open_windows(tmp_path / "a.tif", tmp_path)
    assert isinstance(windows, TiffWindows)
    assert windows.size == read_dimensions(tmp_path / "a.tif") == (70, 90)
    for window in WINDOWS * 2:
        assert np.array_equal(windows.read(window), picture[window.slices()])


def test_few_segments_stay_in_memory(picture, tmp_path, monkeypatch):
    monkeypatch.setattr("masktree.io.tiff_windows._CACHE_BYTES", 5000)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", tile=(16, 32))
    with open_tiff(tmp_path / "a.tif") as page:
        samples = TiffSamples(tmp_path / "a.tif", page)
    for window in WINDOWS:
        assert np.array_equal(samples.read(window), picture[window.slices()])
    assert len(samples._planes[0]._segments) <= 3


@pytest.mark.parametrize("name", ["a.png", "a.bmp"])
def test_other_files_are_decoded_once(picture, tmp_path, name):
    Image.fromarray(picture).save(tmp_path / name)
    windows = open_windows(tmp_path / name, tmp_path)
    assert np.array_equal(windows.read(WINDOWS[1]), picture[WINDOWS[1].slices()])
    assert (tmp_path / "image.npy").exists()
    assert read_dimensions(tmp_path / name) == (70, 90)


@pytest.mark.parametrize("layout", [{"rowsperstrip": 70}, {"rowsperstrip": 70, "compression": "zlib"}])
def test_a_large_strip_is_not_decoded_for_each_window(picture, tmp_path, monkeypatch, layout):
    monkeypatch.setattr("masktree.io.tiff_windows._MAX_SEGMENT_BYTES", 1000)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", **layout)
    windows = open_windows(tmp_path / "a.tif", tmp_path)
    assert isinstance(windows, TiffWindows)
    assert windows._samples._whole is not None
    assert np.array_equal(windows.read(WINDOWS[1]), picture[WINDOWS[1].slices()])


def test_grey_and_opacity(picture, tmp_path):
    grey = open_windows(picture[..., 0], tmp_path).read(WINDOWS[1])
    assert np.array_equal(grey, np.repeat(picture[..., :1], 3, 2)[WINDOWS[1].slices()])
    opacity = np.where(np.arange(90) < 45, 255, 0)[None, :, None].repeat(70, 0).astype(np.uint8)
    rgb = open_windows(np.concatenate([picture, opacity], 2), tmp_path).read(WINDOWS[0])
    assert np.array_equal(rgb[:, :45], picture[:, :45])
    assert (rgb[:, 45:] == 255).all()


def test_georeferences_are_read(picture, tmp_path):
    tags = [(33550, 12, 3, (0.5, 0.5, 0.0), True), (34735, 3, 4, (1, 1, 0, 0), True), (34737, 2, 0, "WGS 84|", True)]
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", extratags=tags)
    geotiff_tags = open_windows(tmp_path / "a.tif", tmp_path).geotiff_tags
    assert geotiff_tags.tags == {33550: (0.5, 0.5, 0.0), 34735: (1, 1, 0, 0), 34737: "WGS 84|"}
    tifffile.imwrite(tmp_path / "b.tif", picture, photometric="rgb", extratags=geotiff_tags.extra_tags())
    assert open_windows(tmp_path / "b.tif", tmp_path).geotiff_tags == geotiff_tags


def deep(rng, *shape):
    """Values of 12 bits in 16, with one hot pixel and a corner without data."""
    values = rng.integers(300, 4096, size=shape).astype(np.uint16)
    values[5, 7] = 65535
    values[:20, :30] = 0
    return values


FILES = {
    "16 bits": lambda rng: (deep(rng, 70, 90), {"tile": (32, 32), "compression": "zlib"}),
    "16-bit bands": lambda rng: (deep(rng, 70, 90, 4), {"photometric": "minisblack", "planarconfig": "contig"}),
    "separate bands": lambda rng: (
        np.moveaxis(deep(rng, 70, 90, 4), 2, 0),
        {"photometric": "minisblack", "planarconfig": "separate"},
    ),
    "8-bit bands": lambda rng: (
        rng.integers(256, size=(70, 90, 4)).astype(np.uint8),
        {"photometric": "minisblack", "planarconfig": "contig"},
    ),
    "infrared": lambda rng: (
        rng.integers(30, 200, size=(70, 90, 4)).astype(np.uint8),
        {"photometric": "rgb", "extrasamples": ["unassalpha"], "tile": (16, 16)},
    ),
    "opacity": lambda rng: (
        rng.integers(256, size=(70, 90, 4)).astype(np.uint8),
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
    ),
    "associated": lambda rng: (
        np.sort(rng.integers(256, size=(70, 90, 4)).astype(np.uint8)),
        {"photometric": "rgb", "extrasamples": ["assocalpha"]},
    ),
    "unspecified": lambda rng: (
        rng.integers(256, size=(70, 90, 4)).astype(np.uint8),
        {"photometric": "rgb", "extrasamples": ["unspecified"], "tile": (16, 16)},
    ),
    "floats": lambda rng: (rng.normal(3, 9, (70, 90)).astype(np.float32), {"byteorder": ">", "compression": "lzw"}),
    "no data": lambda rng: (
        np.where(rng.random((70, 90)) < 0.1, -9999, rng.normal(3, 9, (70, 90))).astype(np.float32),
        {"rowsperstrip": 7},
    ),
    "declared no data": lambda rng: (deep(rng, 70, 90), {"extratags": [(42113, 2, 0, "0", True)]}),
    "inverted": lambda rng: (rng.integers(256, size=(70, 90)).astype(np.uint8), {"photometric": "miniswhite"}),
    "inks": lambda rng: (
        rng.integers(256, size=(70, 90, 4)).astype(np.uint8),
        {"photometric": "separated", "tile": (16, 16)},
    ),
    "palette": lambda rng: (
        rng.integers(256, size=(70, 90)).astype(np.uint8),
        {"photometric": "palette", "colormap": rng.integers(2**16, size=(3, 256)).astype(np.uint16)},
    ),
    "turned": lambda rng: (
        rng.integers(256, size=(70, 90, 3)).astype(np.uint8),
        {"photometric": "rgb", "extratags": [(274, 3, 1, 6, True)]},
    ),
    "one bit": lambda rng: (rng.random((70, 90)) < 0.5, {"photometric": "minisblack"}),
}
OPTIONS = [
    ReadOptions(),
    ReadOptions(channels=(0,)),
    ReadOptions(nodata=0),
    ReadOptions(value_range=(1, 99)),
    ReadOptions(channels=(2, 0), value_range=(0, 90), nodata=300),
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: str(options.record()))
@pytest.mark.parametrize("kind", FILES)
def test_windows_show_what_is_read_whole(rng, tmp_path, kind, options, monkeypatch):
    monkeypatch.setattr("masktree.io.rendered_copy._STRIP_ROWS", 16)
    array, layout = FILES[kind](rng)
    tifffile.imwrite(tmp_path / "a.tif", array, **layout)
    try:
        expected = decode_image(tmp_path / "a.tif", options)
    except ImageError as error:
        with pytest.raises(ImageError, match=str(error)[:30]):
            open_windows(tmp_path / "a.tif", tmp_path, options)
        return
    for _ in range(2):  # the second time from the copy
        windows = open_windows(tmp_path / "a.tif", tmp_path, options)
        assert windows.size == expected.rgb.shape[:2]
        for window in [Window(0, 0, *windows.size), Window(13, 30, 45, 61)]:
            assert np.array_equal(windows.read(window), expected.rgb[window.slices()])
        assert windows.reading.record == expected.record()
        assert windows.reading.notes == expected.notes


def test_arrays_of_other_types_are_shown_as_files_are(rng, tmp_path):
    values = deep(rng, 70, 90, 5)
    options = ReadOptions(channels=(4, 2, 0), value_range=(1, 99))
    found = open_windows(values, tmp_path, options)
    assert np.array_equal(found.read(WINDOWS[0]), as_rgb(values, read_options=options))
    assert found.reading.record["channels"] == ["4", "2", "0"]


def test_pages_and_turned_photographs(picture, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([picture, 255 - picture]), photometric="rgb")
    windows = open_windows(tmp_path / "a.tif", tmp_path, ReadOptions(page=1))
    assert np.array_equal(windows.read(WINDOWS[1]), 255 - picture[WINDOWS[1].slices()])
    assert "page 1 of 0 to 1" in windows.reading.notes["pages"]
    exif = Image.Exif()
    exif[274] = 8
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    (tmp_path / "work").mkdir()
    turned = open_windows(tmp_path / "turned.png", tmp_path / "work")
    assert turned.size == read_dimensions(tmp_path / "turned.png") == (90, 70)
    assert np.array_equal(turned.read(Window(0, 0, 90, 70)), np.rot90(picture))


def test_what_cannot_be_read_is_said(tmp_path):
    (tmp_path / "damaged.tif").write_bytes(b"II*\0damaged")
    (tmp_path / "text.png").write_text("text")
    for name in ("damaged.tif", "text.png"):
        with pytest.raises(ImageError, match=r"cannot read|damaged"):
            open_windows(tmp_path / name, tmp_path)


def test_blocks_cover_the_image_once():
    grid = BlockGrid((70, 90), 32)
    count = np.zeros((70, 90), int)
    for index in range(len(grid)):
        count[grid.window(index).slices()] += 1
    assert (count == 1).all()
    assert grid.window(4, halo=8) == (24, 24, 70, 72)
    assert sorted(index for blocks in grid.tiles(64) for index in blocks) == list(range(9))
    assert grid.inside(Window(31, 32, 33, 33)) == [1, 4]
    assert len(grid.seams()) == 12
