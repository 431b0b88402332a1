"""Image files of every format that is read, and MATLAB files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from scipy.io import savemat

from masktree.evaluate.mat_file import load_mat
from masktree.io.images import available_formats, read_image

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
    formats = [name for name in available_formats() if name != "MPO"]
    assert {*LOSSLESS, "JPEG", "WEBP"} <= set(formats)
    pictures = [encode("RGB", name) for name in formats]
    modes = [(mode, "PNG") for mode in ("L", "P", "RGBA", "I;16", "1")]
    modes += [(mode, "TIFF") for mode in ("F", "CMYK", "LA")]
    return pictures + [encode(*pair) for pair in modes]


def test_image_files(pictures: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"  # whatever the content: the suffix decides nothing

    def read(data: bytes) -> None:
        path.write_bytes(data)
        image = read_image(path)
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.size > 0

    fuzz("image files", mutated_bytes(pictures), read)


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
