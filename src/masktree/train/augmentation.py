"""What is done to photographs and masks before a network sees them.

Large-scale jitter and copy-paste: Ghiasi et al. 2021, arXiv 2012.07177. All decisions about a picture are drawn first,
as ``Geometry`` and ``ColorJitter``, then carried out, so that another view of it, or the way back, can be had later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from masktree.errors import InputError
from masktree.train.geometry import Geometry
from masktree.train.label_store import ImageLabels
from masktree.trees import hierarchy
from masktree.types import RGB

STILL_SEEN = 0.1  # share of its pixels that a mask must keep under pasted objects, or it is dropped (our choice)
LARGEST_PASTED = 0.25  # of the picture's pixels: a pasted object must leave a scene around it (our choice)


@dataclass(frozen=True)
class Augmentation:
    """How examples are made from photographs.

    Attributes:
        crop: side of the square that the network sees, a multiple of 32.
        scale: range of the resized photograph's longer side, in crops (0.1 to 2: arXiv 2012.07177).
        short_side: range of its shorter side in pixels, in place of ``scale``; None for ``scale``.
        mirror: probability of exchanging left and right.
        jitter: probability of changing colours, ``colour`` by how much at most: factors of brightness, contrast and
            saturation 1 - v ... 1 + v, hue -v ... v turns.
        grey, blur: probabilities; ``blur_sigma`` range in pixels.
        paste: probability that objects of another photograph are pasted in, at a longer side of that photograph of
            ``paste_scale`` (range) times this one's.
        max_masks: at most this many masks per example, a random choice of more.
        min_area: smallest mask in pixels of the view (our choice: one cell of the finest feature map).
        cues: whether examples carry the hand-crafted boundary cues (``masktree.backbones.texture``).
    """

    crop: int = 1024
    scale: tuple[float, float] = (0.1, 2.0)
    short_side: tuple[int, int] | None = None
    mirror: float = 0.5
    jitter: float = 0.0
    colour: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    paste: float = 0.0
    paste_scale: tuple[float, float] = (0.3, 1.0)
    max_masks: int = 200
    min_area: int = 16
    cues: bool = False

    def __post_init__(self) -> None:
        if self.crop < 32 or self.crop % 32:
            raise InputError(f"expected a crop of a multiple of 32 pixels; got {self.crop}")
        for name in ("mirror", "jitter", "grey", "blur", "paste"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"expected a probability {name} in [0, 1]; got {getattr(self, name)}")
        for name in ("scale", "short_side", "blur_sigma", "paste_scale"):
            values = getattr(self, name)
            if values is not None and not (len(values) == 2 and 0 < values[0] <= values[1] < np.inf):
                raise InputError(f"expected a range {name}, 0 < low <= high; got {values}")
        if len(self.colour) != 4 or not all(0 <= v <= 1 for v in self.colour) or self.colour[3] > 0.5:
            raise InputError(f"expected four strengths in [0, 1], of hue in [0, 0.5]; got {self.colour}")
        if self.max_masks < 1 or self.min_area < 1:
            raise InputError(f"expected max_masks and min_area of at least 1; got {self.max_masks}, {self.min_area}")

    def strong(self) -> Augmentation:
        """With the colours, grey and blur of HASSOD's student (arXiv 2402.03311, code)."""
        return replace(self, jitter=0.8, colour=(0.4, 0.4, 0.4, 0.1), grey=0.2, blur=0.5, blur_sigma=(0.1, 2.0))

    def draw_geometry(self, size: tuple[int, int], rng: np.random.Generator) -> Geometry:
        """A random scale and window of a photograph of (H, W) pixels. The window is smaller than the crop where the
        resized photograph is; what is missing below and on the right is padding."""
        if self.short_side is None:
            factor = rng.uniform(*self.scale) * self.crop / max(size)
        else:
            factor = rng.uniform(*self.short_side) / min(size)
        resized = _scaled(size, factor)
        offset = (
            int(rng.integers(max(resized[0] - self.crop, 0) + 1)),
            int(rng.integers(max(resized[1] - self.crop, 0) + 1)),
        )
        window = min(self.crop, resized[0]), min(self.crop, resized[1])
        return Geometry(size, resized, offset, window, bool(rng.random() < self.mirror))

    def whole(self, size: tuple[int, int]) -> Geometry:
        """All of a photograph of (H, W) pixels, its longer side as long as the crop."""
        resized = _scaled(size, self.crop / max(size))
        return Geometry(size, resized, (0, 0), resized)

    def draw_paste(self, size: tuple[int, int], onto: tuple[int, int], rng: np.random.Generator) -> Geometry:
        """Where a photograph of ``size`` lies over a scene of (height, width) ``onto``: at a random place inside it
        along a side where it is smaller, a random part of it where it is larger."""
        resized = _scaled(size, rng.uniform(*self.paste_scale) * max(onto) / max(size))
        spare = resized[0] - onto[0], resized[1] - onto[1]
        offset = (
            int(rng.integers(min(spare[0], 0), max(spare[0], 0) + 1)),
            int(rng.integers(min(spare[1], 0), max(spare[1], 0) + 1)),
        )
        return Geometry(size, resized, offset, onto, bool(rng.random() < self.mirror))

    def draw_color_jitter(self, rng: np.random.Generator) -> ColorJitter:
        """Random colours, grey and blur."""
        *spread, hue = (v * rng.uniform(-1, 1) for v in self.colour)
        jittered = rng.random() < self.jitter
        grey, blurred = bool(rng.random() < self.grey), rng.random() < self.blur
        sigma = rng.uniform(*self.blur_sigma)
        return ColorJitter(
            brightness=1 + spread[0] if jittered else 1.0,
            contrast=1 + spread[1] if jittered else 1.0,
            saturation=1 + spread[2] if jittered else 1.0,
            hue=hue if jittered else 0.0,
            grey=grey,
            sigma=sigma if blurred else 0.0,
        )


@dataclass(frozen=True)
class ColorJitter:
    """How the colours of a view are changed; the masks stay.

    Attributes:
        brightness, contrast, saturation: factors; 1 leaves as it is.
        hue: shift in turns of the colour circle.
        grey: colours are taken away.
        sigma: of a Gaussian blur, in pixels; 0 for none.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    grey: bool = False
    sigma: float = 0.0

    def apply(self, image: RGB) -> RGB:
        """The (H, W, 3) image in that light; the fields are applied in their order."""
        if self == ColorJitter() or image.size == 0:
            return image
        picture = Image.fromarray(image)
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for enhancer, factor in zip(enhancers, (self.brightness, self.contrast, self.saturation), strict=True):
            if factor != 1:
                picture = enhancer(picture).enhance(factor)
        if self.hue:
            hsv = np.array(picture.convert("HSV"))
            hsv[..., 0] += np.uint8(round(self.hue * 256) % 256)  # the circle has 256 steps and closes by itself
            picture = Image.fromarray(hsv, "HSV").convert("RGB")
        if self.grey:
            picture = picture.convert("L").convert("RGB")
        if self.sigma:
            picture = picture.filter(ImageFilter.GaussianBlur(self.sigma))
        return np.asarray(picture)


@dataclass(frozen=True)
class Sample:
    """A view with its masks: ``image`` (H, W, 3) uint8, ``masks`` (n, H, W) bool, none empty, ``parents`` (n,) int32,
    ``levels`` (n,) int8.

    A mask whose parent has been dropped lies under its nearest ancestor that is left. It keeps its level: an eye
    whose face is not among the masks of this example still is a part, and looks like one.
    """

    image: np.ndarray
    masks: np.ndarray
    parents: np.ndarray
    levels: np.ndarray

    def __getitem__(self, keep: np.ndarray) -> Sample:
        """The masks chosen by a boolean array (n,)."""
        return Sample(self.image, self.masks[keep], hierarchy.reparent(self.parents, keep), self.levels[keep])


def apply_view(image: RGB, record: ImageLabels, geometry: Geometry, keep: np.ndarray) -> Sample:
    """A photograph and the masks of it that ``keep`` (n,) bool chooses, as the geometry shows them; see
    ``choose_masks``, ``choose_objects``."""
    masks = geometry.apply_masks([r for r, kept in zip(record.rles, keep, strict=True) if kept])
    return Sample(geometry.apply(image), masks, hierarchy.reparent(record.parents, keep), record.levels[keep])


def random_subset(wanted: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) bool: the True entries, or a random choice of ``most`` of them where there are more."""
    places = np.flatnonzero(wanted)
    if len(places) <= most:
        return wanted
    result = np.zeros_like(wanted)
    result[rng.choice(places, most, replace=False)] = True
    return result


def choose_masks(areas: np.ndarray, min_area: int, max_masks: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) bool: masks with at least ``min_area`` of ``areas``; of more than ``max_masks`` a random choice."""
    return random_subset(areas >= min_area, max_masks, rng)


def choose_objects(
    parents: np.ndarray, areas: np.ndarray, min_area: int, max_area: float, max_masks: int, rng: np.random.Generator
) -> np.ndarray:
    """(n,) bool: a random number of objects, each with all masks below it of at least ``min_area``.

    An object is a mask of at most ``max_area`` of which no ancestor is. Where that makes more than ``max_masks``
    masks, a random choice of those below objects is left out.
    """
    big_enough = areas >= min_area
    small = big_enough & (areas <= max_area)
    from_the_roots = np.argsort(hierarchy.depths(parents), kind="stable")
    under = np.zeros(len(parents) + 1, np.bool_)  # the last entry is of no parent
    for i in from_the_roots:
        under[i] = under[parents[i]] or small[i]
    tops = np.flatnonzero(small & ~under[parents])
    if len(tops) == 0:
        return np.zeros(len(parents), np.bool_)
    count = int(rng.integers(1, min(len(tops), max_masks) + 1))
    chosen = np.zeros(len(parents) + 1, np.bool_)
    chosen[rng.choice(tops, count, replace=False)] = True
    below = np.zeros(len(parents) + 1, np.bool_)
    for i in from_the_roots:
        below[i] = chosen[parents[i]] or below[parents[i]]
    return chosen[:-1] | random_subset(below[:-1] & big_enough, max_masks - count, rng)


def paste(scene: Sample, donor: Sample, min_area: int) -> Sample:
    """The donor's objects, its roots with all that lies below them, in front of the scene (arXiv 2012.07177).

    Both have the same height and width. Whatever is covered is taken from the scene's masks; one that keeps less than
    ``min_area`` pixels or a tenth of itself is dropped. What a descendant has outside of all objects is not pasted.
    """
    if len(donor.masks) == 0:
        return scene
    n, objects = len(scene.masks), np.logical_or.reduce(donor.masks[donor.parents < 0], axis=0)
    masks = np.concatenate([scene.masks, donor.masks])
    masks[:n] &= ~objects
    masks[n:] &= objects
    areas = _areas(masks)
    keep = areas >= min_area
    keep[:n] &= areas[:n] >= STILL_SEEN * _areas(scene.masks)
    below = np.where(donor.parents < 0, -1, donor.parents + n).astype(np.int32)
    both = Sample(
        image=np.where(objects[..., None], donor.image, scene.image),
        masks=masks,
        parents=np.concatenate([scene.parents, below]),
        levels=np.concatenate([scene.levels, donor.levels]),
    )
    return both if keep.all() else both[keep]


def _areas(masks: np.ndarray) -> np.ndarray:
    return np.array([np.count_nonzero(mask) for mask in masks], np.int64)


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
