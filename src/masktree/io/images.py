"""Photographs from disk: find them, read them as RGB, name their outputs."""

from __future__ import annotations

import glob
import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from masktree.errors import ImageError, InputError
from masktree.types import RGB

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"})
MAX_PIXELS = 150_000_000  # our choice: larger than any camera's frame, small enough to fit memory as int32 labels
RESERVED = frozenset({"run", "failures"})  # run.json and failures.json record a run: no photograph may write them
_TREE_FILE = b'{"format": "masktree"'  # how the JSON file of a tree begins


@dataclass(frozen=True)
class Photo:
    """An image file and the name of its outputs: POSIX path relative to the output folder, without suffix."""

    path: Path
    name: str


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> RGB:
    """Read any image file as (H, W, 3) uint8 RGB, upright.

    EXIF rotation is applied; grey, palette and CMYK are converted; 16-bit and float grey is scaled by its own range;
    of 16-bit colour, and of 16-bit grey with transparency, Pillow gives the high byte only: data that fill less than
    the 16 bits come out dark; transparency is laid over white; of an animation the first frame is taken.

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


def find_photos(inputs: Sequence[str | Path]) -> tuple[list[Photo], list[dict[str, str]]]:
    """Resolve files, folders (recursive) and globs to photographs with output names that mirror the inputs.

    One file found several times, also through links, counts once: under the name from the first input that finds
    it, and of several from one input under the shortest. Links to folders are not followed below a folder or ``**``.

    Args:
        inputs: paths or glob patterns (``**`` is recursive). In folders and globs only files with a known image
            suffix count, and results of masktree (a .png beside its tree's .json) are passed over; a file named
            itself is always taken.

    Returns:
        (photos in sorted order, failures: one {"path", "error"} per folder that cannot be listed, and per name with
        an image suffix that is no regular file).

    Raises:
        InputError: an input does not exist or matches nothing, or two photographs would write to one name.
    """
    failures: dict[str, dict[str, str]] = {}
    found: dict[str, tuple[Path, str]] = {}
    for item in inputs:
        own: list[dict[str, str]] = []
        matched: dict[str, tuple[Path, str]] = {}
        for path, relative in _resolve(str(item), own):
            real = os.path.realpath(path)
            if real not in matched or len(relative) < len(matched[real][1]):
                matched[real] = path, relative
        if not matched and not own:
            raise InputError(f"expected an image, a folder with images or a glob that matches; got {item}")
        failures |= {failure["path"]: failure for failure in own}
        for real, hit in matched.items():
            found.setdefault(real, hit)
    return name_outputs(list(found.values())), list(failures.values())


def _resolve(item: str, failures: list[dict[str, str]]) -> Iterable[tuple[Path, str]]:
    path = Path(item)
    if os.path.isfile(item):  # unlike Path's own, it answers False where a folder above may not be entered
        yield path, path.name
    elif os.path.isdir(item):
        for inner in _walk(path, failures):
            yield inner, inner.relative_to(path).as_posix()
    elif glob.has_magic(item):
        root = _fixed_part(path)
        below = path.relative_to(root)
        if ".." in below.parts:
            raise InputError(f"expected '..' only before the first wildcard of a glob; got {item}")
        for hit in _matches(root, below):
            inside = _walk(hit, failures) if os.path.isdir(hit) else _photographs([hit], failures)
            for inner in inside:
                yield inner, inner.relative_to(root).as_posix()


def _matches(root: Path, pattern: Path) -> list[Path]:
    """What matches a pattern below a folder, in order. Names with a leading dot match only when the pattern has it.

    ``Path.glob`` rather than ``glob.glob``, whose ``**`` follows links to folders, in circles if need be.
    """
    parts = [part if part == "**" else re.sub(r"\*\*+", "*", part) for part in pattern.parts]
    if parts[-1] == "**":
        parts.append("*")
    deep = "**" in parts and parts[-1] == "*"  # finds all files itself: the folders it matches add nothing
    hidden = any(part.startswith(".") for part in parts)
    return [
        hit
        for hit in sorted(root.glob("/".join(parts)))
        if (hidden or not any(part.startswith(".") for part in hit.relative_to(root).parts))
        and not (deep and os.path.isdir(hit))
    ]


def _walk(folder: Path, failures: list[dict[str, str]]) -> Iterable[Path]:
    def note(error: OSError) -> None:
        failures.append({"path": str(error.filename), "error": f"cannot list the folder: {error.strerror}"})

    for parent, folders, files in os.walk(folder, onerror=note):
        folders.sort()
        yield from _photographs([Path(parent) / name for name in sorted(files) if not name.startswith(".")], failures)


def _photographs(paths: Sequence[Path], failures: list[dict[str, str]]) -> Iterable[Path]:
    """Regular files with an image suffix that are no results of ours; opening a pipe would wait for ever."""
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            continue
        try:
            regular = stat.S_ISREG(path.stat().st_mode)
        except OSError as error:  # a link to nothing or in a circle, a folder that may not be entered
            failures.append({"path": str(path), "error": f"cannot read the file: {error.strerror}"})
            continue
        if not regular:
            failures.append({"path": str(path), "error": "expected a regular file; got a pipe, socket or device"})
        elif not _is_result(path):
            yield path


def _is_result(path: Path) -> bool:
    """Whether a picture is the overlay that masktree wrote beside a tree."""
    beside = path.with_suffix(".json")
    if path.suffix != ".png" or not os.path.isfile(beside):
        return False
    try:
        with beside.open("rb") as handle:
            return handle.read(len(_TREE_FILE)) == _TREE_FILE
    except OSError:
        return False


def _fixed_part(pattern: Path) -> Path:
    """The leading folders of a glob pattern that hold no wildcard."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def name_outputs(found: Sequence[tuple[Path, str]]) -> list[Photo]:
    """Photographs of (path, POSIX path below the folder): the suffix is dropped from the name where that is unambiguous
    and kept where a.jpg and a.png stand side by side.

    Raises:
        InputError: two would write to one name, or one to a reserved one.
    """
    names = [relative.removesuffix(Path(relative).suffix) for _, relative in found]
    while True:  # a name with its suffix may be the bare name of another (a.jpg, a.png, a.jpg.jpg), which keeps its own
        counts = Counter(names)
        keep = [
            relative if counts[name] > 1 or name.lower() in RESERVED else name
            for name, (_, relative) in zip(names, found, strict=True)
        ]
        if keep == names:
            break
        names = keep
    taken: dict[str, Path] = {}
    for name, (path, _) in zip(names, found, strict=True):
        if name.lower() in RESERVED:
            raise InputError(f"expected a photograph of another name; got {path}: {name}.json is the record; rename it")
        if name in taken:
            raise InputError(
                f"expected one output name per image; {taken[name]} and {path} would both write {name}.json; "
                "give them in two runs with different output folders"
            )
        taken[name] = path
    return [Photo(path, name) for name, path in taken.items()]


def resize_image(image: RGB, size: tuple[int, int]) -> RGB:
    """Bilinear (antialiased) resize of an RGB image to (height, width)."""
    if image.shape[:2] == size:
        return image
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized))
