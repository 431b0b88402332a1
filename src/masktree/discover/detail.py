"""The size at which an image is analysed: where its detail is, decided by looking at the image alone.

Photographs show a few large things, whose boundaries are clearest at some 640 pixels. Pictures of instruments
(microscopes, cameras above a field or a conveyor) show many small things on one ground, which are a few pixels wide
there: windows of 5 to 20 pixels reach from one to the next.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image
from scipy import ndimage

from masktree.backbones.texture.words import lab
from masktree.errors import InputError
from masktree.types import RGB

Detail: TypeAlias = Literal["auto", "fine"] | int

WORKING_SIDE = 640  # of photographs: the cues' windows of 5 to 20 pixels suit this size
MIN_DETAIL = 32  # pixels (our choice)
FINE_FACTORS = (2.0, 3.0)  # of the working size: the further sizes for small things (our choice; see the log)
LARGE_SIDE = 2 * WORKING_SIDE  # images from here on show more at twice the working size (our choice)

# One ground: a colour that fills at least this share of nearly every part of the image (our choices). Of 301
# photographs of mixed origin 2 % have one; of fluorescence nuclei and flakes under a microscope all.
GROUND_SHARE = 0.4
CLEAR_GROUND_SHARE = 0.8  # things cover at most a fifth of nearly every part: none of them is large (our choice)
GROUND_DISTANCE = 12.0  # in Lab: what still is the colour of the ground, with noise and uneven light
_THUMBNAIL_SIDE = 96
_PARTS = 6  # along each side
_FEW = 0.1  # of the parts may have less of the ground

# Images of instruments without colour fill a part of the range of values only. Where no square of as many pixels as the
# smallest mask is brighter than half of it, boundaries are weak everywhere (our choices).
DARK_VALUE = 127
MAX_GAIN = 16.0  # of the values: a step of one grey level stays a faint one
_SMALLEST_SIDE = 5  # 5 x 5 pixels fit into the smallest mask by default, which has 32


def check_detail(detail: object) -> None:
    """Raise InputError unless it is ``auto``, ``fine`` or a whole number of pixels."""
    is_number = isinstance(detail, (int, np.integer)) and not isinstance(detail, bool) and detail >= MIN_DETAIL
    if detail not in ("auto", "fine") and not is_number:
        raise InputError(f"expected detail as auto, fine or a number of pixels from {MIN_DETAIL}; got {detail!r}")


def parse_detail(text: str) -> Detail:
    """``auto``, ``fine`` or the number of pixels that a text means; InputError if it is another."""
    detail: Any = int(text) if text.isdecimal() and len(text) < 10 else text
    check_detail(detail)
    parsed: Detail = detail
    return parsed


def shows_small_things(image: RGB) -> bool:
    """Whether an image without colour, or with one ground, is likely to show many small things. About 4 ms.

    Black-and-white photographs count as well: they take longer than they need, and are found no worse.
    """
    return not has_colour(image) or ground_share(image) >= GROUND_SHARE


def shows_dense_things(image: RGB) -> bool:
    """Whether small things are likely to touch or to lie on uneven ground: no colour, and no one ground. About 4 ms."""
    return not has_colour(image) and ground_share(image) < GROUND_SHARE


def shows_faint_things(image: RGB) -> bool:
    """Whether faint and clear small things are likely to lie apart on one even ground without colour. About 4 ms."""
    return not has_colour(image) and ground_share(image) >= GROUND_SHARE


def brighten(image: RGB) -> RGB:
    """An image without colour in which nothing is bright, stretched so that its brightest thing is white; others as
    they are. About 10 ms a megapixel.

    What single pixels and specks have above that value is cut off.
    """
    if has_colour(image):
        return image
    highest = int(ndimage.minimum_filter(image[..., 0], min(_SMALLEST_SIDE, *image.shape[:2])).max())
    if highest > DARK_VALUE:
        return image
    gain = min(MAX_GAIN, 255 / max(highest, 1))
    table = np.minimum(np.round(gain * np.arange(256)), 255).astype(np.uint8)
    return table[image]


def may_show_large_things(image: RGB) -> bool:
    """Whether an image with small things may as well be a photograph of a few large ones: it has colour, and its ground
    leaves room for them. About 4 ms."""
    return has_colour(image) and ground_share(image) < CLEAR_GROUND_SHARE


def ground_share(image: RGB) -> float:
    """Share in [0, 1] of the most widespread colour in nearly all of 6 x 6 parts of an image: its lower decile."""
    H, W, _ = image.shape
    scale = _THUMBNAIL_SIDE / max(H, W)
    size = (max(_PARTS, round(W * scale)), max(_PARTS, round(H * scale)))
    colours = lab(np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)))
    h, w, _ = colours.shape
    parts = ((np.arange(h) * _PARTS // h)[:, None] * _PARTS + np.arange(w) * _PARTS // w).ravel()
    flat = colours.reshape(-1, 3).astype(np.float32)
    candidates = np.stack([np.median(flat[parts == part], axis=0) for part in range(_PARTS**2)])
    distances = (flat**2).sum(1)[:, None] - 2 * flat @ candidates.T + (candidates**2).sum(1)
    similar = (distances < GROUND_DISTANCE**2).astype(np.float32)
    members = (parts == np.arange(_PARTS**2)[:, None]).astype(np.float32)
    shares = members @ similar / members.sum(1, keepdims=True)
    return float(np.quantile(shares, _FEW, axis=0).max())


def has_colour(image: RGB) -> bool:
    """Whether channels differ by more than 2 grey levels anywhere, from every so many pixels."""
    step = max(1, max(image.shape[:2]) // 256)
    sample = image[::step, ::step].astype(np.int16)
    return bool((np.ptp(sample, axis=2) > 2).any())
