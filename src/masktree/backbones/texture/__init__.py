"""Segmentation evidence from the pixels of one image alone: no weights, no labels, no other images.

Colour words and textons (``words``), which words go together (``pmi``) and how much the two sides of each pixel
differ in all of these (``boundary``). The cues follow gPb (Arbelaez et al., TPAMI 2011, doi 10.1109/TPAMI.2010.161)
and crisp boundaries by mutual information (Isola et al., ECCV 2014, doi 10.1007/978-3-319-10578-9_52); how they are
computed and combined is our choice, and nothing in it is fitted to human segmentations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from masktree.backbones.base import Grids, Images, check_images, nearest_multiple
from masktree.backbones.texture import boundary as edges
from masktree.backbones.texture import words as vocabulary
from masktree.backbones.texture.pmi import embed_words
from masktree.backbones.weights import Weights
from masktree.types import RGB, checked

# Each cue's 90 % quantile within an image (maximum over orientations), averaged over 150 photographs of which none
# has labels; dividing by it makes the cues commensurable, and then all count alike.
_SCALES = {
    "colour": {5: 0.692, 10: 0.678, 20: 0.616},
    "texture": {10: 0.455, 20: 0.306},
    "kinship": {4: 2.65, 10: 2.71, 20: 2.69},
    "lab": {3: 25.4, 6: 27.8},
}


@dataclass(frozen=True)
class Evidence:
    """What the pixels say about borders and regions of an H x W image; h = ceil(H/2), w = ceil(W/2).

    ``boundary`` (H, W) float32 >= 0, about 1 at a clear border. ``colours`` and ``textures`` (h, w) int32: words below
    ``WORDS`` of each 2 x 2 block. ``kinship`` (WORDS, d) float32: vectors of the colour words whose inner products
    say which go together.
    """

    boundary: np.ndarray
    colours: np.ndarray
    textures: np.ndarray
    kinship: np.ndarray

    def histograms(self, leaves: np.ndarray, count: int) -> np.ndarray:
        """(count, 2 * WORDS) float32: how often each colour word and each texton occurs in each leaf (pixels)."""
        H, W = leaves.shape
        offsets = leaves.astype(np.int64) * vocabulary.WORDS
        return np.concatenate(
            [
                np.bincount((offsets + _repeat(words, H, W)).ravel(), minlength=count * vocabulary.WORDS)
                .reshape(count, vocabulary.WORDS)
                .astype(np.float32)
                for words in (self.colours, self.textures)
            ],
            axis=1,
        )


@checked
def evidence(image: RGB) -> Evidence:
    """Boundary strength and words of an image of any size from 1 x 1; about 0.15 s for 480 x 320 on one core."""
    H, W, _ = image.shape
    lab = vocabulary.lab(image)
    half = vocabulary.halve(lab)
    smooth = edges.window_means(half, 0.7)
    colours = vocabulary.colour_words(smooth)
    textures = vocabulary.textons(np.ascontiguousarray(lab[..., 0]))
    kinship = embed_words(colours, vocabulary.WORDS)
    strength = _combine(smooth, half, colours, textures, kinship)
    return Evidence(edges.double(strength, H, W), colours, textures, kinship)


def _combine(
    smooth: np.ndarray, half: np.ndarray, colours: np.ndarray, textures: np.ndarray, kinship: np.ndarray
) -> np.ndarray:
    """Mean of all cues per orientation, then the strongest orientation: (h, w) float32."""
    total = np.zeros((edges.ORIENTATIONS, *colours.shape), np.float32)
    related = kinship[colours]
    for radius in (5, 10, 20):  # pixels of the image; the grid has half as many
        histogram = edges.window_histograms(colours, vocabulary.WORDS, 0.32 * radius)
        total += edges.chi_square(histogram, 0.4 * radius) / _SCALES["colour"][radius]
    for radius in (10, 20):
        histogram = edges.window_histograms(textures, vocabulary.WORDS, 0.32 * radius)
        total += edges.chi_square(histogram, 0.4 * radius) / _SCALES["texture"][radius]
    for radius in (4, 10, 20):
        total += edges.difference(edges.window_means(related, 0.32 * radius), 0.4 * radius) / _SCALES["kinship"][radius]
    total += edges.difference(smooth, 0.75) / _SCALES["lab"][3]
    total += edges.difference(edges.window_means(half, 1.2), 1.5) / _SCALES["lab"][6]
    return total.max(axis=0) / sum(len(radii) for radii in _SCALES.values())


def _repeat(words: np.ndarray, H: int, W: int) -> np.ndarray:
    return words.repeat(2, axis=0).repeat(2, axis=1)[:H, :W]


class TextureBackbone:
    """Words and their kinship as a feature grid for the published cosine-merge rules; a :class:`Backbone`."""

    name = "texture"
    device = "cpu"
    stride = 8
    dim = 2 * vocabulary.WORDS + 16
    provenance = Weights(
        name="texture",
        source="computed from the image",
        licence="Apache-2.0",
        patch=8,
        dim=2 * vocabulary.WORDS + 16,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        url="",
        trained_on="nothing: it has no weights",
        label_free=True,
    )

    def input_size(self, H: int, W: int) -> tuple[int, int]:
        """Nearest multiples of the stride."""
        return nearest_multiple(H, W, self.stride)

    def __call__(self, images: Images) -> Grids:
        """Feature grids of (b, H, W, 3) uint8 images: (b, h, w, dim) float32; see :class:`Backbone`."""
        from PIL import Image

        check_images(images)
        height, width = self.input_size(*images.shape[1:3])
        if (height, width) != images.shape[1:3]:
            images = (
                np.stack(
                    [np.asarray(Image.fromarray(i).resize((width, height), Image.Resampling.BILINEAR)) for i in images]
                )
                if len(images)
                else np.empty((0, height, width, 3), np.uint8)
            )
        grids = [_grid(image, self.stride) for image in images]
        return np.stack(grids) if grids else np.empty((0, height // 8, width // 8, self.dim), np.float32)


def _grid(image: np.ndarray, stride: int) -> np.ndarray:
    """Features of one image whose sides are multiples of the stride."""
    lab = vocabulary.lab(image)
    colours = vocabulary.colour_words(edges.window_means(vocabulary.halve(lab), 0.7))
    textures = vocabulary.textons(np.ascontiguousarray(lab[..., 0]))
    kinship = embed_words(colours, vocabulary.WORDS)
    step, sigma = stride // 2, 0.6 * stride / 2  # cells in the grid of the words
    maps = [
        np.sqrt(edges.window_histograms(colours, vocabulary.WORDS, sigma)),
        np.sqrt(edges.window_histograms(textures, vocabulary.WORDS, sigma)),
        edges.window_means(kinship[colours], sigma) / 8,
    ]
    features = np.concatenate([m[step // 2 :: step, step // 2 :: step] for m in maps], axis=-1)
    return np.ascontiguousarray(features - features.mean(axis=(0, 1)), np.float32)
