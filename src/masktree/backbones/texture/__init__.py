"""Segmentation evidence from the pixels of one image alone: no weights, no labels, no other images.

Colour words and textons (``words``), which words go together (``pmi``) and how much the two sides of each pixel
differ in all of these (``boundary``). The cues follow gPb (Arbelaez et al., TPAMI 2011, doi 10.1109/TPAMI.2010.161)
and crisp boundaries by mutual information (Isola et al., ECCV 2014, doi 10.1007/978-3-319-10578-9_52); how they are
computed and combined is our choice. Nothing in it is fitted to human segmentations; what was compared on BSDS500 val
is the form of the cues (square root, mean over orientations, equal weights) and the weight of lightness in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from masktree.backbones.base import Grids, Images, check_images, nearest_multiple
from masktree.backbones.texture import boundary as edges
from masktree.backbones.texture import words as vocabulary
from masktree.backbones.texture.pmi import DIMENSIONS, embed_words
from masktree.backbones.weights import Weights
from masktree.types import RGB, checked

# How the cues are made commensurable: each is divided by its 90 % quantile within an image, averaged over 100
# unlabelled photographs of mixed origin, and then all count alike. Key: radius in pixels of the full image.
_SCALES = {
    "colour": {5: 0.629, 10: 0.674, 20: 0.650},
    "texture": {10: 0.562, 20: 0.443},
    "kinship": {4: 0.740, 10: 0.799, 20: 0.788},
    "lab": {3: 3.68, 6: 3.89},
}
CUES = sum(len(radii) for radii in _SCALES.values())
_SHADING = np.array([0.5, 1.0, 1.0], np.float32)  # lightness counts half: light falls unevenly


@dataclass(frozen=True)
class Evidence:
    """What the pixels say about borders and regions of an H x W image; h = ceil(H/2), w = ceil(W/2).

    ``boundary`` (H, W) float32 >= 0, about 1 at a clear border: the mean of the ``cues`` (CUES, h, w) float32, each in
    units of its scale. ``colours`` and ``textures`` (h, w) int32: words below
    ``WORDS`` of each 2 x 2 block. ``kinship`` (WORDS, d) float32: vectors of the colour words whose inner products
    say which go together.
    """

    boundary: np.ndarray
    cues: np.ndarray
    colours: np.ndarray
    textures: np.ndarray
    kinship: np.ndarray

    def histograms(self, leaves: np.ndarray, count: int) -> np.ndarray:
        """(count, 2 * WORDS) float32: how often each colour word and each texton occurs in each leaf (pixels).

        ``leaves`` may be of another size than the image; they then cover the same picture.
        """
        H, W = leaves.shape
        h, w = self.colours.shape
        rows, columns = (np.arange(H) * h // H)[:, None], np.arange(W) * w // W
        bins, first = count * vocabulary.WORDS, leaves.astype(np.int64) * vocabulary.WORDS
        counts = [
            np.bincount((first + words[rows, columns]).ravel(), minlength=bins).reshape(count, vocabulary.WORDS)
            for words in (self.colours, self.textures)
        ]
        return np.concatenate(counts, axis=1, dtype=np.float32)


@checked
def evidence(image: RGB) -> Evidence:
    """Boundary strength and words of an image of any size from 1 x 1; about 0.15 s for 480 x 320 on one core."""
    H, W, _ = image.shape
    words = _look(image)
    cues = np.stack([response * np.float32(1 / _SCALES[name][radius]) for name, radius, response in _cues(words)])
    return Evidence(edges.double(cues.mean(axis=0), H, W), cues, words.colours, words.textures, words.kinship)


@dataclass(frozen=True)
class _Words:
    """Half-resolution maps of one image: mean Lab colours, words of both kinds, and vectors of the colour words."""

    lab: np.ndarray
    colours: np.ndarray
    textures: np.ndarray
    kinship: np.ndarray


def _look(image: np.ndarray) -> _Words:
    lab = vocabulary.lab(image)
    half = vocabulary.halve(lab)
    colours = vocabulary.colour_words(edges.window_means(half, 0.7) * _SHADING)
    textures = vocabulary.textons(np.ascontiguousarray(lab[..., 0]))
    return _Words(half, colours, textures, embed_words(colours, vocabulary.WORDS))


def _cues(words: _Words) -> Iterator[tuple[str, int, np.ndarray]]:
    """Name, radius in image pixels and (h, w) float32 response of each cue.

    A half-window of radius r is a Gaussian of sigma 0.64 r whose centre lies 0.8 r off the border, about where the
    mean of half a Gaussian of sigma r lies; lengths are halved on the half-resolution grid.
    """
    for radius in _SCALES["colour"]:
        histograms = edges.window_histograms(words.colours, vocabulary.WORDS, 0.32 * radius)
        yield "colour", radius, edges.chi_distance(histograms, 0.4 * radius)
    for radius in _SCALES["texture"]:
        histograms = edges.window_histograms(words.textures, vocabulary.WORDS, 0.32 * radius)
        yield "texture", radius, edges.chi_distance(histograms, 0.4 * radius)
    vectors = words.kinship[words.colours]
    for radius in _SCALES["kinship"]:
        yield "kinship", radius, edges.contrast(edges.window_means(vectors, 0.32 * radius), 0.4 * radius)
    for radius, sigma in ((3, 0.7), (6, 1.2)):
        yield "lab", radius, edges.contrast(edges.window_means(words.lab, sigma), 0.25 * radius)


class TextureBackbone:
    """Words and their kinship as a feature grid for the published cosine-merge rules; a :class:`Backbone`."""

    name = "texture"
    device = "cpu"
    stride = 8
    dim = 2 * vocabulary.WORDS + DIMENSIONS
    provenance = Weights(
        name="texture",
        source="computed from the image",
        licence="Apache-2.0",
        patch=8,
        dim=2 * vocabulary.WORDS + DIMENSIONS,
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
    """Features of one image whose sides are multiples of the stride.

    Square roots of word histograms (their inner product is the Bhattacharyya coefficient) and the mean kinship
    vector, in Gaussian windows about as wide as a cell. Half of the image's mean is taken off. That share decides how
    many regions a cosine threshold leaves: with it, 60 x 60 grids of 60 unlabelled photographs fall into 2.8, 4.3 and
    13.3 regions at 0.1, 0.2 and 0.4, much as with the network that these thresholds were published for.
    """
    words = _look(image)
    step, sigma = stride // 2, 0.3 * stride  # in cells of the words' grid
    maps = [
        np.sqrt(edges.window_histograms(words.colours, vocabulary.WORDS, sigma)),
        np.sqrt(edges.window_histograms(words.textures, vocabulary.WORDS, 2 * sigma)),
        edges.window_means(words.kinship[words.colours], sigma),
    ]
    features = np.concatenate([m[step // 2 :: step, step // 2 :: step] for m in maps], axis=-1)
    return np.ascontiguousarray(features - np.float32(0.5) * features.mean(axis=(0, 1)), np.float32)
