"""Settings of data augmentation, and the random decisions that follow from them.

Large-scale jitter and copy-paste: Ghiasi et al. 2021, arXiv 2012.07177. All decisions about a view are drawn first, as
``Geometry`` and ``ColorJitter``, and applied later, so that masks can be mapped between two views of an image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from masktree.errors import InputError
from masktree.models.inputs import shortest_edge_size
from masktree.train.color_jitter import ColorJitter
from masktree.train.geometry import Geometry


@dataclass(frozen=True)
class Augmentation:
    """How training examples are made from images.

    Attributes:
        crop_size: side of the square crop in pixels, a multiple of 32.
        padding: size that smaller views are padded to. ``crop``: that of the crop, so that an example does not depend
            on its batch. ``batch``: the largest height and width of a process's images in the step, rounded up to
            multiples of 32 (Detectron2).
        scale: range of the longer side of the resized image, in crop sizes (0.1 to 2: arXiv 2012.07177).
        short_side: range of its shorter side in pixels instead of ``scale``; None for ``scale``.
        short_sides: its shorter side is one of these instead, and its longer side at most ``max_side``; nothing is cut
            off where ``crop_size`` is as large.
        max_side: see above.
        flip_prob: probability of a horizontal flip.
        jitter_prob: probability of colour jitter.
        jitter_strength: maximum of it: factors of brightness, contrast and saturation 1 - v ... 1 + v, hue -v ... v
            turns.
        grayscale_prob, blur_prob: probabilities of grayscale and Gaussian blur.
        blur_sigma: range in pixels.
        paste_prob: probability of pasting objects of another image.
        paste_scale: range of the longer side of that image, as a fraction of the view's.
        paste_rule: ``objects``: a random number of objects, none too large, each with its parts, in their own aspect
            ratio. ``released``: as in the code of CutLER and HASSOD, see ``masktree.train.samples.paste_released``.
        max_masks: maximum number of masks per example, a random choice of more.
        min_area: smallest mask in pixels of the view (our choice: one cell of the finest feature map).
        cues: whether examples carry the boundary cues of ``masktree.backbones.texture``.

    Raises:
        InputError: a value out of range.
    """

    crop_size: int = 1024
    padding: Literal["crop", "batch"] = "crop"
    scale: tuple[float, float] = (0.1, 2.0)
    short_side: tuple[int, int] | None = None
    short_sides: tuple[int, ...] = ()
    max_side: int = 0
    flip_prob: float = 0.5
    jitter_prob: float = 0.0
    jitter_strength: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    grayscale_prob: float = 0.0
    blur_prob: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    paste_prob: float = 0.0
    paste_scale: tuple[float, float] = (0.3, 1.0)
    paste_rule: Literal["objects", "released"] = "objects"
    max_masks: int = 200
    min_area: int = 16
    cues: bool = False

    def __post_init__(self) -> None:
        if self.crop_size < 32 or self.crop_size % 32:
            raise InputError(f"expected a crop size that is a multiple of 32 pixels; got {self.crop_size}")
        for name in ("flip_prob", "jitter_prob", "grayscale_prob", "blur_prob", "paste_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"expected {name} in [0, 1]; got {getattr(self, name)}")
        for name in ("scale", "short_side", "blur_sigma", "paste_scale"):
            values = getattr(self, name)
            if values is not None and not (len(values) == 2 and 0 < values[0] <= values[1] < np.inf):
                raise InputError(f"expected a range {name}, 0 < low <= high; got {values}")
        if self.short_sides and not 0 < max(self.short_sides) <= self.max_side:
            raise InputError(f"expected short sides up to max_side; got {self.short_sides} and {self.max_side}")
        if self.padding not in ("crop", "batch"):
            raise InputError(f"expected the padding crop or batch; got {self.padding!r}")
        if self.paste_rule not in ("objects", "released"):
            raise InputError(f"expected the paste rule objects or released; got {self.paste_rule!r}")
        strength = self.jitter_strength
        if len(strength) != 4 or not all(0 <= v <= 1 for v in strength) or strength[3] > 0.5:
            raise InputError(f"expected four jitter strengths in [0, 1], of hue in [0, 0.5]; got {strength}")
        if self.max_masks < 1 or self.min_area < 1:
            raise InputError(f"expected max_masks and min_area of at least 1; got {self.max_masks}, {self.min_area}")

    def strong(self) -> Augmentation:
        """With the colour jitter, grayscale and blur of HASSOD's student (arXiv 2402.03311, code)."""
        return replace(
            self,
            jitter_prob=0.8,
            jitter_strength=(0.4, 0.4, 0.4, 0.1),
            grayscale_prob=0.2,
            blur_prob=0.5,
            blur_sigma=(0.1, 2.0),
        )

    def draw_geometry(self, size: tuple[int, int], rng: np.random.Generator) -> Geometry:
        """Random resize, crop and flip of an image of (H, W) pixels.

        Where the resized image is smaller than the crop, the window is too; the rest is padding below and on the right.
        """
        if self.short_sides:
            resized = shortest_edge_size(size, int(rng.choice(self.short_sides)), self.max_side)
        elif self.short_side is None:
            resized = _scaled(size, rng.uniform(*self.scale) * self.crop_size / max(size))
        else:
            resized = _scaled(size, rng.uniform(*self.short_side) / min(size))
        offset = (
            int(rng.integers(max(resized[0] - self.crop_size, 0) + 1)),
            int(rng.integers(max(resized[1] - self.crop_size, 0) + 1)),
        )
        window = min(self.crop_size, resized[0]), min(self.crop_size, resized[1])
        return Geometry(size, resized, offset, window, bool(rng.random() < self.flip_prob))

    def full_image(self, size: tuple[int, int]) -> Geometry:
        """The whole image of (H, W) pixels, its longer side resized to the crop size."""
        resized = _scaled(size, self.crop_size / max(size))
        return Geometry(size, resized, (0, 0), resized)

    def draw_paste(self, size: tuple[int, int], target: tuple[int, int], rng: np.random.Generator) -> Geometry:
        """Where an image of ``size`` is pasted into a view of (height, width) ``target``: along each side at a random
        position inside if it is smaller, a random crop of it if it is larger. By the released rule it takes the aspect
        ratio of the view, and is always inside."""
        if self.paste_rule == "released":
            resized = _shrunk(target, rng.uniform(*self.paste_scale))
            offset = (-int(rng.integers(target[0] - resized[0] + 1)), -int(rng.integers(target[1] - resized[1] + 1)))
            return Geometry(size, resized, offset, target, bool(rng.random() < self.flip_prob))
        resized = _scaled(size, rng.uniform(*self.paste_scale) * max(target) / max(size))
        surplus = resized[0] - target[0], resized[1] - target[1]
        offset = (
            int(rng.integers(min(surplus[0], 0), max(surplus[0], 0) + 1)),
            int(rng.integers(min(surplus[1], 0), max(surplus[1], 0) + 1)),
        )
        return Geometry(size, resized, offset, target, bool(rng.random() < self.flip_prob))

    def draw_color_jitter(self, rng: np.random.Generator) -> ColorJitter:
        """Random colours, grayscale and blur."""
        *factors, hue = (v * rng.uniform(-1, 1) for v in self.jitter_strength)
        is_jittered = rng.random() < self.jitter_prob
        is_grayscale, is_blurred = bool(rng.random() < self.grayscale_prob), rng.random() < self.blur_prob
        sigma = rng.uniform(*self.blur_sigma)
        return ColorJitter(
            brightness=1 + factors[0] if is_jittered else 1.0,
            contrast=1 + factors[1] if is_jittered else 1.0,
            saturation=1 + factors[2] if is_jittered else 1.0,
            hue=hue if is_jittered else 0.0,
            grayscale=is_grayscale,
            blur_sigma=sigma if is_blurred else 0.0,
        )


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _shrunk(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Rounded down, as in the released code."""
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))
