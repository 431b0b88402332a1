"""Texture cues: planted borders are cues, nothing depends on chance, and no image is too small or too flat."""

from __future__ import annotations

import numpy as np
import pytest

from masktree.backbones import Backbone, load_backbone
from masktree.backbones.texture import TextureBackbone, Vocabulary, boundary_cues
from masktree.backbones.texture.gradients import chi_distance, upsample, window_histograms, window_means
from masktree.backbones.texture.pmi import pmi_embedding
from masktree.backbones.texture.words import NUM_WORDS, assign_words, fit_words, halve, lab, texture_responses
from masktree.cluster.merge import merge_tree
from masktree.errors import InputError


def two_halves(rng, H=96, W=128):
    """Left and right of one mean grey, but one with stripes and one with noise."""
    image = np.full((H, W, 3), 128.0)
    image[:, : W // 2] += 40 * np.sin(np.arange(W // 2) * 1.6)[None, :, None]
    image[:, W // 2 :] += 40 * np.sin(np.arange(H) * 0.7)[:, None, None]
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def test_lab_agrees_with_scikit_image(rng):
    from skimage.color import rgb2lab

    image = rng.integers(0, 256, (20, 17, 3), dtype=np.uint8)
    assert lab(image) == pytest.approx(rgb2lab(image), abs=2e-3)


def test_upsampling_inverts_halving_on_a_ramp():
    values = np.arange(15, dtype=np.float32).reshape(3, 5, 1)
    assert halve(values)[..., 0].tolist() == [[3, 5, 6.5], [10.5, 12.5, 14]]
    y, x = np.mgrid[:6, :8].astype(np.float32)
    ramp = 3 * y + x
    back = upsample(halve(ramp[..., None])[..., 0], 6, 8)
    assert back[1:-1, 1:-1] == pytest.approx(ramp[1:-1, 1:-1])


def test_colour_words_follow_colours():
    colours = np.zeros((20, 30, 3), np.float32)
    colours[:, 10:20] = (50, 40, 0)
    colours[:, 20:] = (80, 0, -60)
    words = assign_words(colours, fit_words([colours]))
    assert [len(np.unique(words[:, s])) for s in (slice(0, 10), slice(10, 20), slice(20, 30))] == [1, 1, 1]
    assert len(np.unique(words)) == 3


def test_textons_depend_on_pattern_not_on_illumination():
    x = np.arange(160, dtype=np.float32)
    stripes = np.tile(50 + 15 * np.sin(x * 1.3), (120, 1)).astype(np.float32)
    dim = stripes * 0.5 + 10
    diagonal = np.asarray(50 + 15 * np.sin(x[None] * 0.9 + np.arange(120)[:, None] * 0.9), np.float32)
    image = np.concatenate([stripes, dim, diagonal], axis=1)
    responses = texture_responses(image)
    words = assign_words(responses, fit_words([responses]))
    counts = np.stack(
        [np.bincount(part.ravel(), minlength=NUM_WORDS) for part in np.array_split(words[10:-10], 3, axis=1)]
    )
    shares = counts / counts.sum(1, keepdims=True)
    overlap = np.minimum(shares[:, None], shares[None]).sum(2)
    assert overlap[0, 1] > 0.6
    assert overlap[0, 2] < 0.3


def test_window_histograms_are_windows_of_indicators(rng):
    words = rng.integers(5, size=(18, 15)).astype(np.int32)
    histograms = window_histograms(words, 5, 1.7)
    assert histograms.sum(-1) == pytest.approx(np.ones((18, 15)), abs=1e-5)
    assert histograms == pytest.approx(window_means(np.eye(5, dtype=np.float32)[words], 1.7), abs=1e-5)


def test_chi_distance_peaks_at_the_border():
    words = np.zeros((40, 40), np.int32)
    words[:, 20:] = 1
    response = chi_distance(window_histograms(words, 2, 1.6), 2.0)
    assert set(np.argmax(response[10:30], axis=1)) <= {19, 20}
    assert 0.5 < response.max() <= 1
    assert response[:, :5].max() < 1e-3


def test_words_that_co_occur_have_similar_embeddings(rng):
    """Zebra: black meets white all over the left side, red meets green all over the right side."""
    words = np.empty((60, 80), np.int32)
    words[:, :40] = np.arange(60)[:, None] // 3 % 2
    words[:, 40:] = 2 + np.arange(60)[:, None] // 3 % 2
    vectors = pmi_embedding([words], 6)
    cosine = vectors @ vectors.T
    assert np.diag(cosine)[:4] == pytest.approx(np.ones(4), abs=1e-5)
    assert not vectors[4:].any()  # words that do not occur
    assert min(cosine[0, 1], cosine[2, 3]) > 0.5 > -0.5 > cosine[:2, 2:4].max() - 0.5
    assert cosine[:2, 2:4].max() < min(cosine[0, 1], cosine[2, 3]) - 0.3


def test_windows_with_one_vocabulary_have_the_cues_of_the_whole_image(rng):
    image = two_halves(rng)
    own = Vocabulary.fit([image])
    whole = boundary_cues(image, own)
    assert np.array_equal(whole.maps, boundary_cues(image).maps)
    window = boundary_cues(np.ascontiguousarray(image[:, 24:]), own).crop(0, 80, *image[:, 104:].shape[:2])
    expected = whole.crop(0, 104, *image[:, 104:].shape[:2])
    assert np.array_equal(window.colour_words, expected.colour_words)
    assert window.maps == pytest.approx(expected.maps, abs=1e-4)


def test_boundary_of_two_textures_lies_between_them(rng):
    cues = boundary_cues(two_halves(rng))
    profile = cues.boundary[16:-16].mean(0)
    assert abs(int(np.argmax(profile)) - 64) <= 4
    assert profile[60:68].max() > 1.3 * np.median(profile)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (37, 1), (2, 3), (7, 5), (33, 50)])
@pytest.mark.parametrize("flat", [True, False])
def test_cues_and_grids_of_any_size_are_finite(rng, shape, flat):
    image = np.full((*shape, 3), 77, np.uint8) if flat else rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    cues = boundary_cues(image)
    assert cues.boundary.shape == shape
    assert cues.boundary.dtype == np.float32
    assert np.isfinite(cues.boundary).all()
    assert cues.boundary.min() >= 0
    assert cues.colour_words.shape == cues.textons.shape == ((shape[0] + 1) // 2, (shape[1] + 1) // 2)
    if flat:
        assert cues.boundary.max() < 1e-3
    grid = TextureBackbone()(image[None])
    assert grid.shape[1:3] == tuple(max(1, (side + 4) // 8) for side in shape)
    assert np.isfinite(grid).all()


def test_leaf_histograms_count_pixels(rng):
    image = rng.integers(0, 256, (21, 34, 3), dtype=np.uint8)
    cues = boundary_cues(image)
    leaves = (np.arange(21)[:, None] // 8 * 5 + np.arange(34) // 7).astype(np.int32)
    counts = cues.histograms(leaves, 15)
    areas = np.bincount(leaves.ravel())
    assert counts.shape == (15, 2 * NUM_WORDS)
    assert counts[:, :NUM_WORDS].sum(1) == pytest.approx(areas)
    assert counts[:, NUM_WORDS:].sum(1) == pytest.approx(areas)
    corner = cues.colour_words[:4, :4].repeat(2, 0).repeat(2, 1)[:8, :7]
    assert counts[0, :NUM_WORDS] == pytest.approx(np.bincount(corner.ravel(), minlength=NUM_WORDS))


def test_the_same_image_gives_the_same_cues(rng):
    image = two_halves(rng)
    first, second = boundary_cues(image), boundary_cues(image.copy())
    assert np.array_equal(first.boundary, second.boundary)
    assert np.array_equal(first.textons, second.textons)


def test_it_fulfils_the_backbone_interface(rng):
    backbone = load_backbone("texture")
    assert isinstance(backbone, Backbone)
    image = two_halves(rng)
    grids = backbone(np.stack([image, image[:, ::-1]]))
    assert grids.shape == (2, 12, 16, backbone.dim)
    assert grids.dtype == np.float32
    assert np.array_equal(grids[0], backbone(image[None])[0])  # independent of the batch
    assert backbone(np.empty((0, 96, 128, 3), np.uint8)).shape == (0, 12, 16, backbone.dim)
    with pytest.raises(InputError, match="uint8"):
        backbone(image[None].astype(np.float32))


def test_cosine_rule_separates_two_textures(rng):
    tree = merge_tree(TextureBackbone()(two_halves(rng)[None])[0])
    left, right = tree.cut_count(2)[:, :7], tree.cut_count(2)[:, 9:]
    assert len(np.unique(left)) == len(np.unique(right)) == 1
    assert left[0, 0] != right[0, 0]
