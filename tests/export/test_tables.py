"""Intensities of tables: those of the file where it has more bits or other channels than the picture that is shown."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from masktree.export.formats import FORMATS
from masktree.export.image import LabelledImage
from masktree.export.options import ExportOptions
from masktree.io.images import read_channels
from tests.export.planted import SIZE, planted_image, planted_masks, planted_photo


def table(images: list[LabelledImage], path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of these images."""
    entry, options = FORMATS["csv"], ExportOptions()
    entry.write((entry.prepare(image, options) for image in images), path, options)
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def check(rows: list[dict[str, str]], values: np.ndarray, names: list[str]) -> None:
    """Rows of the planted masks have mean and spread of (H, W, C) values."""
    for row, mask in zip(rows, planted_masks(), strict=True):
        for channel, name in enumerate(names):
            pixels = values[..., channel][mask].astype(float)
            assert float(row[f"intensity_mean-{name}"]) == pytest.approx(pixels.mean())
            assert float(row[f"intensity_std-{name}"]) == pytest.approx(pixels.std())
    assert [key for key in rows[0] if key.startswith("intensity_mean")] == [f"intensity_mean-{name}" for name in names]


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int16])
def test_channels_have_the_names_and_values_of_the_file(
    tmp_path: Path, rng: np.random.Generator, dtype: type[np.generic]
) -> None:
    values = (rng.normal(0, 3000, (4, *SIZE)) + 9000).astype(dtype)
    photo = tmp_path / "a.ome.tif"
    names = ["DAPI", "GFP", "Cy5, far red", "bright field"]
    tifffile.imwrite(photo, values, metadata={"axes": "CYX", "Channel": {"Name": names}}, photometric="minisblack")
    image = replace(planted_image(tmp_path), photo=photo)
    check(table([image], tmp_path / "t.csv"), values.transpose(1, 2, 0), names)


def test_sixteen_bits_of_grey_and_colour(tmp_path: Path, rng: np.random.Generator) -> None:
    grey = rng.integers(100, 4000, SIZE, np.uint16)
    rgb = rng.integers(0, 65536, (*SIZE, 3), np.uint16)
    image = planted_image(tmp_path)
    Image.fromarray(grey).save(tmp_path / "g.png")
    check(table([replace(image, photo=tmp_path / "g.png")], tmp_path / "g.csv"), grey[..., None], ["0"])
    (tmp_path / "c.png").write_bytes(imagecodecs.png_encode(rgb))
    check(table([replace(image, photo=tmp_path / "c.png")], tmp_path / "c.csv"), rgb, ["0", "1", "2"])


def test_ordinary_pictures_stay_red_green_and_blue(tmp_path: Path) -> None:
    image = planted_image(tmp_path)
    check(table([image], tmp_path / "t.csv"), planted_photo(), ["0", "1", "2"])
    grey = tmp_path / "g.png"
    Image.fromarray(planted_photo()[..., 0]).save(grey)
    values = np.repeat(planted_photo()[..., :1], 3, 2)
    check(table([replace(image, photo=grey)], tmp_path / "g.csv"), values, ["0", "1", "2"])


def test_four_bands_of_an_aerial_photograph(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(1, 255, (*SIZE, 4), np.uint8)
    photo = tmp_path / "a.tif"
    tifffile.imwrite(
        photo, values, photometric="rgb", extrasamples=["unassalpha"]
    )  # infrared that is marked as opacity
    image = replace(planted_image(tmp_path), photo=photo)
    check(table([image], tmp_path / "t.csv"), values, ["0", "1", "2", "3"])


def test_images_of_several_kinds_share_a_table(tmp_path: Path, rng: np.random.Generator) -> None:
    image = planted_image(tmp_path)
    photo = tmp_path / "b.ome.tif"
    values = rng.integers(0, 4000, (2, *SIZE), np.uint16)
    tifffile.imwrite(photo, values, metadata={"axes": "CYX", "Channel": {"Name": ["x", "x"]}}, photometric="minisblack")
    rows = table([image, replace(image, photo=photo)], tmp_path / "t.csv")
    assert len(rows) == 12
    assert [key for key in rows[0] if "mean" in key] == [f"intensity_mean-{name}" for name in ("0", "1", "2")]
    assert rows[6]["intensity_mean-2"] == ""  # channels of one name are told apart by their numbers
    assert float(rows[6]["intensity_mean-1"]) == pytest.approx(values[1].mean())


def test_pixels_without_data_do_not_count(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.normal(5, 1, SIZE).astype(np.float32)
    values[planted_masks()[3]] = np.nan
    values[20, :] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", values)
    rows = table([replace(planted_image(tmp_path), photo=tmp_path / "a.tif")], tmp_path / "t.csv")
    assert rows[3]["intensity_mean-0"] == ""
    pixels = values[planted_masks()[2]]
    assert float(rows[2]["intensity_mean-0"]) == pytest.approx(np.nanmean(pixels), rel=1e-5)


def test_the_page_that_was_segmented_is_measured(tmp_path: Path, rng: np.random.Generator) -> None:
    from masktree.stages.export import export
    from tests.export.planted import planted_tree

    pages = rng.integers(0, 60_000, (3, *SIZE), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", metadata=None)
    header = {"file_name": str(tmp_path / "a.tif"), "read": {"page": 2}}
    planted_tree().save(tmp_path / "trees/a.json", image=header)
    export(tmp_path / "trees", tmp_path / "t.csv", "csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()))
    check(rows, pages[2][..., None], ["0"])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_channels_are_upright(tmp_path: Path, rng: np.random.Generator, orientation: int) -> None:
    stored = rng.integers(0, 60_000, (5, 7, 2), np.uint16)
    path = tmp_path / "a.tif"
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(path, stored, photometric="minisblack", planarconfig="contig", extratags=[tag], metadata=None)
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    channels = read_channels(path)
    assert channels.names == ("0", "1")
    np.testing.assert_array_equal(channels.values, np.rot90(stored, turns))
