"""Which words belong together: point-wise mutual information of words that lie close to each other.

After Isola, Zoran, Krishnan and Adelson, "Crisp Boundary Detection Using Pointwise Mutual Information", ECCV 2014
(doi 10.1007/978-3-319-10578-9_52): two colours that meet often *for how frequent they are* belong to one object,
however different they look (the stripes of a zebra). Instead of the paper's density estimate per pixel pair, the
words are counted and their table is decomposed, which takes milliseconds instead of minutes (our choice).
"""

from __future__ import annotations

import numpy as np
from numba import njit

RHO = 1.25  # exponent of the joint probability, as published
DIMENSIONS = 16
_REACH = 4  # pairs up to this many pixels apart, in the grid of the words
_PRIOR = 1e-4  # share of pairs that meet by chance whatever was counted, so that no logarithm is infinite


def embed_words(words: np.ndarray, count: int) -> np.ndarray:
    """(count, DIMENSIONS) float32 unit vectors: the cosine of two words is high if they meet more often than by chance.

    The leading eigenvectors of the table of PMI_rho of the (h, w) int32 ``words``, rows brought to length 1 so that
    rare words, whose PMI with themselves is large, do not outweigh the others; 0 for words that do not occur.
    """
    pairs = _close_pairs(words, count, _REACH)
    pairs = pairs + pairs.T
    total = pairs.sum()
    if total == 0:
        return np.zeros((count, DIMENSIONS), np.float32)
    single = pairs.sum(1) / total
    expected = np.outer(single, single)
    joint = (pairs / total + _PRIOR * expected) / (1 + _PRIOR)
    seen = single > 0
    grid = np.ix_(seen, seen)
    information = np.zeros_like(joint)
    information[grid] = RHO * np.log(joint[grid]) - np.log(expected[grid])  # joint > 0 where both are seen
    values, vectors = np.linalg.eigh(information)
    order = np.argsort(-values)[:DIMENSIONS]
    vectors = vectors[:, order] * np.sqrt(np.maximum(values[order], 0))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-6)).astype(np.float32)


@njit(cache=True, nogil=True)
def _close_pairs(words, count, reach):
    h, w = words.shape
    out = np.zeros((count, count), np.float64)
    for dy in range(reach + 1):
        for dx in range(-reach, reach + 1):
            if (dy == 0 and dx <= 0) or dy * dy + dx * dx > reach * reach:
                continue
            weight = np.exp(-0.5 * (dy * dy + dx * dx) / (0.5 * reach) ** 2)
            for i in range(h - dy):
                for j in range(max(0, -dx), min(w, w - dx)):
                    out[words[i, j], words[i + dy, j + dx]] += weight
    return out
