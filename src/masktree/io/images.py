"""Image files and arrays as RGB: reading, conversion, resizing."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from masktree.errors import ImageError, InputError
from masktree.types import RGB

MAX_PIXELS = 150_000_000  # our choice: more than any camera has, and few enough for an int32 label map in memory


def as_rgb(image: str | Path | RGB | Image.Image) -> RGB:
    """(H, W, 3) uint8 RGB from a path, an array or a Pillow image.

    Raises:
        ImageError: the file cannot be read.
        InputError: an array of another shape or type.
    """
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, Image.Image):
        return pillow_to_rgb(image)
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        got = f"{image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"expected a path, a Pillow image or an (H, W, 3) uint8 RGB array; got {got}")
    if image.size == 0:
        raise InputError(f"expected at least one pixel; got an array of shape {image.shape}")
    return np.ascontiguousarray(image)


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> RGB:
    """Read any image file as (H, W, 3) uint8 RGB, upright.

    EXIF rotation is applied. Grey, palette and CMYK images are converted; 16-bit and float grey is scaled by its own
    range. Of 16-bit colour, and of 16-bit grey with transparency, Pillow gives the high byte only, so data that use
    fewer than 16 bits come out dark. Transparency is composited over white; of an animation the first frame is read.

    Raises:
        ImageError: missing, unreadable, empty, truncated, not an image, or more than ``max_pixels`` pixels.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bombs are refused below, odd metadata is harmless
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
        raise ImageError("expected an image that fits into memory; got too large a one; scale it down") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        # Pillow raises SyntaxError, ValueError, EOFError or IndexError for some kinds of damage, OSError for the rest.
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


def resize_image(image: RGB, size: tuple[int, int]) -> RGB:
    """Bilinear (antialiased) resize of an RGB image to (height, width)."""
    if image.shape[:2] == size:
        return image
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized))
