"""Photographs from disk: find them, read them as RGB, name their outputs."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from masktree.errors import ImageError, InputError
from masktree.types import RGB

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"})
MAX_PIXELS = 150_000_000  # our choice: larger than any camera's frame, small enough to fit memory as int32 labels


@dataclass(frozen=True)
class Photo:
    """An image file and the name of its outputs: POSIX path relative to the output folder, without suffix."""

    path: Path
    name: str


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> RGB:
    """Read any image file as (H, W, 3) uint8 RGB, upright.

    EXIF rotation is applied; grey, palette and CMYK are converted; 16-bit and float images are scaled by their
    own range; transparency is laid over white; of an animation the first frame is taken.

    Raises:
        ImageError: missing, unreadable, empty, truncated, not an image, or more than ``max_pixels`` pixels.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bombs are refused below; odd metadata is no reason to complain
            with Image.open(path) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise ImageError(
                        f"expected at most {max_pixels:,} pixels; got {width} x {height}; scale the image down"
                    )
                image.seek(0)
                image.load()
                return pillow_to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"expected at most {max_pixels:,} pixels; {error}; scale the image down") from error
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        raise ImageError(
            f"expected an image file; got {'an empty file' if empty else 'no image format that Pillow knows'}"
        ) from error
    except MemoryError as error:
        raise ImageError("not enough memory to read this image; scale it down") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        # Pillow raises SyntaxError, ValueError or EOFError for many kinds of damage, OSError for the rest.
        raise ImageError(f"cannot read the image: {type(error).__name__}: {error}") from error


def pillow_to_rgb(image: Image.Image) -> RGB:
    """(H, W, 3) uint8 RGB of a Pillow image of any mode; see ``read_image``."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        finite = np.isfinite(values)
        if not finite.any():
            raise ImageError("expected finite pixel values; got none")
        low, high = values[finite].min(), values[finite].max()
        if image.mode.startswith("I") and low >= 0 and high <= 255:
            low, high = 0.0, 255.0  # an 8-bit image in a wide container keeps its own scale
        scaled = np.where(finite, values - low, 0.0) * (255.0 / max(high - low, 1e-12))
        return np.repeat(np.clip(np.rint(scaled), 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return np.ascontiguousarray(np.asarray(image.convert("RGB")))


def find_photos(inputs: Sequence[str | Path], output: Path | None = None) -> tuple[list[Photo], list[dict[str, str]]]:
    """Resolve files, folders (recursive) and globs to photographs with output names that mirror the inputs.

    Args:
        inputs: paths or glob patterns (``**`` is recursive). In folders and globs only files with a known image
            suffix count; a file named itself is always taken.
        output: folder that results will go to; pictures in it are results of earlier runs and are passed over.

    Returns:
        (photos in sorted order, failures: one {"path", "error"} per folder that cannot be listed).

    Raises:
        InputError: an input does not exist or matches nothing, two photographs would write to one name, or results
            would fall among the inputs.
    """
    failures: list[dict[str, str]] = []
    found: dict[Path, str] = {}
    results = None if output is None else output.resolve()
    for item in inputs:
        if results is not None and Path(item).is_dir() and Path(item).resolve() == results:
            raise InputError(f"expected an output folder other than the input folder; got {item} for both")
        named = Path(item).is_file()
        matched = [
            (path, relative)
            for path, relative in _resolve(str(item), failures)
            if named or results is None or not path.resolve().is_relative_to(results)
        ]
        if not matched and not failures:
            raise InputError(f"expected an image, a folder with images or a glob that matches; got {item}")
        for path, relative in matched:
            found.setdefault(path, relative)
    photos = _named(found)
    for photo in photos:
        if output is not None and photo.path.resolve() == (output / f"{photo.name}.png").resolve():
            raise InputError(
                f"expected an output folder where no photograph is overwritten; got {output} for {photo.path}"
            )
    return photos, failures


def _resolve(item: str, failures: list[dict[str, str]]) -> Iterable[tuple[Path, str]]:
    path = Path(item)
    if path.is_file():
        yield path, path.name
    elif path.is_dir():
        yield from _walk(path, failures)
    elif glob.has_magic(item):
        root = _fixed_part(item)
        for match in sorted(glob.glob(item, recursive=True)):
            hit = Path(match)
            if hit.is_file() and hit.suffix.lower() in SUFFIXES:
                yield hit, hit.relative_to(root).as_posix()
            elif hit.is_dir() and not item.endswith("**"):
                for inner, _ in _walk(hit, failures):
                    yield inner, inner.relative_to(root).as_posix()


def _walk(folder: Path, failures: list[dict[str, str]]) -> Iterable[tuple[Path, str]]:
    def note(error: OSError) -> None:
        failures.append({"path": str(error.filename), "error": f"cannot list the folder: {error.strerror}"})

    for parent, folders, files in os.walk(folder, onerror=note):
        folders.sort()
        for name in sorted(files):
            path = Path(parent) / name
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                yield path, path.relative_to(folder).as_posix()


def _fixed_part(pattern: str) -> Path:
    """The leading folders of a glob pattern that hold no wildcard."""
    fixed = Path()
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def _named(found: dict[Path, str]) -> list[Photo]:
    """Drop the suffix where that is unambiguous; keep it where a.jpg and a.png stand side by side."""
    stems: dict[str, int] = {}
    for relative in found.values():
        stem = relative.removesuffix(Path(relative).suffix)
        stems[stem] = stems.get(stem, 0) + 1
    taken: dict[str, Path] = {}
    photos = []
    for path, relative in found.items():
        stem = relative.removesuffix(Path(relative).suffix)
        name = stem if stems[stem] == 1 else relative
        if name in taken:
            raise InputError(
                f"expected one output name per image; {taken[name]} and {path} would both write {name}.json; "
                "give them in two runs with different output folders"
            )
        taken[name] = path
        photos.append(Photo(path, name))
    return photos


def resize_image(image: RGB, size: tuple[int, int]) -> RGB:
    """Bilinear (antialiased) resize of an RGB image to (height, width)."""
    if image.shape[:2] == size:
        return image
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized))
