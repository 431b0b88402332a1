"""Boundary cues computed from one image alone: no weights, no labels, no other images.

Colour words and textons (``words``), embeddings of the words by mutual information (``pmi``), and the difference of all
of these between the two sides of each pixel (``gradients``). The cues follow gPb (Arbelaez et al., TPAMI 2011, doi
10.1109/TPAMI.2010.161) and crisp boundaries by mutual information (Isola et al., ECCV 2014, doi
10.1007/978-3-319-10578-9_52); their computation and combination are our choice. Nothing is fitted to human
segmentations; what was compared on BSDS500 val is the form of the cues (square root, mean over orientations, equal
weights) and the weight of lightness in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from masktree.backbones.base import Grids, Images, check_images, nearest_multiple
from masktree.backbones.texture import gradients
from masktree.backbones.texture import words as vocabulary
from masktree.backbones.texture.pmi import PMI_DIM, pmi_embedding
from masktree.backbones.texture.words import NUM_WORDS
from masktree.backbones.weights import Weights
from masktree.types import RGB, Labels, checked

# Normalisation of each cue, so that all have equal weight: its 90 % quantile within an image, averaged over 100
# unlabelled photographs of mixed origin. Key: radius in pixels of the full image.
CUE_SCALES = {
    "colour": {5: 0.629, 10: 0.674, 20: 0.650},
    "texture": {10: 0.562, 20: 0.443},
    "pmi": {4: 0.740, 10: 0.799, 20: 0.788},
    "lab": {3: 3.68, 6: 3.89},
}
NUM_CUES = sum(len(radii) for radii in CUE_SCALES.values())
LAB_WEIGHTS = np.array([0.5, 1.0, 1.0], np.float32)  # lightness has half the weight: illumination is uneven
COLOUR_SIGMA = 0.7  # of the window in which colours are averaged before they become words, in half-resolution pixels
LAB_SIGMAS = {3: 0.7, 6: 1.2}  # of the windows of the cue lab, in half-resolution pixels, by radius


@dataclass(frozen=True)
class BoundaryCues:
    """Boundary cues and words of an H x W image; h = ceil(H/2), w = ceil(W/2).

    Attributes:
        boundary: (H, W) float32 >= 0, about 1 at a clear boundary: the mean of ``maps``.
        maps: (NUM_CUES, h, w) float32 >= 0, each divided by its scale.
        colour_words, textons: (h, w) int32 below ``NUM_WORDS``, the words of each 2 x 2 block.
    """

    boundary: np.ndarray
    maps: np.ndarray
    colour_words: np.ndarray
    textons: np.ndarray

    def histograms(self, regions: Labels, count: int) -> np.ndarray:
        """Pixels per colour word and texton in each of ``count`` regions: (count, 2 * NUM_WORDS) float32.

        ``regions`` may have another size than the image; both cover the same field of view.
        """
        H, W = regions.shape
        h, w = self.colour_words.shape
        rows, columns = (np.arange(H) * h // H)[:, None], np.arange(W) * w // W
        bins, first = count * NUM_WORDS, regions.astype(np.int64) * NUM_WORDS
        counts = [
            np.bincount((first + words[rows, columns]).ravel(), minlength=bins).reshape(count, NUM_WORDS)
            for words in (self.colour_words, self.textons)
        ]
        return np.concatenate(counts, axis=1, dtype=np.float32)

    def crop(self, top: int, left: int, height: int, width: int) -> BoundaryCues:
        """The cues of a rectangle; ``top`` and ``left`` must be even."""
        rows, columns = slice(top // 2, (top + height + 1) // 2), slice(left // 2, (left + width + 1) // 2)
        return BoundaryCues(
            self.boundary[top : top + height, left : left + width],
            self.maps[:, rows, columns],
            self.colour_words[rows, columns],
            self.textons[rows, columns],
        )


@dataclass(frozen=True)
class Vocabulary:
    """What the words of an image are, so that several windows of it have the same ones.

    Attributes:
        colours: (NUM_WORDS, 3) float32, the centres of the colour words.
        textons: (NUM_WORDS, 26) float32, those of the textons.
        embedding: (NUM_WORDS, PMI_DIM) float32, ``pmi_embedding`` of the colour words.
    """

    colours: np.ndarray
    textons: np.ndarray
    embedding: np.ndarray

    @classmethod
    def fit(cls, samples: Sequence[RGB]) -> Vocabulary:
        """The vocabulary of one or more windows of an image."""
        labs = [vocabulary.lab(sample) for sample in samples]
        maps = [_word_features(lab, vocabulary.halve(lab)) for lab in labs]
        colours, textons = (vocabulary.fit_words(kind) for kind in zip(*maps, strict=True))
        words = [vocabulary.assign_words(means, colours) for means, _ in maps]
        return cls(colours, textons, pmi_embedding(words, NUM_WORDS))


@checked
def boundary_cues(image: RGB, vocabulary: Vocabulary | None = None) -> BoundaryCues:
    """Boundary cues of an image of any size from 1 x 1; about 0.15 s for 480 x 320 on one core.

    ``vocabulary``: that of a larger image, of which this is a window; None takes the image's own.
    """
    H, W, _ = image.shape
    words = _words(image, vocabulary)
    maps = np.stack([response * np.float32(1 / CUE_SCALES[cue][radius]) for cue, radius, response in _responses(words)])
    return BoundaryCues(gradients.upsample(maps.mean(axis=0), H, W), maps, words.colour_words, words.textons)


@dataclass(frozen=True)
class _Words:
    """Half-resolution maps of one image.

    ``lab`` (h, w, 3): mean Lab colours. ``colour_words`` and ``textons`` (h, w) int32. ``embedding`` (NUM_WORDS,
    PMI_DIM): ``pmi_embedding`` of the colour words.
    """

    lab: np.ndarray
    colour_words: np.ndarray
    textons: np.ndarray
    embedding: np.ndarray


def _words(image: np.ndarray, known: Vocabulary | None = None) -> _Words:
    lab = vocabulary.lab(image)
    half = vocabulary.halve(lab)
    means, responses = _word_features(lab, half)
    colours = vocabulary.fit_words([means]) if known is None else known.colours
    textons = vocabulary.fit_words([responses]) if known is None else known.textons
    colour_words = vocabulary.assign_words(means, colours)
    embedding = pmi_embedding([colour_words], NUM_WORDS) if known is None else known.embedding
    return _Words(half, colour_words, vocabulary.assign_words(responses, textons), embedding)


def _word_features(lab: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What colour words and textons quantise, of a Lab image at full and at half resolution."""
    means = gradients.window_means(half, COLOUR_SIGMA) * LAB_WEIGHTS
    return means, vocabulary.texture_responses(np.ascontiguousarray(lab[..., 0]))


def _responses(words: _Words) -> Iterator[tuple[str, int, np.ndarray]]:
    """Name, radius in image pixels and (h, w) float32 response of each cue.

    A half-disc of radius r is approximated by a Gaussian of sigma 0.64 r centred 0.8 r from the pixel, about the mean
    of one half of a Gaussian of sigma r. All lengths are halved on the half-resolution grid.
    """
    for radius in CUE_SCALES["colour"]:
        histograms = gradients.window_histograms(words.colour_words, NUM_WORDS, 0.32 * radius)
        yield "colour", radius, gradients.chi_distance(histograms, 0.4 * radius)
    for radius in CUE_SCALES["texture"]:
        histograms = gradients.window_histograms(words.textons, NUM_WORDS, 0.32 * radius)
        yield "texture", radius, gradients.chi_distance(histograms, 0.4 * radius)
    vectors = words.embedding[words.colour_words]
    for radius in CUE_SCALES["pmi"]:
        yield "pmi", radius, gradients.euclidean_distance(gradients.window_means(vectors, 0.32 * radius), 0.4 * radius)
    for radius, sigma in LAB_SIGMAS.items():
        yield "lab", radius, gradients.euclidean_distance(gradients.window_means(words.lab, sigma), 0.25 * radius)


class TextureBackbone:
    """Histograms of words and their PMI embedding as a feature grid for the published merge rules."""

    name = "texture"
    device = "cpu"
    stride = 8
    dim = 2 * NUM_WORDS + PMI_DIM
    provenance = Weights(
        name="texture",
        source="computed from the image",
        licence="Apache-2.0",
        patch=8,
        dim=2 * NUM_WORDS + PMI_DIM,
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
        grids = np.empty((len(images), height // self.stride, width // self.stride, self.dim), np.float32)
        for grid, image in zip(grids, images, strict=True):
            if (height, width) != image.shape[:2]:
                image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
            grid[:] = _feature_grid(image, self.stride)
        return grids


def _feature_grid(image: np.ndarray, stride: int) -> np.ndarray:
    """Features of one image whose sides are multiples of the stride.

    Square roots of word histograms (their inner product is the Bhattacharyya coefficient) and the mean PMI embedding,
    in Gaussian windows about as wide as a cell. Half of the image's mean is subtracted; this fraction decides how many
    regions a cosine threshold leaves: with it, 60 x 60 grids of 60 unlabelled photographs have 2.8, 4.3 and 13.3
    regions at 0.1, 0.2 and 0.4, similar to the network for which these thresholds were published.
    """
    words = _words(image)
    step, sigma = stride // 2, 0.3 * stride  # in cells of the words' grid
    maps = [
        np.sqrt(gradients.window_histograms(words.colour_words, NUM_WORDS, sigma)),
        np.sqrt(gradients.window_histograms(words.textons, NUM_WORDS, 2 * sigma)),
        gradients.window_means(words.embedding[words.colour_words], sigma),
    ]
    features = np.concatenate([m[step // 2 :: step, step // 2 :: step] for m in maps], axis=-1)
    return np.ascontiguousarray(features - np.float32(0.5) * features.mean(axis=(0, 1)), np.float32)
