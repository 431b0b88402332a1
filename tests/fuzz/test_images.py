"""Image files of every format that is read, and MATLAB files."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image
from scipy.io import savemat

from masktree.errors import MasktreeWarning
from masktree.evaluate.mat_file import load_mat
from masktree.io.images import available_formats, decode_image, describe_image, read_image

from .mutations import mutated_bytes
from .target import fuzz

LOSSLESS = ("PNG", "BMP", "DIB", "GIF", "TIFF", "PPM")


def encode(mode: str, image_format: str) -> bytes:
    """A small picture with EXIF where the format has it."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    options = {"exif": exif} if image_format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format=image_format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """One of each format, and of modes that are converted."""
    formats = [name for name in available_formats() if name in Image.SAVE and name not in ("MPO", "TGA", "PCX")]
    assert {*LOSSLESS, "JPEG", "WEBP"} <= set(formats)
    pictures = [encode("RGB", name) for name in formats]
    modes = [(mode, "PNG") for mode in ("L", "P", "RGBA", "I;16", "1")]
    modes += [(mode, "TIFF") for mode in ("F", "CMYK", "LA")]
    return pictures + [encode(*pair) for pair in modes]


def test_image_files(pictures: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"  # whatever the content: the suffix decides nothing

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MasktreeWarning)  # of pages and channels that are not looked at
            image = read_image(path)
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.size > 0

    fuzz("image files", mutated_bytes(pictures), read)


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def tiffs() -> list[bytes]:
    """Small TIFF files of many kinds."""
    grey = np.random.default_rng(0).integers(0, 2**16, (24, 32), np.uint16)
    rgb, tiles = np.stack([grey] * 3, axis=2), (16, 16)
    codecs = ("lzw", "zlib", "zstd", "lzma", "packbits", "webp", "jpeg2000", "jpegxl", "lerc", "png", "jpeg", "deflate")
    eight_bit = ("webp", "jpeg", "jpegxl", "lerc")
    colours = {"photometric": "rgb"}
    return [
        *(
            tiff((rgb >> 8).astype(np.uint8) if name in eight_bit else rgb, compression=name, **colours)
            for name in codecs
        ),
        tiff(np.moveaxis(rgb, 2, 0), planarconfig="separate", byteorder=">", compression="zlib", **colours),
        tiff(grey, bigtiff=True, tile=tiles, extratags=[(274, 3, 1, 6, True)]),
        tiff(grey.astype(np.float32), compression="zlib", predictor=True, extratags=[(42113, 2, 6, "-9999", True)]),
        tiff((grey >> 12).astype(np.uint8), photometric="palette", colormap=np.zeros((3, 256), np.uint16)),
        tiff((grey > 999), photometric="miniswhite"),
        tiff(np.stack([grey] * 6).reshape(2, 3, 24, 32), ome=True, metadata={"axes": "CZYX"}),
        tiff(np.stack([grey] * 4).reshape(2, 2, 24, 32), imagej=True),
        tiff(np.dstack([rgb, grey]), extrasamples=["assocalpha"], **colours),
    ]


def test_tiff_files(tiffs: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "image.tif"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        describe_image(path)
        image = decode_image(path).rgb
        assert image.dtype == np.uint8
        assert image.size > 0

    fuzz("TIFF files", mutated_bytes(tiffs), read)


def test_matlab_files(tmp_path: Path) -> None:
    path = tmp_path / "truth.mat"
    content = {
        "ucm2": np.random.default_rng(0).random((7, 9)),
        "groundTruth": np.array([{"Segmentation": np.ones((3, 4), np.uint16)}], object),
        "name": "text",
    }
    seeds = []
    for compressed in (False, True):
        savemat(path, content, do_compression=compressed)
        seeds.append(path.read_bytes())

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_mat(path)

    fuzz("MATLAB files", mutated_bytes(seeds), read)
