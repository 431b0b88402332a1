"""Images by window: every layout of a TIFF file gives the pixels of the whole picture."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from masktree.errors import ImageError
from masktree.io.block_grid import BlockGrid
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
    monkeypatch.setattr("masktree.io.windows._CACHE_BYTES", 5000)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", tile=(16, 32))
    windows = TiffWindows(tmp_path / "a.tif")
    for window in WINDOWS:
        assert np.array_equal(windows.read(window), picture[window.slices()])
    assert len(windows._segments) <= 3


@pytest.mark.parametrize("name", ["a.png", "a.bmp"])
def test_other_files_are_decoded_once(picture, tmp_path, name):
    Image.fromarray(picture).save(tmp_path / name)
    windows = open_windows(tmp_path / name, tmp_path)
    assert np.array_equal(windows.read(WINDOWS[1]), picture[WINDOWS[1].slices()])
    assert (tmp_path / "image.npy").exists()
    assert read_dimensions(tmp_path / name) == (70, 90)


@pytest.mark.parametrize("layout", [{"rowsperstrip": 70}, {"rowsperstrip": 70, "compression": "zlib"}])
def test_a_large_strip_is_not_decoded_for_each_window(picture, tmp_path, monkeypatch, layout):
    monkeypatch.setattr("masktree.io.windows._MAX_SEGMENT_BYTES", 1000)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", **layout)
    windows = open_windows(tmp_path / "a.tif", tmp_path)
    assert not isinstance(windows, TiffWindows)
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


@pytest.mark.parametrize(("kind", "expected"), [("unassalpha", 205), ("assocalpha", 255), ("unspecified", 100)])
def test_a_fourth_channel_is_opacity_where_it_is_marked_so(tmp_path, kind, expected):
    pixels = np.full((20, 20, 4), 100, np.uint8)
    pixels[..., 3] = 82  # 100 over white: 255 - (255 - 100) * 82 / 255 = 205; premultiplied 100 + 255 - 82 > 255
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[kind], tile=(16, 16))
    windows = open_windows(tmp_path / "a.tif", tmp_path)
    assert (windows.read(Window(3, 3, 19, 20)) == expected).all()
    assert ("first three" in windows.note) == (kind == "unspecified")


def test_what_cannot_be_read_is_said(picture, tmp_path):
    tifffile.imwrite(tmp_path / "inverted.tif", picture[..., 0], photometric="miniswhite", tile=(16, 16))
    tifffile.imwrite(tmp_path / "inks.tif", np.dstack([picture, picture[..., 0]]), photometric="separated")
    for name in ("inverted.tif", "inks.tif"):
        with pytest.raises(ImageError, match="grey or RGB"):
            open_windows(tmp_path / name, tmp_path)
    tifffile.imwrite(tmp_path / "deep.tif", picture.astype(np.uint16), photometric="rgb", tile=(16, 16))
    (tmp_path / "damaged.tif").write_bytes(b"II*\0damaged")
    (tmp_path / "text.png").write_text("text")
    for name, message in [("deep.tif", "8 bits"), ("damaged.tif", "cannot read"), ("text.png", "cannot read")]:
        with pytest.raises(ImageError, match=message):
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
