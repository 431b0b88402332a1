"""Embedding of visual words by the pointwise mutual information of words that occur close to each other.

After Isola, Zoran, Krishnan and Adelson, "Crisp Boundary Detection Using Pointwise Mutual Information", ECCV 2014
(doi 10.1007/978-3-319-10578-9_52): two colours that co-occur more often than their frequencies predict belong to one
object, however different they are (the stripes of a zebra). Instead of the paper's density estimate per pixel pair,
co-occurrences of words are counted and their table is decomposed: milliseconds instead of minutes (our choice).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from masktree.kernels import kernel

RHO = 1.25  # exponent of the joint probability, as published
PMI_DIM = 16
MAX_DISTANCE = 4  # of a pair, in pixels of the word map
PRIOR = 1e-4  # weight of independence in the joint probability, so that no logarithm is infinite


def pmi_embedding(maps: Sequence[np.ndarray], count: int) -> np.ndarray:
    """(count, PMI_DIM) float32 unit vectors whose cosine is high for words that co-occur more often than by chance.

    Leading eigenvectors of the PMI_rho table of one or more (h, w) int32 ``maps`` of words < ``count``. Rows have
    length 1 so that rare words, whose PMI with themselves is large, do not dominate; rows of absent words are 0.
    """
    pairs = np.sum([_count_pairs(words, count, MAX_DISTANCE) for words in maps], axis=0)
    pairs = pairs + pairs.T
    total = pairs.sum()
    if total == 0:
        return np.zeros((count, PMI_DIM), np.float32)
    marginal = pairs.sum(1) / total
    expected = np.outer(marginal, marginal)
    joint = (pairs / total + PRIOR * expected) / (1 + PRIOR)
    present = marginal > 0
    grid = np.ix_(present, present)
    information = np.zeros_like(joint)
    information[grid] = RHO * np.log(joint[grid]) - np.log(expected[grid])  # joint > 0 where both are present
    values, vectors = np.linalg.eigh(information)
    order = np.argsort(-values)[:PMI_DIM]
    vectors = vectors[:, order] * np.sqrt(np.maximum(values[order], 0))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: np.ndarray = (vectors / np.maximum(lengths, 1e-6)).astype(np.float32)
    units[~present] = 0  # eigenvectors of an eigenvalue of about 0 have rounding errors in these rows
    return units


@kernel()
def _count_pairs(words: np.ndarray, count: int, max_distance: int) -> np.ndarray:
    """(count, count) float64: pairs of words at most ``max_distance`` apart, with Gaussian weights."""
    h, w = words.shape
    out = np.zeros((count, count), np.float64)
    for dy in range(max_distance + 1):
        for dx in range(-max_distance, max_distance + 1):
            if (dy == 0 and dx <= 0) or dy * dy + dx * dx > max_distance * max_distance:
                continue
            weight = np.exp(-0.5 * (dy * dy + dx * dx) / (0.5 * max_distance) ** 2)
            for i in range(h - dy):
                for j in range(max(0, -dx), min(w, w - dx)):
                    out[words[i, j], words[i + dy, j + dx]] += weight
    return out
